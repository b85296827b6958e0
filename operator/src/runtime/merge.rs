//! Several namespaces' watches of one kind, merged into the events of a single cache.

use kube_runtime::{
    reflector::{Lookup, Store},
    watcher::Event,
};

/// Merges what several sources, of a namespace each, say. The cache counts as filled when every source has been
/// listed, or refused while others are listed; when one is listed anew later, the objects of the others stay.
#[derive(Debug)]
pub struct Merge<K> {
    sources: Vec<Source<K>>,
    filled: bool,
}

#[derive(Debug)]
struct Source<K> {
    /// The list that is being read, or waits for those of the others.
    listing: Vec<K>,
    known: Known,
    /// The objects' namespace, as far as any of them has been seen.
    namespace: Option<String>,
}

/// How far a source is, until the cache is filled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    No,
    Listed,
    /// It may not be read: as far as is known there is nothing.
    Refused,
}

impl<K> Merge<K>
where
    K: Lookup<DynamicType = ()> + Clone + 'static,
{
    /// For that many sources.
    pub fn new(sources: usize) -> Self {
        let source = || Source { listing: Vec::new(), known: Known::No, namespace: None };
        Self { sources: std::iter::repeat_with(source).take(sources).collect(), filled: false }
    }

    /// What becomes of an event of source number `from`, while the cache is `store`.
    pub fn next(&mut self, from: usize, event: Event<K>, store: &Store<K>) -> Vec<Event<K>> {
        let alone = self.sources.len() == 1;
        let Some(source) = self.sources.get_mut(from).filter(|_| !alone) else { return vec![event] };
        match event {
            Event::Init => {
                source.listing.clear();
                source.known = Known::No;
            }
            Event::InitApply(object) => source.add(object),
            Event::InitDone => {
                source.known = Known::Listed;
                return self.listed(from, store);
            }
            Event::Apply(object) if !self.filled => {
                source.remove(&object);
                source.add(object);
            }
            Event::Delete(object) if !self.filled => source.remove(&object),
            event => {
                if let Event::Apply(object) = &event {
                    source.namespace = object.namespace().map(Into::into);
                }
                return vec![event];
            }
        }
        Vec::new()
    }

    /// Source number `from` may not be read. What was known of it stays; else the others don't wait for it any longer.
    pub fn refused(&mut self, from: usize) -> Vec<Event<K>> {
        let Some(source) = self.sources.get_mut(from) else { return Vec::new() };
        if self.filled || source.known == Known::Listed {
            return Vec::new();
        }
        source.listing.clear();
        source.known = Known::Refused;
        self.fill()
    }

    /// The list of source number `from` is complete.
    fn listed(&mut self, from: usize, store: &Store<K>) -> Vec<Event<K>> {
        if !self.filled {
            return self.fill();
        }
        let Some(source) = self.sources.get_mut(from) else { return Vec::new() };
        let theirs = |object: &K| object.namespace().map(Into::into) != source.namespace;
        let state = store.state();
        let mut objects: Vec<K> =
            state.iter().filter(|object| theirs(object)).map(|object| (**object).clone()).collect();
        objects.append(&mut source.listing);
        whole(objects)
    }

    /// Fills the cache, once it can be.
    fn fill(&mut self) -> Vec<Event<K>> {
        let is = |known| move |source: &Source<K>| source.known == known;
        // Where every source refuses, it's Waxwing's rights that are missing.
        if self.sources.iter().any(is(Known::No)) || !self.sources.iter().any(is(Known::Listed)) {
            return Vec::new();
        }
        self.filled = true;
        whole(self.sources.iter_mut().flat_map(|source| std::mem::take(&mut source.listing)).collect())
    }
}

/// The events that make these objects the whole cache.
fn whole<K>(objects: Vec<K>) -> Vec<Event<K>> {
    let objects = objects.into_iter().map(Event::InitApply);
    [Event::Init].into_iter().chain(objects).chain([Event::InitDone]).collect()
}

impl<K: Lookup<DynamicType = ()>> Source<K> {
    fn add(&mut self, object: K) {
        self.namespace = object.namespace().map(Into::into);
        self.listing.push(object);
    }

