//! How many issuances are worked on at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// The turns of issuances, of all issuers. Clones share them.
#[derive(Clone, Debug)]
pub struct Turns {
    first: Arc<Semaphore>,
    again: Arc<Semaphore>,
}

/// So many attempts are made at once: each takes some 60 KiB, and thousands of names that fail together, as when an edge
/// is down, must fit into the memory that the chart allows. A name that fails holds its turn for half a minute.
const AT_ONCE: usize = 1000;
/// So many of those whose last attempt failed: a thousand names that never pass leave processor, CA and API server to
/// those that do.
const AGAIN: usize = 100;

impl Turns {
    /// Those of a process.
    pub fn new() -> Self {
        Self { first: Arc::new(Semaphore::new(AT_ONCE)), again: Arc::new(Semaphore::new(AGAIN)) }
    }

    /// Those of a Certificate whose last attempt failed, or didn't.
    pub fn of(&self, failed: bool) -> &Arc<Semaphore> {
        if failed { &self.again } else { &self.first }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}
