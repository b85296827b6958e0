//! The Gateway API: `http01.gatewayHTTPRoute` through Traefik's provider of it, and whose a name is that its routes have.

#[path = "http01/rights.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod rights;

use std::{fs, time::Duration};

use e2e::{
    Error,
    lab::{
        OWN_NAMESPACE, Parts, TraefikOptions, User,
        scenario::{Scenario, Stage},
    },
    parts::Part,
    paths, probe,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use waxwing_api::{labels, reason};

const PATIENCE: Duration = Duration::from_mins(1);

/// What Traefik may do with the Gateway API, its class, and a Gateway that all namespaces may use, and one that only
/// its own may.
const GATEWAYS: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: traefik-gateway}
rules:
- apiGroups: [gateway.networking.k8s.io]
  resources: ['*']
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses/status, gateways/status, httproutes/status, grpcroutes/status, tcproutes/status,
    tlsroutes/status, listenersets/status, backendtlspolicies/status]
  verbs: [update, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: traefik-gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: traefik-gateway}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: traefik}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: traefik}
spec: {controllerName: traefik.io/gateway-controller}
---
apiVersion: v1
kind: Namespace
metadata: {name: edge}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: traefik
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: private, namespace: edge}
spec:
  gatewayClassName: traefik
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Same}}}
";

/// The tests share one lab. Each has a namespace and names of its own.
async fn scenario(name: &str) -> Result<Scenario<'static>, Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    STAGE.get_or_try_init(stage).await?.scenario(name).await
}

async fn stage() -> Result<Stage, Error> {
    let arguments = vec!["--providers.kubernetesgateway=true".to_owned()];
    let traefik = TraefikOptions { arguments, ..TraefikOptions::default() };
    let parts = Parts { step_ca: true, traefik: Some(traefik), ..Parts::default() };
    let stage = Stage::start("gateway", parts).await?;
    let crds = Part::GatewayApi.directory()?.join("crds");
    let failed = || format!("listing {}", crds.display());
    for file in fs::read_dir(&crds).map_err(Error::io(failed))? {
        let file = file.map_err(Error::io(failed))?.path();
        stage.lab().apply(OWN_NAMESPACE, &paths::read(&file)?).await?;
    }
    probe::until("the Gateway API", PATIENCE, || stage.lab().apply(OWN_NAMESPACE, GATEWAYS)).await?;
    stage.lab().apply(OWN_NAMESPACE, rights::GATEWAY).await?;
    // It looks for the API when it starts.
    let traefik = stage.lab().traefik()?.process();
    traefik.kill();
    traefik.start()?;
    let gateways = api(&stage.lab().client(User::Admin)?, Some("edge"), "Gateway", "gateways", "v1");
    probe::until("the Gateway", PATIENCE, || async {
        let gateway = gateways.get("public").await.map_err(|error| error.to_string())?;
        let status = gateway.data["status"].to_string();
        if status.contains("\"Programmed\"") && status.contains("\"True\"") { Ok(()) } else { Err(status) }
    })
    .await?;
    Ok(stage)
}

fn api(
    client: &kube::Client,
    namespace: Option<&str>,
    kind: &str,
    plural: &str,
    version: &str,
) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", version, kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

fn through(gateway: &str) -> Value {
    let parent = json!({"name": gateway, "namespace": "edge", "sectionName": "http"});
    json!({"solvers": [{"http01": {"gatewayHTTPRoute": {"parentRefs": [parent], "labels": {"team": "edge"}}}}]})
}

