//! Whether a CA answers: a circuit breaker for each. Pure, with the clock passed in.
//!
//! It decides who of several issuers is asked. A Certificate that names one issuer alone goes by its own back-off.

use std::time::Duration;

use jiff::Timestamp;
use waxwing_acme::{Error, Failure, ObtainError, ObtainErrorKind, retry::after as later};

/// Failures in a row after which the CA isn't asked for a while.
const THRESHOLD: u32 = 3;
/// The first pause; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_mins(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(30);
/// After a pause one attempt is let through, and the next after this, unless the first has ended well before.
const TRIAL: Duration = Duration::from_mins(1);

/// The breaker of one CA.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Breaker {
    failures: u32,
    closed_from: Option<Timestamp>,
}

impl Breaker {
    /// Whether an attempt may begin now; if not, from when on one may. Asking counts: after a pause one attempt is let
    /// through as a trial, and others wait for how it ends.
    pub fn pass(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        match self.closed_from {
            None => Ok(()),
            Some(until) if until > now => Err(until),
            Some(_) => {
                self.closed_from = Some(later(now, TRIAL));
                Ok(())
            }
        }
    }

    /// An attempt failed through the CA's fault.
    pub fn failed(&mut self, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        if let Some(beyond) = self.failures.checked_sub(THRESHOLD) {
            let pause = FIRST_PAUSE.saturating_mul(1 << beyond.min(10)).min(LONGEST_PAUSE);
            self.closed_from = Some(later(now, pause));
        }
    }
}

/// Whether an error says that the CA can't be relied on now: it is down, hangs, or answers with errors of its own. A
/// limit that was reached, or a no to a name, is the answer of a CA that works.
pub fn is_outage(error: &ObtainError) -> bool {
    match &*error.kind {
        ObtainErrorKind::Ca { source: Error::Request(request), .. } => match &request.failure {
            Failure::Status { status, .. } => *status >= 500 && request.acme_type() != "rateLimited",
            _ => true,
        },
        ObtainErrorKind::Ca { source: Error::Answer { .. }, .. } | ObtainErrorKind::Deadline { .. } => true,
        _ => error.problem().is_some_and(|problem| problem.acme_type() == "serverInternal"),
    }
}

#[cfg(test)]
mod tests {
    use waxwing_acme::{Problem, RequestError};

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn error(failure: Failure) -> ObtainError {
        let request = RequestError { method: "POST", url: "https://ca.example/".into(), failure };
        ObtainErrorKind::Ca { doing: "ordering", source: request.into() }.into()
    }

    fn status(status: u16, kind: &str) -> ObtainError {
        let problem =
            Problem { kind: Some(format!("urn:ietf:params:acme:error:{kind}")), ..Problem::default() };
        error(Failure::Status { status, problem: Some(Box::new(problem)), retry_after: None })
    }

    #[test]
    fn it_opens_at_the_third_failure_and_lets_one_trial_through_after_each_pause() {
        let mut breaker = Breaker::default();
        breaker.failed(NOW);
        breaker.failed(NOW);
        assert_eq!(breaker.pass(NOW), Ok(()));
        breaker.failed(NOW);
        let until = later(NOW, FIRST_PAUSE);
        assert_eq!(breaker.pass(NOW), Err(until));
        assert_eq!(breaker.pass(until), Ok(()), "the trial");
        assert_eq!(breaker.pass(until), Err(later(until, TRIAL)), "others wait for how it ends");
        breaker.failed(until);
        assert_eq!(breaker.pass(until), Err(later(until, FIRST_PAUSE * 2)));
        for _ in 0..100 {
            breaker.failed(until);
        }
        assert_eq!(breaker.pass(until), Err(later(until, LONGEST_PAUSE)));
    }

    #[test]
    fn an_outage_is_told_from_a_no() {
        assert!(is_outage(&status(503, "serverInternal")));
        assert!(is_outage(&error(Failure::Unexpected("a page in HTML".into()))));
        assert!(is_outage(&error(Failure::Timeout { after: TRIAL })));
        assert!(!is_outage(&status(429, "rateLimited")));
        assert!(!is_outage(&status(503, "rateLimited")), "as Boulder says when it is busy with one client");
        assert!(!is_outage(&status(403, "rejectedIdentifier")));
    }
}
