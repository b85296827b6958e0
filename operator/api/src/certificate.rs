//! `Certificate`: names, an issuer, and the Secret that is kept filled.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CertificateRenewal, GROUP, GoDuration, LimitRefusal, LimitUse, schema};

/// Which names are wanted, from which issuer, in which Secret.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "waxwing.dev",
    version = "v1",
    kind = "Certificate",
    doc = "A TLS certificate that is kept in a Secret: issued by an ACME CA, and renewed before it expires.",
    namespaced,
    status = "CertificateStatus",
    derive = "PartialEq",
    shortname = "wcert",
    category = "waxwing",
    selectable = ".spec.issuerRef.name",
    selectable = ".spec.issuerRef.kind",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the Secret holds a valid certificate and key for this spec."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is Ready or not."
    ),
    printcolumn(
        name = "Secret",
        type_ = "string",
        json_path = ".spec.secretName",
        description = "The Secret that holds the certificate and its key."
    ),
    printcolumn(
        name = "Issuer",
        type_ = "string",
        json_path = ".spec.issuerRef.name",
        description = "The issuer.",
        priority = 1
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".status.notAfter",
        description = "When the certificate in the Secret expires (UTC)."
    ),
    printcolumn(
        name = "Renews",
        type_ = "string",
        json_path = ".status.renewalTime",
        description = "When it is renewed (UTC).",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "How long ago the Certificate was made."
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Issuing")].message"#,
        description = "Where the running attempt is, or why the last one stopped.",
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("!has(self.commonName) || self.commonName in self.dnsNames")
        .message("add the commonName to dnsNames too, or leave it out: clients look only at dnsNames")
        .field_path(".commonName"),
    validation = Rule::new("!(has(self.renewBefore) && has(self.renewBeforePercentage))")
        .message("write renewBefore or renewBeforePercentage, not both")
        .field_path(".renewBeforePercentage"),
    validation = Rule::new("!has(self.fallbackIssuerRefs) || !self.fallbackIssuerRefs.exists(other, other.name == self.issuerRef.name && other.kind == self.issuerRef.kind)")
        .message("remove the issuer of issuerRef from fallbackIssuerRefs: it is asked first anyway")
        .field_path(".fallbackIssuerRefs")
)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    /// Name of the Secret that holds the certificate and its key, in the namespace of this Certificate.
    /// Waxwing makes it, of type kubernetes.io/tls, with the chain in tls.crt (the certificate itself first)
    /// and the private key in tls.key. It stays when the Certificate is deleted.
    ///
    /// A Secret that exists and isn't Waxwing's is left alone (reason SecretNotOwned), unless it is empty,
    /// carries cert-manager's annotations for a Certificate of this name, or the annotation
    /// waxwing.dev/adopt: "true". Of two Certificates with the same secretName only the older one is issued
    /// (reason SecretConflict).
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::object_name("Secret"))]
    pub secret_name: String,

    /// The issuer that is asked for the certificate. When it is changed, a new certificate is issued at
    /// once; the old one stays in the Secret until then.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub issuer_ref: IssuerRef,

    /// Experimental. Issuers to ask in this order when the one of issuerRef can't issue because of its CA: it is
    /// down, answers with errors, has reached a limit, or its policy refuses the names. At most 3. While the stored
    /// certificate serves, they are asked only when half of the time from its renewal to its end has passed. The next
    /// renewal begins with issuerRef again. Fallbacks have no fallbacks of their own. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a.name == b.name && a.kind == b.kind))")
        .message("remove the issuers that are repeated: each can be listed once"))]
    pub fallback_issuer_refs: Vec<IssuerRef>,

    /// The DNS names that the certificate is for, 1 to 100, in lower case: such as shop.example.com, or
    /// *.example.com for all names directly below example.com. When the list is changed, a new certificate is
    /// issued at once; the order of the names doesn't matter.
    #[schemars(schema_with = "schema::certificate_names")]
    pub dns_names: Vec<String>,

    /// The common name in the certificate's subject, at most 64 characters. It must be one of dnsNames too.
    /// Leave it out unless an old client asks for it: some CAs no longer write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub common_name: Option<String>,

    /// Renew this long before the certificate expires: a duration such as 720h or 1h30m, 5m or more. It is
    /// ignored if the certificate's whole lifetime isn't longer.
    /// Default: when a third of the lifetime is left; a half if the lifetime is under 10 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(format!("!self.matches('{}') || duration(self) >= duration('5m')", crate::duration::PATTERN))
        .message("write 5m or more: a renewal needs time to be tried again"))]
    pub renew_before: Option<GoDuration>,

    /// Renew when this part of the certificate's lifetime is left, in percent: 1 to 99. With 25, a
    /// certificate of 90 days is renewed 22.5 days before it expires.
    /// Default: see renewBefore; only one of the two can be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub renew_before_percentage: Option<i32>,

    /// Whether the certificate is renewed for its age, and when that is welcome.
    /// Default: renewed before it expires, at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<CertificateRenewal>,

    /// The private key: its algorithm, size and encoding, and whether a renewal makes a new one.
    /// Default: a new ECDSA P-256 key for each certificate, in PKCS#8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKey>,

    /// Labels and annotations that the Secret has beside Waxwing's own. They are kept in sync: what is removed
    /// here is removed there. Labels and annotations that others write to the Secret are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_template: Option<SecretTemplate>,

    /// Experimental. The ACME profile that the CA is asked for, such as shortlived; it overrides the
    /// issuer's. A profile that the CA doesn't offer fails the issuance. The CA's directory lists what it offers.
    /// Default: the issuer's profile; if it has none, the CA decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub profile: Option<String>,

    /// What the key may be used for. Without effect: an ACME CA decides it. The uses that a certificate of a TLS
    /// server has are accepted here, so that Certificates written for cert-manager stay as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub usages: Vec<KeyUsage>,

    /// Whether the certificate is a CA's. Only false is accepted: ACME CAs issue none that are.
    /// Default: false.
    #[serde(default, rename = "isCA", skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self")
        .message("remove isCA: an ACME CA issues no CA certificates; for a CA of your own use cert-manager's CA issuer"))]
    pub is_ca: Option<bool>,

    /// Without effect: Waxwing keeps no CertificateRequests whose number would need a limit. Accepted, so that
    /// Certificates written for cert-manager stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub revision_history_limit: Option<i32>,
}

