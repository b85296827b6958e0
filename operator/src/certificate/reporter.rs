//! Writes reports: the status on the version that it was made from, then the Event.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Map, Value, json};
use waxwing_api::{Certificate, CertificateStatus};

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
        // It is a part of every step; this way none has room for it but while it reports.
        Box::pin(self.report_here(held, outcome, now)).await
    }

    async fn report_here(
        &self,
        held: &Held<'_>,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<Option<String>, CallError> {
        let mut certificate = self.current();
        let mut tries = TRIES;
        loop {
            let Report { status, event, remarks } = status::report(&certificate, held, outcome, now);
            // Both are plain data of ours: nothing in them can't be written as JSON.
            let Ok(difference) = difference(certificate.status.as_ref(), &status) else { return Ok(None) };
            if let Some(difference) = difference {
                match self.write(&certificate, difference).await {
                    Ok(mut written) => {
                        // Nobody here reads who has set which field.
                        written.metadata.managed_fields = None;
                        certificate = Arc::new(written);
                    }
                    Err(error) if error.is_conflict() && tries > 0 => {
                        tries -= 1;
                        let name = certificate.name_any();
                        let newest = bounded(format!("get Certificate {name}"), self.api.get(&name)).await?;
                        if newest.metadata.uid != certificate.metadata.uid {
                            return Ok(certificate.resource_version());
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
                    Err(error) if error.is_not_found() => return Ok(certificate.resource_version()),
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

    async fn write(&self, certificate: &Certificate, difference: Value) -> Result<Certificate, CallError> {
        let name = certificate.name_any();
        let patch = json!({
            "metadata": { "resourceVersion": certificate.metadata.resource_version },
            "status": difference,
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

/// The merge patch between two statuses, if there is a difference.
fn difference(
    before: Option<&CertificateStatus>,
    after: &CertificateStatus,
) -> Result<Option<Value>, serde_json::Error> {
    let before = before.map_or(Ok(Value::Null), serde_json::to_value)?;
    let after = serde_json::to_value(after)?;
    Ok((before != after).then(|| merge_patch(&before, &after)))
}

/// The merge patch that turns one JSON value into another: what is gone becomes null.
fn merge_patch(before: &Value, after: &Value) -> Value {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let mut patch = Map::new();
            for (key, old) in before {
                match after.get(key) {
                    None => drop(patch.insert(key.clone(), Value::Null)),
                    Some(new) if new == old => {}
                    Some(new) => drop(patch.insert(key.clone(), merge_patch(old, new))),
                }
            }
            for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                patch.insert(key.clone(), new.clone());
            }
            Value::Object(patch)
        }
        _ => after.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_removes_what_is_gone() {
        let before = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1]});
        let after = json!({"b": {"d": 3}, "e": [2], "f": 4});
        let patch = merge_patch(&before, &after);
        assert_eq!(patch, json!({"a": null, "b": {"c": null, "d": 3}, "e": [2], "f": 4}));
        assert_eq!(merge_patch(&after, &after), json!({}));
    }
}
