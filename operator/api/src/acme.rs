//! `spec.acme` of an issuer: the CA, the account, and how its challenges are solved.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An ACME CA and the account there.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acme {
    /// URL of the directory.
    pub server: String,
    /// Contact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The account key.
    pub private_key_secret_ref: PrivateKeySecretRef,
    /// Never make an account key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_account_key_generation: Option<bool>,
    /// External account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_account_binding: Option<ExternalAccountBinding>,
    /// Preferred chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_chain: Option<String>,
    /// ACME profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// CA certificates that the server's TLS certificate is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ca_bundle: Option<ByteString>,
    /// Don't check the server's TLS certificate.
    #[serde(default, rename = "skipTLSVerify", skip_serializing_if = "Option::is_none")]
    pub skip_tls_verify: Option<bool>,
    /// Limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<AcmeLimits>,
    /// Solvers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub solvers: Vec<AcmeSolver>,
}

/// The Secret that holds the account key.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKeySecretRef {
    /// Name of the Secret.
    pub name: String,
    /// Key in the Secret's data.
    #[serde(default = "tls_key")]
    pub key: String,
}

impl Default for PrivateKeySecretRef {
    fn default() -> Self {
        Self { name: String::new(), key: tls_key() }
    }
}

/// One key of a Secret.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    pub name: String,
    /// Key in the Secret's data.
    pub key: String,
}

/// External account binding (RFC 8555 §7.3.4).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAccountBinding {
    /// Key identifier.
    #[serde(rename = "keyID")]
    pub key_id: String,
    /// The MAC key.
    pub key_secret_ref: SecretKeyRef,
}

/// Limits of what is asked of the CA.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeLimits {
    /// Requests in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<i32>,
}

/// One way of solving challenges.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeSolver {
    /// Which names it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<SolverSelector>,
    /// HTTP-01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http01: Option<Http01>,
}

/// Which names a solver is for.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SolverSelector {
    /// Labels of the Certificate.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// Zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_zones: Vec<String>,
}

/// HTTP-01 (RFC 8555 §8.3).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http01 {
    /// Route the challenges by an Ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Http01Ingress>,
    /// The edge already routes the challenges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_route: Option<ExistingRoute>,
}

/// The Ingress that routes challenges to the responder.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http01Ingress {
    /// Class of the Ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_class_name: Option<String>,
    /// Who answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responder: Option<Responder>,
    /// Path type.
    #[serde(default)]
    pub path_type: PathType,
}

/// Who answers HTTP-01 challenges.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Responder {
    /// Waxwing's own Service.
    Operator,
}

/// How the Ingress's path is matched.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PathType {
    /// One path for all tokens.
    #[default]
    Prefix,
    /// One path for each token.
    Exact,
}

/// The edge already routes challenges to Waxwing.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExistingRoute {}

fn tls_key() -> String {
    "tls.key".into()
}
