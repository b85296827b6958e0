//! `Issuer` and `ClusterIssuer`: an ACME CA with an account, for one namespace or for all.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Acme, IssuerKind};

/// What is wanted of an issuer for its own namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "waxwing.dev",
    version = "v1",
    kind = "Issuer",
    namespaced,
    status = "IssuerStatus",
    derive = "PartialEq",
    shortname = "wiss",
    category = "waxwing"
)]
#[serde(rename_all = "camelCase")]
pub struct IssuerSpec {
    /// The CA and the account.
    pub acme: Acme,
    /// Who may have which names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<AllowRule>,
}

/// What is wanted of an issuer for all namespaces.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "waxwing.dev",
    version = "v1",
    kind = "ClusterIssuer",
    status = "IssuerStatus",
    derive = "PartialEq",
    shortname = "wciss",
    category = "waxwing"
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterIssuerSpec {
    /// The CA and the account.
    pub acme: Acme,
    /// Who may have which names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<AllowRule>,
}

/// What the two kinds of issuer have in common, so that one controller serves both.
pub trait AcmeIssuer {
    /// Which of the two it is.
    const KIND: IssuerKind;
    /// `spec.acme`.
    fn acme(&self) -> &Acme;
    /// `spec.allow`.
    fn allow(&self) -> &[AllowRule];
    /// `status`, if it has been written.
    fn issuer_status(&self) -> Option<&IssuerStatus>;
}

impl AcmeIssuer for Issuer {
    const KIND: IssuerKind = IssuerKind::Issuer;

    fn acme(&self) -> &Acme {
        &self.spec.acme
    }

    fn allow(&self) -> &[AllowRule] {
        &self.spec.allow
    }

    fn issuer_status(&self) -> Option<&IssuerStatus> {
        self.status.as_ref()
    }
}

impl AcmeIssuer for ClusterIssuer {
    const KIND: IssuerKind = IssuerKind::ClusterIssuer;

    fn acme(&self) -> &Acme {
        &self.spec.acme
    }

    fn allow(&self) -> &[AllowRule] {
        &self.spec.allow
    }

    fn issuer_status(&self) -> Option<&IssuerStatus> {
        self.status.as_ref()
    }
}

/// Names that some namespaces may have.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowRule {
    /// Which namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Which names.
    pub dns_names: Vec<String>,
}

/// What is, of an issuer.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerStatus {
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// ACME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<IssuerAcmeStatus>,
}

/// The account at the CA.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerAcmeStatus {
    /// URL of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The email that the CA last accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_registered_email: Option<String>,
    /// SHA-256 of the account's public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_private_key_hash: Option<String>,
}
