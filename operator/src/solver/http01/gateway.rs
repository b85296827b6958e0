//! `http01.gatewayHTTPRoute`: an `HTTPRoute` (Gateway API) in the Certificate's namespace routes a host's challenges to
//! the responder.
//!
//! It stands there, and not in Waxwing's namespace, because listeners may admit routes of their own namespace alone;
//! a `ReferenceGrant` in Waxwing's namespace lets it lead to the responder's Service.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use waxwing_acme::{
    Challenge, ChallengeType, Evidence, Identifier, NoSolver, Presented, Solver, SolverError,
};
use waxwing_api::{Http01GatewayHttpRoute, ParentRef};

use super::{
    object::{Kind, Object, short_hash},
    objects::MakeError,
    refusal::refused,
};
use crate::solver::{Applicant, SolverContext, responder::PATH};

/// How long a Gateway's controller may take to say whether it takes an `HTTPRoute`.
const ACCEPTANCE: Duration = Duration::from_secs(5);
/// For one more look, after that time.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Solves by an `HTTPRoute` for each host.
#[derive(Clone, Debug)]
pub struct GatewayRoute {
    context: Arc<SolverContext>,
    applicant: Arc<Applicant>,
    spec: Http01GatewayHttpRoute,
}

impl GatewayRoute {
    /// The solver for `identifier`, unless no `HTTPRoute` can route to it.
    pub fn new(
        context: &Arc<SolverContext>,
        applicant: &Arc<Applicant>,
        spec: &Http01GatewayHttpRoute,
        identifier: &Identifier,
    ) -> Result<Self, NoSolver> {
        if let Identifier::Ip(address) = identifier {
            return Err(NoSolver::new(format!(
                "an HTTPRoute can't route {address}, which is no DNS name: use http01.existingRoute for it"
            )));
        }
        Ok(Self { context: Arc::clone(context), applicant: Arc::clone(applicant), spec: spec.clone() })
    }

    async fn ensure(&self, host: &str) -> Result<Object, SolverError> {
        let context = &self.context;
        let (service, port) = &context.service;
        let route = route(&self.applicant, &self.spec, host, (&context.own_namespace, service, *port));
        let grant = grant(&self.applicant, &context.own_namespace, service);
        let objects = [route.clone(), grant];
        context.objects.ensure(&self.applicant.uid, &objects).await.map_err(|error| {
            let doing = format!("couldn't route the challenge for {host} to Waxwing");
            if matches!(&error, MakeError::Call(call) if call.is_not_found()) {
                return SolverError::new(format!("{doing}: {error}"))
                    .advising("Install the Gateway API's CustomResourceDefinitions, or use http01.ingress.");
            }
            refused(&doing, "http01.rights.gatewayHTTPRoute", error)
        })?;
        Ok(route)
    }
}

#[async_trait]
impl Solver for GatewayRoute {
    fn id(&self) -> String {
        "http-01/gateway".to_owned()
    }

    fn challenge_type(&self) -> ChallengeType {
        ChallengeType::Http01
    }

    fn record(&self, challenge: &Challenge) -> Presented {
        super::record(self.id(), challenge)
    }

    async fn prepare(&self, identifier: &Identifier) -> Result<(), SolverError> {
        self.ensure(&identifier.to_string()).await.map(|_| ())
    }

    async fn present(&self, challenge: &Challenge) -> Result<(), SolverError> {
        let host = challenge.identifier.to_string();
        let route = self.ensure(&host).await?;
        let objects = &self.context.objects;
        let said = match objects.find(&route, ACCEPTANCE, settled).await {
            None => objects.find(&route, LAST_LOOK, verdict).await,
            said => said,
        };
        match said {
            // Nobody said anything: the self-check looks, and the CA.
            None | Some(Ok(())) => Ok(()),
            Some(Err(why)) => Err(SolverError::new(format!(
                "the Gateway doesn't take the HTTPRoute for {host}: {why}"
            ))
            .advising(
                "Correct parentRefs and labels of the issuer's gatewayHTTPRoute, or the Gateway's listeners: one for \
                 HTTP on port 80 must admit routes of this namespace and this name.",
            )),
        }
    }

    async fn self_check(&self, challenge: &Challenge) -> Evidence {
        super::self_check(&self.context, &self.applicant, challenge).await
    }

    async fn clean_up(&self, _: &Presented) -> Result<(), SolverError> {
        // Swept when the attempt has ended and it has been quiet.
        Ok(())
    }
}

/// The `HTTPRoute` for one host, to the responder's Service (namespace, name, port).
fn route(
    applicant: &Applicant,
    spec: &Http01GatewayHttpRoute,
    host: &str,
    (namespace, service, port): (&str, &str, u16),
) -> Object {
    let parents: Vec<Value> = spec.parent_refs.iter().map(parent).collect();
    let body = json!({
        "metadata": {"labels": spec.labels},
        "spec": {
            "parentRefs": parents,
            "hostnames": [host],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": PATH.trim_end_matches('/')}}],
                "backendRefs": [{"kind": "Service", "namespace": namespace, "name": service, "port": port}],
            }],
        },
    });
    let name = format!("{}-{}", applicant.object_name(), short_hash(host));
    Object::new(Kind::HttpRoute, &applicant.namespace, &name, &applicant.uid, body)
}

