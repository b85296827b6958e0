//! A node for pods: containerd, kubelet and kube-proxy, with a network of its own, a name service for
//! pods, and images without a registry. It needs root, and a few Debian packages.
//!
//! Images are never pulled: what isn't imported is not there.

mod cgroups;
mod config;
mod machine;
mod names;
mod tools;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use cgroups::Cgroups;
pub use cgroups::sweep;
use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};
use machine::Machine;
use names::Names;

use super::{Places, User, cluster, manifests};
use crate::{
    Error, image::Built, parts::Part, paths, pki::Authority, probe, process::Process, sandbox::NODE_ADDRESS,
};

/// The node's name.
pub const NAME: &str = "lab";

/// An image with busybox, and what pods' sandboxes run: `sleep`, `httpd`, `wget`, `nslookup`, `sh`.
pub const TOOLS: &str = "waxwing.dev/lab-tools:1";
const PAUSE: &str = TOOLS;

/// Where pods' addresses are from.
const POD_NETWORK: &str = "10.244.0.0/24";

/// The Service that pods ask for names.
const DNS_ADDRESS: &str = "10.0.0.10";
const DOMAIN: &str = "cluster.local";

const SOCKET: &str = "/run/containerd/containerd.sock";

/// Debian keeps some of the programs where not every user looks.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest time for a component to come up, and for an image to be imported, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The Service with the cluster's DNS address, in front of the name service on the node.
const DNS_SERVICE: &str = include_str!("../../../manifests/node.yaml");

/// A running node. Dropping it ends its pods and takes away what it made.
#[derive(Debug)]
pub struct Node {
    kube_proxy: Process,
    kubelet: Process,
    containerd: Process,
    cgroups: Cgroups,
    // After what uses it.
    _machine: Machine,
    _names: Names,
    imports: AtomicU32,
    scratch: PathBuf,
}

