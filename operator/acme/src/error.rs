//! Errors, typed by who must act.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    ChallengeType, Evidence, Identifier, JournalError, NoSolver, PairError, Problem, RequestError,
    SolverError,
};

/// Who must act for an error to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// Whoever wrote the configuration, runs the DNS or the edge.
    User,
    /// The CA.
    Ca,
    /// The network between the CA and here, most likely for a short time.
    Network,
    /// This program and what it stands on.
    Us,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After a growing pause.
    Backoff,
    /// Not before this time, which the CA named (Retry-After), whatever was the matter.
    NotBefore(Timestamp),
    /// When the request has been changed; before, it can't succeed.
    AfterChange,
}

/// What an error means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Who must act.
    pub actor: Actor,
    /// When to try again.
    pub retry: Retry,
}

/// A directory or an account could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A request was answered, but the answer lacks what RFC 8555 demands.
    #[error("the answer of {url} is not usable: {reason}")]
    Answer {
        /// The URL asked.
        url: String,
        /// What is wrong with it.
        reason: String,
        /// When the CA wants to be asked again (Retry-After), if it said so.
        retry_after: Option<Timestamp>,
    },
    /// The account key can't be used.
    #[error("the account key is not usable: {0}")]
    AccountKey(String),
    /// The certificates to trust can't be used.
    #[error("the certificates to trust are not usable: {0}")]
    Roots(String),
    /// A cryptographic operation failed.
    #[error("cryptography failed while {0}")]
    Crypto(&'static str),
    /// The CA doesn't offer what is asked for.
    #[error("the CA at {directory} does not offer {what}")]
    Unsupported {
        /// The directory's URL.
        directory: String,
        /// What it doesn't offer.
        what: String,
    },
}

impl Error {
    /// Who must act, and when to try again.
    pub fn class(&self) -> Class {
        match self {
            Self::Request(error) => error.class(),
            Self::Answer { retry_after, .. } => {
                let retry = retry_after.map_or(Retry::Backoff, Retry::NotBefore);
                Class { actor: Actor::Ca, retry }
            }
            Self::AccountKey(_) | Self::Roots(_) | Self::Unsupported { .. } => {
                Class { actor: Actor::User, retry: Retry::AfterChange }
            }
            Self::Crypto(_) => Class { actor: Actor::Us, retry: Retry::Backoff },
        }
    }

    /// The request that failed, if that is what happened.
    pub fn request(&self) -> Option<&RequestError> {
        match self {
            Self::Request(error) => Some(error),
            _ => None,
        }
    }

    /// The same error of an answer that says when to come again.
    pub(crate) fn after(self, retry_after: Option<Timestamp>) -> Self {
        match self {
            Self::Answer { url, reason, .. } => Self::Answer { url, reason, retry_after },
            other => other,
        }
    }

    /// Whether the CA says that it doesn't know the account: register again.
    pub fn is_account_unknown(&self) -> bool {
        self.request().is_some_and(|error| error.acme_type() == "accountDoesNotExist")
    }
}

/// An issuance failed.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct ObtainError {
    /// What failed.
    #[source]
    pub kind: Box<ObtainErrorKind>,
    /// What self-checks saw in this issuance, of those identifiers that failed or of all.
    pub evidence: Vec<Evidence>,
    /// The order, once there was one.
    pub order_url: Option<String>,
}

