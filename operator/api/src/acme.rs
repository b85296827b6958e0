//! `spec.acme` of an issuer: the CA, the account, and how its challenges are solved.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AcmeRate, schema};

/// An ACME CA (RFC 8555), the account there, and how its challenges are solved.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.caBundle) || !has(self.skipTLSVerify) || !self.skipTLSVerify")
        .message("remove skipTLSVerify: with a caBundle the server is verified against that")
        .field_path(".skipTLSVerify")
)]
#[serde(rename_all = "camelCase")]
pub struct Acme {
    /// URL of the CA's ACME directory, https only. Let's Encrypt: https://acme-v02.api.letsencrypt.org/directory;
    /// for tests, without tight limits: https://acme-staging-v02.api.letsencrypt.org/directory. When it is changed,
    /// the account is registered at the new CA with the same key.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("isURL(self) && self.matches('^https://[^/?#@[:space:]]+([/?#]|$)')")
        .message("write the https URL of the CA's ACME directory, such as https://acme-v02.api.letsencrypt.org/directory"))]
    pub server: String,

    /// Where the CA may send notices: a plain address such as ops@example.com. A change is passed on to the
    /// CA. Default: none; most CAs don't need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 254))]
    #[x_kube(validation = Rule::new("self.matches('^[^@,[:space:]]+@[^@,[:space:]]+$') && !self.startsWith('mailto:')")
        .message("write one plain address such as ops@example.com, without mailto:"))]
    pub email: Option<String>,

    /// The Secret that holds the private key of the account. If it doesn't exist, it is made, with a new ECDSA
    /// P-256 key; one that exists is used and never overwritten. For an Issuer it is in the Issuer's namespace, for a
    /// ClusterIssuer in Waxwing's own.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub private_key_secret_ref: PrivateKeySecretRef,

    /// Whether to wait for the Secret of privateKeySecretRef (reason KeyMissing) instead of making it: for an
    /// account that is registered elsewhere. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_account_key_generation: Option<bool>,

    /// Ties the new account to one that you have at the CA already (RFC 8555 §7.3.4). Some CAs ask for it, and
    /// give out the two values. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_account_binding: Option<ExternalAccountBinding>,

    /// If the CA offers several chains, take the one whose topmost certificate was issued by this common name,
    /// such as "ISRG Root X2". If none is, the CA's first chain is taken. Default: the CA's first chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub preferred_chain: Option<String>,

    /// The ACME profile that the CA is asked for, such as shortlived. A profile that the CA doesn't offer fails the
    /// issuance. The CA's directory lists what it offers. A Certificate's own profile overrides it.
    /// Default: the CA decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub profile: Option<String>,

    /// Who says when a certificate is to be renewed. ARI: the CA, where it offers renewal information (RFC 9773);
    /// else the Certificate's renewBefore, or two thirds of the lifetime. None: the CA isn't asked. Default: ARI.
    #[serde(default)]
    pub renewal_information_source: RenewalInformationSource,

    /// The certificates that the server's TLS certificate is verified against: PEM text, in base64, as
    /// `base64 -w0 ca.pem` prints it. For a private CA. Only one of caBundle and skipTLSVerify can be set.
    /// Default: the host's root certificates; where it has none, as in Waxwing's image, Mozilla's, which are in the
    /// program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::ca_bundle")]
    pub ca_bundle: Option<ByteString>,

    /// Don't verify the server's TLS certificate. Anyone on the way to the CA can then answer in its place: for
    /// tests alone; for a private CA use caBundle. Default: false.
    #[serde(default, rename = "skipTLSVerify", skip_serializing_if = "Option::is_none")]
    pub skip_tls_verify: Option<bool>,

    /// Experimental. How much is asked of the CA at once, and how much in which time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<AcmeLimits>,

    /// Experimental. Another issuer, whose CA is asked for the same certificate first, so that what fails there doesn't
    /// count against this CA's limits: such as that of Let's Encrypt's staging environment. What it issues is thrown
    /// away. Where it isn't Ready, this CA is asked at once. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub rehearsal: Option<Rehearsal>,

    /// How challenges are solved, at most 32 ways. For each name of a Certificate the solver whose selector fits best
    /// is taken: one that lists the name, else the one with the longest zone, else the one with the most labels,
    /// else the first in the list. Empty: only names that the CA asks no challenge for are issued.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub solvers: Vec<AcmeSolver>,
}

