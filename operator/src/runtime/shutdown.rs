//! Supervised tasks and an orderly end: SIGTERM or SIGINT cancels, a second one aborts, and a task that dies takes the process down.
//!
//! The end has two phases. First the work ends, and it may take its time: challenges are still answered. What the
//! work stands on, such as watches, goes on until then and ends second.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks that the process lives for. Clones are handles to the same set.
#[derive(Clone, Debug)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    token: CancellationToken,
    tracker: TaskTracker,
    dead: mpsc::Sender<TaskDied>,
}

/// Ends the wait in [`Supervisor::run`]: the first task that died.
#[derive(Debug, Error)]
pub enum TaskDied {
    /// It returned an error.
    #[error("{name} failed: {message}")]
    Failed {
        /// The task.
        name: &'static str,
        /// What it said.
        message: String,
    },
    /// It returned although it should run until shutdown, or panicked.
    #[error("{name} ended unexpectedly; this is a bug in Waxwing")]
    Ended {
        /// The task.
        name: &'static str,
    },
    /// Tasks were still running when the time for an orderly end was over.
    #[error("{count} tasks were still running {} s after shutdown began", .grace.as_secs())]
    Overdue {
        /// How many.
        count: usize,
        /// The time that they had.
        grace: Duration,
    },
    /// The process can't listen for signals.
    #[error("couldn't listen for signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// The tasks of a process, by when they end.
#[derive(Clone, Debug)]
pub struct Phases {
    /// Ends first: asked to by a signal.
    pub work: Tasks,
    /// What the work stands on: ends when no work is left.
    pub base: Tasks,
}

/// Waits for the end of the process.
#[derive(Debug)]
pub struct Supervisor {
    phases: Phases,
    dead: mpsc::Receiver<TaskDied>,
}

impl Phases {
    /// Two empty sets and their supervisor.
    pub fn new() -> (Self, Supervisor) {
        // Only the first death matters.
        let (sender, dead) = mpsc::channel(1);
        let phases = Self { work: Tasks::new(sender.clone()), base: Tasks::new(sender) };
        (phases.clone(), Supervisor { phases, dead })
    }
}

impl Tasks {
    fn new(dead: mpsc::Sender<TaskDied>) -> Self {
        let shared = Shared { token: CancellationToken::new(), tracker: TaskTracker::new(), dead };
        Self { shared: Arc::new(shared) }
    }

    /// Cancelled when these tasks should end.
    pub fn token(&self) -> CancellationToken {
        self.shared.token.clone()
    }

    /// Runs `future` until shutdown. It must return after [`Tasks::token`] is cancelled, within the time of its
    /// phase; if it returns before, or panics, the whole process ends with a message that names it.
    pub fn spawn<E: fmt::Display>(
        &self,
        name: &'static str,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        // Dropped without `defuse`, by a return or a panic's unwinding, it reports the death.
        let mut guard = Guard { name, tasks: self.clone(), message: None };
        self.shared.tracker.spawn(async move {
            if let Err(error) = future.await {
                guard.message = Some(error.to_string());
            }
            drop(guard);
        });
    }
}

impl Supervisor {
    /// Returns once every task has ended after a signal, or as soon as one has died. The work may take `grace` to
    /// end, and so may then what it stands on, for at most [`BASE_GRACE`].
    pub async fn run(mut self, grace: Duration) -> Result<(), TaskDied> {
        let Phases { work, base } = self.phases.clone();
        let mut terminate = signal(SignalKind::terminate()).map_err(TaskDied::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(TaskDied::Signals)?;
        let died = tokio::select! {
            () = received(&mut terminate, &mut interrupt) => None,
            died = self.dead.recv() => died,
            () = work.shared.token.cancelled() => None,
        };
        if died.is_none() {
            tracing::info!("shutting down; a second signal ends the process at once");
        }
        let ending = async {
            let first = work.end(grace).await;
            first.and(base.end(BASE_GRACE).await)
        };
        let ended = tokio::select! {
            ended = ending => ended,
            () = received(&mut terminate, &mut interrupt) => {
                tracing::warn!("second signal: ending at once");
                std::process::exit(130);
            }
        };
        match died {
            Some(died) => Err(died),
            // What died while shutting down is told too.
            None => match self.dead.try_recv() {
                Ok(died @ TaskDied::Failed { .. }) => Err(died),
                _ => ended,
            },
        }
    }
}

/// How long what the work stands on may take to end.
const BASE_GRACE: Duration = Duration::from_secs(5);

impl Tasks {
    async fn end(&self, grace: Duration) -> Result<(), TaskDied> {
        self.shared.token.cancel();
        self.shared.tracker.close();
        let overdue = |_| TaskDied::Overdue { count: self.shared.tracker.len(), grace };
        tokio::time::timeout(grace, self.shared.tracker.wait()).await.map_err(overdue)
    }
}

struct Guard {
    name: &'static str,
    tasks: Tasks,
    message: Option<String>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let name = self.name;
        let died = match self.message.take() {
            Some(message) => TaskDied::Failed { name, message },
            None if self.tasks.shared.token.is_cancelled() => return,
            None => TaskDied::Ended { name },
        };
        tracing::error!("{died}");
        // Full means that an earlier death is being told already.
        let _ = self.tasks.shared.dead.try_send(died);
    }
}

async fn received(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::convert::Infallible;

    use super::*;

    async fn until(token: CancellationToken) -> Result<(), Infallible> {
        token.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_task_that_dies_ends_the_process() {
        let (phases, supervisor) = Phases::new();
        phases.work.spawn("survivor", until(phases.work.token()));
        phases.base.spawn("watch of Certificates", async { Err("no such resource") });
        let died = supervisor.run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(died.to_string(), "watch of Certificates failed: no such resource");
    }

    #[tokio::test]
    async fn a_panic_is_a_death() {
        let (phases, supervisor) = Phases::new();
        phases.work.spawn("sweeper", async {
            let gone: Result<(), &str> = std::env::var("").map(drop).map_err(|_| "gone");
            gone.unwrap();
            Ok::<_, Infallible>(())
        });
        assert!(matches!(
            supervisor.run(Duration::from_secs(5)).await,
            Err(TaskDied::Ended { name: "sweeper" })
        ));
    }

    #[tokio::test]
    async fn what_the_work_stands_on_ends_after_it() {
        let (phases, supervisor) = Phases::new();
        let base = phases.base.token();
        phases.base.spawn("watch", until(base.clone()));
        let stop = phases.work.token();
        phases.work.spawn("responder", async move {
            stop.cancelled().await;
            tokio::task::yield_now().await;
            assert!(!base.is_cancelled(), "it still answers");
            Ok::<_, Infallible>(())
        });
        phases.work.token().cancel();
        supervisor.run(Duration::from_secs(5)).await.unwrap();
        assert!(phases.base.token().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_for_ever() {
        let (phases, supervisor) = Phases::new();
        phases.work.spawn("responder", std::future::pending::<Result<(), Infallible>>());
        phases.work.token().cancel();
        let overdue = supervisor.run(Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(overdue, TaskDied::Overdue { count: 1, .. }), "{overdue}");
    }
}
