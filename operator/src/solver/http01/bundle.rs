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
    /// How many attempts of this process are under way: what they use stays.
    pub(super) attempts: u32,
    pub(super) last_used: Instant,
    /// What is there.
    pub(super) objects: BTreeMap<Place, Found>,
    /// Ingresses of others with paths of ours: namespace and name.
    pub(super) edited: BTreeSet<(String, String)>,
    /// The namespace that Waxwing's own endpoints were copied to.
    pub(super) copied_to: Option<String>,
}

/// What is known of an object.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// A hash of how it was made; none if another process made it.
    pub(super) hash: Option<String>,
    /// Which of its name it is; none until an answer has said so.
    pub(super) uid: Option<String>,
}

impl Bundle {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            lock: RwLock::default(),
            edit: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                attempts: 0,
                last_used: now,
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
    /// When it is due to be swept, if its order is still open or isn't; `None` while an attempt uses it.
    pub(super) fn due(&self, open: bool, quiet: Duration) -> Option<Instant> {
        let quiet = if open { quiet + AFTER_ATTEMPT.min(quiet * 8) } else { quiet };
        (self.attempts == 0).then(|| self.last_used + quiet)
    }

    /// True if there is nothing to sweep.
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.edited.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const QUIET: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn what_an_attempt_uses_stays_and_goes_when_it_was_quiet() {
        let start = Instant::now();
        let bundle = Bundle::new(start);
        let mut state = bundle.state();
        state.attempts = 2;
        for open in [false, true] {
            assert_eq!(state.due(open, QUIET), None, "made ahead, or while the order is open");
        }
        state.attempts = 1;
        assert_eq!(state.due(false, QUIET), None, "one that was cancelled ends while the next one has begun");
        state.attempts = 0;
        assert_eq!(state.due(false, QUIET), Some(start + QUIET));
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_attempt_uses_goes_though_its_order_stays() {
        let start = Instant::now();
        assert_eq!(Bundle::new(start).state().due(true, QUIET), Some(start + QUIET + AFTER_ATTEMPT));
    }
}
