//! Retries within one call: bounded, short, and only of what may succeed moments later.

use std::time::Duration;

use jiff::Timestamp;

use crate::retry::fraction;
use crate::{Failure, RequestError};

/// A CA that refuses half of all nonces refuses this many in a row once in sixteen million times.
const NONCES: u32 = 24;
/// Answers of 5xx, refused or broken connections.
const TRANSIENT: u32 = 3;
/// A CA that hangs is asked once more; its time-out was long enough.
const TIMEOUTS: u32 = 1;
/// A longer Retry-After is the caller's to wait for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counts what failed within one call.
#[derive(Debug)]
pub(crate) struct Attempts {
    nonces: u32,
    transient: u32,
    timeouts: u32,
}

impl Attempts {
    pub(crate) fn new() -> Self {
        Self { nonces: 0, transient: 0, timeouts: 0 }
    }

    /// Waits until the call may be tried again, or hands the error back.
    pub(crate) async fn after(&mut self, error: RequestError) -> Result<(), RequestError> {
        match self.pause(&error, Timestamp::now()) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    /// How long to wait before the next try; `None` where there is to be none.
    fn pause(&mut self, error: &RequestError, now: Timestamp) -> Option<Duration> {
        if error.acme_type() == "badNonce" {
            self.nonces += 1;
            return (self.nonces <= NONCES).then_some(Duration::ZERO);
        }
        if !error.is_transient() {
            return None;
        }
        if matches!(error.failure, Failure::Timeout { .. }) {
            self.timeouts += 1;
            return (self.timeouts <= TIMEOUTS).then_some(Duration::ZERO);
        }
        self.transient += 1;
        if self.transient > TRANSIENT {
            return None;
        }
        if let Failure::Status { status, retry_after, .. } = &error.failure {
            if let Some(at) = retry_after {
                let pause = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
                return (pause <= PATIENCE).then_some(pause);
            }
            if *status == 429 {
                return None;
            }
        }
        let seed = now.subsec_nanosecond().unsigned_abs().into();
        let pause = Duration::from_millis(100) * 4_u32.pow(self.transient - 1);
        Some(pause.mul_f64(0.5 + fraction(seed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Problem;

    fn error(failure: Failure) -> RequestError {
        RequestError { method: "POST", url: "https://ca.example/".into(), failure }
    }

    fn status(status: u16, kind: &str, retry_after: Option<Timestamp>) -> RequestError {
        let problem =
            Problem { kind: Some(format!("urn:ietf:params:acme:error:{kind}")), ..Problem::default() };
        error(Failure::Status { status, problem: Some(Box::new(problem)), retry_after })
    }

    fn count(error: &RequestError) -> usize {
        let mut attempts = Attempts::new();
        (0..100).take_while(|_| attempts.pause(error, Timestamp::UNIX_EPOCH).is_some()).count()
    }

    #[test]
    fn each_kind_has_its_bound() {
        assert_eq!(count(&status(400, "badNonce", None)), 24);
        assert_eq!(count(&status(500, "serverInternal", None)), 3);
        assert_eq!(count(&error(Failure::Timeout { after: Duration::from_secs(30) })), 1);
        assert_eq!(count(&error(Failure::Interrupted(String::new()))), 3);
        assert_eq!(count(&status(400, "malformed", None)), 0);
        assert_eq!(count(&status(429, "rateLimited", None)), 0);
        assert_eq!(count(&error(Failure::UnknownAuthority)), 0);
    }

    #[test]
    fn a_short_retry_after_is_obeyed_and_a_long_one_left_to_the_caller() {
        let at = |seconds| Timestamp::from_second(seconds).ok();
        let pause = |error: &RequestError| Attempts::new().pause(error, Timestamp::UNIX_EPOCH);
        assert_eq!(pause(&status(429, "rateLimited", at(2))), Some(Duration::from_secs(2)));
        assert_eq!(pause(&status(503, "rateLimited", at(600))), None);
    }
}
