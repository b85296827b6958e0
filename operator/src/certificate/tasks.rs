//! One supervised task per Certificate.
//!
//! The reconciler itself never waits: an awaiting one would be blind to edits and deletion. It starts, keeps or
//! cancels the task that does, and is called again when that has ended.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use jiff::Timestamp;
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::Instrument;
use waxwing_api::{Certificate, labels};

use super::decide;
use super::issue::{Context, Interrupted, Next, Rest, issue};
use super::turns::Queue;

/// The tasks of all Certificates. Clones are handles to the same set.
#[derive(Clone)]
pub struct CertificateTasks {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    table: Mutex<HashMap<String, Entry>>,
    started: AtomicU64,
    ended: mpsc::Sender<ObjectRef<Certificate>>,
}

enum Entry {
    Running {
        /// Tells this task from one that was cancelled and is ending still.
        number: u64,
        intent: Intent,
        basis: Basis,
        task: AbortHandle,
        /// Something has happened that the task may not have seen.
        again: bool,
        /// Where it waits for its turn, with which it will look anew.
        queued: Option<Queue>,
    },
    Resting {
        rest: Rest,
        since: Instant,
        /// The rest's end by a clock that nobody sets; none if it is too far away for that clock.
        ends: Option<Instant>,
        basis: Basis,
        stale: bool,
        interruptions: u32,
    },
}

/// What users have written, as a task knows it. The version that a task has last written may hold something newer.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Basis {
    generation: Option<i64>,
    /// A renewal that was asked for.
    request: Option<String>,
}

/// The part of a spec that an attempt is about: if it changes, the attempt is cancelled.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Intent(String);

impl CertificateTasks {
    /// No tasks yet. `ended` is told the Certificate of each one that ends.
    pub fn new(context: Context, ended: mpsc::Sender<ObjectRef<Certificate>>) -> Self {
        Self {
            shared: Arc::new(Shared { context, table: Mutex::default(), started: AtomicU64::new(0), ended }),
        }
    }

    /// Looks at a Certificate: starts a task, or leaves the running one, or lets it rest. Gives the time until the
    /// next look, if it isn't the task's end that brings it.
    pub fn look(&self, certificate: &Arc<Certificate>) -> Option<Duration> {
        let uid = certificate.uid()?;
        if certificate.metadata.deletion_timestamp.is_some() {
            self.forget(&uid);
            return None;
        }
        let now = Timestamp::now();
        let (intent, basis) = (Intent::of(certificate), Basis::of(certificate));
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut interruptions = 0;
        match table.get_mut(&uid) {
            Some(Entry::Running { intent: running, basis: known, task, again, queued, .. }) => {
                let stays = match queued {
                    // With its turn it is looked at as it is then.
                    Some(Queue::First | Queue::RunsOut) => true,
                    // Another queue may be its own now.
                    Some(Queue::Again) => *known == basis,
                    None => *running == intent,
                };
                if stays {
                    *again |= *known != basis;
                    return None;
                }
                if queued.is_none() {
                    tracing::info!(certificate = %name(certificate), "the spec has changed; the attempt is cancelled");
                }
                task.abort();
            }
            // Acting on it would be blind to what the task has just written. What is newer brings the next look.
            Some(Entry::Resting { rest, since, .. })
                if rest.is_newer_than(certificate) && since.elapsed() < LONG_BEHIND =>
            {
                return Some(BEHIND);
            }
            Some(Entry::Resting { rest, ends, basis: known, stale, interruptions: so_far, .. }) => {
                // After an interruption its pause is kept to whatever happens, so that nothing can drive a loop.
                let seen = known.covers(rest, certificate) && !*stale;
                let left = ends.map_or(Duration::MAX, |ends| ends.saturating_duration_since(Instant::now()));
                let pause = decide::until(rest.wake, now).min(left);
                if !pause.is_zero() && (seen || *so_far > 0) {
                    return Some(pause);
                }
                interruptions = *so_far;
            }
            None => {}
        }
        let number = self.shared.started.fetch_add(1, Ordering::Relaxed);
        let task = self.spawn(number, uid.clone(), Arc::clone(certificate), interruptions);
        table.insert(uid, Entry::Running { number, intent, basis, task, again: false, queued: None });
        None
    }

