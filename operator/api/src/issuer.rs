//! `Issuer` and `ClusterIssuer`: an ACME CA with an account, for one namespace or for all.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Acme, IssuerKind, schema};

/// Which CA is asked, by which account, for the namespace of the Issuer.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "waxwing.dev",
    version = "v1",
    kind = "Issuer",
    doc = "An ACME CA and an account there, for the Certificates of one namespace. For all namespaces: ClusterIssuer.",
    namespaced,
    status = "IssuerStatus",
    derive = "PartialEq",
    shortname = "wiss",
    category = "waxwing",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the account at the CA can be used."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is Ready or not."
    ),
    printcolumn(
        name = "Server",
        type_ = "string",
        json_path = ".spec.acme.server",
        description = "The CA's ACME directory.",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "How long ago the issuer was made."
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "What is wrong and what to do, or the account's URL.",
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("!has(self.allow) || !self.allow.exists(entry, has(entry.namespaceSelector))")
        .message("remove namespaceSelector: an Issuer serves its own namespace alone; for others make a ClusterIssuer")
        .field_path(".allow")
)]
#[serde(rename_all = "camelCase")]
pub struct IssuerSpec {
    /// The ACME CA, the account there, and how its challenges are solved.
    pub acme: Acme,

    /// Experimental. Limits the issuer to some names: each name of a Certificate must fit an entry (else reason
    /// NotAllowed). Unlike a ClusterIssuer's, it never gives a name that Ingresses or routes of other namespaces have
    /// (reason NameOwnedElsewhere). Default: every name that no other namespace has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub allow: Vec<AllowRule>,
}

/// Which CA is asked, by which account, for all namespaces.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "waxwing.dev",
    version = "v1",
    kind = "ClusterIssuer",
    doc = "An ACME CA and an account there, for the Certificates of all namespaces. Its Secrets are in Waxwing's own namespace.",
    status = "IssuerStatus",
    derive = "PartialEq",
    shortname = "wciss",
    category = "waxwing",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the account at the CA can be used."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is Ready or not."
    ),
    printcolumn(
        name = "Server",
        type_ = "string",
        json_path = ".spec.acme.server",
        description = "The CA's ACME directory.",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "How long ago the issuer was made."
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "What is wrong and what to do, or the account's URL.",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterIssuerSpec {
    /// The ACME CA, the account there, and how its challenges are solved.
    pub acme: Acme,

    /// Experimental. Which namespaces may have which names: each name of a Certificate must fit an entry for its
    /// namespace (else reason NotAllowed). An entry with a namespaceSelector also gives its namespaces names that
    /// Ingresses or routes of other namespaces have (else reason NameOwnedElsewhere).
    /// Default: every namespace may have every name that no other namespace has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub allow: Vec<AllowRule>,
}

/// What the two kinds of issuer have in common, so that one controller serves both.
pub trait AcmeIssuer {
    /// Which of the two it is.
    const KIND: IssuerKind;
    /// `spec.acme`.
    fn acme(&self) -> &Acme;
    /// `spec.allow`.
    fn allow(&self) -> &[AllowRule];
    /// `status`, if it has been written.
    fn issuer_status(&self) -> Option<&IssuerStatus>;
}

impl AcmeIssuer for Issuer {
    const KIND: IssuerKind = IssuerKind::Issuer;

    fn acme(&self) -> &Acme {
        &self.spec.acme
    }

    fn allow(&self) -> &[AllowRule] {
        &self.spec.allow
    }

    fn issuer_status(&self) -> Option<&IssuerStatus> {
        self.status.as_ref()
    }
}

impl AcmeIssuer for ClusterIssuer {
    const KIND: IssuerKind = IssuerKind::ClusterIssuer;

    fn acme(&self) -> &Acme {
        &self.spec.acme
    }

    fn allow(&self) -> &[AllowRule] {
        &self.spec.allow
    }

    fn issuer_status(&self) -> Option<&IssuerStatus> {
        self.status.as_ref()
    }
}

/// Names that some namespaces may have.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowRule {
    /// The namespaces, by their labels; the label kubernetes.io/metadata.name holds a namespace's name. For a
    /// ClusterIssuer alone: an Issuer serves its own namespace. Default: all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::namespace_selector")]
    pub namespace_selector: Option<LabelSelector>,

    /// The names: shop.example.com is that name alone; *.example.com is every name below example.com, however
    /// deep, and wildcards there, but not example.com itself; * is every name.
    #[schemars(schema_with = "schema::allowed_names")]
    pub dns_names: Vec<String>,
}

/// The account at the CA. Written by Waxwing alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerStatus {
    /// Ready is True while the account is registered and can be used; else its reason and message say what
    /// is wrong and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,

    /// The account at the CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<IssuerAcmeStatus>,

    /// Experimental. How many attempts to make the account usable have failed since the last one that succeeded, or
    /// since the spec was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_attempts: Option<i32>,

    /// Experimental. When the next attempt begins after one that failed: not before the time that the CA asked for with
    /// Retry-After. A change of the spec starts one at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
}

/// The account at the CA.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerAcmeStatus {
    /// URL of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,

    /// The email address that the CA last accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_registered_email: Option<String>,

    /// SHA-256 of the account's public key, which tells when the key was exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_private_key_hash: Option<String>,
}
