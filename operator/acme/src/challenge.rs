//! Challenges, and the solvers that answer them.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::{Evidence, Identifier, Presented};

/// A challenge's type (RFC 8555 §8, RFC 8737).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChallengeType {
    /// `http-01`: a file under `/.well-known/acme-challenge/` on port 80.
    #[serde(rename = "http-01")]
    Http01,
    /// `dns-01`: a TXT record at `_acme-challenge.`
    #[serde(rename = "dns-01")]
    Dns01,
    /// `tls-alpn-01`: a self-signed certificate on port 443.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl ChallengeType {
    /// The type's name in ACME.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }

    /// The type of that name in ACME, where this engine knows it.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Http01, Self::Dns01, Self::TlsAlpn01].into_iter().find(|known| known.name() == name)
    }
}

impl fmt::Display for ChallengeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A challenge that a CA offered for one identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// What it is about, without a wildcard's `*.`
    pub identifier: Identifier,
    /// Whether it authorizes the wildcard of that name.
    pub wildcard: bool,
    /// Its type.
    pub challenge_type: ChallengeType,
    /// The CA's token.
    pub token: String,
    /// Token and account thumbprint: what an HTTP-01 answer says (RFC 8555 §8.1).
    pub key_authorization: String,
    /// The thumbprint of the account's key (RFC 7638).
    pub thumbprint: String,
}

impl Challenge {
    /// The value of the TXT record that answers a DNS-01 challenge (RFC 8555 §8.4).
    pub fn dns_value(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, self.key_authorization.as_bytes()))
    }
}

/// Answers challenges of one type, in one way.
#[async_trait]
pub trait Solver: Send + Sync {
    /// A stable name, kept in the journal, by which a later process finds this solver again.
    fn id(&self) -> String;

    /// The type of challenge that it answers.
    fn challenge_type(&self) -> ChallengeType;

    /// What [`present`](Self::present) would present, written to the journal before it is called. For HTTP-01 it
    /// must not depend on the token, which isn't known yet when it is first asked for.
    fn record(&self, challenge: &Challenge) -> Presented;

    /// Does ahead what needs no token, at the same time as newOrder. What it makes must be covered by what
    /// [`clean_up`](Self::clean_up) takes away. A failure here is not fatal: `present` is called all the same.
    async fn prepare(&self, identifier: &Identifier) -> Result<(), SolverError> {
        let _ = identifier;
        Ok(())
    }

    /// Presents the answer. Called again with the same challenge after a crash, so it must be idempotent.
    async fn present(&self, challenge: &Challenge) -> Result<(), SolverError>;

    /// Waits, for a bounded time, until the answer looks as if the CA will find it. Advice only: the CA is asked
    /// whatever it says.
    async fn self_check(&self, challenge: &Challenge) -> Evidence;

    /// Takes away what was presented. Must succeed when it is already gone.
    async fn clean_up(&self, presented: &Presented) -> Result<(), SolverError>;
}

/// Chooses the solver for each identifier.
pub trait Solvers: Send + Sync {
    /// The solver for `identifier` (without a wildcard's `*.`), of one of the types that the CA `offered`.
    fn choose(
        &self,
        identifier: &Identifier,
        wildcard: bool,
        offered: &[ChallengeType],
    ) -> Result<Arc<dyn Solver>, NoSolver>;

    /// The solver with this [`Solver::id`], to clean up what an earlier process presented. By default the one that
    /// would be chosen for the same identifier and type, if its id is the same.
    fn by_id(&self, presented: &Presented) -> Option<Arc<dyn Solver>> {
        let identifier: Identifier = presented.identifier.parse().ok()?;
        [false, true].into_iter().find_map(|wildcard| {
            self.choose(&identifier, wildcard, &[presented.challenge_type])
                .ok()
                .filter(|solver| solver.id() == presented.solver)
        })
    }
}

/// No solver takes an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoSolver {
    /// Why, and what to change.
    pub reason: String,
}

impl NoSolver {
    /// The reason in a sentence that also says what to change.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// A solver could not present or clean up.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SolverError {
    message: String,
    fix: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SolverError {
    /// An error that says what was being done, to what.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), fix: None, source: None }
    }

    /// The same, with its cause.
    pub fn caused_by(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { message: message.into(), fix: None, source: Some(source.into()) }
    }

    /// The same, with a sentence that says what to do next.
    #[must_use]
    pub fn advising(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// What to do next, where the solver knows.
    pub fn fix(&self) -> Option<&str> {
        self.fix.as_deref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_are_those_of_acme() {
        for known in [ChallengeType::Http01, ChallengeType::Dns01, ChallengeType::TlsAlpn01] {
            assert_eq!(ChallengeType::from_name(known.name()), Some(known));
            assert_eq!(serde_json::to_string(&known).unwrap(), format!("\"{known}\""));
        }
        assert_eq!(ChallengeType::from_name("dns-account-01"), None);
    }
}
