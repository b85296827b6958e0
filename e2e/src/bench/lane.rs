//! What is measured: each lane by name, and how it is run.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use k8s_openapi::{
    ByteString,
    api::{core::v1::Secret, networking::v1::Ingress},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use waxwing_api::{
    Acme, AcmeSolver, ClusterIssuer, ClusterIssuerSpec, ExistingRoute, Http01, Http01Ingress, labels, reason,
};

use super::{
    Options, bad_names,
    certificates::{Certificates, Timed},
    engine,
    figures::{each, per_second, percentile},
    idle,
    report::{OperatorUse, Row},
};
use crate::{
    Error,
    lab::{Lab, Mark, OWN_NAMESPACE, Operator, OperatorOptions, Traefik, User},
    paths, probe,
    process::Usage,
};

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Lane {
    /// The engine alone, one certificate after the other: the floor
    Engine,
    /// One after the other, where the edge already leads to the responder
    ExistingRoute,
    /// One after the other, through Traefik with its defaults
    Traefik,
    /// The engine alone, all at once
    EngineBurst,
    /// All at once, where the edge already leads to the responder
    BurstExisting,
    /// All at once, through Traefik with its defaults
    Burst,
    /// Like existing-route, with a CA that says Retry-After: 3
    RetryAfter,
    /// A Waxwing that starts beside many issued certificates and very many Secrets of others, and has nothing to do
    Idle,
    /// A burst beside many names that never pass, and the same burst alone before
    BadNames,
}

/// Which CA a lane asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ca {
    /// Pebble, which sends no Retry-After.
    Pebble,
    /// Pebble, which sends Retry-After: 3.
    SlowPebble,
    /// step-ca, which stands load.
    StepCa,
    /// The fault CA, here without faults: like a public CA it knows an order that failed for invalid. step-ca leaves
    /// it pending, and is slower the more pending orders an account has.
    FaultCa,
}

/// One certificate may take this long, also when a CA says to wait.
const SINGLE: Duration = Duration::from_mins(1);
/// All of a burst may take this long.
pub(super) const BURST: Duration = Duration::from_mins(5);
/// Routes and orders are swept in this time.
const SWEPT: Duration = Duration::from_mins(2);
/// Writes have ended when there was none for this long.
const QUIET: Duration = Duration::from_secs(3);
/// Traefik's throttle has this period: certificates are created at moments spread over it.
const PHASE: Duration = Duration::from_secs(2);
/// Orders that the engine alone has under way at once in its burst; it has no Kubernetes to pace it.
const ENGINE_AT_ONCE: usize = 16;

impl Lane {
    /// All of them, in the order that they run.
    pub const ALL: [Self; 9] = [
        Self::Engine,
        Self::ExistingRoute,
        Self::Traefik,
        Self::EngineBurst,
        Self::BurstExisting,
        Self::Burst,
        Self::RetryAfter,
        Self::Idle,
        Self::BadNames,
    ];

    /// The CA that it asks.
    pub fn ca(self) -> Ca {
        match self {
            Self::Engine | Self::ExistingRoute | Self::Traefik => Ca::Pebble,
            Self::EngineBurst | Self::BurstExisting | Self::Burst | Self::Idle => Ca::StepCa,
            Self::RetryAfter => Ca::SlowPebble,
            Self::BadNames => Ca::FaultCa,
        }
    }