    /// Something outside of the Certificate has changed that it depends on.
    pub fn disturb(&self, certificate: &Certificate) {
        let Some(uid) = certificate.uid() else { return };
        match self.shared.table.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&uid) {
            Some(Entry::Running { again, .. }) => *again = true,
            Some(Entry::Resting { stale, .. }) => *stale = true,
            None => {}
        }
    }

    /// Cancels the task of a Certificate that is gone.
    pub fn forget(&self, uid: &str) {
        let entry = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        if let Some(Entry::Running { task, .. }) = entry {
            task.abort();
        }
    }

    /// The UIDs that have a task or rest after one.
    pub fn known(&self) -> Vec<String> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Cancels every task. What they have begun is in their journals.
    pub fn cancel_all(&self) {
        for (_, entry) in self.shared.table.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            if let Entry::Running { task, .. } = entry {
                task.abort();
            }
        }
    }

    fn spawn(
        &self,
        number: u64,
        uid: String,
        certificate: Arc<Certificate>,
        interruptions: u32,
    ) -> AbortHandle {
        let tasks = self.clone();
        let span = tracing::info_span!("issue", certificate = %name(&certificate));
        let work = async move {
            let reference = ObjectRef::from_obj(&*certificate);
            let version = certificate.resource_version();
            let looks = AssertUnwindSafe(tasks.looks(number, &uid, certificate)).catch_unwind();
            let (rest, interruptions) = match looks.await {
                Ok(Ok(rest)) => (rest, 0),
                Ok(Err(error)) => {
                    (interrupted(Some(&error), interruptions, version), interruptions.saturating_add(1))
                }
                Err(_) => (interrupted(None, interruptions, version), interruptions.saturating_add(1)),
            };
            tasks.shared.context.metrics.reconcile("certificate", interruptions == 0);
            tasks.rest(number, &uid, rest, interruptions);
            // Nobody listens any more: the process ends.
            let _ = tasks.shared.ended.send(reference).await;
        };
        tokio::spawn(work.instrument(span)).abort_handle()
    }

    /// A look, and another one after each wait for a turn.
    async fn looks(
        &self,
        number: u64,
        uid: &str,
        mut certificate: Arc<Certificate>,
    ) -> Result<Rest, Interrupted> {
        let mut turn = None;
        loop {
            // Whoever waits for a turn has no room for this.
            let look = Box::pin(issue(&self.shared.context, Arc::clone(&certificate), turn));
            let (mut place, until) = match look.await? {
                Next::Rest(rest) => return Ok(rest),
                Next::Queue { place, until } => (place, until),
            };
            let reference = ObjectRef::from_obj(&*certificate);
            drop(certificate);
            turn = None;
            if self.wait_in(place.queue(), number, uid, &reference) {
                let _waits = self.shared.context.metrics.waits_for_turn(&place.queue().to_string());
                let until = until.map_or(Duration::MAX, |until| decide::until(until, Timestamp::now()));
                turn = tokio::time::timeout(until, place.turn()).await.ok();
            }
            match self.go_on(number, uid, &reference) {
                Some(newest) => certificate = newest,
                // It is gone, and is forgotten in a moment.
                None => return Ok(Rest { wake: Timestamp::MAX, version: None }),
            }
        }
    }

    /// Notes that a task waits for its turn; false if users have written meanwhile what it hasn't seen.
    fn wait_in(&self, queue: Queue, number: u64, uid: &str, certificate: &ObjectRef<Certificate>) -> bool {
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest(uid, certificate);
        if let Some(Entry::Running { number: running, basis, queued, .. }) = table.get_mut(uid)
            && *running == number
        {
            *queued = Some(queue);
            return newest.is_none_or(|newest| *basis == Basis::of(&newest));
        }
        true
    }

    /// The Certificate as it is now, which is all that the look that follows goes by.
    fn go_on(
        &self,
        number: u64,
        uid: &str,
        certificate: &ObjectRef<Certificate>,
    ) -> Option<Arc<Certificate>> {
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest(uid, certificate)?;
        if let Some(Entry::Running { number: running, intent, basis, again, queued, .. }) = table.get_mut(uid)
            && *running == number
        {
            (*intent, *basis) = (Intent::of(&newest), Basis::of(&newest));
            (*again, *queued) = (false, None);
        }
        Some(newest)
    }

    fn newest(&self, uid: &str, certificate: &ObjectRef<Certificate>) -> Option<Arc<Certificate>> {
        let certificates = &self.shared.context.watches.certificates;
        let newest = certificates.get(certificate.namespace.as_deref(), &certificate.name)?;
        (newest.metadata.uid.as_deref() == Some(uid)).then_some(newest)
    }

    fn rest(&self, number: u64, uid: &str, rest: Rest, interruptions: u32) {
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        match table.get_mut(uid) {
            Some(entry @ Entry::Running { .. }) => {
                if let Entry::Running { number: running, basis, again, .. } = entry
                    && *running == number
                {
                    let ends = Instant::now().checked_add(decide::until(rest.wake, Timestamp::now()));
                    let (since, basis, stale) = (Instant::now(), basis.clone(), *again);
                    *entry = Entry::Resting { rest, since, ends, basis, stale, interruptions };
                }
            }
            Some(Entry::Resting { .. }) | None => {}
        }
    }
}

