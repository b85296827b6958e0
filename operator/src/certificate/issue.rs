//! The one line: everything that is done for a Certificate, from top to bottom.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use thiserror::Error;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use waxwing_acme::{
    Actor, Class, Journal, ObtainError, ObtainErrorKind, Progress, Request, Retry, Step, backoff, diagnose,
    obtain,
};
use waxwing_api::{Certificate, labels, reason};

use super::FIELD_MANAGER;
use super::admit::{self, Claims, Facts, Refusal};
use super::decide::{self, Decision, Fault};
use super::host_gate::HostGate;
use super::key_encoding;
use super::order_secret::OrderSecret;
use super::reporter::Reporter;
use super::status::{self, Failure, Held, Outcome, sentence};
use super::target_secret::{self, Ours, Pair, Stored};
use super::wanted::{Wanted, WantedError};
use crate::issuer::{IssuerKey, Lookup, ReadyIssuer, Registry};
use crate::runtime::client::CallError;
use crate::runtime::events::Events;
use crate::runtime::metrics::Metrics;
use crate::runtime::watch::Watches;
use crate::solver::{SolverContext, solvers_for};

/// What everything here works with.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Waxwing's own namespace: where order Secrets are.
    pub own_namespace: String,
    /// The caches.
    pub watches: Watches,
    /// The issuers.
    pub issuers: Registry,
    /// What solvers need.
    pub solvers: Arc<SolverContext>,
    /// Where Events go.
    pub events: Events,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// One account at a time for each host.
    pub hosts: HostGate,
}

/// When to look at the Certificate again if nothing happens until then, and what has been seen of it.
#[derive(Clone, Debug)]
pub struct Rest {
    /// The time of the next look.
    pub wake: Timestamp,
    /// The resourceVersion that was written last, so that one's own write isn't news.
    pub version: Option<String>,
}

/// What stops the line without being the issuance's failure: the API server didn't do its part.
/// Whoever called looks again soon.
#[derive(Debug, Error)]
pub enum Interrupted {
    /// A call brought no answer of use.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The engine stopped for what says nothing about the Certificate: a call to the API server that failed, an
    /// account that must be registered again.
    #[error(transparent)]
    Obtain(#[from] ObtainError),
}

/// Does what a Certificate needs now.
pub async fn issue(context: &Context, certificate: Arc<Certificate>) -> Result<Rest, Interrupted> {
    let now = Timestamp::now();
    let line = Line::new(context, certificate);

    // decide
    let wanted = match Wanted::of(&line.certificate) {
        Ok(wanted) => wanted,
        Err(error) => return line.unusable_spec(&error, now).await,
    };
    let stored = target_secret::read(&line.secrets, &wanted.secret_name, &line.name).await?;
    let failures = status::failures(&line.certificate);
    let journal = OrderSecret::of(&context.client, &context.own_namespace, &line.certificate, failures.count);
    let open = if line.has_order() { journal.open().await? } else { None };
    match decide::decide(&wanted, &stored, open, failures, line.seed, now) {
        Decision::Keep { renew_at } => return line.keep(&wanted, &stored, &journal, renew_at, now).await,
        Decision::Wait { until, .. } => return line.wait(&wanted, &stored, until, now).await,
        Decision::Issue(reason) | Decision::Resume(reason) => tracing::info!(%reason, "a certificate is due"),
    }

    // admit
    let lookup = line.issuer(&wanted.issuer).await;
    let issuer = match line.admit(&wanted, &stored, &lookup) {
        Ok(issuer) => issuer,
        Err(refusal) => return line.refuse(&wanted, &stored, &journal, refusal, now).await,
    };
    let passage = context.hosts.enter(&wanted.names, issuer.account.thumbprint()).await;
    if passage.waited {
        // The world may have changed in the meantime.
        return Ok(line.rest_until(now));
    }

    // order, authorize, finalize
    let issued = match line.obtain(&wanted, &stored, &issuer, &journal).await {
        Ok(issued) => issued,
        Err(error) => return line.fail(&wanted, &stored, &issuer, &journal, error).await,
    };

    // store
    let private_key_pem = key_encoding::encode(&issued.private_key_pem, wanted.key, wanted.encoding)
        .unwrap_or_else(|_| issued.private_key_pem.clone());
    let pair = Pair { chain_pem: issued.chain_pem, private_key_pem };
    let based_on = match &stored {
        Stored::Ours(ours) => Some(&**ours),
        Stored::Absent | Stored::Unusable { .. } => None,
    };
    if let Err(error) =
        target_secret::write(&line.secrets, &wanted.secret_name, based_on, Some(&pair), &wanted.wrapping)
            .await
    {
        return line.store_failed(&wanted, &stored, &issuer, error).await;
    }
    tracing::info!(secret = wanted.secret_name, order = issued.order_url, "stored");

    // report
    let renew_at = decide::renewal(&wanted, &issued.leaf, line.seed);
    let held = Held {
        leaf: Some(&issued.leaf),
        issued_by: Some(&wanted.issued_by),
        renew_at: Some(renew_at),
        fault: None,
    };
    let outcome = Outcome::Issued { order_url: issued.order_url };
    context.metrics.issuance(reason::ISSUED);
    let (reported, cleared) =
        tokio::join!(line.reporter.report(&held, &outcome, Timestamp::now()), journal.clear());
    if let Err(error) = cleared {
        // The next look at this Certificate finds it kept and the order left over.
        tracing::warn!(%error, "the order Secret is left for later");
    }
    Ok(Rest { wake: renew_at, version: reported? })
}

/// How soon what no watch tells is looked at again.
const BACKSTOP: Duration = Duration::from_mins(5);
/// The same for a target Secret that isn't Waxwing's and so isn't watched.
const FOREIGN_SECRET: Duration = Duration::from_secs(30);
/// How long a step lasts before it is worth a write.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// One look at one Certificate.
struct Line<'a> {
    context: &'a Context,
    certificate: Arc<Certificate>,
    namespace: String,
    name: String,
    secrets: Api<Secret>,
    reporter: Reporter,
    /// Stable for this Certificate: spreads renewals and back-off.
    seed: u64,
}

