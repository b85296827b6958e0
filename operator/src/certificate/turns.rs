//! How many issuances are worked on at once.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Among whom an issuance waits for its turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Queue {
    /// Those whose certificate serves and runs out.
    RunsOut,
    /// Those who haven't failed.
    First,
    /// Those whose last attempt failed: others come first.
    Again,
}

/// The right to work on one issuance. Dropping it gives it back.
#[derive(Debug)]
pub struct Turn {
    /// There always is one: the semaphores are never closed.
    _permit: Option<OwnedSemaphorePermit>,
}

/// A place in a queue. Dropping it gives it up.
pub struct Place {
    queue: Queue,
    turn: Pin<Box<dyn Future<Output = Turn> + Send + Sync>>,
}

/// The turns of issuances, of all issuers. Clones share them.
#[derive(Clone, Debug)]
pub struct Turns {
    runs_out: Arc<Semaphore>,
    first: Arc<Semaphore>,
    again: Arc<Semaphore>,
}

/// So many attempts are made at once. One whose name doesn't pass holds its turn for half a minute, so there are more
/// than the names that may be expected to fail together; but each takes some 70 KiB, and thousands, as when an edge is
/// down, must fit into the memory that the chart allows.
const FIRST: usize = 2000;
/// So many for certificates that run out, whoever else waits.
const RUNS_OUT: usize = 500;
/// So many of the others whose last attempt failed: a thousand names that never pass leave processor, CA and API server
/// to those that do.
const AGAIN: usize = 100;

impl Turns {
    /// Those of a process.
    pub fn new() -> Self {
        let turns = |count| Arc::new(Semaphore::new(count));
        Self { runs_out: turns(RUNS_OUT), first: turns(FIRST), again: turns(AGAIN) }
    }

    /// Goes to the end of a queue, as soon as the turn is first asked for.
    pub fn queue_up(&self, queue: Queue) -> Place {
        let turns = Arc::clone(match queue {
            Queue::RunsOut => &self.runs_out,
            Queue::First => &self.first,
            Queue::Again => &self.again,
        });
        Place { queue, turn: Box::pin(async move { Turn { _permit: turns.acquire_owned().await.ok() } }) }
    }
}

impl Place {
    /// The queue.
    pub fn queue(&self) -> Queue {
        self.queue
    }

    /// Waits for the turn: first come, first served. Whoever stops waiting keeps the place. To be asked for once.
    pub async fn turn(&mut self) -> Turn {
        self.turn.as_mut().await
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Queue {
    /// That of a certificate that serves or doesn't, has little of its lifetime left, and failed last time. One that has
    /// expired needs haste no more than a first one: most of these are names that nobody has any more.
    pub fn of(serves: bool, is_late: bool, failed: bool) -> Self {
        match (serves && is_late, failed) {
            (true, _) => Self::RunsOut,
            (false, true) => Self::Again,
            (false, false) => Self::First,
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RunsOut => "RunsOut",
            Self::First => "First",
            Self::Again => "Again",
        })
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_runs_out_waits_for_nobody_else_while_it_serves() {
        assert_eq!(Queue::of(true, true, true), Queue::RunsOut);
        assert_eq!(Queue::of(true, true, false), Queue::RunsOut);
        assert_eq!(Queue::of(true, false, true), Queue::Again);
        assert_eq!(Queue::of(false, true, true), Queue::Again, "expired, and failing");
        assert_eq!(Queue::of(false, true, false), Queue::First);
    }

    #[tokio::test]
    async fn whoever_waits_comes_before_whoever_comes() {
        let turns = Turns::new();
        let now = |place: &mut Place| place.turn().now_or_never();
        let mut held: Vec<Turn> =
            std::iter::from_fn(|| now(&mut turns.queue_up(Queue::Again))).take(2 * AGAIN).collect();
        assert_eq!(held.len(), AGAIN);
        assert!(now(&mut turns.queue_up(Queue::First)).is_some(), "another queue");

        let (mut waits, mut comes) = (turns.queue_up(Queue::Again), turns.queue_up(Queue::Again));
        assert!(now(&mut waits).is_none() && now(&mut comes).is_none());
        drop(held.pop());
        assert!(now(&mut comes).is_none(), "it is the one's who waits, though it looks away");
        let turn = waits.turn().await;
        assert!(now(&mut comes).is_none());
        drop(turn);
        assert!(now(&mut comes).is_some());
    }
}
