//! One issuance at a time for the same account, profile and names.
//!
//! CAs answer such requests with the same order, so two at once would finalize each other's.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{Account, Progress, Step};

/// Held while an issuance is under way.
pub(crate) struct Flight {
    _turn: OwnedMutexGuard<()>,
}

/// Waits for its turn among the issuances of this process.
pub(crate) async fn join(
    account: &Account,
    profile: Option<&str>,
    sorted_names: &[String],
    progress: &dyn Progress,
) -> Flight {
    let key = format!("{}\n{}\n{}", account.url(), profile.unwrap_or_default(), sorted_names.join("\n"));
    let turn = FLIGHTS.turn(key);
    if let Ok(free) = Arc::clone(&turn).try_lock_owned() {
        return Flight { _turn: free };
    }
    progress.step(&Step::Waiting);
    Flight { _turn: turn.lock_owned().await }
}

static FLIGHTS: LazyLock<Flights> = LazyLock::new(Flights::default);

#[derive(Default)]
struct Flights {
    turns: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl Flights {
    fn turn(&self, key: String) -> Arc<AsyncMutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        // What nobody holds or waits for is forgotten, so that the map is bounded by what is under way.
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_key_takes_turns_and_is_forgotten() {
        let flights = Flights::default();
        let first = flights.turn("a".into());
        let held = Arc::clone(&first).lock_owned().await;
        assert!(flights.turn("a".into()).try_lock().is_err());
        assert!(flights.turn("b".into()).try_lock().is_ok());
        drop((held, first));
        assert!(flights.turn("a".into()).try_lock().is_ok());
        assert_eq!(flights.turns.lock().map(|turns| turns.len()).unwrap_or_default(), 1);
    }
}
