//! A request to a CA that failed, typed.

use std::time::Duration;

use jiff::Timestamp;

use crate::{Actor, Class, Problem, Retry};

/// One request to a CA that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{method} {url}: {failure}")]
pub struct RequestError {
    /// The HTTP method.
    pub method: &'static str,
    /// The URL asked.
    pub url: String,
    /// How it failed.
    pub failure: Failure,
}

/// How a request to a CA failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The CA answered, and refused.
    #[error("status {status}{}{}", said(problem.as_deref()), wait(*retry_after))]
    Status {
        /// The HTTP status.
        status: u16,
        /// The problem document, if the answer was one.
        problem: Option<Box<Problem>>,
        /// When the CA wants to be asked again (Retry-After).
        retry_after: Option<Timestamp>,
    },
    /// No whole answer in time.
    #[error("no answer within {} s", .after.as_secs())]
    Timeout {
        /// The time that was given.
        after: Duration,
    },
    /// Too many requests wait for a slot, most likely because the CA hangs.
    #[error("no request could be sent for {} s, because others to the same CA hang", .after.as_secs())]
    Busy {
        /// The time that was given.
        after: Duration,
    },
    /// No connection: the name doesn't resolve, nobody listens, or there is no route.
    #[error("no connection: {0}")]
    Connect(String),
    /// The server's certificate is signed by a CA that isn't trusted here.
    #[error("the server's certificate is signed by an unknown authority")]
    UnknownAuthority,
    /// TLS failed in another way.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The connection broke after the request was sent, so that the CA may have acted on it.
    #[error("the connection broke: {0}")]
    Interrupted(String),
    /// The answer points elsewhere. It isn't followed: what an issuer asks is what its URL says.
    #[error("not an ACME answer: status {status} {}{}", pointing(to.as_deref()), wait(*retry_after))]
    Redirect {
        /// The HTTP status.
        status: u16,
        /// Where it points, if it says so.
        to: Option<String>,
        /// When the CA wants to be asked again (Retry-After).
        retry_after: Option<Timestamp>,
    },
    /// The answer isn't what an ACME server says.
    #[error("not an ACME answer: {0}")]
    Unexpected(String),
    /// The same, and it says when to come again: most likely a page for maintenance.
    #[error("not an ACME answer: {why}{}", wait(Some(*retry_after)))]
    Maintenance {
        /// What it is.
        why: String,
        /// When the CA wants to be asked again (Retry-After).
        retry_after: Timestamp,
    },
}

impl RequestError {
    /// The CA's problem document, if that is what failed.
    pub fn problem(&self) -> Option<&Problem> {
        match &self.failure {
            Failure::Status { problem, .. } => problem.as_deref(),
            _ => None,
        }
    }

    /// The last part of the CA's ACME problem type, such as `rateLimited`; else empty.
    pub fn acme_type(&self) -> &str {
        self.problem().map(Problem::acme_type).unwrap_or_default()
    }

