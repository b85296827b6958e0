//! Where an issuance is, for whoever watches it.

use std::fmt;

use crate::{Evidence, Identifier};

/// Is told each step of an issuance. Must return at once.
pub trait Progress: Send + Sync {
    /// The issuance has come to `step`.
    fn step(&self, step: &Step);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&self, _: &Step) {}
}

/// A step of an issuance. `Display` says it in one sentence without a full stop.
#[derive(Clone, Debug)]
pub enum Step {
    /// Another issuance of the same names with the same account is under way; this one waits for it.
    Waiting,
    /// Makes the key, prepares routes and orders, all at once.
    Preparing,
    /// The CA made an order, and the journal has it.
    OrderCreated {
        /// The order's URL.
        url: String,
    },
    /// Goes on with an order that an earlier process began.
    OrderResumed {
        /// The order's URL.
        url: String,
    },
    /// Presents the answers to the CA's challenges.
    Presenting {
        /// For these.
        identifiers: Vec<Identifier>,
    },
    /// Looked at one answer from here.
    SelfCheck {
        /// For this one.
        identifier: Identifier,
        /// What was seen.
        evidence: Evidence,
    },
    /// The CA validates.
    Validating,
    /// The CA has been sent the certificate signing request.
    Finalizing,
    /// Fetches the certificate.
    Downloading,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another issuance of the same names"),
            Self::Preparing => f.write_str("preparing"),
            Self::OrderCreated { url } => write!(f, "order {url} created and saved"),
            Self::OrderResumed { url } => write!(f, "resuming order {url}"),
            Self::Presenting { identifiers } => {
                f.write_str("presenting challenges for ")?;
                for (index, identifier) in identifiers.iter().enumerate() {
                    write!(f, "{}{identifier}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::SelfCheck { identifier, evidence } if evidence.passed => {
                write!(f, "self-check of {identifier} passed")
            }
            Self::SelfCheck { identifier, evidence } => {
                write!(f, "self-check of {identifier} did not pass ({evidence}); asking the CA all the same")
            }
            Self::Validating => f.write_str("the CA validates"),
            Self::Finalizing => f.write_str("finalizing the order"),
            Self::Downloading => f.write_str("downloading the certificate"),
        }
    }
}
