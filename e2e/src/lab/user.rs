//! Who talks to the API server. Each has a name of its own, so that the audit log can be counted.

/// A user of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// May do anything: tests.
    Admin,
    /// Waxwing. What it may do is in the `ClusterRole` and the Role `waxwing`, which tests may change.
    Waxwing,
    /// The controller-manager.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The node's kubelet.
    Kubelet,
    /// The node's kube-proxy.
    KubeProxy,
    /// Traefik.
    Traefik,
    /// A tenant, who may do nothing until a test lets it.
    Tenant,
}

impl User {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Admin,
        Self::Waxwing,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubelet,
        Self::KubeProxy,
        Self::Traefik,
        Self::Tenant,
    ];

    /// The name that the API server knows, and that the audit log holds.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Waxwing => "waxwing",
            Self::ControllerManager => "system:kube-controller-manager",
            Self::Scheduler => "system:kube-scheduler",
            Self::Kubelet => "system:node:lab",
            Self::KubeProxy => "system:kube-proxy",
            Self::Traefik => "traefik",
            Self::Tenant => "tenant",
        }
    }

    /// A word for files.
    pub(super) const fn slug(self) -> &'static str {
        match self {
            Self::ControllerManager => "controller-manager",
            Self::Scheduler => "scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Admin | Self::Waxwing | Self::Traefik | Self::Tenant => self.name(),
        }
    }

    /// The group that gives its rights. The controller-manager runs all of its controllers as one
    /// user here, which no single role of upstream's allows.
    pub(super) const fn group(self) -> &'static str {
        match self {
            Self::Admin | Self::ControllerManager => "system:masters",
            // Whose rights are those of the node that its name names.
            Self::Kubelet => "system:nodes",
            Self::Waxwing | Self::Scheduler | Self::KubeProxy | Self::Traefik | Self::Tenant => "lab",
        }
    }
}
