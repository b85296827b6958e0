//! `routePolicy: Permanent`: routes that stay, and a look at each now and then, so that a path that has broken is known
//! weeks before the renewal that needs it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use waxwing_acme::{ChallengeType, Evidence, Identifier};
use waxwing_api::{AcmeSolver, Certificate, IssuerKind, RoutePolicy, reason};

use super::{
    controllers::{self, Controller, Mode},
    ingress::{class, routes},
};
use crate::{
    runtime::{
        events::{EventKind, Events, reference},
        metrics::Metrics,
        watch::Watches,
    },
    solver::{SolverContext, choose, responder},
};

/// How long changes are gathered before all is looked at again.
const GATHER: Duration = Duration::from_millis(500);
/// Looks at once.
const AT_ONCE: usize = 4;

/// The routes that are kept. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Kept {
    index: Arc<RwLock<Arc<Index>>>,
    version: watch::Sender<u64>,
}

/// A route's class and host.
type Key = (Option<String>, String);
/// Who keeps which route.
type Index = BTreeMap<Key, Keeper>;

/// Why a route is kept.
#[derive(Clone, Debug, PartialEq)]
struct Keeper {
    controller: &'static Controller,
    /// The Certificates with this name that have been issued.
    issued: Vec<ObjectReference>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { index: Arc::default(), version: watch::Sender::new(0) }
    }
}

impl Kept {
    /// The routes that the caches want to be kept.
    pub fn of(watches: &Watches) -> Self {
        let kept = Self::default();
        kept.set(index(watches));
        kept
    }

    /// True if the route of this name, for this class and host, is to stay.
    pub fn holds(&self, name: &str, class: Option<&str>, host: &str) -> bool {
        let index = self.read();
        if index.contains_key(&(class.map(str::to_owned), host.to_owned())) {
            return true;
        }
        // Its class was left to the cluster, which has filled it in; the name is still that of one without.
        index.get(&(None, host.to_owned())).is_some_and(|keeper| {
            routes(keeper.controller, None, true, host, None).iter().any(|route| route.name() == name)
        })
    }

    /// Tells of each change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Follows the caches, for ever.
    pub async fn follow(&self, watches: &Watches) {
        let mut changes = stream::select_all([
            watches.certificates.changes().map(|_| ()).boxed(),
            watches.issuers.changes().map(|_| ()).boxed(),
            watches.cluster_issuers.changes().map(|_| ()).boxed(),
            watches.ingress_classes.changes().map(|_| ()).boxed(),
        ])
        .ready_chunks(1024);
        while changes.next().await.is_some() {
            sleep(GATHER).await;
            self.set(index(watches));
        }
    }

    fn read(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, index: Index) {
        if *self.read() != index {
            *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
            self.version.send_modify(|version| *version = version.wrapping_add(1));
        }
    }
}

/// What looks at kept routes stands on.
#[derive(Clone)]
pub struct Watcher {
    /// Which routes there are.
    pub kept: Kept,
    /// Where solvers have theirs.
    pub solvers: Arc<SolverContext>,
    /// Where a broken path is told.
    pub events: Events,
    /// And counted.
    pub metrics: Arc<Metrics>,
    /// How often each is looked at.
    pub interval: Duration,
}

