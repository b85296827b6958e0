//! What serves an issuance outside of Waxwing's namespace: made when first needed, kept while the order is open, swept
//! when it is quiet, also after a crash.
//!
//! Everything carries the UID of its Certificate as a label, and has no owner: it goes when no order of that
//! Certificate is open any more, as the order Secrets say, which no tenant can touch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::{core::v1::Pod, networking::v1::Ingress};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use kube_runtime::{WatchStreamExt, watcher::watch_object};
use serde_json::Value;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    bundle::Bundle,
    endpoints, in_place,
    object::{Object, Place, short_hash},
    pod_progress::{self, Progress, Trouble},
};
use crate::{
    runtime::{
        client::{CallError, bounded},
        watch::{Scope, Watch},
    },
    solver::open_orders::OpenOrders,
};

/// The field manager of everything here.
const MANAGER: &str = "waxwing-route";
/// The first pause between two looks at an object; the next ones are twice as long each.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// What serves issuances, and what this process knows of it.
pub struct Objects {
    pub(super) client: Client,
    pub(super) own_namespace: String,
    pub(super) scope: Scope,
    /// The responder's Service.
    service: String,
    pub(super) quiet: Duration,
    pub(super) ingresses: Watch<Ingress>,
    pub(super) orders: OpenOrders,
    bundles: Mutex<HashMap<String, Arc<Bundle>>>,
    pub(super) changed: Notify,
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
    pub async fn pod_ready(&self, pod: &Object, patience: Duration) -> Result<(), Trouble> {
        let Place { namespace, name, .. } = &pod.place;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut seen = std::pin::pin!(watch_object(api, name).default_backoff());
        let deadline = Instant::now() + patience;
        let mut last = Trouble::unseen();
        while let Ok(Some(found)) = timeout_at(deadline, seen.next()).await {
            match found.map(|found| found.as_ref().map(pod_progress::progress)) {
                Ok(Some(Progress::Ready)) => return Ok(()),
                Ok(Some(Progress::Stuck(trouble))) => return Err(trouble),
                Ok(Some(Progress::Waiting(trouble))) => last = trouble,
                Ok(None) => {}
                Err(error) => {
                    last = Trouble::unwatched(&error.to_string());
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

    pub(super) fn bundles(&self) -> MutexGuard<'_, HashMap<String, Arc<Bundle>>> {
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

    pub(super) async fn make(&self, bundle: &Bundle, objects: &[Object]) -> Result<(), CallError> {
        let each = objects.iter().map(|object| async {
            let hash = short_hash(&object.manifest().to_string());
            if bundle.state().objects.get(&object.place) == Some(&Some(hash.clone())) {
                return Ok(());
            }
            // Before it is made, so that an answer that gets lost leaves nothing behind.
            bundle.state().objects.insert(object.place.clone(), None);
            let Place { kind, namespace, name } = &object.place;
            let parameters = PatchParams::apply(MANAGER).force().validation_strict();
            let api = kind.api(&self.client, namespace);
            let patch = Patch::Apply(object.manifest());
            bounded(format!("apply {}", object.place), api.patch(name, &parameters, &patch)).await?;
            bundle.state().objects.insert(object.place.clone(), Some(hash));
            Ok::<_, CallError>(())
        });
        futures::future::try_join_all(each).await.map(|_| ())
    }

    pub(super) async fn copied_endpoints(
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
