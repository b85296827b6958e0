//! The control plane: etcd, API server, controller-manager and, when asked for, the scheduler.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::{Audit, Places, User};
use crate::{
    Error,
    parts::Part,
    paths,
    pki::{self, Authority},
    probe,
    process::Process,
    sandbox::NODE_ADDRESS,
};

/// The API server inside of the sandbox.
pub const API_URL: &str = "https://127.0.0.1:6443";

/// The name in the API server's certificate that clients check for, wherever they reach it.
const API_NAME: &str = "kubernetes";

const ETCD: &str = "http://127.0.0.1:2379";

/// Longest time for a component to come up on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The controllers that work without nodes and that tests rely on: objects whose owner is gone are
/// deleted, namespaces end, quotas count.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    root-ca-certificate-publisher-controller,clusterrole-aggregation-controller,resourcequota-controller,\
    validatingadmissionpolicy-status-controller";

/// The controllers that pods need on top: they make pods, say where Services lead, and watch the node.
const POD_CONTROLLERS: &str = "deployment-controller,replicaset-controller,statefulset-controller,\
    daemonset-controller,job-controller,disruption-controller,endpointslice-controller,\
    node-lifecycle-controller,pod-garbage-collector-controller,taint-eviction-controller";

/// Which optional components run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The scheduler: pods are bound to nodes, when there are any.
    pub scheduler: bool,
}

#[derive(Debug)]
pub(super) struct Cluster {
    scheduler: Option<Process>,
    controller_manager: Process,
    api_server: Process,
    etcd: Process,
    places: Places,
}

impl Cluster {
    pub(super) async fn start(
        options: &ClusterOptions,
        node: bool,
        authority: &Authority,
        places: &Places,
    ) -> Result<Self, Error> {
        let program = Part::Kubernetes.program("cluster")?;
        write_files(authority, &places.files)?;
        let component = |name: &str| Process::new(name, &program, &places.logs).args([name]);
        let kubeconfig = |user: User| format!("--kubeconfig={}", kubeconfig(places, user).display());

        let etcd = component("etcd").args(etcd_flags(&places.data));
        etcd.start()?;
        let api_server = component("kube-apiserver").args(api_server_flags(places));
        api_server.start()?;
        let controller_manager = component("kube-controller-manager").args([
            kubeconfig(User::ControllerManager),
            if node {
                format!("--controllers={CONTROLLERS},{POD_CONTROLLERS}")
            } else {
                format!("--controllers={CONTROLLERS}")
            },
            format!("--root-ca-file={}", places.files.join("lab-root.pem").display()),
            "--leader-elect=false".to_owned(),
            // It serves only its health, which nobody asks for.
            "--secure-port=0".to_owned(),
        ]);
        let scheduler = (options.scheduler || node).then(|| {
            component("kube-scheduler").args([
                kubeconfig(User::Scheduler),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
            ])
        });
        let cluster = Self { scheduler, controller_manager, api_server, etcd, places: places.clone() };
        cluster.ready().await?;
        cluster.controller_manager.start()?;
        if let Some(scheduler) = &cluster.scheduler {
            scheduler.start()?;
        }
        Ok(cluster)
    }

    pub(super) fn client(&self, user: User) -> Result<Client, Error> {
        client(&self.places, user)
    }

    pub(super) fn kubeconfig(&self, user: User) -> PathBuf {
        kubeconfig(&self.places, user)
    }

    pub(super) fn api_server(&self) -> &Process {
        &self.api_server
    }

    pub(super) fn audit(&self) -> Audit {
        Audit::new(audit_log(&self.places))
    }

    /// Waits until the API server says that it is ready.
    pub(super) async fn ready(&self) -> Result<(), Error> {
        let request = || http::Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError);
        probe::ready(&self.api_server, PATIENCE, || async {
            self.etcd.check().map_err(|error| error.to_string())?;
            let client = self.client(User::Admin).map_err(|error| error.to_string())?;
            let request = request().map_err(|error| error.to_string())?;
            client.request_text(request).await.map(|_| ()).map_err(|error| error.to_string())
        })
        .await
    }

    pub(super) fn processes(&self) -> Vec<&Process> {
        let mut all = vec![&self.etcd, &self.api_server, &self.controller_manager];
        all.extend(self.scheduler.as_ref());
        all
    }
}

