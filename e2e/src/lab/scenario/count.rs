//! Counting what a Certificate costs, and looking for what is left over.

use std::sync::PoisonError;

use k8s_openapi::api::{
    core::v1::{Pod, Secret},
    networking::v1::Ingress,
};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use waxwing_api::{Certificate, labels};

use super::{Scenario, Seen, wait::PATIENCE};
use crate::{
    Error,
    lab::{User, Write},
    probe,
};

/// The Secret in which an order is kept.
pub type OrderSecret = Secret;

/// What a Certificate may cost at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Writes to the API server: status, Secrets, routes, Events; deletions, refused ones and dry runs too.
    pub writes: usize,
    /// Requests to the CA.
    pub requests: usize,
}

impl Scenario<'_> {
    /// Order Secrets.
    pub fn order_secrets(&self) -> Api<OrderSecret> {
        Api::namespaced(self.client.clone(), &self.own_namespace)
    }

    /// What Waxwing wrote to the API server because of a Certificate, since the test began. All of the
    /// UIDs that the test has seen under this name count.
    pub fn writes(&self, certificate: &str) -> Result<Vec<Write>, Error> {
        let seen: Vec<(String, Seen)> = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.iter()
                .filter(|(_, seen)| seen.name == certificate)
                .map(|(uid, seen)| (uid.clone(), seen.clone()))
                .collect()
        };
        let writes = self.lab.audit().writes_since(self.begun)?;
        let of_this = |write: &Write| {
            write.user == User::Waxwing.name()
                && seen.iter().any(|(uid, seen)| self.belongs(write, uid, seen))
        };
        Ok(writes.into_iter().filter(of_this).collect())
    }

    /// What was asked of CAs for a Certificate: the URLs, from Waxwing's log.
    pub fn requests(&self, certificate: &str) -> Vec<String> {
        let name = json!(format!("{}/{certificate}", self.namespace));
        self.all_requests()
            .filter(|line| line["span"]["certificate"] == name)
            .map(|line| url(&line))
            .collect()
    }

    /// How many requests were sent to URLs that begin so, for whomever.
    pub fn asked(&self, url_prefix: &str) -> usize {
        self.all_requests().filter(|line| url(line).starts_with(url_prefix)).count()
    }

    fn all_requests(&self) -> impl Iterator<Item = Value> {
        let log = self.operator.process().log();
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines.into_iter().filter(|line| line["message"] == "ACME request")
    }

    /// Checks that a Certificate that rests has cost little, and goes on costing nothing. So that a loop
    /// would show, another one is issued from order to Secret meanwhile: a loop makes hundreds of requests
    /// in that time.
    pub async fn calm(&self, certificate: &str, limits: Limits) -> Result<(), Error> {
        let witness = self.next_witness();
        self.certify(&witness, json!({"dnsNames": [self.routed(&witness)]})).await?;
        self.ready(&witness).await?;
        self.within(certificate, limits)
    }

    /// Checks what a Certificate has cost so far.
    pub fn within(&self, certificate: &str, limits: Limits) -> Result<(), Error> {
        let writes = self.writes(certificate)?;
        let requests = self.requests(certificate);
        if writes.len() <= limits.writes && requests.len() <= limits.requests {
            return Ok(());
        }
        let each: Vec<String> = writes
            .iter()
            .map(|write| format!("{} {}/{} {}", write.verb, write.resource, write.name, write.code))
            .collect();
        Err(Error::Invalid {
            what: format!("Certificate {}/{certificate} costs more than {limits:?}", self.namespace),
            why: format!(
                "{} writes: {}; {} requests: {}",
                writes.len(),
                each.join(", "),
                requests.len(),
                requests.join(", ")
            ),
        })
    }

    /// Waits until nothing that served an issuance is left: no order Secret, no route, no pod, nothing in
    /// the namespace but what was asked for.
    pub async fn nothing_left(&self) -> Result<(), Error> {
        probe::until(&format!("the end of what {} used", self.namespace), PATIENCE, || async {
            let left = self.left().await.map_err(|error| error.to_string())?;
            if left.is_empty() { Ok(()) } else { Err(format!("left: {}", left.join(", "))) }
        })
        .await
    }

    /// The order Secrets of the namespace's Certificates, by the Certificate's name.
    pub async fn open_orders(&self) -> Result<Vec<String>, Error> {
        let prefix = format!("{}/", self.namespace);
        let component = format!("{}={}", labels::COMPONENT, labels::COMPONENT_ORDER);
        let orders = self.order_secrets().list(&ListParams::default().labels(&component)).await;
        let orders = orders.map_err(Error::kube(|| "listing order Secrets"))?;
        let of = |secret: &Secret| {
            secret.annotations().get(labels::ORDER_CERTIFICATE)?.strip_prefix(&prefix).map(str::to_owned)
        };
        Ok(orders.items.iter().filter_map(of).collect())
    }

    async fn left(&self) -> Result<Vec<String>, Error> {
        let mut left: Vec<String> = self
            .open_orders()
            .await?
            .into_iter()
            .map(|certificate| format!("the order of {certificate}"))
            .collect();

        let ours =
            ListParams::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_WAXWING));
        let zone = format!(".{}.test", self.namespace);
        let routes: Api<Ingress> = Api::namespaced(self.client.clone(), &self.own_namespace);
        let routes = routes.list(&ours).await.map_err(Error::kube(|| "listing routes"))?;
        left.extend(
            routes
                .items
                .iter()
                .flat_map(hosts)
                .filter(|host| host.ends_with(&zone))
                .map(|host| format!("a route for {host}")),
        );

        let ingresses =
            self.api::<Ingress>().list(&ours).await.map_err(Error::kube(|| "listing Ingresses"))?;
        left.extend(ingresses.items.iter().map(|ingress| format!("Ingress {}", ingress.name_any())));
        let pods =
            self.api::<Pod>().list(&ListParams::default()).await.map_err(Error::kube(|| "listing Pods"))?;
        left.extend(pods.items.iter().map(|pod| format!("Pod {}", pod.name_any())));
        Ok(left)
    }

    /// Whether a write was for the Certificate with this UID.
    fn belongs(&self, write: &Write, uid: &str, seen: &Seen) -> bool {
        let name = write.name.as_str();
        if write.namespace == self.namespace {
            return match write.resource.as_str() {
                "certificates" | "certificates/status" => name == seen.name,
                "secrets" => name == seen.secret,
                "events" => name.strip_prefix(&seen.name).is_some_and(|rest| rest.starts_with('.')),
                _ => false,
            };
        }
        write.namespace == self.own_namespace
            && match write.resource.as_str() {
                "secrets" => name == labels::order_secret_name(uid),
                "ingresses" => seen.hosts.iter().any(|host| name.starts_with(&format!("route-{host}-"))),
                _ => false,
            }
    }

    /// The names of the namespace's Certificates, sorted.
    pub async fn certificates(&self) -> Result<Vec<String>, Error> {
        let certificates = self.api::<Certificate>().list(&ListParams::default()).await;
        let certificates = certificates.map_err(Error::kube(|| "listing Certificates"))?;
        let mut names: Vec<String> = certificates.items.iter().map(ResourceExt::name_any).collect();
        names.sort();
        Ok(names)
    }
}

fn url(request: &Value) -> String {
    request["url"].as_str().unwrap_or_default().to_owned()
}

/// The hosts of an Ingress.
fn hosts(ingress: &Ingress) -> Vec<String> {
    let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    rules.filter_map(|rule| rule.host.clone()).collect()
}
