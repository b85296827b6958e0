//! What the CA is asked, and the record of it.

use jiff::Timestamp;

/// A kind of request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// The directory (RFC 8555 §7.1.1).
    Directory,
    /// A new nonce (§7.2).
    NewNonce,
    /// An account is made or looked up (§7.3).
    NewAccount,
    /// An account is read, updated or deactivated (§7.3.2).
    Account,
    /// A new order (§7.4).
    NewOrder,
    /// An order is polled.
    Order,
    /// An authorization is read or deactivated (§7.5).
    Authorization,
    /// The CA is told to look at a challenge (§7.5.1).
    Challenge,
    /// The signing request (§7.4).
    Finalize,
    /// A certificate is downloaded (§7.4.2).
    Certificate,
    /// A certificate is revoked (§7.6).
    Revoke,
    /// Renewal information (RFC 9773 §4).
    RenewalInfo,
    /// The list of revoked certificates (RFC 5280 §5).
    Crl,
    /// Anything else.
    Unknown,
}

/// One request, as the CA saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When, by the CA's clock.
    pub at: Timestamp,
    /// What for.
    pub kind: Kind,
    /// The path asked.
    pub path: String,
    /// The path of the account that asks, of one that the CA knows.
    pub account: Option<String>,
    /// The DNS names that it is about, sorted.
    pub names: Vec<String>,
    /// What a new order says that it replaces (RFC 9773 §5).
    pub replaces: Option<String>,
    /// The status that it was answered with; `None` where no answer was sent.
    pub status: Option<u16>,
}

/// One look at a challenge.
#[derive(Clone, Debug)]
pub struct Looked {
    /// When the look ended, by the CA's clock.
    pub at: Timestamp,
    /// The path of the account.
    pub account: String,
    /// The DNS name.
    pub name: String,
    /// What was wrong.
    pub result: Result<(), String>,
}

/// An order, as it is now.
#[derive(Clone, Debug)]
pub struct SeenOrder {
    /// Its path.
    pub path: String,
    /// The path of its account.
    pub account: String,
    /// Its DNS names, sorted.
    pub names: Vec<String>,
    /// What it replaces.
    pub replaces: Option<String>,
    /// Its status (RFC 8555 §7.1.6).
    pub status: &'static str,
    /// The serial number of its certificate in lower-case hex, if one was signed.
    pub serial: Option<String>,
}

impl Kind {
    /// The kind of request that a path is for.
    pub(super) fn of(path: &str) -> Self {
        match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
            "directory" => Self::Directory,
            "nonce" => Self::NewNonce,
            "new-account" => Self::NewAccount,
            "account" => Self::Account,
            "new-order" => Self::NewOrder,
            "order" => Self::Order,
            "authorization" => Self::Authorization,
            "challenge" => Self::Challenge,
            "finalize" => Self::Finalize,
            "certificate" => Self::Certificate,
            "revoke" => Self::Revoke,
            "renewal-info" => Self::RenewalInfo,
            "crl" => Self::Crl,
            _ => Self::Unknown,
        }
    }
}

/// The number in `/order/7` or `/challenge/7/http-01`, also in a whole URL.
pub(super) fn number(url: &str) -> Option<usize> {
    let path =
        url.split_once("://").map_or(url, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    path.trim_start_matches('/').split('/').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_read() {
        assert_eq!(Kind::of("/challenge/7/http-01"), Kind::Challenge);
        assert_eq!(Kind::of("/"), Kind::Unknown);
        assert_eq!(number("/challenge/7/http-01"), Some(7));
        assert_eq!(number("https://localhost:1/account/12"), Some(12));
        assert_eq!(number("/new-order"), None);
    }
}
