//! A Waxwing that works for one namespace alone, behind a checkpoint: several of them run beside each other in a lab.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::rbac::v1::Role, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use serde_json::json;
use waxwing_api::reason;

use super::{
    API_URL, Checkpoint, Lab, OWN_NAMESPACE, Operator, OperatorOptions, RESPONDER_PORT, User,
    scenario::Scenario,
};
use crate::{Error, paths, probe};

/// Longest time for a Waxwing to come up on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// What Waxwing logs when it can ask the CA for certificates: it leads, and knows its account.
const READY: &str = "the issuer is ready";

/// The place of one Waxwing. Dropping it kills the process; its namespaces stay.
#[derive(Debug)]
pub struct Enclave<'lab> {
    lab: &'lab Lab,
    operator: Arc<Operator>,
    checkpoint: Checkpoint,
    namespace: String,
    own_namespace: String,
}

impl<'lab> Enclave<'lab> {
    /// The Issuer in its namespace. It asks step-ca.
    pub const ISSUER: &'static str = "step-ca";

    /// Starts a Waxwing that answers challenges at `address`, one of the node's, and waits until it can issue.
    /// Certificates are expected in a namespace named after `name`.
    pub async fn start(lab: &'lab Lab, name: &str, address: &str) -> Result<Self, Error> {
        let namespace = lab.namespace(name).await?;
        let own_namespace = lab.namespace(&format!("{name}-own")).await?;
        let checkpoint = Checkpoint::open(lab.authority(), &own_namespace).await?;
        let enclave = Self {
            operator: Arc::new(operator(lab, &checkpoint, &namespace, &own_namespace, address)?),
            lab,
            checkpoint,
            namespace,
            own_namespace,
        };
        enclave.allow().await?;
        enclave.lead_here(address).await?;
        enclave.operator.start_again()?;
        let scenario = enclave.scenario()?;
        let server = enclave.checkpoint.ca_directory();
        scenario.issuer(Self::ISSUER, json!({"server": server})).await?;
        scenario.issuer_is(Self::ISSUER, reason::ACCOUNT_REGISTERED).await?;
        Ok(enclave)
    }

    /// Its namespace, as tests speak of it.
    pub fn scenario(&self) -> Result<Scenario<'_>, Error> {
        let scenario = Scenario::new(self.lab, &self.operator, self.namespace.clone())?;
        Ok(scenario.with_own_namespace(&self.own_namespace))
    }

    /// What its Waxwing asks passes here.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// SIGKILL, for whoever is to send it.
    pub fn killer(&self) -> impl FnOnce() + Send + 'static {
        let operator = Arc::clone(&self.operator);
        move || operator.kill()
    }

    /// Starts Waxwing again after it was killed, and waits until it can issue.
    pub async fn start_again(&self) -> Result<(), Error> {
        let ready = || self.operator.process().log().matches(READY).count();
        let before = ready();
        self.scenario()?.start_again().await?;
        probe::ready(self.operator.process(), PATIENCE, || async {
            if ready() > before { Ok(()) } else { Err("not logged yet") }
        })
        .await
    }

    /// Gives Waxwing the rights in its own namespace that it has in every cluster.
    async fn allow(&self) -> Result<(), Error> {
        let client = self.lab.client(User::Admin)?;
        let what = || "copying Waxwing's Role";
        let there: Api<Role> = Api::namespaced(client.clone(), OWN_NAMESPACE);
        let role = there.get("waxwing").await.map_err(Error::kube(what))?;
        let metadata = ObjectMeta { name: role.metadata.name.clone(), ..ObjectMeta::default() };
        let here: Api<Role> = Api::namespaced(client, &self.own_namespace);
        here.create(&PostParams::default(), &Role { metadata, ..role }).await.map_err(Error::kube(what))?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "waxwing"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "waxwing"},
            "subjects": [{
                "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": User::Waxwing.name(),
            }],
        });
        self.lab.apply(&self.own_namespace, &binding.to_string()).await
    }

    /// Makes the Service `waxwing` lead to this Waxwing's responder.
    async fn lead_here(&self, address: &str) -> Result<(), Error> {
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "waxwing"},
            "spec": {"ports": [{"name": "responder", "port": 80, "targetPort": RESPONDER_PORT}]},
        });
        let endpoints = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "waxwing", "labels": {"kubernetes.io/service-name": "waxwing"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"name": "responder", "port": RESPONDER_PORT, "protocol": "TCP"}],
        });
        self.lab.apply(&self.own_namespace, &service.to_string()).await?;
        self.lab.apply(&self.own_namespace, &endpoints.to_string()).await
    }
}

impl Drop for Enclave<'_> {
    fn drop(&mut self) {
        // The checkpoint may hold the process for a moment longer.
        self.operator.kill();
    }
}

/// Waxwing as an enclave runs it.
fn operator(
    lab: &Lab,
    checkpoint: &Checkpoint,
    namespace: &str,
    own_namespace: &str,
    address: &str,
) -> Result<Operator, Error> {
    let direct = paths::read(&lab.kubeconfig(User::Waxwing))?;
    let kubeconfig = lab.places.files.join(format!("{own_namespace}.kubeconfig"));
    paths::write_private(&kubeconfig, &direct.replace(API_URL, &checkpoint.api_url()))?;
    let environment = [
        ("POD_NAMESPACE", own_namespace.to_owned()),
        ("POD_NAME", own_namespace.to_owned()),
        ("WAXWING_WATCH_NAMESPACES", namespace.to_owned()),
        ("WAXWING_RESPONDER_LISTEN", format!("{address}:{RESPONDER_PORT}")),
        ("WAXWING_ADMIN_LISTEN", format!("{address}:9402")),
        ("WAXWING_ROUTE_QUIET_PERIOD", "1s".to_owned()),
        ("WAXWING_LOG_FORMAT", "json".to_owned()),
    ];
    let options = OperatorOptions {
        name: own_namespace.to_owned(),
        environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        ..OperatorOptions::default()
    };
    Operator::new(options, &kubeconfig, &lab.places)
}
