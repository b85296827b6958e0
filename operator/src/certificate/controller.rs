//! The controller of Certificates: watches become looks, looks become tasks.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use kube_runtime::controller::{Action, Config, Controller};
use kube_runtime::reflector::{ObjectRef, Store};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use waxwing_api::{Certificate, labels, reason};

use super::history::is_stopped_by;
use super::issue::Context;
use super::order_secret;
use super::tasks::CertificateTasks;
use crate::issuer::IssuerKey;
use crate::runtime::client::{CallError, bounded};
use crate::runtime::watch::Change;

/// Runs until `shutdown`. Tasks under way are cancelled then: their orders are in the cluster.
pub async fn run(context: Context, shutdown: CancellationToken) -> Result<(), Infallible> {
    // Looks are short; a full queue holds back ended tasks, not running ones.
    let (ended, ends) = mpsc::channel(1024);
    let tasks = CertificateTasks::new(context.clone(), ended);
    // However this ends: a leader that is no more drops it in the middle.
    let _tasks_end_with_it = CancelAll(tasks.clone());
    let certificates = &context.watches.certificates;
    let ends = stream::unfold(ends, |mut ends| async { ends.recv().await.map(|end| (end, ends)) });
    let triggers = stream::select(ends, disturbances(&context, &tasks));

    let looks = Controller::for_shared_stream(certificates.objects(), certificates.store().clone())
        .reconcile_on(triggers)
        .with_config(Config::default().concurrency(64))
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(look, |_, _: &Infallible, _| Action::await_change(), Arc::new(tasks.clone()))
        // The only error left is an object that is gone; `sweep` sees to those.
        .for_each(|_| async {});
    tokio::select! {
        () = looks => {}
        () = sweep(&context, &tasks) => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

struct CancelAll(CertificateTasks);

impl Drop for CancelAll {
    fn drop(&mut self) {
        self.0.cancel_all();
    }
}

async fn look(certificate: Arc<Certificate>, tasks: Arc<CertificateTasks>) -> Result<Action, Infallible> {
    Ok(tasks
        .look(&certificate)
        .map_or_else(Action::await_change, |pause| Action::requeue(pause.min(LONGEST_REQUEUE))))
}

/// A timer may not lie years ahead; looking once a day costs nothing.
const LONGEST_REQUEUE: Duration = Duration::from_hours(24);

/// Certificates to look at because something else has changed.
fn disturbances(
    context: &Context,
    tasks: &CertificateTasks,
) -> impl Stream<Item = ObjectRef<Certificate>> + Send + use<> {
    let watches = &context.watches;
    let store = watches.certificates.store().clone();

    // An issuer became ready, or ceased to be.
    let by_issuer = {
        let store = store.clone();
        let receiver = context.issuers.changes();
        stream::unfold(receiver, move |mut receiver| {
            let store = store.clone();
            async move {
                let looks = match receiver.recv().await {
                    Ok(key) => having(&store, |certificate| names_issuer(certificate, &key)),
                    Err(RecvError::Lagged(_)) => having(&store, |_| true),
                    Err(RecvError::Closed) => return None,
                };
                Some((looks, receiver))
            }
        })
    };
    // A target Secret was touched by anyone.
    let by_secret = {
        let store = store.clone();
        watches.target_secrets.touched().map(move |secret| {
            let (namespace, name) = (secret.namespace(), secret.name_any());
            having(&store, |certificate| {
                certificate.namespace() == namespace && certificate.spec.secret_name == name
            })
        })
    };
    // A name may have become free, or come to this namespace.
    let by_ingress = {
        let store = store.clone();
        watches.ingresses.touched().map(move |ingress| {
            let is_route =
                ingress.labels().get(labels::COMPONENT).is_some_and(|c| c == labels::COMPONENT_ROUTE);
            if is_route {
                Vec::new()
            } else {
                having(&store, |certificate| is_stopped_by(certificate, reason::NAME_OWNED_ELSEWHERE))
            }
        })
    };
    let by_route = {
        let store = store.clone();
        let changes = watches.gateway_api.changes();
        changes.map(move |()| {
            having(&store, |certificate| is_stopped_by(certificate, reason::NAME_OWNED_ELSEWHERE))
        })
    };
    // Another Certificate of the same Secret has gone.
    let by_certificate = {
        let store = store.clone();
        watches.certificates.changes().map(move |change| match change {
            Change::Deleted(gone) => having(&store, |certificate| {
                certificate.namespace() == gone.namespace()
                    && certificate.spec.secret_name == gone.spec.secret_name
            }),
            Change::Applied(_) | Change::Resynced => Vec::new(),
        })
    };
    // Another process has saved an order: the leader before this one, whose last write came late.
    let by_order = {
        let (store, replica) = (store.clone(), context.replica.clone());
        watches.order_secrets.changes().map(move |change| match change {
            Change::Applied(order) if !order_secret::is_begun_by(&order, &replica) => {
                let uid = order_secret::certificate_uid(order.metadata.name.as_deref().unwrap_or_default());
                having(&store, |certificate| certificate.metadata.uid.as_deref() == uid)
            }
            Change::Applied(_) | Change::Deleted(_) | Change::Resynced => Vec::new(),
        })
    };
    // The turn of one that waits for a limit may have come early.
    let by_budget = {
        let (store, freed) = (store.clone(), context.budget.freed());
        stream::unfold(freed, move |mut freed| {
            let store = store.clone();
            async move {
                let looks = match freed.recv().await {
                    Ok(uid) => having(&store, |certificate| {
                        certificate.metadata.uid.as_deref() == Some(uid.as_str())
                    }),
                    Err(RecvError::Lagged(_)) => {
                        having(&store, |certificate| is_stopped_by(certificate, reason::RATE_LIMITED))
                    }
                    Err(RecvError::Closed) => return None,
                };
                Some((looks, freed))
            }
        })
    };
    let all: [BoxStream<'static, Vec<Arc<Certificate>>>; 7] = [
        by_issuer.boxed(),
        by_secret.boxed(),
        by_ingress.boxed(),
        by_route.boxed(),
        by_certificate.boxed(),
        by_order.boxed(),
        by_budget.boxed(),
    ];
    let tasks = tasks.clone();
    stream::select_all(all).flat_map(move |certificates| {
        let references: Vec<_> = certificates
            .iter()
            .map(|certificate| {
                tasks.disturb(certificate);
                ObjectRef::from_obj(&**certificate)
            })
            .collect();
        stream::iter(references)
    })
}

/// Ends what belongs to Certificates that are gone: their tasks, and their order Secrets.
async fn sweep(context: &Context, tasks: &CertificateTasks) {
    let watches = &context.watches;
    let certificates = watches.certificates.changes().map(|change| match change {
        Change::Deleted(certificate) => Sweep::Gone(certificate),
        Change::Applied(_) => Sweep::Nothing,
        Change::Resynced => Sweep::Everything,
    });
    let orders = watches.order_secrets.changes().map(|change| match change {
        Change::Applied(_) | Change::Resynced => Sweep::Everything,
        Change::Deleted(_) => Sweep::Nothing,
    });
    watches.certificates.wait_until_synced().await;
    watches.order_secrets.wait_until_synced().await;
    let mut changes = std::pin::pin!(stream::select(certificates, orders));
    let mut failed = false;
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            // What could not be deleted is tried again.
            () = tokio::time::sleep(SWEEP_AGAIN), if failed => Some(Sweep::Everything),
        };
        match change {
            None => return,
            Some(Sweep::Nothing) => continue,
            Some(Sweep::Gone(certificate)) => {
                forget(context, tasks, certificate.metadata.uid.as_deref().unwrap_or_default());
                let namespace = certificate.namespace().unwrap_or_default();
                context.metrics.forget_certificate(&namespace, &certificate.name_any());
            }
            Some(Sweep::Everything) => {}
        }
        failed = !sweep_once(context, tasks).await;
    }
}

