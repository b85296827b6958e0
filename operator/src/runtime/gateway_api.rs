//! What the Gateway API says of hosts: a cache of names alone, of every kind that has some.
//!
//! A cluster may lack the Gateway API, get it later, or not let Waxwing read it. So nothing is watched until
//! [`GatewayApi::look`] finds that it can be, and a cluster without it costs one request now and then.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    fmt,
    pin::pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::{Stream, StreamExt, future::join_all, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, GroupVersionKind},
    core::{DeserializeGuard, DynamicResourceScope},
};
use kube_runtime::{
    utils::Backoff,
    watcher::{self, Event, watcher},
};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, Notify, watch},
    time::{Instant, sleep, timeout},
};
use waxwing_api::labels;

use super::{
    client::{CALL_TIMEOUT, CallError, Reconnect, bounded},
    shutdown::Tasks,
    watch::Scope,
};

const GROUP: &str = "gateway.networking.k8s.io";
const VERSION: &str = "v1";
/// How soon what couldn't be watched is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A kind that names hosts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Names them in its listeners.
    Gateway,
    /// A route of gRPC.
    GrpcRoute,
    /// A route of HTTP.
    HttpRoute,
    /// Listeners that a tenant adds to a Gateway.
    ListenerSet,
    /// A route of TLS, whose backend ends it.
    TlsRoute,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Gateway, Self::GrpcRoute, Self::HttpRoute, Self::ListenerSet, Self::TlsRoute];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::GrpcRoute => "GRPCRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::ListenerSet => "ListenerSet",
            Self::TlsRoute => "TLSRoute",
        }
    }

    const fn plural(self) -> &'static str {
        match self {
            Self::Gateway => "gateways",
            Self::GrpcRoute => "grpcroutes",
            Self::HttpRoute => "httproutes",
            Self::ListenerSet => "listenersets",
            Self::TlsRoute => "tlsroutes",
        }
    }
}

/// What one object says of hosts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Routing {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it says.
    pub hosts: Hosts,
}

/// The part of a spec that is about hosts, of any kind.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Hosts {
    /// A route's hosts, which may be wildcards. Without any it serves those of its listeners.
    pub hostnames: Vec<String>,
    /// Where a route without hosts of its own has them from.
    pub parent_refs: Vec<Parent>,
    /// The listeners of a Gateway or a `ListenerSet`.
    pub listeners: Vec<Listener>,
}

/// What a route attaches to.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Parent {
    /// Its kind. Default: Gateway.
    pub kind: Option<String>,
    /// Its namespace. Default: the route's.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// One listener of it.
    pub section_name: Option<String>,
    /// Its listeners of one port.
    pub port: Option<i32>,
}

/// A listener.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: i32,
    /// `HTTP`, `HTTPS`, `TLS` and others.
    pub protocol: String,
    /// Its host, which may be a wildcard. Default: every host.
    pub hostname: Option<String>,
}

/// The cache. Clones are handles to the same one.
#[derive(Clone)]
pub struct GatewayApi {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    sources: Vec<Source>,
    /// When it was last found out what can be watched.
    looked: Mutex<Option<Instant>>,
    changed: watch::Sender<()>,
}

impl GatewayApi {
    /// Watches, from the first look on, what `scope` has. Waxwing's own routes are left out.
    pub fn start(client: &Client, scope: &Scope, tasks: &Tasks) -> Self {
        let mut sources = Vec::new();
        let mut events = Vec::new();
        for kind in Kind::ALL {
            let gvk = GroupVersionKind::gvk(GROUP, VERSION, kind.name());
            let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural());
            let apis: Vec<Api<DeserializeGuard<Object>>> = match scope {
                Scope::Cluster => vec![Api::all_with(client.clone(), &resource)],
                Scope::Namespaces(some) => some
                    .iter()
                    .map(|namespace| Api::namespaced_with(client.clone(), namespace, &resource))
                    .collect(),
            };
            for api in apis {
                sources.push(Source::new(kind));
                let others = format!("{}!={}", labels::COMPONENT, labels::COMPONENT_ROUTE);
                events.push(watcher(api, watcher::Config::default().labels(&others)).boxed());
            }
        }
        let looked = Mutex::default();
        let inner =
            Arc::new(Inner { client: client.clone(), sources, looked, changed: watch::Sender::new(()) });
        let this = Self { inner: Arc::clone(&inner) };
        let stop = tasks.token();
        tasks.spawn("Gateway API", async move {
            let each = inner.sources.iter().zip(events);
            let following = join_all(each.map(|(source, events)| source.follow(events, &inner.changed)));
            tokio::select! {
                _ = following => {}
                () = stop.cancelled() => {}
            }
            Ok::<_, Infallible>(())
        });
        this
    }

    /// Sees to it that what can be watched is watched, and in the cache. Costs nothing once all of it is; else one
    /// request in [`LOOK_AGAIN`], however many ask.
    pub async fn look(&self) -> Result<(), CallError> {
        timeout(CALL_TIMEOUT, self.look_once())
            .await
            .unwrap_or_else(|_| Err(CallError::TimedOut { what: "read the Gateway API's routes".to_owned() }))
    }

    /// What every object says.
    pub fn all(&self) -> Vec<Arc<Routing>> {
        let sources = self.inner.sources.iter();
        sources.flat_map(|source| source.objects().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Ticks when a host may have come, gone or moved.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + use<> {
        stream::unfold(self.inner.changed.subscribe(), |mut changed| async move {
            changed.changed().await.ok().map(|()| ((), changed))
        })
    }

    async fn look_once(&self) -> Result<(), CallError> {
        let inner = &self.inner;
        let unseen = || inner.sources.iter().filter(|source| *source.sight.borrow() != Sight::Seen);
        if unseen().next().is_none() {
            return Ok(());
        }
        let mut looked = inner.looked.lock().await;
        if looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return Ok(());
        }
        let served = served(&inner.client).await?;
        join_all(unseen().filter(|source| served.contains(source.kind.plural())).map(Source::look)).await;
        *looked = Some(Instant::now());
        Ok(())
    }
}

