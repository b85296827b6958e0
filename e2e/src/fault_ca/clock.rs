//! The CA's clock: it runs as the machine's does, as far ahead or behind as a test says.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

/// A clock that a test sets. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead: Arc<Mutex<SignedDuration>>,
}

impl Clock {
    /// The time by this clock.
    pub fn now(&self) -> Timestamp {
        let ahead = *self.lock();
        Timestamp::now().saturating_add(ahead).unwrap_or(Timestamp::MAX)
    }

    /// Sets it to `now`; it runs on from there.
    pub fn set(&self, now: Timestamp) {
        *self.lock() = now.duration_since(Timestamp::now());
    }

    /// Sets it so far ahead of the machine's clock, or behind where `ahead` is negative.
    pub fn set_ahead(&self, ahead: SignedDuration) {
        *self.lock() = ahead;
    }

    /// Lets `by` pass.
    pub fn advance(&self, by: Duration) {
        let mut ahead = self.lock();
        *ahead = ahead.saturating_add(SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, SignedDuration> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `from` and `by` later, or the end of time.
pub(super) fn later(from: Timestamp, by: Duration) -> Timestamp {
    from.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// `from` and `by` earlier, or the begin of time.
pub(super) fn earlier(from: Timestamp, by: Duration) -> Timestamp {
    from.saturating_sub(by).unwrap_or(Timestamp::MIN)
}

/// As Boulder writes times: without fractions of a second.
pub(super) fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_on_from_where_it_is_set() {
        let (clock, begin) = (Clock::default(), Timestamp::UNIX_EPOCH);
        clock.set(begin);
        assert!(clock.now() >= begin && clock.now() < later(begin, Duration::from_mins(1)));
        clock.clone().advance(Duration::from_hours(1));
        assert!(clock.now() >= later(begin, Duration::from_hours(1)));
        clock.set_ahead(SignedDuration::from_hours(-24));
        assert!(clock.now() < earlier(Timestamp::now(), Duration::from_hours(23)));
        assert_eq!(seconds(later(begin, Duration::from_millis(900))), "1970-01-01T00:00:00Z");
    }
}
