//! `waxwing run`: the operator, wired together.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use kube::Client;
use thiserror::Error;
use tokio::sync::watch;
use waxwing_acme::{RevocationConfig, Revocations, SelfCheck, SelfCheckConfig};
use waxwing_api::{GoDuration, ParseDurationError};

use crate::{
    certificate::{
        self, advice::Advisor, budget::Budget, host_gate::HostGate, revocation::RevocationWatch, turns::Turns,
    },
    issuer,
    runtime::{
        admin::{self, Readiness, ServeError},
        client::{self, ClientError, ClientOptions, Outages},
        events::Events,
        lease::{Candidate, Term, Timing, TimingError},
        log::{self, LogError},
        metrics::Metrics,
        shutdown::{Phases, TaskDied},
        watch::{Scope, Watches},
    },
    solver::{
        SolverContext,
        http01::{
            ingress::Redirecting,
            objects::Objects,
            permanent::{Kept, Watcher},
            routes::Routes,
        },
        open_orders::OpenOrders,
        responder,
    },
    source,
};

/// Where a pod finds its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
const DEFAULT_NAMESPACE: &str = "waxwing-system";
/// Time for tasks to end beyond the responder's: an elected leader gives its lease back in it.
const TASKS_GRACE: Duration = Duration::from_secs(10);

/// The flags of `waxwing run`. Durations are written like 30s, 1m30s or 2h.
#[derive(Debug, Args)]
pub struct Run {
    /// Waxwing's own namespace, for orders in progress, routes and keys of cluster issuers [default: that of the pod,
    /// else waxwing-system]
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,

    /// Namespaces to work for, separated by commas; there are no cluster issuers then [default: all]
    #[arg(long, env = "WAXWING_WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACES")]
    watch_namespaces: Vec<String>,

    /// A kubeconfig file [default: KUBECONFIG, ~/.kube/config, or the pod's service account]
    #[arg(long, env = "WAXWING_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// A context of the kubeconfig [default: its current one]
    #[arg(long, env = "WAXWING_CONTEXT")]
    context: Option<String>,

    /// Where HTTP-01 challenges are answered
    #[arg(long, env = "WAXWING_RESPONDER_LISTEN", default_value = "0.0.0.0:8089", value_name = "ADDRESS")]
    responder_listen: SocketAddr,

    /// The Service in front of that, in Waxwing's own namespace, and its port
    #[arg(
        long,
        env = "WAXWING_RESPONDER_SERVICE",
        default_value = "waxwing:80",
        value_name = "NAME:PORT",
        value_parser = service
    )]
    responder_service: (String, u16),

    /// Where /healthz, /readyz and /metrics are
    #[arg(long, env = "WAXWING_ADMIN_LISTEN", default_value = "0.0.0.0:9402", value_name = "ADDRESS")]
    admin_listen: SocketAddr,

    /// Name servers for self-checks, IP or IP:PORT, separated by commas [default: those of the host]
    #[arg(
        long,
        env = "WAXWING_SELF_CHECK_NAMESERVERS",
        value_delimiter = ',',
        value_name = "ADDRESSES",
        value_parser = nameserver
    )]
    self_check_nameservers: Vec<SocketAddr>,

    /// How long a self-check looks before the CA is asked anyway
    #[arg(
        long,
        env = "WAXWING_SELF_CHECK_TIMEOUT",
        default_value = "20s",
        value_name = "DURATION",
        value_parser = duration
    )]
    self_check_timeout: Duration,

    /// How long a route to the responder stays after its last use
    #[arg(
        long,
        env = "WAXWING_ROUTE_QUIET_PERIOD",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = duration
    )]
    route_quiet_period: Duration,

    /// How often the permanent routes are looked at (routePolicy: Permanent)
    #[arg(
        long,
        env = "WAXWING_ROUTE_CHECK_INTERVAL",
        default_value = "6h",
        value_name = "DURATION",
        value_parser = duration
    )]
    route_check_interval: Duration,

    /// The image of solver pods (responder: Pod): Waxwing's own
    #[arg(
        long,
        env = "WAXWING_IMAGE",
        default_value = concat!("waxwing.dev/waxwing:", env!("CARGO_PKG_VERSION")),
        value_name = "IMAGE"
    )]
    solver_image: String,

    /// How long challenges are answered after shutdown began, while an order is open
    #[arg(
        long,
        env = "WAXWING_SHUTDOWN_GRACE",
        default_value = "15s",
        value_name = "DURATION",
        value_parser = duration
    )]
    shutdown_grace: Duration,

    /// How long a leader that gives no sign of life is waited for, before another replica takes over
    #[arg(
        long,
        env = "WAXWING_LEASE_DURATION",
        default_value = "15s",
        value_name = "DURATION",
        value_parser = duration
    )]
    lease_duration: Duration,

    /// How long a leader that can't renew its lease goes on; shorter than that
    #[arg(
        long,
        env = "WAXWING_LEASE_RENEW_DEADLINE",
        default_value = "10s",
        value_name = "DURATION",
        value_parser = duration
    )]
    lease_renew_deadline: Duration,

    /// How often the lease is renewed, and tried for; shorter still
    #[arg(
        long,
        env = "WAXWING_LEASE_RETRY_PERIOD",
        default_value = "2s",
        value_name = "DURATION",
        value_parser = duration
    )]
    lease_retry_period: Duration,

    /// How log lines are written [default: text on a terminal, else json]
    #[arg(long, env = "WAXWING_LOG_FORMAT", value_enum)]
    log_format: Option<log::Format>,

    /// error, warn, info, debug or trace, or tracing directives such as info,waxwing=debug
    #[arg(long, env = "WAXWING_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    log_level: String,
}

