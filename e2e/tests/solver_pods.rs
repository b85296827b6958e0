//! `responder: Pod` on a real node: a certificate in a namespace that admits restricted pods alone, and why a
//! pod doesn't come. It needs root: elsewhere these tests say so and end, but never in CI.

#[path = "http01/rights.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod rights;

use std::time::Duration;

use e2e::{
    Error, image,
    lab::{
        Node, OWN_NAMESPACE, Parts, TraefikOptions, User,
        scenario::{Scenario, Stage},
    },
    paths, probe,
};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    networking::v1::Ingress,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use waxwing_api::{Certificate, labels, reason};

const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn pods_answer_and_what_keeps_them_is_told() -> Result<(), Error> {
    if let Some(why) = Node::unavailable() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
        eprintln!("skipped: {why}");
        return Ok(());
    }
    let archive = paths::target().join("image/waxwing.tar");
    assert!(archive.exists(), "{} is missing: run make image", archive.display());
    let parts =
        Parts { node: true, step_ca: true, traefik: Some(TraefikOptions::default()), ..Parts::default() };
    let name = format!("{}:{}", image::NAME, env!("CARGO_PKG_VERSION"));
    let stage = Stage::start_with("solver-pods", parts, &[("WAXWING_IMAGE", &name)]).await?;
    without_rights(&stage.scenario("rights").await?).await?;
    stage.lab().apply(OWN_NAMESPACE, rights::PODS).await?;
    // It isn't on the node yet, and there is no registry.
    an_image_that_cant_be_pulled(&stage.scenario("image").await?).await?;
    assert_eq!(stage.lab().node()?.import(&archive).await?, [name]);

    a_pod_answers(&stage.scenario("pod").await?).await?;
    Ok(())
}

fn solver(template: &Value) -> Value {
    let ingress = json!({"ingressClassName": "traefik", "responder": "Pod", "podTemplate": template});
    json!({"solvers": [{"http01": {"ingress": ingress}}]})
}

/// Asks for a certificate from an Issuer with this solver.
async fn ask(s: &Scenario<'_>, acme: Value) -> Result<Certificate, Error> {
    s.issuer("own", acme).await?;
    s.certify("shop", json!({"dnsNames": [s.name("a"), s.name("b")], "issuerRef": {"name": "own"}})).await
}

/// Lets the namespace admit restricted pods alone.
async fn restrict(s: &Scenario<'_>) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(s.lab().client(User::Admin)?);
    let patch = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    api.patch(s.namespace(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(Error::kube(|| "restricting a namespace"))
        .map(|_| ())
}

async fn a_pod_answers(s: &Scenario<'_>) -> Result<(), Error> {
    restrict(s).await?;
    let template = json!({
        "metadata": {"labels": {"team": "edge"}},
        "spec": {"tolerations": [{"operator": "Exists"}], "securityContext": {"runAsUser": 65532}},
    });
    ask(s, solver(&template)).await?;
    let pod = one_pod(s).await?;
    assert_eq!(pod.labels().get("team").map(String::as_str), Some("edge"));
    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None);
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[s.name("a"), s.name("b")])?;
    until_swept(s).await?;
    s.nothing_left().await
}

async fn without_rights(s: &Scenario<'_>) -> Result<(), Error> {
    ask(s, solver(&json!({}))).await?;
    s.stopped_saying("shop", reason::BACKING_OFF, "Set http01.rights.pod in the chart's values").await?;
    s.delete::<Certificate>("shop").await
}

async fn an_image_that_cant_be_pulled(s: &Scenario<'_>) -> Result<(), Error> {
    ask(s, solver(&json!({}))).await?;
    let stopped = s.stopped_saying("shop", reason::BACKING_OFF, "its image can't be pulled").await?;
    assert!(stopped.message.contains("imagePullSecrets"), "{}", stopped.message);
    s.delete::<Certificate>("shop").await?;
    until_swept(s).await
}

/// The namespace's solver pod, as soon as there is one.
async fn one_pod(s: &Scenario<'_>) -> Result<Pod, Error> {
    let ours = ListParams::default().labels(labels::CERTIFICATE_UID);
    probe::until("a solver pod", PATIENCE, || async {
        let mut pods = s.api::<Pod>().list(&ours).await.map_err(|error| error.to_string())?.items;
        match pods.len() {
            1 => pods.pop().ok_or("none".to_owned()),
            count => Err(format!("{count} pods")),
        }
    })
    .await
}

/// Waits until nothing that served an issuance is left in the namespace.
async fn until_swept(s: &Scenario<'_>) -> Result<(), Error> {
    let ours = ListParams::default().labels(labels::CERTIFICATE_UID);
    probe::until("the end of solver pods", PATIENCE, || async {
        let failed = |error: kube::Error| error.to_string();
        let pods = s.api::<Pod>().list(&ours).await.map_err(failed)?;
        let services = s.api::<Service>().list(&ours).await.map_err(failed)?;
        let ingresses = s.api::<Ingress>().list(&ours).await.map_err(failed)?;
        let mut left: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        left.extend(services.iter().map(ResourceExt::name_any));
        left.extend(ingresses.iter().map(ResourceExt::name_any));
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    })
    .await
}