impl<'a> Line<'a> {
    fn new(context: &'a Context, certificate: Arc<Certificate>) -> Self {
        let namespace = certificate.namespace().unwrap_or_default();
        Self {
            secrets: Api::namespaced(context.client.clone(), &namespace),
            reporter: Reporter::new(
                &context.client,
                context.events.clone(),
                Arc::clone(&context.metrics),
                Arc::clone(&certificate),
            ),
            name: certificate.name_any(),
            seed: seed(certificate.metadata.uid.as_deref().unwrap_or_default()),
            namespace,
            certificate,
            context,
        }
    }

    /// Whether the cache knows of an open order. Right before newOrder the API server is asked.
    fn has_order(&self) -> bool {
        let uid = self.certificate.metadata.uid.as_deref().unwrap_or_default();
        let name = labels::order_secret_name(uid);
        self.context.watches.order_secrets.get(Some(&self.context.own_namespace), &name).is_some()
    }

    /// The stored pair is what is wanted: labels and annotations follow the spec, a left-over order goes.
    async fn keep(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        renew_at: Timestamp,
        now: Timestamp,
    ) -> Result<Rest, Interrupted> {
        if let Stored::Ours(ours) = stored
            && !ours.wrapped_as(&wanted.wrapping)
        {
            target_secret::write(&self.secrets, &wanted.secret_name, Some(ours), None, &wanted.wrapping)
                .await?;
        }
        if let Err(error) = journal.clear().await {
            tracing::warn!(%error, "the order Secret is left for later");
        }
        let version = self.reporter.report(&self.held(wanted, stored, now), &Outcome::Kept, now).await?;
        Ok(Rest { wake: renew_at, version })
    }

