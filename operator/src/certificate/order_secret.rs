//! The order Secret: the engine's journal, kept in Waxwing's own namespace.
//!
//! One per Certificate, named after its UID, without an owner: no tenant can read, plant or alter one,
//! and no garbage collector takes a key that a CA has signed. Every write is fenced: it creates what was
//! absent, or patches the version that it has read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use waxwing_acme::{ChallengeType, Entry, Journal, JournalError};
use waxwing_api::{Certificate, labels};

use super::FIELD_MANAGER;
use super::decide::OpenOrder;
use crate::runtime::client::{CallError, bounded};

/// The journal of one Certificate's issuance.
#[derive(Debug)]
pub struct OrderSecret {
    api: Api<Secret>,
    name: String,
    certificate: String,
    failures: i32,
    replica: String,
    begun_elsewhere: AtomicBool,
    seen: Mutex<Option<Seen>>,
}

/// The order Secret as it was last read or written.
#[derive(Clone, Debug)]
struct Seen {
    uid: Option<String>,
    version: String,
    entry: Entry,
    /// When the Secret was made; an order that takes another's place keeps it.
    created: Option<Timestamp>,
}

impl OrderSecret {
    /// The journal of `certificate`, whose status counts `failures`, as `replica` keeps it. Nothing is read yet.
    pub fn of(
        client: &Client,
        own_namespace: &str,
        certificate: &Certificate,
        failures: i32,
        replica: &str,
    ) -> Self {
        Self {
            api: Api::namespaced(client.clone(), own_namespace),
            name: labels::order_secret_name(&certificate.uid().unwrap_or_default()),
            certificate: format!(
                "{}/{}",
                certificate.namespace().unwrap_or_default(),
                certificate.name_any()
            ),
            failures,
            replica: replica.to_owned(),
            begun_elsewhere: AtomicBool::new(false),
            seen: Mutex::new(None),
        }
    }

    /// Reads it from the API server; `None` where no order is open.
    pub async fn open(&self) -> Result<Option<OpenOrder>, CallError> {
        let Some(secret) =
            bounded(format!("get order Secret {}", self.name), self.api.get_opt(&self.name)).await?
        else {
            *self.seen.lock().await = None;
            return Ok(None);
        };
        let opened_after_failures =
            secret.annotations().get(FAILURES).and_then(|text| text.parse().ok()).unwrap_or_default();
        let entry = secret
            .data
            .as_ref()
            .and_then(|data| data.get(labels::ORDER_ENTRY))
            .and_then(|bytes| serde_json::from_slice(&bytes.0).ok());
        let Some(entry) = entry else {
            // Nobody but Waxwing writes here. What it can't read it can't resume either.
            tracing::warn!(secret = self.name, "the order Secret can't be read and is replaced");
            delete(&self.api, &self.name, secret.metadata.uid.clone(), secret.resource_version()).await?;
            return Ok(None);
        };
        let by_us = is_begun_by(&secret, &self.replica);
        self.begun_elsewhere.store(!by_us, Ordering::Relaxed);
        *self.seen.lock().await = Some(Seen {
            uid: secret.uid(),
            version: secret.resource_version().unwrap_or_default(),
            entry,
            created: secret.metadata.creation_timestamp.map(|time| time.0),
        });
        Ok(Some(OpenOrder { opened_after_failures }))
    }

    /// The URL of the open order, as far as it is known here.
    pub async fn order_url(&self) -> Option<String> {
        self.seen.lock().await.as_ref().map(|seen| seen.entry.order_url.clone())
    }

    /// The URL of the account that the open order is of.
    pub async fn account_url(&self) -> Option<String> {
        self.seen.lock().await.as_ref().map(|seen| seen.entry.account_url.clone())
    }

    /// Since when an order is open.
    pub async fn since(&self) -> Option<Timestamp> {
        self.seen.lock().await.as_ref().and_then(|seen| seen.created)
    }

    /// Whether the order that was last worked on had been begun by another process.
    pub fn begun_elsewhere(&self) -> bool {
        self.begun_elsewhere.load(Ordering::Relaxed)
    }

    async fn write(&self, entry: &Entry) -> Result<(), CallError> {
        let mut seen = self.seen.lock().await;
        let what = format!("save order Secret {} of Certificate {}", self.name, self.certificate);
        let data = data(entry);
        if seen.as_ref().is_none_or(|before| before.entry.order_url != entry.order_url) {
            self.begun_elsewhere.store(false, Ordering::Relaxed);
        }
        let (written, created) = if let Some(before) = seen.as_ref() {
            let mut annotations = json!({ FAILURES: self.failures.to_string() });
            if !self.begun_elsewhere() {
                annotations[REPLICA] = json!(self.replica);
            }
            let patch = json!({
                "metadata": { "resourceVersion": before.version, "annotations": annotations },
                "data": data,
            });
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            let written =
                bounded(what, self.api.patch_metadata(&self.name, &params, &Patch::Merge(patch))).await?;
            (written.metadata, before.created)
        } else {
            let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
            let written = bounded(what, self.api.create(&params, &self.fresh(data))).await?;
            let created = written.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (written.metadata, created)
        };
        let version = written.resource_version.unwrap_or_default();
        *seen = Some(Seen { uid: written.uid, version, entry: entry.clone(), created });
        Ok(())
    }

