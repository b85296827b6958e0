//! What serves one Certificate, as far as this process knows, and when it may go. Pure but for its locks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::RwLock, time::Instant};

use super::object::Place;

/// What an attempt has used whose order stays open is kept this much longer, since the next attempt may need it: a pod
/// whose image is being pulled.
const AFTER_ATTEMPT: Duration = Duration::from_mins(2);

/// Everything that serves one Certificate.
#[derive(Debug)]
pub(super) struct Bundle {
    /// Held for reading while something is made, for writing while all is deleted.
    pub(super) lock: RwLock<()>,
    /// One edit of somebody's Ingress at a time.
    pub(super) edit: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) last_used: Instant,
    pub(super) open: bool,
    pub(super) done: bool,
    /// What is there, with a hash of how it was made; none if another process made it.
    pub(super) objects: BTreeMap<Place, Option<String>>,
    /// Ingresses of others with paths of ours: namespace and name.
    pub(super) edited: BTreeSet<(String, String)>,
    /// The namespace that Waxwing's own endpoints were copied to.
    pub(super) copied_to: Option<String>,
}

impl Bundle {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            lock: RwLock::default(),
            edit: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                last_used: now,
                open: false,
                done: false,
                objects: BTreeMap::new(),
                edited: BTreeSet::new(),
                copied_to: None,
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When it is due to be swept; `None` while it is needed.
    pub(super) fn due(&mut self, open: bool, now: Instant, quiet: Duration) -> Option<Instant> {
        let needed = open && !self.done;
        // The end of an order is told by a change; quiet begins then.
        if needed || (self.open && !self.done) {
            self.last_used = now;
        }
        self.open = open;
        let quiet = if self.done && open { quiet + AFTER_ATTEMPT.min(quiet * 8) } else { quiet };
        (!needed).then(|| self.last_used + quiet)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const QUIET: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn what_serves_an_open_order_stays_and_goes_when_it_was_quiet() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let bundle = Bundle::new(start);
        let mut state = bundle.state();
        // Made ahead: the order isn't in the cache yet.
        assert_eq!(state.due(false, at(1), QUIET), Some(at(30)));
        assert_eq!(state.due(true, at(2), QUIET), None);
        assert_eq!(state.due(true, at(200), QUIET), None);
        assert_eq!(state.due(false, at(210), QUIET), Some(at(240)), "quiet begins with the order's end");
        assert_eq!(state.due(false, at(220), QUIET), Some(at(240)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_failed_attempt_used_goes_though_its_order_stays() {
        let start = Instant::now();
        let bundle = Bundle::new(start);
        let mut state = bundle.state();
        assert_eq!(state.due(true, start, QUIET), None);
        state.done = true;
        assert_eq!(state.due(true, start + QUIET, QUIET), Some(start + QUIET + AFTER_ATTEMPT));
    }
}