fn forget(context: &Context, tasks: &CertificateTasks, uid: &str) {
    tasks.forget(uid);
    context.budget.forget(uid);
    context.advisor.forget(uid);
    context.revocations.forget(uid);
}

enum Sweep {
    Nothing,
    Gone(Arc<Certificate>),
    Everything,
}

const SWEEP_AGAIN: Duration = Duration::from_secs(10);

/// True if nothing is left to sweep.
async fn sweep_once(context: &Context, tasks: &CertificateTasks) -> bool {
    let watches = &context.watches;
    let orders: Api<Secret> = Api::namespaced(context.client.clone(), &context.own_namespace);
    let certificates = watches.certificates.store().state();
    let alive: HashSet<String> = certificates.iter().filter_map(|certificate| certificate.uid()).collect();
    drop(certificates);
    for uid in tasks.known().into_iter().filter(|uid| !alive.contains(uid)) {
        forget(context, tasks, &uid);
    }
    let lives = |namespace: &str, name: &str| watches.certificates.get(Some(namespace), name).is_some();
    context.metrics.retain_certificates(lives);
    let mut clean = true;
    for secret in watches.order_secrets.store().state() {
        let name = secret.name_any();
        let Some(uid) = order_secret::certificate_uid(&name) else { continue };
        if alive.contains(uid) {
            continue;
        }
        let swept = match is_gone(context, &secret, uid).await {
            // The cache doesn't show it yet: another replica was faster to see it and to order.
            Ok(false) => {
                clean = false;
                continue;
            }
            Ok(true) => order_secret::delete(&orders, &name, secret.uid(), secret.resource_version()).await,
            Err(error) => Err(error),
        };
        match swept {
            Ok(()) => tracing::info!(secret = name, "swept the order of a Certificate that is gone"),
            Err(error) => {
                let certificate = secret.annotations().get(labels::ORDER_CERTIFICATE).map(String::as_str);
                tracing::warn!(%error, secret = name, certificate, "the order of a Certificate that is gone is left for later");
                clean = false;
            }
        }
    }
    clean
}

/// Asks the API server, not the cache, for the Certificate of an order: what is swept holds a private key.
async fn is_gone(context: &Context, order: &Secret, uid: &str) -> Result<bool, CallError> {
    let Some((namespace, name)) =
        order.annotations().get(labels::ORDER_CERTIFICATE).and_then(|path| path.split_once('/'))
    else {
        return Ok(true);
    };
    let api: Api<Certificate> = Api::namespaced(context.client.clone(), namespace);
    let found = bounded(format!("get Certificate {namespace}/{name}"), api.get_opt(name)).await?;
    Ok(found.and_then(|found| found.uid()).as_deref() != Some(uid))
}

fn having(store: &Store<Certificate>, wanted: impl Fn(&Certificate) -> bool) -> Vec<Arc<Certificate>> {
    store.state().into_iter().filter(|certificate| wanted(certificate)).collect()
}

fn names_issuer(certificate: &Certificate, key: &IssuerKey) -> bool {
    let namespace = certificate.namespace().unwrap_or_default();
    let spec = &certificate.spec;
    let named = [&spec.issuer_ref].into_iter().chain(&spec.fallback_issuer_refs);
    named.into_iter().any(|reference| IssuerKey::referred(reference, &namespace) == *key)
}