/// Which issuer is asked before the one that counts, and when.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rehearsal {
    /// The other issuer, of the same kind: for an Issuer in the same namespace.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub issuer_ref: RehearsalIssuerRef,

    /// AfterFailure: after an attempt has failed, until one succeeds. Always: before each certificate.
    /// Default: AfterFailure.
    #[serde(default)]
    pub when: RehearseWhen,
}

/// Names an issuer of the same kind.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalIssuerRef {
    /// Name of the issuer.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::object_name("Issuer or ClusterIssuer"))]
    pub name: String,
}

/// When there is a rehearsal.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RehearseWhen {
    /// After an attempt has failed.
    #[default]
    AfterFailure,
    /// Before each certificate.
    Always,
}

/// Who says when a certificate is to be renewed.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RenewalInformationSource {
    /// The CA, where it offers renewal information.
    #[default]
    #[serde(rename = "ARI")]
    Ari,
    /// The Certificate's own fields alone.
    None,
}

/// The Secret that holds the account key.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKeySecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::object_name("Secret"))]
    pub name: String,

    /// Key in the Secret's data. Its value is an ECDSA P-256 private key as PEM text. Default: tls.key.
    #[serde(default = "tls_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::data_key())]
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
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::object_name("Secret"))]
    pub name: String,

    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::data_key())]
    pub key: String,
}

/// External account binding (RFC 8555 §7.3.4).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAccountBinding {
    /// The key identifier that the CA gave out.
    #[serde(rename = "keyID")]
    #[schemars(length(min = 1, max = 512))]
    pub key_id: String,

    /// The Secret that holds the MAC key that the CA gave out, in base64url as CAs show it. For an Issuer it is in
    /// the Issuer's namespace, for a ClusterIssuer in Waxwing's own.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub key_secret_ref: SecretKeyRef,
}

/// Limits of what is asked of the CA.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeLimits {
    /// Experimental. How many requests to the CA may be under way at once, 1 to 256; others wait for their turn.
    /// Orders that wait for a validation count only while they ask. Default: 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub concurrent_requests: Option<i32>,

    /// Experimental. What this CA allows, at most 16 rates: what would exceed one waits, and says until when. A rate
    /// replaces those that Waxwing knows of the CA for the same scope, which it does for Let's Encrypt.
    /// Default: what is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a.scope == b.scope && a.period == b.period))")
        .message("write one rate for each scope and period: of two, the lower one applies"))]
    pub rates: Vec<AcmeRate>,
}

/// One way of solving challenges.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.http01)")
        .message("write how challenges are solved: http01, such as http01: {ingress: {ingressClassName: traefik}}"),
    validation = Rule::new("!has(self.selector) || !has(self.selector.dnsNames) || !self.selector.dnsNames.exists(name, name.startsWith('*'))")
        .message("remove the wildcard names: HTTP-01 can't prove a wildcard, only the names themselves")
        .field_path(".selector.dnsNames")
)]
#[serde(rename_all = "camelCase")]
pub struct AcmeSolver {
    /// Which names of which Certificates the solver is for. Default: all, if no other solver's selector fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<SolverSelector>,

    /// HTTP-01 (RFC 8555 §8.3): the CA fetches a file below /.well-known/acme-challenge/ from the name itself, on
    /// port 80, and follows redirects. Not for wildcard names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http01: Option<Http01>,
}

