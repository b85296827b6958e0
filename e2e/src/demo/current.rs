//! `make demo CLUSTER=current`: Waxwing as a process of this machine, against the cluster that kubectl points
//! at. Less than the demo in the lab: the cluster's ingress controller can't reach a process out here, so the
//! edge must lead `/.well-known/acme-challenge/` to this machine by itself (`existingRoute`).

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::{
    api::core::v1::Namespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Config, Resource, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams},
    config::Kubeconfig,
};
use kube_runtime::{WatchStreamExt as _, watcher};
use serde::{Serialize, de::DeserializeOwned};
use tokio::process::{Child, Command};
use waxwing_api::{
    Acme, AcmeSolver, Certificate, CertificateSpec, ClusterIssuer, ClusterIssuerSpec, ExistingRoute, Http01,
    IssuerKind, IssuerRef, PrivateKeySecretRef, reason,
};

use super::{
    log_tail, program, relative,
    screen::{Look, Screen},
    seconds,
};
use crate::{Error, lab::OWN_NAMESPACE, paths, probe};

/// The issuer, the Certificate and its namespace.
const NAME: &str = "waxwing-demo";
/// Longest time for the issuer, and for the Certificate.
const PATIENCE: Duration = Duration::from_mins(3);
/// Where Pebble listens by default.
const PEBBLE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 14000);

/// What the user says in the environment.
struct Wishes {
    server: String,
    email: Option<String>,
    name: String,
    /// Pebble's own certificate is signed by a root that nobody has.
    skip_verification: bool,
}

/// Runs the demo.
pub async fn run() -> Result<(), Error> {
    let mut screen = Screen::new();
    let wishes = Wishes::from_environment()?;
    let failed = || "reading the kubeconfig that kubectl uses";
    let config = Config::infer().await.map_err(Error::invalid(failed))?;
    let context = Kubeconfig::read().ok().and_then(|kubeconfig| kubeconfig.current_context);
    let cluster = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(Error::kube(failed))?;
    screen.line(&format!("Context {}, cluster {cluster}", context.as_deref().unwrap_or("(none)")));
    screen.line(&format!("CA      {}", wishes.server));
    screen.line("");
    screen.line(
        "Waxwing runs as a process of this machine. The cluster's ingress controller can't reach it, so",
    );
    screen.line(
        "HTTP-01 passes only if your edge already leads /.well-known/acme-challenge/ to port 8089 here",
    );
    screen.line("(existingRoute). If it doesn't, the Certificate says so, and why.");
    screen.line("");

    custom_resources(&client, &mut screen).await?;
    for namespace in [OWN_NAMESPACE, NAME] {
        let mut object = Namespace::default();
        object.metadata.name = Some(namespace.to_owned());
        apply(&Api::all(client.clone()), &object).await?;
        screen.line(&format!("namespace/{namespace} applied"));
    }
    let mut waxwing = Waxwing::start()?;
    screen.line(&format!("waxwing run: started; log in {}", relative(&waxwing.log)));

    let issuers: Api<ClusterIssuer> = Api::all(client.clone());
    apply(&issuers, &wishes.issuer()).await?;
    screen.line(&format!("clusterissuer.waxwing.dev/{NAME} applied"));
    let conditions = |issuer: &ClusterIssuer| issuer.status.clone().unwrap_or_default().conditions;
    let outcome = watch(issuers, conditions, &mut waxwing, &mut screen).await;
    let outcome = match outcome {
        Ok(()) => {
            let certificates: Api<Certificate> = Api::namespaced(client, NAME);
            apply(&certificates, &wishes.certificate()).await?;
            screen.line(&format!("certificate.waxwing.dev/{NAME} applied for {}", wishes.name));
            let conditions =
                |certificate: &Certificate| certificate.status.clone().unwrap_or_default().conditions;
            watch(certificates, conditions, &mut waxwing, &mut screen).await
        }
        Err(error) => Err(error),
    };
    screen.line("");
    screen
        .line(&format!("Waxwing has ended with the demo. To look:  kubectl describe wcert,wciss -n {NAME}"));
    screen.line(&format!("To take away what it made:  kubectl delete wciss {NAME}; kubectl delete namespace {NAME} {OWN_NAMESPACE}"));
    screen.line("and the custom resources, with everything of their kinds:  kubectl delete -f crds/");
    outcome
}

