//! The one line: everything that is done for a Certificate, from top to bottom.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use thiserror::Error;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use waxwing_acme::limits::{Applicant as Orderer, Settled};
use waxwing_acme::{Issued, Journal, Leaf, ObtainError, Progress, Request, Step, obtain};
use waxwing_api::{Certificate, RehearseWhen, labels, reason};

use super::admit::{self, Facts, Refusal};
use super::advice::{Advice, Advisor};
use super::budget::{self, Budget};
use super::candidates::candidates;
use super::claims::claims;
use super::decide::{self, Decision, Failures};
use super::host_gate::HostGate;
use super::key_encoding;
use super::order_secret::OrderSecret;
use super::renewal::{self, Due};
use super::renewal_request;
use super::reporter::Reporter;
use super::revocation::{RevocationWatch, leave_order_with, may_ask};
use super::setback::{Setback, passed_over};
use super::status::{self, Held, Outcome};
use super::target_secret::{self, IssuedBy, Ours, Pair, Stored};
use super::wanted::Wanted;
use crate::issuer::{IssuerKey, Lookup, ReadyIssuer, Registry, health};
use crate::runtime::client::CallError;
use crate::runtime::events::Events;
use crate::runtime::metrics::Metrics;
use crate::runtime::watch::Watches;
use crate::solver::{Applicant, SolverContext, solvers_for};

/// What everything here works with.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Waxwing's own namespace: where order Secrets are.
    pub own_namespace: String,
    /// The name of this process.
    pub replica: String,
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
    /// What CAs suggest for renewals.
    pub advisor: Advisor,
    /// Which stored certificates were revoked.
    pub revocations: RevocationWatch,
    /// What CAs allow.
    pub budget: Budget,
    /// Turns of those that failed last time: [`RETRIES`] at once.
    pub retries: Arc<Semaphore>,
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
    let mut line = Line::new(context, certificate);

    // decide
    let wanted = match Wanted::of(&line.certificate) {
        Ok(wanted) => wanted,
        Err(error) => return line.unusable_spec(&error, now).await,
    };
    if let Some(refusal) = line.rival(&wanted) {
        return line.refuse(&wanted, &Stored::Absent, None, refusal, now).await;
    }
    let failures = status::failures(&line.certificate, now);
    // Held to the end. What is decided on is read after it, because it may have been long in coming.
    let _turn = line.turn_to_retry(failures, now).await;
    let now = Timestamp::now();
    let mut stored = target_secret::read(&line.secrets, &wanted.secret_name, &line.name).await?;
    let journal = OrderSecret::of(
        &context.client,
        &context.own_namespace,
        &line.certificate,
        failures.count,
        &context.replica,
    );
    line.learn_advice(&wanted, &stored, now).await;
    line.recall_revocation(&mut stored, now);
    let open = if line.has_order() { journal.open().await? } else { None };
    let due = line.due(&wanted, decide::leaf(&stored), line.advice.as_ref(), now);
    let mut decision = decide::decide(&wanted, &stored, open, failures, &due, now);
    if may_ask(&decision, &wanted) && line.learn_revocation(&mut stored, now).await {
        decision = decide::decide(&wanted, &stored, open, failures, &due, now);
    }
    match decision {
        Decision::Keep { renew_at } => return line.keep(&wanted, &stored, &journal, renew_at, now).await,
        Decision::Wait { until, .. } => return line.wait(&wanted, &stored, until, now).await,
        Decision::Issue(reason) | Decision::Resume(reason) => {
            tracing::info!(%reason, "a certificate is due");
            line.part_with_revoked(&wanted, &stored, &journal, now).await?;
        }
    }

    // admit, order, authorize, finalize: at the first issuer that can
    context.watches.gateway_api.look().await?;
    let mut setbacks = Vec::new();
    let candidates = line.candidates(&wanted, &stored, &journal, now).await;
    for key in &candidates {
        match line.ask(&wanted, &stored, &journal, key, candidates.len() > 1).await {
            Ok((issuer, issued)) => {
                return line.store(&wanted, &stored, &journal, &issuer, issued, &setbacks).await;
            }
            Err(setback) => {
                let the_next_might = setback.is_about_this_issuer();
                setbacks.push(setback);
                if !the_next_might {
                    break;
                }
            }
        }
    }
    line.set_back(&wanted, &stored, &journal, setbacks, now).await
}