/// Which names a solver is for: all that is set must fit.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SolverSelector {
    /// Labels that the Certificate must have, all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub match_labels: BTreeMap<String, String>,

    /// Names as the Certificate has them: exactly these, such as shop.example.com.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selector_names")]
    pub dns_names: Vec<String>,

    /// Zones: example.com stands for itself and every name below it. The longest that fits wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selector_zones")]
    pub dns_zones: Vec<String>,
}

/// HTTP-01 (RFC 8555 §8.3).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("[has(self.ingress), has(self.gatewayHTTPRoute), has(self.existingRoute)].filter(given, given).size() == 1")
        .message("write one of ingress: {}, gatewayHTTPRoute: {parentRefs: [{name: …}]} and existingRoute: {}: how the CA's request gets to Waxwing")
)]
#[serde(rename_all = "camelCase")]
pub struct Http01 {
    /// Waxwing makes an Ingress for the path /.well-known/acme-challenge/ of the name, in its own namespace, and
    /// removes it when it is no longer used. ingress: {} takes the default ingress class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Http01Ingress>,

    /// Waxwing makes an HTTPRoute (Gateway API) for the path /.well-known/acme-challenge/ of the name, in the
    /// Certificate's namespace, and removes it when it is no longer used.
    #[serde(default, rename = "gatewayHTTPRoute", skip_serializing_if = "Option::is_none")]
    pub gateway_http_route: Option<Http01GatewayHttpRoute>,

    /// Experimental. Your ingress controller, gateway or load balancer sends /.well-known/acme-challenge/ of every
    /// name to Waxwing's solver Service already: nothing is made, and issuing is fastest. Write existingRoute: {}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_route: Option<ExistingRoute>,
}

/// The Ingress that routes challenges to the responder.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.name) || !has(self.ingressClassName)")
        .message("remove ingressClassName: the Ingress that name says has a class of its own")
        .field_path(".ingressClassName"),
    validation = Rule::new("!has(self.podTemplate) || !has(self.responder) || self.responder == 'Pod'")
        .message("remove podTemplate, or write responder: Pod: the Operator answers without a pod")
        .field_path(".podTemplate"),
    validation = Rule::new("!has(self.routePolicy) || self.routePolicy != 'Permanent' || (!has(self.name) && !(has(self.responder) && self.responder == 'Pod') && !(has(self.pathType) && self.pathType == 'Exact'))")
        .message("write routePolicy: Ephemeral, or remove name, responder: Pod and pathType: Exact: only a path for all challenges to Waxwing itself can stay")
        .field_path(".routePolicy")
)]
#[serde(rename_all = "camelCase")]
pub struct Http01Ingress {
    /// The IngressClass of the ingress controller that serves the names on port 80.
    /// Default: the cluster's default IngressClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::object_name("IngressClass"))]
    pub ingress_class_name: Option<String>,

    /// An Ingress in the Certificate's namespace that serves the names: the path for challenges is added to it, and
    /// taken away again, and no other Ingress is made. For ingress controllers that make a load balancer for each
    /// Ingress. Waxwing needs rights for it that it doesn't have by default. Default: an Ingress of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::object_name("Ingress"))]
    pub name: Option<String>,

    /// Experimental. Who answers the CA. Operator: Waxwing itself; no pod is started. Pod: a small pod in the
    /// Certificate's namespace, for as long as the order is open, with a Service and an Ingress there: for ingress
    /// controllers that serve a name from one namespace alone. Waxwing needs rights for it that it doesn't have by
    /// default. Default: Operator, or Pod where the ingress controller is known to need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Responder")]
    pub responder: Option<Responder>,

    /// Experimental. How long the path for challenges stays. Ephemeral: until some seconds after its last use.
    /// Permanent: as long as a Certificate of this issuer has the name; renewals then change nothing at the edge, and
    /// Waxwing looks at the path now and then and warns, weeks ahead, when it has broken. Default: Ephemeral.
    #[serde(default)]
    pub route_policy: RoutePolicy,

