//! The target Secret: read and judged by a pure function, written in one fenced request.
//!
//! Fencing: a Secret that was absent is created (a planted one makes that fail), an existing one is
//! patched with the `resourceVersion` that the decision was based on. Either way a conflict means that
//! the world has changed since, and the Certificate is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use waxwing_acme::{Leaf, PairError};
use waxwing_api::labels;

use super::FIELD_MANAGER;
use crate::issuer::IssuerKey;
use crate::runtime::client::{CallError, bounded};

/// What stands at `spec.secretName`, judged for one Certificate.
#[derive(Debug)]
pub enum Stored {
    /// No such Secret.
    Absent,
    /// A Secret that Waxwing may not write, and why: a sentence for the user.
    Unusable {
        /// Whether it is somebody else's (as opposed to ours but not writable).
        foreign: bool,
        /// Why, and what to do about it.
        because: String,
    },
    /// A Secret of this Certificate.
    Ours(Box<Ours>),
}

/// A Secret that Waxwing may write for this Certificate.
#[derive(Debug)]
pub struct Ours {
    /// The version that the judgement is based on; every write carries it.
    pub version: String,
    /// The pair inside: none, a damaged one, or a valid one.
    pub pair: Result<Option<Leaf>, PairError>,
    /// Who issued the pair, as the annotations tell; `None` where they don't.
    pub issued_by: Option<IssuedBy>,
    /// `tls.crt` as stored: it says where its revocation can be asked.
    pub chain_pem: Option<String>,
    /// That the CA has revoked the leaf, as a sentence, once that is known.
    pub revoked: Option<String>,
    /// `tls.key` as stored, for a Certificate that keeps its key.
    pub private_key_pem: Option<waxwing_acme::Secret>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    managed: BTreeSet<(Section, String)>,
}

/// The issuer that the annotations of a target Secret name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedBy {
    /// `Issuer` or `ClusterIssuer`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl From<&IssuerKey> for IssuedBy {
    fn from(issuer: &IssuerKey) -> Self {
        Self { kind: issuer.kind.to_string(), name: issuer.name.clone() }
    }
}

/// Everything around the pair that the target Secret shall carry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wrapping {
    /// Labels, the template's included.
    pub labels: BTreeMap<String, String>,
    /// Annotations, the template's included.
    pub annotations: BTreeMap<String, String>,
}

/// A key and its chain, encoded as the Certificate asks.
#[derive(Debug)]
pub struct Pair {
    /// `tls.crt`: leaf first.
    pub chain_pem: String,
    /// `tls.key`.
    pub private_key_pem: waxwing_acme::Secret,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Section {
    Annotations,
    Labels,
}

impl Section {
    const fn name(self) -> &'static str {
        match self {
            Self::Annotations => "annotations",
            Self::Labels => "labels",
        }
    }
}

/// Reads the target Secret from the API server, not from a cache: what is decided on it must be true now.
pub async fn read(api: &Api<Secret>, secret_name: &str, certificate_name: &str) -> Result<Stored, CallError> {
    let secret = bounded(format!("get Secret {secret_name}"), api.get_opt(secret_name)).await?;
    Ok(secret.map_or(Stored::Absent, |secret| judge(secret, certificate_name)))
}

/// Judges an existing Secret for the Certificate `certificate_name` of the same namespace.
pub fn judge(secret: Secret, certificate_name: &str) -> Stored {
    let name = secret.metadata.name.clone().unwrap_or_default();
    let labels = secret.metadata.labels.clone().unwrap_or_default();
    let annotations = secret.metadata.annotations.clone().unwrap_or_default();
    let data = secret.data.unwrap_or_default();
    let unusable = |foreign, because| Stored::Unusable { foreign, because };

    let is =
        |map: &BTreeMap<String, String>, key: &str, value: &str| map.get(key).is_some_and(|v| v == value);
    let ours = is(&labels, labels::COMPONENT, labels::COMPONENT_CERTIFICATE);
    let empty = data.values().all(|value| value.0.is_empty());
    let cert_managers = is(&annotations, labels::CERT_MANAGER_CERTIFICATE_NAME, certificate_name);
    let adopted = is(&annotations, labels::ADOPT, "true");
    let internal = labels.contains_key(labels::COMPONENT) && !ours;
    if internal || !(ours || empty || cert_managers || adopted) {
        return unusable(
            true,
            format!(
                "Secret {name} exists and was not made for this Certificate; choose another secretName, delete \
                 the Secret, or annotate it with {}=true to hand it over",
                labels::ADOPT
            ),
        );
    }
    if secret.immutable == Some(true) {
        return unusable(
            false,
            format!(
                "Secret {name} is immutable and can't be renewed; delete it, or choose another secretName"
            ),
        );
    }
    let secret_type = secret.type_.unwrap_or_default();
    if secret_type != TLS_TYPE {
        return unusable(
            false,
            format!(
                "Secret {name} is of type {secret_type}, and a Secret's type can't be changed; delete it, or \
                 choose another secretName"
            ),
        );
    }

    let text = |key: &str| {
        data.get(key)
            .map(|value| String::from_utf8_lossy(&value.0).into_owned())
            .filter(|text| !text.is_empty())
    };
    let (chain, key) = (text(CHAIN_KEY), text(PRIVATE_KEY_KEY));
    let pair = match (&chain, &key) {
        (Some(chain), Some(key)) => waxwing_acme::inspect(chain, key).map(Some),
        _ => Ok(None),
    };
    let issued_by = annotations
        .get(labels::ISSUER_NAME)
        .zip(annotations.get(labels::ISSUER_KIND))
        .map(|(name, kind)| IssuedBy { kind: kind.clone(), name: name.clone() });
    Stored::Ours(Box::new(Ours {
        version: secret.metadata.resource_version.unwrap_or_default(),
        pair,
        issued_by,
        chain_pem: chain,
        revoked: None,
        private_key_pem: key.map(waxwing_acme::Secret::from),
        managed: managed_keys(secret.metadata.managed_fields.as_deref().unwrap_or_default()),
        labels,
        annotations,
    }))
}

