//! A running lab, as tests and `e2e up` use it.

mod audit;
mod checkpoint;
mod cluster;
mod dns;
mod enclave;
mod fleet;
mod manifests;
mod node;
mod operator;
mod pebble;
pub mod scenario;
mod step_ca;
mod traefik;
mod user;

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

pub use audit::{Audit, Mark, Write};
pub use checkpoint::{Checkpoint, Moment, Point, Run};
pub use cluster::{API_URL, ClusterOptions};
pub use dns::Dns;
pub use enclave::Enclave;
pub use fleet::{Fleet, Lease};
use k8s_openapi::api::{coordination::v1::Lease as LeaseObject, core::v1::Namespace};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
pub use node::{NAME as NODE_NAME, Node, TOOLS, sweep};
pub use operator::{OWN_NAMESPACE, Operator, OperatorOptions, RESPONDER_PORT};
pub use pebble::{Pebble, PebbleOptions};
pub use step_ca::{Orders, StepCa};
use tokio::sync::{Semaphore, SemaphorePermit};
pub use traefik::{Traefik, TraefikOptions};
pub use user::User;

use crate::{
    Error,
    http::Http,
    parts::Part,
    paths,
    pki::Authority,
    process::Process,
    sandbox::{self, NODE_ADDRESS, SECOND_EDGE_ADDRESS},
};

/// Ports inside of a sandbox are ours, so a lab uses fixed ones, and one lab runs at a time.
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

/// What runs beside the API server and the name server.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// The control plane.
    pub cluster: ClusterOptions,
    /// A node for pods, with everything of the control plane that pods need. It needs root: see
    /// [`Node::unavailable`].
    pub node: bool,
    /// No trace of Waxwing: neither its CRDs nor its namespace, Service and rights, which Helm will make.
    pub bare: bool,
    /// The CA Pebble.
    pub pebble: Option<PebbleOptions>,
    /// The CA step-ca.
    pub step_ca: bool,
    /// The ingress controller Traefik.
    pub traefik: Option<TraefikOptions>,
}

/// Where a lab keeps its files.
#[derive(Clone, Debug)]
pub struct Places {
    /// Keys, configurations and kubeconfigs.
    pub files: PathBuf,
    /// Logs.
    pub logs: PathBuf,
    /// Data of etcd and of CAs, which need not outlive the lab.
    pub data: PathBuf,
}

/// A running lab. Dropping it ends its processes. Nothing in it belongs to an async runtime, so
/// tests of one binary may share it in a `tokio::sync::OnceCell`; a client is made for each.
#[derive(Debug)]
pub struct Lab {
    node: Option<Node>,
    traefik: Option<Traefik>,
    step_ca: Option<StepCa>,
    pebble: Option<Pebble>,
    dns: Dns,
    cluster: cluster::Cluster,
    authority: Authority,
    places: Places,
    namespaces: AtomicU32,
    // Last: the next lab may start when everything above has ended.
    _turn: SemaphorePermit<'static>,
}

impl Places {
    /// For a lab that a test starts: logs stay, everything else goes with the sandbox.
    pub fn for_test(name: &str) -> Self {
        let volatile = paths::volatile().join(name);
        Self { files: volatile.join("files"), logs: paths::test_logs(name), data: volatile.join("data") }
    }

    fn create(&self) -> Result<(), Error> {
        // Of an earlier lab with this name.
        let _ = std::fs::remove_dir_all(&self.data);
        for directory in [&self.files, &self.logs, &self.data] {
            paths::create(directory)?;
        }
        // Keys and tokens are in there.
        std::fs::set_permissions(&self.files, Permissions::from_mode(0o700))
            .map_err(Error::io(|| format!("closing {}", self.files.display())))
    }
}

impl Lab {
    /// Starts a lab for a test and waits until every part answers. `name` names its logs in
    /// `target/lab/test-logs`.
    pub async fn start(name: &str, parts: Parts) -> Result<Self, Error> {
        let places = Places::for_test(name);
        // Of an earlier run.
        let _ = std::fs::remove_dir_all(&places.logs);
        Self::start_in(places, parts, &mut |_| ()).await
    }

    /// Starts a lab with its files in given places, and tells `step` about each part that is ready.
    pub async fn start_in(
        places: Places,
        parts: Parts,
        step: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Self, Error> {
        if !sandbox::inside() {
            return Err(Error::NotInSandbox);
        }
        let turn = ONE_AT_A_TIME.acquire().await.map_err(Error::invalid(|| "waiting for another lab"))?;
        places.create()?;
        let authority = Authority::new("Waxwing lab")?;
        paths::write(&places.files.join("lab-root.pem"), authority.pem())?;
        let dns = Dns::start(&places).await?;
        step("name server");
        let cluster = cluster::Cluster::start(&parts.cluster, parts.node, &authority, &places).await?;
        let client = cluster.client(User::Admin)?;
        manifests::prepare(&client).await?;
        if !parts.bare {
            manifests::prepare_for_waxwing(&client).await?;
        }
        step(&Part::Kubernetes.title());
        let node = if parts.node {
            // Boxed: few labs have one, and all would carry its room.
            Some(Box::pin(Node::start(&cluster, &authority, &places)).await?)
        } else {
            None
        };
        if node.is_some() {
            step("node");
        }
        let pebble = match parts.pebble {
            Some(options) => Some(Pebble::start(options, &authority, &places).await?),
            None => None,
        };
        if pebble.is_some() {
            step(&Part::Pebble.title());
        }
        let step_ca = if parts.step_ca { Some(StepCa::start(&authority, &places).await?) } else { None };
        if step_ca.is_some() {
            step(&Part::StepCa.title());
        }
        let traefik = match parts.traefik {
            Some(options) => {
                Some(Traefik::start("traefik", NODE_ADDRESS, &options, &cluster, &places).await?)
            }
            None => None,
        };
        if traefik.is_some() {
            step(&Part::Traefik.title());
        }
        let namespaces = AtomicU32::new(0);
        Ok(Self { node, traefik, step_ca, pebble, dns, cluster, authority, places, namespaces, _turn: turn })
    }

    /// A client of the API server as `user`. It belongs to the calling test's runtime.
    pub fn client(&self, user: User) -> Result<Client, Error> {
        self.cluster.client(user)
    }

    /// The path of a kubeconfig for `user`, valid inside of the sandbox.
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.cluster.kubeconfig(user)
    }

