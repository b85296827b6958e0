//! Issuers and cluster issuers: the account at the CA, made once and kept, for whoever issues.

mod account;
pub mod controller;
pub mod health;
mod limits;
mod registry;
mod status;

use std::{fmt, sync::Arc};

use waxwing_acme::{Account, limits::Limits};
use waxwing_api::{AcmeSolver, AllowRule, IssuerKind, IssuerRef, RehearseWhen};

pub use self::{
    limits::{ca, limits},
    registry::Registry,
};

/// Which issuer.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IssuerKey {
    /// `Issuer` or `ClusterIssuer`.
    pub kind: IssuerKind,
    /// Its namespace; a `ClusterIssuer` has none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl IssuerKey {
    /// The issuer that a Certificate in `namespace` refers to.
    pub fn referred(reference: &IssuerRef, namespace: &str) -> Self {
        let namespace = match reference.kind {
            IssuerKind::Issuer => Some(namespace.to_owned()),
            IssuerKind::ClusterIssuer => None,
        };
        Self { kind: reference.kind, namespace, name: reference.name.clone() }
    }
}

impl fmt::Display for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// An issuer that can be ordered from: plain data and the account.
#[derive(Clone, Debug)]
pub struct ReadyIssuer {
    /// Which issuer.
    pub key: IssuerKey,
    /// The account at its CA.
    pub account: Account,
    /// How its challenges are solved.
    pub solvers: Vec<AcmeSolver>,
    /// Who may have which names from it.
    pub allow: Vec<AllowRule>,
    /// The ACME profile to ask for.
    pub profile: Option<String>,
    /// The common name of the topmost issuer of the chain to take.
    pub preferred_chain: Option<String>,
    /// Whether the CA is asked when to renew (ARI, RFC 9773).
    pub ari: bool,
    /// Another issuer that is asked first, and when.
    pub rehearsal: Option<(IssuerKey, RehearseWhen)>,
    /// The CA, as limits are counted at it.
    pub ca: String,
    /// What it allows.
    pub limits: Limits,
}

/// What is known of an issuer now.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// There is no such issuer.
    Missing,
    /// It is a cluster issuer, and Waxwing works for some namespaces alone.
    NotServed,
    /// It exists, and this process doesn't know yet whether it can be ordered from.
    Pending,
    /// It exists but can't be ordered from.
    NotReady {
        /// The reason of its Ready condition.
        reason: String,
        /// The message of its Ready condition.
        message: String,
    },
    /// It can be ordered from.
    Ready(Arc<ReadyIssuer>),
}