impl Ours {
    /// Whether labels and annotations are what they shall be.
    pub fn wrapped_as(&self, wanted: &Wrapping) -> bool {
        within(&wanted.labels, &self.labels)
            && within(&wanted.annotations, &self.annotations)
            && self.dropped(wanted).next().is_none()
    }

    /// Keys that Waxwing has set once and that are wanted no more.
    fn dropped<'a>(&'a self, wanted: &'a Wrapping) -> impl Iterator<Item = (Section, &'a str)> {
        self.managed
            .iter()
            .filter(|(section, key)| match section {
                Section::Annotations => !wanted.annotations.contains_key(key),
                Section::Labels => !wanted.labels.contains_key(key),
            })
            .map(|(section, key)| (*section, key.as_str()))
    }
}

/// Writes the pair and its wrapping in one request, fenced by what `stored` was.
///
/// `pair` is `None` when only the wrapping has changed.
pub async fn write(
    api: &Api<Secret>,
    secret_name: &str,
    stored: Option<&Ours>,
    pair: Option<&Pair>,
    wrapping: &Wrapping,
) -> Result<(), CallError> {
    let what = format!("write Secret {secret_name}");
    match (stored, pair) {
        (Some(ours), pair) => {
            let patch = Patch::Merge(merge(ours, pair, wrapping));
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            bounded(what, api.patch_metadata(secret_name, &params, &patch)).await?;
        }
        (None, Some(pair)) => {
            let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
            bounded(what, api.create(&params, &fresh(secret_name, pair, wrapping))).await?;
        }
        (None, None) => {}
    }
    Ok(())
}

const TLS_TYPE: &str = "kubernetes.io/tls";
const CHAIN_KEY: &str = "tls.crt";
const PRIVATE_KEY_KEY: &str = "tls.key";

fn fresh(name: &str, pair: &Pair, wrapping: &Wrapping) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(wrapping.labels.clone()),
            annotations: Some(wrapping.annotations.clone()),
            ..ObjectMeta::default()
        },
        type_: Some(TLS_TYPE.into()),
        data: Some(BTreeMap::from([
            (CHAIN_KEY.into(), ByteString(pair.chain_pem.clone().into_bytes())),
            (PRIVATE_KEY_KEY.into(), ByteString(pair.private_key_pem.expose().as_bytes().to_vec())),
        ])),
        ..Secret::default()
    }
}

/// A JSON merge patch: foreign keys stay, ours are set, and those of ours that are wanted no more go.
fn merge(ours: &Ours, pair: Option<&Pair>, wrapping: &Wrapping) -> Value {
    let mut labels = json!(wrapping.labels);
    let mut annotations = json!(wrapping.annotations);
    for (section, key) in ours.dropped(wrapping) {
        match section {
            Section::Annotations => annotations[key] = Value::Null,
            Section::Labels => labels[key] = Value::Null,
        }
    }
    let mut patch = json!({
        "metadata": { "resourceVersion": ours.version, "labels": labels, "annotations": annotations },
    });
    if let Some(pair) = pair {
        patch["data"] = json!({
            CHAIN_KEY: ByteString(pair.chain_pem.clone().into_bytes()),
            PRIVATE_KEY_KEY: ByteString(pair.private_key_pem.expose().as_bytes().to_vec()),
        });
    }
    patch
}

/// The labels and annotations that the API server records as set by Waxwing.
fn managed_keys(entries: &[ManagedFieldsEntry]) -> BTreeSet<(Section, String)> {
    let mut keys = BTreeSet::new();
    for entry in entries.iter().filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER)) {
        let Some(fields) = &entry.fields_v1 else { continue };
        for section in [Section::Annotations, Section::Labels] {
            let Some(Value::Object(map)) =
                fields.0.get("f:metadata").and_then(|m| m.get(format!("f:{}", section.name())))
            else {
                continue;
            };
            keys.extend(
                map.keys().filter_map(|key| key.strip_prefix("f:")).map(|key| (section, key.to_owned())),
            );
        }
    }
    keys
}

