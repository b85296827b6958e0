//! Whose turn it is to ask a CA: so many requests at once, of which those that may wait take a part.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The requests that may be under way at once at one CA.
pub(crate) struct Slots {
    all: Semaphore,
    /// What yielding requests may have of them.
    yielding: Semaphore,
}

/// The right to have one request under way. Dropping it gives it back.
pub(crate) struct Slot<'a> {
    _one: SemaphorePermit<'a>,
    _of_those_that_yield: Option<SemaphorePermit<'a>>,
}

/// Yielding requests have this part of all slots, so that they never starve.
const PART: usize = 4;

impl Slots {
    /// So many, and never none.
    pub(crate) fn new(count: usize) -> Self {
        let count = count.clamp(1, Semaphore::MAX_PERMITS);
        Self { all: Semaphore::new(count), yielding: Semaphore::new(count.div_ceil(PART)) }
    }

    /// Waits for a slot, first come, first served. Of those that yield only so many stand in the line as may have a
    /// slot: however many there are, others wait for these few alone.
    pub(crate) async fn take(&self, yields: bool) -> Option<Slot<'_>> {
        // Neither is ever closed.
        let of_those_that_yield = if yields { Some(self.yielding.acquire().await.ok()?) } else { None };
        let one = self.all.acquire().await.ok()?;
        Some(Slot { _one: one, _of_those_that_yield: of_those_that_yield })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn those_that_yield_leave_most_slots_to_others() {
        let slots = Slots::new(8);
        let yielding = || slots.take(true).now_or_never().flatten();
        let held: Vec<_> = (0..100).filter_map(|_| yielding()).collect();
        assert_eq!(held.len(), 2);
        let others: Vec<_> = (0..100).filter_map(|_| slots.take(false).now_or_never().flatten()).collect();
        assert_eq!(others.len(), 6);
        drop(held);
        assert!(yielding().is_some(), "they have their part again");
        assert_eq!((0..100).filter_map(|_| slots.take(false).now_or_never().flatten()).count(), 100);
    }

    #[tokio::test]
    async fn even_one_slot_serves_both() {
        let slots = Slots::new(0);
        let yielding = slots.take(true).now_or_never().flatten().unwrap();
        assert!(slots.take(false).now_or_never().is_none());
        drop(yielding);
        assert!(slots.take(false).now_or_never().flatten().is_some());
    }
}