/// So many attempts after failed ones are made at once: a thousand names that never pass leave processor, CA and API
/// server to those that do.
pub const RETRIES: usize = 100;
/// How long a step lasts before it is worth a write.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// One look at one Certificate.
pub(super) struct Line<'a> {
    pub(super) context: &'a Context,
    pub(super) certificate: Arc<Certificate>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) secrets: Api<Secret>,
    pub(super) reporter: Reporter,
    /// Stable for this Certificate: spreads renewals and back-off.
    pub(super) seed: u64,
    /// What the CA suggests for the renewal of what is stored.
    pub(super) advice: Option<Advice>,
    /// When the CA is asked for that again.
    pub(super) ask_at: Option<Timestamp>,
    /// When it is asked again whether what is stored was revoked.
    pub(super) check_at: Option<Timestamp>,
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
            advice: None,
            ask_at: None,
            check_at: None,
            namespace,
            certificate,
            context,
        }
    }

    /// Waits for a turn where the last attempt failed and the next is due.
    async fn turn_to_retry(&self, failures: Failures, now: Timestamp) -> Option<SemaphorePermit<'a>> {
        let due = failures.next_attempt.is_none_or(|next| next <= now);
        if failures.count == 0 || !failures.same_spec || !due {
            return None;
        }
        // It is never closed.
        self.context.retries.acquire().await.ok()
    }

    /// Whom to ask now. An order that is open says who was asked last.
    async fn candidates<'w>(
        &self,
        wanted: &'w Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        now: Timestamp,
    ) -> Vec<&'w IssuerKey> {
        let account = journal.account_url().await;
        let open_order = account.and_then(|account| {
            wanted.issuers().find(|key| match self.context.issuers.lookup(key) {
                Lookup::Ready(issuer) => issuer.account.url() == account,
                Lookup::Missing | Lookup::NotReady { .. } => false,
            })
        });
        let serving = decide::serving(wanted, stored, now).ok();
        let serving = serving.and_then(|leaf| {
            let renew_at = self.due(wanted, Some(leaf), self.advice.as_ref(), now).at?;
            Some((leaf, renew_at))
        });
        candidates(wanted, open_order, serving, now)
    }

    /// Asks one issuer. `others` says whether it is one of several.
    async fn ask(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        key: &IssuerKey,
        others: bool,
    ) -> Result<(Arc<ReadyIssuer>, Issued), Setback> {
        // admit
        let lookup = self.issuer(key).await;
        let issuer =
            self.admit(wanted, key, stored, &lookup).map_err(|refusal| Setback::refused(key, refusal))?;
        if others && self.context.issuers.pass(&issuer, Timestamp::now()).is_err() {
            return Err(Setback::refused(key, admit::silent_ca(key)));
        }
        // order, authorize, finalize
        if let Some(rehearsal) = self.rehearsal(&issuer).await {
            match self.obtain(wanted, stored, &rehearsal, journal).await {
                Ok(_) => {
                    tracing::info!(issuer = %rehearsal.key, "the rehearsal passed");
                    self.context.budget.settle(&rehearsal, &self.uid(), &Settled::Issued);
                }
                // It is there to save this CA's limits, not to stand in the way.
                Err(Setback::Failed { error, .. }) if health::is_outage(&error) => {
                    tracing::info!(%error, issuer = %rehearsal.key, "there is no rehearsal");
                }
                Err(Setback::Limited { wait, .. }) => {
                    tracing::info!(because = %wait, issuer = %rehearsal.key, "there is no rehearsal");
                }
                Err(setback) => return Err(setback),
            }
        }
        let issued = self.obtain(wanted, stored, &issuer, journal).await?;
        Ok((issuer, issued))
    }

    /// The issuer to rehearse at now, if there is one and it is ready.
    async fn rehearsal(&self, issuer: &ReadyIssuer) -> Option<Arc<ReadyIssuer>> {
        let (key, when) = issuer.rehearsal.as_ref()?;
        let failures = status::failures(&self.certificate, Timestamp::now());
        let due = match when {
            RehearseWhen::Always => true,
            RehearseWhen::AfterFailure => failures.same_spec && failures.count > 0,
        };
        match self.issuer(key).await {
            Lookup::Ready(rehearsal) if due => Some(rehearsal),
            _ => None,
        }
    }

    /// Puts a new certificate into the target Secret, and reports it.
    async fn store(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        issuer: &ReadyIssuer,
        issued: Issued,
        setbacks: &[Setback],
    ) -> Result<Rest, Interrupted> {
        // store
        let private_key_pem = key_encoding::encode(&issued.private_key_pem, wanted.key, wanted.encoding)
            .unwrap_or_else(|_| issued.private_key_pem.clone());
        let pair = Pair { chain_pem: issued.chain_pem, private_key_pem };
        let based_on = match stored {
            Stored::Ours(ours) => Some(&**ours),
            Stored::Absent | Stored::Unusable { .. } => None,
        };
        let wrapping = wanted.wrapping(&issuer.key);
        if let Err(error) =
            target_secret::write(&self.secrets, &wanted.secret_name, based_on, Some(&pair), &wrapping).await
        {
            return self.store_failed(wanted, stored, issuer, error).await;
        }
        tracing::info!(secret = wanted.secret_name, order = issued.order_url, "stored");

        // report
        let issued_by = IssuedBy::from(&issuer.key);
        let held = Held {
            leaf: Some(&issued.leaf),
            issued_by: Some(&issued_by),
            first_choice: Some(&wanted.issuer),
            due: self.due(wanted, Some(&issued.leaf), None, Timestamp::now()),
            advice: None,
            fault: None,
        };
        let used = self.context.budget.settle(issuer, &self.uid(), &Settled::Issued);
        let outcome = Outcome::Issued {
            order_url: issued.order_url,
            passed_over: passed_over(setbacks),
            used: setbacks.iter().filter_map(Setback::used).cloned().chain(used).collect(),
        };
        self.context.metrics.issuance(reason::ISSUED);
        let (reported, cleared) =
            tokio::join!(self.reporter.report(&held, &outcome, Timestamp::now()), journal.clear());
        if let Err(error) = cleared {
            // The next look at this Certificate finds it kept and the order left over.
            tracing::warn!(%error, "the order Secret is left for later");
        }
        // The CA hasn't been asked yet when to renew it: the next look sees to that.
        Ok(Rest { wake: Timestamp::now(), version: reported? })
    }

    /// Learns what the CA suggests for the stored leaf, if one of the spec's issuers issued it and is to be asked.
    async fn learn_advice(&mut self, wanted: &Wanted, stored: &Stored, now: Timestamp) {
        let (Some(leaf), Some(key)) = (decide::leaf(stored), wanted.issuer_of(stored)) else { return };
        let Lookup::Ready(issuer) = self.context.issuers.lookup(key) else { return };
        if !issuer.ari {
            return;
        }
        let advisor = &self.context.advisor;
        let consulted = advisor.consult(&self.certificate, leaf, &issuer.account, self.seed, now).await;
        if let Some((advice, ask_at)) = consulted {
            self.advice = advice;
            self.ask_at = Some(ask_at);
        }
    }

    /// Remembers whether the stored leaf was revoked.
    fn recall_revocation(&mut self, stored: &mut Stored, now: Timestamp) {
        self.check_at = self.context.revocations.recall(&self.certificate, stored, self.seed, now);
    }

    /// Asks whether the stored leaf was revoked, if that is due. True if it was.
    async fn learn_revocation(&mut self, stored: &mut Stored, now: Timestamp) -> bool {
        if self.check_at.is_none_or(|at| at > now) {
            return false;
        }
        let asked = self.context.revocations.ask(&self.certificate, stored, self.seed, now).await;
        if let Some((check_at, answer)) = asked {
            self.check_at = Some(check_at);
            self.context.metrics.revocation_check(answer);
        }
        matches!(stored, Stored::Ours(ours) if ours.revoked.is_some())
    }

    /// Tells that what is stored was revoked, so that whoever goes on with this attempt knows it too, and leaves an
    /// order that would use its key again.
    async fn part_with_revoked(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        now: Timestamp,
    ) -> Result<(), Interrupted> {
        let Stored::Ours(ours) = stored else { return Ok(()) };
        if ours.revoked.is_some() {
            self.reporter.report(&self.held(wanted, stored, now), &Outcome::Waiting, now).await?;
            let key = reusable_key(ours, wanted);
            leave_order_with(journal, key.as_ref()).await.map_err(ObtainError::from)?;
        }
        Ok(())
    }

    /// When a leaf is to be renewed.
    pub(super) fn due(
        &self,
        wanted: &Wanted,
        leaf: Option<&Leaf>,
        advice: Option<&Advice>,
        now: Timestamp,
    ) -> Due {
        let suggested = advice.map(|advice| advice.window);
        let status = self.certificate.status.as_ref();
        let issued = leaf.map(|leaf| renewal_request::last_issuance(status, leaf, now));
        renewal::due(wanted, leaf, issued, suggested, self.seed, now)
    }

    /// Whether the cache knows of an open order. Right before newOrder the API server is asked.
    fn has_order(&self) -> bool {
        let uid = self.certificate.metadata.uid.as_deref().unwrap_or_default();
        let name = labels::order_secret_name(uid);
        self.context.watches.order_secrets.get(Some(&self.context.own_namespace), &name).is_some()
    }

    /// A no if another Certificate of the namespace has the older right to the target Secret.
    fn rival(&self, wanted: &Wanted) -> Option<Refusal> {
        let certificates = self.context.watches.certificates.store().state_filter(|other| {
            other.namespace().as_deref() == Some(&self.namespace)
                && other.spec.secret_name == wanted.secret_name
                && other.metadata.deletion_timestamp.is_none()
        });
        let first = admit::first_of(certificates.iter().map(|one| &**one).chain([&*self.certificate]))?;
        (first.name_any() != self.name).then(|| admit::secret_conflict(wanted, &first.name_any()))
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

    fn admit(
        &self,
        wanted: &Wanted,
        key: &IssuerKey,
        stored: &Stored,
        issuer: &Lookup,
    ) -> Result<Arc<ReadyIssuer>, Refusal> {
        let watches = &self.context.watches;
        let ingresses = watches.ingresses.store().state();
        let claims = claims(
            &wanted.names,
            &self.namespace,
            &self.context.own_namespace,
            ingresses.iter().map(|ingress| &**ingress),
            &watches.gateway_api.all(),
        );
        let namespace = watches.namespaces.get(None, &self.namespace);
        let namespace_labels = namespace.map(|namespace| namespace.labels().clone()).unwrap_or_default();
        let facts = Facts {
            namespace: &self.namespace,
            namespace_labels: &namespace_labels,
            issuer,
            claims: &claims,
            stored,
        };
        admit::admit(wanted, key, &facts)
    }

    /// Who asks for an order, as far as limits make a difference.
    fn orderer(&self, wanted: &Wanted, stored: &Stored, issuer: &ReadyIssuer, now: Timestamp) -> Orderer {
        let leaf = decide::leaf(stored);
        let facts = budget::Facts {
            leaf,
            due: self.due(wanted, leaf, self.advice.as_ref(), now).at,
            same_issuer: wanted.issuer_of(stored) == Some(&issuer.key),
            replaces: replaces(wanted, stored, issuer)
                .and_then(|_| self.advice.as_ref().map(|advice| advice.window)),
            failures: status::failures(&self.certificate, now),
        };
        budget::applicant(&self.certificate, wanted, issuer, &facts, now)
    }

    fn uid(&self) -> String {
        self.certificate.uid().unwrap_or_default()
    }

    /// The engine's part. A step that lasts is told in the status, once.
    async fn obtain(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        issuer: &Arc<ReadyIssuer>,
        journal: &OrderSecret,
    ) -> Result<Issued, Setback> {
        let passage = self.context.hosts.enter(&wanted.names, issuer.account.thumbprint()).await;
        if passage.waited {
            // The world may have changed in the meantime.
            return Err(Setback::Outdated);
        }
        let orderer = self.orderer(wanted, stored, issuer, Timestamp::now());
        if journal.account_url().await.as_deref() == Some(issuer.account.url()) {
            self.context.budget.resume(issuer, &orderer);
        } else if let Err(wait) = self.context.budget.admit(issuer, &orderer) {
            return Err(Setback::Limited { issuer: Arc::clone(issuer), wait });
        }
        let reuse_key = match stored {
            Stored::Ours(ours) if wanted.keep_key && ours.revoked.is_none() => reusable_key(ours, wanted),
            _ => None,
        };
        let request = Request {
            identifiers: wanted.identifiers(),
            common_name: wanted.common_name.clone(),
            profile: wanted.profile.clone().or_else(|| issuer.profile.clone()),
            key: wanted.key,
            reuse_key,
            replaces: replaces(wanted, stored, issuer),
            preferred_chain: issuer.preferred_chain.clone(),
        };
        let applicant = Applicant {
            labels: self.certificate.labels().clone(),
            names: wanted.names.iter().filter(|name| !name.starts_with("*.")).cloned().collect(),
            namespace: self.namespace.clone(),
            thumbprint: issuer.account.thumbprint().to_owned(),
            uid: self.certificate.uid().unwrap_or_default(),
        };
        let solvers = solvers_for(&self.context.solvers, &issuer.solvers, applicant);
        let (steps, seen) = watch::channel(String::new());
        let progress = Steps { steps };
        let result = tokio::select! {
            result = obtain(&issuer.account, &request, journal, &solvers, &progress) => result,
            never = self.tell_steps(wanted, stored, seen) => match never {},
        };
        self.context.issuers.attempted(issuer, result.as_ref().err(), Timestamp::now());
        result.map_err(|error| {
            let used = self.context.budget.failed(issuer, &orderer, &error);
            Setback::Failed { issuer: Arc::clone(issuer), error, used }
        })
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

    pub(super) fn rest_until(&self, wake: Timestamp) -> Rest {
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

/// How ARI identifies the certificate that is renewed, so that the CA exempts the order from limits
/// (RFC 9773 §5). Only a certificate of the same issuer: another account's would be refused.
fn replaces(wanted: &Wanted, stored: &Stored, issuer: &ReadyIssuer) -> Option<String> {
    let same_issuer = issuer.ari && wanted.issuer_of(stored) == Some(&issuer.key);
    decide::leaf(stored).filter(|_| same_issuer).and_then(|leaf| leaf.ari_id.clone())
}

fn reusable_key(ours: &Ours, wanted: &Wanted) -> Option<waxwing_acme::Secret> {
    let leaf = ours.pair.as_ref().ok().and_then(Option::as_ref)?;
    let key = ours.private_key_pem.as_ref().filter(|_| leaf.key_algorithm == Some(wanted.key))?;
    key_encoding::to_pkcs8(key, wanted.key)
}

/// FNV-1a: stable across processes and versions, as a hasher of the standard library isn't.
fn seed(uid: &str) -> u64 {
    uid.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
