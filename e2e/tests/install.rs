//! The chart as cluster operators use it: pods in a namespace that admits restricted ones alone, two replicas, an
//! upgrade under way while a certificate is issued. It needs the lab's node, and `make image` before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "chart/cluster.rs"]
mod cluster;
#[path = "chart/helm.rs"]
mod helm;

use std::time::{Duration, Instant};

use cluster::{kubectl, run};
use e2e::{
    Error,
    lab::{Lab, Node, Parts, Pebble, PebbleOptions, Traefik, TraefikOptions},
    paths, probe,
};
use helm::{printed, said};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

const RELEASE: [&str; 3] = ["certs", ".", "--namespace=certs"];

#[tokio::test]
async fn a_release_issues_from_its_install_to_its_end() -> Result<(), Error> {
    if let Some(why) = Node::unavailable() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
        eprintln!("skipped: {why}");
        return Ok(());
    }
    let parts = Parts {
        node: true,
        // A cluster that has never seen Waxwing.
        bare: true,
        pebble: Some(PebbleOptions::default()),
        traefik: Some(TraefikOptions::default()),
        ..Parts::default()
    };
    let lab = Lab::start("install", parts).await?;
    let archive = paths::target().join("image/waxwing.tar");
    assert!(archive.exists(), "{} is missing: run make image", archive.display());
    lab.node()?.import(&archive).await?;
    for (name, level) in [("certs", "restricted"), ("web", "baseline")] {
        let labels = json!({"pod-security.kubernetes.io/enforce": level});
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        printed(&kubectl(&lab, &["apply", "--filename=-"], &namespace));
    }

    let begun = Instant::now();
    let values = lab.logs().join("values.json");
    paths::write(&values, values_for(&lab).to_string())?;
    let values = format!("--values={}", values.display());
    let install = ["--wait", "--timeout=2m", &values];
    run(&lab, &[&["install"], &install[..]].concat(), &RELEASE)?;
    // Its kind is known now.
    run(&lab, &[&["upgrade"], &install[..]].concat(), &RELEASE)?;
    request(&lab, "first").await?;
    issued(&lab, "first").await?;
    let took = begun.elapsed().as_secs_f64();
    probe::tell(format_args!("from helm install to the first certificate: {took:.1} s"));

    let ready = [
        "get",
        "deployment",
        "certs-waxwing",
        "--namespace=certs",
        "--output=jsonpath={.status.readyReplicas}",
    ];
    // On a busy machine, a pod may not be ready for a moment.
    probe::until("two replicas", Duration::from_mins(1), || async {
        let answer = printed(&kubectl(&lab, &ready, &Value::Null));
        if answer == "2" { Ok(()) } else { Err(answer) }
    })
    .await?;
    // Twice: what the first one leaves isn't in the way.
    for _ in 0..2 {
        let log = run(&lab, &["test"], &["certs", "--namespace=certs", "--logs"])?;
        assert!(log.contains("the responder answers at"), "{log}");
    }

    // Both pods are replaced while an order is open.
    request(&lab, "second").await?;
    run(&lab, &[&["upgrade", "--set-string=podAnnotations.round=2"], &install[..]].concat(), &RELEASE)?;
    issued(&lab, "second").await?;
    let logs = ["logs", "--namespace=certs", "--selector=app.kubernetes.io/name=waxwing", "--tail=-1"];
    // The pods of the round before end meanwhile: one may be gone before its log is read, or have led until now.
    let logs = probe::until("the log of a leader", Duration::from_mins(1), || async {
        let output = kubectl(&lab, &logs, &Value::Null);
        let answer = said(&output).to_lowercase();
        let leads = output.status.success() && answer.contains("this replica leads");
        if leads { Ok(answer) } else { Err(answer) }
    })
    .await?;
    assert!(!logs.contains("forbidden"), "{logs}");

    run(&lab, &["uninstall", "--wait"], &["certs", "--namespace=certs"])?;
    let secrets = ["secret/first-tls", "secret/second-tls"];
    for kept in [&secrets[..], &["certificate.waxwing.dev/first-tls"]].concat() {
        printed(&kubectl(&lab, &["get", kept, "--namespace=web"], &Value::Null));
    }

    // Told so, the definitions go with the release, and with them every Certificate; no Secret does.
    run(&lab, &[&["install", "--set=crds.keep=false"], &install[..]].concat(), &RELEASE)?;
    run(&lab, &["uninstall", "--wait"], &["certs", "--namespace=certs"])?;
    probe::until("the end of the definitions", Duration::from_mins(2), || async {
        let answer = printed(&kubectl(&lab, &["get", "crd", "--output=name"], &Value::Null));
        if answer.contains("waxwing.dev") { Err(answer) } else { Ok(()) }
    })
    .await?;
    for kept in secrets {
        printed(&kubectl(&lab, &["get", kept, "--namespace=web"], &Value::Null));
    }
    Ok(())
}

fn values_for(lab: &Lab) -> Value {
    json!({
        "image": {"pullPolicy": "Never"},
        "clusterIssuer": {"create": true, "name": "pebble", "spec": {"acme": {
            "server": Pebble::POD_DIRECTORY,
            "privateKeySecretRef": {"name": "pebble-account"},
            "caBundle": ByteString(lab.authority().pem().as_bytes().to_vec()),
            "solvers": [{"http01": {"ingress": {"ingressClassName": Traefik::CLASS}}}],
        }}},
    })
}

async fn request(lab: &Lab, name: &str) -> Result<(), Error> {
    let host = format!("{name}.web.test");
    let backend = json!({"service": {"name": name, "port": {"number": 80}}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "annotations": {"waxwing.dev/cluster-issuer": "pebble"}},
        "spec": {
            "ingressClassName": Traefik::CLASS,
            "tls": [{"hosts": [host], "secretName": format!("{name}-tls")}],
            "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
        },
    });
    lab.apply("web", &ingress.to_string()).await
}

async fn issued(lab: &Lab, name: &str) -> Result<(), Error> {
    let certificate = format!("{name}-tls");
    let status = "--output=jsonpath={.status.conditions}";
    let get = ["get", "certificates.waxwing.dev", &certificate, "--namespace=web", status];
    let ready = |conditions: &Value| {
        conditions
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    probe::until(&certificate, Duration::from_mins(2), || async {
        let answer = said(&kubectl(lab, &get, &Value::Null));
        if serde_json::from_str(&answer).is_ok_and(|conditions| ready(&conditions)) {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await?;
    printed(&kubectl(lab, &["get", "secret", &certificate, "--namespace=web"], &Value::Null));
    Ok(())
}
