//! Which limit a CA's refusal is about.

use super::Scope;
use crate::{ObtainError, ObtainErrorKind};

/// A limit that a CA says is used up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Which; `None` where the CA's words don't say it in a way known here.
    pub scope: Option<Scope>,
    /// The registered domain or the name that it is about, where it is about one.
    pub subject: Option<String>,
}

/// Whether a CA made no order because a limit is used up, and which.
pub fn refused_limit(error: &ObtainError) -> Option<Refused> {
    let problem = error.problem().filter(|problem| problem.acme_type() == "rateLimited")?;
    let ordering = matches!(&*error.kind, ObtainErrorKind::Ca { doing: "ordering", .. });
    ordering.then(|| Refused::said(problem.detail.as_deref().unwrap_or_default()))
}

impl Refused {
    /// Reads the words of Boulder, which Let's Encrypt runs (its ratelimits/limiter.go).
    pub fn said(detail: &str) -> Self {
        let quoted = || detail.split('"').nth(1).map(str::to_ascii_lowercase);
        let (scope, subject) = if detail.contains("too many new orders") {
            (Some(Scope::Account), None)
        } else if detail.contains("already issued for this exact set of") {
            (Some(Scope::IdenticalNames), None)
        } else if detail.contains("too many certificates") && quoted().is_some() {
            (Some(Scope::RegisteredDomain), quoted())
        } else if detail.contains("too many failed authorizations") && quoted().is_some() {
            (Some(Scope::FailedValidations), quoted())
        } else {
            (None, None)
        };
        Self { scope, subject }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boulders_words_name_the_limit() {
        for (detail, scope, subject) in [
            (
                "too many new orders (300) from this account in the last 3h0m0s, retry after 2026-11-26 10:00:00 UTC",
                Some(Scope::Account),
                None,
            ),
            (
                "too many certificates (50) already issued for \"example.com\" in the last 168h0m0s, retry after 2026",
                Some(Scope::RegisteredDomain),
                Some("example.com"),
            ),
            (
                "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s",
                Some(Scope::IdenticalNames),
                None,
            ),
            (
                "too many failed authorizations (5) for \"www.example.com\" in the last 1h0m0s, retry after 2026",
                Some(Scope::FailedValidations),
                Some("www.example.com"),
            ),
            ("Service busy; retry later.", None, None),
        ] {
            let subject = subject.map(str::to_owned);
            assert_eq!(Refused::said(detail), Refused { scope, subject }, "{detail}");
        }
    }
}
