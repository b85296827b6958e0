//! Leader election by a Lease (coordination.k8s.io/v1) in Waxwing's own namespace.
//!
//! The protocol is in [`election`]; here are its reads, writes and watch, and what leading means to the rest of
//! the process: a [`Term`], which ends before anyone else may lead, and through whose client no write leaves
//! once it has ended.

mod election;
#[cfg(test)]
mod simulation;

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::{Method, Request};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    client::Body,
};
use kube_runtime::{WatchStreamExt, watcher::watch_object};
use serde_json::json;
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};
use waxwing_api::labels;

use self::election::{Election, Record, Step};
pub use self::election::{Timing, TimingError};
use super::{
    client::{CallError, at_once, explain_watch},
    metrics::Metrics,
    permit::Permit,
    reconnect::Reconnect,
};

/// The name of the Lease.
pub const NAME: &str = "waxwing";

const MANAGER: &str = "waxwing-lease";
/// Time for cancelled work to be gone, before it is only logged that it isn't. Its writes are refused either way.
const DRAIN: Duration = Duration::from_secs(2);
/// Reads and writes to give the lease back.
const RELEASE_TRIES: usize = 3;

/// A replica that stands for election.
#[derive(Clone)]
pub struct Candidate {
    /// The API server.
    pub client: Client,
    /// Who it is: a name that no other process has, now or later.
    pub identity: String,
    /// Where it is shown who leads.
    pub metrics: Arc<Metrics>,
    /// Waxwing's own namespace.
    pub namespace: String,
    /// How long things take.
    pub timing: Timing,
}

/// One time of leading, from taking the lease to losing it. Everything that only the leader does holds a clone:
/// when the term ends, all of it is dropped before the lease is given back.
#[derive(Clone, Debug)]
pub struct Term {
    state: Arc<State>,
    _work: mpsc::Sender<Infallible>,
}

#[derive(Debug)]
struct State {
    ended: CancellationToken,
    until: Mutex<Instant>,
}

/// A write that was not sent, because another replica may lead by now.
#[derive(Debug, Error)]
#[error("this replica no longer leads; the one that does goes on")]
pub struct NotLeading;

impl Candidate {
    /// Stands for election until `stop`, then gives the lease back. `leadership` holds the term while there is one.
    pub async fn stand(
        self,
        leadership: watch::Sender<Option<Term>>,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut news = pin!(watch_object(api.clone(), NAME).backoff(Reconnect::default()));
        let mut campaign = Campaign::new(self, api, leadership);
        while !stop.is_cancelled() {
            campaign.settle().await;
            match campaign.election.next(Instant::now()) {
                Step::Wait(until) => tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep_until(until) => {}
                    heard = news.next() => match heard {
                        Some(Ok(lease)) => {
                            campaign.election.hear(lease.as_ref().map(record), Instant::now());
                        }
                        Some(Err(error)) => {
                            let error = explain_watch(&error);
                            tracing::debug!(error, "the watch of the Lease was interrupted");
                        }
                        // It never ends. Should it, the tries go on without it.
                        None => sleep_until(until).await,
                    },
                },
                Step::GiveUp => campaign.election.give_up(),
                step => tokio::select! {
                    () = campaign.call(step) => {}
                    // What was sent may arrive: it is read before the lease is given back.
                    () = stop.cancelled() => campaign.election.refused(),
                },
            }
        }
        campaign.end("the process ends").await;
        campaign.release().await;
        Ok(())
    }
}

impl Term {
    /// Whether it lasts, by this machine's clock alone. Also false for a process that was stopped for too long.
    pub fn lasts(&self) -> bool {
        !self.state.ended.is_cancelled() && Instant::now() < self.state.until()
    }

    /// Cancelled when it ends.
    pub fn ended(&self) -> CancellationToken {
        self.state.ended.clone()
    }

    /// A client that reads as ever, and writes while the term lasts. Whoever was stopped in the middle of its work
    /// and wakes up when another replica leads, gets [`NotLeading`].
    pub fn fence(&self, client: &Client) -> Client {
        let (inner, term) = (client.clone(), self.clone());
        let service = service_fn(move |request: Request<Body>| {
            let (inner, term) = (inner.clone(), term.clone());
            async move {
                let mut request = request;
                if is_write(request.method()) {
                    if !term.lasts() {
                        return Err(BoxError::from(NotLeading));
                    }
                    // Until there is a connection the term may end: it is asked again when the body is written.
                    request.extensions_mut().insert(Permit::new(move || term.lasts()));
                }
                inner.send(request).await.map_err(BoxError::from)
            }
        });
        Client::new(service, client.default_namespace())
    }
}

