//! The watch of one kind: begun when somebody asks for it, and its cache.

use std::{
    borrow::Cow,
    collections::HashMap,
    pin::pin,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    api::ApiResource,
    core::{DeserializeGuard, DynamicResourceScope},
};
use kube_runtime::{
    utils::Backoff,
    watcher::{self, Event},
};
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{Hosts, Kind, Routing};
use crate::runtime::{client::explain_watch, reconnect::Reconnect};

/// One kind, in one namespace or in all.
pub(super) struct Source {
    pub(super) kind: Kind,
    /// By namespace and name.
    objects: RwLock<Objects>,
    sight: watch::Sender<Sight>,
    wanted: Notify,
}

pub(super) type Objects = HashMap<(String, String), Arc<Routing>>;

/// How far a source is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sight {
    /// Nobody has asked for it, or it isn't served, or may not be read.
    Blind,
    /// Somebody waits for it.
    Looking,
    /// The cache is filled.
    Seen,
}

impl Source {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            objects: RwLock::default(),
            sight: watch::Sender::new(Sight::Blind),
            wanted: Notify::new(),
        }
    }

    /// Whether its cache is filled, and kept so.
    pub(super) fn is_seen(&self) -> bool {
        *self.sight.borrow() == Sight::Seen
    }

    /// Waits until it is known whether it can be watched, and its cache is filled if it can.
    pub(super) async fn look(&self) {
        let mut sight = self.sight.subscribe();
        let asked = self.sight.send_if_modified(|sight| {
            let blind = *sight == Sight::Blind;
            if blind {
                *sight = Sight::Looking;
            }
            blind
        });
        if asked {
            self.wanted.notify_one();
        }
        // The sender is our own.
        let _ = sight.wait_for(|sight| *sight != Sight::Looking).await;
    }

    /// Fills the cache from `events` once somebody has asked for it. What can't be watched waits to be asked for again.
    pub(super) async fn follow(
        &self,
        events: impl Stream<Item = watcher::Result<Event<DeserializeGuard<Object>>>>,
        changed: &watch::Sender<()>,
    ) {
        let kind = self.kind.name();
        let mut events = pin!(events);
        let mut pauses = Reconnect::default();
        let mut listing = Objects::new();
        let mut told = false;
        self.wanted.notified().await;
        while let Some(event) = events.next().await {
            let news = match event {
                Ok(Event::Init) => {
                    listing.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listing.extend(self.understood(object));
                    continue;
                }
                Ok(Event::InitDone) => {
                    let news = self.replace(std::mem::take(&mut listing));
                    self.sight.send_replace(Sight::Seen);
                    news
                }
                Ok(Event::Apply(object)) => self.understood(object).is_some_and(|(key, routing)| {
                    let before = self.write(|objects| objects.insert(key, Arc::clone(&routing)));
                    before.as_ref() != Some(&routing)
                }),
                Ok(Event::Delete(object)) => {
                    let meta = match &object.0 {
                        Ok(object) => &object.metadata,
                        Err(invalid) => &invalid.metadata,
                    };
                    self.write(|objects| objects.remove(&key(meta))).is_some()
                }
                Err(error) => {
                    let seen = self.is_seen();
                    match status_of(&error) {
                        // Its CustomResourceDefinition is gone, and all objects with it.
                        Some(404) => {
                            tracing::debug!(kind, "not served");
                            if self.replace(Objects::new()) {
                                changed.send_replace(());
                            }
                        }
                        Some(403) if !seen => {
                            if !std::mem::replace(&mut told, true) {
                                tracing::warn!(
                                    kind,
                                    error = explain_watch(&error),
                                    "Waxwing may not list these, so a name that they alone route counts as free; give \
                                     it the rights that the chart and deploy/rbac.yaml set up"
                                );
                            }
                        }
                        _ => {
                            let error = explain_watch(&error);
                            tracing::warn!(kind, error, "the watch was interrupted; trying again");
                            sleep(pauses.next().unwrap_or(Reconnect::LONGEST)).await;
                            continue;
                        }
                    }
                    self.sight.send_replace(Sight::Blind);
                    self.wanted.notified().await;
                    continue;
                }
            };
            pauses.reset();
            if news {
                changed.send_replace(());
            }
        }
    }

    /// True if that changes anything.
    fn replace(&self, objects: Objects) -> bool {
        self.write(|known| {
            let news = *known != objects;
            *known = objects;
            news
        })
    }

    fn write<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        change(&mut self.objects.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn objects(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// None if it doesn't parse: one object must not stop the others.
    fn understood(&self, object: DeserializeGuard<Object>) -> Option<((String, String), Arc<Routing>)> {
        let object = match object.0 {
            Ok(object) => object,
            Err(invalid) => {
                let (kind, (namespace, name)) = (self.kind.name(), key(&invalid.metadata));
                let error = invalid.error;
                tracing::warn!(kind, namespace, name, error, "an object doesn't parse and is left out");
                return None;
            }
        };
        let key = key(&object.metadata);
        let (namespace, name) = key.clone();
        let mut hosts = object.spec;
        if !hosts.hostnames.is_empty() {
            hosts.parent_refs = Vec::new();
        }
        Some((key, Arc::new(Routing { kind: self.kind, namespace, name, hosts })))
    }
}

fn key(meta: &ObjectMeta) -> (String, String) {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// What the API server answered.
fn status_of(error: &watcher::Error) -> Option<u16> {
    use watcher::Error::{InitialListFailed, WatchError, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Any of the kinds. The crates of the Gateway API's types are for other releases of kube, and all of their fields
/// would be parsed.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Object {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Hosts,
}

impl Resource for Object {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use kube::core::Status;
    use serde_json::json;
    use tokio::task::yield_now;

    use super::*;

    type News = watcher::Result<Event<DeserializeGuard<Object>>>;

    /// A source that follows what a test says.
    struct Told {
        source: Arc<Source>,
        say: UnboundedSender<News>,
        changes: watch::Receiver<()>,
    }

    impl Told {
        fn new() -> Self {
            let source = Arc::new(Source::new(Kind::HttpRoute));
            let (say, events) = unbounded();
            let (changed, changes) = watch::channel(());
            let follower = Arc::clone(&source);
            tokio::spawn(async move { follower.follow(events, &changed).await });
            Self { source, say, changes }
        }

        fn say(&self, news: News) {
            self.say.unbounded_send(news).unwrap();
        }

        fn list(&self, objects: &[DeserializeGuard<Object>]) {
            self.say(Ok(Event::Init));
            for object in objects {
                self.say(Ok(Event::InitApply(object.clone())));
            }
            self.say(Ok(Event::InitDone));
        }

        fn refuse(&self, code: u16) {
            let status = Status::failure("no", "no").with_code(code).boxed();
            self.say(Ok(Event::Init));
            self.say(Err(watcher::Error::InitialListFailed(kube::Error::Api(status))));
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = self.source.objects().values().map(|one| one.name.clone()).collect();
            names.sort();
            names
        }

        /// Whether there was news, once everything said has been heard.
        async fn news(&mut self) -> bool {
            for _ in 0..20 {
                yield_now().await;
            }
            let news = self.changes.has_changed().unwrap();
            self.changes.mark_unchanged();
            news
        }
    }

    fn route(name: &str, host: &str) -> DeserializeGuard<Object> {
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"hostnames": [host], "parentRefs": [{"name": "public"}], "rules": [{}]},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn nothing_is_read_until_somebody_looks_and_then_all_is() {
        let mut told = Told::new();
        told.list(&[route("a", "a.example"), route("b", "b.example")]);
        assert!(!told.news().await);
        assert!(told.names().is_empty());
        told.source.look().await;
        assert_eq!(told.names(), ["a", "b"]);
        assert!(told.news().await);

        told.say(Ok(Event::Apply(route("a", "a.example"))));
        assert!(!told.news().await, "its status has changed, or its rules");
        told.say(Ok(Event::Apply(route("a", "moved.example"))));
        assert!(told.news().await);
        told.say(Ok(Event::Delete(route("b", "b.example"))));
        assert!(told.news().await);
        told.list(&[route("c", "c.example")]);
        assert!(told.news().await);
        assert_eq!(told.names(), ["c"]);
    }

    #[tokio::test]
    async fn what_can_not_be_read_is_tried_again_when_somebody_looks() {
        for code in [403, 404] {
            let told = Told::new();
            told.refuse(code);
            told.source.look().await;
            assert_eq!(*told.source.sight.borrow(), Sight::Blind);
            told.list(&[route("a", "a.example")]);
            told.source.look().await;
            assert_eq!(told.names(), ["a"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out_with_what_is_known() {
        let mut told = Told::new();
        told.refuse(500);
        told.list(&[route("a", "a.example")]);
        told.source.look().await;
        assert_eq!(told.names(), ["a"]);
        // An API server that has just started knows no rights yet.
        told.refuse(403);
        told.news().await;
        assert_eq!(told.names(), ["a"]);
        sleep(Reconnect::LONGEST).await;
        told.list(&[]);
        assert!(told.news().await);
        assert!(told.names().is_empty());
    }

    #[tokio::test]
    async fn a_kind_that_is_removed_takes_its_hosts_along() {
        let mut told = Told::new();
        told.list(&[route("a", "a.example")]);
        told.source.look().await;
        told.news().await;
        told.refuse(404);
        assert!(told.news().await);
        assert!(told.names().is_empty());
        assert_eq!(*told.source.sight.borrow(), Sight::Blind);
    }

    #[tokio::test]
    async fn an_object_that_does_not_parse_stops_no_other() {
        let told = Told::new();
        let odd = json!({"metadata": {"namespace": "shop", "name": "odd"}, "spec": {"hostnames": 7}});
        told.list(&[serde_json::from_value(odd).unwrap(), route("a", "a.example")]);
        told.source.look().await;
        assert_eq!(told.names(), ["a"]);
    }

    #[test]
    fn parents_are_kept_where_hosts_come_from_them() {
        let source = Source::new(Kind::HttpRoute);
        let (_, named) = source.understood(route("a", "a.example")).unwrap();
        assert!(named.hosts.parent_refs.is_empty());
        let nameless = json!({
            "metadata": {"namespace": "shop", "name": "a"},
            "spec": {"parentRefs": [{"name": "public", "namespace": "edge", "sectionName": "shop"}]},
        });
        let (_, nameless) = source.understood(serde_json::from_value(nameless).unwrap()).unwrap();
        assert_eq!(nameless.hosts.parent_refs[0].section_name.as_deref(), Some("shop"));
    }
}
