//! Who leads: the protocol over a Lease as a state machine. Pure, the clock is passed in.
//!
//! Clocks of different machines are never compared. A holder counts from the moment before it sent its last
//! renewal, and gives up when the renew deadline is over. Anyone else counts from the moment at which it saw
//! the record change, which is later, and waits for the whole duration, which is longer. Every write carries
//! the `resourceVersion` that it is based on, so that a replica that sees old news can't take a live lease.

use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

/// How long things take. Made by [`Timing::new`] alone, so that the times fit each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

/// Times that don't fit each other.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum TimingError {
    /// Others would take the lease before its holder gives up.
    #[error(
        "--lease-duration must be longer than --lease-renew-deadline: try 15s and 10s, and keep the proportion"
    )]
    Duration,
    /// There would be no second try.
    #[error(
        "--lease-renew-deadline must be longer than --lease-retry-period: try 10s and 2s, and keep the proportion"
    )]
    RenewDeadline,
    /// The API server would be asked without a pause.
    #[error("--lease-retry-period must be at least 100ms")]
    RetryPeriod,
    /// A dead leader would be waited for too long.
    #[error("--lease-duration must be at most {}m: a dead leader is waited for that long", LONGEST.as_secs() / 60)]
    TooLong,
}

/// The longest lease, also where the record says otherwise.
const LONGEST: Duration = Duration::from_mins(10);

impl Timing {
    /// `duration` is what others wait for after the last sign of life, `renew_deadline` how long a holder goes on
    /// without a renewal, `retry_period` the time between two tries.
    pub fn new(
        duration: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, TimingError> {
        match () {
            () if retry_period < Duration::from_millis(100) => Err(TimingError::RetryPeriod),
            () if renew_deadline <= retry_period => Err(TimingError::RenewDeadline),
            () if duration <= renew_deadline => Err(TimingError::Duration),
            () if duration > LONGEST => Err(TimingError::TooLong),
            () => Ok(Self { duration, renew_deadline, retry_period }),
        }
    }

    /// The duration in whole seconds, as the Lease holds it: never shorter.
    pub fn seconds(&self) -> i32 {
        let seconds = self.duration.as_millis().div_ceil(1000);
        i32::try_from(seconds).unwrap_or(i32::MAX)
    }

    /// The time between two tries, which is also how long one may take.
    pub fn retry_period(&self) -> Duration {
        self.retry_period
    }
}

/// What a Lease says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Its `resourceVersion`: changes with every renewal.
    pub version: String,
    /// Who holds it; nobody after a release.
    pub holder: Option<String>,
    /// What the holder has promised: to give up before this is over.
    pub duration: Duration,
    /// How often the holder has changed.
    pub transitions: i32,
}

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing until then, unless something is observed.
    Wait(Instant),
    /// Read the Lease.
    Read,
    /// Create the Lease, or write it over the version given; in this replica's name.
    Write(Option<Record>),
    /// The deadline is over: end all work. Done by [`Election::give_up`].
    GiveUp,
}

/// One replica's view of the election.
#[derive(Debug)]
pub struct Election {
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// While this replica leads: until when, unless renewed.
    until: Option<Instant>,
    /// What is known may not be what is there: read before the next write.
    doubtful: bool,
    /// The earliest moment of the next write.
    pause: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    /// None: there is no Lease.
    record: Option<Record>,
    /// From when on anyone may take it.
    free_at: Instant,
}

impl Election {
    /// A replica that has seen nothing yet. No other process may ever have this identity.
    pub fn new(identity: impl Into<String>, timing: Timing) -> Self {
        Self { identity: identity.into(), timing, seen: None, until: None, doubtful: false, pause: None }
    }

    /// What to do now.
    pub fn next(&self, now: Instant) -> Step {
        if self.until.is_some_and(|until| until <= now) {
            return Step::GiveUp;
        }
        let Some(seen) = self.seen.as_ref().filter(|_| !self.doubtful) else {
            return self.paced(now, Step::Read);
        };
        if self.until.is_none() && seen.free_at > now {
            return Step::Wait(seen.free_at);
        }
        self.paced(now, Step::Write(seen.record.clone()))
    }

    /// Until when this replica leads, if it does.
    pub fn leads_until(&self) -> Option<Instant> {
        self.until
    }

