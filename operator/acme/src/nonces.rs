//! Replay nonces that are not spent yet (RFC 8555 §6.5).

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// More are of no use: they'd age here.
const CAPACITY: usize = 64;
/// CAs forget nonces; what is older than this is more likely refused than not.
const LIFETIME: Duration = Duration::from_mins(5);

/// A bounded stack of nonces: the newest is spent first, the oldest are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Nonces {
    stack: Mutex<Vec<(String, Instant)>>,
}

impl Nonces {
    pub(crate) fn put(&self, nonce: String, now: Instant) {
        let mut stack = self.lock();
        if stack.len() >= CAPACITY {
            stack.remove(0);
        }
        stack.push((nonce, now));
    }

    pub(crate) fn take(&self, now: Instant) -> Option<String> {
        let mut stack = self.lock();
        let (nonce, since) = stack.pop()?;
        if now.saturating_duration_since(since) < LIFETIME {
            return Some(nonce);
        }
        // The newest is too old, so all are.
        stack.clear();
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, Instant)>> {
        // A panic while it was held leaves a stack as good as any other.
        self.stack.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_spent_first_and_only_once() {
        let (nonces, now) = (Nonces::default(), Instant::now());
        nonces.put("old".into(), now);
        nonces.put("new".into(), now);
        assert_eq!(nonces.take(now).as_deref(), Some("new"));
        assert_eq!(nonces.take(now).as_deref(), Some("old"));
        assert_eq!(nonces.take(now), None);
    }

    #[test]
    fn it_is_bounded_and_forgets() {
        let (nonces, now) = (Nonces::default(), Instant::now());
        for index in 0..CAPACITY * 3 {
            nonces.put(index.to_string(), now);
        }
        assert_eq!(nonces.lock().len(), CAPACITY);
        assert_eq!(nonces.take(now + LIFETIME), None);
        assert_eq!(nonces.lock().len(), 0);
    }
}
