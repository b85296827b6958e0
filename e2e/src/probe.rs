//! Waiting for a condition by looking at it, never by a fixed sleep.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use crate::{Error, process::Process};

/// Tells what a test has counted or measured, also where it passes: the test harness keeps what is printed.
pub fn tell(text: impl std::fmt::Display) {
    use std::io::Write as _;
    // Without anybody to read it, it is told to nobody.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(25);

/// Longest time that one look may take.
const LOOK: Duration = Duration::from_secs(5);

/// Looks until `look` answers `Ok`, at most for `within`. The error names `what` and what the last
/// look said.
pub async fn until<T, E, F>(what: &str, within: Duration, mut look: impl FnMut() -> F) -> Result<T, Error>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let started = Instant::now();
    loop {
        let last = match tokio::time::timeout(LOOK, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", LOOK.as_secs()),
        };
        if started.elapsed() >= within {
            return Err(Error::NotReady { what: what.to_owned(), after: within, last });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Like [`until`], but ends at once when the process that is waited for ends.
pub async fn ready<T, E, F>(
    process: &Process,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T, Error>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    until(process.name(), within, || {
        let ended = process.check().err();
        let look = look();
        async move {
            match ended {
                Some(ended) => Ok(Err(ended)),
                None => look.await.map(Ok),
            }
        }
    })
    .await?
}
