//! Keeps issuers ready: an account for each, and a condition that says so or why not.

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, future::ready, stream};
use jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use kube_runtime::controller::{Action, Controller};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;
use waxwing_acme::{
    Actor, Class, Observer, Retry, backoff,
    retry::{is_to_be_waited_for, whole_second},
};
use waxwing_api::{Acme, AcmeIssuer, ClusterIssuer, Issuer, IssuerKind, RenewalInformationSource, reason};

use super::{
    IssuerKey, ReadyIssuer, Registry,
    account::{Problem, establish, identity},
    limits::{ca, limits},
    registry::{Entry, Outcome, Version},
    status::{Failure, failure, known, news, status},
};
use crate::runtime::{
    client::{CallError, bounded},
    events::{EventKind, Events, reference},
    metrics::Metrics,
    watch::{Change, Watch},
};

const MANAGER: &str = "waxwing-issuer";
/// One attempt, requests to the CA and the API server included.
const ATTEMPT: Duration = Duration::from_mins(2);
/// The longest pause between attempts: a certificate waits for it.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// The same where a Secret is awaited, which isn't watched.
const LONGEST_PAUSE_FOR_SECRET: Duration = Duration::from_mins(5);

/// What the controller stands on.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Where changes are told.
    pub events: Events,
    /// Where reconciliations are counted.
    pub metrics: Arc<Metrics>,
    /// Where the Secrets of cluster issuers are.
    pub own_namespace: String,
    /// What it keeps.
    pub registry: Registry,
}

/// Runs until `stop`.
pub async fn run(
    context: Context,
    issuers: Watch<Issuer>,
    cluster_issuers: Watch<ClusterIssuer>,
    stop: CancellationToken,
) {
    let context = Arc::new(context);
    tokio::join!(
        run_kind(Arc::clone(&context), issuers, stop.clone()),
        run_kind(context, cluster_issuers, stop)
    );
}

/// What differs between the two kinds.
trait Kind:
    AcmeIssuer + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
    fn api(&self, client: &Client) -> Api<Self>;
}

impl Kind for Issuer {
    fn api(&self, client: &Client) -> Api<Self> {
        Api::namespaced(client.clone(), self.metadata.namespace.as_deref().unwrap_or("default"))
    }
}

impl Kind for ClusterIssuer {
    fn api(&self, client: &Client) -> Api<Self> {
        Api::all(client.clone())
    }
}

async fn run_kind<K: Kind>(context: Arc<Context>, watch: Watch<K>, stop: CancellationToken) {
    let lost = accounts_lost(context.registry.lost(), watch.clone());
    let triggers = stream::select(watch.objects(), lost);
    let forget = {
        let (registry, changes) = (context.registry.clone(), watch.changes());
        changes.for_each(move |change| {
            if let Change::Deleted(issuer) = change {
                registry.remove(&key(issuer.as_ref()));
            }
            ready(())
        })
    };
    let metrics = Arc::clone(&context.metrics);
    let controller = Controller::for_shared_stream(triggers, watch.store().clone())
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            move |issuer, context| reconcile(issuer, context, watch.clone()),
            |_, _, _| Action::requeue(Duration::from_secs(15)),
            context,
        )
        .for_each(move |result| {
            metrics.reconcile("issuer", result.is_ok());
            if let Err(error) = result {
                tracing::debug!(%error, "an issuer's reconciliation failed");
            }
            ready(())
        });
    tokio::select! {
        () = controller => {}
        () = forget => {}
    }
}

