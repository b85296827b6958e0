//! The end of what serves issuances: it is found, also what another process left, and deleted when nobody needs it.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use waxwing_api::labels;

use super::{
    bundle::{Bundle, Found, State},
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
/// How long after the first look for what other processes left the second one is: a request of theirs that was under
/// way may have been late. Each further pause is twice as long.
const FIRST_ROUND: Duration = Duration::from_mins(1);
/// The longest of these pauses. Rights may have come meanwhile, or objects from a backup.
const LONGEST_ROUND: Duration = Duration::from_hours(1);
/// How often the addresses of Waxwing's own pods are looked at while they stand in other namespaces.
const REFRESH: Duration = Duration::from_secs(5);

impl Objects {
    /// Deletes what no one needs, until `stop`. What other processes left is among it.
    pub async fn sweep(&self, stop: CancellationToken) {
        let sweeping = async {
            let mut orders = self.orders.changed();
            let (mut left, mut look, mut pause) = (Kind::ALL.to_vec(), Instant::now(), FIRST_ROUND);
            loop {
                if look <= Instant::now() {
                    self.adopt_edits();
                    left = self.adopt(left).await;
                    look = Instant::now() + if left.is_empty() { pause } else { AGAIN };
                    if left.is_empty() {
                        left = Kind::ALL.to_vec();
                        pause = (pause * 2).min(LONGEST_ROUND);
                    }
                }
                let next = self.sweep_once().await.map_or(look, |due| due.min(look));
                tokio::select! {
                    () = sleep_until(next) => {}
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
                    state.copied_to.clone().filter(|_| state.attempts > 0)
                };
                let (Some(namespace), Ok(_kept)) = (copied_to, bundle.lock.try_read()) else { continue };
                let made = match self.copied_endpoints(&uid, &namespace, &object_name(&uid)).await {
                    Ok(objects) => self.make(&bundle, &objects).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = made {
                    tracing::warn!(%error, namespace, "copied endpoints are out of date");
                }
            }
        }
    }

    /// Finds what other processes left, of these kinds. Answers with those that couldn't be listed.
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
                        let again = AGAIN.as_secs();
                        tracing::warn!(
                            %error,
                            "couldn't list what earlier Waxwing processes left; trying again in {again} s"
                        );
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
            self.adopted(uid, |state| {
                // What has been made since the list was read is newer than the list.
                let found = state.objects.entry(place).or_default();
                found.uid = found.uid.take().or(object.uid());
            });
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
                self.adopted(&uid, |state| {
                    state.edited.insert(of);
                });
            }
        }
    }

    fn adopted(&self, uid: &str, add: impl FnOnce(&mut State)) {
        let new = || Arc::new(Bundle::new(Instant::now()));
        // The lock is held, so that the bundle isn't taken for empty meanwhile.
        add(&mut self.bundles().entry(uid.to_owned()).or_insert_with(new).state());
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
            let Some(at) = bundle.state().due(open, self.quiet) else { continue };
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
                let state = bundle.state();
                // An attempt that has begun meanwhile makes all again.
                if state.attempts == 0 && state.is_empty() {
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
        let known = |(place, found): (&Place, &Found)| (place.clone(), found.uid.clone());
        let places: Vec<(Place, Option<String>)> = bundle.state().objects.iter().map(known).collect();
        for (place, known) in places {
            let gone = async {
                // Made, or ended, by a request without an answer.
                let known = match known {
                    Some(known) => Some(known),
                    None => self.find_uid(&place, uid).await?,
                };
                match known {
                    Some(known) => self.end(&place, &known).await,
                    None => Ok(true),
                }
            };
            match gone.await {
                Ok(true) => {
                    bundle.state().objects.remove(&place);
                }
                Ok(false) => {
                    tracing::debug!(%place, "another one is there now; looking again");
                    bundle.state().objects.insert(place, Found::default());
                    clean = false;
                }
                Err(error) => {
                    tracing::warn!(%error, "what served a challenge is left for later");
                    clean = false;
                }
            }
        }
        bundle.state().copied_to = None;
        clean
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::{
        collections::BTreeMap,
        convert::Infallible,
        sync::{Mutex, MutexGuard},
    };

    use axum::http::{Method, Request, Response};
    use kube::{Client, client::Body};
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::{
        runtime::watch::Watch,
        solver::{
            http01::{object::Object, objects::MakeError},
            open_orders::OpenOrders,
        },
    };

    const UID: &str = "0a1b2c3d-0000-4000-8000-000000000001";
    const QUIET: Duration = Duration::from_secs(30);

    /// An API server that knows pods alone.
    #[derive(Clone, Default)]
    struct Cluster(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        /// With what each one's UID ends.
        pods: BTreeMap<String, u32>,
        made: u32,
        away: bool,
        /// Does the next thing asked for, and says that it was away.
        mute: bool,
        /// So many more times a pod is said to be on its way out.
        leaving: u32,
    }

    impl Cluster {
        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap()
        }

        fn pods(&self) -> usize {
            self.state().pods.len()
        }

        fn answer(&self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
            let mut state = self.state();
            let failure = |code: u16, reason: &str| {
                (code, json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code}))
            };
            if state.away {
                return failure(503, "");
            }
            let name = path.rsplit('/').next().unwrap();
            let answer = match *method {
                Method::GET => {
                    let pods = state.pods.iter().filter(|_| name == "pods");
                    let items: Vec<Value> =
                        pods.map(|(name, number)| metadata(name, *number, false)).collect();
                    (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
                }
                Method::PATCH => {
                    let leaving = state.leaving > 0;
                    state.leaving = state.leaving.saturating_sub(1);
                    (200, metadata(name, state.make(name), leaving))
                }
                Method::DELETE => match state.pods.get(name) {
                    None => failure(404, "NotFound"),
                    Some(number) if body["preconditions"]["uid"] != uid(*number) => failure(409, "Conflict"),
                    Some(_) => {
                        state.pods.remove(name);
                        (200, json!({"kind": "Status", "status": "Success"}))
                    }
                },
                _ => panic!("{method} {path}"),
            };
            if std::mem::take(&mut state.mute) { failure(503, "") } else { answer }
        }

        fn objects(&self) -> Arc<Objects> {
            let cluster = self.clone();
            let service = service_fn(move |request: Request<Body>| {
                let cluster = cluster.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect_bytes().await.unwrap();
                    let body = serde_json::from_slice(&body).unwrap_or_default();
                    let (code, body) = cluster.answer(&head.method, head.uri.path(), &body);
                    let body = Body::from(body.to_string().into_bytes());
                    Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
                }
            });
            Arc::new(Objects::new(
                Client::new(service, "default"),
                "waxwing-system",
                Scope::Cluster,
                "waxwing",
                QUIET,
                Watch::of(Vec::new()),
                OpenOrders::default(),
            ))
        }
    }

    impl State {
        /// The number of the pod of that name, which is made unless it is there.
        fn make(&mut self, name: &str) -> u32 {
            self.made += 1;
            *self.pods.entry(name.to_owned()).or_insert(self.made)
        }
    }

    fn uid(number: u32) -> String {
        format!("uid-{number}")
    }

    fn metadata(name: &str, number: u32, leaving: bool) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": name,
            "namespace": "web",
            "uid": uid(number),
            "labels": {labels::CERTIFICATE_UID: UID},
            "deletionTimestamp": leaving.then_some("2026-01-01T00:00:00Z"),
        }})
    }

    fn pod() -> Object {
        Object::new(Kind::Pod, "web", &object_name(UID), UID, json!({}))
    }

    /// Sweeps in the background, as long as the test runs.
    fn sweeping(objects: &Arc<Objects>) {
        let objects = Arc::clone(objects);
        tokio::spawn(async move { objects.sweep(CancellationToken::new()).await });
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_process_left_goes_once_the_api_server_is_back() {
        let cluster = Cluster::default();
        cluster.state().make(&object_name(UID));
        cluster.state().away = true;
        sweeping(&cluster.objects());
        sleep(QUIET * 10).await;
        cluster.state().away = false;
        // It is found, and then the API server is away once more.
        sleep(AGAIN + Duration::from_secs(1)).await;
        cluster.state().away = true;
        sleep(QUIET * 10).await;
        assert_eq!(cluster.pods(), 1);
        cluster.state().away = false;
        sleep(AGAIN + Duration::from_secs(1)).await;
        assert_eq!(cluster.pods(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_process_made_late_is_found() {
        let cluster = Cluster::default();
        sweeping(&cluster.objects());
        sleep(Duration::from_secs(1)).await;
        cluster.state().make(&object_name(UID));
        sleep(FIRST_ROUND + QUIET).await;
        assert_eq!(cluster.pods(), 0);
        sleep(LONGEST_ROUND * 5).await;
        cluster.state().make(&object_name(UID));
        sleep(LONGEST_ROUND + QUIET + Duration::from_secs(1)).await;
        assert_eq!(cluster.pods(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_attempt_uses_stays_until_it_ends() {
        let cluster = Cluster::default();
        let objects = cluster.objects();
        sweeping(&objects);
        let attempt = objects.attempt(UID);
        objects.ensure(UID, &[pod()]).await.unwrap();
        sleep(LONGEST_ROUND).await;
        let next = objects.attempt(UID);
        drop(attempt);
        sleep(LONGEST_ROUND).await;
        assert_eq!(cluster.pods(), 1);
        drop(next);
        sleep(QUIET / 2).await;
        assert_eq!(cluster.pods(), 1);
        sleep(QUIET).await;
        assert_eq!(cluster.pods(), 0);
        assert!(objects.bundles().is_empty());
        drop(objects.attempt(UID));
        assert!(objects.bundles().is_empty(), "one that used nothing leaves nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_being_deleted_is_waited_for_and_made_again() {
        let cluster = Cluster::default();
        let objects = cluster.objects();
        let _attempt = objects.attempt(UID);
        cluster.state().leaving = 5;
        objects.ensure(UID, &[pod()]).await.unwrap();
        assert_eq!(cluster.state().leaving, 0);
        cluster.state().leaving = 100;
        let other = Object::new(Kind::Pod, "web", "other", UID, json!({}));
        let error = objects.ensure(UID, &[other]).await.unwrap_err();
        assert!(matches!(error, MakeError::Leaving { .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_somebody_else_made_again_is_looked_at_again() {
        let cluster = Cluster::default();
        let objects = cluster.objects();
        let place = pod().place;
        let attempt = objects.attempt(UID);
        objects.ensure(UID, &[pod()]).await.unwrap();
        // Late: the next leader's is spared.
        cluster.state().pods.clear();
        cluster.state().make(&place.name);
        assert!(!objects.end(&place, &uid(1)).await.unwrap());
        assert_eq!(cluster.pods(), 1);
        assert!(objects.end(&place, &uid(2)).await.unwrap());
        assert!(objects.end(&place, &uid(2)).await.unwrap(), "gone is gone");
        // Who still leads sees to what is there.
        cluster.state().make(&place.name);
        sweeping(&objects);
        drop(attempt);
        sleep(QUIET + AGAIN + Duration::from_secs(1)).await;
        assert_eq!(cluster.pods(), 0);
        assert!(objects.bundles().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_answer_got_lost_goes_too() {
        let cluster = Cluster::default();
        let objects = cluster.objects();
        sweeping(&objects);
        sleep(Duration::from_secs(1)).await;
        let attempt = objects.attempt(UID);
        cluster.state().mute = true;
        objects.ensure(UID, &[pod()]).await.unwrap_err();
        assert_eq!(cluster.pods(), 1);
        drop(attempt);
        sleep(QUIET + Duration::from_secs(1)).await;
        assert_eq!(cluster.pods(), 0);
    }
}
