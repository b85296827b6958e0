//! Why one issuer didn't issue: what follows for the next one, and in which words it is told.

use std::sync::Arc;

use super::admit::Refusal;
use super::budget::Cost;
use super::candidates::is_about_this_ca;
use super::conditions::sentence;
use super::turns::Place;
use crate::issuer::{IssuerKey, ReadyIssuer};
use jiff::Timestamp;
use waxwing_acme::limits::Wait;
use waxwing_acme::{ObtainError, Retry, diagnose};

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
        /// What that leaves of the CA's limits.
        cost: Cost,
    },
    /// A limit of its CA is used up.
    Limited {
        /// Which one.
        issuer: Arc<ReadyIssuer>,
        /// Which limit, and until when.
        wait: Wait,
    },
    /// The CA's answer to an earlier attempt isn't over.
    Paused {
        /// Which one.
        issuer: IssuerKey,
        /// When it is asked again.
        until: Timestamp,
    },
    /// It isn't known yet whether it can be asked: this process has just begun. Nobody else is asked instead.
    Pending {
        /// Which one.
        issuer: IssuerKey,
    },
    /// As many issuances are worked on as may be at once: everything is decided on anew when there is a turn for it.
    Queued(Place),
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
            Self::Limited { .. } | Self::Paused { .. } => true,
            Self::Outdated | Self::Queued(_) | Self::Pending { .. } => false,
        }
    }

    /// Whether it was asked.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// Whether it is a limit that makes it wait.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::Limited { .. })
    }

    /// When the same issuer may be asked again. `failed` says it of an attempt that failed, `refused` of one that
    /// wasn't made.
    pub fn next(&self, failed: impl Fn(&ObtainError) -> Timestamp, refused: Timestamp) -> Timestamp {
        match self {
            Self::Failed { error, .. } => failed(error),
            Self::Limited { wait, .. } => wait.until,
            Self::Paused { until, .. } => *until,
            Self::Refused { .. } | Self::Pending { .. } | Self::Queued(_) | Self::Outdated => refused,
        }
    }

    /// The issuer that gave an answer which holds for longer than this attempt.
    pub fn paused(&self) -> Option<&IssuerKey> {
        match self {
            Self::Failed { issuer, error, .. } => is_about_this_ca(error).then_some(&issuer.key),
            Self::Paused { issuer, .. } => Some(issuer),
            _ => None,
        }
    }

    /// The issuer that is to be left alone until a time, also when another one has issued.
    pub fn left_alone(&self) -> Option<(IssuerKey, Timestamp)> {
        match self {
            Self::Failed { issuer, error, .. } if is_about_this_ca(error) => match error.class().retry {
                Retry::NotBefore(until) => Some((issuer.key.clone(), until)),
                Retry::Backoff | Retry::AfterChange => None,
            },
            Self::Paused { issuer, until } => Some((issuer.clone(), *until)),
            _ => None,
        }
    }

    /// What it leaves of the CA's limits.
    pub fn cost(&self) -> Option<&Cost> {
        match self {
            Self::Failed { cost, .. } => Some(cost),
            _ => None,
        }
    }

    /// For a list of issuers that were passed over.
    fn tell(&self) -> Option<String> {
        match self {
            Self::Refused { issuer, refusal } => {
                Some(format!("{issuer} was passed over. {}", sentence(&refusal.message)))
            }
            Self::Limited { issuer, wait } => Some(format!("{} was passed over: {wait}.", issuer.key)),
            Self::Failed { issuer, error, .. } => {
                let cause = diagnose(error, &error.evidence).cause;
                Some(format!("{} was passed over: {} ({error}).", issuer.key, cause.trim_end_matches('.')))
            }
            Self::Paused { issuer, until } => {
                Some(format!("{issuer} was passed over: it isn't asked again before {until:.0}."))
            }
            Self::Outdated | Self::Queued(_) | Self::Pending { .. } => None,
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
        assert_eq!(told.as_deref(), Some("ClusterIssuer a was passed over. It may not be asked."));
    }
}
