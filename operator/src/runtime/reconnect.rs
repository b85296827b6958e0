//! Begins interrupted watches again.

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube_runtime::{
    WatchStreamExt,
    utils::Backoff,
    watcher::{self, Event},
};

/// The pauses before an interrupted watch is begun again: from half a second to [`Reconnect::LONGEST`], spread.
///
/// kube's default, and client-go's, grow to 30 s. So long a replica would answer no challenge of a new order after
/// an outage of the API server, and a new leader would see old news.
#[derive(Clone, Debug, Default)]
pub struct Reconnect {
    failures: u32,
}

impl Reconnect {
    /// The longest pause.
    pub const LONGEST: Duration = Duration::from_secs(4);
    const FIRST: Duration = Duration::from_millis(500);
}

impl Iterator for Reconnect {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Self::FIRST.saturating_mul(1 << self.failures.min(8)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        Some(pause.mul_f64(rand::random_range(0.5..=1.0)))
    }
}

impl Backoff for Reconnect {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The events of a watcher, with pauses after errors.
///
/// kube's watcher says [`Event::Init`] before it lists, and its back-off takes any event for a success. A watch whose
/// list fails would never get past the first pause; so the begin of a list is told with what comes of it.
pub fn reconnecting<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Send,
{
    let mut begun = false;
    let told = events.flat_map(move |event| {
        let init = match &event {
            Ok(Event::Init) => {
                begun = true;
                return stream::iter([None, None].into_iter().flatten());
            }
            Ok(_) => std::mem::take(&mut begun).then_some(Ok(Event::Init)),
            Err(_) => {
                begun = false;
                None
            }
        };
        stream::iter([init, Some(event)].into_iter().flatten())
    });
    told.backoff(Reconnect::default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::time::Instant;

    use super::*;

    fn failure() -> watcher::Result<Event<u8>> {
        Err(watcher::Error::NoResourceVersion)
    }

    #[test]
    fn a_watch_is_begun_again_soon_however_long_the_outage() {
        let mut pauses = Reconnect::default();
        assert!(pauses.by_ref().take(1000).all(|pause| pause <= Reconnect::LONGEST));
        pauses.reset();
        assert!(pauses.next().unwrap() <= Reconnect::FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_no_list_succeeds() {
        let events = stream::iter([0; 20]).flat_map(|_| stream::iter([Ok(Event::Init), failure()]));
        let began = Instant::now();
        assert_eq!(reconnecting(events).filter(|event| std::future::ready(event.is_ok())).count().await, 0);
        // Sixteen of the longest, each at least half as long.
        assert!(began.elapsed() > Reconnect::LONGEST * 8, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_else_changes() {
        let events = [
            Ok(Event::Init),
            Ok(Event::InitApply(1)),
            failure(),
            Ok(Event::Init),
            failure(),
            Ok(Event::Init),
            Ok(Event::InitDone),
            Ok(Event::Apply(2)),
            Ok(Event::Delete(2)),
        ];
        let told: Vec<_> = reconnecting(stream::iter(events))
            .map(|event| match event {
                Ok(Event::Init) => "init".to_owned(),
                Ok(Event::InitApply(object)) => format!("init {object}"),
                Ok(Event::InitDone) => "done".to_owned(),
                Ok(Event::Apply(object)) => format!("apply {object}"),
                Ok(Event::Delete(object)) => format!("delete {object}"),
                Err(_) => "error".to_owned(),
            })
            .collect()
            .await;
        assert_eq!(told, ["init", "init 1", "error", "error", "init", "done", "apply 2", "delete 2"]);
    }
}
