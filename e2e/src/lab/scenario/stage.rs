//! A lab in which Waxwing runs.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use waxwing_api::reason;

use super::{MANAGER, ROUTED, Scenario};
use crate::{
    Error,
    lab::{Lab, OWN_NAMESPACE, Operator, OperatorOptions, Parts, Traefik},
};

/// A lab in which Waxwing runs, with a `ClusterIssuer` for each of its CAs: `pebble` and `step-ca`.
///
/// Challenges of names directly below `routed.test` are sent to Waxwing by the edge itself
/// (`http01.existingRoute`); all others need an Ingress each.
#[derive(Debug)]
pub struct Stage {
    // First: it ends before what it talks to.
    operator: Operator,
    lab: Lab,
}

impl Stage {
    /// Starts the parts and Waxwing, and waits until the issuers are ready.
    pub async fn start(name: &str, parts: Parts) -> Result<Self, Error> {
        Self::start_with(name, parts, &[]).await
    }

    /// The same, with more variables in Waxwing's environment.
    pub async fn start_with(name: &str, parts: Parts, environment: &[(&str, &str)]) -> Result<Self, Error> {
        let bound = parts.pebble.as_ref().is_some_and(|pebble| !pebble.external_accounts.is_empty());
        let lab = Lab::start(name, parts).await?;
        let operator = lab.operator(options(environment))?;
        let stage = Self { operator, lab };
        stage.lab.apply(OWN_NAMESPACE, &existing_route().to_string()).await?;
        let scenario = stage.scenario("ready").await?;
        let mut cas = stage.cas();
        if bound {
            // A test has to tell who is known to this CA.
            cas.remove("pebble");
        }
        for (ca, server) in &cas {
            let issuer = json!({
                "apiVersion": "waxwing.dev/v1",
                "kind": "ClusterIssuer",
                "metadata": {"name": ca},
                "spec": {"acme": acme(server, &format!("{ca}-account"), stage.lab.authority().pem())},
            });
            stage.lab.apply(OWN_NAMESPACE, &issuer.to_string()).await?;
        }
        for ca in cas.keys() {
            scenario.cluster_issuer_is(ca, reason::ACCOUNT_REGISTERED).await?;
        }
        Ok(stage)
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Waxwing.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// A place for one test.
    pub async fn scenario(&self, name: &str) -> Result<Scenario<'_>, Error> {
        Scenario::new(&self.lab, &self.operator, self.lab.namespace(name).await?)
    }

    /// The lab's CAs: name and directory.
    fn cas(&self) -> BTreeMap<String, String> {
        let pebble = self.lab.pebble().ok().map(|pebble| ("pebble".to_owned(), pebble.directory()));
        let step_ca = self.lab.step_ca().ok().map(|step_ca| ("step-ca".to_owned(), step_ca.directory()));
        pebble.into_iter().chain(step_ca).collect()
    }
}

/// What an issuer of the lab says of its CA.
pub(super) fn acme(server: &str, account: &str, root_pem: &str) -> Value {
    json!({
        "server": server,
        "email": "ops@example.com",
        "privateKeySecretRef": {"name": account},
        "caBundle": ByteString(root_pem.as_bytes().to_vec()),
        "solvers": [
            {"http01": {"ingress": {"ingressClassName": Traefik::CLASS}}},
            {"selector": {"dnsZones": [ROUTED]}, "http01": {"existingRoute": {}}},
        ],
    })
}

/// Production's defaults, but that nobody waits for them: routes are swept soon, and a name that will never
/// answer is given up soon.
fn options(more: &[(&str, &str)]) -> OperatorOptions {
    let environment = [
        ("WAXWING_ROUTE_QUIET_PERIOD", "2s"),
        ("WAXWING_SELF_CHECK_TIMEOUT", "8s"),
        ("WAXWING_LOG_FORMAT", "json"),
    ];
    let all = environment.iter().chain(more);
    OperatorOptions {
        environment: all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..OperatorOptions::default()
    }
}

/// What an administrator writes once, for `http01.existingRoute`.
fn existing_route() -> Value {
    let backend = json!({"service": {"name": "waxwing", "port": {"name": "responder"}}});
    let path = json!({"path": "/.well-known/acme-challenge/", "pathType": "Prefix", "backend": backend});
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "challenges", "namespace": OWN_NAMESPACE, "annotations": {"owner": MANAGER}},
        "spec": {
            "ingressClassName": Traefik::CLASS,
            "rules": [{"host": format!("*.{ROUTED}"), "http": {"paths": [path]}}],
        },
    })
}