    /// The next attempt isn't due: the Ready condition may still have changed.
    async fn wait(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Rest, Interrupted> {
        let version = self.reporter.report(&self.held(wanted, stored, now), &Outcome::Waiting, now).await?;
        Ok(Rest { wake: until, version })
    }

    async fn refuse(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        refusal: Refusal,
        now: Timestamp,
    ) -> Result<Rest, Interrupted> {
        tracing::info!(reason = refusal.reason, because = refusal.message, "no certificate may be ordered");
        // An order that may not go on must not answer for its hosts any longer; an issuer's outage is no such no.
        if !matches!(refusal.reason, reason::ISSUER_NOT_READY | reason::ISSUER_NOT_FOUND)
            && let Err(error) = journal.clear().await
        {
            tracing::warn!(%error, "the order Secret is left for later");
        }
        let pause = match refusal.reason {
            reason::SECRET_NOT_OWNED | reason::SECRET_UNUSABLE => FOREIGN_SECRET,
            _ => BACKSTOP,
        };
        self.context.metrics.issuance(refusal.reason);
        let version =
            self.reporter.report(&self.held(wanted, stored, now), &Outcome::Refused(refusal), now).await?;
        Ok(Rest { wake: later(now, pause), version })
    }

    async fn unusable_spec(&self, error: &WantedError, now: Timestamp) -> Result<Rest, Interrupted> {
        let fault = Fault::DoesNotExist;
        let held = Held { leaf: None, issued_by: None, renew_at: None, fault: Some(fault) };
        let refusal = Refusal { reason: reason::INVALID_SPEC, message: error.to_string() };
        let version = self.reporter.report(&held, &Outcome::Refused(refusal), now).await?;
        Ok(Rest { wake: later(now, BACKSTOP), version })
    }

    /// What is known of the issuer, after giving one that was applied with the Certificate the time to get ready.
    async fn issuer(&self, key: &IssuerKey) -> Lookup {
        let mut changes = self.context.issuers.changes();
        let ready = async {
            loop {
                let lookup = self.context.issuers.lookup(key);
                if matches!(lookup, Lookup::Ready(_)) || changes.recv().await == Err(RecvError::Closed) {
                    return lookup;
                }
            }
        };
        tokio::time::timeout(WORTH_TELLING, ready).await.unwrap_or_else(|_| self.context.issuers.lookup(key))
    }

    fn admit(&self, wanted: &Wanted, stored: &Stored, issuer: &Lookup) -> Result<Arc<ReadyIssuer>, Refusal> {
        let watches = &self.context.watches;
        let ingresses = watches.ingresses.store().state();
        let claims: Claims = admit::claims(ingresses.iter().map(|ingress| &**ingress), &wanted.names);
        let certificates = watches.certificates.store().state();
        let rivals = certificates.iter().map(|certificate| &**certificate).filter(|other| {
            other.namespace().as_deref() == Some(&self.namespace)
                && other.spec.secret_name == wanted.secret_name
                && other.metadata.deletion_timestamp.is_none()
        });
        let first = admit::first_of(rivals.chain([&*self.certificate])).map(ResourceExt::name_any);
        let namespace = watches.namespaces.get(None, &self.namespace);
        let namespace_labels = namespace.map(|namespace| namespace.labels().clone()).unwrap_or_default();
        let facts = Facts {
            namespace: &self.namespace,
            namespace_labels: &namespace_labels,
            issuer,
            claims: &claims,
            secret_taken_by: first.as_deref().filter(|first| *first != self.name),
            stored,
        };
        admit::admit(wanted, &facts)
    }

    /// The engine's part. A step that lasts is told in the status, once.
    async fn obtain(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        issuer: &ReadyIssuer,
        journal: &OrderSecret,
    ) -> Result<waxwing_acme::Issued, ObtainError> {
        let reuse_key = match stored {
            Stored::Ours(ours) if wanted.keep_key => reusable_key(ours, wanted),
            _ => None,
        };
        let request = Request {
            identifiers: wanted.identifiers(),
            common_name: wanted.common_name.clone(),
            profile: wanted.profile.clone().or_else(|| issuer.profile.clone()),
            key: wanted.key,
            reuse_key,
            replaces: None,
            preferred_chain: issuer.preferred_chain.clone(),
        };
        let solvers = solvers_for(&self.context.solvers, &issuer.solvers, self.certificate.labels());
        let (steps, seen) = watch::channel(String::new());
        let progress = Steps { steps };
        tokio::select! {
            result = obtain(&issuer.account, &request, journal, &solvers, &progress) => result,
            never = self.tell_steps(wanted, stored, seen) => match never {},
        }
    }

    async fn tell_steps(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        mut steps: watch::Receiver<String>,
    ) -> std::convert::Infallible {
        loop {
            let step = steps.borrow_and_update().clone();
            tokio::select! {
                changed = steps.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => std::future::pending().await,
                },
                () = tokio::time::sleep(WORTH_TELLING) => {}
            }
            let now = Timestamp::now();
            if let Err(error) =
                self.reporter.report(&self.held(wanted, stored, now), &Outcome::Working(step), now).await
            {
                tracing::debug!(%error, "a step went untold");
            }
            if steps.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn fail(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        issuer: &Arc<ReadyIssuer>,
        journal: &OrderSecret,
        error: ObtainError,
    ) -> Result<Rest, Interrupted> {
        if stands_on_api_server(&error) {
            return Err(error.into());
        }
        if error.is_account_unknown() {
            // The order went with the account. The issuer registers again and tells when it is ready.
            self.context.issuers.account_lost(issuer);
            if let Err(error) = journal.clear().await {
                tracing::warn!(%error, "the order Secret is left for later");
            }
            return Err(error.into());
        }
        let diagnosis = diagnose(&error, &error.evidence);
        tracing::warn!(%error, cause = diagnosis.cause, fix = diagnosis.fix, "the attempt failed");
        let class = error.class();
        let message = format!(
            "{} {} (asking {}: {error})",
            sentence(&diagnosis.cause),
            sentence(&diagnosis.fix),
            wanted.issuer
        );
        let order_url = match error.order_url {
            Some(url) => Some(url),
            None => journal.order_url().await,
        };
        if order_has_ended(&error.kind)
            && let Err(error) = journal.clear().await
        {
            tracing::warn!(%error, "the order Secret is left for later");
        }
        self.back_off(wanted, stored, &class, message, order_url).await
    }

    /// The certificate is signed but couldn't be stored: the order keeps it, the next look fetches it again.
    async fn store_failed(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        issuer: &ReadyIssuer,
        error: CallError,
    ) -> Result<Rest, Interrupted> {
        if error.is_forbidden() || error.is_invalid() {
            let class = Class { actor: Actor::User, retry: Retry::Backoff };
            let message = format!(
                "{error}. The certificate from {} is signed and waits; allow {FIELD_MANAGER} to write this Secret",
                issuer.key
            );
            return self.back_off(wanted, stored, &class, message, None).await;
        }
        // Conflicts and outages: what is true now is decided on anew.
        Err(error.into())
    }

    async fn back_off(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        class: &Class,
        message: String,
        order_url: Option<String>,
    ) -> Result<Rest, Interrupted> {
        let now = Timestamp::now();
        let failures = status::failures(&self.certificate);
        let count = if failures.same_spec { failures.count } else { 0 };
        let lifetime = decide::leaf(stored).map(|leaf| decide::until(leaf.not_after, leaf.not_before));
        let attempt = u32::try_from(count).unwrap_or_default().saturating_add(1);
        let failure = Failure {
            message,
            needs_change: class.retry == Retry::AfterChange,
            next_attempt: backoff(attempt, class, now, lifetime, self.seed),
            order_url,
        };
        let next = failure.next_attempt;
        let reason = if failure.needs_change { reason::FAILED } else { reason::BACKING_OFF };
        self.context.metrics.issuance(reason);
        let version =
            self.reporter.report(&self.held(wanted, stored, now), &Outcome::Failed(failure), now).await?;
        Ok(Rest { wake: next, version })
    }

    fn held<'s>(&self, wanted: &Wanted, stored: &'s Stored, now: Timestamp) -> Held<'s> {
        let leaf = decide::leaf(stored);
        Held {
            leaf,
            issued_by: match stored {
                Stored::Ours(ours) => ours.issued_by.as_ref(),
                Stored::Absent | Stored::Unusable { .. } => None,
            },
            renew_at: leaf.map(|leaf| decide::renewal(wanted, leaf, self.seed)),
            fault: decide::serving(wanted, stored, now).err(),
        }
    }

