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
    /// The answer isn't what an ACME server says.
    #[error("not an ACME answer: {0}")]
    Unexpected(String),
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
            Failure::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Who must act, and when to try again.
    pub fn class(&self) -> Class {
        let network = Class { actor: Actor::Network, retry: Retry::Backoff };
        match &self.failure {
            Failure::Status { status, problem, retry_after } => {
                let mut class = match problem {
                    Some(problem) if *status < 500 => problem.class(),
                    // A CA's error page, or a directory URL that is wrong.
                    None if (400..500).contains(status) && *status != 429 => {
                        Class { actor: Actor::User, retry: Retry::Backoff }
                    }
                    _ => Class { actor: Actor::Ca, retry: Retry::Backoff },
                };
                if let (Some(at), Retry::Backoff) = (retry_after, &class.retry) {
                    class.retry = Retry::NotBefore(*at);
                }
                class
            }
            Failure::Timeout { .. }
            | Failure::Busy { .. }
            | Failure::Interrupted(_)
            | Failure::Connect(_) => network,
            Failure::UnknownAuthority | Failure::Tls(_) | Failure::Unexpected(_) => {
                Class { actor: Actor::User, retry: Retry::Backoff }
            }
        }
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
            Failure::Timeout { .. } | Failure::Interrupted(_) | Failure::Unexpected(_) => true,
            _ => false,
        }
    }
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
    fn retry_after_is_kept_with_the_class() {
        let at = Timestamp::UNIX_EPOCH;
        let limited = status(429, Some("rateLimited"), Some(at));
        assert_eq!(limited.class(), Class { actor: Actor::Ca, retry: Retry::NotBefore(at) });
        assert_eq!(status(503, None, Some(at)).class().retry, Retry::NotBefore(at));
        assert_eq!(status(400, Some("rejectedIdentifier"), Some(at)).class().retry, Retry::AfterChange);
        assert!(limited.to_string().contains("1970-01-01T00:00:00Z"), "{limited}");
    }

    #[test]
    fn an_error_page_where_acme_was_expected_is_the_users_to_act_on() {
        assert_eq!(status(404, None, None).class().actor, Actor::User);
        assert_eq!(status(500, None, None).class().actor, Actor::Ca);
    }
}