fn within(wanted: &BTreeMap<String, String>, present: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| present.get(key) == Some(value))
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;

    use super::*;

    /// A Secret of this Certificate that holds `pair`.
    pub fn ours_with(pair: Result<Option<Leaf>, PairError>) -> Ours {
        let Stored::Ours(ours) = judge(secret(&[OURS], &[], &[]), "shop") else { panic!("foreign") };
        Ours { pair, ..*ours }
    }

    fn secret(labels: &[(&str, &str)], annotations: &[(&str, &str)], data: &[(&str, &str)]) -> Secret {
        let map = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>())
        };
        Secret {
            metadata: ObjectMeta {
                name: Some("shop-tls".into()),
                resource_version: Some("7".into()),
                labels: map(labels),
                annotations: map(annotations),
                ..ObjectMeta::default()
            },
            type_: Some(TLS_TYPE.into()),
            data: Some(data.iter().map(|(k, v)| ((*k).to_owned(), ByteString((*v).into()))).collect()),
            ..Secret::default()
        }
    }

    const OURS: (&str, &str) = (labels::COMPONENT, labels::COMPONENT_CERTIFICATE);

    #[test]
    fn a_strangers_secret_is_left_alone() {
        let Stored::Unusable { foreign: true, because } =
            judge(secret(&[], &[], &[("tls.crt", "x")]), "shop")
        else {
            panic!("taken");
        };
        assert!(because.contains("waxwing.dev/adopt=true"), "{because}");
    }

    #[test]
    fn an_empty_an_adopted_and_a_cert_manager_secret_are_taken() {
        for taken in [
            secret(&[], &[], &[("tls.crt", ""), ("tls.key", "")]),
            secret(&[], &[(labels::ADOPT, "true")], &[("tls.crt", "x")]),
            secret(&[], &[(labels::CERT_MANAGER_CERTIFICATE_NAME, "shop")], &[("tls.crt", "x")]),
            secret(&[OURS], &[], &[("tls.crt", "x")]),
        ] {
            assert!(matches!(judge(taken, "shop"), Stored::Ours(_)));
        }
    }

    #[test]
    fn cert_managers_secret_for_another_certificate_is_foreign() {
        let other = secret(&[], &[(labels::CERT_MANAGER_CERTIFICATE_NAME, "other")], &[("tls.crt", "x")]);
        assert!(matches!(judge(other, "shop"), Stored::Unusable { foreign: true, .. }));
    }

    #[test]
    fn waxwings_own_account_secret_is_never_a_target() {
        let account =
            secret(&[(labels::COMPONENT, labels::COMPONENT_ACCOUNT)], &[(labels::ADOPT, "true")], &[]);
        assert!(matches!(judge(account, "shop"), Stored::Unusable { foreign: true, .. }));
    }

    #[test]
    fn immutable_and_wrongly_typed_secrets_are_named_as_such() {
        let mut immutable = secret(&[OURS], &[], &[]);
        immutable.immutable = Some(true);
        let mut opaque = secret(&[OURS], &[], &[]);
        opaque.type_ = Some("Opaque".into());
        for (unusable, word) in [(immutable, "immutable"), (opaque, "type Opaque")] {
            let Stored::Unusable { foreign: false, because } = judge(unusable, "shop") else {
                panic!("taken")
            };
            assert!(because.contains(word), "{because}");
        }
    }

    #[test]
    fn a_damaged_pair_is_an_error_and_a_missing_one_is_none() {
        let Stored::Ours(ours) = judge(secret(&[OURS], &[], &[("tls.crt", "x"), ("tls.key", "y")]), "shop")
        else {
            panic!("foreign");
        };
        assert!(ours.pair.is_err());
        let Stored::Ours(ours) = judge(secret(&[OURS], &[], &[]), "shop") else { panic!("foreign") };
        assert!(matches!(ours.pair, Ok(None)));
    }

    #[test]
    fn what_the_template_no_longer_wants_is_removed_and_foreign_keys_stay() {
        let mut existing = secret(&[OURS, ("team", "web"), ("theirs", "x")], &[], &[]);
        existing.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
            manager: Some(FIELD_MANAGER.into()),
            fields_v1: Some(FieldsV1(json!({"f:metadata": {"f:labels": {
                ".": {}, "f:team": {}, (format!("f:{}", labels::COMPONENT)): {},
            }}}))),
            ..ManagedFieldsEntry::default()
        }]);
        let Stored::Ours(ours) = judge(existing, "shop") else { panic!("foreign") };
        let wanted = Wrapping {
            labels: BTreeMap::from([(OURS.0.to_owned(), OURS.1.to_owned())]),
            annotations: BTreeMap::new(),
        };
        assert!(!ours.wrapped_as(&wanted));
        let patch = merge(&ours, None, &wanted);
        assert_eq!(patch["metadata"]["labels"]["team"], Value::Null);
        assert!(patch["metadata"]["labels"].get("theirs").is_none());
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert!(patch.get("data").is_none());
    }
}
