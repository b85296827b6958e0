//! The routes in Waxwing's own namespace: made when first needed, kept while orders need them, swept when it is quiet.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::api::networking::v1::Ingress;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    object::only,
    permanent::Kept,
    route::{Route, class_of, host_of, is_intact, is_route},
};
use crate::{
    runtime::{
        client::{CallError, bounded},
        watch::{Change, Watch},
    },
    solver::open_orders::OpenOrders,
};

/// The field manager of routes.
const MANAGER: &str = "waxwing-route";
/// Who notes what has been seen of routes: another manager, so that making a route again leaves it.
const WATCHER: &str = "waxwing-watcher";
/// Annotation on a route that has been seen to lead here.
const LED_HERE: &str = "waxwing.dev/led-here";
/// Deletions at once.
const DELETIONS: usize = 8;
/// What this process knows of a route that isn't in the cache is forgotten after this long.
const FORGET: Duration = Duration::from_mins(2);

/// The routes, and what this process knows of them.
#[derive(Debug)]
pub struct Routes {
    api: Api<Ingress>,
    namespace: String,
    service: (String, u16),
    quiet: Duration,
    ingresses: Watch<Ingress>,
    orders: OpenOrders,
    kept: Kept,
    known: Mutex<HashMap<String, Known>>,
    deleted: Notify,
}

#[derive(Clone, Debug)]
struct Known {
    last_used: Instant,
    /// Whether it was needed at the last look.
    open: bool,
    phase: Phase,
}

impl Known {
    fn new(phase: Phase, last_used: Instant) -> Self {
        Self { last_used, open: false, phase }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Phase {
    /// What the cache says holds.
    Cached,
    /// Written by this process; the cache may not show it yet.
    Made,
    /// Being deleted by this process.
    Deleting,
    /// Deleted by this process; the cache may still show this UID.
    Deleted(String),
}

/// A route in the cache.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Seen {
    name: String,
    uid: String,
    host: String,
    class: Option<String>,
}

/// What to do to have a route.
enum Step {
    Done,
    Make,
    WaitForDeletion,
}

impl Routes {
    /// `service` is the responder's Service in `namespace` and its port. A route without an open order that was last
    /// needed `quiet` ago is deleted, unless it is `kept`.
    pub fn new(
        client: Client,
        namespace: &str,
        service: (String, u16),
        quiet: Duration,
        ingresses: Watch<Ingress>,
        orders: OpenOrders,
        kept: Kept,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            service,
            quiet,
            ingresses,
            orders,
            kept,
            known: Mutex::default(),
            deleted: Notify::new(),
        }
    }

    /// Sees to it that the route exists: at most one write, and none for one that is there already.
    pub async fn ensure(&self, route: &Route) -> Result<(), CallError> {
        let name = route.name();
        let ingress = route.ingress(&self.namespace, &self.service);
        loop {
            // Made before looking, so that a deletion that ends in between isn't missed.
            let deleted = self.deleted.notified();
            match self.step(&name, &ingress) {
                Step::Done => return Ok(()),
                Step::WaitForDeletion => deleted.await,
                Step::Make => {
                    let what = format!("apply Ingress {}/{name}", self.namespace);
                    let parameters = PatchParams::apply(MANAGER).force();
                    bounded(what, self.api.patch(&name, &parameters, &Patch::Apply(&ingress))).await?;
                    self.note(&name, Phase::Made);
                    return Ok(());
                }
            }
        }
    }

    /// Whether a route has been seen to lead here.
    pub fn has_led_here(&self, route: &Route) -> bool {
        let cached = self.ingresses.get(Some(&self.namespace), &route.name());
        cached.is_some_and(|found| found.annotations().contains_key(LED_HERE))
    }

