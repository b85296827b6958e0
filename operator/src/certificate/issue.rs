//! The one line: everything that is done for a Certificate, from top to bottom.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use thiserror::Error;
use waxwing_acme::limits::Settled;
use waxwing_acme::{Issued, Journal, Leaf, ObtainError};
use waxwing_api::{Certificate, labels, reason};

use super::admit::{self, Refusal};
use super::advice::{Advice, Advisor};
use super::attempt::reusable_key;
use super::budget::Budget;
use super::decide::{self, Decision};
use super::history;
use super::host_gate::HostGate;
use super::key_encoding;
use super::order_secret::OrderSecret;
use super::renewal::{self, Due};
use super::renewal_request;
use super::reporter::Reporter;
use super::revocation::{RevocationWatch, leave_order_with, may_ask};
use super::setback::{Setback, passed_over};
use super::status::{self, Held, Outcome};
use super::target_secret::{self, IssuedBy, Pair, Stored};
use super::turns::{Place, Turn, Turns};
use super::wanted::Wanted;
use crate::issuer::{IssuerKey, Lookup, ReadyIssuer, Registry};
use crate::runtime::client::CallError;
use crate::runtime::events::Events;
use crate::runtime::metrics::Metrics;
use crate::runtime::watch::Watches;
use crate::solver::SolverContext;

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
    /// How many are worked on at once.
    pub turns: Turns,
}

/// What follows a look at a Certificate.
#[derive(Debug)]
pub enum Next {
    /// It rests.
    Rest(Rest),
    /// It waits for a turn; with it, it is looked at anew.
    Queue {
        /// For its turn.
        place: Place,
        /// When it is looked at anew without one: what is stored has become urgent then, or has expired.
        until: Option<Timestamp>,
    },
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

/// Does what a Certificate needs now. `turn` is that of one that has waited for it.
pub async fn issue(
    context: &Context,
    certificate: Arc<Certificate>,
    turn: Option<Turn>,
) -> Result<Next, Interrupted> {
    let now = Timestamp::now();
    let mut line = Line::new(context, certificate, turn);

    // decide
    let wanted = match Wanted::of(&line.certificate) {
        Ok(wanted) => wanted,
        Err(error) => return line.unusable_spec(&error, now).await.map(Next::Rest),
    };
    if let Some(refusal) = line.rival(&wanted) {
        return line.refuse(&wanted, &Stored::Absent, None, refusal, now).await.map(Next::Rest);
    }
    let failures = history::failures(&line.certificate, now);
    let mut stored = target_secret::read(&line.secrets, &wanted.secret_name, &line.name).await?;
    let journal = OrderSecret::of(
        &context.client,
        &context.own_namespace,
        &line.certificate,
        failures.counted(),
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
        Decision::Keep { renew_at } => {
            return line.keep(&wanted, &stored, &journal, renew_at, now).await.map(Next::Rest);
        }
        Decision::Wait { until, .. } => {
            return line.wait(&wanted, &stored, until, now).await.map(Next::Rest);
        }
        Decision::Issue(reason) | Decision::Resume(reason) => {
            tracing::info!(%reason, "a certificate is due");
            line.tell_why(&wanted, &stored, &journal, now).await?;
        }
    }

    // admit, order, authorize, finalize: at the first issuer that can
    context.watches.gateway_api.look().await?;
    let mut setbacks = Vec::new();
    let candidates = line.candidates(&wanted, &stored, &journal, now).await.map_err(ObtainError::from)?;
    for key in &candidates {
        match line.ask(&wanted, &stored, &journal, key, candidates.len() > 1).await {
            Ok((issuer, issued)) => {
                let rest = line.store(&wanted, &stored, &journal, &issuer, issued, &setbacks).await?;
                return Ok(Next::Rest(rest));
            }
            Err(Setback::Queued(place)) => return line.queue_up(&wanted, &stored, place, now).await,
            Err(setback) => {
                let the_next_might = setback.is_about_this_issuer();
                setbacks.push(setback);
                if !the_next_might {
                    break;
                }
            }
        }
    }
    line.set_back(&wanted, &stored, &journal, setbacks, now).await.map(Next::Rest)
}

/// How long a step lasts before it is worth a write.
pub(super) const WORTH_TELLING: Duration = Duration::from_secs(1);

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
    /// Issuers that are rehearsed at, and until when they are to be left alone.
    pub(super) no_rehearsals: Mutex<Vec<(IssuerKey, Timestamp)>>,
    /// Its turn, while it has one: to the end of the look, or until others are waited for.
    pub(super) turn: Mutex<Option<Turn>>,
}

impl<'a> Line<'a> {
    fn new(context: &'a Context, certificate: Arc<Certificate>, turn: Option<Turn>) -> Self {
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
            no_rehearsals: Mutex::default(),
            turn: Mutex::new(turn),
            namespace,
            certificate,
            context,
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
        let used_before = setbacks.iter().filter_map(Setback::cost).filter_map(|cost| cost.used.clone());
        let outcome = Outcome::Issued {
            order_url: issued.order_url,
            account_url: issuer.account.url().to_owned(),
            passed_over: passed_over(setbacks),
            used: used_before.chain(used).collect(),
            pauses: setbacks.iter().filter_map(Setback::left_alone).chain(self.no_rehearsals()).collect(),
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
        let advisor = &self.context.advisor;
        let issuer = match self.context.issuers.lookup(key) {
            Lookup::Ready(issuer) if issuer.ari => issuer,
            Lookup::Ready(_) | Lookup::Missing | Lookup::NotServed => return,
            // As long as it can't be asked, what it said before holds.
            Lookup::Pending | Lookup::NotReady { .. } => {
                self.advice = advisor.recall(&self.certificate, leaf, self.seed, now);
                return;
            }
        };
        // An attempt, which lasts longer, has no room for this.
        let consulted =
            Box::pin(advisor.consult(&self.certificate, leaf, &issuer.account, self.seed, now)).await;
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
        let asked = Box::pin(self.context.revocations.ask(&self.certificate, stored, self.seed, now)).await;
        if let Some((check_at, answer)) = asked {
            self.check_at = Some(check_at);
            self.context.metrics.revocation_check(answer);
        }
        matches!(stored, Stored::Ours(ours) if ours.revoked.is_some())
    }

    /// Tells why an attempt is made where whoever goes on with it couldn't tell: that what is stored was revoked, and
    /// what the CA says of a renewal that it wants. Leaves an order that would use a revoked key again.
    async fn tell_why(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        now: Timestamp,
    ) -> Result<(), Interrupted> {
        let Stored::Ours(ours) = stored else { return Ok(()) };
        if ours.revoked.is_some() || status::has_explanation(&self.certificate, self.advice.as_ref()) {
            self.reporter.report(&self.held(wanted, stored, now), &Outcome::Due, now).await?;
        }
        if ours.revoked.is_some() {
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

    pub(super) fn uid(&self) -> String {
        self.certificate.uid().unwrap_or_default()
    }

    pub(super) fn rest_until(&self, wake: Timestamp) -> Rest {
        Rest { wake, version: self.certificate.metadata.resource_version.clone() }
    }
}

/// FNV-1a: stable across processes and versions, as a hasher of the standard library isn't.
fn seed(uid: &str) -> u64 {
    uid.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