impl Watcher {
    /// Looks at every kept route each interval, until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        let watching = async {
            let mut looks: HashMap<Key, Look> = HashMap::new();
            let mut changed = self.kept.changed();
            loop {
                let index = self.kept.read();
                let now = Instant::now();
                looks.retain(|key, _| index.contains_key(key));
                self.tell(&index, &looks);
                let (due, next) = self.due(&index, &mut looks, now);
                let seen: Vec<_> = stream::iter(due)
                    .map(|(key, keeper)| async move {
                        let seen = self.look(&key, &keeper).await;
                        (key, keeper, seen)
                    })
                    .buffer_unordered(AT_ONCE)
                    .collect()
                    .await;
                let looked = !seen.is_empty();
                for (key, keeper, seen) in seen {
                    let Some(look) = looks.get_mut(&key) else { continue };
                    look.note(&seen, self.interval, Instant::now());
                    if let Seen::Broken { evidence, .. } = &seen
                        && look.broken()
                    {
                        self.warn(&key.1, &keeper, evidence).await;
                    }
                }
                if looked {
                    continue;
                }
                let pause = async {
                    match next {
                        Some(next) => sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = pause => {}
                    changed = changed.changed() => if changed.is_err() { return },
                }
            }
        };
        tokio::select! {
            () = watching => {}
            () = stop.cancelled() => {}
        }
    }

    fn due(
        &self,
        index: &Index,
        looks: &mut HashMap<Key, Look>,
        now: Instant,
    ) -> (Vec<(Key, Keeper)>, Option<Instant>) {
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (key, keeper) in index {
            // Before the first issuance the edge may know nothing of it.
            if keeper.issued.is_empty() {
                continue;
            }
            let look = looks.entry(key.clone()).or_insert_with(|| Look::first(now, self.interval));
            if look.next <= now {
                due.push((key.clone(), keeper.clone()));
            } else {
                next = Some(next.map_or(look.next, |next| next.min(look.next)));
            }
        }
        (due, next)
    }

    async fn look(&self, (class, host): &Key, keeper: &Keeper) -> Seen {
        let redirecting = self.solvers.redirecting.contains(class.as_ref());
        let routes = routes(keeper.controller, class.as_ref(), redirecting, host, None);
        // One that somebody has deleted comes back.
        for route in &routes {
            if let Err(error) = self.solvers.routes.ensure(route).await {
                tracing::warn!(%error, host, "a permanent route is missing");
                return Seen::Nothing;
            }
        }
        let token = responder::probe_token();
        let evidence = self.solvers.self_check.http01(host, &token, &responder::probe_answer(&token)).await;
        let led_here = routes.first().is_some_and(|route| self.solvers.routes.has_led_here(route));
        if !evidence.passed {
            return Seen::Broken { evidence: words(&evidence, &token), led_here };
        }
        if let (false, Some(route)) = (led_here, routes.first())
            && let Err(error) = self.solvers.routes.note_that_it_leads_here(route).await
        {
            tracing::debug!(%error, host, "not noted that the route leads here");
        }
        Seen::Fine
    }

    async fn warn(&self, host: &str, keeper: &Keeper, evidence: &str) {
        tracing::warn!(host, evidence, "the permanent path for challenges doesn't lead here any more");
        let note = format!(
            "The permanent path for challenges of {host} led to Waxwing and doesn't any more: {evidence}. The next \
             renewal will fail: repair the name's address, the edge or its redirects."
        );
        for certificate in &keeper.issued {
            self.events.publish(certificate, EventKind::Warning, reason::ROUTE_BROKEN, &note).await;
        }
    }

    /// Tells the metric, for each Certificate that keeps a route, whether one of its routes is broken.
    fn tell(&self, index: &Index, looks: &HashMap<Key, Look>) {
        let mut broken: BTreeMap<(&str, &str), bool> = BTreeMap::new();
        for (key, keeper) in index {
            let is_broken = looks.get(key).is_some_and(Look::broken);
            for certificate in &keeper.issued {
                let namespace = certificate.namespace.as_deref().unwrap_or_default();
                let name = certificate.name.as_deref().unwrap_or_default();
                *broken.entry((namespace, name)).or_default() |= is_broken;
            }
        }
        self.metrics.permanent_routes(broken.into_iter());
    }
}

/// What a look saw.
#[derive(Debug)]
enum Seen {
    Fine,
    /// Not the answer. Whether there had been one before.
    Broken {
        evidence: String,
        led_here: bool,
    },
    /// It couldn't be looked at.
    Nothing,
}

/// What is known of one route.
#[derive(Debug)]
struct Look {
    next: Instant,
    /// Looks in a row that saw no answer, of one that had answered before.
    failures: u32,
}

impl Look {
    /// Soon, so that it is known whether the path can be seen from here at all.
    fn first(now: Instant, interval: Duration) -> Self {
        Self { next: now + jittered(interval / SOON), failures: 0 }
    }

    /// Twice in a row, so that an edge that restarts is none.
    fn broken(&self) -> bool {
        self.failures >= 2
    }

    fn note(&mut self, seen: &Seen, interval: Duration, now: Instant) {
        let pause = match seen {
            Seen::Fine => {
                self.failures = 0;
                interval
            }
            Seen::Broken { led_here: true, .. } => {
                self.failures = self.failures.saturating_add(1);
                if self.failures > 2 { interval / LATER } else { interval / SOON }
            }
            // Hairpin: this cluster can't see its own edge, and never could.
            Seen::Broken { led_here: false, .. } => interval,
            Seen::Nothing => interval / SOON,
        };
        self.next = now + jittered(pause);
    }
}

/// The part of the interval after which a first look, or a second one, follows.
const SOON: u32 = 36;
/// The same while it is broken.
const LATER: u32 = 6;

/// Give or take a tenth.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.9..=1.1))
}

/// What was seen, without the token: equal Events are joined.
fn words(evidence: &Evidence, token: &str) -> String {
    evidence.to_string().replace(token, "…")
}

