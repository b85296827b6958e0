//! The lab's node: pods, Services, names, logs and commands in pods, as in any cluster; and nothing is
//! left of it. It needs root: elsewhere these tests say so and end, but never in CI.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use e2e::{
    image,
    lab::{Lab, Node, Parts, Pebble, PebbleOptions, TOOLS, User},
    parts::Part,
    paths, probe,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::Api;

/// A namespace that admits only what a restricted policy does.
const NAMESPACE: &str = r"
apiVersion: v1
kind: Namespace
metadata:
  name: pods
  labels: {pod-security.kubernetes.io/enforce: restricted}
";

/// What a restricted namespace wants of each container.
const RESTRICTED: &str = "{allowPrivilegeEscalation: false, runAsNonRoot: true, readOnlyRootFilesystem: true, \
    capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}";

fn web() -> String {
    format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: {TOOLS}
        args: [httpd, -f, -vv, -p, '8080', -h, /www]
        readinessProbe: {{httpGet: {{port: 8080, path: /}}, periodSeconds: 1}}
        livenessProbe: {{httpGet: {{port: 8080, path: /}}}}
        securityContext: {RESTRICTED}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
"
    )
}

fn once(name: &str, image: &str, arguments: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  containers:
  - name: {name}
    image: {image}
    imagePullPolicy: Never
    args: [{arguments}]
    securityContext: {RESTRICTED}
"
    )
}

fn kubectl(lab: &Lab, arguments: &[&str]) -> String {
    let output = Command::new(Part::Kubernetes.program("kubectl").unwrap())
        .env("KUBECONFIG", lab.kubeconfig(User::Admin))
        .args(["--namespace", "pods"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "kubectl {}: {}", arguments.join(" "), text(&output));
    text(&output)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Everything that a node could leave in the sandbox: processes, mounts, network devices, rules.
fn traces() -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    for process in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        // Kernel threads and what has ended have no command line.
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        if process.file_name().to_string_lossy().parse::<u32>().is_ok() && !line.is_empty() {
            traces.insert(format!("process {}", String::from_utf8_lossy(&line).replace('\0', " ")));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    traces.extend(mounts.lines().map(|line| format!("mount {line}")));
    for device in fs::read_to_string("/proc/net/dev").unwrap().lines().skip(2) {
        traces.insert(format!("device {}", device.split(':').next().unwrap().trim()));
    }
    for program in ["/usr/sbin/iptables-save", "/usr/sbin/ip6tables-save"] {
        let rules = Command::new(program).output().unwrap();
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        traces.extend(rules.lines().filter(|line| line.starts_with("-A")).map(|line| format!("rule {line}")));
    }
    traces
}

/// The control groups of that name. They are the machine's: those of labs that run beside this one come and go.
fn control_groups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut groups = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(group) = groups.pop() {
        let below = fs::read_dir(&group).into_iter().flatten().filter_map(Result::ok);
        groups.extend(below.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()));
        if group.ends_with(name) {
            found.push(group);
        }
    }
    found
}

#[tokio::test]
async fn a_node_runs_pods_and_leaves_nothing() {
    if let Some(why) = Node::unavailable() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let before = traces();
    let lab =
        Lab::start("node", Parts { node: true, pebble: Some(PebbleOptions::default()), ..Parts::default() })
            .await
            .unwrap();
    lab.apply("default", NAMESPACE).await.unwrap();
    a_deployment_is_ready_and_its_service_answers(&lab).await;
    pods_are_read_and_entered(&lab);
    pods_resolve_names(&lab).await;
    waxwings_image_runs(&lab).await;
    let during = traces();
    for expected in ["bin/containerd", "mount waxwing-lab", "device pods0", "rule -A KUBE"] {
        assert!(
            during.iter().any(|trace| trace.contains(expected)),
            "a running node has no {expected}: {during:#?}"
        );
    }
    let group = lab.node().unwrap().control_group().to_owned();
    assert!(!control_groups(&group).is_empty(), "a running node has no control group {group}");
    drop(lab);
    assert_eq!(control_groups(&group), Vec::<PathBuf>::new());
    let left: Vec<String> = traces().difference(&before).cloned().collect();
    assert!(left.is_empty(), "{left:#?}");
}

async fn a_deployment_is_ready_and_its_service_answers(lab: &Lab) {
    lab.apply("pods", &web()).await.unwrap();
    let client = lab.client(User::Admin).unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "pods");
    probe::until("the Deployment", Duration::from_mins(1), || async {
        let status = deployments.get("web").await.map_err(|error| error.to_string())?.status;
        let ready = status.and_then(|status| status.ready_replicas).unwrap_or_default();
        if ready == 2 { Ok(()) } else { Err(format!("{ready} of 2 are ready")) }
    })
    .await
    .unwrap();
    let services: Api<Service> = Api::namespaced(client, "pods");
    let address = services.get("web").await.unwrap().spec.unwrap().cluster_ip.unwrap();
    let http = e2e::http::Http::new("").unwrap();
    let page = probe::until("the Service", Duration::from_secs(20), || async {
        http.get(&format!("http://{address}/")).await?.ok("the page")
    })
    .await
    .unwrap();
    assert_eq!(page, "served by the lab's tools\n");
}

fn pods_are_read_and_entered(lab: &Lab) {
    assert!(kubectl(lab, &["logs", "deployment/web"]).contains("response:200"));
    assert_eq!(kubectl(lab, &["exec", "deployment/web", "--", "echo", "inside"]), "inside\n");
}

async fn pods_resolve_names(lab: &Lab) {
    let fetch = |url: &str| {
        kubectl(lab, &["exec", "deployment/web", "--", "wget", "--no-check-certificate", "-qO-", url])
    };
    assert_eq!(fetch("http://web/"), "served by the lab's tools\n");
    assert_eq!(fetch("http://web.pods.svc.cluster.local/"), "served by the lab's tools\n");
    assert!(fetch(Pebble::POD_DIRECTORY).contains("newOrder"));
    let address = "192.0.2.7".parse().unwrap();
    lab.dns().set("shop.example.test", &[address]).await.unwrap();
    let looked_up = kubectl(lab, &["exec", "deployment/web", "--", "nslookup", "shop.example.test"]);
    assert!(looked_up.contains("192.0.2.7") && !looked_up.contains("10.99.0.1\n"), "{looked_up}");
}

async fn waxwings_image_runs(lab: &Lab) {
    let archive = paths::target().join("image/waxwing.tar");
    assert!(archive.exists(), "{} is missing: run make image", archive.display());
    let names = lab.node().unwrap().import(&archive).await.unwrap();
    let name = format!("{}:{}", image::NAME, env!("CARGO_PKG_VERSION"));
    assert_eq!(names, [name.as_str()]);
    lab.apply("pods", &once("version", &name, "version")).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(lab.client(User::Admin).unwrap(), "pods");
    probe::until("the pod", Duration::from_mins(1), || async {
        let status = pods.get("version").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if status.phase.as_deref() == Some("Succeeded") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(kubectl(lab, &["logs", "version"]), format!("waxwing {}\n", env!("CARGO_PKG_VERSION")));
}