/// Why the operator ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// There is no cluster to talk to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The times of the lease don't fit each other.
    #[error(transparent)]
    Lease(#[from] TimingError),
    /// There are no logs.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The metrics contradict each other.
    #[error("couldn't set up the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Lists of revoked certificates can't be asked for.
    #[error("couldn't set up the client for revocations: {0}")]
    Revocations(waxwing_acme::Error),
    /// An address can't be listened on.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A task that the process lives for has died.
    #[error(transparent)]
    Task(#[from] TaskDied),
}

impl Run {
    /// Runs until a signal, or until a part dies.
    pub async fn run(self) -> Result<(), RunError> {
        log::init(self.log_format, &self.log_level)?;
        // Both kube and the engine use this one; the first to ask would install it anyway.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let timing = Timing::new(self.lease_duration, self.lease_renew_deadline, self.lease_retry_period)?;
        let namespace = self.namespace();
        let identity = identity();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), namespace, identity, "Waxwing starts");

        let options = ClientOptions {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            identity: identity.clone(),
        };
        let (client, outages) = client::connect(&options).await?;
        let challenges = admin::listen("HTTP-01 responder", self.responder_listen).await?;
        let administration = admin::listen("admin server", self.admin_listen).await?;

        // What every replica does, and goes on with while it ends, so that it can answer challenges until then.
        let (Phases { work, base }, supervisor) = Phases::new();
        let metrics = Arc::new(Metrics::new()?);
        let readiness = Readiness::default();
        base.spawn(
            "admin server",
            admin::run(administration, Arc::clone(&metrics), readiness.clone(), base.token()),
        );
        let scope = self.scope();
        let watches = Watches::start(&client, &namespace, &scope, &base);
        let orders = OpenOrders::default();
        base.spawn("index of open orders", {
            let (orders, watch, stop) = (orders.clone(), watches.order_secrets.clone(), base.token());
            async move {
                let store = watch.store().clone();
                tokio::select! {
                    () = orders.follow(watch.changes(), || store.state()) => {}
                    () = stop.cancelled() => {}
                }
                Ok::<_, Infallible>(())
            }
        });
        work.spawn(
            "HTTP-01 responder",
            responder::run(challenges, orders.clone(), self.shutdown_grace, work.token()),
        );

        // What only the leader does.
        let (leadership, terms) = watch::channel(None);
        let candidate = Candidate {
            client: client.clone(),
            identity: identity.clone(),
            metrics: Arc::clone(&metrics),
            namespace: namespace.clone(),
            timing,
        };
        let leading = Leading {
            client,
            identity,
            metrics,
            namespace,
            orders,
            outages,
            quiet_period: self.route_quiet_period,
            revocations: Revocations::new(RevocationConfig::default()).map_err(RunError::Revocations)?,
            route_check_interval: self.route_check_interval,
            scope,
            self_check: SelfCheckConfig {
                nameservers: self.self_check_nameservers.clone(),
                deadline: self.self_check_timeout,
                ..SelfCheckConfig::default()
            },
            service: self.responder_service.clone(),
            solver_image: self.solver_image.clone(),
            watches: watches.clone(),
        };
        work.spawn("leader election", {
            let stop = work.token();
            async move {
                // What isn't in a cache yet would be taken for missing: who hasn't seen it can't lead.
                tokio::select! {
                    () = watches.wait_until_synced() => {}
                    () = stop.cancelled() => return Ok(()),
                }
                tracing::info!("the caches are filled");
                readiness.set(true);
                candidate.stand(leadership, stop).await
            }
        });
        work.spawn("controllers", leading.follow(terms));

        supervisor.run(self.shutdown_grace + TASKS_GRACE).await?;
        tracing::info!("Waxwing ended");
        Ok(())
    }

    fn scope(&self) -> Scope {
        // An empty variable is no list.
        let some = self.watch_namespaces.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        let some: BTreeSet<String> = some.map(str::to_owned).collect();
        if some.is_empty() {
            return Scope::Cluster;
        }
        tracing::info!(namespaces = ?some, "working for these namespaces alone; there are no ClusterIssuers");
        Scope::Namespaces(some)
    }

    fn namespace(&self) -> String {
        let file = || fs::read_to_string(NAMESPACE_FILE).ok().map(|text| text.trim().to_owned());
        self.namespace
            .clone()
            .or_else(file)
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
    }
}