impl Node {
    /// Why this machine can have no node, in words that say what to do about it; `None` when it can.
    pub fn unavailable() -> Option<String> {
        if !rustix::process::geteuid().is_root() || is_root_of_a_sandbox() {
            return Some("the lab's node needs root: run the same as root".to_owned());
        }
        let programs = ["containerd", "ctr", "runc", "iptables", "conntrack", "busybox"];
        let mut missing: Vec<&str> = programs.into_iter().filter(|name| find(name).is_none()).collect();
        if !Path::new(config::PLUGINS).join("bridge").exists() {
            missing.push("the CNI plugins");
        }
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Some(format!("the lab's node lacks {missing}: run scripts/prerequisites --install"));
        }
        if !Path::new("/proc/sys/net/bridge").exists() {
            return Some("the lab's node lacks a kernel module: run modprobe br_netfilter".to_owned());
        }
        None
    }

    pub(super) async fn start(
        cluster: &cluster::Cluster,
        authority: &Authority,
        places: &Places,
    ) -> Result<Self, Error> {
        if let Some(why) = Self::unavailable() {
            return Err(Error::Invalid { what: "the node".to_owned(), why });
        }
        let files = places.files.join("node");
        paths::create(&files)?;
        let cgroups = Cgroups::create()?;
        let machine = Machine::prepare()?;
        let root = places.files.join("lab-root.pem");
        config::write(&files, &places.logs, &root, &cgroups.path())?;
        let serving = authority.server(&[NODE_ADDRESS])?;
        paths::write(&files.join("kubelet.pem"), serving.certificate_pem)?;
        paths::write_private(&files.join("kubelet.key"), &serving.key_pem)?;

        let own = cgroups.own()?;
        let in_own_group = |name: &str, program: &Path| {
            let join = "echo 0 >\"$0\" && exec \"$@\"";
            Process::new(name, Path::new("/bin/sh"), &places.logs)
                .env("PATH", SEARCH)
                .args(["-c", join])
                .args([own.as_os_str(), program.as_os_str()])
        };
        let kubernetes = Part::Kubernetes.program("cluster")?;
        let option = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        let containerd = in_own_group("containerd", &find("containerd").unwrap_or_default())
            .args([option("config", &files.join("containerd.toml"))]);
        let kubelet = in_own_group("kubelet", &kubernetes).args([
            "kubelet".to_owned(),
            option("config", &files.join("kubelet.json")),
            option("kubeconfig", &cluster.kubeconfig(User::Kubelet)),
            option("root-dir", &Path::new(machine::STATE).join("kubelet")),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={NODE_ADDRESS}"),
        ]);
        let kube_proxy = in_own_group("kube-proxy", &kubernetes)
            .args(["kube-proxy".to_owned(), option("config", &files.join("kube-proxy.json"))]);
        let places_of_names = places.clone();
        let names = Names::start(move || cluster::client(&places_of_names, User::Admin))?;
        let node = Self {
            kube_proxy,
            kubelet,
            containerd,
            cgroups,
            _machine: machine,
            _names: names,
            imports: AtomicU32::new(0),
            scratch: places.data.clone(),
        };
        node.containerd.start()?;
        probe::ready(&node.containerd, PATIENCE, || node.ctr(&["version"])).await?;
        node.import_built(&tools::image()?.build()?).await?;
        node.kubelet.start()?;
        node.kube_proxy.start()?;
        let client = cluster.client(User::Admin)?;
        manifests::apply(&client, "kube-system", DNS_SERVICE).await?;
        node.ready(&client, &cluster.processes()).await?;
        Ok(node)
    }

    /// Imports the images of an archive, as `docker save` and `make image` write them, and returns when
    /// pods can use them. Answers with their names.
    pub async fn import(&self, archive: &Path) -> Result<Vec<String>, Error> {
        let said = self.ctr(&["images", "import", &archive.display().to_string()]).await?;
        // `unpacking <name> (sha256:…)...done`
        let named = said.lines().filter_map(|line| line.strip_prefix("unpacking ")?.split(' ').next());
        let names: Vec<String> = named.map(ToOwned::to_owned).collect();
        if names.is_empty() {
            return Err(Error::Invalid {
                what: archive.display().to_string(),
                why: "it names no image".to_owned(),
            });
        }
        // The side of containerd that kubelet asks learns it a moment later, and then marks it.
        probe::until("the imported images", PATIENCE, || async {
            let list = self.ctr(&["images", "list"]).await.map_err(|error| error.to_string())?;
            let known = |name: &&String| {
                list.lines().any(|line| {
                    line.split_whitespace().next() == Some(name.as_str())
                        && line.contains("io.cri-containerd.image=managed")
                })
            };
            match names.iter().find(|name| !known(name)) {
                Some(missing) => Err(format!("kubelet doesn't know {missing} yet")),
                None => Ok(()),
            }
        })
        .await?;
        Ok(names)
    }

    /// Imports an image that was just built.
    pub async fn import_built(&self, image: &Built) -> Result<(), Error> {
        let number = self.imports.fetch_add(1, Ordering::Relaxed);
        let archive = self.scratch.join(format!("image-{number}.tar"));
        image.write_archive(&archive)?;
        let imported = self.import(&archive).await;
        let _ = std::fs::remove_file(&archive);
        imported.map(|_| ())
    }

    /// Its processes: freeze, kill and start them as a test wants.
    pub fn processes(&self) -> Vec<&Process> {
        vec![&self.containerd, &self.kubelet, &self.kube_proxy]
    }

    /// The name of its control group, which tells it from those of labs that run beside it.
    pub fn control_group(&self) -> &str {
        self.cgroups.name()
    }

    /// Waits until kubelet says that pods may come, and Services answer.
    async fn ready(&self, client: &Client, control_plane: &[&Process]) -> Result<(), Error> {
        let nodes: Api<core::Node> = Api::all(client.clone());
        probe::ready(&self.kubelet, PATIENCE, || async {
            let node = nodes.get(NAME).await.map_err(|error| error.to_string())?;
            // A controller takes the taint of a new node away.
            let tainted = node.spec.is_some_and(|spec| spec.taints.is_some_and(|taints| !taints.is_empty()));
            for process in control_plane {
                process.check().map_err(|error| error.to_string())?;
            }
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
            match ready {
                Some(ready) if ready.status == "True" && !tainted => Ok(()),
                Some(ready) => Err(format!("tainted: {tainted}; {}", ready.message.unwrap_or_default())),
                None => Err("nothing is said of it".to_owned()),
            }
        })
        .await?;
        probe::ready(&self.kube_proxy, PATIENCE, || async {
            tokio::net::TcpStream::connect(("10.0.0.1", 443)).await.map(|_| ())
        })
        .await
    }

    #[allow(clippy::unused_self, reason = "a started node is what makes it possible")]
    async fn ctr(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut ctr = Command::new("ctr");
        ctr.env("PATH", SEARCH).args(["--address", SOCKET, "--namespace", "k8s.io"]).args(arguments);
        let run = tokio::task::spawn_blocking(move || run(&mut ctr));
        match tokio::time::timeout(PATIENCE, run).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Err(Error::invalid(|| "running ctr")(error)),
            Err(_) => {
                let last = "ctr doesn't end".to_owned();
                Err(Error::NotReady { what: "containerd".to_owned(), after: PATIENCE, last })
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // First who would start again what is ended.
        self.kubelet.kill();
        self.containerd.kill();
        self.kube_proxy.kill();
        self.cgroups.kill();
        // The sandbox's network is used again by the next lab. What fails here ends with the sandbox.
        let _ = run(Command::new("ip").args(["link", "delete", "pods0"]));
        for program in ["iptables", "ip6tables"] {
            for table in ["nat", "filter", "mangle", "raw"] {
                for action in ["-F", "-X"] {
                    let _ = run(Command::new(program).env("PATH", SEARCH).args(["-w", "-t", table, action]));
                }
            }
        }
    }
}

/// Whether this is root by name alone: in a sandbox, another user is mapped to it.
fn is_root_of_a_sandbox() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // How many users are mapped: all of the machine's, or one.
    map.split_whitespace().nth(2) == Some("1")
}

/// Where a program is.
fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(SEARCH).map(|directory| directory.join(program)).find(|path| path.exists())
}

/// Runs a command to its end. Answers with its output.
fn run(command: &mut Command) -> Result<String, Error> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io(|| format!("starting {}", command.get_program().display())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Invalid { what: format!("{command:?}"), why })
}