    /// Notes at a route, for later processes too, that it has been seen to lead here.
    pub async fn note_that_it_leads_here(&self, route: &Route) -> Result<(), CallError> {
        let name = route.name();
        let what = format!("annotate Ingress {}/{name}", self.namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {LED_HERE: "true"}}}));
        let parameters = PatchParams { field_manager: Some(WATCHER.into()), ..PatchParams::default() };
        bounded(what, self.api.patch_metadata(&name, &parameters, &patch)).await.map(|_| ())
    }

    /// Deletes routes that no one needs, until `stop`. Those that an earlier process left are among them.
    pub async fn sweep(&self, stop: CancellationToken) {
        let mut changes = pin!(self.ingresses.changes());
        let mut orders = self.orders.changed();
        let mut kept = self.kept.changed();
        loop {
            let (due, next) = self.due(Instant::now());
            stream::iter(due).for_each_concurrent(DELETIONS, |seen| self.delete(seen)).await;
            let pause = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            let mut pause = pin!(pause);
            // Other people's Ingresses change too; only ours end the pause.
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = pause.as_mut() => break,
                    changed = orders.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    changed = kept.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    change = changes.next() => match change {
                        None => return,
                        Some(Change::Resynced) => break,
                        Some(Change::Applied(ingress)) if self.is_ours(&ingress) => break,
                        Some(Change::Deleted(ingress)) if self.is_ours(&ingress) => {
                            self.forget(&ingress);
                            break;
                        }
                        Some(Change::Applied(_) | Change::Deleted(_)) => {}
                    },
                }
            }
        }
    }

    fn step(&self, name: &str, ingress: &Ingress) -> Step {
        let cached = self.ingresses.get(Some(&self.namespace), name);
        let mut known = self.known();
        let entry = known.entry(name.to_owned()).or_insert_with(|| Known::new(Phase::Cached, Instant::now()));
        entry.last_used = Instant::now();
        let cached = cached.filter(|cached| match &entry.phase {
            Phase::Deleted(uid) => cached.metadata.uid.as_ref() != Some(uid),
            _ => true,
        });
        match (&entry.phase, cached) {
            (Phase::Deleting, _) => Step::WaitForDeletion,
            (_, Some(cached))
                if cached.metadata.deletion_timestamp.is_none() && is_intact(&cached, ingress) =>
            {
                Step::Done
            }
            (Phase::Made, None) => Step::Done,
            // Not there, or not as it was made: someone changed it.
            _ => Step::Make,
        }
    }

    async fn delete(&self, seen: Seen) {
        let Seen { name, uid, host, .. } = seen;
        let what = format!("delete Ingress {}/{name}", self.namespace);
        let phase = match bounded(what, self.api.delete(&name, &only(&uid))).await {
            Ok(_) => Phase::Deleted(uid),
            // Gone, or another one of the same name.
            Err(error) if error.is_not_found() || error.is_conflict() => Phase::Deleted(uid),
            Err(error) => {
                tracing::warn!(%error, host, "a route wasn't swept; trying again later");
                Phase::Cached
            }
        };
        self.note(&name, phase);
        self.deleted.notify_waiters();
    }

    fn due(&self, now: Instant) -> (Vec<Seen>, Option<Instant>) {
        let namespace = Some(&self.namespace);
        let ours = |ingress: &Ingress| ingress.metadata.namespace.as_ref() == namespace && is_route(ingress);
        let seen: Vec<Seen> =
            self.ingresses.store().state_filter(ours).iter().filter_map(|one| seen(one)).collect();
        let needed = |seen: &Seen| {
            self.orders.is_open(&seen.host) || self.kept.holds(&seen.name, seen.class.as_deref(), &seen.host)
        };
        due(&seen, &mut self.known(), needed, now, self.quiet)
    }

    fn is_ours(&self, ingress: &Ingress) -> bool {
        ingress.metadata.namespace.as_ref() == Some(&self.namespace) && is_route(ingress)
    }

    fn note(&self, name: &str, phase: Phase) {
        self.known().insert(name.to_owned(), Known::new(phase, Instant::now()));
    }

    /// The cache has seen the end of a route.
    fn forget(&self, ingress: &Arc<Ingress>) {
        let Some(name) = &ingress.metadata.name else { return };
        let mut known = self.known();
        let over = known.get(name).is_some_and(|entry| match &entry.phase {
            Phase::Deleting => false,
            Phase::Deleted(uid) => ingress.metadata.uid.as_ref() == Some(uid),
            // Deleted by someone else, unless it has been made again and the cache lags.
            Phase::Cached | Phase::Made => self.ingresses.get(Some(&self.namespace), name).is_none(),
        });
        if over {
            known.remove(name);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seen(ingress: &Ingress) -> Option<Seen> {
    Some(Seen {
        name: ingress.metadata.name.clone()?,
        uid: ingress.metadata.uid.clone()?,
        host: host_of(ingress).unwrap_or_default().to_owned(),
        class: class_of(ingress).map(str::to_owned),
    })
}

/// The routes to delete now, marked as such, and when to look again if nothing changes.
fn due(
    seen: &[Seen],
    known: &mut HashMap<String, Known>,
    is_needed: impl Fn(&Seen) -> bool,
    now: Instant,
    quiet: Duration,
) -> (Vec<Seen>, Option<Instant>) {
    let mut delete = Vec::new();
    let mut next: Option<Instant> = None;
    for route in seen {
        let entry = known.entry(route.name.clone()).or_insert_with(|| Known::new(Phase::Cached, now));
        match &entry.phase {
            Phase::Deleting => continue,
            Phase::Deleted(uid) if *uid == route.uid => continue,
            _ => entry.phase = Phase::Cached,
        }
        // The end of an order is told by a change; quiet begins then.
        let open = is_needed(route);
        if open || entry.open {
            entry.last_used = now;
        }
        entry.open = open;
        if open {
            continue;
        }
        if now >= entry.last_used + quiet {
            entry.phase = Phase::Deleting;
            delete.push(route.clone());
        } else {
            let at = entry.last_used + quiet;
            next = Some(next.map_or(at, |next| next.min(at)));
        }
    }
    let names: std::collections::HashSet<&str> = seen.iter().map(|route| route.name.as_str()).collect();
    known.retain(|name, entry| {
        names.contains(name.as_str())
            || entry.phase == Phase::Deleting
            || now < entry.last_used + FORGET.max(quiet)
    });
    (delete, next)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const QUIET: Duration = Duration::from_secs(30);

    fn route(name: &str, uid: &str) -> Seen {
        Seen { name: name.to_owned(), uid: uid.to_owned(), host: format!("{name}.example"), class: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_is_swept_once_it_was_quiet_for_long_enough() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut known = HashMap::new();
        let routes = [route("a", "1"), route("b", "2")];
        let open = |seen: &Seen| seen.host == "b.example";
        // Left by an earlier process: quiet begins when it is first seen.
        assert_eq!(due(&routes, &mut known, open, at(0), QUIET), (vec![], Some(at(30))));
        assert_eq!(due(&routes, &mut known, open, at(29), QUIET), (vec![], Some(at(30))));
        let (delete, next) = due(&routes, &mut known, open, at(30), QUIET);
        assert_eq!((delete, next), (vec![route("a", "1")], None));
        // Not twice, while it is being deleted and while the cache still shows it.
        assert!(due(&routes, &mut known, open, at(31), QUIET).0.is_empty());
        known.insert("a".to_owned(), Known::new(Phase::Deleted("1".to_owned()), at(31)));
        assert!(due(&routes, &mut known, open, at(90), QUIET).0.is_empty());
        // The order of b ends at 91.
        let none = |_: &Seen| false;
        assert_eq!(due(&routes, &mut known, none, at(91), QUIET).1, Some(at(121)));
        assert_eq!(due(&routes, &mut known, none, at(121), QUIET).0, [route("b", "2")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_made_again_is_another() {
        let start = Instant::now();
        let mut known = HashMap::new();
        known.insert("a".to_owned(), Known::new(Phase::Deleted("1".to_owned()), start));
        let none = |_: &Seen| false;
        let later = start + QUIET;
        assert_eq!(due(&[route("a", "2")], &mut known, none, later, QUIET).0, [route("a", "2")]);
        // Nothing is remembered for ever.
        known.insert("b".to_owned(), Known::new(Phase::Made, start));
        due(&[], &mut known, none, start + FORGET, QUIET);
        assert!(!known.contains_key("b"));
    }
}
