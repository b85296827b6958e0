//! What serves an issuance outside of Waxwing's namespace: made when first needed, kept while the order is open, swept
//! when it is quiet, also after a crash.
//!
//! Everything carries the UID of its Certificate as a label, and has no owner: it goes when no order of that
//! Certificate is open any more, as the order Secrets say, which no tenant can touch.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use futures::StreamExt;
use k8s_openapi::api::{core::v1::Pod, networking::v1::Ingress};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
};
use kube_runtime::{WatchStreamExt, watcher::watch_object};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, RwLock},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use waxwing_api::labels;

use super::{endpoints, in_place, pod, route::is_route};
use crate::{
    runtime::{
        client::{CallError, bounded},
        watch::{Scope, Watch},
    },
    solver::open_orders::OpenOrders,
};

/// The field manager of everything here.
const MANAGER: &str = "waxwing-route";
/// What an attempt has used whose order stays open is kept this much longer, since the next attempt may need it: a pod
/// whose image is being pulled.
const AFTER_ATTEMPT: Duration = Duration::from_mins(2);
/// How soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// The first pause between two looks at an object; the next ones are twice as long each.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// How often the addresses of Waxwing's own pods are looked at while they stand in other namespaces.
const REFRESH: Duration = Duration::from_secs(5);

/// A kind of object that serves issuances. The order is that in which they are deleted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `networking.k8s.io/v1`
    Ingress,
    /// `gateway.networking.k8s.io/v1`
    HttpRoute,
    /// `gateway.networking.k8s.io/v1beta1`, which every release of the Gateway API serves.
    ReferenceGrant,
    /// `v1`
    Service,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
    /// `v1`
    Pod,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Ingress, Self::HttpRoute, Self::ReferenceGrant, Self::Service, Self::EndpointSlice, Self::Pod];

    /// Group, version, kind, plural.
    const fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Ingress => ("networking.k8s.io", "v1", "Ingress", "ingresses"),
            Self::HttpRoute => ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
            Self::ReferenceGrant => {
                ("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant", "referencegrants")
            }
            Self::Service => ("", "v1", "Service", "services"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
            Self::Pod => ("", "v1", "Pod", "pods"),
        }
    }

    fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource())
    }
}

/// Where an object is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    kind: Kind,
    namespace: String,
    name: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.names().2, self.namespace, self.name)
    }
}

/// An object to be made.
#[derive(Clone, Debug)]
pub struct Object {
    place: Place,
    manifest: Value,
}

impl Object {
    /// `body` is what it says beyond its names and Waxwing's labels.
    pub fn new(kind: Kind, namespace: &str, name: &str, uid: &str, body: Value) -> Self {
        let (group, version, kind_name, _) = kind.names();
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let mut manifest = body;
        pod::merge(
            &mut manifest,
            json!({
                "apiVersion": api_version,
                "kind": kind_name,
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": {
                        labels::MANAGED_BY: labels::MANAGED_BY_WAXWING,
                        labels::COMPONENT: labels::COMPONENT_ROUTE,
                        labels::CERTIFICATE_UID: uid,
                    },
                },
            }),
        );
        let place = Place { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        Self { place, manifest }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// The whole object.
    pub fn manifest(&self) -> &Value {
        &self.manifest
    }
}