fn index(watches: &Watches) -> Index {
    let classes = watches.ingress_classes.store().state();
    let mut index = Index::new();
    for certificate in watches.certificates.store().state() {
        let Some(solvers) = solvers(watches, &certificate) else { continue };
        // Most issuers have none.
        if !solvers.iter().any(is_permanent) {
            continue;
        }
        for name in &certificate.spec.dns_names {
            let Ok(identifier) = name.parse::<Identifier>() else { continue };
            let wildcard = identifier.is_wildcard();
            let offered = [ChallengeType::Http01];
            let chosen = choose::choose(&solvers, certificate.labels(), &identifier, wildcard, &offered);
            let Some(ingress) = chosen
                .ok()
                .filter(|solver| is_permanent(solver))
                .and_then(|solver| solver.http01.as_ref()?.ingress.as_ref())
            else {
                continue;
            };
            let class = class(&classes, ingress.ingress_class_name.as_deref());
            let controller = controllers::of(class.controller.as_deref());
            if controller.mode != Mode::Operator && ingress.responder.is_none() {
                continue;
            }
            let keeper = index
                .entry((class.name, name.clone()))
                .or_insert_with(|| Keeper { controller, issued: Vec::new() });
            if certificate.status.as_ref().is_some_and(|status| status.not_after.is_some()) {
                keeper.issued.push(ObjectReference { resource_version: None, ..reference(&*certificate) });
            }
        }
    }
    for keeper in index.values_mut() {
        keeper.issued.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    }
    index
}

fn is_permanent(solver: &AcmeSolver) -> bool {
    let ingress = solver.http01.as_ref().and_then(|http01| http01.ingress.as_ref());
    ingress.is_some_and(|ingress| ingress.route_policy == RoutePolicy::Permanent)
}

/// The solvers of a Certificate's issuer.
fn solvers(watches: &Watches, certificate: &Certificate) -> Option<Vec<AcmeSolver>> {
    let reference = &certificate.spec.issuer_ref;
    match reference.kind {
        IssuerKind::Issuer => {
            let namespace = certificate.namespace();
            let issuer = watches.issuers.get(namespace.as_deref(), &reference.name)?;
            Some(issuer.spec.acme.solvers.clone())
        }
        IssuerKind::ClusterIssuer => {
            let issuer = watches.cluster_issuers.get(None, &reference.name)?;
            Some(issuer.spec.acme.solvers.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const INTERVAL: Duration = Duration::from_hours(6);

    fn about(pause: Duration, wanted: Duration) -> bool {
        pause >= wanted.mul_f64(0.89) && pause <= wanted.mul_f64(1.11)
    }

    #[test]
    fn a_route_whose_class_the_cluster_fills_in_stays() {
        let kept = Kept::default();
        let keeper = || Keeper { controller: controllers::of(None), issued: Vec::new() };
        let key = |class: Option<&str>, host: &str| (class.map(str::to_owned), host.to_owned());
        kept.set([(key(None, "a.example"), keeper()), (key(Some("web"), "b.example"), keeper())].into());
        let name = |class: Option<&str>, host| {
            let class = class.map(str::to_owned);
            routes(controllers::of(None), class.as_ref(), false, host, None)[0].name()
        };
        let left = name(None, "a.example");
        assert!(kept.holds(&left, None, "a.example"));
        assert!(kept.holds(&left, Some("traefik"), "a.example"));
        // What was made while the issuer named another class isn't that route.
        assert!(!kept.holds(&name(Some("nginx"), "a.example"), Some("nginx"), "a.example"));
        let named = name(Some("web"), "b.example");
        assert!(kept.holds(&named, Some("web"), "b.example"));
        assert!(!kept.holds(&name(None, "b.example"), Some("traefik"), "b.example"));
        assert!(!kept.holds(&left, Some("traefik"), "c.example"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_that_led_here_is_broken_after_two_looks() {
        let now = Instant::now();
        let mut look = Look::first(now, INTERVAL);
        assert!(about(look.next - now, INTERVAL / SOON));
        let broken = |led_here| Seen::Broken { evidence: String::new(), led_here };
        look.note(&Seen::Fine, INTERVAL, now);
        assert!(about(look.next - now, INTERVAL));
        look.note(&broken(true), INTERVAL, now);
        assert!(!look.broken() && about(look.next - now, INTERVAL / SOON));
        look.note(&broken(true), INTERVAL, now);
        assert!(look.broken());
        look.note(&broken(true), INTERVAL, now);
        assert!(look.broken() && about(look.next - now, INTERVAL / LATER));
        look.note(&Seen::Fine, INTERVAL, now);
        assert!(!look.broken());
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_that_was_never_seen_from_here_is_not_broken() {
        let now = Instant::now();
        let mut look = Look::first(now, INTERVAL);
        for _ in 0..5 {
            look.note(&Seen::Broken { evidence: String::new(), led_here: false }, INTERVAL, now);
            assert!(!look.broken());
        }
    }

    #[test]
    fn words_hold_no_token() {
        let token = responder::probe_token();
        let evidence = Evidence {
            host: "shop.example.com".to_owned(),
            observations: vec![waxwing_acme::Observation {
                address: None,
                url: waxwing_acme::challenge_url("shop.example.com", &token),
                outcome: waxwing_acme::Outcome::Status(404),
            }],
            ..Evidence::default()
        };
        assert_eq!(
            words(&evidence, &token),
            "GET http://shop.example.com/.well-known/acme-challenge/…: status 404"
        );
    }
}
