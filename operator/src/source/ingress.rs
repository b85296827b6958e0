//! Annotated Ingresses: makes their Certificates, keeps them so, and takes away those no longer named.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::ready, stream};
use k8s_openapi::api::networking::v1::Ingress;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use kube_runtime::controller::{Action, Controller};
use tokio_util::sync::CancellationToken;
use waxwing_api::{Certificate, labels};

use super::{
    annotations,
    desired::{Step, controller, desired, steps},
};
use crate::runtime::{
    client::{CallError, bounded},
    events::{EventKind, Events, reference},
    metrics::Metrics,
    watch::Watch,
};

const MANAGER: &str = "waxwing-ingress";
/// After a failed call. Nothing here asks a CA, so there is nothing to be careful with but the API server.
const RETRY: Duration = Duration::from_secs(15);
/// After a spec that the API server refuses; a change of the Ingress comes sooner.
const RETRY_REFUSED: Duration = Duration::from_mins(10);
const CONCURRENCY: u16 = 16;
/// Calls at once for one Ingress.
const STEPS: usize = 8;

/// An Event: its kind, reason and note.
type News = (EventKind, &'static str, String);

/// What the controller stands on.
#[derive(Clone)]
pub struct Context {
    /// Certificates of all namespaces.
    pub certificates: Watch<Certificate>,
    /// The API server.
    pub client: Client,
    /// Where steps and mistakes are told.
    pub events: Events,
    /// Where reconciliations are counted.
    pub metrics: Arc<Metrics>,
}

/// Runs until `stop`.
pub async fn run(context: Context, ingresses: Watch<Ingress>, stop: CancellationToken) {
    let certificates = context.certificates.clone();
    // A Certificate that changes or goes brings a look at the Ingress that made it.
    let owners = {
        let ingresses = ingresses.clone();
        certificates.touched().filter_map(move |certificate| {
            let owner = controller(&certificate).filter(|owner| owner.kind == "Ingress");
            ready(owner.and_then(|owner| ingresses.get(certificate.namespace().as_deref(), &owner.name)))
        })
    };
    let annotated =
        stream::select(ingresses.objects(), owners).filter(|ingress| ready(is_annotated(ingress)));
    // A Certificate that exists must not be taken for one that is missing.
    certificates.wait_until_synced().await;
    let metrics = Arc::clone(&context.metrics);
    Controller::for_shared_stream(annotated, ingresses.store().clone())
        .with_config(kube_runtime::controller::Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, retry, Arc::new(context))
        .for_each(move |result| {
            metrics.reconcile("ingress", result.is_ok());
            ready(())
        })
        .await;
}

async fn reconcile(ingress: Arc<Ingress>, context: Arc<Context>) -> Result<Action, CallError> {
    if ingress.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let desired = desired(&ingress);
    let namespace = ingress.namespace().unwrap_or_default();
    let existing = context
        .certificates
        .store()
        .state_filter(|certificate| certificate.metadata.namespace.as_deref() == Some(namespace.as_str()));
    let steps = steps(&ingress, &desired, existing.iter().map(AsRef::as_ref));
    let taken: Vec<_> = stream::iter(steps)
        .map(|step| take(&context.client, &namespace, step))
        .buffered(STEPS)
        .collect()
        .await;
    // Told after all is done: certificates don't wait for Events.
    let mut news: Vec<News> =
        desired.problems.into_iter().map(|note| (EventKind::Warning, "BadConfig", note)).collect();
    let mut failed = None;
    for step in taken {
        match step {
            Ok(told) => news.extend(told),
            Err(error) => {
                if error.is_refusal() {
                    news.push((EventKind::Warning, "BadConfig", error.to_string()));
                }
                failed = Some(error);
            }
        }
    }
    for (kind, reason, note) in news {
        context.events.publish(&reference(ingress.as_ref()), kind, reason, &note).await;
    }
    failed.map_or(Ok(Action::await_change()), Err)
}

#[allow(clippy::needless_pass_by_value)] // as the controller calls it
fn retry(ingress: Arc<Ingress>, error: &CallError, _: Arc<Context>) -> Action {
    let (namespace, name) = (ingress.namespace().unwrap_or_default(), ingress.name_any());
    tracing::warn!(ingress = format!("{namespace}/{name}"), %error, "an Ingress's Certificates aren't as they should be");
    Action::requeue(if error.is_refusal() && !error.is_forbidden() { RETRY_REFUSED } else { RETRY })
}

/// One step, and what to tell of it.
async fn take(client: &Client, namespace: &str, step: Step) -> Result<Option<News>, CallError> {
    let api: Api<Certificate> = Api::namespaced(client.clone(), namespace);
    Ok(Some(match step {
        Step::Leave(why) => (EventKind::Warning, "BadConfig", why),
        Step::Create(certificate) => {
            let name = certificate.name_any();
            // The cache may lag, and someone else's Certificate must not be taken over.
            let found = bounded(format!("get Certificate {namespace}/{name}"), api.get_opt(&name)).await?;
            if found.is_some() {
                return Ok(None);
            }
            // Not forced: what someone else makes in this moment stays theirs.
            apply(&api, namespace, &certificate, &PatchParams::apply(MANAGER)).await?;
            (EventKind::Normal, "CreateCertificate", format!("made the Certificate {name}"))
        }
        Step::Update(certificate) => {
            let forced = PatchParams::apply(MANAGER).force();
            match apply(&api, namespace, &certificate, &forced).await {
                Ok(()) => {}
                // The cache lags; what is newer brings another look.
                Err(error) if error.is_conflict() => return Ok(None),
                Err(error) => return Err(error),
            }
            let name = certificate.name_any();
            (
                EventKind::Normal,
                "UpdateCertificate",
                format!("changed the Certificate {name} like this Ingress"),
            )
        }
        Step::Delete { name, uid } => {
            let parameters = DeleteParams {
                preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
                ..DeleteParams::default()
            };
            match bounded(format!("delete Certificate {namespace}/{name}"), api.delete(&name, &parameters))
                .await
            {
                Ok(_) => {}
                Err(error) if error.is_not_found() || error.is_conflict() => return Ok(None),
                Err(error) => return Err(error),
            }
            let note =
                format!("deleted the Certificate {name}, which spec.tls no longer names; its Secret stays");
            (EventKind::Normal, "DeleteCertificate", note)
        }
    }))
}

async fn apply(
    api: &Api<Certificate>,
    namespace: &str,
    certificate: &Certificate,
    parameters: &PatchParams,
) -> Result<(), CallError> {
    let name = certificate.name_any();
    let patch = Patch::Apply(certificate);
    bounded(format!("apply Certificate {namespace}/{name}"), api.patch(&name, parameters, &patch))
        .await
        .map(drop)
}

/// Whether its owner asks for something. A route of Waxwing's own has annotations that are no wishes.
fn is_annotated(ingress: &Ingress) -> bool {
    let is_route = ingress.labels().get(labels::COMPONENT).is_some_and(|own| own == labels::COMPONENT_ROUTE);
    !is_route && ingress.annotations().keys().any(|key| key.starts_with(annotations::PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_of_ones_own_asks_for_nothing() {
        let mut ingress = Ingress::default();
        ingress.metadata.annotations = Some([("waxwing.dev/issuer".to_owned(), "ca".to_owned())].into());
        assert!(is_annotated(&ingress));
        let route = (labels::COMPONENT.to_owned(), labels::COMPONENT_ROUTE.to_owned());
        ingress.metadata.labels = Some([route].into());
        assert!(!is_annotated(&ingress));
    }
}
