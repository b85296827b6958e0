//! What the CA knows.

use std::collections::{BTreeMap, HashSet};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as B64};
use jiff::Timestamp;
use rand::Rng as _;

use super::{
    behaviour::{Behaviour, Expired},
    issue::Issuing,
    jws::PublicKey,
    limits::Buckets,
    problem::Problem,
    request::{Asked, Looked},
    script::Script,
};

/// Everything that the CA knows. Numbers are never used twice.
pub(super) struct State {
    pub(super) behaviour: Behaviour,
    pub(super) script: Script,
    pub(super) issuing: Issuing,
    /// Where the list of revoked certificates is.
    pub(super) crl_url: String,
    nonces: HashSet<String>,
    numbers: usize,
    pub(super) accounts: BTreeMap<usize, Account>,
    pub(super) orders: BTreeMap<usize, Order>,
    pub(super) authorizations: BTreeMap<usize, Authorization>,
    pub(super) certificates: BTreeMap<usize, Certificate>,
    pub(super) buckets: Buckets,
    pub(super) asked: Vec<Asked>,
    pub(super) looked: Vec<Looked>,
    pub(super) violations: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Account {
    pub(super) key: PublicKey,
    pub(super) contact: Vec<String>,
    pub(super) deactivated: bool,
}

#[derive(Debug)]
pub(super) struct Order {
    pub(super) account: usize,
    /// Sorted, each once.
    pub(super) names: Vec<String>,
    pub(super) profile: Option<String>,
    /// As the client wrote it.
    pub(super) replaces: Option<String>,
    /// Exempt from what counts new certificates.
    pub(super) exempt: Exempt,
    pub(super) authorizations: Vec<usize>,
    pub(super) expires: Timestamp,
    pub(super) stage: Stage,
}

/// From which limits an order is exempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Exempt {
    /// It is for new names.
    No,
    /// The same names were issued for before.
    Renewal,
    /// It said what it replaces, in the window that was suggested.
    Replacement,
}

/// What has been done for an order, beside its authorizations.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing yet: pending or ready.
    Open,
    /// Signed, and not given out for so many more polls; `None`: until it is released.
    Processing { certificate: usize, polls: Option<u32> },
    /// Issued.
    Valid { certificate: usize },
}

#[derive(Debug)]
pub(super) struct Authorization {
    pub(super) account: usize,
    /// With `*.` where it is for a wildcard.
    pub(super) name: String,
    pub(super) token: String,
    pub(super) expires: Timestamp,
    pub(super) verdict: Verdict,
}

#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Pending,
    /// The CA was told to look at this challenge.
    Looking(String),
    Valid(String),
    Invalid(String, Problem),
    Deactivated,
}

#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) account: usize,
    pub(super) names: Vec<String>,
    /// As it stands in the certificate: big-endian, with the zero byte that makes it positive.
    pub(super) serial: Vec<u8>,
    /// RFC 9773 §4.1.
    pub(super) ari_id: String,
    pub(super) der: Vec<u8>,
    pub(super) chain_pem: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// When, and why (RFC 5280 §5.3.1).
    pub(super) revoked: Option<(Timestamp, u8)>,
}

impl State {
    pub(super) fn new(behaviour: Behaviour, issuing: Issuing, crl_url: String) -> Self {
        Self {
            behaviour,
            script: Script::default(),
            issuing,
            crl_url,
            nonces: HashSet::new(),
            numbers: 0,
            accounts: BTreeMap::new(),
            orders: BTreeMap::new(),
            authorizations: BTreeMap::new(),
            certificates: BTreeMap::new(),
            buckets: Buckets::default(),
            asked: Vec::new(),
            looked: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn new_nonce(&mut self) -> String {
        let nonce = secret();
        self.nonces.insert(nonce.clone());
        nonce
    }

    /// Whether the nonce was handed out and not spent; it is spent now.
    pub(super) fn spend_nonce(&mut self, nonce: &str) -> bool {
        self.nonces.remove(nonce)
    }

    pub(super) fn account_of(&self, key: &PublicKey) -> Option<usize> {
        self.accounts.iter().find(|(_, account)| account.key == *key).map(|(number, _)| *number)
    }

    /// The certificate with this identifier (RFC 9773 §4.1).
    pub(super) fn certificate_by_ari(&self, ari_id: &str) -> Option<(usize, &Certificate)> {
        self.certificates.iter().find(|(_, one)| one.ari_id == ari_id).map(|(number, one)| (*number, one))
    }

    /// The status of an order (RFC 8555 §7.1.6); `None` where it has expired and expired ones are gone.
    pub(super) fn order_status(&self, order: &Order, now: Timestamp) -> Option<&'static str> {
        match order.stage {
            Stage::Processing { .. } => return Some("processing"),
            Stage::Valid { .. } => return Some("valid"),
            Stage::Open => {}
        }
        if order.expires <= now {
            return (self.behaviour.expired == Expired::Invalid).then_some("invalid");
        }
        let each = order.authorizations.iter().filter_map(|number| self.authorizations.get(number));
        let statuses: Vec<_> = each.map(|one| one.status(now)).collect();
        Some(if statuses.iter().all(|status| *status == "valid") {
            "ready"
        } else if statuses.iter().all(|status| ["valid", "pending"].contains(status)) {
            "pending"
        } else {
            "invalid"
        })
    }

    /// Why an order is invalid.
    pub(super) fn order_problem(&self, order: &Order) -> Option<Problem> {
        let mut each = order.authorizations.iter().filter_map(|number| self.authorizations.get(number));
        each.find_map(|one| match &one.verdict {
            Verdict::Invalid(_, problem) => Some(problem.clone()),
            _ => None,
        })
    }
}

impl Authorization {
    /// Its status (RFC 8555 §7.1.6).
    pub(super) fn status(&self, now: Timestamp) -> &'static str {
        let expired = self.expires <= now;
        match &self.verdict {
            Verdict::Pending | Verdict::Looking(_) if expired => "invalid",
            Verdict::Valid(_) if expired => "expired",
            Verdict::Pending | Verdict::Looking(_) => "pending",
            Verdict::Valid(_) => "valid",
            Verdict::Invalid(..) => "invalid",
            Verdict::Deactivated => "deactivated",
        }
    }

    /// The name without `*.`.
    pub(super) fn base(&self) -> &str {
        self.name.strip_prefix("*.").unwrap_or(&self.name)
    }
}

impl Stage {
    pub(super) fn certificate(&self) -> Option<usize> {
        match self {
            Self::Open => None,
            Self::Processing { certificate, .. } | Self::Valid { certificate } => Some(*certificate),
        }
    }
}

impl Certificate {
    /// In lower-case hex, without leading zero bytes.
    pub(super) fn serial_hex(&self) -> String {
        let significant = self.serial.iter().skip_while(|byte| **byte == 0);
        significant
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect()
    }
}

/// What nobody guesses: a nonce, a token.
pub(super) fn secret() -> String {
    B64.encode(rand::rng().random::<[u8; 32]>())
}
