//! What the tests of Waxwing say: a lab in which it runs, and in it a place of its own for each test.

mod count;
mod pair;
mod stage;
mod wait;
mod web;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

pub use count::{Limits, OrderSecret};
use k8s_openapi::{
    ByteString,
    api::{core::v1::Secret, networking::v1::Ingress},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
pub use pair::{Pair, Roots};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
pub use stage::Stage;
pub use wait::{PATIENCE, Stopped, condition};
use waxwing_api::{Certificate, ClusterIssuer, Issuer};
pub use web::{Answer, Web};

use super::{Lab, Mark, OWN_NAMESPACE, Operator, User};
use crate::Error;

/// One test's place in a lab: a namespace and names of its own, so that tests run beside each other.
pub struct Scenario<'stage> {
    lab: &'stage Lab,
    operator: &'stage Operator,
    client: Client,
    namespace: String,
    /// Waxwing's.
    own_namespace: String,
    begun: Mark,
    /// UIDs of the Certificates that it has seen: their order Secrets are named so.
    seen: Mutex<BTreeMap<String, Seen>>,
    witnesses: AtomicU32,
}

/// What a Certificate's traces are recognised by.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: String,
    secret: String,
    hosts: Vec<String>,
}

/// Who applies what users apply.
const MANAGER: &str = "waxwing-lab";

/// The zone whose challenges the edge sends to Waxwing already.
pub(super) const ROUTED: &str = "routed.test";

impl<'stage> Scenario<'stage> {
    pub(super) fn new(
        lab: &'stage Lab,
        operator: &'stage Operator,
        namespace: String,
    ) -> Result<Self, Error> {
        Ok(Self {
            client: lab.client(User::Admin)?,
            begun: lab.audit().mark()?,
            lab,
            operator,
            namespace,
            own_namespace: OWN_NAMESPACE.to_owned(),
            seen: Mutex::default(),
            witnesses: AtomicU32::new(0),
        })
    }

    /// The same, of a Waxwing whose own namespace is another than the lab's.
    #[must_use]
    pub(super) fn with_own_namespace(self, own_namespace: &str) -> Self {
        Self { own_namespace: own_namespace.to_owned(), ..self }
    }