impl fmt::Debug for GatewayApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayApi").finish_non_exhaustive()
    }
}

/// The resources that the API server has of the Gateway API. Anyone may ask for them, so that a right to list that is
/// missing isn't taken for a Gateway API that is.
async fn served(client: &Client) -> Result<BTreeSet<String>, CallError> {
    let version = format!("{GROUP}/{VERSION}");
    match bounded(format!("discover {version}"), client.list_api_group_resources(&version)).await {
        Ok(list) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
        Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// One kind, in one namespace or in all.
struct Source {
    kind: Kind,
    /// By namespace and name.
    objects: RwLock<Objects>,
    sight: watch::Sender<Sight>,
    wanted: Notify,
}

type Objects = HashMap<(String, String), Arc<Routing>>;

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
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            objects: RwLock::default(),
            sight: watch::Sender::new(Sight::Blind),
            wanted: Notify::new(),
        }
    }

    /// Waits until it is known whether it can be watched, and its cache is filled if it can.
    async fn look(&self) {
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
    async fn follow(
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
                    let seen = *self.sight.borrow() == Sight::Seen;
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
                                    %error,
                                    "Waxwing may not list these, so a name that they alone route counts as free; give \
                                     it the rights that the chart and deploy/rbac.yaml set up"
                                );
                            }
                        }
                        _ => {
                            tracing::warn!(kind, %error, "the watch was interrupted; trying again");
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

    fn objects(&self) -> std::sync::RwLockReadGuard<'_, Objects> {
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
struct Object {
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

    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::http::{Request, Response};
    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use kube::{client::Body, core::Status};
    use serde_json::json;
    use tokio::task::{JoinHandle, yield_now};
    use tower::service_fn;

    use super::*;
    use crate::runtime::shutdown::Phases;

    type News = watcher::Result<Event<DeserializeGuard<Object>>>;

    /// A source that follows what a test says.
    struct Told {
        source: Arc<Source>,
        say: UnboundedSender<News>,
        changes: watch::Receiver<()>,
        _following: JoinHandle<()>,
    }

    impl Told {
        fn new() -> Self {
            let source = Arc::new(Source::new(Kind::HttpRoute));
            let (say, events) = unbounded();
            let (changed, changes) = watch::channel(());
            let follower = Arc::clone(&source);
            let _following = tokio::spawn(async move { follower.follow(events, &changed).await });
            Self { source, say, changes, _following }
        }

        fn say(&self, news: News) {
            self.say.unbounded_send(news).unwrap();
        }

        fn list(&self, objects: &[DeserializeGuard<Object>]) {
            self.say(Ok(Event::Init));
            objects.iter().for_each(|object| self.say(Ok(Event::InitApply(object.clone()))));
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

    /// An API server that gets HTTPRoutes one day, and what it has been asked.
    #[derive(Clone, Default)]
    struct ApiServer {
        installed: Arc<AtomicBool>,
        asked: Arc<std::sync::Mutex<Vec<String>>>,
    }

    impl ApiServer {
        fn client(&self) -> Client {
            let this = self.clone();
            let service = service_fn(move |request: Request<Body>| {
                let this = this.clone();
                async move { this.answer(&request.uri().to_string()).await }
            });
            Client::new(service, "default")
        }

        async fn answer(&self, uri: &str) -> Result<Response<Body>, Infallible> {
            if uri.contains("watch=true") {
                return std::future::pending().await;
            }
            let path = uri.trim_start_matches("/apis/gateway.networking.k8s.io/v1");
            self.asked.lock().unwrap().push(path.split('?').next().unwrap_or_default().to_owned());
            let installed = self.installed.load(Ordering::SeqCst);
            let resource = json!({"name": "httproutes", "kind": "HTTPRoute", "namespaced": true, "singularName": "", "verbs": []});
            let route =
                json!({"metadata": {"namespace": "shop", "name": "a"}, "spec": {"hostnames": ["a.example"]}});
            let (code, body) = match path {
                "" if installed => (200, json!({"groupVersion": "", "resources": [resource]})),
                path if installed && path.starts_with("/httproutes?") => {
                    (200, json!({"metadata": {"resourceVersion": "1"}, "items": [route]}))
                }
                _ => (404, json!({"status": "Failure", "code": 404, "message": "", "reason": "NotFound"})),
            };
            Ok(Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap())
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut *self.asked.lock().unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_look_it_is_asked_once_and_what_is_installed_later_is_found() {
        let server = ApiServer::default();
        let (phases, _supervisor) = Phases::new();
        let api = GatewayApi::start(&server.client(), &Scope::Cluster, &phases.base);
        let looks =
            || async { join_all((0..100).map(|_| api.look())).await.into_iter().collect::<Result<(), _>>() };
        looks().await.unwrap();
        assert_eq!(server.asked(), [""]);

        server.installed.store(true, Ordering::SeqCst);
        looks().await.unwrap();
        assert_eq!(server.asked(), [""; 0], "just asked");
        tokio::time::advance(LOOK_AGAIN).await;
        looks().await.unwrap();
        assert_eq!(server.asked(), ["", "/httproutes"]);
        assert_eq!(
            api.all().iter().map(|one| one.hosts.hostnames.join(",")).collect::<Vec<_>>(),
            ["a.example"]
        );
        looks().await.unwrap();
        assert_eq!(server.asked(), [""; 0]);
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
