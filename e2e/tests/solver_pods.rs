//! `responder: Pod` on a real node: a certificate in a namespace that admits restricted pods alone, why a pod doesn't
//! come, and that nothing stays. It needs root: elsewhere these tests say so and end, but never in CI.

#[path = "http01/rights.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod rights;

use std::{net::IpAddr, time::Duration};

use e2e::{
    Error, image,
    lab::{
        Node, OWN_NAMESPACE, Parts, TraefikOptions, User,
        scenario::{Answer, Scenario, Stage, Web},
    },
    paths, probe,
    sandbox::SILENT_ADDRESS,
};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, ResourceQuota, Service},
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
    let environment = [("WAXWING_IMAGE", name.as_str())];
    let stage = Stage::start_with("solver-pods", parts, &environment).await?;
    without_rights(&stage.scenario("rights").await?).await?;
    stage.lab().apply(OWN_NAMESPACE, rights::PODS).await?;
    stage.lab().apply(OWN_NAMESPACE, rights::IN_PLACE).await?;

    // Waxwing's image isn't on the node yet, and there is no registry.
    let [image, quota, security, nodes] = scenarios(&stage, ["image", "quota", "security", "nodes"]).await?;
    let (image, quota, security, nodes) = tokio::join!(
        an_image_that_cant_be_pulled(&image),
        a_quota_that_is_used_up(&quota),
        a_template_that_pod_security_refuses(&security),
        no_node_that_fits(&nodes),
    );
    all([image, quota, security, nodes])?;

    assert_eq!(stage.lab().node()?.import(&archive).await?, [name]);
    let [pod, in_place, crash] = scenarios(&stage, ["pod", "in-place", "crash"]).await?;
    let (pod, in_place) = tokio::join!(a_pod_answers(&pod), a_pod_answers_behind_a_path(&in_place));
    all([pod, in_place])?;
    what_a_crash_left_is_swept(&crash).await
}

async fn scenarios<'s, const N: usize>(
    stage: &'s Stage,
    names: [&str; N],
) -> Result<[Scenario<'s>; N], Error> {
    let made = futures::future::try_join_all(names.map(|name| stage.scenario(name))).await?;
    made.try_into().map_err(|_| Error::Invalid { what: "scenarios".to_owned(), why: "too few".to_owned() })
}

/// Every failure, not the first alone: they come from one run that takes minutes.
fn all<const N: usize>(outcomes: [Result<(), Error>; N]) -> Result<(), Error> {
    let failures: Vec<String> =
        outcomes.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::Invalid { what: format!("{} scenarios", failures.len()), why: failures.join("\n") })
}

fn solver(template: &Value) -> Value {
    let ingress = json!({"ingressClassName": "traefik", "responder": "Pod", "podTemplate": template});
    json!({"solvers": [{"http01": {"ingress": ingress}}]})
}

/// The same behind a path in the Ingress `app`.
fn solver_in_place() -> Value {
    json!({"solvers": [{"http01": {"ingress": {"name": "app", "responder": "Pod"}}}]})
}

/// Asks for a certificate from an Issuer with this solver.
async fn ask(s: &Scenario<'_>, acme: Value) -> Result<Certificate, Error> {
    s.issuer("own", acme).await?;
    s.certify("shop", json!({"dnsNames": [s.name("a"), s.name("b")], "issuerRef": {"name": "own"}})).await
}

/// Waits until the attempt has stopped for this cause, and checks that the message says what to do about it.
async fn stopped_for(s: &Scenario<'_>, cause: &str, fix: &str) -> Result<(), Error> {
    let stopped = s.stopped_saying("shop", reason::BACKING_OFF, cause).await?;
    if stopped.message.contains(fix) {
        return Ok(());
    }
    Err(Error::Invalid { what: format!("a message without {fix:?}"), why: stopped.message })
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

async fn a_pod_answers_behind_a_path(s: &Scenario<'_>) -> Result<(), Error> {
    restrict(s).await?;
    let app = Web::http(Answer::text("the app")).await?;
    let before = s.route("app", "traefik", &s.name("a"), "/", &app, None).await?;
    ask(s, solver_in_place()).await?;
    one_pod(s).await?;
    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None);
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[s.name("a"), s.name("b")])?;
    until_restored(s, &before).await?;
    until_swept(s).await?;
    s.nothing_left().await
}