/// Eight digits that stand for a text.
pub fn short_hash(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().take(4).fold(String::new(), |mut digits, byte| {
        // Writing to a String can't fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// What serves issuances, and what this process knows of it.
pub struct Objects {
    client: Client,
    own_namespace: String,
    scope: Scope,
    /// The responder's Service.
    service: String,
    quiet: Duration,
    ingresses: Watch<Ingress>,
    orders: OpenOrders,
    bundles: Mutex<HashMap<String, Arc<Bundle>>>,
    changed: Notify,
}

/// Everything that serves one Certificate.
#[derive(Debug)]
struct Bundle {
    /// Held for reading while something is made, for writing while all is deleted.
    lock: RwLock<()>,
    /// One edit of somebody's Ingress at a time.
    edit: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last_used: Instant,
    open: bool,
    done: bool,
    /// What is there, with a hash of how it was made; none if another process made it.
    objects: BTreeMap<Place, Option<String>>,
    /// Ingresses of others with paths of ours: namespace and name.
    edited: BTreeSet<(String, String)>,
    /// The namespace that Waxwing's own endpoints were copied to.
    copied_to: Option<String>,
}

impl Bundle {
    fn new(now: Instant) -> Self {
        Self {
            lock: RwLock::default(),
            edit: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                last_used: now,
                open: false,
                done: false,
                objects: BTreeMap::new(),
                edited: BTreeSet::new(),
                copied_to: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When it is due to be swept; `None` while it is needed.
    fn due(&mut self, open: bool, now: Instant, quiet: Duration) -> Option<Instant> {
        let needed = open && !self.done;
        // The end of an order is told by a change; quiet begins then.
        if needed || (self.open && !self.done) {
            self.last_used = now;
        }
        self.open = open;
        let quiet = if self.done && open { quiet + AFTER_ATTEMPT.min(quiet * 8) } else { quiet };
        (!needed).then(|| self.last_used + quiet)
    }
}

impl Objects {
    /// `service` is the responder's Service in `own_namespace`. What no open order needs, and was last used `quiet`
    /// ago, is deleted.
    pub fn new(
        client: Client,
        own_namespace: &str,
        scope: Scope,
        service: &str,
        quiet: Duration,
        ingresses: Watch<Ingress>,
        orders: OpenOrders,
    ) -> Self {
        Self {
            client,
            own_namespace: own_namespace.to_owned(),
            scope,
            service: service.to_owned(),
            quiet,
            ingresses,
            orders,
            bundles: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Sees to it that the objects exist. Those that this process has made already cost nothing.
    pub async fn ensure(&self, uid: &str, objects: &[Object]) -> Result<(), CallError> {
        let bundle = self.bundle(uid);
        let _kept = bundle.lock.read().await;
        self.make(&bundle, objects).await
    }

    /// Sees to it that `service` of `namespace`, to be made of `slices` of Waxwing's own endpoints, leads to Waxwing.
    pub async fn ensure_copied_endpoints(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), CallError> {
        let bundle = self.bundle(uid);
        let _kept = bundle.lock.read().await;
        bundle.state().copied_to = Some(namespace.to_owned());
        let objects = self.copied_endpoints(uid, namespace, name).await?;
        self.make(&bundle, &objects).await
    }

    /// Adds paths to somebody's Ingress: for each host one to `service` and `port`. None is added that is there.
    pub async fn add_paths(&self, uid: &str, edit: &in_place::Edit<'_>) -> Result<(), in_place::EditError> {
        let bundle = self.bundle(uid);
        let _kept = bundle.lock.read().await;
        let _alone = bundle.edit.lock().await;
        // Before it is written, so that an answer that gets lost leaves nothing behind.
        bundle.state().edited.insert((edit.namespace.to_owned(), edit.ingress.to_owned()));
        in_place::add(&self.client, edit).await
    }

    /// Waits until a pod answers, for at most `patience`; else says how far it is.
    pub async fn pod_ready(&self, pod: &Object, patience: Duration) -> Result<(), pod::Trouble> {
        let Place { namespace, name, .. } = &pod.place;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut seen = std::pin::pin!(watch_object(api, name).default_backoff());
        let deadline = Instant::now() + patience;
        let mut last = pod::Trouble::unseen();
        while let Ok(Some(found)) = timeout_at(deadline, seen.next()).await {
            match found.map(|found| found.as_ref().map(pod::progress)) {
                Ok(Some(pod::Progress::Ready)) => return Ok(()),
                Ok(Some(pod::Progress::Stuck(trouble))) => return Err(trouble),
                Ok(Some(pod::Progress::Waiting(trouble))) => last = trouble,
                Ok(None) => {}
                Err(error) => {
                    last = pod::Trouble::unwatched(&error.to_string());
                    if is_forbidden(&error) {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// Reads an object until `look` finds what it looks for, for at most `patience`.
    pub async fn find<T>(
        &self,
        object: &Object,
        patience: Duration,
        look: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let Place { kind, namespace, name } = &object.place;
        let api = kind.api(&self.client, namespace);
        let looking = async {
            let mut pause = FIRST_LOOK;
            loop {
                match bounded(format!("get {}", object.place), api.get(name)).await {
                    Ok(found) => {
                        if let Some(found) = serde_json::to_value(&found).ok().as_ref().and_then(&look) {
                            return Some(found);
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "not looked at");
                        return None;
                    }
                }
                sleep(pause).await;
                pause *= 2;
            }
        };
        tokio::time::timeout(patience, looking).await.ok().flatten()
    }

    /// An attempt has ended: what it used isn't kept for as long as its order is, should that stay open.
    pub fn done(&self, uid: &str) {
        let bundle = self.bundles().get(uid).cloned();
        if let Some(bundle) = bundle {
            let mut state = bundle.state();
            state.done = true;
            // Another attempt looks at what is there by making it again.
            state.objects.values_mut().for_each(|hash| *hash = None);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Deletes what no one needs, until `stop`. What an earlier process left is among it.
    pub async fn sweep(&self, stop: CancellationToken) {
        let sweeping = async {
            let mut left: Vec<Kind> = Kind::ALL.to_vec();
            let mut orders = self.orders.changed();
            self.adopt_edits();
            loop {
                left = self.adopt(left).await;
                let mut next = self.sweep_once().await;
                if !left.is_empty() {
                    next = Some(next.unwrap_or_else(|| Instant::now() + AGAIN).min(Instant::now() + AGAIN));
                }
                let pause = async {
                    match next {
                        Some(next) => sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = pause => {}
                    () = self.changed.notified() => {}
                    changed = orders.changed() => if changed.is_err() { return },
                }
            }
        };
        tokio::select! {
            () = sweeping => {}
            never = self.refresh() => match never {},
            () = stop.cancelled() => {}
        }
    }

    fn bundles(&self) -> MutexGuard<'_, HashMap<String, Arc<Bundle>>> {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bundle of a Certificate, marked as used.
    fn bundle(&self, uid: &str) -> Arc<Bundle> {
        let now = Instant::now();
        let bundle =
            Arc::clone(self.bundles().entry(uid.to_owned()).or_insert_with(|| Arc::new(Bundle::new(now))));
        {
            let mut state = bundle.state();
            state.last_used = now;
            state.done = false;
        }
        self.changed.notify_one();
        bundle
    }

    async fn make(&self, bundle: &Bundle, objects: &[Object]) -> Result<(), CallError> {
        let each = objects.iter().map(|object| async {
            let hash = short_hash(&object.manifest.to_string());
            if bundle.state().objects.get(&object.place) == Some(&Some(hash.clone())) {
                return Ok(());
            }
            // Before it is made, so that an answer that gets lost leaves nothing behind.
            bundle.state().objects.insert(object.place.clone(), None);
            let Place { kind, namespace, name } = &object.place;
            let parameters = PatchParams::apply(MANAGER).force().validation_strict();
            let api = kind.api(&self.client, namespace);
            let patch = Patch::Apply(&object.manifest);
            bounded(format!("apply {}", object.place), api.patch(name, &parameters, &patch)).await?;
            bundle.state().objects.insert(object.place.clone(), Some(hash));
            Ok::<_, CallError>(())
        });
        futures::future::try_join_all(each).await.map(|_| ())
    }

    async fn copied_endpoints(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<Object>, CallError> {
        let api = Api::namespaced(self.client.clone(), &self.own_namespace);
        let of_service = ListParams::default().labels(&format!("{}={}", endpoints::SERVICE, self.service));
        let what = format!("list EndpointSlices of Service {}/{}", self.own_namespace, self.service);
        let slices = bounded(what, api.list(&of_service)).await?;
        Ok(endpoints::copies(&slices.items, namespace, name, uid))
    }

    /// Keeps copied endpoints like their originals.
    async fn refresh(&self) -> std::convert::Infallible {
        loop {
            sleep(REFRESH).await;
            let bundles: Vec<(String, Arc<Bundle>)> =
                self.bundles().iter().map(|(uid, bundle)| (uid.clone(), Arc::clone(bundle))).collect();
            for (uid, bundle) in bundles {
                let copied_to = {
                    let state = bundle.state();
                    state.copied_to.clone().filter(|_| state.open)
                };
                let (Some(namespace), Ok(_kept)) = (copied_to, bundle.lock.try_read()) else { continue };
                let made = match self.copied_endpoints(&uid, &namespace, &object_name(&uid)).await {
                    Ok(objects) => self.make(&bundle, &objects).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = made {
                    tracing::warn!(%error, namespace, "copied endpoints are out of date");
                }
            }
        }
    }

    /// Finds what an earlier process left, of these kinds. Answers with those that couldn't be listed.
    async fn adopt(&self, kinds: Vec<Kind>) -> Vec<Kind> {
        let mut left = Vec::new();
        for kind in kinds {
            for api in self.apis(kind) {
                match self.adopt_of(kind, &api).await {
                    Ok(()) => {}
                    // Without the right to it, or without its CustomResourceDefinition, none was made.
                    Err(error) if error.is_forbidden() || error.is_not_found() => {
                        tracing::debug!(%error, "not looked for, since Waxwing makes none here");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "what an earlier process left is looked for again");
                        left.push(kind);
                        break;
                    }
                }
            }
        }
        left
    }

    async fn adopt_of(&self, kind: Kind, api: &Api<DynamicObject>) -> Result<(), CallError> {
        let ours = ListParams::default().labels(&pod::selector());
        let found = bounded(format!("list {}", kind.names().3), api.list_metadata(&ours)).await?;
        for object in found.items {
            let Some(uid) = object.labels().get(labels::CERTIFICATE_UID) else { continue };
            let namespace = object.namespace().unwrap_or_default();
            let place = Place { kind, namespace, name: object.name_any() };
            self.adopted(uid).state().objects.entry(place).or_insert(None);
        }
        Ok(())
    }

    /// Where objects of this kind may be.
    fn apis(&self, kind: Kind) -> Vec<Api<DynamicObject>> {
        match &self.scope {
            _ if kind == Kind::ReferenceGrant => vec![kind.api(&self.client, &self.own_namespace)],
            Scope::Cluster => vec![Api::all_with(self.client.clone(), &kind.resource())],
            Scope::Namespaces(some) => {
                some.iter().map(|namespace| kind.api(&self.client, namespace)).collect()
            }
        }
    }

    /// Finds paths of ours in Ingresses of others.
    fn adopt_edits(&self) {
        for ingress in self.ingresses.store().state() {
            // Those of our own are deleted whole.
            if is_route(&ingress) {
                continue;
            }
            for uid in in_place::uids(&ingress) {
                let of = (ingress.namespace().unwrap_or_default(), ingress.name_any());
                self.adopted(&uid).state().edited.insert(of);
            }
        }
    }

    fn adopted(&self, uid: &str) -> Arc<Bundle> {
        let new = || Arc::new(Bundle::new(Instant::now()));
        Arc::clone(self.bundles().entry(uid.to_owned()).or_insert_with(new))
    }

    /// Deletes what is due. Answers with when to look again if nothing changes.
    async fn sweep_once(&self) -> Option<Instant> {
        let bundles: Vec<(String, Arc<Bundle>)> =
            self.bundles().iter().map(|(uid, bundle)| (uid.clone(), Arc::clone(bundle))).collect();
        let mut next: Option<Instant> = None;
        let mut at_latest = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for (uid, bundle) in bundles {
            let now = Instant::now();
            let open = self.orders.has(&labels::order_secret_name(&uid));
            let Some(at) = bundle.state().due(open, now, self.quiet) else { continue };
            if at > now {
                at_latest(at);
                continue;
            }
            // Who makes something right now needs it.
            let Ok(_alone) = bundle.lock.try_write() else {
                at_latest(now + AGAIN);
                continue;
            };
            if self.delete(&uid, &bundle).await {
                let mut bundles = self.bundles();
                // Who took a handle meanwhile finds it empty, and makes all again.
                if Arc::strong_count(&bundle) <= 2 {
                    bundles.remove(&uid);
                }
            } else {
                at_latest(Instant::now() + AGAIN);
            }
        }
        next
    }

    /// True if nothing is left.
    async fn delete(&self, uid: &str, bundle: &Bundle) -> bool {
        let mut clean = true;
        let edited = bundle.state().edited.clone();
        for (namespace, ingress) in edited {
            match in_place::remove(&self.client, &namespace, &ingress, uid).await {
                Ok(()) => {
                    bundle.state().edited.remove(&(namespace, ingress));
                }
                Err(error) => {
                    tracing::warn!(%error, namespace, ingress, "a path for challenges is left for later");
                    clean = false;
                }
            }
        }
        if !clean {
            // What the path leads to stays as long as the path does.
            return false;
        }
        let places: Vec<Place> = bundle.state().objects.keys().cloned().collect();
        for place in places {
            let api = place.kind.api(&self.client, &place.namespace);
            let deleted =
                bounded(format!("delete {place}"), api.delete(&place.name, &DeleteParams::default())).await;
            match deleted {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    tracing::warn!(%error, "what served a challenge is left for later");
                    clean = false;
                    continue;
                }
            }
            bundle.state().objects.remove(&place);
        }
        bundle.state().copied_to = None;
        clean
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("bundles", &self.bundles).finish_non_exhaustive()
    }
}

fn is_forbidden(error: &kube_runtime::watcher::Error) -> bool {
    use kube_runtime::watcher::Error;
    matches!(
        error,
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchError(status) if status.code == 403
    )
}

/// The name that everything of one Certificate has, or begins with.
pub fn object_name(uid: &str) -> String {
    format!("{PREFIX}{uid}")
}

/// The UID in the name of a Service of ours.
pub fn uid_of(service: &str) -> Option<&str> {
    let rest = service.strip_prefix(PREFIX)?;
    let uid = rest.get(..UID)?;
    let known = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (known && (rest.len() == UID || rest.as_bytes().get(UID) == Some(&b'-'))).then_some(uid)
}

const PREFIX: &str = "waxwing-";
/// The length of a UID.
const UID: usize = 36;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const QUIET: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn what_serves_an_open_order_stays_and_goes_when_it_was_quiet() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let bundle = Bundle::new(start);
        let mut state = bundle.state();
        // Made ahead: the order isn't in the cache yet.
        assert_eq!(state.due(false, at(1), QUIET), Some(at(30)));
        assert_eq!(state.due(true, at(2), QUIET), None);
        assert_eq!(state.due(true, at(200), QUIET), None);
        assert_eq!(state.due(false, at(210), QUIET), Some(at(240)), "quiet begins with the order's end");
        assert_eq!(state.due(false, at(220), QUIET), Some(at(240)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_failed_attempt_used_goes_though_its_order_stays() {
        let start = Instant::now();
        let bundle = Bundle::new(start);
        let mut state = bundle.state();
        assert_eq!(state.due(true, start, QUIET), None);
        state.done = true;
        assert_eq!(state.due(true, start + QUIET, QUIET), Some(start + QUIET + AFTER_ATTEMPT));
    }

    #[test]
    fn names_tell_the_certificate() {
        let uid = "0a1b2c3d-0000-4000-8000-000000000001";
        assert_eq!(uid_of(&object_name(uid)), Some(uid));
        assert_eq!(uid_of(&format!("{}-0123abcd", object_name(uid))), Some(uid));
        assert_eq!(uid_of("waxwing"), None);
        assert_eq!(uid_of("waxwing-metrics-of-the-operator-in-the-cluster"), None);
        assert!(format!("{}-{}", object_name(uid), short_hash("a")).len() <= 63);
    }
}