impl CertificateSpec {
    /// The private key that is wanted, with the defaults where the spec doesn't say.
    pub fn key(&self) -> PrivateKey {
        self.private_key.clone().unwrap_or_default()
    }
}

/// Names an issuer.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Name of the issuer.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::object_name("Issuer or ClusterIssuer"))]
    pub name: String,

    /// Kind of the issuer: Issuer, in the namespace of the Certificate, or ClusterIssuer, which serves all
    /// namespaces. Default: Issuer.
    #[serde(default)]
    pub kind: IssuerKind,

    /// API group of the issuer: waxwing.dev. Default: waxwing.dev.
    #[serde(default = "group", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(format!("self == '{GROUP}'"))
        .message("write waxwing.dev, or leave the group out; an issuer of cert-manager.io can't be used: make an Issuer or ClusterIssuer of waxwing.dev with the same spec.acme, and name that"))]
    pub group: Option<String>,
}

/// The two kinds of issuer.
#[derive(
    JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
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
#[x_kube(
    validation = Rule::new("!has(self.size) || self.algorithm != 'RSA' || self.size in [2048, 3072, 4096]")
        .message("write 2048, 3072 or 4096: the sizes of an RSA key")
        .field_path(".size"),
    validation = Rule::new("!has(self.size) || self.algorithm != 'ECDSA' || self.size in [256, 384, 521]")
        .message("write 256, 384 or 521: the sizes of an ECDSA key; for an RSA key also write algorithm: RSA")
        .field_path(".size"),
    validation = Rule::new("!has(self.size) || self.algorithm != 'Ed25519'")
        .message("remove the size: an Ed25519 key has only one")
        .field_path(".size"),
    validation = Rule::new("self.encoding != 'PKCS1' || self.algorithm != 'Ed25519'")
        .message("write PKCS8: an Ed25519 key has no other encoding")
        .field_path(".encoding")
)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKey {
    /// Always: each new certificate has a new key. Never: a renewal keeps the key in the Secret as long as it
    /// fits algorithm and size, and the CA hasn't revoked its certificate. Default: Always.
    #[serde(default)]
    pub rotation_policy: RotationPolicy,

    /// RSA, ECDSA or Ed25519. Public CAs don't certify Ed25519 keys. Default: ECDSA.
    #[serde(default)]
    pub algorithm: PrivateKeyAlgorithm,

    /// Size of the key in bits. RSA: 2048, 3072 or 4096. ECDSA: 256, 384 or 521, the curves P-256, P-384 and
    /// P-521. Ed25519: none. Default: 2048 for RSA, 256 for ECDSA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i32>,

    /// How tls.key is written. PKCS8: the same form for all algorithms. PKCS1: the older one, PKCS#1 for RSA and
    /// SEC 1 for ECDSA. Default: PKCS8.
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
    /// Ed25519 (RFC 8410).
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

/// A use of the key that a certificate of a TLS server has anyway.
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
    /// Annotations of the Secret, at most 64. Keys under waxwing.dev/ and cert-manager.io/ are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = schema::qualified_keys())]
    #[x_kube(validation = schema::not_reserved())]
    pub annotations: BTreeMap<String, String>,

    /// Labels of the Secret, at most 64. Keys under waxwing.dev/ and cert-manager.io/, and
    /// app.kubernetes.io/managed-by, are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    #[x_kube(validation = schema::qualified_keys())]
    #[x_kube(validation = schema::not_reserved())]
    #[x_kube(validation = Rule::new("!('app.kubernetes.io/managed-by' in self)")
        .message("remove app.kubernetes.io/managed-by: its value is waxwing"))]
    pub labels: BTreeMap<String, String>,
}

