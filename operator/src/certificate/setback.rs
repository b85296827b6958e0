//! Why one issuer didn't issue: what follows for the next one, and in which words it is told.

use std::sync::Arc;

use jiff::Timestamp;
use waxwing_acme::limits::Wait;
use waxwing_acme::{ObtainError, diagnose};
use waxwing_api::LimitUse;

use super::admit::Refusal;
use super::candidates::is_about_this_ca;
use super::status::sentence;
use crate::issuer::{IssuerKey, ReadyIssuer};

/// How asking one issuer ended without a certificate.
#[derive(Debug)]
pub enum Setback {
    /// It may not be asked, or can't.
    Refused {
        /// Which one.
        issuer: IssuerKey,
        /// Why.
        refusal: Refusal,
    },
    /// It was asked, and the attempt failed.
    Failed {
        /// Which one.
        issuer: Arc<ReadyIssuer>,
        /// How.
        error: ObtainError,
        /// What the attempt has used of the CA's limits.
        used: Option<LimitUse>,
    },
    /// A limit of its CA is used up.
    Limited {
        /// Which one.
        issuer: Arc<ReadyIssuer>,
        /// Which limit, and until when.
        wait: Wait,
    },
    /// So much time has passed that everything is to be decided on anew.
    Outdated,
}

impl Setback {
    /// `issuer` may not be asked.
    pub fn refused(issuer: &IssuerKey, refusal: Refusal) -> Self {
        Self::Refused { issuer: issuer.clone(), refusal }
    }

    /// Whether another issuer might do better.
    pub fn is_about_this_issuer(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => refusal.is_about_the_issuer(),
            Self::Failed { error, .. } => is_about_this_ca(error),
            Self::Limited { .. } => true,
            Self::Outdated => false,
        }
    }

    /// Whether it was asked.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// Until when a limit makes it wait, if that is what it is.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Limited { wait, .. } => Some(wait.until),
            _ => None,
        }
    }

    /// What was used of the CA's limits.
    pub fn used(&self) -> Option<&LimitUse> {
        match self {
            Self::Failed { used, .. } => used.as_ref(),
            _ => None,
        }
    }

    /// For a list of issuers that were passed over.
    fn tell(&self) -> Option<String> {
        match self {
            Self::Refused { issuer, refusal } => {
                Some(format!("{issuer} was passed over: {}", sentence(&refusal.message)))
            }
            Self::Limited { issuer, wait } => Some(format!("{} was passed over: {wait}.", issuer.key)),
            Self::Failed { issuer, error, .. } => {
                let cause = diagnose(error, &error.evidence).cause;
                Some(format!("{} was passed over: {} ({error}).", issuer.key, cause.trim_end_matches('.')))
            }
            Self::Outdated => None,
        }
    }
}

/// Sentences about the issuers that were passed over; nothing where there are none.
pub fn passed_over<'a>(setbacks: impl IntoIterator<Item = &'a Setback>) -> Option<String> {
    let told: Vec<String> = setbacks.into_iter().filter_map(Setback::tell).collect();
    (!told.is_empty()).then(|| told.join(" "))
}

#[cfg(test)]
mod tests {
    use waxwing_api::{IssuerKind, reason};

    use super::*;

    fn refused(name: &str, reason: &'static str) -> Setback {
        let key = IssuerKey { kind: IssuerKind::ClusterIssuer, namespace: None, name: name.into() };
        Setback::refused(&key, Refusal { reason, message: "it may not be asked".into() })
    }

    #[test]
    fn what_is_no_matter_of_the_issuer_ends_the_search() {
        assert!(refused("a", reason::ISSUER_NOT_READY).is_about_this_issuer());
        assert!(refused("a", reason::NOT_ALLOWED).is_about_this_issuer());
        assert!(!refused("a", reason::SECRET_NOT_OWNED).is_about_this_issuer());
    }

    #[test]
    fn each_that_was_passed_over_is_named() {
        assert_eq!(passed_over(&[]), None);
        let told = passed_over(&[refused("a", reason::NOT_ALLOWED), Setback::Outdated]);
        assert_eq!(told.as_deref(), Some("ClusterIssuer a was passed over: It may not be asked."));
    }
}