    fn rest_until(&self, wake: Timestamp) -> Rest {
        Rest { wake, version: self.certificate.metadata.resource_version.clone() }
    }
}

/// Tells the engine's steps to the log and to whoever waits to put them into the status.
struct Steps {
    steps: watch::Sender<String>,
}

impl Progress for Steps {
    fn step(&self, step: &Step) {
        match step {
            Step::OrderCreated { url } | Step::OrderResumed { url } => tracing::info!(order = url, "{step}"),
            Step::SelfCheck { identifier, .. } => tracing::info!(authorization = %identifier, "{step}"),
            _ => tracing::debug!("{step}"),
        }
        self.steps.send_replace(step.to_string());
    }
}

/// Whether the issuance failed for want of the API server, which says nothing about the Certificate.
fn stands_on_api_server(error: &ObtainError) -> bool {
    if !matches!(&*error.kind, ObtainErrorKind::Journal(_) | ObtainErrorKind::Solver { .. }) {
        return false;
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(call) = error.downcast_ref::<CallError>() {
            return !call.is_forbidden() && !call.is_invalid();
        }
        source = error.source();
    }
    false
}

/// Whether the order can't be gone on with, so that its Secret is of no more use.
fn order_has_ended(kind: &ObtainErrorKind) -> bool {
    matches!(
        kind,
        ObtainErrorKind::Validation { .. }
            | ObtainErrorKind::OrderInvalid { .. }
            | ObtainErrorKind::NoSolver { .. }
            | ObtainErrorKind::Certificate(_)
            | ObtainErrorKind::ForeignOrder
            | ObtainErrorKind::Request(_)
            | ObtainErrorKind::Key(_)
    )
}

fn reusable_key(ours: &Ours, wanted: &Wanted) -> Option<waxwing_acme::Secret> {
    let leaf = ours.pair.as_ref().ok().and_then(Option::as_ref)?;
    let key = ours.private_key_pem.as_ref().filter(|_| leaf.key_algorithm == Some(wanted.key))?;
    key_encoding::to_pkcs8(key, wanted.key)
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

/// FNV-1a: stable across processes and versions, as a hasher of the standard library isn't.
fn seed(uid: &str) -> u64 {
    uid.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
