//! Whether the CA has revoked a certificate: asked of its lists (CRL, RFC 5280 §5) and, where those don't say, of its
//! responder (OCSP, RFC 6960).
//!
//! It is advice. What can't be asked is unknown, never an error that stops anything.

mod crl;
mod der;
mod error;
mod fetch;
mod lists;
mod ocsp;
mod source;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use url::Url;

pub use error::{FetchError, RevocationError, Unusable};
use fetch::Fetch;
use lists::Lists;
pub use source::RevocationSources;

use crate::{Error, TrustRoots};

/// How lists and responders are asked.
#[derive(Clone, Debug)]
pub struct RevocationConfig {
    /// Whom to trust for the TLS certificates of those that are asked by HTTPS.
    pub roots: TrustRoots,
    /// The time for a TCP connection to come about.
    pub connect_timeout: Duration,
    /// The time for a whole request, from connecting to the last byte of the answer.
    pub request_timeout: Duration,
    /// The time for all that one question takes, waiting for its turn included.
    pub patience: Duration,
    /// How many requests may be under way at once. Each may hold an answer of the largest size in memory.
    pub concurrent_requests: usize,
    /// The largest list that is read, in bytes.
    pub largest_list: usize,
}

impl Default for RevocationConfig {
    fn default() -> Self {
        Self {
            roots: TrustRoots::System,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            patience: Duration::from_mins(1),
            concurrent_requests: 4,
            largest_list: 16 << 20,
        }
    }
}

/// Asks whether certificates were revoked. Clones share what is remembered of lists.
#[derive(Clone, Debug)]
pub struct Revocations {
    fetch: Arc<Fetch>,
    lists: Arc<Lists>,
    patience: Duration,
}

/// What is known of a certificate.
#[derive(Clone, Debug)]
pub struct RevocationAnswer {
    /// Whether it was revoked.
    pub status: RevocationStatus,
    /// When whoever answered will know more at the latest (nextUpdate), if it says so.
    pub holds_until: Option<Timestamp>,
}

/// Whether a certificate was revoked.
#[derive(Clone, Debug)]
pub enum RevocationStatus {
    /// The CA says that it wasn't.
    Good,
    /// The CA says that it was.
    Revoked(Revoked),
    /// It can't be known now.
    Unknown(RevocationError),
}

/// A revocation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Revoked {
    /// Since when.
    pub since: Timestamp,
    /// Why, if the CA says so.
    pub reason: Option<RevocationReason>,
}

/// Why a certificate was revoked (RFC 5280 §5.3.1).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum RevocationReason {
    /// The CA gives a reason that says nothing, or one that the RFC doesn't have.
    Unspecified,
    /// Its private key isn't private any more.
    KeyCompromise,
    /// The CA's own private key isn't private any more.
    CaCompromise,
    /// Its subject is called otherwise now, or belongs to someone else.
    AffiliationChanged,
    /// It was replaced.
    Superseded,
    /// It is used no more.
    CessationOfOperation,
    /// It is on hold.
    CertificateHold,
    /// It is on hold no more; only on partial lists.
    RemoveFromCrl,
    /// Its subject may do less than it says.
    PrivilegeWithdrawn,
    /// The private key of an attribute authority isn't private any more.
    AaCompromise,
}

impl Revocations {
    /// Nothing asked yet.
    #[allow(clippy::needless_pass_by_value, reason = "a configuration is handed over")]
    pub fn new(config: RevocationConfig) -> Result<Self, Error> {
        let fetch = Arc::new(Fetch::new(&config)?);
        Ok(Self { lists: Arc::new(Lists::new(Arc::clone(&fetch))), fetch, patience: config.patience })
    }

    /// Asks whether a certificate was revoked: its lists, then its responders, until one of them says it.
    ///
    /// A list is fetched once for all certificates that name it, and again after six hours or when it says that there
    /// is a newer one, but never twice in an hour.
    pub async fn ask(&self, sources: &RevocationSources, now: Timestamp) -> RevocationAnswer {
        let late = RevocationError::Deadline { after: self.patience };
        let answer = tokio::time::timeout(self.patience, self.first_answer(sources, now)).await;
        let (status, holds_until) = match answer.unwrap_or(Err(late)) {
            Ok((Some(revoked), until)) => (RevocationStatus::Revoked(revoked), until),
            Ok((None, until)) => (RevocationStatus::Good, until),
            Err(error) => (RevocationStatus::Unknown(error), None),
        };
        RevocationAnswer { status, holds_until }
    }

    async fn first_answer(
        &self,
        sources: &RevocationSources,
        now: Timestamp,
    ) -> Result<(Option<Revoked>, Option<Timestamp>), RevocationError> {
        let mut last = RevocationError::NoSource;
        for point in &sources.points {
            for url in point.iter().filter_map(|name| source::askable(name)) {
                match self.listed(&url, point, sources, now).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = error,
                }
            }
        }
        for url in &sources.responders {
            match self.responded(url, sources, now).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn listed(
        &self,
        url: &Url,
        point: &[String],
        sources: &RevocationSources,
        now: Timestamp,
    ) -> Result<(Option<Revoked>, Option<Timestamp>), RevocationError> {
        let list = self.lists.get(url, sources, now).await?;
        if !list.covers(point) {
            return Err(unusable(url, Unusable::Scope));
        }
        Ok((list.find(&sources.serial), Some(list.next_update)))
    }

    async fn responded(
        &self,
        url: &Url,
        sources: &RevocationSources,
        now: Timestamp,
    ) -> Result<(Option<Revoked>, Option<Timestamp>), RevocationError> {
        let issuer = sources.issuer().ok_or_else(|| unusable(url, Unusable::OtherIssuer))?;
        let question = ocsp::question(&issuer, &sources.serial);
        let answer = self.fetch.post(url, ocsp::QUESTION_TYPE, question).await?;
        ocsp::read(&answer, &issuer, &sources.serial, now).map_err(|source| unusable(url, source))
    }
}

/// How far a CA's clock may be ahead.
const SKEW: Duration = Duration::from_mins(5);
/// How long what is valid no more is still used: a CA may be late with the next.
const LATE: Duration = Duration::from_hours(1);

fn unusable(url: &Url, source: Unusable) -> RevocationError {
    RevocationError::Unusable { url: url.to_string(), source }
}

impl RevocationReason {
    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::KeyCompromise,
            2 => Self::CaCompromise,
            3 => Self::AffiliationChanged,
            4 => Self::Superseded,
            5 => Self::CessationOfOperation,
            6 => Self::CertificateHold,
            8 => Self::RemoveFromCrl,
            9 => Self::PrivilegeWithdrawn,
            10 => Self::AaCompromise,
            _ => Self::Unspecified,
        }
    }
}

impl fmt::Display for RevocationReason {
    /// As the RFC writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::CertificateHold => "certificateHold",
            Self::RemoveFromCrl => "removeFromCRL",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
            Self::AaCompromise => "aACompromise",
        })
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "since {:.0}", self.since)?;
        match self.reason {
            Some(reason) => write!(f, ", {reason}"),
            None => Ok(()),
        }
    }
}
