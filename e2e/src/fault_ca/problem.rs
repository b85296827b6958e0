//! What the CA says when it refuses (RFC 7807, RFC 8555 §6.7).

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use serde_json::{Value, json};

use super::clock::later;

/// A problem document, the status that it is sent with, and when to come back.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The last part of the type, such as `rateLimited`.
    pub kind: String,
    /// The explanation for people.
    pub detail: String,
    /// The Retry-After header.
    pub retry_after: Option<RetryAfter>,
}

/// A Retry-After header (RFC 9110 §10.2.3).
#[derive(Clone, Debug)]
pub enum RetryAfter {
    /// Seconds from now.
    Seconds(u64),
    /// The date at which this has passed, by the CA's clock.
    Date(Duration),
    /// Any text.
    Text(String),
}

impl Problem {
    /// A problem of this type.
    pub fn new(status: u16, kind: &str, detail: impl Into<String>) -> Self {
        Self { status, kind: kind.to_owned(), detail: detail.into(), retry_after: None }
    }

    /// The same with a Retry-After.
    #[must_use]
    pub fn retry_after(self, retry_after: RetryAfter) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }

    /// 429, as Boulder's load balancer says it, without naming a limit.
    pub fn rate_limited() -> Self {
        Self::new(429, "rateLimited", "Service busy; retry later.")
    }

    /// A trouble of the CA's own, such as 500 or 503.
    pub fn internal(status: u16) -> Self {
        Self::new(status, "serverInternal", "The service is down for maintenance or had an internal error")
    }

    /// The nonce isn't accepted (RFC 8555 §6.5).
    pub fn bad_nonce() -> Self {
        Self::new(400, "badNonce", "Unable to read/verify body :: JWS has an invalid anti-replay nonce")
    }

    /// The certificate has a replacement order already (RFC 9773 §5).
    pub fn already_replaced(serial: &str) -> Self {
        let detail = format!(
            "Could not validate ARI 'replaces' field :: cannot indicate an order replaces certificate with \
             serial \"{serial}\", which already has a replacement order"
        );
        Self::new(409, "alreadyReplaced", detail)
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(400, "malformed", detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "malformed", detail)
    }

    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(403, "unauthorized", detail)
    }

    /// As it stands in an answer, an order or a challenge.
    pub(super) fn document(&self) -> Value {
        json!({
            "type": format!("urn:ietf:params:acme:error:{}", self.kind),
            "detail": self.detail,
            "status": self.status,
        })
    }
}

impl RetryAfter {
    /// The header's value.
    pub(super) fn value(&self, now: Timestamp) -> String {
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            Self::Date(after) => http_date(later(now, *after)),
            Self::Text(text) => text.clone(),
        }
    }
}

/// A date in a header (RFC 9110 §5.6.7).
pub(super) fn http_date(at: Timestamp) -> String {
    DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_written_as_the_rfc_says() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(RetryAfter::Seconds(7).value(now), "7");
        assert_eq!(RetryAfter::Date(Duration::from_mins(1)).value(now), "Thu, 01 Jan 1970 00:01:00 GMT");
        assert_eq!(RetryAfter::Text("soon".to_owned()).value(now), "soon");
    }
}