/// What a replica needs to lead.
struct Leading {
    client: Client,
    identity: String,
    metrics: Arc<Metrics>,
    namespace: String,
    orders: OpenOrders,
    outages: Outages,
    quiet_period: Duration,
    revocations: Revocations,
    route_check_interval: Duration,
    scope: Scope,
    self_check: SelfCheckConfig,
    service: (String, u16),
    solver_image: String,
    watches: Watches,
}

impl Leading {
    /// Leads in each term, until there will be no further one.
    async fn follow(self, mut terms: watch::Receiver<Option<Term>>) -> Result<(), Infallible> {
        loop {
            // An error says that nobody stands for election any more.
            let Ok(Some(term)) = terms.wait_for(Option::is_some).await.map(|term| term.clone()) else {
                return Ok(());
            };
            let ended = term.ended();
            // Dropped at the term's end wherever it is: what it has begun is in the cluster.
            tokio::select! {
                () = self.lead(term) => {}
                () = ended.cancelled() => {}
            }
        }
    }

    /// Does the leader's work. Nothing of it outlasts the term, and nothing that was known in an earlier one is taken
    /// for true: another replica may have led in between.
    async fn lead(&self, term: Term) {
        let (watches, metrics) = (&self.watches, &self.metrics);
        let (client, stop) = (term.fence(&self.client), term.ended());
        drop(term);
        let events = Events::new(client.clone(), self.identity.clone());
        let kept = Kept::of(watches);
        let routes = Arc::new(Routes::new(
            client.clone(),
            &self.namespace,
            self.service.clone(),
            self.quiet_period,
            watches.ingresses.clone(),
            self.orders.clone(),
            kept.clone(),
        ));
        let objects = Arc::new(Objects::new(
            client.clone(),
            &self.namespace,
            self.scope.clone(),
            &self.service.0,
            self.quiet_period,
            watches.ingresses.clone(),
            self.orders.clone(),
        ));
        let solvers = Arc::new(SolverContext {
            ingress_classes: watches.ingress_classes.clone(),
            ingresses: watches.ingresses.clone(),
            metrics: Arc::clone(metrics),
            objects: Arc::clone(&objects),
            outages: self.outages.clone(),
            own_namespace: self.namespace.clone(),
            redirecting: Redirecting::default(),
            routes: Arc::clone(&routes),
            self_check: SelfCheck::new(self.self_check.clone()),
            service: self.service.clone(),
            solver_image: self.solver_image.clone(),
        });
        let watcher = Watcher {
            kept: kept.clone(),
            solvers: Arc::clone(&solvers),
            events: events.clone(),
            metrics: Arc::clone(metrics),
            interval: self.route_check_interval,
        };
        let registry = issuer::Registry::new(
            watches.issuers.clone(),
            matches!(self.scope, Scope::Cluster).then(|| watches.cluster_issuers.clone()),
        );
        let issuers = issuer::controller::run(
            issuer::controller::Context {
                client: client.clone(),
                events: events.clone(),
                metrics: Arc::clone(metrics),
                own_namespace: self.namespace.clone(),
                registry: registry.clone(),
            },
            watches.issuers.clone(),
            watches.cluster_issuers.clone(),
            stop.clone(),
        );
        let ingresses = source::ingress::run(
            source::ingress::Context {
                certificates: watches.certificates.clone(),
                client: client.clone(),
                events: events.clone(),
                metrics: Arc::clone(metrics),
            },
            watches.ingresses.clone(),
            stop.clone(),
        );
        let certificates = certificate::controller::run(
            certificate::issue::Context {
                client,
                own_namespace: self.namespace.clone(),
                replica: self.identity.clone(),
                watches: watches.clone(),
                issuers: registry,
                solvers,
                events,
                metrics: Arc::clone(metrics),
                hosts: HostGate::default(),
                advisor: Advisor::default(),
                revocations: RevocationWatch::new(self.revocations.clone()),
                budget: Budget::new(watches, Arc::clone(metrics)),
                turns: Turns::new(),
            },
            stop.clone(),
        );
        let solving = async {
            tokio::select! {
                () = kept.follow(watches) => {}
                _ = futures::future::join3(
                    routes.sweep(stop.clone()),
                    objects.sweep(stop.clone()),
                    watcher.watch(stop.clone()),
                ) => {}
            }
        };
        tokio::join!(issuers, ingresses, solving, certificates);
    }
}