    /// One sentence.
    pub fn what(self) -> &'static str {
        match self {
            Self::Engine => "engine alone: no Kubernetes, no self-check, answers in the same process; Pebble",
            Self::ExistingRoute => {
                "create to Ready; an Ingress of Traefik already leads to the responder; Pebble"
            }
            Self::Traefik => "create to Ready; Traefik must learn a route for each host; Pebble",
            Self::EngineBurst => "engine alone, as above; step-ca",
            Self::BurstExisting => "all created at once; the edge already routes; step-ca",
            Self::Burst => "all created at once; Traefik must learn a route for each host; step-ca",
            Self::RetryAfter => "like existing-route, with a CA that says Retry-After: 3; Pebble",
            Self::Idle => {
                "200 issued certificates and 10,000 Secrets of 8 KiB of others: writes, CPU and memory are those of a \
                 Waxwing that was started then and had a minute of nothing to do; step-ca"
            }
            Self::BadNames => "like burst-existing, beside names that never pass; the fault CA",
        }
    }

    /// How many certificates it asks for.
    fn certificates(self, options: &Options) -> usize {
        match self {
            Self::Engine | Self::ExistingRoute | Self::Traefik | Self::RetryAfter => options.singles,
            Self::EngineBurst | Self::BurstExisting | Self::Burst | Self::BadNames => options.certificates,
            Self::Idle => idle::CERTIFICATES,
        }
    }

    /// Runs it in `lab`, whose CA is set as [`ca`](Self::ca) says.
    pub async fn run(self, lab: &Lab, options: &Options) -> Result<Vec<Row>, Error> {
        let directory = match self.ca() {
            Ca::Pebble | Ca::SlowPebble => lab.pebble()?.directory(),
            Ca::StepCa => lab.step_ca()?.directory(),
            // It runs as long as the lane does.
            Ca::FaultCa => return bad_names::measure(lab, options).await,
        };
        self.one_row(lab, &directory, options).await.map(|row| vec![row])
    }

    async fn one_row(self, lab: &Lab, directory: &str, options: &Options) -> Result<Row, Error> {
        let count = self.certificates(options);
        let names: Vec<String> = (1..=count).map(|number| format!("c{number}.{self}.example.test")).collect();
        let (at_once, timed, operator) = match self {
            Self::Engine => (1, engine::issue(lab, directory, &names, 1).await?, None),
            Self::EngineBurst => {
                (ENGINE_AT_ONCE, engine::issue(lab, directory, &names, ENGINE_AT_ONCE).await?, None)
            }
            _ => {
                let at_once =
                    if matches!(self, Self::Burst | Self::BurstExisting | Self::Idle) { count } else { 1 };
                let (timed, used) = self.with_operator(lab, directory, &names).await?;
                (at_once, timed, Some(used))
            }
        };
        Ok(Row {
            lane: self.to_string(),
            what: self.what().to_owned(),
            certificates: count,
            at_once,
            ready: timed.times.len(),
            per_second: per_second(timed.times.len(), timed.span),
            p50_seconds: percentile(&timed.times, 50).as_secs_f64(),
            p99_seconds: percentile(&timed.times, 99).as_secs_f64(),
            operator,
            failures: timed.failures,
        })
    }

    async fn with_operator(
        self,
        lab: &Lab,
        directory: &str,
        names: &[String],
    ) -> Result<(Timed, OperatorUse), Error> {
        let operator = lab.operator(OperatorOptions {
            name: format!("waxwing-{self}"),
            program: program(),
            ..OperatorOptions::default()
        })?;
        let route = match self {
            Self::Traefik | Self::Burst => None,
            _ => Some(Route::open(lab).await?),
        };
        let issuer = self.to_string();
        ready_issuer(lab, &operator, &issuer, directory, route.is_some()).await?;
        let namespace = lab.namespace("bench").await?;
        let certificates = Certificates::new(lab.client(User::Admin)?, &namespace, &issuer);

        settled(lab, &operator).await?;
        let mark = lab.audit().mark()?;
        let before = usage(&operator)?;
        let timed = match self {
            Self::Burst | Self::BurstExisting | Self::Idle => certificates.all_at_once(names, BURST).await?,
            Self::Traefik => {
                let count = names.len().max(1);
                let pause = |number: usize| {
                    PHASE.mul_f64(each(
                        f64::from(u32::try_from(number * 7 % count).unwrap_or_default()),
                        count,
                    ))
                };
                certificates.one_at_a_time(names, pause, SINGLE).await?
            }
            _ => certificates.one_at_a_time(names, |_| Duration::ZERO, SINGLE).await?,
        };
        swept(lab).await?;
        settled(lab, &operator).await?;
        if self == Self::Idle {
            let used = Box::pin(idle(lab, operator)).await?;
            return Ok((timed, used));
        }
        let after = usage(&operator)?;
        let writes = lab.audit().count(User::Waxwing, mark)?;
        drop(certificates);
        operator.stop().await;
        if let Some(route) = route {
            route.close(lab).await?;
        }
        Ok((timed, operator_use(writes, after.cpu.saturating_sub(before.cpu), after, names.len())))
    }
}