impl Intent {
    fn of(certificate: &Certificate) -> Self {
        let spec = &certificate.spec;
        let mut names = spec.dns_names.clone();
        names.sort();
        let fields =
            (names, &spec.common_name, &spec.issuer_ref, &spec.private_key, &spec.profile, &spec.secret_name);
        Self(serde_json::to_string(&fields).unwrap_or_default())
    }
}

impl Basis {
    fn of(certificate: &Certificate) -> Self {
        Self {
            generation: certificate.metadata.generation,
            request: certificate.annotations().get(labels::RENEW).cloned(),
        }
    }

    /// Whether a task that knew this, and rests as `rest` says, has seen all that stands in `certificate`.
    fn covers(&self, rest: &Rest, certificate: &Certificate) -> bool {
        rest.version == certificate.metadata.resource_version && *self == Self::of(certificate)
    }
}

impl Rest {
    /// Whether the task has written something since: the cache is behind.
    fn is_newer_than(&self, certificate: &Certificate) -> bool {
        // Versions can be compared as numbers (Kubernetes API concepts, since 1.35; so they always were in etcd).
        let number = |version: Option<&String>| version.and_then(|version| version.parse::<u128>().ok());
        let shown = number(certificate.metadata.resource_version.as_ref());
        number(self.version.as_ref()).zip(shown).is_some_and(|(last, shown)| shown < last)
    }
}

/// How soon a cache that is behind is looked at again.
const BEHIND: Duration = Duration::from_secs(1);
/// For so long nothing is done by a cache that is behind. A report that follows reads anew what it conflicts with.
const LONG_BEHIND: Duration = Duration::from_secs(30);

/// The first pause after an interruption; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

fn interrupted(error: Option<&Interrupted>, interruptions: u32, version: Option<String>) -> Rest {
    let pause = FIRST_PAUSE.saturating_mul(1 << interruptions.min(6)).min(LONGEST_PAUSE);
    if let Some(error) = error {
        tracing::warn!(%error, again_in = ?pause, "interrupted");
    } else {
        tracing::error!(again_in = ?pause, "the task panicked; this is a bug in Waxwing");
    }
    Rest { wake: decide::later(Timestamp::now(), pause), version }
}

fn name(certificate: &Certificate) -> String {
    format!("{}/{}", certificate.namespace().unwrap_or_default(), certificate.name_any())
}

#[cfg(test)]
mod tests {
    use super::super::wanted::tests::certificate;
    use super::*;

    #[test]
    fn the_template_is_not_what_an_attempt_is_about() {
        let before = certificate(&["a.example", "b.example"]);
        let mut after = certificate(&["b.example", "a.example"]);
        after.spec.secret_template = Some(waxwing_api::SecretTemplate::default());
        assert_eq!(Intent::of(&before), Intent::of(&after));
        after.spec.secret_name = "other".into();
        assert_ne!(Intent::of(&before), Intent::of(&after));
    }

    #[test]
    fn what_was_written_while_a_task_ran_is_news_though_the_task_wrote_last() {
        let mut certificate = certificate(&["a.example"]);
        certificate.metadata.resource_version = Some("7".into());
        let rest = Rest { wake: Timestamp::MAX, version: Some("7".into()) };
        let known = Basis::of(&certificate);
        assert!(known.covers(&rest, &certificate));
        let mut asked = certificate.clone();
        asked.metadata.annotations = Some([(labels::RENEW.into(), "2026-11-26T12:00:00Z".into())].into());
        assert!(!known.covers(&rest, &asked));
        certificate.metadata.generation = Some(2);
        assert!(!known.covers(&rest, &certificate));
    }

    #[test]
    fn what_a_cache_that_is_behind_shows_is_not_acted_on() {
        let mut certificate = certificate(&["a.example"]);
        let rest = Rest { wake: Timestamp::MAX, version: Some("10".into()) };
        for (shown, behind) in [("9", true), ("10", false), ("11", false), ("opaque", false)] {
            certificate.metadata.resource_version = Some(shown.into());
            assert_eq!(rest.is_newer_than(&certificate), behind, "{shown}");
            assert_eq!(Basis::of(&certificate).covers(&rest, &certificate), shown == "10", "{shown}");
        }
    }

    #[test]
    fn interruptions_pause_longer_and_not_for_ever() {
        let pause = |count| decide::until(interrupted(None, count, None).wake, Timestamp::now());
        assert!(pause(0) <= FIRST_PAUSE);
        assert!(pause(3) > Duration::from_secs(7));
        assert!(pause(u32::MAX) <= LONGEST_PAUSE);
    }
}
