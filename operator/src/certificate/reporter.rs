//! Writes reports: the status on the version that it was made from, then the Event.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use waxwing_api::Certificate;

use super::FIELD_MANAGER;
use super::status::{self, Held, Outcome, Report};
use crate::runtime::client::{CallError, bounded};
use crate::runtime::events::{self, EventKind, Events};
use crate::runtime::metrics::Metrics;

/// Reports on one Certificate.
pub struct Reporter {
    api: Api<Certificate>,
    events: Events,
    metrics: Arc<Metrics>,
    /// The newest version known here.
    current: Mutex<Arc<Certificate>>,
}

impl Reporter {
    /// Reports on `certificate`, from the version given on.
    pub fn new(
        client: &Client,
        events: Events,
        metrics: Arc<Metrics>,
        certificate: Arc<Certificate>,
    ) -> Self {
        let api = Api::namespaced(client.clone(), &certificate.namespace().unwrap_or_default());
        Self { api, events, metrics, current: Mutex::new(certificate) }
    }

    /// Writes what follows from `outcome`, if it differs from what stands there, and sends its Event.
    /// Gives the version that the Certificate has then.
    pub async fn report(
        &self,
        held: &Held<'_>,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<Option<String>, CallError> {
        let mut certificate = self.current();
        let mut tries = TRIES;
        loop {
            let Report { status, event, remarks } = status::report(&certificate, held, outcome, now);
            let before = certificate.status.as_ref().map_or(Ok(Value::Null), serde_json::to_value);
            let (Ok(before), Ok(after)) = (before, serde_json::to_value(&status)) else {
                // Both are plain data of ours: nothing in them can't be written as JSON.
                return Ok(None);
            };
            if before != after {
                match self.write(&certificate, &before, &after).await {
                    Ok(written) => certificate = Arc::new(written),
                    Err(error) if error.is_conflict() && tries > 0 => {
                        tries -= 1;
                        let name = certificate.name_any();
                        let newest = bounded(format!("get Certificate {name}"), self.api.get(&name)).await?;
                        if newest.metadata.uid != certificate.metadata.uid {
                            return Ok(None);
                        }
                        // What was done was done for the spec as it was: a newer one gets a look of its own.
                        let observed = certificate.metadata.generation;
                        certificate = Arc::new(newest);
                        if certificate.metadata.generation != observed {
                            let mut as_observed = (*certificate).clone();
                            as_observed.metadata.generation = observed;
                            certificate = Arc::new(as_observed);
                        }
                        continue;
                    }
                    // Deleted meanwhile: there is nobody left to tell.
                    Err(error) if error.is_not_found() => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&certificate);
            self.metrics.certificate(
                &certificate.namespace().unwrap_or_default(),
                &certificate.name_any(),
                held.fault.is_none() && held.leaf.is_some(),
                held.leaf.map(|leaf| leaf.not_after),
            );
            for notice in event.into_iter().chain(remarks) {
                let kind = if notice.warning { EventKind::Warning } else { EventKind::Normal };
                self.events
                    .publish(&events::reference(&*certificate), kind, notice.reason, &notice.note)
                    .await;
            }
            return Ok(certificate.resource_version());
        }
    }

    async fn write(
        &self,
        certificate: &Certificate,
        before: &Value,
        after: &Value,
    ) -> Result<Certificate, CallError> {
        let name = certificate.name_any();
        let patch = json!({
            "metadata": { "resourceVersion": certificate.metadata.resource_version },
            "status": status::merge_patch(before, after),
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let what =
            format!("write the status of Certificate {}/{name}", certificate.namespace().unwrap_or_default());
        bounded(what, self.api.patch_status(&name, &params, &Patch::Merge(patch))).await
    }

    fn current(&self) -> Arc<Certificate> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How often a status is written on a newer version before giving way to whoever keeps changing it.
const TRIES: usize = 5;