    /// Experimental. The pathType of the Ingress. Prefix: one path for all challenges of a name. Exact: one for each
    /// challenge, for ingress controllers that prefer the application's own rules. Default: Prefix.
    #[serde(default)]
    pub path_type: PathType,

    /// Where a pod answers: the type of its Service. Default: ClusterIP, or NodePort where the ingress controller is
    /// known to need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ServiceType")]
    pub service_type: Option<ServiceType>,

    /// Where a pod answers: what it has beyond, or instead of, what Waxwing gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// The HTTPRoute that routes challenges to the responder.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http01GatewayHttpRoute {
    /// The Gateways, or their listeners, that serve the names on port 80.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub parent_refs: Vec<ParentRef>,

    /// Labels of the HTTPRoute, for listeners that choose routes by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,

    /// Means nothing: Waxwing answers by its own Service. Accepted as cert-manager has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ServiceType")]
    pub service_type: Option<ServiceType>,
}

/// A Gateway, or a part of one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// The API group. Default: gateway.networking.k8s.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,

    /// The kind. Default: Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: Option<String>,

    /// Its namespace. Default: the Certificate's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = schema::object_name("Gateway"))]
    pub name: String,

    /// The name of one listener. Default: all that let the HTTPRoute in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,

    /// The port of the listeners. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// What a solver pod has beyond, or instead of, what Waxwing gives it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PodTemplateMetadata>,

    /// Where and as what the pod runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<PodTemplateSpec>,
}

/// Labels and annotations of a solver pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplateMetadata {
    /// Annotations of the pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,

    /// Labels of the pod. Waxwing's own stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,
}

/// Where and as what a solver pod runs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplateSpec {
    /// Labels that the node must have, beyond kubernetes.io/os: linux.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub node_selector: BTreeMap<String, String>,

    /// Affinity, as in a Pod. It is checked when a pod is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::part_of_pod")]
    pub affinity: Option<serde_json::Value>,

    /// Taints of nodes that the pod tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tolerations: Vec<Toleration>,

    /// The PriorityClass of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// The ServiceAccount of the pod. Its token is never mounted. Default: default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,

    /// Secrets in the Certificate's namespace with the credentials of the registry that has Waxwing's image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub image_pull_secrets: Vec<ImagePullSecret>,

    /// The pod's security context, as in a Pod, laid over runAsNonRoot: true and seccompProfile: {type:
    /// RuntimeDefault}. It is checked when a pod is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::part_of_pod")]
    pub security_context: Option<serde_json::Value>,

    /// The container's requests and limits, as in a Pod, laid over requests: {cpu: 5m, memory: 16Mi} and limits: {cpu:
    /// 100m, memory: 64Mi}. They are checked when a pod is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::part_of_pod")]
    pub resources: Option<serde_json::Value>,
}

/// A taint that a solver pod tolerates.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key. Default: any, with the operator Exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub key: Option<String>,

    /// Equal compares the taint's value, Exists doesn't. Default: Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub operator: Option<String>,

    /// The taint's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,

    /// The taint's effect: NoSchedule, PreferNoSchedule or NoExecute. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub effect: Option<String>,

    /// How long a taint with the effect NoExecute is tolerated, in seconds. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// A Secret with the credentials of a registry.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImagePullSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Who answers HTTP-01 challenges.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Responder {
    /// Waxwing's own Service.
    Operator,
    /// A pod in the Certificate's namespace.
    Pod,
}

/// How long the path for challenges stays at the edge.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RoutePolicy {
    /// Until some seconds after its last use.
    #[default]
    Ephemeral,
    /// As long as a Certificate of the issuer has the name.
    Permanent,
}

/// The type of a solver pod's Service.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// An address inside of the cluster.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// The same, and a port of every node.
    NodePort,
}

/// How the Ingress's path is matched.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PathType {
    /// One path for all challenges of a name.
    #[default]
    Prefix,
    /// One path for each challenge.
    Exact,
}

/// The edge already routes challenges to Waxwing.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExistingRoute {}

fn tls_key() -> String {
    "tls.key".into()
}
