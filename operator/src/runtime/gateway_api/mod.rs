//! What the Gateway API says of hosts: a cache of names alone, of every kind that has some.
//!
//! A cluster may lack the Gateway API, get it later, or not let Waxwing read it. So nothing is watched until
//! [`GatewayApi::look`] finds that it can be, and a cluster without it costs one request now and then.

mod source;

use std::{collections::BTreeSet, convert::Infallible, fmt, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, future::join_all, stream};
use kube::{
    Api, Client,
    api::{ApiResource, GroupVersionKind},
    core::DeserializeGuard,
};
use kube_runtime::watcher::{self, watcher};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};
use waxwing_api::labels;

use self::source::{Object, Source};
use super::{
    client::{CALL_TIMEOUT, CallError, at_once},
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
        let unseen = || inner.sources.iter().filter(|source| !source.is_seen());
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
    match at_once(format!("discover {version}"), client.list_api_group_resources(&version)).await {
        Ok(list) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
        Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

    use super::*;
    use crate::runtime::shutdown::Phases;

    /// An API server that gets `HTTPRoute`s one day, and what it has been asked.
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
}