/// What failed in an issuance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObtainErrorKind {
    /// The request contradicts itself.
    #[error("the request can't be ordered: {0}")]
    Request(String),
    /// The CA could not be asked, or refused.
    #[error("{doing}: {source}")]
    Ca {
        /// What was being done.
        doing: &'static str,
        /// How it failed.
        source: Error,
    },
    /// The journal could not be read or written.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The certificate's private key could not be made or read.
    #[error("the certificate's private key: {0}")]
    Key(String),
    /// No solver takes an identifier.
    #[error("no solver for {identifier}: {source}")]
    NoSolver {
        /// The identifier.
        identifier: Identifier,
        /// Why, and what to change.
        source: NoSolver,
    },
    /// A solver could not present its answer.
    #[error("presenting the {challenge_type} answer for {identifier}: {source}")]
    Solver {
        /// The identifier.
        identifier: Identifier,
        /// The challenge's type.
        challenge_type: ChallengeType,
        /// How it failed.
        source: SolverError,
    },
    /// The CA's validation of an identifier failed.
    #[error("the CA could not validate {identifier}{}", problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default())]
    Validation {
        /// The identifier.
        identifier: Identifier,
        /// The type of the challenge that failed, where the CA says it.
        challenge_type: Option<ChallengeType>,
        /// What the CA said.
        problem: Option<Problem>,
    },
    /// The CA made the order invalid.
    #[error("the CA gave up the order{}", problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default())]
    OrderInvalid {
        /// What the CA said.
        problem: Option<Problem>,
    },
    /// The CA did not get on within the time given. The order stays open: the next attempt goes on with it.
    #[error("the CA was still busy with {waiting_for} after {} s", after.as_secs())]
    Deadline {
        /// What was waited for.
        waiting_for: String,
        /// How long.
        after: Duration,
        /// When the CA wants to be asked again, if it said so.
        retry_after: Option<Timestamp>,
    },
    /// What the CA issued isn't what was asked for. If it is only not valid yet ([`PairError::NotYet`]), the order
    /// stays: the next attempt takes the same certificate.
    #[error("the certificate that the CA issued is not usable: {0}")]
    Certificate(#[source] PairError),
    /// The CA keeps answering with an order that holds a certificate for a key that isn't here.
    #[error("the CA keeps answering with an order that was finalized with another key")]
    ForeignOrder,
}

impl ObtainError {
    /// Who must act, and when to try again.
    pub fn class(&self) -> Class {
        let backoff = |actor| Class { actor, retry: Retry::Backoff };
        match &*self.kind {
            ObtainErrorKind::Request(_) | ObtainErrorKind::NoSolver { .. } => {
                Class { actor: Actor::User, retry: Retry::AfterChange }
            }
            ObtainErrorKind::Ca { source, .. } => source.class(),
            ObtainErrorKind::Journal(_) | ObtainErrorKind::Key(_) | ObtainErrorKind::Solver { .. } => {
                backoff(Actor::Us)
            }
            ObtainErrorKind::Validation { problem: Some(problem), .. }
            | ObtainErrorKind::OrderInvalid { problem: Some(problem) } => problem.class(),
            ObtainErrorKind::Validation { problem: None, .. } => backoff(Actor::User),
            ObtainErrorKind::Deadline { retry_after: Some(at), .. } => {
                Class { actor: Actor::Ca, retry: Retry::NotBefore(*at) }
            }
            // Until then another one would be of no more use, and be counted by the CA.
            ObtainErrorKind::Certificate(PairError::NotYet { not_before }) => {
                Class { actor: Actor::Ca, retry: Retry::NotBefore(*not_before) }
            }
            ObtainErrorKind::OrderInvalid { problem: None }
            | ObtainErrorKind::Deadline { .. }
            | ObtainErrorKind::Certificate(_)
            | ObtainErrorKind::ForeignOrder => backoff(Actor::Ca),
        }
    }

    /// The CA's problem document, if there is one.
    pub fn problem(&self) -> Option<&Problem> {
        match &*self.kind {
            ObtainErrorKind::Ca { source, .. } => source.request().and_then(RequestError::problem),
            ObtainErrorKind::Validation { problem, .. } | ObtainErrorKind::OrderInvalid { problem } => {
                problem.as_ref()
            }
            _ => None,
        }
    }

    /// The identifier that it is about, if it is about one.
    pub fn identifier(&self) -> Option<&Identifier> {
        match &*self.kind {
            ObtainErrorKind::NoSolver { identifier, .. }
            | ObtainErrorKind::Solver { identifier, .. }
            | ObtainErrorKind::Validation { identifier, .. } => Some(identifier),
            _ => None,
        }
    }

    /// Whether the CA says that it doesn't know the account: register again.
    pub fn is_account_unknown(&self) -> bool {
        matches!(&*self.kind, ObtainErrorKind::Ca { source, .. } if source.is_account_unknown())
    }
}

impl From<ObtainErrorKind> for ObtainError {
    fn from(kind: ObtainErrorKind) -> Self {
        Self { kind: Box::new(kind), evidence: Vec::new(), order_url: None }
    }
}

impl From<JournalError> for ObtainError {
    fn from(error: JournalError) -> Self {
        ObtainErrorKind::Journal(error).into()
    }
}