/// The certificate in the Secret, and how the last attempt went. Written by Waxwing alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Ready is about the Secret: True while it holds a valid certificate and key for this spec, whatever the
    /// last attempt did. Issuing is about the attempt: True while one runs, with where it is; False when none does,
    /// with why the last one stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,

    /// From when on the certificate in the Secret is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,

    /// When the certificate in the Secret expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,

    /// When the certificate is renewed: as renewBefore or renewBeforePercentage say, less up to a hundredth of the
    /// lifetime, so that certificates issued together aren't renewed together; in one of renewal.windows, if there are
    /// any. A time in the annotation waxwing.dev/renew goes before. Absent with the policy Disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_time: Option<Time>,

    /// Experimental. When the last certificate was issued and stored. A renewal that was asked for with the annotation
    /// waxwing.dev/renew before that has been done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_issuance_time: Option<Time>,

    /// Serial number of the certificate in the Secret: hexadecimal, lower case, without colons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,

    /// How many certificates have been issued for this Certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,

    /// The issuer that issued the certificate in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,

    /// The ACME side of the running or last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<CertificateAcmeStatus>,

    /// How many attempts have failed since the last one that succeeded, or since the spec was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_issuance_attempts: Option<i32>,

    /// When the last attempt failed. Absent if it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure_time: Option<Time>,

    /// When the next attempt begins after one that failed. A change of the spec starts one at once, and so does a renewal
    /// that is asked for with the annotation waxwing.dev/renew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
}

/// The ACME side of an issuance.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAcmeStatus {
    /// URL of the ACME order, for support requests to the CA.
    #[serde(default, rename = "orderURL", skip_serializing_if = "Option::is_none")]
    pub order_url: Option<String>,

    /// URL of the account that the stored certificate was ordered with. A renewal tells the CA what it replaces only
    /// where the account is the same.
    #[serde(default, rename = "accountURL", skip_serializing_if = "Option::is_none")]
    pub account_url: Option<String>,

    /// What the CA suggests for the renewal of the stored certificate (ARI, RFC 9773).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ari: Option<RenewalInformation>,

    /// The limit that the CA called used up when it refused the last order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_limit: Option<LimitRefusal>,

    /// Issuers that aren't asked again before a time: of this Certificate, where it names several, and those that they
    /// rehearse at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub paused_issuers: Vec<IssuerPause>,

    /// Experimental. What the last 10 attempts at most have used of the CA's limits, so that these are kept to after a
    /// restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub limits_used: Vec<LimitUse>,
}

/// An issuer that isn't asked before a time.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerPause {
    /// Its name.
    pub name: String,

    /// Its kind.
    pub kind: IssuerKind,

    /// When it may be asked again.
    pub until: Time,
}

/// What the CA suggests for a renewal (ARI, RFC 9773).
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewalInformation {
    /// When the CA wants the certificate to be renewed. renewalTime is an instant in it.
    pub suggested_window: SuggestedWindow,

    /// A page of the CA's that says why.
    #[serde(default, rename = "explanationURL", skip_serializing_if = "Option::is_none")]
    pub explanation_url: Option<String>,
}

/// A time with a begin and an end.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuggestedWindow {
    /// Its begin.
    pub start: Time,

    /// Its end.
    pub end: Time,
}

#[allow(clippy::unnecessary_wraps, reason = "a default for serde has the type of its field")]
fn group() -> Option<String> {
    Some(GROUP.into())
}