impl State {
    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A candidate at work.
struct Campaign {
    candidate: Candidate,
    api: Api<Lease>,
    election: Election,
    leadership: watch::Sender<Option<Term>>,
    current: Option<Current>,
    /// Who was last told to lead.
    told: Option<String>,
    /// Whether the last call failed: told once, not at each try.
    failing: bool,
}

/// The term under way, seen from here: `gone` closes when nobody holds it any more.
struct Current {
    state: Arc<State>,
    gone: mpsc::Receiver<Infallible>,
}

impl Campaign {
    fn new(candidate: Candidate, api: Api<Lease>, leadership: watch::Sender<Option<Term>>) -> Self {
        let election = Election::new(&candidate.identity, candidate.timing);
        Self { candidate, api, election, leadership, current: None, told: None, failing: false }
    }

    /// Makes the term follow the election.
    async fn settle(&mut self) {
        match (self.election.leads_until(), &self.current) {
            (Some(until), Some(current)) => {
                *current.state.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
            }
            (Some(until), None) if until > Instant::now() => self.begin(until),
            (None, Some(_)) => self.end("the lease could not be renewed, or was taken").await,
            (_, None) => {
                let holder = self.election.holder().filter(|holder| *holder != self.candidate.identity);
                if let Some(holder) = holder
                    && self.told.as_deref() != Some(holder)
                {
                    tracing::info!(leader = holder, "another replica leads; standing by");
                    self.told = Some(holder.to_owned());
                }
            }
        }
    }

    fn begin(&mut self, until: Instant) {
        tracing::info!(identity = self.candidate.identity, "this replica leads");
        self.told = None;
        let state = Arc::new(State { ended: CancellationToken::new(), until: Mutex::new(until) });
        // Nothing is ever sent: it closes when the last clone of the term is dropped.
        let (work, gone) = mpsc::channel(1);
        self.current = Some(Current { state: Arc::clone(&state), gone });
        self.candidate.metrics.leader(true);
        self.leadership.send_replace(Some(Term { state, _work: work }));
    }

    /// Ends the term, and waits until all work has ended with it.
    async fn end(&mut self, why: &str) {
        let Some(mut current) = self.current.take() else { return };
        current.state.ended.cancel();
        self.leadership.send_replace(None);
        self.candidate.metrics.leader(false);
        let drained = timeout(DRAIN, current.gone.recv()).await.is_ok();
        tracing::info!(identity = self.candidate.identity, why, drained, "this replica leads no more");
    }

    async fn call(&mut self, step: Step) {
        let sent = Instant::now();
        let patience = self.candidate.timing.retry_period();
        let patience =
            self.election.leads_until().map_or(patience, |until| patience.min(until.duration_since(sent)));
        let answer = match &step {
            Step::Write(over) => timeout(patience, self.write(over.as_ref())).await,
            _ => match timeout(patience, self.read()).await {
                Ok(Ok(lease)) => {
                    self.election.read(lease.as_ref().map(record), Instant::now());
                    self.failing = false;
                    return;
                }
                Ok(Err(error)) => Ok(Err(error)),
                Err(elapsed) => Err(elapsed),
            },
        };
        match answer {
            Ok(Ok(lease)) => {
                self.election.written(record(&lease), sent, Instant::now());
                self.failing = false;
            }
            Ok(Err(error)) if error.is_conflict() || error.is_already_exists() || error.is_not_found() => {
                self.election.refused();
            }
            Ok(Err(error)) => self.failed(sent, &error.to_string(), error.is_forbidden()),
            Err(_) => self.failed(sent, "no answer from the API server in time", false),
        }
    }

    fn failed(&mut self, sent: Instant, error: &str, forbidden: bool) {
        self.election.failed(sent);
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(error, "the Lease is still out of reach");
        } else if forbidden {
            let advice = "give Waxwing the rights on leases that the chart and deploy/rbac.yaml set up; no replica leads without";
            tracing::error!(error, advice, "the Lease can't be used");
        } else {
            tracing::warn!(error, "the Lease is out of reach; trying again");
        }
    }

    async fn read(&self) -> Result<Option<Lease>, CallError> {
        at_once(self.what("get"), self.api.get_opt(NAME)).await
    }

