//! The lab itself: every part comes up, and they work together without Waxwing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::IpAddr, time::Duration};

use axum::{Router, routing::get};
use e2e::{
    lab::{Lab, Mark, Parts, PebbleOptions, TraefikOptions, User},
    probe,
    sandbox::{NODE_ADDRESS, SILENT_ADDRESS},
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use tokio::sync::OnceCell;

/// The tests that break nothing share one lab.
async fn shared() -> &'static Lab {
    static LAB: OnceCell<Lab> = OnceCell::const_new();
    let parts = Parts {
        pebble: Some(PebbleOptions::default()),
        step_ca: true,
        traefik: Some(TraefikOptions::default()),
        ..Parts::default()
    };
    LAB.get_or_init(|| async { Lab::start("lab", parts).await.expect("the lab comes up") }).await
}

/// A Service and an Ingress that lead to a port of the node.
fn route(host: &str, port: u16) -> String {
    format!(
        r"
apiVersion: v1
kind: Service
metadata: {{name: app}}
spec: {{ports: [{{port: 80, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: app, labels: {{kubernetes.io/service-name: app}}}}
addressType: IPv4
endpoints: [{{addresses: [{NODE_ADDRESS}]}}]
ports: [{{port: {port}}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: app}}
spec:
  ingressClassName: traefik
  rules:
  - host: {host}
    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: app, port: {{number: 80}}}}}}}}]}}
"
    )
}

#[tokio::test]
async fn an_ingress_leads_to_a_process_on_the_node() {
    let lab = shared().await;
    let namespace = lab.namespace("route").await.unwrap();
    let listener = tokio::net::TcpListener::bind((NODE_ADDRESS, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new().route("/", get(|| async { "the app" }));
    tokio::spawn(async move { axum::serve(listener, app).await });

    lab.apply(&namespace, &route("app.example.test", port)).await.unwrap();
    let http = lab.http().await.unwrap();
    let body = probe::until("the app through Traefik", Duration::from_secs(20), || async {
        http.get("http://app.example.test/").await?.ok("the app")
    })
    .await
    .unwrap();
    assert_eq!(body, "the app");
}

#[tokio::test]
async fn names_resolve_to_what_a_test_says() {
    let lab = shared().await;
    let addresses = |name: &'static str| async move {
        tokio::net::lookup_host((name, 80))
            .await
            .map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
    };
    let node: IpAddr = NODE_ADDRESS.parse().unwrap();
    let other: IpAddr = SILENT_ADDRESS.parse().unwrap();
    assert_eq!(addresses("any.example.test").await.unwrap(), [node]);
    lab.dns().set("set.example.test", &[other]).await.unwrap();
    assert_eq!(addresses("set.example.test").await.unwrap(), [other]);
    lab.dns().set("set.example.test", &["::1".parse().unwrap()]).await.unwrap();
    assert_eq!(addresses("set.example.test").await.unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
    lab.dns().set("nothing.example.test", &[]).await.unwrap();
    assert!(addresses("nothing.example.test").await.is_err());
    lab.dns().fail("fails.example.test").await.unwrap();
    assert!(addresses("fails.example.test").await.is_err());
    let refused = tokio::net::TcpStream::connect((SILENT_ADDRESS, 80)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn the_cas_answer_with_certificates_of_the_labs_root() {
    let lab = shared().await;
    let http = lab.http().await.unwrap();
    let pebble = http.get(&lab.pebble().unwrap().directory()).await.unwrap().ok("Pebble").unwrap();
    assert!(pebble.contains("newOrder") && pebble.contains("renewalInfo") && pebble.contains("shortlived"));
    let step_ca = http.get(&lab.step_ca().unwrap().directory()).await.unwrap().ok("step-ca").unwrap();
    assert!(step_ca.contains("newOrder"));
    let distrustful = e2e::http::Http::new("").unwrap();
    assert!(distrustful.get(&lab.pebble().unwrap().directory()).await.is_err());
    assert!(lab.pebble().unwrap().issuance_root().await.unwrap().contains("BEGIN CERTIFICATE"));
}

#[tokio::test]
async fn users_may_do_what_their_role_says_and_writes_are_counted() {
    let lab = shared().await;
    let namespace = lab.namespace("rights").await.unwrap();
    let mark = lab.audit().mark().unwrap();
    let object = |name: &str| Secret {
        metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        ..Default::default()
    };
    let secrets: Api<Secret> = Api::namespaced(lab.client(User::Waxwing).unwrap(), &namespace);
    secrets.create(&PostParams::default(), &object("one")).await.unwrap();
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    secrets.create(&dry_run, &object("two")).await.unwrap();
    secrets.get("one").await.unwrap();
    let refused = secrets.delete("one", &kube::api::DeleteParams::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));
    let maps: Api<ConfigMap> = Api::namespaced(lab.client(User::Tenant).unwrap(), &namespace);
    assert!(maps.list(&ListParams::default()).await.is_err());

    let writes: Vec<_> = lab.audit().writes_since(mark).unwrap();
    let mine: Vec<(String, u16)> = writes
        .into_iter()
        .filter(|write| write.user == User::Waxwing.name() && write.namespace == namespace)
        .map(|write| (write.verb, write.code))
        .collect();
    assert_eq!(mine, [("create".to_owned(), 201), ("create".to_owned(), 201), ("delete".to_owned(), 403)]);
    assert!(lab.audit().count(User::Admin, Mark::default()).unwrap().contains_key("create namespaces"));
}

#[tokio::test]
async fn what_an_owner_owned_is_collected() {
    let lab = shared().await;
    let namespace = lab.namespace("owner").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(lab.client(User::Admin).unwrap(), &namespace);
    let named = |name: &str| ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        ..Default::default()
    };
    let owner = maps.create(&PostParams::default(), &named("owner")).await.unwrap();
    let mut child = named("owned");
    child.metadata.owner_references =
        Some(vec![kube::Resource::controller_owner_ref(&owner, &()).expect("a stored object has a UID")]);
    maps.create(&PostParams::default(), &child).await.unwrap();
    maps.delete("owner", &kube::api::DeleteParams::default()).await.unwrap();
    probe::until("garbage collection", Duration::from_mins(1), || async {
        match maps.get_opt("owned").await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err("still there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .unwrap();
}
