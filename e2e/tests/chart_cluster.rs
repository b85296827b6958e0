//! The chart on a real API server: what it admits, what it lets Waxwing do and what not, and what outlives a release.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "chart/cluster.rs"]
mod cluster;
#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/renders.rs"]
mod renders;

use std::{fs, process::Output, time::Duration};

use cluster::{kubectl, run};
use e2e::{
    Error,
    lab::{Lab, Operator, OperatorOptions, Parts, PebbleOptions, Traefik, TraefikOptions, User},
    parts::Part,
    probe,
    sandbox::NODE_ADDRESS,
};
use helm::{printed, said};
use k8s_openapi::ByteString;
use renders::{objects, render, render_set, sets};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

/// Releases here leave the definitions to the lab.
const NO_CRDS: &str = "--set=crds.install=false";

/// The tests share one lab. Each has a release of its own.
async fn lab() -> Result<&'static Lab, Error> {
    static LAB: OnceCell<Lab> = OnceCell::const_new();
    let parts = || Parts {
        pebble: Some(PebbleOptions::default()),
        traefik: Some(TraefikOptions::default()),
        ..Parts::default()
    };
    LAB.get_or_try_init(|| Lab::start("chart", parts())).await
}

#[tokio::test]
async fn the_api_server_takes_every_set_of_values() -> Result<(), Error> {
    let lab = lab().await?;
    define_monitors(lab).await?;
    let mut renders = vec![render("waxwing", "waxwing-system", &[])?];
    for set in sets() {
        renders.push(render_set(&set)?);
    }
    for rendered in renders {
        let objects = objects(&printed(&rendered));
        for object in &objects {
            let namespace = json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": object["metadata"]["namespace"].as_str().unwrap_or("waxwing-system")},
            });
            lab.apply("default", &namespace.to_string()).await?;
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let arguments = ["apply", "--dry-run=server", "--validate=strict", "--filename=-"];
        printed(&kubectl(lab, &arguments, &list));
    }
    Ok(())
}

#[tokio::test]
async fn pods_are_admitted_where_all_must_be_restricted() -> Result<(), Error> {
    let lab = lab().await?;
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    printed(&kubectl(lab, &["apply", "--filename=-"], &namespace));
    let rendered = objects(&printed(&render("waxwing", "strict", &[NO_CRDS])?));
    let account = rendered.iter().find(|object| object["kind"] == "ServiceAccount").unwrap();
    printed(&kubectl(lab, &["apply", "--filename=-"], account));
    let mut pods = 0;
    for object in &rendered {
        let pod = match object["kind"].as_str() {
            Some("Deployment") => json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "waxwing", "namespace": "strict"},
                "spec": object["spec"]["template"]["spec"],
            }),
            Some("Pod") => object.clone(),
            _ => continue,
        };
        printed(&kubectl(lab, &["create", "--dry-run=server", "--validate=strict", "--filename=-"], &pod));
        pods += 1;
    }
    assert_eq!(pods, 2, "the operator's and that of helm test");
    Ok(())
}