/// Fills the cluster with Secrets of others, starts Waxwing anew, and looks at it after a while of nothing to do.
async fn idle(lab: &Lab, operator: Operator) -> Result<OperatorUse, Error> {
    operator.stop().await;
    let unrelated = idle::Unrelated::fill(lab).await?;
    let mark = lab.audit().mark()?;
    operator.start_again()?;
    tokio::time::sleep(idle::REST).await;
    let after = usage(&operator)?;
    let writes = lab.audit().count(User::Waxwing, mark)?;
    operator.stop().await;
    unrelated.clear().await?;
    Ok(operator_use(writes, after.cpu, after, idle::CERTIFICATES))
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Engine => "engine",
            Self::ExistingRoute => "existing-route",
            Self::Traefik => "traefik",
            Self::EngineBurst => "engine-burst",
            Self::BurstExisting => "burst-existing",
            Self::Burst => "burst",
            Self::RetryAfter => "retry-after",
            Self::Idle => "idle",
            Self::BadNames => "bad-names",
        })
    }
}

/// `WAXWING` in the environment, else the optimized build.
pub(super) fn program() -> PathBuf {
    std::env::var_os("WAXWING").map_or_else(|| paths::target().join("release/waxwing"), PathBuf::from)
}

pub(super) fn usage(operator: &Operator) -> Result<Usage, Error> {
    operator.process().check()?;
    let gone = || Error::Invalid { what: "Waxwing".to_owned(), why: "its process is gone".to_owned() };
    operator.process().usage().ok_or_else(gone)
}

#[allow(clippy::cast_precision_loss, reason = "bytes of a process are far from 2^52")]
pub(super) fn operator_use(
    writes: BTreeMap<String, usize>,
    cpu: Duration,
    after: Usage,
    certificates: usize,
) -> OperatorUse {
    let mib = |bytes: u64| bytes as f64 / f64::from(1_u32 << 20);
    let all = |of: &dyn Fn(&str) -> bool| {
        let sum: usize = writes.iter().filter(|(write, _)| of(write)).map(|(_, count)| count).sum();
        each(f64::from(u32::try_from(sum).unwrap_or(u32::MAX)), certificates)
    };
    OperatorUse {
        writes_each: all(&|write| !is_of_time(write)),
        events_each: all(&|write| write.ends_with(" events")),
        cpu_seconds_each: each(cpu.as_secs_f64(), certificates),
        peak_resident_mib: mib(after.peak_resident),
        resident_mib: mib(after.resident),
        writes,
    }
}

/// Whether a write comes with time, however many certificates there are: the renewals of the leader's lease.
fn is_of_time(write: &str) -> bool {
    write.ends_with(" leases")
}

/// Makes the `ClusterIssuer` of a lane and waits until its account is registered.
pub(super) async fn ready_issuer(
    lab: &Lab,
    operator: &Operator,
    name: &str,
    directory: &str,
    existing_route: bool,
) -> Result<(), Error> {
    let http01 = if existing_route {
        Http01 { existing_route: Some(ExistingRoute::default()), ..Http01::default() }
    } else {
        let ingress =
            Http01Ingress { ingress_class_name: Some(Traefik::CLASS.to_owned()), ..Http01Ingress::default() };
        Http01 { ingress: Some(ingress), ..Http01::default() }
    };
    let acme = Acme {
        server: directory.to_owned(),
        private_key_secret_ref: waxwing_api::PrivateKeySecretRef {
            name: format!("account-{name}"),
            ..Default::default()
        },
        ca_bundle: Some(ByteString(lab.authority().pem().as_bytes().to_vec())),
        solvers: vec![AcmeSolver { http01: Some(http01), ..AcmeSolver::default() }],
        ..Acme::default()
    };
    let issuer = ClusterIssuer::new(name, ClusterIssuerSpec { acme, ..ClusterIssuerSpec::default() });
    let api: Api<ClusterIssuer> = Api::all(lab.client(User::Admin)?);
    let created = api.create(&PostParams::default(), &issuer).await;
    created.map_err(Error::kube(|| format!("creating ClusterIssuer {name}")))?;
    probe::ready(operator.process(), Duration::from_secs(30), || async {
        let issuer = api.get(name).await.map_err(|error| error.to_string())?;
        let conditions = issuer.status.map(|status| status.conditions).unwrap_or_default();
        match conditions.into_iter().find(|condition| condition.type_ == reason::READY) {
            Some(ready) if ready.status == "True" => Ok(()),
            Some(ready) => Err(format!("ClusterIssuer {name}: {}", ready.message)),
            None => Err(format!("ClusterIssuer {name} has no condition yet")),
        }
    })
    .await
}

