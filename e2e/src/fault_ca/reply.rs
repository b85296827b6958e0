//! Answers over HTTP.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::Value;

use super::problem::{Problem, RetryAfter, http_date};

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// What is answered, before nonces and dates are added.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    content_type: &'static str,
    headers: Vec<(HeaderName, String)>,
    body: Vec<u8>,
}

impl Reply {
    pub(super) fn json(status: u16, document: &Value) -> Self {
        Self::bytes(status, "application/json", document.to_string().into_bytes())
    }

    pub(super) fn bytes(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, headers: Vec::new(), body }
    }

    /// What something in front of a CA answers while the CA is away.
    pub(super) fn html(status: u16) -> Self {
        let page =
            "<!DOCTYPE html><html><head><title>Maintenance</title></head><body>Back soon.</body></html>";
        Self::bytes(status, "text/html; charset=utf-8", page.into())
    }

    pub(super) fn problem(problem: &Problem, now: Timestamp) -> Self {
        let body = problem.document().to_string().into_bytes();
        Self::bytes(problem.status, "application/problem+json", body)
            .retry_after(problem.retry_after.as_ref(), now)
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn retry_after(self, retry_after: Option<&RetryAfter>, now: Timestamp) -> Self {
        match retry_after {
            Some(retry_after) => self.header(header::RETRY_AFTER, retry_after.value(now)),
            None => self,
        }
    }

    /// The answer as it is sent at `now`.
    pub(super) fn sent(self, nonce: Option<String>, now: Timestamp) -> Answer {
        let mut answer = Response::new(Full::from(self.body));
        *answer.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=0, no-cache"));
        let mut all = self.headers;
        all.push((header::DATE, http_date(now)));
        all.extend(nonce.map(|nonce| (HeaderName::from_static("replay-nonce"), nonce)));
        for (name, value) in all {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(name, value);
            }
        }
        answer
    }
}
