//! What containerd, the CNI plugins, kubelet and kube-proxy are told.

use std::path::Path;

use serde_json::{Value, json};

use super::{DNS_ADDRESS, DOMAIN, NAME, PAUSE, POD_NETWORK, SOCKET, machine::STATE};
use crate::{Error, paths, sandbox::NODE_ADDRESS};

/// Where Debian's package containernetworking-plugins puts them.
pub(super) const PLUGINS: &str = "/usr/lib/cni";

/// Writes all of them into `files`.
pub(super) fn write(files: &Path, logs: &Path, root: &Path, cgroups: &str) -> Result<(), Error> {
    paths::create(&files.join("net.d"))?;
    paths::write(&files.join("containerd.toml"), containerd(files))?;
    paths::write(&files.join("net.d/10-lab.conflist"), network().to_string())?;
    paths::write(&files.join("resolv.conf"), format!("nameserver {NODE_ADDRESS}\n"))?;
    paths::write(&files.join("kubelet.json"), kubelet(files, logs, root, cgroups).to_string())?;
    paths::write(&files.join("kube-proxy.json"), kube_proxy(files).to_string())
}

fn containerd(files: &Path) -> String {
    format!(
        r#"version = 2
root = "{STATE}/containerd"
state = "/run/containerd"
# Plugins that would write to fixed places, or look for programs that are not there.
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Without CAP_SYS_RESOURCE no process may be made less likely to be killed than this one.
restrict_oom_score_adj = true
# A profile would be loaded into the whole machine's kernel.
disable_apparmor = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = {net:?}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
        net = files.join("net.d").display().to_string(),
    )
}

fn network() -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods0",
                "isGateway": true,
                "ipMasq": true,
                // A pod that asks a Service may be answered by itself.
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": format!("{STATE}/addresses"),
                    "ranges": [[{"subnet": POD_NETWORK}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kubelet(files: &Path, logs: &Path, root: &Path, cgroups: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "tlsCertFile": files.join("kubelet.pem"),
        "tlsPrivateKeyFile": files.join("kubelet.key"),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": root},
        },
        "authorization": {"mode": "Webhook"},
        // Its other ports tell nobody anything here.
        "healthzPort": 0,
        "readOnlyPort": 0,
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups,
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": DOMAIN,
        "resolvConf": files.join("resolv.conf"),
        "podLogsDir": logs.join("pods"),
        "volumePluginDir": format!("{STATE}/volume-plugins"),
        "enableControllerAttachDetach": false,
        // A machine with a full disk runs the lab as well as another.
        "evictionHard": {
            "imagefs.available": "0%", "imagefs.inodesFree": "0%",
            "nodefs.available": "0%", "nodefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        // Tests wait for what pods do.
        "serializeImagePulls": false,
    })
}

fn kube_proxy(files: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": files.join("../kube-proxy.kubeconfig")},
        "hostnameOverride": NAME,
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "",
        "nodePortAddresses": ["primary"],
        "oomScoreAdj": 0,
        // Rules at once, not gathered for a second.
        "iptables": {"minSyncPeriod": "0s"},
        // The kernel's table of connections stays as it is.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s",
        },
    })
}