    fn remove(&mut self, object: &K) {
        self.listing.retain(|other| other.name() != object.name());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use kube_runtime::reflector::store::Writer;

    use super::*;

    fn object(namespace: &str, name: &str) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    struct Cache {
        merge: Merge<ConfigMap>,
        writer: Writer<ConfigMap>,
    }

    impl Cache {
        fn new(sources: usize) -> Self {
            Self { merge: Merge::new(sources), writer: Writer::new(()) }
        }

        /// Whether the event changed anything.
        fn hears(&mut self, from: usize, event: Event<ConfigMap>) -> bool {
            let events = self.merge.next(from, event, &self.writer.as_reader());
            self.applies(&events)
        }

        /// Whether that changed anything.
        fn is_refused(&mut self, from: usize) -> bool {
            let events = self.merge.refused(from);
            self.applies(&events)
        }

        fn applies(&mut self, events: &[Event<ConfigMap>]) -> bool {
            for event in events {
                self.writer.apply_watcher_event(event);
            }
            !events.is_empty()
        }

        fn lists(&mut self, from: usize, namespace: &str, names: &[&str]) -> bool {
            self.hears(from, Event::Init);
            for name in names {
                self.hears(from, Event::InitApply(object(namespace, name)));
            }
            self.hears(from, Event::InitDone)
        }

        fn holds(&self) -> Vec<String> {
            let state = self.writer.as_reader().state();
            let name = |one: &std::sync::Arc<ConfigMap>| {
                let ObjectMeta { namespace, name, .. } = &one.metadata;
                format!("{}/{}", namespace.as_deref().unwrap(), name.as_deref().unwrap())
            };
            let mut names: Vec<String> = state.iter().map(name).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn the_cache_is_filled_when_every_namespace_is_listed() {
        let mut cache = Cache::new(2);
        assert!(!cache.lists(0, "a", &["1", "2"]));
        assert!(!cache.hears(0, Event::Apply(object("a", "3"))));
        assert!(!cache.hears(0, Event::Delete(object("a", "1"))));
        assert!(cache.holds().is_empty());
        assert!(cache.lists(1, "b", &["1"]));
        assert_eq!(cache.holds(), ["a/2", "a/3", "b/1"]);
    }

    #[test]
    fn a_namespace_that_is_listed_anew_leaves_the_others_as_they_are() {
        let mut cache = Cache::new(2);
        cache.lists(0, "a", &["1", "2"]);
        cache.lists(1, "b", &["1"]);
        cache.hears(0, Event::Init);
        cache.hears(0, Event::InitApply(object("a", "2")));
        assert!(cache.hears(1, Event::Apply(object("b", "2"))));
        assert!(cache.hears(0, Event::InitDone));
        assert_eq!(cache.holds(), ["a/2", "b/1", "b/2"]);
        cache.lists(0, "a", &[]);
        assert_eq!(cache.holds(), ["b/1", "b/2"]);
        cache.hears(0, Event::Apply(object("a", "9")));
        cache.lists(0, "a", &[]);
        assert_eq!(cache.holds(), ["b/1", "b/2"]);
    }

    #[test]
    fn a_list_that_broke_off_before_the_cache_was_filled_is_read_again() {
        let mut cache = Cache::new(2);
        cache.lists(0, "a", &["1"]);
        cache.hears(0, Event::Init);
        assert!(!cache.lists(1, "b", &["1"]));
        cache.hears(0, Event::InitApply(object("a", "2")));
        assert!(cache.hears(0, Event::InitDone));
        assert_eq!(cache.holds(), ["a/2", "b/1"]);
    }

    #[test]
    fn one_that_may_not_be_read_counts_as_empty_until_it_is_listed() {
        let mut cache = Cache::new(3);
        assert!(!cache.is_refused(0));
        assert!(!cache.lists(1, "b", &["1"]));
        assert!(cache.is_refused(2));
        assert_eq!(cache.holds(), ["b/1"]);
        assert!(!cache.is_refused(0));
        assert!(cache.lists(0, "a", &["1"]));
        assert_eq!(cache.holds(), ["a/1", "b/1"]);
        // Later it may be its rights alone that are gone.
        assert!(!cache.is_refused(0));
        assert_eq!(cache.holds(), ["a/1", "b/1"]);
    }

    #[test]
    fn what_was_listed_before_the_cache_was_filled_stays_when_it_is_refused() {
        let mut cache = Cache::new(2);
        cache.lists(0, "a", &["1"]);
        assert!(!cache.is_refused(0));
        assert!(cache.lists(1, "b", &["1"]));
        assert_eq!(cache.holds(), ["a/1", "b/1"]);
    }

    #[test]
    fn where_all_are_refused_the_cache_is_not_filled() {
        for sources in [1, 2] {
            let mut cache = Cache::new(sources);
            assert!(!(0..sources).any(|from| cache.is_refused(from)), "{sources}");
        }
    }

    #[test]
    fn one_source_is_passed_through() {
        let mut cache = Cache::new(1);
        assert!(cache.hears(0, Event::Init));
        assert!(cache.hears(0, Event::InitApply(object("a", "1"))));
        assert!(cache.hears(0, Event::InitDone));
        assert_eq!(cache.holds(), ["a/1"]);
    }
}
