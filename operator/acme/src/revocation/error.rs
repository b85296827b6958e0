//! Why it isn't known whether a certificate was revoked.

use std::time::Duration;

use jiff::Timestamp;

use crate::Failure;

/// Why it isn't known whether a certificate was revoked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// The certificate names no place that can be asked.
    #[error("the certificate names neither a list nor a responder")]
    NoSource,
    /// A place could not be asked.
    #[error("asking {url}: {source}")]
    Fetch {
        /// The URL.
        url: String,
        /// How it failed.
        source: FetchError,
    },
    /// A place answered what can't be used.
    #[error("the answer of {url}: {source}")]
    Unusable {
        /// The URL.
        url: String,
        /// What is wrong with it.
        source: Unusable,
    },
    /// All of it took too long.
    #[error("no answer within {} s", after.as_secs())]
    Deadline {
        /// The time that was given.
        after: Duration,
    },
}

/// How fetching an answer failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There was no whole answer.
    #[error(transparent)]
    Failed(Failure),
    /// The answer isn't a success. Redirects aren't followed.
    #[error("status {0}")]
    Status(u16),
    /// The answer is a page for people.
    #[error("it is an HTML page")]
    Html,
    /// The answer is larger than what is read.
    #[error("it is larger than {limit} bytes")]
    TooLarge {
        /// What is read at most.
        limit: usize,
    },
}

/// What is wrong with an answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// It isn't what it should be.
    #[error("it is neither a list of revoked certificates nor an OCSP response, in DER")]
    Malformed,
    /// Its signature is not the issuer's.
    #[error("its signature is not the issuer's")]
    Signature,
    /// It is signed in a way that can't be checked here.
    #[error("it is signed with an algorithm that can't be checked here")]
    Algorithm,
    /// It is of another CA than the certificate.
    #[error("it is of another issuer than the certificate")]
    OtherIssuer,
    /// The issuer's certificate doesn't allow it to sign lists (RFC 5280 §4.2.1.3).
    #[error("the issuer's certificate doesn't allow it to sign lists")]
    NotASigner,
    /// It is about other certificates (RFC 5280 §5.2.5), or only a part of a list (§5.2.4).
    #[error("it is about other certificates, or only a part of a list")]
    Scope,
    /// It has a critical extension that isn't known here.
    #[error("it has a critical extension that isn't known here")]
    Critical,
    /// It is from the future.
    #[error("it is not valid before {0}")]
    Future(Timestamp),
    /// A newer one should be there.
    #[error("it was valid until {0}, and there is no newer one")]
    Lapsed(Timestamp),
    /// It doesn't say how long it is valid (RFC 5280 §5.1.2.5).
    #[error("it doesn't say how long it is valid")]
    Endless,
    /// The responder gives an error (RFC 6960 §4.2.1).
    #[error("the responder can't answer (status {0})")]
    Responder(u8),
    /// The responder doesn't know the certificate, or answers for another one (RFC 6960 §2.2).
    #[error("the responder doesn't know the certificate")]
    UnknownCertificate,
}