#[tokio::test]
async fn a_certificate_is_issued_through_a_gateway_and_nothing_is_left() -> Result<(), Error> {
    let s = scenario("gateway").await?;
    let hosts = [s.name("a"), s.name("b")];
    s.issuer("own", through("public")).await?;
    s.certify("shop", json!({"dnsNames": hosts, "issuerRef": {"name": "own"}})).await?;
    s.ready("shop").await?;
    s.pair("shop-tls").await?.serves(&s.roots().await?, &hosts)?;
    until_swept(&s).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_gateway_that_refuses_is_quoted() -> Result<(), Error> {
    let s = scenario("refused").await?;
    s.issuer("own", through("private")).await?;
    s.certify("shop", json!({"dnsNames": [s.name("shop")], "issuerRef": {"name": "own"}})).await?;
    let stopped =
        s.stopped_saying("shop", reason::BACKING_OFF, "the Gateway doesn't take the HTTPRoute").await?;
    assert!(stopped.message.contains("private says"), "{}", stopped.message);
    assert!(stopped.message.contains("Correct parentRefs"), "{}", stopped.message);
    // Its order stays open, and yet its route goes.
    until_swept(&s).await
}

#[tokio::test]
async fn a_name_that_a_neighbours_route_has_is_the_neighbours() -> Result<(), Error> {
    let (neighbour, s) = (scenario("neighbour").await?, scenario("tenant").await?);
    for kind in ["HTTPRoute", "GRPCRoute", "TLSRoute"] {
        let name = kind.to_lowercase();
        let (host, free) = (neighbour.routed(&name), neighbour.routed(&format!("{name}-free")));
        neighbour.lab().apply(neighbour.namespace(), &route(kind, &name, &host)).await?;
        s.certify(&name, json!({"dnsNames": [host]})).await?;
        let words = format!("{host} is routed by {kind} {}/{name}", neighbour.namespace());
        let stopped = s.stopped_saying(&name, reason::NAME_OWNED_ELSEWHERE, &words).await?;
        assert_eq!(stopped.certificate.status.and_then(|status| status.failed_issuance_attempts), None);

        // Its owner gets it; and gives it up.
        neighbour.certify(&name, json!({"dnsNames": [host]})).await?;
        neighbour.ready(&name).await?;
        neighbour.lab().apply(neighbour.namespace(), &route(kind, &name, &free)).await?;
        s.ready(&name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_gateways_own_namespace_may_have_what_is_routed_through_it() -> Result<(), Error> {
    let (tenant, platform) = (scenario("routed").await?, scenario("platform").await?);
    let host = tenant.routed("shop");
    tenant.lab().apply(tenant.namespace(), &route("HTTPRoute", "shop", &host)).await?;
    platform.certify("shop", json!({"dnsNames": [host]})).await?;
    platform.stopped("shop", reason::NAME_OWNED_ELSEWHERE).await?;
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "own"},
        "spec": {
            // What nobody serves: its certificate comes first.
            "gatewayClassName": "none",
            "listeners": [{
                "name": "https", "port": 443, "protocol": "HTTPS",
                "tls": {"certificateRefs": [{"name": "shop-tls"}]},
            }],
        },
    });
    platform.lab().apply(platform.namespace(), &gateway.to_string()).await?;
    platform.ready("shop").await.map(|_| ())
}

/// A route of some kind that has a host and leads nowhere.
fn route(kind: &str, name: &str, host: &str) -> String {
    let backends = json!([{"name": name, "port": 443}]);
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"hostnames": [host], "rules": [{"backendRefs": backends}]},
    })
    .to_string()
}

/// Waits until no route and no grant of the namespace's Certificates is left.
async fn until_swept(s: &Scenario<'_>) -> Result<(), Error> {
    let client = s.lab().client(User::Admin)?;
    let routes = api(&client, Some(s.namespace()), "HTTPRoute", "httproutes", "v1");
    let grants = api(&client, Some(OWN_NAMESPACE), "ReferenceGrant", "referencegrants", "v1beta1");
    let ours = ListParams::default().labels(labels::CERTIFICATE_UID);
    probe::until("the end of HTTPRoutes", PATIENCE, || async {
        let routes = routes.list(&ours).await.map_err(|error| error.to_string())?;
        let grants = grants.list(&ours).await.map_err(|error| error.to_string())?;
        let of_here = grants
            .iter()
            .filter(|grant| grant.data["spec"]["from"][0]["namespace"] == s.namespace())
            .map(ResourceExt::name_any);
        let left: Vec<String> = routes.iter().map(ResourceExt::name_any).chain(of_here).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    })
    .await
}