/// Waits until no route and no order is left.
async fn swept(lab: &Lab) -> Result<(), Error> {
    let client = lab.client(User::Admin)?;
    let component =
        |component: &str| ListParams::default().labels(&format!("{}={component}", labels::COMPONENT));
    let routes: Api<Ingress> = Api::namespaced(client.clone(), OWN_NAMESPACE);
    let orders: Api<Secret> = Api::namespaced(client, OWN_NAMESPACE);
    probe::until("Waxwing's own clearing up", SWEPT, || async {
        let left =
            routes.list(&component(labels::COMPONENT_ROUTE)).await.map_err(|error| error.to_string())?;
        let open =
            orders.list(&component(labels::COMPONENT_ORDER)).await.map_err(|error| error.to_string())?;
        match (left.items.len(), open.items.len()) {
            (0, 0) => Ok(()),
            (routes, orders) => Err(format!("{routes} routes and {orders} orders are left")),
        }
    })
    .await
}

/// Waits until Waxwing has written nothing for a while.
pub(super) async fn settled(lab: &Lab, operator: &Operator) -> Result<(), Error> {
    let count = || {
        let writes = lab.audit().count(User::Waxwing, Mark::default())?;
        Ok::<usize, Error>(
            writes.iter().filter(|(write, _)| !is_of_time(write)).map(|(_, count)| count).sum(),
        )
    };
    let mut last = (count()?, Instant::now());
    let deadline = Instant::now() + SWEPT;
    while last.1.elapsed() < QUIET {
        operator.process().check()?;
        if Instant::now() > deadline {
            let last = format!("{} writes", last.0);
            return Err(Error::NotReady { what: "Waxwing's last write".to_owned(), after: SWEPT, last });
        }
        tokio::time::sleep(QUIET / 10).await;
        let now = count()?;
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(())
}

/// An Ingress without a host that leads all challenges to the responder: an edge that already routes.
pub(super) struct Route;

impl Route {
    const NAME: &str = "bench-existing-route";

    pub(super) async fn open(lab: &Lab) -> Result<Self, Error> {
        let name = Self::NAME;
        let class = Traefik::CLASS;
        let yaml = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec:\n  \
             ingressClassName: {class}\n  rules:\n  - http: {{paths: [{{path: /.well-known/acme-challenge/, \
             pathType: Prefix, backend: {{service: {{name: waxwing, port: {{name: responder}}}}}}}}]}}\n"
        );
        lab.apply(OWN_NAMESPACE, &yaml).await?;
        let http = lab.http().await?;
        probe::until("the route to the responder", Duration::from_secs(30), || async {
            let answer = http.get("http://edge.example.test/.well-known/acme-challenge/x").await;
            let answer = answer.map_err(|error| error.to_string())?;
            // Traefik's own 404 has other words.
            if answer.body.contains("ACME") { Ok(()) } else { Err(format!("{}", answer.status)) }
        })
        .await?;
        Ok(Self)
    }

    pub(super) async fn close(self, lab: &Lab) -> Result<(), Error> {
        let api: Api<Ingress> = Api::namespaced(lab.client(User::Admin)?, OWN_NAMESPACE);
        let deleted = api.delete(Self::NAME, &DeleteParams::default()).await;
        deleted.map(|_| ()).map_err(Error::kube(|| "deleting the route to the responder"))
    }
}
