//! What serves an issuance outside of Waxwing's namespace: made when first needed, kept while an attempt uses it, swept
//! when it is quiet, also after a crash.
//!
//! Everything carries the UID of its Certificate as a label, and has no owner: the leader alone says when it goes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::{core::v1::Pod, networking::v1::Ingress};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use kube_runtime::{WatchStreamExt, watcher::watch_object};
use serde_json::Value;
use thiserror::Error;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};
use waxwing_api::labels;

use super::{
    bundle::{Bundle, Found},
    endpoints, in_place,
    object::{Object, Place, only, short_hash},
    pod_progress::{self, Progress, Trouble},
};
use crate::{
    runtime::{
        client::{CallError, bounded, explain_watch},
        reconnect::Reconnect,
        watch::{Scope, Watch},
    },
    solver::open_orders::OpenOrders,
};

/// The field manager of everything here.
const MANAGER: &str = "waxwing-route";
/// The first pause between two looks at an object; the next ones are twice as long each.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// The longest pause before one that is being deleted is given up.
const LONGEST_LOOK: Duration = Duration::from_secs(4);

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

/// An attempt under way. Dropping it ends it, wherever it is: a cancelled one too.
#[derive(Debug)]
pub struct Attempt {
    objects: Arc<Objects>,
    uid: String,
    bundle: Arc<Bundle>,
}

/// Why something couldn't be made.
#[derive(Debug, Error)]
pub enum MakeError {
    /// The API server, or the way to it, said no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// An earlier one of its name doesn't go.
    #[error("an earlier {what} is still being deleted")]
    Leaving {
        /// The object.
        what: String,
    },
}

impl Objects {
    /// `service` is the responder's Service in `own_namespace`. What no attempt uses, and was last used `quiet` ago, is
    /// deleted.
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

    /// Begins an attempt to answer for a Certificate: what is made for it stays until the attempt is dropped, and then
    /// for as long as is quiet.
    pub fn attempt(self: &Arc<Self>, uid: &str) -> Attempt {
        let new = || Arc::new(Bundle::new(Instant::now()));
        let mut bundles = self.bundles();
        let bundle = Arc::clone(bundles.entry(uid.to_owned()).or_insert_with(new));
        bundle.state().attempts += 1;
        Attempt { objects: Arc::clone(self), uid: uid.to_owned(), bundle }
    }

    /// Sees to it that the objects exist. Those that this attempt has made already cost nothing.
    pub async fn ensure(&self, uid: &str, objects: &[Object]) -> Result<(), MakeError> {
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
    ) -> Result<(), MakeError> {
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

    /// Waits until a pod answers, for at most `patience`; else says how far it is. One that has ended is deleted, so
    /// that the next attempt makes another.
    pub async fn pod_ready(&self, pod: &Object, patience: Duration) -> Result<(), Trouble> {
        let Place { namespace, name, .. } = &pod.place;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut looks = std::pin::pin!(watch_object(api, name).backoff(Reconnect::default()));
        let deadline = Instant::now() + patience;
        let mut last = Trouble::unseen();
        while let Ok(Some(found)) = timeout_at(deadline, looks.next()).await {
            let seen = |pod: Pod| (pod_progress::progress(&pod), pod.metadata.uid.unwrap_or_default());
            match found.map(|found| found.map(seen)) {
                Ok(Some((Progress::Ready, _))) => return Ok(()),
                Ok(Some((Progress::Stuck(trouble), _))) => return Err(trouble),
                Ok(Some((Progress::Ended(trouble), uid))) => {
                    // Another one that is there already is as good as none.
                    if let Err(error) = self.end(&pod.place, &uid).await {
                        tracing::warn!(%error, "a solver pod that has ended is left for later");
                    }
                    return Err(trouble);
                }
                Ok(Some((Progress::Waiting(trouble), _))) => last = trouble,
                Ok(None) => {}
                Err(error) if is_forbidden(&error) => return Err(Trouble::unwatched(&explain_watch(&error))),
                Err(error) => last = Trouble::untold(&explain_watch(&error)),
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

    pub(super) fn bundles(&self) -> MutexGuard<'_, HashMap<String, Arc<Bundle>>> {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bundle(&self, uid: &str) -> Arc<Bundle> {
        let new = || Arc::new(Bundle::new(Instant::now()));
        Arc::clone(self.bundles().entry(uid.to_owned()).or_insert_with(new))
    }

    fn ended(&self, uid: &str, bundle: &Bundle) {
        let mut bundles = self.bundles();
        let mut state = bundle.state();
        state.attempts = state.attempts.saturating_sub(1);
        if state.attempts > 0 {
            return;
        }
        state.last_used = Instant::now();
        // Another attempt looks at what is there by making it again.
        state.objects.values_mut().for_each(|found| found.hash = None);
        if state.is_empty() {
            bundles.remove(uid);
        } else {
            self.changed.notify_one();
        }
    }

    pub(super) async fn make(&self, bundle: &Bundle, objects: &[Object]) -> Result<(), MakeError> {
        let each = objects.iter().map(|object| async {
            let hash = short_hash(&object.manifest().to_string());
            let made = |found: &Found| found.hash.as_deref() == Some(hash.as_str());
            if bundle.state().objects.get(&object.place).is_some_and(made) {
                return Ok(());
            }
            // Before it is made, so that an answer that gets lost leaves nothing behind.
            bundle.state().objects.insert(object.place.clone(), Found::default());
            let uid = self.apply(object).await?;
            bundle.state().objects.insert(object.place.clone(), Found { hash: Some(hash), uid });
            Ok(())
        });
        futures::future::try_join_all(each).await.map(|_| ())
    }

    /// Applies an object, and answers with its UID. One of its name that is being deleted is gone soon: a change to it
    /// would go with it.
    async fn apply(&self, object: &Object) -> Result<Option<String>, MakeError> {
        let Place { kind, namespace, name } = &object.place;
        let parameters = PatchParams::apply(MANAGER).force().validation_strict();
        let api = kind.api(&self.client, namespace);
        let patch = Patch::Apply(object.manifest());
        let mut pause = FIRST_LOOK;
        loop {
            let what = format!("apply {}", object.place);
            let found = bounded(what, api.patch(name, &parameters, &patch)).await?;
            if found.metadata.deletion_timestamp.is_none() {
                return Ok(found.metadata.uid);
            }
            if pause > LONGEST_LOOK {
                return Err(MakeError::Leaving { what: object.place.to_string() });
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Deletes the object that has this UID. False if there is another one of its name.
    pub(super) async fn end(&self, place: &Place, uid: &str) -> Result<bool, CallError> {
        let api = place.kind.api(&self.client, &place.namespace);
        match bounded(format!("delete {place}"), api.delete(&place.name, &only(uid))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The UID of what is there now for this Certificate. Listed, since that is what Waxwing has a right to for each kind.
    pub(super) async fn find_uid(
        &self,
        place: &Place,
        certificate: &str,
    ) -> Result<Option<String>, CallError> {
        let its = format!("{}={certificate}", labels::CERTIFICATE_UID);
        let its = ListParams::default().labels(&its).fields(&format!("metadata.name={}", place.name));
        let api = place.kind.api(&self.client, &place.namespace);
        match bounded(format!("list {place}"), api.list_metadata(&its)).await {
            Ok(found) => Ok(found.items.first().and_then(ResourceExt::uid)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
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

impl Drop for Attempt {
    fn drop(&mut self) {
        self.objects.ended(&self.uid, &self.bundle);
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
