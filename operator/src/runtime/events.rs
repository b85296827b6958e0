//! Events (events.k8s.io/v1): one object per (object, reason, note); repeats make it a series instead of a new one.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::client::bounded;

/// Who says it, in `reportingController`.
const CONTROLLER: &str = "waxwing.dev/waxwing";
/// Entries of the cache that finds repeats; the one seen longest ago makes room.
const CACHE: usize = 1024;
/// A repeat after this long is a new Event: the API server has dropped the old one by then.
const FORGET: SignedDuration = SignedDuration::from_mins(45);
/// A series is written again at most this often, so that a loop of failures costs few writes.
const REFRESH: SignedDuration = SignedDuration::from_mins(5);
/// The API's limits, in bytes.
const MAX_NOTE: usize = 1024;
const MAX_REASON: usize = 128;

/// Whether someone should look.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EventKind {
    /// For the record.
    Normal,
    /// Something isn't as it should be.
    Warning,
}

/// Publishes Events. Clones share one cache.
#[derive(Clone)]
pub struct Events {
    client: Client,
    instance: String,
    seen: Arc<Mutex<HashMap<u64, Seen>>>,
}

#[derive(Clone, Debug)]
struct Seen {
    name: String,
    count: i32,
    last: Timestamp,
    written: Timestamp,
}

/// What one publication comes to.
#[derive(Debug, Eq, PartialEq)]
enum Write {
    Create { name: String },
    Series { name: String, count: i32 },
    Nothing,
}

impl Events {
    /// `instance` names this process: the pod's name.
    pub fn new(client: Client, instance: impl Into<String>) -> Self {
        Self { client, instance: instance.into(), seen: Arc::default() }
    }

    /// Says `note` about `object`. Notes hold no clocks, counters or secrets: equal ones are joined.
    /// Takes at most one call's time-out; a failure is logged, never returned.
    pub async fn publish(&self, object: &ObjectReference, kind: EventKind, reason: &str, note: &str) {
        let now = Timestamp::now();
        let (reason, note) = (cut(reason, MAX_REASON), cut(note, MAX_NOTE));
        let key = key(object, kind, reason, note);
        let name = object.name.as_deref().unwrap_or("unnamed");
        let write = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            plan(&mut seen, key, name, now)
        };
        let events: Api<Event> =
            Api::namespaced(self.client.clone(), object.namespace.as_deref().unwrap_or("default"));
        let what =
            format!("publish the Event {reason} of {} {name}", object.kind.as_deref().unwrap_or("object"));
        let result = match write {
            Write::Nothing => return,
            Write::Series { name, count } => {
                let series = json!({"series": {"count": count, "lastObservedTime": MicroTime(now)}});
                bounded(what, events.patch(&name, &PatchParams::default(), &Patch::Merge(&series))).await
            }
            Write::Create { name } => {
                let event = event(object, kind, reason, note, name, &self.instance, now);
                bounded(what, events.create(&PostParams::default(), &event)).await
            }
        };
        if let Err(error) = result {
            // Forgotten, so that the next one tries from the start (the old object may be gone).
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            tracing::debug!(%error, "an Event got lost");
        }
    }
}

/// What an Event, or an ownerReference, needs to say which object it is about.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

fn plan(seen: &mut HashMap<u64, Seen>, key: u64, object: &str, now: Timestamp) -> Write {
    if let Some(entry) = seen.get_mut(&key)
        && now.duration_since(entry.last) < FORGET
    {
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        // The second tells that it is a series; later ones only keep it fresh.
        if entry.count == 2 || now.duration_since(entry.written) >= REFRESH {
            entry.written = now;
            return Write::Series { name: entry.name.clone(), count: entry.count };
        }
        return Write::Nothing;
    }
    if seen.len() >= CACHE && !seen.contains_key(&key) {
        let oldest = seen.iter().min_by_key(|(_, entry)| entry.last).map(|(key, _)| *key);
        if let Some(oldest) = oldest {
            seen.remove(&oldest);
        }
    }
    // Object names may have 253 characters, and so may the Event's, suffix included.
    let name = format!("{}.{:x}", cut(object, 253 - 34), now.as_nanosecond());
    seen.insert(key, Seen { name: name.clone(), count: 1, last: now, written: now });
    Write::Create { name }
}

fn event(
    object: &ObjectReference,
    kind: EventKind,
    reason: &str,
    note: &str,
    name: String,
    instance: &str,
    now: Timestamp,
) -> Event {
    Event {
        action: Some(reason.to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        note: Some(note.to_owned()),
        reason: Some(reason.to_owned()),
        regarding: Some(object.clone()),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(cut(instance, 128).to_owned()),
        type_: Some(match kind {
            EventKind::Normal => "Normal".to_owned(),
            EventKind::Warning => "Warning".to_owned(),
        }),
        ..Event::default()
    }
}

fn key(object: &ObjectReference, kind: EventKind, reason: &str, note: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    (&object.kind, &object.namespace, &object.name, &object.uid, kind, reason, note).hash(&mut hasher);
    hasher.finish()
}

/// At most `max` bytes, at a character's end.
fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    #[test]
    fn repeats_become_a_series_with_few_writes() {
        let mut seen = HashMap::new();
        let Write::Create { name } = plan(&mut seen, 1, "shop", at(0)) else { panic!("not created") };
        assert!(name.starts_with("shop."));
        assert_eq!(plan(&mut seen, 1, "shop", at(1)), Write::Series { name: name.clone(), count: 2 });
        assert_eq!(plan(&mut seen, 1, "shop", at(2)), Write::Nothing);
        assert_eq!(plan(&mut seen, 1, "shop", at(6)), Write::Series { name, count: 4 });
        assert!(matches!(plan(&mut seen, 1, "shop", at(60)), Write::Create { .. }));
        assert!(matches!(plan(&mut seen, 2, "shop", at(60)), Write::Create { .. }));
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut seen = HashMap::new();
        for n in 0..u64::try_from(CACHE).unwrap() + 5 {
            plan(&mut seen, n, "shop", at(i64::try_from(n).unwrap()));
        }
        assert_eq!(seen.len(), CACHE);
        assert!(!seen.contains_key(&0) && seen.contains_key(&5));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("grün", 3), "gr");
        let name = "a".repeat(253);
        let mut seen = HashMap::new();
        let Write::Create { name } = plan(&mut seen, 1, &name, at(0)) else { panic!("not created") };
        assert!(name.len() <= 253);
    }
}
