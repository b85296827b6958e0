//! Supervised tasks and an orderly end: SIGTERM or SIGINT cancels, a second one aborts, and a task that dies takes the process down.

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

/// Waits for the end of the process.
#[derive(Debug)]
pub struct Supervisor {
    tasks: Tasks,
    dead: mpsc::Receiver<TaskDied>,
}

impl Tasks {
    /// An empty set and its supervisor.
    pub fn new() -> (Self, Supervisor) {
        // Only the first death matters.
        let (sender, dead) = mpsc::channel(1);
        let shared = Shared { token: CancellationToken::new(), tracker: TaskTracker::new(), dead: sender };
        let tasks = Self { shared: Arc::new(shared) };
        (tasks.clone(), Supervisor { tasks, dead })
    }

    /// Cancelled when the process should end.
    pub fn token(&self) -> CancellationToken {
        self.shared.token.clone()
    }

    /// Runs `future` until shutdown. It must return soon after [`Tasks::token`] is cancelled;
    /// if it returns before, or panics, the whole process ends with a message that names it.
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
    /// Returns once every task has ended after a signal, or as soon as one has died.
    pub async fn run(mut self, grace: Duration) -> Result<(), TaskDied> {
        let mut terminate = signal(SignalKind::terminate()).map_err(TaskDied::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(TaskDied::Signals)?;
        let died = tokio::select! {
            () = received(&mut terminate, &mut interrupt) => None,
            died = self.dead.recv() => died,
            () = self.tasks.shared.token.cancelled() => None,
        };
        if died.is_none() {
            tracing::info!("shutting down; a second signal ends the process at once");
        }
        self.tasks.shared.token.cancel();
        self.tasks.shared.tracker.close();
        let drained = tokio::select! {
            () = self.tasks.shared.tracker.wait() => true,
            () = tokio::time::sleep(grace) => false,
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
                _ if drained => Ok(()),
                _ => Err(TaskDied::Overdue { count: self.tasks.shared.tracker.len(), grace }),
            },
        }
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

    #[tokio::test]
    async fn a_task_that_dies_ends_the_process() {
        let (tasks, supervisor) = Tasks::new();
        let token = tasks.token();
        tasks.spawn("survivor", async move {
            token.cancelled().await;
            Ok::<_, Infallible>(())
        });
        tasks.spawn("watch of Certificates", async { Err("no such resource") });
        let died = supervisor.run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(died.to_string(), "watch of Certificates failed: no such resource");
    }

    #[tokio::test]
    async fn a_panic_is_a_death() {
        let (tasks, supervisor) = Tasks::new();
        tasks.spawn("sweeper", async {
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
    async fn cancelling_ends_in_order() {
        let (tasks, supervisor) = Tasks::new();
        let token = tasks.token();
        tasks.spawn("admin", async move {
            token.cancelled().await;
            Ok::<_, Infallible>(())
        });
        tasks.token().cancel();
        supervisor.run(Duration::from_secs(5)).await.unwrap();
    }
}
