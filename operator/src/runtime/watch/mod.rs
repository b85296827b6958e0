//! Shared watches: one stream and one pruned cache per kind, and changes for as many readers as there are.
//!
//! kube-runtime's own shared streams leave deletions out and let one slow reader hold back all others. Here each
//! reader has a bounded buffer; one that falls behind is told to look at everything again.

mod source;
mod trouble;

use std::{fmt::Debug, future::Future, sync::Arc};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Secret},
        networking::v1::{Ingress, IngressClass},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client, Resource,
    core::{DeserializeGuard, PartialObjectMeta},
};
use kube_runtime::{
    reflector::{Lookup, ObjectRef, Store, store::Writer},
    watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::broadcast;
use waxwing_api::{Certificate, ClusterIssuer, Issuer, labels};

pub use self::source::Scope;
use self::{
    source::{Source, cluster, namespaced},
    trouble::Trouble,
};
use super::{gateway_api::GatewayApi, merge::Merge, reconnect::reconnecting, shutdown::Tasks};

/// Changes that a reader may lag behind before it has to look at everything again.
const BUFFER: usize = 1024;

/// Every watch of the process.
#[derive(Clone, Debug)]
pub struct Watches {
    /// Certificates of the watched namespaces.
    pub certificates: Watch<Certificate>,
    /// Cluster issuers. None where only some namespaces are watched; so for the other kinds without a namespace.
    pub cluster_issuers: Watch<ClusterIssuer>,
    /// Hosts of Gateways and of their routes in the watched namespaces, where there are any; see [`GatewayApi::look`].
    pub gateway_api: GatewayApi,
    /// Ingress classes.
    pub ingress_classes: Watch<IngressClass>,
    /// Ingresses of the watched namespaces and of Waxwing's own, without status. The solver's own routes are among them.
    pub ingresses: Watch<Ingress>,
    /// Issuers of the watched namespaces.
    pub issuers: Watch<Issuer>,
    /// Namespaces: names and labels.
    pub namespaces: Watch<PartialObjectMeta<Namespace>>,
    /// Order Secrets of Waxwing's own namespace, without the journal entry (it holds a private key).
    pub order_secrets: Watch<Secret>,
    /// Target Secrets that Waxwing wrote: metadata alone.
    pub target_secrets: Watch<PartialObjectMeta<Secret>>,
}

impl Watches {
    /// Starts all watches as supervised tasks.
    pub fn start(client: &Client, own_namespace: &str, scope: &Scope, tasks: &Tasks) -> Self {
        let any = watcher::Config::default;
        let component = |component: &str| any().labels(&format!("{}={component}", labels::COMPONENT));
        // The routes stand there.
        let with_own = match scope {
            Scope::Cluster => Scope::Cluster,
            Scope::Namespaces(some) => {
                Scope::Namespaces(some.iter().cloned().chain([own_namespace.to_owned()]).collect())
            }
        };
        let own = Scope::Namespaces([own_namespace.to_owned()].into());
        Self {
            certificates: Watch::start(
                "Certificates",
                namespaced(client, scope, own_namespace),
                &any(),
                |_| (),
                tasks,
            ),
            cluster_issuers: Watch::start("ClusterIssuers", cluster(client, scope), &any(), |_| (), tasks),
            gateway_api: GatewayApi::start(client, scope, tasks),
            ingress_classes: Watch::start("IngressClasses", cluster(client, scope), &any(), |_| (), tasks),
            ingresses: Watch::start(
                "Ingresses",
                namespaced(client, &with_own, own_namespace),
                &any(),
                |ingress: &mut Ingress| ingress.status = None,
                tasks,
            ),
            issuers: Watch::start("Issuers", namespaced(client, scope, own_namespace), &any(), |_| (), tasks),
            namespaces: Watch::start("Namespaces", cluster(client, scope), &any(), |_| (), tasks),
            order_secrets: Watch::start(
                "order Secrets",
                namespaced(client, &own, own_namespace),
                &component(labels::COMPONENT_ORDER),
                |secret: &mut Secret| {
                    if let Some(data) = &mut secret.data {
                        data.retain(|key, _| key != labels::ORDER_ENTRY);
                    }
                },
                tasks,
            ),
            target_secrets: Watch::start(
                "target Secrets",
                namespaced(client, scope, own_namespace),
                &component(labels::COMPONENT_CERTIFICATE),
                |_| (),
                tasks,
            ),
        }
    }

    /// Returns when every cache has been filled once, but for [`Watches::gateway_api`].
    pub async fn wait_until_synced(&self) {
        tokio::join!(
            self.certificates.wait_until_synced(),
            self.cluster_issuers.wait_until_synced(),
            self.ingress_classes.wait_until_synced(),
            self.ingresses.wait_until_synced(),
            self.issuers.wait_until_synced(),
            self.namespaces.wait_until_synced(),
            self.order_secrets.wait_until_synced(),
            self.target_secrets.wait_until_synced(),
        );
    }
}

/// The watch of one kind: a cache to read, and the changes to it.
#[derive(Debug)]
pub struct Watch<K>
where
    K: Lookup<DynamicType = ()> + Clone + 'static,
{
    store: Store<K>,
    changes: broadcast::Sender<Change<K>>,
}

/// One change of a watched kind; the cache shows it already.
#[derive(Debug)]
pub enum Change<K> {
    /// Made or altered.
    Applied(Arc<K>),
    /// Gone; this is its last state.
    Deleted(Arc<K>),
    /// The list was read again, or this reader fell behind: anything may have changed. Look at the whole cache.
    Resynced,
}

/// What one source says.
type Events<K> = BoxStream<'static, watcher::Result<Event<DeserializeGuard<K>>>>;

/// A watch that can't go on.
#[derive(Debug, Error)]
#[error("the watch of {kind} ended")]
pub struct WatchEnded {
    kind: &'static str,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    /// Starts watching what any of `sources` has; each is of another namespace. `prune` drops what no reader needs;
    /// managedFields and kubectl's last-applied copy go always. Errors of the streams are logged and waited out,
    /// for ever.
    fn start(
        kind: &'static str,
        sources: Vec<Source<K>>,
        config: &watcher::Config,
        prune: fn(&mut K),
        tasks: &Tasks,
    ) -> Self {
        if sources.is_empty() {
            return Self::of(Vec::new());
        }
        let streams = sources.into_iter().map(|Source { api, may_go }| {
            (reconnecting(watcher(api, config.clone())).boxed(), Trouble::new(kind, may_go))
        });
        let (watch, feed) = Self::new(kind, streams.collect(), prune);
        let token = tasks.token();
        tasks.spawn(kind, async move {
            tokio::select! {
                ended = feed => Err(ended),
                () = token.cancelled() => Ok(()),
            }
        });
        watch
    }

    /// A watch that lives from `streams`, and the future that feeds it.
    fn new(
        kind: &'static str,
        streams: Vec<(Events<K>, Trouble)>,
        prune: fn(&mut K),
    ) -> (Self, impl Future<Output = WatchEnded> + Send) {
        let writer = Writer::<K>::new(());
        let (changes, _) = broadcast::channel(BUFFER);
        let watch = Self { store: writer.as_reader(), changes };
        let feed = feed(kind, watch.clone(), writer, streams, prune);
        (watch, feed)
    }

    /// A cache that holds `objects` and never changes.
    pub(crate) fn of(objects: Vec<K>) -> Self {
        let mut writer = Writer::<K>::new(());
        writer.apply_watcher_event(&Event::Init);
        for object in objects {
            writer.apply_watcher_event(&Event::InitApply(object));
        }
        writer.apply_watcher_event(&Event::InitDone);
        Self { store: writer.as_reader(), changes: broadcast::channel(1).0 }
    }

    /// The object of that name, if it is in the cache.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        let key = ObjectRef::<K>::new(name);
        self.store.get(&match namespace {
            Some(namespace) => key.within(namespace),
            None => key,
        })
    }

    /// The cache.
    pub fn store(&self) -> &Store<K> {
        &self.store
    }

    /// Changes from now on. Starts with [`Change::Resynced`], so that what was there before isn't missed.
    pub fn changes(&self) -> impl Stream<Item = Change<K>> + Send + use<K> {
        let receiver = self.changes.subscribe();
        let first = stream::once(async { Change::Resynced });
        first.chain(stream::unfold(receiver, |mut receiver| async {
            match receiver.recv().await {
                Ok(change) => Some((change, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Change::Resynced, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        }))
    }

    /// Objects made or altered, and all of them after a resync: what `Controller::for_shared_stream` takes.
    pub fn objects(&self) -> impl Stream<Item = Arc<K>> + Send + use<K> {
        let store = self.store.clone();
        self.changes().flat_map(move |change| {
            stream::iter(match change {
                Change::Applied(object) => vec![object],
                Change::Deleted(_) => Vec::new(),
                Change::Resynced => store.state(),
            })
        })
    }

    /// Like [`Watch::objects`], with the deleted ones: for controllers of what owns these objects.
    pub fn touched(&self) -> impl Stream<Item = Arc<K>> + Send + use<K> {
        let store = self.store.clone();
        self.changes().flat_map(move |change| {
            stream::iter(match change {
                Change::Applied(object) | Change::Deleted(object) => vec![object],
                Change::Resynced => store.state(),
            })
        })
    }

    /// Returns when the cache has been filled once. At shutdown it may never be; then this waits for ever.
    pub async fn wait_until_synced(&self) {
        if self.store.wait_until_ready().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn feed<K>(
    kind: &'static str,
    watch: Watch<K>,
    mut writer: Writer<K>,
    streams: Vec<(Events<K>, Trouble)>,
    prune: fn(&mut K),
) -> WatchEnded
where
    K: Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let mut merge = Merge::new(streams.len());
    let (streams, mut troubles): (Vec<_>, Vec<_>) = streams.into_iter().unzip();
    let streams = streams.into_iter().enumerate();
    let mut events = stream::select_all(streams.map(|(from, events)| events.map(move |event| (from, event))));
    while let Some((from, event)) = events.next().await {
        let Some(trouble) = troubles.get_mut(from) else { continue };
        let merged = match event {
            Ok(event) => {
                trouble.is_over();
                let event = understood(kind, event, prune);
                event.map(|event| merge.next(from, event, &watch.store)).unwrap_or_default()
            }
            Err(error) if trouble.tell(&error) => merge.refused(from),
            Err(_) => Vec::new(),
        };
        for event in merged {
            writer.apply_watcher_event(&event);
            // No one listening is fine.
            let _ = match event {
                Event::Apply(object) => {
                    let key = object.to_object_ref(());
                    watch.store.get(&key).map(Change::Applied).map(|change| watch.changes.send(change))
                }
                Event::Delete(object) => Some(watch.changes.send(Change::Deleted(Arc::new(object)))),
                Event::InitDone => Some(watch.changes.send(Change::Resynced)),
                Event::Init | Event::InitApply(_) => None,
            };
        }
    }
    WatchEnded { kind }
}

/// Drops objects that don't parse: one of them must not stop the others.
fn understood<K: Resource<DynamicType = ()>>(
    kind: &'static str,
    event: Event<DeserializeGuard<K>>,
    prune: fn(&mut K),
) -> Option<Event<K>> {
    let parse = |DeserializeGuard(object)| match object {
        Ok(mut object) => {
            prune_meta(Resource::meta_mut(&mut object));
            prune(&mut object);
            Some(object)
        }
        Err(invalid) => {
            let (namespace, name) = (invalid.metadata.namespace, invalid.metadata.name);
            tracing::warn!(
                kind,
                namespace = namespace.as_deref(),
                name = name.as_deref(),
                error = invalid.error,
                "an object doesn't parse and is left out"
            );
            None
        }
    };
    Some(match event {
        Event::Apply(object) => Event::Apply(parse(object)?),
        Event::Delete(object) => Event::Delete(parse(object)?),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(parse(object)?),
        Event::InitDone => Event::InitDone,
    })
}

fn prune_meta(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

// Derived, these would ask more of K than they need.

impl<K> Clone for Watch<K>
where
    K: Lookup<DynamicType = ()> + Clone + 'static,
{
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), changes: self.changes.clone() }
    }
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Applied(object) => Self::Applied(Arc::clone(object)),
            Self::Deleted(object) => Self::Deleted(Arc::clone(object)),
            Self::Resynced => Self::Resynced,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use kube::core::{Status, error_boundary::InvalidObject};

    use super::*;

    fn secret(name: &str) -> Secret {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("web".to_owned()),
            managed_fields: Some(Vec::new()),
            ..ObjectMeta::default()
        };
        Secret { metadata, ..Secret::default() }
    }

    fn ok(object: Secret) -> DeserializeGuard<Secret> {
        DeserializeGuard(Ok(object))
    }

    fn bad(name: &str) -> DeserializeGuard<Secret> {
        let metadata = secret(name).metadata;
        DeserializeGuard(Err(InvalidObject { error: "not a Secret".to_owned(), metadata }))
    }

    fn source(
        events: impl IntoIterator<
            Item = watcher::Result<Event<DeserializeGuard<Secret>>>,
            IntoIter: Send + 'static,
        >,
        may_go: Option<&str>,
    ) -> (Events<Secret>, Trouble) {
        (stream::iter(events).boxed(), Trouble::new("Secrets", may_go.map(str::to_owned)))
    }

    #[tokio::test]
    async fn readers_see_deletes_and_what_was_there_before() {
        let events = vec![
            Event::Init,
            Event::InitApply(ok(secret("a"))),
            Event::InitApply(bad("b")),
            Event::InitDone,
            Event::Apply(ok(secret("c"))),
            Event::Delete(ok(secret("a"))),
        ];
        let (watch, feed) = Watch::new("Secrets", vec![source(events.into_iter().map(Ok), None)], |_| ());
        let changes = watch.changes();
        feed.await;
        drop(watch.clone());
        assert_eq!(watch.store().len(), 1);
        assert!(watch.get(Some("web"), "c").unwrap().metadata.managed_fields.is_none());
        drop(watch);
        let seen: Vec<String> = changes
            .map(|change| match change {
                Change::Applied(object) => format!("applied {}", object.metadata.name.as_deref().unwrap()),
                Change::Deleted(object) => format!("deleted {}", object.metadata.name.as_deref().unwrap()),
                Change::Resynced => "resynced".to_owned(),
            })
            .collect()
            .await;
        assert_eq!(seen, ["resynced", "resynced", "applied c", "deleted a"]);
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_looks_again() {
        let events: Vec<_> = (0..BUFFER + 10).map(|n| Event::Apply(ok(secret(&format!("s{n}"))))).collect();
        let (watch, feed) = Watch::new("Secrets", vec![source(events.into_iter().map(Ok), None)], |_| ());
        let mut changes = Box::pin(watch.changes());
        feed.await;
        assert!(matches!(changes.next().await, Some(Change::Resynced)));
        assert!(matches!(changes.next().await, Some(Change::Resynced)));
        assert!(matches!(changes.next().await, Some(Change::Applied(_))));
    }

    #[tokio::test]
    async fn a_namespace_that_is_gone_holds_back_no_other_and_the_own_does() {
        let refused = || {
            let status = Status::failure("no", "Forbidden").with_code(403).boxed();
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
        };
        let listed = || [Event::Init, Event::InitApply(ok(secret("a"))), Event::InitDone].map(Ok);
        let gone = |may_go| source([refused(), refused()], may_go);
        for (sources, filled) in [
            (vec![gone(Some("gone")), source(listed(), Some("web"))], true),
            (vec![gone(None), source(listed(), Some("web"))], false),
            // The whole cluster, and a namespace alone: there is nobody to go on for.
            (vec![gone(None)], false),
            (vec![gone(Some("gone"))], false),
        ] {
            let (watch, feed) = Watch::new("Secrets", sources, |_| ());
            let changes = watch.changes();
            feed.await;
            assert_eq!(watch.get(Some("web"), "a").is_some(), filled);
            drop(watch);
            // The first is what there was before.
            assert_eq!(changes.count().await, if filled { 2 } else { 1 });
        }
    }
}