    fn fresh(&self, data: BTreeMap<String, ByteString>) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([
                    (labels::MANAGED_BY.into(), labels::MANAGED_BY_WAXWING.into()),
                    (labels::COMPONENT.into(), labels::COMPONENT_ORDER.into()),
                ])),
                annotations: Some(BTreeMap::from([
                    (labels::ORDER_CERTIFICATE.into(), self.certificate.clone()),
                    (FAILURES.into(), self.failures.to_string()),
                    (REPLICA.into(), self.replica.clone()),
                ])),
                ..ObjectMeta::default()
            },
            type_: Some(labels::ORDER_SECRET_TYPE.into()),
            data: Some(data),
            ..Secret::default()
        }
    }
}

#[async_trait]
impl Journal for OrderSecret {
    async fn load(&self) -> Result<Option<Entry>, JournalError> {
        if let Some(seen) = self.seen.lock().await.as_ref() {
            return Ok(Some(seen.entry.clone()));
        }
        self.open().await.map_err(journal_error)?;
        Ok(self.seen.lock().await.as_ref().map(|seen| seen.entry.clone()))
    }

    async fn save(&self, entry: &Entry) -> Result<(), JournalError> {
        self.write(entry).await.map_err(journal_error)
    }

    async fn clear(&self) -> Result<(), JournalError> {
        let mut seen = self.seen.lock().await;
        let Some(before) = seen.take() else { return Ok(()) };
        delete(&self.api, &self.name, before.uid, Some(before.version)).await.map_err(journal_error)
    }
}

/// Deletes one order Secret if it is still the one that was read. One that is gone is fine; one that another replica
/// has written since is a conflict.
pub async fn delete(
    api: &Api<Secret>,
    name: &str,
    uid: Option<String>,
    resource_version: Option<String>,
) -> Result<(), CallError> {
    let preconditions = Some(Preconditions { uid, resource_version });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    match bounded(format!("delete order Secret {name}"), api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a process of this name began the order.
pub fn is_begun_by(order: &Secret, replica: &str) -> bool {
    order.annotations().get(REPLICA).is_some_and(|name| name == replica)
}

/// The UID of the Certificate that an order Secret of this name is for.
pub fn certificate_uid(secret_name: &str) -> Option<&str> {
    secret_name.strip_prefix("order-")
}

/// Annotation: how many failed attempts the Certificate's status counted when the order was saved.
const FAILURES: &str = "waxwing.dev/failed-issuance-attempts";

/// Annotation: the process that began the order.
const REPLICA: &str = "waxwing.dev/replica";

/// The journal entry, and beside it what the responder reads of it.
fn data(entry: &Entry) -> BTreeMap<String, ByteString> {
    let hosts: Vec<&str> = entry
        .presented
        .iter()
        .filter(|presented| presented.challenge_type == ChallengeType::Http01)
        .map(|presented| presented.value.as_str())
        .collect();
    let json = serde_json::to_value(entry).unwrap_or(Value::Null).to_string();
    BTreeMap::from([
        (labels::ORDER_ENTRY.into(), ByteString(json.into_bytes())),
        (labels::ORDER_THUMBPRINT.into(), ByteString(entry.thumbprint.clone().into_bytes())),
        (labels::ORDER_HOSTS.into(), ByteString(hosts.join("\n").into_bytes())),
    ])
}

fn journal_error(error: CallError) -> JournalError {
    JournalError::caused_by(error.to_string(), error)
}

#[cfg(test)]
mod tests {
    use waxwing_acme::Presented;

    use super::*;

    #[test]
    fn the_responder_is_told_http_01_hosts_alone() {
        let presented = |identifier: &str, challenge_type| Presented {
            identifier: identifier.into(),
            challenge_type,
            solver: "test".into(),
            value: identifier.into(),
        };
        let entry = Entry {
            private_key_pem: waxwing_acme::Secret::new("key"),
            order_url: "https://ca.example/order/1".into(),
            account_url: "https://ca.example/account/1".into(),
            thumbprint: "thumb".into(),
            request_hash: "hash".into(),
            identifiers: vec!["a.example".into(), "b.example".into()],
            profile: None,
            replaces: None,
            presented: vec![
                presented("a.example", ChallengeType::Http01),
                presented("b.example", ChallengeType::Dns01),
                presented("c.example", ChallengeType::Http01),
            ],
        };
        let data = data(&entry);
        assert_eq!(data[labels::ORDER_HOSTS].0, b"a.example\nc.example");
        assert_eq!(data[labels::ORDER_THUMBPRINT].0, b"thumb");
        let read: Entry = serde_json::from_slice(&data[labels::ORDER_ENTRY].0).unwrap();
        assert_eq!(read, entry);
    }
}