/// A name that no other process has, now or later: the pod's with a random end.
fn identity() -> String {
    let pod = ["POD_NAME", "HOSTNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| format!("waxwing-{}", std::process::id()));
    format!("{pod}_{:08x}", rand::random::<u32>())
}

fn duration(text: &str) -> Result<Duration, ParseDurationError> {
    text.parse::<GoDuration>().map(Duration::from)
}

fn nameserver(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)))
        .map_err(|_| "write an IP address, with or without a port: 10.0.0.10 or [fd00::10]:53".to_owned())
}

fn service(text: &str) -> Result<(String, u16), String> {
    let explain = || "write the Service's name and port: waxwing:80".to_owned();
    let (name, port) = text.split_once(':').ok_or_else(explain)?;
    match port.parse() {
        Ok(port) if port > 0 && !name.is_empty() => Ok((name.to_owned(), port)),
        _ => Err(explain()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        Cli::parse_from(["waxwing", "run", "--self-check-nameservers", "127.0.0.1:8053,::1"]);
    }

    #[test]
    fn values_are_parsed_or_explained() {
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(nameserver("::1").unwrap(), "[::1]:53".parse().unwrap());
        assert_eq!(nameserver("127.0.0.1:8053").unwrap(), "127.0.0.1:8053".parse().unwrap());
        assert!(nameserver("dns.example").unwrap_err().contains("IP address"));
        assert_eq!(service("waxwing:8089").unwrap(), ("waxwing".to_owned(), 8089));
        for wrong in ["waxwing", "waxwing:", ":80", "waxwing:0", "waxwing:http"] {
            assert!(service(wrong).unwrap_err().contains("waxwing:80"), "{wrong}");
        }
    }
}