/// What lets routes of the Certificate's namespace lead to the responder.
fn grant(applicant: &Applicant, own_namespace: &str, service: &str) -> Object {
    let group = "gateway.networking.k8s.io";
    let body = json!({"spec": {
        "from": [{"group": group, "kind": "HTTPRoute", "namespace": applicant.namespace}],
        "to": [{"group": "", "kind": "Service", "name": service}],
    }});
    Object::new(Kind::ReferenceGrant, own_namespace, &applicant.object_name(), &applicant.uid, body)
}

fn parent(reference: &ParentRef) -> Value {
    let mut parent = json!(reference);
    let defaults = [("group", "gateway.networking.k8s.io"), ("kind", "Gateway")];
    for (key, value) in defaults {
        if parent[key].is_null() {
            parent[key] = json!(value);
        }
    }
    parent
}

/// What the Gateways' controllers say of an `HTTPRoute`: nothing yet, that one takes it, or why none does.
fn verdict(route: &Value) -> Option<Result<(), String>> {
    let mut refusals = Vec::new();
    for parent in route["status"]["parents"].as_array().into_iter().flatten() {
        let conditions: Vec<&Value> = parent["conditions"].as_array().into_iter().flatten().collect();
        let find = |type_: &str| conditions.iter().find(|condition| condition["type"] == type_);
        let no = ["Accepted", "ResolvedRefs"]
            .into_iter()
            .filter_map(find)
            .find(|condition| condition["status"] == "False");
        match no {
            None if find("Accepted").is_some_and(|accepted| accepted["status"] == "True") => {
                return Some(Ok(()));
            }
            None => {}
            Some(no) => {
                let text = |key: &str| no[key].as_str().unwrap_or_default().to_owned();
                let name = parent["parentRef"]["name"].as_str().unwrap_or_default();
                refusals.push(format!("{name} says {}: {}", text("reason"), text("message")));
            }
        }
    }
    (!refusals.is_empty()).then(|| Err(refusals.join("; ")))
}

/// The same, but that a grant which a controller hasn't seen is nothing yet: it was made together with the route.
fn settled(route: &Value) -> Option<Result<(), String>> {
    let parents = route["status"]["parents"].as_array();
    let conditions =
        parents.into_iter().flatten().filter_map(|parent| parent["conditions"].as_array()).flatten();
    let ungranted = conditions.into_iter().any(|condition| condition["reason"] == "RefNotPermitted");
    verdict(route).filter(|verdict| verdict.is_ok() || !ungranted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_route_leads_across_namespaces_by_a_grant() {
        let applicant = Applicant::example();
        let spec = Http01GatewayHttpRoute {
            parent_refs: vec![
                ParentRef { name: "public".to_owned(), ..ParentRef::default() },
                ParentRef {
                    name: "mesh".to_owned(),
                    kind: Some("Service".to_owned()),
                    group: Some(String::new()),
                    section_name: Some("web".to_owned()),
                    ..ParentRef::default()
                },
            ],
            labels: [("gateway".to_owned(), "public".to_owned())].into(),
            ..Http01GatewayHttpRoute::default()
        };
        let made = route(&applicant, &spec, "shop.example.com", ("waxwing-system", "waxwing", 80));
        let made = made.manifest();
        assert_eq!(made["metadata"]["namespace"], applicant.namespace);
        assert_eq!(made["metadata"]["labels"]["gateway"], "public");
        assert_eq!(
            made["spec"]["parentRefs"],
            json!([
                {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"},
                {"group": "", "kind": "Service", "name": "mesh", "sectionName": "web"},
            ])
        );
        let rule = &made["spec"]["rules"][0];
        assert_eq!(rule["matches"][0]["path"]["value"], "/.well-known/acme-challenge");
        assert_eq!(rule["backendRefs"][0]["namespace"], "waxwing-system");
        let grant = grant(&applicant, "waxwing-system", "waxwing");
        assert_eq!(grant.manifest()["metadata"]["namespace"], "waxwing-system");
        assert_eq!(grant.manifest()["spec"]["from"][0]["namespace"], applicant.namespace);
    }

    #[test]
    fn one_gateway_that_takes_it_is_enough() {
        let parent = |status: &str, resolved: &str| {
            json!({
                "parentRef": {"name": "public"},
                "conditions": [
                    {"type": "Accepted", "status": status, "reason": "NotAllowedByListeners", "message": "no"},
                    {"type": "ResolvedRefs", "status": resolved, "reason": "RefNotPermitted", "message": "no"},
                ],
            })
        };
        let of = |parents: Value| verdict(&json!({"status": {"parents": parents}}));
        assert_eq!(verdict(&json!({})), None);
        assert_eq!(of(json!([])), None);
        assert_eq!(of(json!([parent("Unknown", "Unknown")])), None);
        assert_eq!(of(json!([parent("False", "True"), parent("True", "True")])), Some(Ok(())));
        let refused = of(json!([parent("False", "True")])).unwrap().unwrap_err();
        assert!(refused.contains("NotAllowedByListeners"), "{refused}");
        let refused = of(json!([parent("True", "False")])).unwrap().unwrap_err();
        assert!(refused.contains("RefNotPermitted"), "{refused}");
    }

    #[test]
    fn a_grant_that_is_not_seen_yet_is_waited_for() {
        let said = |reason: &str| {
            let refs = json!({"type": "ResolvedRefs", "status": "False", "reason": reason});
            let accepted = json!({"type": "Accepted", "status": "True"});
            settled(&json!({"status": {"parents": [{"conditions": [accepted, refs]}]}}))
        };
        assert_eq!(said("RefNotPermitted"), None);
        assert!(said("BackendNotFound").unwrap().is_err());
    }
}
