//! `Certificate`: names, an issuer, and the Secret that is kept filled.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GROUP, GoDuration};

/// What is wanted: which names, from which issuer, in which Secret.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "waxwing.dev",
    version = "v1",
    kind = "Certificate",
    namespaced,
    status = "CertificateStatus",
    derive = "PartialEq",
    shortname = "wcert",
    category = "waxwing",
    selectable = ".spec.issuerRef.name",
    selectable = ".spec.issuerRef.kind"
)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    /// Name of the Secret.
    pub secret_name: String,
    /// The issuer.
    pub issuer_ref: IssuerRef,
    /// The names.
    pub dns_names: Vec<String>,
    /// Common name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// Renew this long before expiry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before: Option<GoDuration>,
    /// Renew when this part of the lifetime is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before_percentage: Option<i32>,
    /// The private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKey>,
    /// Labels and annotations of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_template: Option<SecretTemplate>,
    /// ACME profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Usages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usages: Vec<KeyUsage>,
    /// Must be false.
    #[serde(default, rename = "isCA", skip_serializing_if = "Option::is_none")]
    pub is_ca: Option<bool>,
    /// Accepted, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_history_limit: Option<i32>,
}

impl CertificateSpec {
    /// The private key that is wanted, with the defaults if the spec doesn't say.
    pub fn key(&self) -> PrivateKey {
        self.private_key.clone().unwrap_or_default()
    }
}

/// Names an issuer.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Name of the issuer.
    pub name: String,
    /// Kind of the issuer.
    #[serde(default)]
    pub kind: IssuerKind,
    /// API group of the issuer.
    #[serde(default = "group", skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// The two kinds of issuer.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IssuerKind {
    /// In the namespace of the Certificate.
    #[default]
    Issuer,
    /// For all namespaces.
    ClusterIssuer,
}

impl fmt::Display for IssuerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Issuer => "Issuer",
            Self::ClusterIssuer => "ClusterIssuer",
        })
    }
}

/// How the private key is made and kept.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKey {
    /// New key at each issuance or not.
    #[serde(default)]
    pub rotation_policy: RotationPolicy,
    /// Algorithm.
    #[serde(default)]
    pub algorithm: PrivateKeyAlgorithm,
    /// Size in bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i32>,
    /// Encoding.
    #[serde(default)]
    pub encoding: PrivateKeyEncoding,
}

/// Whether a renewal makes a new key.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RotationPolicy {
    /// A new key for each certificate.
    #[default]
    Always,
    /// The stored key is used again if it fits the spec.
    Never,
}

/// Algorithm of a private key.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PrivateKeyAlgorithm {
    /// RSA.
    #[serde(rename = "RSA")]
    Rsa,
    /// ECDSA on a NIST curve.
    #[default]
    #[serde(rename = "ECDSA")]
    Ecdsa,
    /// Ed25519.
    Ed25519,
}

/// Encoding of a private key in the Secret.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PrivateKeyEncoding {
    /// The older form of the algorithm: PKCS#1 for RSA, SEC 1 for ECDSA.
    #[serde(rename = "PKCS1")]
    Pkcs1,
    /// PKCS#8, the same for all algorithms.
    #[default]
    #[serde(rename = "PKCS8")]
    Pkcs8,
}

/// A use of the key that a TLS server certificate has anyway.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyUsage {
    /// RFC 5280 §4.2.1.3 `digitalSignature`.
    #[serde(rename = "digital signature")]
    DigitalSignature,
    /// RFC 5280 §4.2.1.3 `keyEncipherment`.
    #[serde(rename = "key encipherment")]
    KeyEncipherment,
    /// RFC 5280 §4.2.1.12 `id-kp-serverAuth`.
    #[serde(rename = "server auth")]
    ServerAuth,
}

/// Labels and annotations for the target Secret.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretTemplate {
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Start of validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// End of validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// When it is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_time: Option<Time>,
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// Number of issuances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Who issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
    /// ACME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<CertificateAcmeStatus>,
    /// Failed attempts in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_issuance_attempts: Option<i32>,
    /// When the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure_time: Option<Time>,
    /// When the next attempt begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
}

/// The ACME side of the last or current issuance.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAcmeStatus {
    /// URL of the order.
    #[serde(default, rename = "orderURL", skip_serializing_if = "Option::is_none")]
    pub order_url: Option<String>,
}

#[allow(clippy::unnecessary_wraps, reason = "a default for serde has the type of its field")]
fn group() -> Option<String> {
    Some(GROUP.into())
}
