//! Labels, annotations and names that Waxwing writes or reads.

/// Annotation on a target Secret: the name of the Certificate that it belongs to.
pub const CERTIFICATE_NAME: &str = "waxwing.dev/certificate-name";
/// Annotation on a target Secret: the name of the issuer that issued it.
pub const ISSUER_NAME: &str = "waxwing.dev/issuer-name";
/// Annotation on a target Secret: `Issuer` or `ClusterIssuer`.
pub const ISSUER_KIND: &str = "waxwing.dev/issuer-kind";
/// Annotation on a target Secret: the API group of the issuer, `waxwing.dev`.
pub const ISSUER_GROUP: &str = "waxwing.dev/issuer-group";
/// Annotation on a target Secret: the subject's common name, empty if it has none.
pub const COMMON_NAME: &str = "waxwing.dev/common-name";
/// Annotation on a target Secret: the DNS names, separated by commas.
pub const ALT_NAMES: &str = "waxwing.dev/alt-names";
/// Annotation that a user sets to `"true"` on a Secret that Waxwing may take over.
pub const ADOPT: &str = "waxwing.dev/adopt";

/// Annotation that a user sets on a Certificate to have it renewed: an RFC 3339 time. It is renewed when that time has
/// come, unless it was issued since.
pub const RENEW: &str = "waxwing.dev/renew";

/// cert-manager's annotation on a target Secret: the name of its Certificate. A Secret that carries
/// it for the same name is taken over.
pub const CERT_MANAGER_CERTIFICATE_NAME: &str = "cert-manager.io/certificate-name";

/// Label on everything that Waxwing makes; its value is [`MANAGED_BY_WAXWING`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const MANAGED_BY_WAXWING: &str = "waxwing";

/// Label that says what an object made by Waxwing is: one of the `COMPONENT_` values.
pub const COMPONENT: &str = "waxwing.dev/component";
/// [`COMPONENT`] of a target Secret and of a Certificate that Waxwing made.
pub const COMPONENT_CERTIFICATE: &str = "certificate";
/// [`COMPONENT`] of an order Secret.
pub const COMPONENT_ORDER: &str = "order";
/// [`COMPONENT`] of a route to the HTTP-01 responder.
pub const COMPONENT_ROUTE: &str = "route";
/// [`COMPONENT`] of the Secret of an ACME account key.
pub const COMPONENT_ACCOUNT: &str = "account";

/// Label on what serves one issuance in the Certificate's own namespace: the Certificate's UID.
pub const CERTIFICATE_UID: &str = "waxwing.dev/certificate-uid";

/// Annotation on an Ingress: the Issuer, in the same namespace, for the names in its `tls`.
pub const INGRESS_ISSUER: &str = "waxwing.dev/issuer";
/// Annotation on an Ingress: the `ClusterIssuer` for the names in its `tls`.
pub const INGRESS_CLUSTER_ISSUER: &str = "waxwing.dev/cluster-issuer";

/// Annotation on an order Secret: `<namespace>/<name>` of the Certificate that it is for.
pub const ORDER_CERTIFICATE: &str = "waxwing.dev/certificate";
/// The `type` of an order Secret.
pub const ORDER_SECRET_TYPE: &str = "waxwing.dev/order";
/// Data key in an order Secret: the engine's journal entry, as JSON.
pub const ORDER_ENTRY: &str = "entry";
/// Data key in an order Secret: the thumbprint of the account key (RFC 7638).
pub const ORDER_THUMBPRINT: &str = "thumbprint";
/// Data key in an order Secret: the DNS names whose HTTP-01 challenges this order may answer, one a line.
pub const ORDER_HOSTS: &str = "hosts";

/// The name of the order Secret of the Certificate with this UID, in Waxwing's own namespace.
pub fn order_secret_name(certificate_uid: &str) -> String {
    format!("order-{certificate_uid}")
}