#[tokio::test]
async fn secrets_and_definitions_outlive_upgrade_rollback_and_uninstall() -> Result<(), Error> {
    let lab = lab().await?;
    // As after a first install: the definitions belong to the release.
    let release = ["life", ".", "--namespace=life"];
    run(lab, &["install", "--create-namespace", "--take-ownership"], &release)?;
    for secret in [
        secret("life", "order-0", "waxwing.dev/order", "order", &json!({})),
        secret("life", "account", "Opaque", "account", &json!({})),
        secret("life", "tls", "kubernetes.io/tls", "certificate", &json!({})),
    ] {
        printed(&kubectl(lab, &["create", "--filename=-"], &secret));
    }
    let certificate = json!({
        "apiVersion": "waxwing.dev/v1",
        "kind": "Certificate",
        "metadata": {"name": "tls", "namespace": "life"},
        "spec": {"secretName": "tls", "dnsNames": ["life.test"], "issuerRef": {"name": "none"}},
    });
    printed(&kubectl(lab, &["create", "--filename=-"], &certificate));
    let list = ["get", "secrets,certificates.waxwing.dev", "--namespace=life", "--output=name"];
    let kept = || {
        let all = printed(&kubectl(lab, &list, &Value::Null));
        all.lines().filter(|line| !line.contains("helm.release")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = kept();
    assert_eq!(before.len(), 4, "{before:?}");

    run(lab, &["upgrade", "--set=replicas=3,clusterIssuer.create=true,clusterIssuer.name=life"], &release)?;
    assert_eq!(kept(), before);
    run(lab, &["rollback"], &["life", "1", "--namespace=life"])?;
    assert_eq!(kept(), before);
    let issuer = ["get", "clusterissuers.waxwing.dev", "life"];
    printed(&kubectl(lab, &issuer, &Value::Null));
    run(lab, &["upgrade"], &release)?;
    run(lab, &["uninstall"], &["life", "--namespace=life"])?;
    assert_eq!(kept(), before);
    printed(&kubectl(lab, &issuer, &Value::Null));
    Ok(())
}

#[tokio::test]
async fn waxwing_writes_its_own_secrets_alone() -> Result<(), Error> {
    let lab = lab().await?;
    run(lab, &["install", "--create-namespace", NO_CRDS], &["guard", ".", "--namespace=guard"])?;
    lab.apply("guard", "{apiVersion: v1, kind: Namespace, metadata: {name: guarded}}").await?;
    let waxwing = "--as=system:serviceaccount:guard:guard-waxwing";
    let create = |secret: &Value| kubectl(lab, &["create", "--filename=-", waxwing], secret);
    // A new policy takes a moment to be obeyed.
    let plain = secret("guarded", "plain", "Opaque", "", &json!({}));
    probe::until("the policy", Duration::from_secs(30), || async {
        let answer = kubectl(lab, &["create", "--dry-run=server", "--filename=-", waxwing], &plain);
        if refused(&answer, "its label") { Ok(()) } else { Err(said(&answer)) }
    })
    .await?;

    for (namespace, kind, component, refusal) in [
        ("guarded", "kubernetes.io/tls", "certificate", None),
        ("guarded", "Opaque", "account", None),
        ("guard", "waxwing.dev/order", "order", None),
        ("guarded", "kubernetes.io/tls", "", Some("its label")),
        ("guarded", "kubernetes.io/tls", "route", Some("its label")),
        ("guarded", "waxwing.dev/order", "order", Some("own namespace")),
        ("guarded", "Opaque", "certificate", Some("have the types")),
        ("guarded", "kubernetes.io/service-account-token", "certificate", Some("have the types")),
        ("guard", "Opaque", "order", Some("have the types")),
    ] {
        let token_of = json!({"kubernetes.io/service-account.name": "default"});
        let name = format!("made-{}", if component.is_empty() { "none" } else { component });
        let answer = create(&secret(namespace, &name, kind, component, &token_of));
        match refusal {
            None => drop(printed(&answer)),
            Some(word) => assert!(refused(&answer, word), "{component} of type {kind}: {}", said(&answer)),
        }
    }

    let take = json!({"metadata": {
        "labels": {"waxwing.dev/component": "certificate"},
        "annotations": {"waxwing.dev/certificate-name": "shop"},
    }});
    let change = json!({"stringData": {"tls.key": "changed"}});
    let release = json!({"metadata": {"labels": {"waxwing.dev/component": null}}});
    let theirs =
        |name: &str, annotations: Value| secret("guarded", name, "kubernetes.io/tls", "", &annotations);
    let mut empty = theirs("empty", json!({}));
    empty["stringData"] = json!({"tls.crt": "", "tls.key": ""});
    for (secret, patch, refusal) in [
        (theirs("handed-over", json!({"waxwing.dev/adopt": "true"})), &take, None),
        (theirs("migrated", json!({"cert-manager.io/certificate-name": "shop"})), &take, None),
        (empty, &take, None),
        (theirs("theirs", json!({})), &take, Some("hasn't made")),
        (theirs("not-handed-over", json!({"waxwing.dev/adopt": "false"})), &take, Some("hasn't made")),
        (theirs("another", json!({"cert-manager.io/certificate-name": "other"})), &take, Some("hasn't made")),
        (theirs("changed", json!({})), &change, Some("its label")),
        (named("made-certificate"), &change, None),
        (named("made-certificate"), &release, Some("its label")),
        (named("made-account"), &change, Some("account key")),
        (named("made-account"), &take, Some("have the types")),
    ] {
        let name = secret["metadata"]["name"].as_str().unwrap();
        if secret["type"].is_string() {
            printed(&kubectl(lab, &["create", "--filename=-"], &secret));
        }
        let patch = format!("--patch={patch}");
        let patch = ["patch", "secret", name, "--namespace=guarded", "--type=merge", &patch, waxwing];
        let answer = kubectl(lab, &patch, &Value::Null);
        match refusal {
            None => drop(printed(&answer)),
            Some(word) => assert!(refused(&answer, word), "{name}: {}", said(&answer)),
        }
    }

    printed(&kubectl(
        lab,
        &["create", "--filename=-"],
        &secret("guard", "foreign", "Opaque", "", &json!({})),
    ));
    let delete = |namespace: &str, name: &str| {
        kubectl(lab, &["delete", "secret", name, &format!("--namespace={namespace}"), waxwing], &Value::Null)
    };
    printed(&delete("guard", "made-order"));
    assert!(refused(&delete("guard", "foreign"), "deletes no Secret"));
    let elsewhere = said(&delete("guarded", "made-certificate"));
    assert!(elsewhere.contains("cannot delete resource \"secrets\""), "{elsewhere}");
    // Everybody else is free.
    printed(&kubectl(lab, &["delete", "secret", "made-certificate", "--namespace=guarded"], &Value::Null));
    Ok(())
}

#[tokio::test]
async fn the_rights_suffice() -> Result<(), Error> {
    let lab = lab().await?;
    issue(lab, "rights", "", "ClusterIssuer").await
}

#[tokio::test]
async fn the_rights_in_some_namespaces_suffice() -> Result<(), Error> {
    let lab = lab().await?;
    lab.apply("some", "{apiVersion: v1, kind: Namespace, metadata: {name: unused}}").await?;
    let namespaced = "crds.install=false,rbac.aggregateToUserRoles=false,admissionPolicy.create=false";
    issue(lab, "some", &format!("{namespaced},watch.namespaces={{unused,some-tenant}}"), "Issuer").await
}

/// Makes the cluster know what the Prometheus Operator reads.
async fn define_monitors(lab: &Lab) -> Result<(), Error> {
    let definitions = Part::PrometheusOperator.directory()?.join("crds");
    let failed = || format!("listing {}", definitions.display());
    for file in fs::read_dir(&definitions).map_err(Error::io(failed))? {
        let file = file.map_err(Error::io(failed))?.path();
        lab.apply("default", &e2e::paths::read(&file)?).await?;
    }
    probe::until("ServiceMonitors and PodMonitors", Duration::from_secs(20), || async {
        let monitors = "servicemonitors.monitoring.coreos.com,podmonitors.monitoring.coreos.com";
        let answer = kubectl(lab, &["get", monitors], &Value::Null);
        if answer.status.success() { Ok(()) } else { Err(said(&answer)) }
    })
    .await
}

/// Processes of Waxwing in the lab listen on the same ports, so they take turns.
static TURN: Mutex<()> = Mutex::const_new(());

/// An annotated Ingress gets its certificate from a Waxwing that has a release's flags and rights, and nothing of
/// the Ingress stays.
async fn issue(lab: &Lab, release: &str, values: &str, issuer_kind: &str) -> Result<(), Error> {
    let _turn = TURN.lock().await;
    let namespace = format!("{release}-tenant");
    let created = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    lab.apply(release, &created.to_string()).await?;
    let values = ["--set=http01.routeQuietPeriod=2s", NO_CRDS, "--set", values];
    let notes = run(
        lab,
        &["install", "--create-namespace"],
        &[&[release, ".", "--namespace", release], &values[..]].concat(),
    )?;
    let annotation =
        if issuer_kind == "Issuer" { "waxwing.dev/issuer" } else { "waxwing.dev/cluster-issuer" };
    for words in [format!("kind: {issuer_kind}\n"), format!(" {annotation}=letsencrypt\n")] {
        assert!(notes.contains(&words), "{words:?} is not in {notes}");
    }
    let operator = operator(lab, release, &format!("{release}-waxwing"))?;
    let traffic = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "process",
            "labels": {"kubernetes.io/service-name": format!("{release}-waxwing")},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": true}}],
        "ports": [{"name": "responder", "port": 8089, "protocol": "TCP"}],
    });
    lab.apply(release, &traffic.to_string()).await?;
    let issuer = json!({
        "apiVersion": "waxwing.dev/v1",
        "kind": issuer_kind,
        "metadata": {"name": release},
        "spec": {"acme": {
            "server": lab.pebble()?.directory(),
            "privateKeySecretRef": {"name": "account"},
            "caBundle": ByteString(lab.authority().pem().as_bytes().to_vec()),
            "solvers": [{"http01": {"ingress": {"ingressClassName": Traefik::CLASS}}}],
        }},
    });
    let host = format!("shop.{namespace}.test");
    let backend = json!({"service": {"name": "shop", "port": {"number": 80}}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "shop", "annotations": {annotation: release}},
        "spec": {
            "ingressClassName": Traefik::CLASS,
            "tls": [{"hosts": [host], "secretName": "shop-tls"}],
            "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
        },
    });
    for object in [&issuer, &ingress] {
        lab.apply(&namespace, &object.to_string()).await?;
    }

    let scope = format!("--namespace={namespace}");
    let ready = "--output=jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
    let certificates = |output: &str| {
        said(&kubectl(lab, &["get", "certificates.waxwing.dev", &scope, output], &Value::Null))
    };
    probe::until("the Certificate of the Ingress", Duration::from_mins(1), || async {
        let answer = certificates(ready);
        if answer == "True" { Ok(()) } else { Err(format!("{answer}\n{}", operator.process().log())) }
    })
    .await?;
    printed(&kubectl(lab, &["get", "secret", "shop-tls", &scope], &Value::Null));

    printed(&kubectl(lab, &["delete", "ingress", "shop", &scope], &Value::Null));
    let own = format!("--namespace={release}");
    let orders_and_routes =
        ["get", "secrets,ingresses", &own, "--selector=waxwing.dev/component in (order, route)"];
    probe::until("an end without traces", Duration::from_mins(1), || async {
        let left =
            printed(&kubectl(lab, &[&orders_and_routes[..], &["--output=name"]].concat(), &Value::Null));
        let left = left + &certificates("--output=name");
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await?;
    operator.stop().await;
    let log = operator.process().log();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
    Ok(())
}

/// Waxwing as a process with the flags of the release's Deployment, in the name of its service account.
fn operator(lab: &Lab, namespace: &str, name: &str) -> Result<Operator, Error> {
    let scope = format!("--namespace={namespace}");
    let get = ["get", "deployment", name, &scope, "--output=json"];
    let deployment: Value = serde_json::from_str(&printed(&kubectl(lab, &get, &Value::Null))).unwrap();
    let arguments = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
    let arguments: Vec<String> = serde_json::from_value(arguments.clone()).unwrap();
    let create = ["create", "token", name, &scope];
    let token = printed(&kubectl(lab, &create, &Value::Null));
    let mut config: Value = serde_yaml::from_str(&e2e::paths::read(&lab.kubeconfig(User::Admin))?).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    let file = lab.kubeconfig(User::Admin).with_file_name(format!("{namespace}.kubeconfig"));
    e2e::paths::write_private(&file, &config.to_string())?;
    lab.operator(OperatorOptions {
        name: format!("waxwing-{namespace}"),
        arguments,
        environment: vec![
            ("KUBECONFIG".to_owned(), file.display().to_string()),
            ("POD_NAMESPACE".to_owned(), namespace.to_owned()),
        ],
        ..OperatorOptions::default()
    })
}

/// Whether the policy refused it, for a reason with that word.
fn refused(answer: &Output, word: &str) -> bool {
    let said = said(answer);
    !answer.status.success() && said.contains("ValidatingAdmissionPolicy") && said.contains(word)
}

/// A Secret as its owner creates it, and Waxwing if `component` isn't empty.
fn secret(namespace: &str, name: &str, kind: &str, component: &str, annotations: &Value) -> Value {
    let labels = if component.is_empty() { json!({}) } else { json!({"waxwing.dev/component": component}) };
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
        "type": kind,
        "stringData": {"tls.crt": "x", "tls.key": "x"},
    })
}

/// One that is there already.
fn named(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}
