//! The count of requests, and the one at which Waxwing is killed.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{Error, probe};

/// So long nobody asks anything when all is done.
const QUIET: Duration = Duration::from_millis(300);

/// Longest time until then.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where in a run Waxwing is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The request, counted from 1.
    pub request: usize,
    /// When about it.
    pub moment: Moment,
}

/// A moment in the life of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It is sent, and doesn't arrive.
    BeforeRequest,
    /// The server has done what it was asked, and its answer doesn't arrive.
    BeforeAnswer,
    /// The answer has just been handed over.
    AfterAnswer,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The requests in their order, until Waxwing was killed.
    pub requests: Vec<String>,
    /// Whether it was killed: at the last of them.
    pub killed: bool,
}

type Kill = Box<dyn FnOnce() + Send>;

/// Everything that is known of the requests of one Waxwing.
pub(super) struct Tally {
    state: Mutex<State>,
    struck: watch::Sender<bool>,
}

struct State {
    counts: bool,
    run: Run,
    armed: Option<(Point, Kill)>,
    /// Requests that are not answered yet.
    open: usize,
    last: Instant,
}

/// One request that counts, until it is answered.
pub(super) struct Visit {
    tally: Arc<Tally>,
    /// Set for the request at which Waxwing is to be killed.
    moment: Option<Moment>,
}

impl Moment {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::BeforeRequest, Self::BeforeAnswer, Self::AfterAnswer];
}

impl Default for Tally {
    fn default() -> Self {
        let state = State { counts: false, run: Run::default(), armed: None, open: 0, last: Instant::now() };
        Self { state: Mutex::new(state), struck: watch::Sender::new(false) }
    }
}

impl Tally {
    pub(super) fn begin(&self, point: Option<Point>, kill: Kill) {
        let mut state = self.state();
        state.counts = true;
        state.run = Run::default();
        state.armed = point.map(|point| (point, kill));
        self.struck.send_replace(false);
    }

    pub(super) fn end(&self) -> Run {
        let mut state = self.state();
        state.counts = false;
        state.armed = None;
        state.run.killed = *self.struck.borrow();
        std::mem::take(&mut state.run)
    }

    pub(super) async fn struck(&self) {
        // It lives as long as this does.
        let _ = self.struck.subscribe().wait_for(|struck| *struck).await;
    }

    pub(super) async fn quiet(&self) -> Result<(), Error> {
        probe::until("silence", PATIENCE, || async {
            let state = self.state();
            let silence = state.last.elapsed();
            if state.open == 0 && silence >= QUIET {
                return Ok(());
            }
            Err(format!("{} requests are open; the last one ended {silence:?} ago", state.open))
        })
        .await
    }

    /// A request has arrived whole.
    pub(super) fn arrive(self: &Arc<Self>, asked: String) -> Visit {
        let mut state = self.state();
        state.open += 1;
        let mut moment = None;
        if state.counts {
            state.run.requests.push(asked);
            let number = state.run.requests.len();
            let due = state.armed.as_ref().filter(|(point, _)| point.request == number);
            moment = due.map(|(point, _)| point.moment);
            // What comes now is sent by a process that is about to die, or by the next one.
            state.counts = moment.is_none();
        }
        Visit { tally: Arc::clone(self), moment }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit {
    /// Whether Waxwing is to be killed at this moment of the request.
    pub(super) fn is_due(&self, moment: Moment) -> bool {
        self.moment == Some(moment)
    }

    /// Kills Waxwing.
    pub(super) fn strike(self) {
        let armed = self.tally.state().armed.take();
        // The run may have been ended meanwhile.
        if let Some((_, kill)) = armed {
            kill();
            self.tally.struck.send_replace(true);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.tally.state();
        state.open = state.open.saturating_sub(1);
        state.last = Instant::now();
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = match self.moment {
            Moment::BeforeRequest => "before request",
            Moment::BeforeAnswer => "before the answer to request",
            Moment::AfterAnswer => "after the answer to request",
        };
        write!(f, "{moment} {}", self.request)
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Tally").field("run", &state.run).field("open", &state.open).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn waxwing_is_killed_at_the_request_that_was_named_and_once() {
        let tally = Arc::new(Tally::default());
        let kills = Arc::new(AtomicUsize::new(0));
        drop(tally.arrive("before the run".to_owned()));
        let count = Arc::clone(&kills);
        tally.begin(
            Some(Point { request: 2, moment: Moment::BeforeAnswer }),
            Box::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }),
        );
        let first = tally.arrive("first".to_owned());
        let second = tally.arrive("second".to_owned());
        let third = tally.arrive("third".to_owned());
        assert!(Moment::ALL.iter().all(|moment| !first.is_due(*moment) && !third.is_due(*moment)));
        assert!(second.is_due(Moment::BeforeAnswer) && !second.is_due(Moment::BeforeRequest));
        second.strike();
        assert_eq!(kills.load(Ordering::SeqCst), 1);
        let run = tally.end();
        assert_eq!(run, Run { requests: vec!["first".to_owned(), "second".to_owned()], killed: true });
    }

    #[test]
    fn a_run_that_has_ended_kills_nobody() {
        let tally = Arc::new(Tally::default());
        let point = Point { request: 1, moment: Moment::AfterAnswer };
        tally.begin(Some(point), Box::new(|| unreachable!("killed")));
        let late = tally.arrive("late".to_owned());
        assert!(!tally.end().killed);
        late.strike();
        assert_eq!(tally.state().open, 0);
    }
}