/// The issuers of this kind whose account was reported as lost.
fn accounts_lost<K: Kind>(
    lost: broadcast::Receiver<IssuerKey>,
    watch: Watch<K>,
) -> impl Stream<Item = Arc<K>> + Send {
    let keys = stream::unfold(lost, |mut lost| async {
        loop {
            match lost.recv().await {
                Ok(key) => return Some((key, lost)),
                // Those left out are reported again when they are next used.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    keys.filter_map(move |key| {
        ready((key.kind == K::KIND).then(|| watch.get(key.namespace.as_deref(), &key.name)).flatten())
    })
}

async fn reconcile<K: Kind>(
    issuer: Arc<K>,
    context: Arc<Context>,
    watch: Watch<K>,
) -> Result<Action, CallError> {
    if issuer.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let key = key(issuer.as_ref());
    let version = version(issuer.as_ref());
    let now = Timestamp::now();
    let known = context.registry.entry(&key).filter(|entry| entry.version.uid == version.uid);
    let is_known = known.is_some();
    let before = known.or_else(|| remembered(issuer.as_ref(), version.clone(), now));
    let entry = match before {
        Some(entry) if !is_due(&entry, &version, now) => {
            if !is_known {
                context.registry.set(&key, entry.clone());
            }
            entry
        }
        before => {
            let attempt = attempt(&context, issuer.as_ref(), &key, version.clone(), before);
            let entry = tokio::select! {
                entry = attempt => entry,
                // A CA that hangs must not hold back a change of the spec, which is next in the queue.
                () = superseded(&watch, &key, &version) => return Ok(Action::await_change()),
            };
            context.registry.set(&key, entry.clone());
            entry
        }
    };
    report(&context, issuer.as_ref(), &key, &entry).await?;
    Ok(match &entry.outcome {
        Outcome::Ready(_) => Action::await_change(),
        Outcome::Failed { next, .. } => Action::requeue(until(*next, Timestamp::now())),
    })
}

/// The last attempt of an earlier process, or of another replica, if the status says that it failed.
fn remembered<K: Kind>(issuer: &K, version: Version, now: Timestamp) -> Option<Entry> {
    let (problem, attempts, next) = failure(issuer.issuer_status(), version.generation, now)?;
    let identity = identity(issuer.acme());
    Some(Entry { version, identity, outcome: Outcome::Failed { problem, next }, attempts, lost: false })
}

/// Returns when the issuer's spec isn't this version any more.
async fn superseded<K: Kind>(watch: &Watch<K>, key: &IssuerKey, version: &Version) {
    let mut changes = std::pin::pin!(watch.changes());
    while changes.next().await.is_some() {
        let current = watch.get(key.namespace.as_deref(), &key.name);
        if current.is_none_or(|issuer| self::version(issuer.as_ref()) != *version) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Whether there is something to do but to report.
fn is_due(entry: &Entry, version: &Version, now: Timestamp) -> bool {
    entry.version != *version
        || match &entry.outcome {
            Outcome::Ready(_) => entry.lost,
            // A clock that was set back must not put it to sleep.
            Outcome::Failed { next, .. } => !is_to_be_waited_for(*next, now),
        }
}

async fn attempt<K: Kind>(
    context: &Context,
    issuer: &K,
    key: &IssuerKey,
    version: Version,
    before: Option<Entry>,
) -> Entry {
    let acme = issuer.acme();
    let identity = identity(acme);
    let ready = |account| {
        Outcome::Ready(Arc::new(ReadyIssuer {
            key: key.clone(),
            account,
            solvers: acme.solvers.clone(),
            allow: issuer.allow().to_vec(),
            profile: acme.profile.clone(),
            preferred_chain: acme.preferred_chain.clone(),
            ari: acme.renewal_information_source == RenewalInformationSource::Ari,
            rehearsal: acme.rehearsal.as_ref().map(|rehearsal| {
                let other = IssuerKey { name: rehearsal.issuer_ref.name.clone(), ..key.clone() };
                (other, rehearsal.when)
            }),
            ca: ca(acme),
            limits: limits(acme),
        }))
    };
    // Other solvers or rules, the same account: nothing to ask the CA.
    if let Some(Entry { identity: same, outcome: Outcome::Ready(known), lost: false, .. }) = &before
        && *same == identity
        && rehearses_elsewhere(acme, key).is_ok()
    {
        let outcome = ready(known.account.clone());
        return Entry { version, identity, outcome, attempts: 0, lost: false };
    }
    let lost = before.as_ref().is_some_and(|entry| entry.lost);
    let in_status = known(issuer.issuer_status(), version.generation).filter(|_| !lost);
    let namespace = key.namespace.as_deref().unwrap_or(&context.own_namespace);
    let observer = {
        let metrics = Arc::clone(&context.metrics);
        Observer::new(move |host, status| metrics.acme_request(host, status))
    };
    let establishing = async {
        rehearses_elsewhere(acme, key)?;
        establish(&context.client, namespace, acme, in_status, observer).await
    };
    let established = timeout(ATTEMPT, establishing).await;
    let problem = match established {
        Ok(Ok(account)) => {
            tracing::info!(issuer = %key, account = account.url(), "the issuer is ready");
            return Entry { version, identity, outcome: ready(account), attempts: 0, lost: false };
        }
        Ok(Err(problem)) => problem,
        Err(_) => Problem {
            reason: reason::DIRECTORY_UNREACHABLE.into(),
            message: format!(
                "the CA at {} took longer than {} s; check that it can be reached from here",
                acme.server,
                ATTEMPT.as_secs()
            ),
            class: Class { actor: Actor::Network, retry: Retry::Backoff },
        },
    };
    let attempts = before.filter(|entry| entry.version == version).map_or(0, |entry| entry.attempts) + 1;
    // The pause begins when the attempt has ended: against a CA that hangs it takes longer than the pause.
    let next = pause(attempts, &problem, Timestamp::now(), seed(key));
    tracing::warn!(issuer = %key, reason = %problem.reason, because = problem.message, %next, "the issuer isn't ready");
    // A lost account stays lost until it is registered again.
    Entry { version, identity, outcome: Outcome::Failed { problem, next }, attempts, lost }
}

/// A rule of the `CustomResourceDefinition` can't see the issuer's own name.
fn rehearses_elsewhere(acme: &Acme, key: &IssuerKey) -> Result<(), Problem> {
    match &acme.rehearsal {
        Some(rehearsal) if rehearsal.issuer_ref.name == key.name => Err(Problem::new(
            reason::INVALID_CONFIG,
            "spec.acme.rehearsal names this issuer itself: name another one, such as one of the CA's staging \
             environment, or remove it",
        )),
        _ => Ok(()),
    }
}

/// When the next attempt begins.
fn pause(attempts: u32, problem: &Problem, now: Timestamp, seed: u64) -> Timestamp {
    let longest = match &*problem.reason {
        reason::KEY_MISSING | reason::INVALID_KEY => LONGEST_PAUSE_FOR_SECRET,
        _ => LONGEST_PAUSE,
    };
    // The function caps at a tenth of what it takes for a certificate's lifetime.
    whole_second(backoff(attempts, &problem.class, now, Some(longest * 10), seed))
}

/// Writes the status if it has changed, and tells of it.
async fn report<K: Kind>(
    context: &Context,
    issuer: &K,
    key: &IssuerKey,
    entry: &Entry,
) -> Result<(), CallError> {
    let old = issuer.issuer_status();
    let email = issuer.acme().email.as_deref();
    let outcome = match &entry.outcome {
        Outcome::Ready(ready) => Ok((&ready.account, email)),
        Outcome::Failed { problem, next } => {
            Err(Failure { problem, attempts: entry.attempts, next: *next, account_lost: entry.lost })
        }
    };
    let new = status(old, outcome, entry.version.generation, Timestamp::now());
    if old == Some(&new) {
        return Ok(());
    }
    let apply = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": issuer.name_any(),
            "namespace": key.namespace,
            // Someone else's newer write is looked at first.
            "resourceVersion": issuer.resource_version(),
        },
        "status": new,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    let api = issuer.api(&context.client);
    let patch = Patch::Apply(&apply);
    let call = api.patch_status(&key.name, &parameters, &patch);
    match bounded(format!("write the status of {key}"), call).await {
        Ok(_) => {}
        // The watch brings the newer state, or its end, and with it another reconciliation.
        Err(error) if error.is_conflict() || error.is_not_found() => return Ok(()),
        Err(error) => {
            tracing::warn!(%error, "an issuer's status wasn't written");
            return Err(error);
        }
    }
    if let Some(condition) = news(old, &new) {
        let kind = if condition.status == "True" { EventKind::Normal } else { EventKind::Warning };
        context.events.publish(&reference(issuer), kind, &condition.reason, &condition.message).await;
    }
    Ok(())
}

fn version<K: Kind>(issuer: &K) -> Version {
    Version { uid: issuer.uid(), generation: issuer.meta().generation }
}

fn key<K: Kind>(issuer: &K) -> IssuerKey {
    let namespace = match K::KIND {
        IssuerKind::Issuer => issuer.namespace(),
        IssuerKind::ClusterIssuer => None,
    };
    IssuerKey { kind: K::KIND, namespace, name: issuer.name_any() }
}

fn until(time: Timestamp, now: Timestamp) -> Duration {
    // A moment more, so that it is due when the reconciliation comes.
    Duration::try_from(time.duration_since(now)).unwrap_or_default() + Duration::from_millis(50)
}

/// Spreads the attempts of issuers that failed together.
fn seed(key: &IssuerKey) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    std::hash::Hasher::finish(&hasher)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn failed(next: Timestamp) -> Entry {
        Entry {
            version: Version { uid: Some("u".to_owned()), generation: Some(1) },
            identity: Acme::default(),
            outcome: Outcome::Failed { problem: Problem::new(reason::KEY_MISSING, ""), next },
            attempts: 1,
            lost: false,
        }
    }

    #[test]
    fn a_status_write_starts_no_attempt() {
        let now = Timestamp::from_second(1000).unwrap();
        let entry = failed(Timestamp::from_second(1060).unwrap());
        let version = entry.version.clone();
        assert!(!is_due(&entry, &version, now));
        assert!(is_due(&entry, &version, Timestamp::from_second(1060).unwrap()));
        let edited = Version { generation: Some(2), ..version.clone() };
        assert!(is_due(&entry, &edited, now));
        // Known to be lost, and its registration failed: the pause holds.
        assert!(!is_due(&Entry { lost: true, ..entry }, &version, now));
    }

    #[test]
    fn an_issuer_doesnt_rehearse_at_itself() {
        let key = |name: &str| IssuerKey {
            kind: IssuerKind::ClusterIssuer,
            namespace: None,
            name: name.to_owned(),
        };
        let issuer_ref = waxwing_api::RehearsalIssuerRef { name: "a".to_owned() };
        let rehearsal = waxwing_api::Rehearsal { issuer_ref, ..waxwing_api::Rehearsal::default() };
        let acme = Acme { rehearsal: Some(rehearsal), ..Acme::default() };
        assert_eq!(rehearses_elsewhere(&acme, &key("a")).unwrap_err().reason, reason::INVALID_CONFIG);
        assert!(rehearses_elsewhere(&acme, &key("b")).is_ok());
    }

    #[test]
    fn pauses_are_bounded() {
        let now = Timestamp::from_second(1000).unwrap();
        let waited =
            |reason, attempts| until(pause(attempts, &Problem::new(reason, ""), now, 7), now).as_secs_f64();
        assert!((48.0..=73.0).contains(&waited(reason::KEY_MISSING, 1)));
        assert!(waited(reason::KEY_MISSING, 30) <= 301.0);
        assert!(waited(reason::ACCOUNT_REFUSED, 30) <= 3601.0);
    }
}
