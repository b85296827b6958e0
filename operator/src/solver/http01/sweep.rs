//! The end of what serves issuances: it is found, also that of an earlier process, and deleted when nobody needs it.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams},
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use waxwing_api::labels;

use super::{
    bundle::Bundle,
    in_place,
    object::{self, Kind, Place, object_name},
    objects::Objects,
    route::is_route,
};
use crate::runtime::{
    client::{CallError, bounded},
    watch::Scope,
};

/// How soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the addresses of Waxwing's own pods are looked at while they stand in other namespaces.
const REFRESH: Duration = Duration::from_secs(5);

impl Objects {
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
        let ours = ListParams::default().labels(&object::selector());
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