    /// The API server's process: `kill`, `start`, `freeze`, `thaw`. (`stop` takes a minute: it waits
    /// for its clients.)
    pub fn api_server(&self) -> &Process {
        self.cluster.api_server()
    }

    /// Waits until the API server answers, after it was started again.
    pub async fn api_server_ready(&self) -> Result<(), Error> {
        self.cluster.ready().await
    }

    /// The audit log: who wrote what.
    pub fn audit(&self) -> Audit {
        self.cluster.audit()
    }

    /// The name server.
    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    /// The node, which must be among the lab's parts.
    pub fn node(&self) -> Result<&Node, Error> {
        self.node.as_ref().ok_or_else(|| absent("a node"))
    }

    /// Pebble, which must be among the lab's parts.
    pub fn pebble(&self) -> Result<&Pebble, Error> {
        self.pebble.as_ref().ok_or_else(|| absent("Pebble"))
    }

    /// step-ca, which must be among the lab's parts.
    pub fn step_ca(&self) -> Result<&StepCa, Error> {
        self.step_ca.as_ref().ok_or_else(|| absent("step-ca"))
    }

    /// Traefik, which must be among the lab's parts.
    pub fn traefik(&self) -> Result<&Traefik, Error> {
        self.traefik.as_ref().ok_or_else(|| absent("Traefik"))
    }

    /// The root that signs the certificates of the lab's own servers.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Where the lab's logs are.
    pub fn logs(&self) -> &Path {
        &self.places.logs
    }

    /// A client for HTTP that trusts the lab's root and the roots of its CAs.
    pub async fn http(&self) -> Result<Http, Error> {
        Http::new(&self.roots().await?)
    }

    /// The lab's root and the roots of its CAs, as PEM.
    pub async fn roots(&self) -> Result<String, Error> {
        let mut roots = self.authority.pem().to_owned();
        if let Some(pebble) = &self.pebble {
            roots.push_str(&pebble.issuance_root().await?);
        }
        Ok(roots)
    }

    /// A new namespace, named after `prefix`, so that tests that share a lab don't meet.
    pub async fn namespace(&self, prefix: &str) -> Result<String, Error> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{prefix}-{number}");
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        let api: Api<Namespace> = Api::all(self.client(User::Admin)?);
        api.create(&PostParams::default(), &namespace)
            .await
            .map_err(Error::kube(|| format!("creating namespace {name}")))?;
        Ok(name)
    }

    /// Takes away the Lease of a Waxwing that is dead, whose end the next one would wait for.
    pub async fn take_lease_away(&self, own_namespace: &str) -> Result<(), Error> {
        let leases: Api<LeaseObject> = Api::namespaced(self.client(User::Admin)?, own_namespace);
        match leases.delete("waxwing", &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(Error::kube(|| "deleting the Lease")(error)),
        }
    }

    /// Applies the YAML documents of `manifests` as the administrator. Objects that name no
    /// namespace go to `namespace`.
    pub async fn apply(&self, namespace: &str, yaml: &str) -> Result<(), Error> {
        manifests::apply(&self.client(User::Admin)?, namespace, yaml).await
    }

    /// Starts a second Traefik, which serves the same Ingresses at [`SECOND_EDGE_ADDRESS`].
    pub async fn second_traefik(&self, options: &TraefikOptions) -> Result<Traefik, Error> {
        Traefik::start("traefik-2", SECOND_EDGE_ADDRESS, options, &self.cluster, &self.places).await
    }

    /// Starts Waxwing as a process, as the user `waxwing`.
    pub fn operator(&self, options: OperatorOptions) -> Result<Operator, Error> {
        Operator::start(options, &self.kubeconfig(User::Waxwing), &self.places)
    }

    /// The processes that run, by name.
    pub fn processes(&self) -> Vec<&Process> {
        let mut all = vec![self.dns.process()];
        all.extend(self.cluster.processes());
        all.extend(self.node.iter().flat_map(Node::processes));
        all.extend(self.pebble.as_ref().map(Pebble::process));
        all.extend(self.step_ca.as_ref().map(StepCa::process));
        all.extend(self.traefik.as_ref().map(Traefik::process));
        all
    }
}

fn absent(part: &str) -> Error {
    Error::Invalid { what: part.to_owned(), why: "this lab was started without it".to_owned() }
}