    /// Who holds the lease, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref()?.record.as_ref()?.holder.as_deref()
    }

    /// The record that names this replica, if that is what is there.
    pub fn own(&self) -> Option<&Record> {
        let record = self.seen.as_ref().filter(|_| !self.doubtful)?.record.as_ref()?;
        (record.holder.as_ref() == Some(&self.identity)).then_some(record)
    }

    /// A read was answered; `None` says that there is no Lease.
    pub fn read(&mut self, record: Option<Record>, now: Instant) {
        self.doubtful = false;
        if self.until.is_some() {
            match record.as_ref().map(|record| record.holder.as_deref()) {
                // Deleted under our feet, or written by a renewal whose answer was lost: write again, at once.
                None => self.pause = None,
                Some(Some(holder)) if holder == self.identity => self.pause = None,
                // Someone has taken or emptied it.
                Some(_) => self.until = None,
            }
        }
        self.see(record, now);
    }

    /// A watch told of the Lease. That may be old news, which does no harm.
    pub fn hear(&mut self, record: Option<Record>, now: Instant) {
        if self.until.is_none() {
            self.see(record, now);
            return;
        }
        if record.and_then(|record| record.holder).as_ref() != Some(&self.identity) {
            // Old news, or the end: a read tells.
            self.doubtful = true;
            self.pause = None;
        }
    }

    /// A write in this replica's name succeeded; it was sent at `sent`.
    pub fn written(&mut self, record: Record, sent: Instant, now: Instant) {
        self.until = Some(sent + self.timing.renew_deadline);
        self.pause = Some(sent + self.timing.retry_period);
        self.doubtful = false;
        self.see(Some(record), now);
    }

    /// A write was refused: the Lease isn't what it was.
    pub fn refused(&mut self) {
        self.doubtful = true;
        self.pause = None;
    }

    /// A read or write that was begun at `sent` brought no answer of use.
    pub fn failed(&mut self, sent: Instant) {
        self.pause = Some(sent + self.timing.retry_period);
    }

    /// Ends this replica's time as the leader.
    pub fn give_up(&mut self) {
        self.until = None;
        self.doubtful = true;
    }

    fn paced(&self, now: Instant, step: Step) -> Step {
        match self.pause {
            Some(pause) if pause > now => Step::Wait(self.until.map_or(pause, |until| until.min(pause))),
            _ => step,
        }
    }

    fn see(&mut self, record: Option<Record>, now: Instant) {
        if self.seen.as_ref().is_some_and(|seen| seen.record == record) {
            return;
        }
        let free_at = match &record {
            Some(Record { holder: Some(holder), duration, .. }) if *holder != self.identity => {
                now + self.timing.duration.max(*duration).min(LONGEST)
            }
            // Deleting a Lease doesn't end its holder's work.
            None if self.seen.is_some() => now + self.timing.duration,
            // Released; or this replica's own, from a write whose answer was lost; or never there.
            Some(_) | None => now,
        };
        self.seen = Some(Seen { record, free_at });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn timing() -> Timing {
        Timing::new(DURATION, Duration::from_secs(10), Duration::from_secs(2)).unwrap()
    }

    fn record(version: u32, holder: Option<&str>) -> Record {
        Record {
            version: version.to_string(),
            holder: holder.map(str::to_owned),
            duration: DURATION,
            transitions: 0,
        }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn times_must_fit_each_other() {
        let timing = |duration, deadline, retry| Timing::new(seconds(duration), seconds(deadline), retry);
        assert_eq!(timing(10, 10, seconds(2)), Err(TimingError::Duration));
        assert_eq!(timing(15, 2, seconds(2)), Err(TimingError::RenewDeadline));
        assert_eq!(timing(15, 10, Duration::ZERO), Err(TimingError::RetryPeriod));
        assert_eq!(timing(601, 10, seconds(2)), Err(TimingError::TooLong));
        let odd = Timing::new(Duration::from_millis(2500), seconds(2), seconds(1)).unwrap();
        assert_eq!(odd.seconds(), 3, "others wait no shorter than what is written");
    }

    #[test]
    fn a_lease_that_is_absent_or_released_is_taken_at_once() {
        let now = Instant::now();
        for free in [None, Some(record(7, None))] {
            let mut election = Election::new("a", timing());
            assert_eq!(election.next(now), Step::Read);
            election.read(free.clone(), now);
            assert_eq!(election.next(now), Step::Write(free));
            election.written(record(8, Some("a")), now, now + seconds(1));
            assert_eq!(election.leads_until(), Some(now + seconds(10)), "counted from before it was sent");
            assert_eq!(election.next(now), Step::Wait(now + seconds(2)));
        }
    }

    #[test]
    fn a_holder_is_timed_from_the_last_change_seen_here() {
        let now = Instant::now();
        let mut election = Election::new("a", timing());
        election.read(Some(record(1, Some("b"))), now);
        assert_eq!(election.next(now), Step::Wait(now + DURATION));
        // The same again is no sign of life.
        election.hear(Some(record(1, Some("b"))), now + seconds(5));
        assert_eq!(election.next(now + seconds(5)), Step::Wait(now + DURATION));
        election.hear(Some(record(2, Some("b"))), now + seconds(6));
        let free = now + seconds(6) + DURATION;
        assert_eq!(election.next(now + DURATION), Step::Wait(free));
        assert_eq!(election.next(free), Step::Write(Some(record(2, Some("b")))));
        // Too late: it was renewed after all.
        election.refused();
        assert_eq!(election.next(free), Step::Read);
        election.read(Some(record(3, Some("b"))), free);
        assert_eq!(election.next(free), Step::Wait(free + DURATION));
    }

    #[test]
    fn a_deleted_lease_is_its_holders_to_make_again() {
        let now = Instant::now();
        let mut election = Election::new("a", timing());
        election.read(Some(record(1, Some("b"))), now);
        let deleted = now + seconds(1);
        election.hear(None, deleted);
        assert_eq!(election.next(deleted), Step::Wait(deleted + DURATION));
        assert_eq!(election.next(deleted + DURATION), Step::Write(None));
        let mut holder = leader(now);
        holder.hear(None, deleted);
        assert_eq!(holder.next(deleted), Step::Read);
        holder.read(None, deleted);
        assert_eq!(holder.next(deleted), Step::Write(None));
    }

    #[test]
    fn a_promise_longer_than_ones_own_is_respected_within_bounds() {
        let now = Instant::now();
        for (promised, waits) in [(60, 60), (1, 15), (1_000_000, 600)] {
            let mut election = Election::new("a", timing());
            let record = Record { duration: seconds(promised), ..record(1, Some("b")) };
            election.read(Some(record), now);
            assert_eq!(election.next(now), Step::Wait(now + seconds(waits)));
        }
    }

    fn leader(now: Instant) -> Election {
        let mut election = Election::new("a", timing());
        election.read(None, now);
        election.written(record(1, Some("a")), now, now);
        election
    }

    #[test]
    fn a_leader_that_cant_renew_gives_up_at_the_deadline() {
        let now = Instant::now();
        let mut election = leader(now);
        for second in (2..10).step_by(2) {
            let at = now + seconds(second);
            assert_eq!(election.next(at), Step::Write(Some(record(1, Some("a")))));
            election.failed(at);
            assert_eq!(election.next(at), Step::Wait(at + seconds(2)));
        }
        assert_eq!(election.next(now + seconds(10)), Step::GiveUp);
        election.give_up();
        assert_eq!(election.leads_until(), None);
    }

    #[test]
    fn an_answer_that_was_lost_costs_a_read() {
        let now = Instant::now();
        let mut election = leader(now);
        let at = now + seconds(2);
        election.failed(at);
        election.refused();
        assert_eq!(election.next(at), Step::Read);
        election.read(Some(record(2, Some("a"))), at);
        assert_eq!(election.leads_until(), Some(now + seconds(10)), "a read renews nothing");
        assert_eq!(election.next(at), Step::Write(Some(record(2, Some("a")))));
    }

    #[test]
    fn old_news_of_another_holder_is_checked_and_new_news_is_the_end() {
        let now = Instant::now();
        let mut election = leader(now);
        election.hear(Some(record(1, Some("a"))), now);
        assert_eq!(election.next(now), Step::Wait(now + seconds(2)));
        election.hear(Some(record(0, Some("b"))), now);
        assert_eq!(election.next(now), Step::Read);
        election.read(Some(record(1, Some("a"))), now);
        assert!(election.leads_until().is_some());
        election.hear(Some(record(2, Some("b"))), now);
        election.read(Some(record(2, Some("b"))), now);
        assert_eq!(election.leads_until(), None);
        assert_eq!(election.next(now), Step::Wait(now + DURATION));
    }

    #[test]
    fn ones_own_name_in_the_record_is_nothing_to_wait_for() {
        let now = Instant::now();
        let mut election = Election::new("a", timing());
        election.read(Some(record(4, Some("a"))), now);
        assert_eq!(election.next(now), Step::Write(Some(record(4, Some("a")))));
    }
}