    /// When the CA wants to be asked again (Retry-After), if it said so.
    pub fn retry_after(&self) -> Option<Timestamp> {
        match &self.failure {
            Failure::Status { retry_after, .. } | Failure::Redirect { retry_after, .. } => *retry_after,
            Failure::Maintenance { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Who must act, and when to try again.
    pub fn class(&self) -> Class {
        let backoff = |actor| Class { actor, retry: Retry::Backoff };
        let class = match &self.failure {
            Failure::Status { status, problem: Some(problem), .. } if *status < 500 => problem.class(),
            // A CA's error page, or a directory URL that is wrong.
            Failure::Status { status: 400..=407 | 409..=428 | 430..=499, .. }
            | Failure::UnknownAuthority
            | Failure::Tls(_)
            | Failure::Redirect { .. } => backoff(Actor::User),
            // Most URLs have been right before; what stands before a CA in trouble answers with such pages.
            Failure::Status { .. } | Failure::Unexpected(_) | Failure::Maintenance { .. } => {
                backoff(Actor::Ca)
            }
            Failure::Timeout { .. }
            | Failure::Busy { .. }
            | Failure::Interrupted(_)
            | Failure::Connect(_) => backoff(Actor::Network),
        };
        // Whatever else it says: a CA that names a time says that waiting helps, and not a change alone.
        Class { retry: self.retry_after().map_or(class.retry, Retry::NotBefore), ..class }
    }

    /// Whether the same request may well succeed moments later.
    pub(crate) fn is_transient(&self) -> bool {
        match &self.failure {
            Failure::Status { status, .. } => *status >= 500 || *status == 429 || *status == 408,
            Failure::Timeout { .. } | Failure::Connect(_) | Failure::Interrupted(_) => true,
            _ => false,
        }
    }

    /// Whether the CA may have acted on the request although it failed here.
    pub(crate) fn may_have_acted(&self) -> bool {
        match &self.failure {
            Failure::Status { status, .. } => *status >= 500,
            Failure::Timeout { .. }
            | Failure::Interrupted(_)
            | Failure::Redirect { .. }
            | Failure::Unexpected(_)
            | Failure::Maintenance { .. } => true,
            _ => false,
        }
    }
}

fn pointing(to: Option<&str>) -> String {
    to.map_or("redirects without saying where".to_owned(), |to| {
        format!("points to {to}; write that URL instead")
    })
}

fn said(problem: Option<&Problem>) -> String {
    problem.map(|problem| format!(", {problem}")).unwrap_or_default()
}

fn wait(retry_after: Option<Timestamp>) -> String {
    retry_after.map(|at| format!(" (asks to be left alone until {at:.0})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, kind: Option<&str>, retry_after: Option<Timestamp>) -> RequestError {
        let problem = kind.map(|kind| {
            Box::new(Problem {
                kind: Some(format!("urn:ietf:params:acme:error:{kind}")),
                ..Problem::default()
            })
        });
        RequestError {
            method: "POST",
            url: "https://ca.example/".into(),
            failure: Failure::Status { status, problem, retry_after },
        }
    }

    #[test]
    fn retry_after_is_kept_with_every_class() {
        let at = Timestamp::UNIX_EPOCH;
        let limited = status(429, Some("rateLimited"), Some(at));
        assert_eq!(limited.class(), Class { actor: Actor::Ca, retry: Retry::NotBefore(at) });
        assert_eq!(status(503, None, Some(at)).class().retry, Retry::NotBefore(at));
        let rejected = |at| status(400, Some("rejectedIdentifier"), at).class();
        assert_eq!(rejected(Some(at)), Class { actor: Actor::User, retry: Retry::NotBefore(at) });
        assert_eq!(rejected(None).retry, Retry::AfterChange);
        assert_eq!(status(404, None, Some(at)).class().retry, Retry::NotBefore(at));
        let page = Failure::Maintenance { why: "it is an HTML page".into(), retry_after: at };
        let page = RequestError { failure: page, ..limited.clone() };
        assert_eq!(page.class().retry, Retry::NotBefore(at));
        assert!(page.to_string().contains("an HTML page (asks to be left alone until 1970-01-01"), "{page}");
        assert!(limited.to_string().contains("1970-01-01T00:00:00Z"), "{limited}");
    }

    #[test]
    fn where_acme_was_expected_a_wrong_url_is_told_from_an_outage() {
        let actor = |failure| {
            RequestError { method: "GET", url: "https://ca.example/".into(), failure }.class().actor
        };
        assert_eq!(status(404, None, None).class().actor, Actor::User);
        assert_eq!(status(500, None, None).class().actor, Actor::Ca);
        assert_eq!(status(429, None, None).class().actor, Actor::Ca);
        assert_eq!(status(408, None, None).class().actor, Actor::Ca);
        assert_eq!(actor(Failure::Unexpected("it is an HTML page".into())), Actor::Ca);
        let elsewhere = Some("https://ca.example/directory".to_owned());
        assert_eq!(actor(Failure::Redirect { status: 301, to: elsewhere, retry_after: None }), Actor::User);
    }
}