    /// Writes the Lease in this replica's name, if it is still what it was.
    async fn write(&self, over: Option<&Record>) -> Result<Lease, CallError> {
        let Candidate { identity, timing, .. } = &self.candidate;
        // For people to read; no replica compares it with its own clock.
        let now = MicroTime(Timestamp::now());
        let Some(over) = over else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    labels: Some(
                        [(labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_WAXWING.to_owned())].into(),
                    ),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    acquire_time: Some(now.clone()),
                    holder_identity: Some(identity.clone()),
                    lease_duration_seconds: Some(timing.seconds()),
                    lease_transitions: Some(0),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                }),
            };
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            return at_once(self.what("create"), self.api.create(&params, &lease)).await;
        };
        let mut spec = json!({
            "holderIdentity": identity,
            "leaseDurationSeconds": timing.seconds(),
            "renewTime": now,
        });
        if over.holder.as_ref() != Some(identity) {
            spec["acquireTime"] = json!(now);
            spec["leaseTransitions"] = json!(over.transitions.saturating_add(1));
        }
        self.patch(&over.version, &spec).await
    }

    async fn patch(&self, version: &str, spec: &serde_json::Value) -> Result<Lease, CallError> {
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": spec}));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        at_once(self.what("write"), self.api.patch(NAME, &params, &patch)).await
    }

    /// Clears the holder, if it is this replica: the next one needn't wait.
    async fn release(&mut self) {
        let patience = self.candidate.timing.retry_period();
        let mut own = self.election.own().cloned();
        for _ in 0..RELEASE_TRIES {
            let version = match own.take() {
                Some(record) => record.version,
                None => match timeout(patience, self.read()).await {
                    Ok(Ok(Some(lease)))
                        if record(&lease).holder.as_ref() == Some(&self.candidate.identity) =>
                    {
                        lease.resource_version().unwrap_or_default()
                    }
                    Ok(Ok(_)) => return,
                    Ok(Err(_)) | Err(_) => break,
                },
            };
            let spec = json!({"holderIdentity": null, "renewTime": MicroTime(Timestamp::now())});
            match timeout(patience, self.patch(&version, &spec)).await {
                Ok(Ok(_)) => {
                    tracing::info!(identity = self.candidate.identity, "gave the lease back");
                    return;
                }
                // Renewed a moment ago, or taken: a read tells.
                Ok(Err(error)) if error.is_conflict() => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
        tracing::warn!("couldn't give the lease back; the next leader waits until it is over");
    }

    fn what(&self, verb: &str) -> String {
        format!("{verb} Lease {}/{NAME}", self.candidate.namespace)
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        version: lease.resource_version().unwrap_or_default(),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(seconds.unwrap_or_default()),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

fn is_write(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use axum::http::Response;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn term(lasts: Duration) -> (Term, mpsc::Receiver<Infallible>) {
        let state = State { ended: CancellationToken::new(), until: Mutex::new(Instant::now() + lasts) };
        let (work, gone) = mpsc::channel(1);
        (Term { state: Arc::new(state), _work: work }, gone)
    }

    /// An API server that has every `ConfigMap`.
    fn api_server() -> Client {
        let service = service_fn(|_: Request<Body>| async {
            let body = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#.to_vec();
            Ok::<_, Infallible>(Response::new(Body::from(body)))
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn no_write_leaves_after_the_term() {
        for end in ["by time", "by loss"] {
            let (term, _gone) = term(Duration::from_secs(10));
            let api: Api<ConfigMap> = Api::default_namespaced(term.fence(&api_server()));
            let patch = Patch::Merge(json!({"data": {}}));
            api.patch("a", &PatchParams::default(), &patch).await.unwrap();
            match end {
                // As for a process that was stopped: nobody has told it that the term is over.
                "by time" => tokio::time::advance(Duration::from_secs(10)).await,
                _ => term.state.ended.cancel(),
            }
            let refused = api.patch("a", &PatchParams::default(), &patch).await.unwrap_err();
            assert!(refused.to_string().contains("no longer leads"), "{end}: {refused}");
            assert!(api.delete("a", &kube::api::DeleteParams::default()).await.is_err());
            api.get("a").await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_last_client_of_a_term_ends_it() {
        let (term, mut gone) = term(Duration::from_secs(10));
        let fenced = term.fence(&api_server());
        drop(term);
        let api: Api<ConfigMap> = Api::default_namespaced(fenced);
        api.get("a").await.unwrap();
        assert!(gone.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
        drop(api);
        assert_eq!(timeout(Duration::from_secs(5), gone.recv()).await.unwrap(), None);
    }

    #[test]
    fn a_released_lease_has_no_holder() {
        let lease = |holder: &str| Lease {
            metadata: ObjectMeta { resource_version: Some("7".to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
        };
        assert_eq!(record(&lease("")).holder, None, "as other libraries write it");
        let held = record(&lease("a"));
        assert_eq!((held.holder.as_deref(), held.duration.as_secs()), (Some("a"), 15));
        assert_eq!(held.version, "7");
    }
}