/// A client as `user`, for the calling runtime.
pub(super) fn client(places: &Places, user: User) -> Result<Client, Error> {
    let failed = || format!("making a client for {}", user.name());
    let kubeconfig = Kubeconfig::read_from(kubeconfig(places, user)).map_err(Error::invalid(failed))?;
    // Nothing here is asynchronous but a credential plugin, which these have none of.
    let config = futures::executor::block_on(Config::from_custom_kubeconfig(
        kubeconfig,
        &KubeConfigOptions::default(),
    ));
    let mut config = config.map_err(Error::invalid(failed))?;
    // A test wants to see the first answer.
    config.default_retry = false;
    Client::try_from(config).map_err(Error::kube(failed))
}

/// A kubeconfig for `user` inside of the sandbox.
fn render_kubeconfig(user: User, token: &str, root: &Path) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: waxwing-lab\n\
         clusters:\n- name: waxwing-lab\n  cluster:\n    server: {API_URL}\n    tls-server-name: {API_NAME}\n    \
         certificate-authority: {root}\n\
         users:\n- name: {user}\n  user: {{token: {token}}}\n\
         contexts:\n- name: waxwing-lab\n  context: {{cluster: waxwing-lab, user: {user}}}\n",
        root = root.display(),
        user = user.slug(),
    )
}

fn kubeconfig(places: &Places, user: User) -> PathBuf {
    places.files.join(format!("{}.kubeconfig", user.slug()))
}

fn audit_log(places: &Places) -> PathBuf {
    places.logs.join("audit.log")
}

fn write_files(authority: &Authority, files: &Path) -> Result<(), Error> {
    let names = [
        API_NAME,
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
        "127.0.0.1",
        NODE_ADDRESS,
        "10.0.0.1",
    ];
    let serving = authority.server(&names)?;
    paths::write(&files.join("api-server.pem"), serving.certificate_pem)?;
    paths::write(&files.join("api-server.key"), serving.key_pem)?;
    // As whom the API server asks kubelet for logs, and runs commands in pods.
    let to_kubelet = authority.client("kube-apiserver", "system:masters")?;
    paths::write(&files.join("to-kubelet.pem"), to_kubelet.certificate_pem)?;
    paths::write(&files.join("to-kubelet.key"), to_kubelet.key_pem)?;
    let (private, public) = pki::signing_key()?;
    paths::write(&files.join("service-accounts.key"), private)?;
    paths::write(&files.join("service-accounts.pem"), public)?;
    let mut tokens = Vec::new();
    for user in User::ALL {
        let token = random_token()?;
        tokens.push([&token, user.name(), user.slug(), user.group()].join(","));
        let config = render_kubeconfig(user, &token, &files.join("lab-root.pem"));
        paths::write(&files.join(format!("{}.kubeconfig", user.slug())), config)?;
    }
    paths::write(&files.join("tokens.csv"), tokens.join("\n"))?;
    // Writes, one entry each when they are answered.
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived, ResponseStarted]\n\
        rules:\n- level: Metadata\n  verbs: [create, update, patch, delete, deletecollection]\n- level: None\n";
    paths::write(&files.join("audit-policy.yaml"), policy)
}

fn random_token() -> Result<String, Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(Error::invalid(|| "making a token"))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn etcd_flags(data: &Path) -> Vec<String> {
    vec![
        format!("--data-dir={}", data.join("etcd").display()),
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server_flags(places: &Places) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", places.files.join(name).display());
    vec![
        format!("--etcd-servers={ETCD}"),
        "--secure-port=6443".to_owned(),
        format!("--advertise-address={NODE_ADDRESS}"),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        // The name of the node leads nowhere.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        file("kubelet-certificate-authority", "lab-root.pem"),
        file("kubelet-client-certificate", "to-kubelet.pem"),
        file("kubelet-client-key", "to-kubelet.key"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        // A stopped API server is wanted at once.
        "--shutdown-delay-duration=0s".to_owned(),
        file("tls-cert-file", "api-server.pem"),
        file("tls-private-key-file", "api-server.key"),
        file("service-account-key-file", "service-accounts.pem"),
        file("service-account-signing-key-file", "service-accounts.key"),
        file("token-auth-file", "tokens.csv"),
        file("audit-policy-file", "audit-policy.yaml"),
        format!("--audit-log-path={}", audit_log(places).display()),
    ]
}