impl Wishes {
    fn from_environment() -> Result<Self, Error> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let email = set("EMAIL");
        if let Some(server) = set("ACME_SERVER") {
            let Some(name) = set("DNS_NAME") else {
                return Err(Error::Invalid {
                    what: "DNS_NAME is not set".to_owned(),
                    why: "name the host that the certificate is for: \
                          make demo CLUSTER=current ACME_SERVER=… DNS_NAME=shop.example.com"
                        .to_owned(),
                });
            };
            return Ok(Self { server, email, name, skip_verification: false });
        }
        if std::net::TcpStream::connect_timeout(&PEBBLE, Duration::from_secs(1)).is_err() {
            return Err(Error::Invalid {
                what: "ACME_SERVER is not set, and no Pebble listens on localhost:14000".to_owned(),
                why: "name a CA's directory: make demo CLUSTER=current \
                      ACME_SERVER=https://acme-staging-v02.api.letsencrypt.org/directory \
                      EMAIL=you@example.com DNS_NAME=shop.example.com"
                    .to_owned(),
            });
        }
        Ok(Self {
            server: "https://localhost:14000/dir".to_owned(),
            email,
            name: set("DNS_NAME").unwrap_or_else(|| "shop.example.com".to_owned()),
            skip_verification: true,
        })
    }

    fn issuer(&self) -> ClusterIssuer {
        let http01 = Http01 { existing_route: Some(ExistingRoute::default()), ..Http01::default() };
        let acme = Acme {
            server: self.server.clone(),
            email: self.email.clone(),
            private_key_secret_ref: PrivateKeySecretRef {
                name: format!("{NAME}-account"),
                ..PrivateKeySecretRef::default()
            },
            skip_tls_verify: self.skip_verification.then_some(true),
            solvers: vec![AcmeSolver { http01: Some(http01), ..AcmeSolver::default() }],
            ..Acme::default()
        };
        ClusterIssuer::new(NAME, ClusterIssuerSpec { acme, ..ClusterIssuerSpec::default() })
    }

    fn certificate(&self) -> Certificate {
        let spec = CertificateSpec {
            secret_name: format!("{NAME}-tls"),
            dns_names: vec![self.name.clone()],
            issuer_ref: IssuerRef {
                name: NAME.to_owned(),
                kind: IssuerKind::ClusterIssuer,
                ..IssuerRef::default()
            },
            ..CertificateSpec::default()
        };
        let mut certificate = Certificate::new(NAME, spec);
        certificate.metadata = ObjectMeta { namespace: Some(NAME.to_owned()), ..certificate.metadata };
        certificate
    }
}

/// Waxwing as a child, which ends with the demo.
struct Waxwing {
    child: Child,
    log: PathBuf,
}

impl Waxwing {
    fn start() -> Result<Self, Error> {
        let logs = paths::named("current").join("logs");
        paths::create(&logs)?;
        let log = logs.join("waxwing.log");
        let failed = || "starting waxwing run";
        let output = std::fs::File::create(&log).map_err(Error::io(failed))?;
        let errors = output.try_clone().map_err(Error::io(failed))?;
        let mut command = Command::new(program()?);
        command.args(["run", "--log-format", "json"]);
        if env::var_os("WAXWING_ADMIN_LISTEN").is_none() {
            command.args(["--admin-listen", "127.0.0.1:9402"]);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
        Ok(Self { child: command.spawn().map_err(Error::io(failed))?, log })
    }

    fn check(&mut self) -> Result<(), Error> {
        let ended = self.child.try_wait().map_err(Error::io(|| "looking at waxwing run"))?;
        let Some(status) = ended else { return Ok(()) };
        let tail = paths::tail(&self.log, 10);
        Err(Error::Ended {
            part: "waxwing run".to_owned(),
            status: status.to_string(),
            log: self.log.clone(),
            tail,
        })
    }
}

async fn custom_resources(client: &Client, screen: &mut Screen) -> Result<(), Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in waxwing_api::crds() {
        apply(&api, &definition).await?;
        let name = definition.name_any();
        probe::until(&format!("CustomResourceDefinition {name}"), Duration::from_secs(30), || async {
            let found = api.get(&name).await.map_err(|error| error.to_string())?;
            let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
            let done = |condition: &_| {
                let k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionCondition { type_, status, .. } = condition;
                type_ == "Established" && status == "True"
            };
            if conditions.iter().any(done) { Ok(()) } else { Err("not established".to_owned()) }
        })
        .await?;
        screen.line(&format!("customresourcedefinition/{name} applied"));
    }
    Ok(())
}

async fn apply<K>(api: &Api<K>, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let name = object.name_any();
    let params = PatchParams::apply("waxwing-demo");
    let applied = api.patch(&name, &params, &Patch::Apply(object)).await;
    applied.map(|_| ()).map_err(Error::kube(|| format!("applying {} {name}", K::kind(&()))))
}

/// Shows the conditions of the object named [`NAME`] as they change, until Ready is True.
async fn watch<K>(
    api: Api<K>,
    conditions: impl Fn(&K) -> Vec<Condition>,
    waxwing: &mut Waxwing,
    screen: &mut Screen,
) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let started = Instant::now();
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let events = watcher(api, config).default_backoff().applied_objects();
    pin_mut!(events);
    let mut shown: Vec<String> = Vec::new();
    loop {
        waxwing.check()?;
        if started.elapsed() > PATIENCE {
            let last = shown.last().cloned().unwrap_or_else(|| "no condition yet".to_owned());
            let last = format!("{last}\n{}", log_tail::hint(&waxwing.log));
            return Err(Error::NotReady { what: format!("{} {NAME}", K::kind(&())), after: PATIENCE, last });
        }
        let Ok(event) = tokio::time::timeout(Duration::from_millis(200), events.next()).await else {
            screen.waiting(&format!("  {}  …", seconds(started.elapsed())));
            continue;
        };
        let Some(Ok(object)) = event else { continue };
        for condition in conditions(&object) {
            let Condition { type_, status, reason: why, message, .. } = &condition;
            let line = format!("{type_}={status}  {why}: {message}");
            if shown.contains(&line) {
                continue;
            }
            let ready = type_ == reason::READY && status == "True";
            let painted = if ready { screen.paint(Look::Good, &line) } else { line.clone() };
            screen.line(&format!("  {}  {painted}", seconds(started.elapsed())));
            shown.push(line);
            if ready {
                return Ok(());
            }
        }
    }
}
