//! Waiting for a CA: its Retry-After, or else a growing pause, up to a deadline.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::{Error, ObtainErrorKind};

/// How an issuance waits for its CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The first pause between two polls, where the CA names none. Each next one is twice as long.
    pub first_poll: Duration,
    /// The longest such pause.
    pub longest_poll: Duration,
    /// How long each wait (for a validation, for the order to be issued) may take in all.
    pub patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_poll: Duration::from_millis(15),
            longest_poll: Duration::from_secs(3),
            patience: Duration::from_mins(5),
        }
    }
}

/// One wait.
pub(crate) struct Poll {
    timing: Timing,
    pause: Duration,
    started: Instant,
    failures: u32,
}

/// So many polls in a row may fail, each after its own retries: a CA that takes minutes may well have a bad one.
const FAILURES: u32 = 3;
/// A shorter Retry-After, such as 0, would be a hot loop.
const SHORTEST: Duration = Duration::from_millis(10);

impl Poll {
    pub(crate) fn new(timing: Timing) -> Self {
        Self { timing, pause: timing.first_poll, started: Instant::now(), failures: 0 }
    }

    /// Waits until the CA may be asked again. Fails when that would be too late; `waiting_for` says for what.
    pub(crate) async fn wait(
        &mut self,
        retry_after: Option<Timestamp>,
        waiting_for: impl FnOnce() -> String,
    ) -> Result<(), ObtainErrorKind> {
        let pause = self.next(retry_after, Timestamp::now());
        if self.is_too_late(pause) {
            return Err(ObtainErrorKind::Deadline {
                waiting_for: waiting_for(),
                after: self.started.elapsed(),
                retry_after,
            });
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// What a poll brought: an answer, or the error to end with. Where the CA was in trouble it is nothing, and the
    /// time has come to poll again.
    pub(crate) async fn outcome<T>(&mut self, polled: Result<T, Error>) -> Result<Option<T>, Error> {
        match polled {
            Ok(answer) => {
                self.failures = 0;
                Ok(Some(answer))
            }
            Err(error) => match self.bear(&error, Timestamp::now()) {
                Some(pause) => {
                    tokio::time::sleep(pause).await;
                    Ok(None)
                }
                // Also where the deadline ends it: what the CA said tells more than that it took too long.
                None => Err(error),
            },
        }
    }

    /// How long to wait after a poll that failed; `None` where there is to be no further one.
    fn bear(&mut self, error: &Error, now: Timestamp) -> Option<Duration> {
        self.failures += 1;
        let passing = error.request().filter(|request| request.is_transient())?;
        let pause = self.next(passing.retry_after(), now);
        (self.failures <= FAILURES && !self.is_too_late(pause)).then_some(pause)
    }

    fn is_too_late(&self, pause: Duration) -> bool {
        self.started.elapsed() + pause > self.timing.patience
    }

    fn next(&mut self, retry_after: Option<Timestamp>, now: Timestamp) -> Duration {
        let own = self.pause;
        self.pause = (own * 2).min(self.timing.longest_poll);
        match retry_after {
            // Retry-After: 0 says that asking again is welcome, not that it is to be done without a pause.
            Some(at) => match Duration::try_from(at.duration_since(now)) {
                Ok(named) if named > SHORTEST => named,
                _ => own,
            },
            None => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, RequestError};

    fn error(failure: Failure) -> Error {
        RequestError { method: "POST", url: String::new(), failure }.into()
    }

    #[test]
    fn pauses_grow_and_the_ca_names_its_own() {
        let mut poll = Poll::new(Timing::default());
        let now = Timestamp::UNIX_EPOCH;
        let pauses: Vec<_> = (0..3).map(|_| poll.next(None, now).as_millis()).collect();
        assert_eq!(pauses, [15, 30, 60]);
        let in_three = crate::retry::after(now, Duration::from_secs(3));
        assert_eq!(poll.next(Some(in_three), now), Duration::from_secs(3));
        assert!(poll.next(Some(now), now) > SHORTEST, "Retry-After: 0 is no hot loop");
        for _ in 0..50 {
            poll.next(None, now);
        }
        assert_eq!(poll.next(None, now), Duration::from_secs(3));
    }

    #[tokio::test]
    async fn a_few_failures_in_a_row_are_borne() {
        let mut poll =
            Poll::new(Timing { first_poll: SHORTEST, longest_poll: SHORTEST, ..Timing::default() });
        let timeout = || Err::<(), _>(error(Failure::Timeout { after: Duration::ZERO }));
        for _ in 0..2 {
            for _ in 0..3 {
                assert!(matches!(poll.outcome(timeout()).await, Ok(None)));
            }
            assert!(matches!(poll.outcome(Ok(())).await, Ok(Some(()))));
        }
        assert!(poll.outcome(Err::<(), _>(error(Failure::UnknownAuthority))).await.is_err());
        for _ in 0..2 {
            assert!(matches!(poll.outcome(timeout()).await, Ok(None)));
        }
        assert!(poll.outcome(timeout()).await.is_err());
    }

    #[test]
    fn a_poll_that_is_refused_is_not_repeated_before_its_retry_after() {
        let now = Timestamp::UNIX_EPOCH;
        let refused = |status, seconds| {
            let retry_after = Some(crate::retry::after(now, Duration::from_secs(seconds)));
            error(Failure::Status { status, problem: None, retry_after })
        };
        let mut poll = Poll::new(Timing::default());
        assert_eq!(poll.bear(&refused(503, 100), now), Some(Duration::from_secs(100)));
        assert_eq!(poll.bear(&refused(429, 7), now), Some(Duration::from_secs(7)));
        assert_eq!(poll.bear(&refused(503, 1), now), Some(Duration::from_secs(1)));
        assert_eq!(poll.bear(&refused(503, 1), now), None, "the fourth in a row");
        assert_eq!(Poll::new(Timing::default()).bear(&refused(503, 3600), now), None, "beyond the deadline");
    }

    #[tokio::test]
    async fn a_wait_beyond_the_deadline_fails_at_once() {
        let timing = Timing { patience: Duration::from_secs(1), ..Timing::default() };
        let late = crate::retry::after(Timestamp::now(), Duration::from_hours(1));
        let result = Poll::new(timing).wait(Some(late), || "the CA".to_owned()).await;
        assert!(matches!(result, Err(ObtainErrorKind::Deadline { retry_after: Some(_), .. })));
    }
}