    /// The lab around it.
    pub fn lab(&self) -> &'stage Lab {
        self.lab
    }

    /// Waxwing.
    pub fn operator(&self) -> &'stage Operator {
        self.operator
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A DNS name that no other test has. Challenges get there through an Ingress that Waxwing makes.
    pub fn name(&self, label: &str) -> String {
        format!("{label}.{}.test", self.namespace)
    }

    /// The same, in the zone whose challenges the edge sends to Waxwing already.
    pub fn routed(&self, label: &str) -> String {
        format!("{label}-{}.{ROUTED}", self.namespace)
    }

    /// Everything of one kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The cluster issuers.
    pub fn cluster_issuers(&self) -> Api<ClusterIssuer> {
        Api::all(self.client.clone())
    }

    /// Applies a Certificate as a user would. `spec` is merged over a Secret `<name>-tls` and the
    /// `ClusterIssuer` of step-ca, or Pebble where there is no step-ca.
    pub async fn certify(&self, name: &str, spec: Value) -> Result<Certificate, Error> {
        let ca = if self.lab.step_ca().is_ok() { "step-ca" } else { "pebble" };
        let defaults = json!({
            "secretName": format!("{name}-tls"),
            "issuerRef": {"name": ca, "kind": "ClusterIssuer"},
        });
        let certificate = self.apply::<Certificate>(name, json!({"spec": merged(defaults, spec)})).await?;
        self.remember(&certificate);
        Ok(certificate)
    }

    /// Applies an Issuer. `acme` is merged over Pebble as the CA, and Traefik as the edge.
    pub async fn issuer(&self, name: &str, acme: Value) -> Result<Issuer, Error> {
        let server = match (acme["server"].as_str(), self.lab.pebble(), self.lab.step_ca()) {
            (Some(server), ..) => server.to_owned(),
            (None, Ok(pebble), _) => pebble.directory(),
            (None, Err(_), step_ca) => step_ca?.directory(),
        };
        let defaults = stage::acme(&server, &format!("{name}-account"), self.lab.authority().pem());
        self.apply(name, json!({"spec": {"acme": merged(defaults, acme)}})).await
    }

    /// Applies any object of the namespace, whole: what an earlier call had and this one hasn't is gone.
    pub async fn apply<K>(&self, name: &str, object: Value) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let head = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "namespace": self.namespace},
        });
        let patch = Patch::Apply(merged(head, object));
        self.api::<K>()
            .patch(name, &PatchParams::apply(MANAGER).force(), &patch)
            .await
            .map_err(Error::kube(|| format!("applying {} {name}", K::kind(&()))))
    }

    /// Reads an object of the namespace.
    pub async fn get<K>(&self, name: &str) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let what = || format!("reading {} {name}", K::kind(&()));
        self.api::<K>().get(name).await.map_err(Error::kube(what))
    }

    /// Deletes an object of the namespace, and waits until it is gone; somebody may have made another one since.
    pub async fn delete<K>(&self, name: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let what = || format!("deleting {} {name}", K::kind(&()));
        let uid = self.get::<K>(name).await?.uid();
        self.api::<K>().delete(name, &DeleteParams::default()).await.map_err(Error::kube(what))?;
        self.until(self.api::<K>(), name, |object| match object {
            Some(object) if object.uid() == uid => Err("still there".to_owned()),
            _ => Ok(()),
        })
        .await
    }

    /// Starts Waxwing again after it was killed. It needn't wait for the end of the dead one's Lease.
    pub async fn start_again(&self) -> Result<(), Error> {
        self.lab.take_lease_away(&self.own_namespace).await?;
        self.operator.start_again()
    }

    /// Makes a Secret, as somebody else than Waxwing.
    pub async fn secret(&self, name: &str, kind: &str, data: &[(&str, &str)]) -> Result<Secret, Error> {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        let mut secret =
            Secret { type_: Some(kind.to_owned()), data: Some(data.collect()), ..Secret::default() };
        secret.metadata.name = Some(name.to_owned());
        self.create(&secret).await
    }

    /// Creates an object.
    pub async fn create<K>(&self, object: &K) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let what = || format!("creating {} {}", K::kind(&()), object.name_any());
        self.api::<K>().create(&PostParams::default(), object).await.map_err(Error::kube(what))
    }

    /// Lets a name resolve to these addresses; without any, it exists and resolves to nothing.
    pub async fn resolve(&self, name: &str, addresses: &[&str]) -> Result<(), Error> {
        let parse =
            |address: &&str| address.parse().map_err(Error::invalid(|| format!("the address {address}")));
        let addresses: Vec<IpAddr> = addresses.iter().map(parse).collect::<Result<_, _>>()?;
        self.lab.dns().set(name, &addresses).await
    }

    /// Annotates a Secret; `None` removes the annotation.
    pub async fn annotate(&self, secret: &str, key: &str, value: Option<&str>) -> Result<(), Error> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        self.api::<Secret>()
            .patch(secret, &PatchParams::default(), &patch)
            .await
            .map_err(Error::kube(|| format!("annotating Secret {secret}")))
            .map(|_| ())
    }

    /// Changes a Certificate's status by hand, as only someone with too many rights can.
    pub async fn edit_status(&self, certificate: &str, status: Value) -> Result<(), Error> {
        let patch = Patch::Merge(json!({"status": status}));
        self.api::<Certificate>()
            .patch_status(certificate, &PatchParams::default(), &patch)
            .await
            .map_err(Error::kube(|| format!("editing the status of Certificate {certificate}")))
            .map(|_| ())
    }

    /// Applies an Ingress of the class `class` for `host`, with `web` behind it, and a Secret for TLS if
    /// one is named.
    pub async fn route(
        &self,
        name: &str,
        class: &str,
        host: &str,
        path: &str,
        web: &Web,
        tls: Option<&str>,
    ) -> Result<Ingress, Error> {
        web.service(self, name).await?;
        let backend = json!({"service": {"name": name, "port": {"number": 80}}});
        let tls = tls.map(|secret| json!([{"hosts": [host], "secretName": secret}])).unwrap_or(json!([]));
        let spec = json!({
            "ingressClassName": class,
            "rules": [{"host": host, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}],
            "tls": tls,
        });
        self.apply(name, json!({"spec": spec})).await
    }

    /// What the Secret of this name holds.
    pub async fn pair(&self, secret: &str) -> Result<Pair, Error> {
        Pair::of(&self.get::<Secret>(secret).await?)
    }

    /// The roots that the lab's CAs issue under.
    pub async fn roots(&self) -> Result<Roots, Error> {
        Roots::new(&self.lab.roots().await?)
    }

    fn remember(&self, certificate: &Certificate) {
        let seen = Seen {
            name: certificate.name_any(),
            secret: certificate.spec.secret_name.clone(),
            hosts: certificate.spec.dns_names.clone(),
        };
        let uid = certificate.uid().unwrap_or_default();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, seen);
    }

    fn next_witness(&self) -> String {
        format!("witness-{}", self.witnesses.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// `over` laid over `under`, object by object.
fn merged(under: Value, over: Value) -> Value {
    match (under, over) {
        (Value::Object(mut under), Value::Object(over)) => {
            for (key, value) in over {
                let value = match under.remove(&key) {
                    // A reference or a list is replaced whole.
                    Some(before) if key == "metadata" || key == "spec" => merged(before, value),
                    _ => value,
                };
                if !value.is_null() {
                    under.insert(key, value);
                }
            }
            Value::Object(under)
        }
        (_, over) => over,
    }
}