/// One Certificate is deleted while Waxwing is away, another is issued by the next process with the pod that stands.
async fn what_a_crash_left_is_swept(s: &Scenario<'_>) -> Result<(), Error> {
    let (deleted, kept) = (s.name("deleted"), s.name("kept"));
    let begun = s.lab().audit().mark()?;
    let silent: IpAddr = SILENT_ADDRESS.parse().map_err(Error::invalid(|| "an address"))?;
    for host in [&deleted, &kept] {
        s.lab().dns().set(host, &[silent]).await?;
    }
    let app = Web::http(Answer::text("the app")).await?;
    let before = s.route("app", "traefik", &kept, "/", &app, None).await?;
    s.issuer("own", solver(&json!({}))).await?;
    s.issuer("in-place", solver_in_place()).await?;
    let first = s.certify("deleted", json!({"dnsNames": [deleted], "issuerRef": {"name": "own"}})).await?;
    let second = s.certify("kept", json!({"dnsNames": [kept], "issuerRef": {"name": "in-place"}})).await?;
    s.ordered(&first).await?;
    s.ordered(&second).await?;
    let standing = pods(s, 2).await?;
    s.until(s.api::<Ingress>(), "app", |ingress| {
        let spec = ingress.map(|ingress| json!(ingress.spec).to_string()).unwrap_or_default();
        if spec.contains("acme-challenge") { Ok(()) } else { Err("no path".to_owned()) }
    })
    .await?;

    s.operator().kill();
    s.delete::<Certificate>("deleted").await?;
    s.lab().dns().reset(&kept).await?;
    assert_eq!(names(&pods(s, 2).await?), names(&standing), "nobody is there to take them away");
    assert_eq!(s.open_orders().await?.len(), 2);
    s.start_again().await?;

    let status = s.ready("kept").await?.status.unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None);
    let made =
        s.lab().audit().writes_since(begun)?.into_iter().filter(|write| {
            write.resource == "pods" && write.namespace == s.namespace() && write.code == 201
        });
    assert_eq!(made.count(), 2, "the next process goes on with the pod that stands");
    until_restored(s, &before).await?;
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
    stopped_for(s, "its image can't be pulled", "imagePullSecrets").await?;
    s.delete::<Certificate>("shop").await?;
    until_swept(s).await
}

async fn a_quota_that_is_used_up(s: &Scenario<'_>) -> Result<(), Error> {
    s.apply::<ResourceQuota>("few", json!({"spec": {"hard": {"pods": "0"}}})).await?;
    s.until(s.api::<ResourceQuota>(), "few", |quota| {
        let counted = quota.and_then(|quota| quota.status.as_ref()?.hard.as_ref()).is_some();
        if counted { Ok(()) } else { Err("it isn't counted yet".to_owned()) }
    })
    .await?;
    ask(s, solver(&json!({}))).await?;
    stopped_for(s, "exceeded quota: few, requested: pods=1", "Raise the namespace's ResourceQuota").await?;
    s.delete::<Certificate>("shop").await?;
    until_swept(s).await
}

async fn a_template_that_pod_security_refuses(s: &Scenario<'_>) -> Result<(), Error> {
    restrict(s).await?;
    ask(s, solver(&json!({"spec": {"securityContext": {"runAsUser": 0}}}))).await?;
    stopped_for(s, "pod must not set runAsUser=0", "Correct podTemplate.spec.securityContext").await?;
    s.delete::<Certificate>("shop").await?;
    until_swept(s).await
}

async fn no_node_that_fits(s: &Scenario<'_>) -> Result<(), Error> {
    ask(s, solver(&json!({"spec": {"nodeSelector": {"disk": "ssd"}}}))).await?;
    stopped_for(s, "no node takes the pod: 0/1 nodes are available", "nodeSelector").await?;
    s.delete::<Certificate>("shop").await?;
    until_swept(s).await
}

/// The namespace's solver pod, as soon as there is one.
async fn one_pod(s: &Scenario<'_>) -> Result<Pod, Error> {
    let mut pods = pods(s, 1).await?;
    pods.pop().ok_or_else(|| Error::Invalid { what: "a pod".to_owned(), why: "none".to_owned() })
}

/// The namespace's solver pods, as soon as there are so many.
async fn pods(s: &Scenario<'_>, count: usize) -> Result<Vec<Pod>, Error> {
    let ours = ListParams::default().labels(labels::CERTIFICATE_UID);
    probe::until(&format!("{count} solver pods"), PATIENCE, || async {
        let pods = s.api::<Pod>().list(&ours).await.map_err(|error| error.to_string())?.items;
        if pods.len() == count { Ok(pods) } else { Err(format!("{:?}", names(&pods))) }
    })
    .await
}

fn names(pods: &[Pod]) -> Vec<String> {
    let mut names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
    names.sort();
    names
}

/// Waits until an Ingress is what it was.
async fn until_restored(s: &Scenario<'_>, before: &Ingress) -> Result<(), Error> {
    s.until(s.api::<Ingress>(), &before.name_any(), |ingress| {
        let ingress = ingress.ok_or("there is none")?;
        if ingress.spec == before.spec { Ok(()) } else { Err(format!("{:?}", ingress.spec)) }
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
