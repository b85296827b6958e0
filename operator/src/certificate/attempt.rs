//! One issuer is asked for a certificate: whether it may be, what its limits leave, and the engine's part.

use std::pin::pin;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use waxwing_acme::limits::{Applicant as Orderer, Settled};
use waxwing_acme::{Issued, Journal, JournalError, Leaf, Progress, Request, Step, obtain};
use waxwing_api::RehearseWhen;

use super::admit::{self, Facts, Refusal};
use super::budget::{self, Cost, runs_out};
use super::candidates::{candidates, fallbacks_from};
use super::claims::claims;
use super::decide;
use super::history;
use super::issue::{Line, WORTH_TELLING};
use super::key_encoding;
use super::order_secret::OrderSecret;
use super::setback::{Setback, passed_over};
use super::status::Outcome;
use super::target_secret::{Ours, Stored};
use super::turns::Queue;
use super::wanted::Wanted;
use crate::issuer::{IssuerKey, Lookup, ReadyIssuer};
use crate::solver::{Applicant, solvers_for};

impl Line<'_> {
    /// Whom to ask now. An order that is open says who was asked last.
    pub(super) async fn candidates<'w>(
        &self,
        wanted: &'w Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        now: Timestamp,
    ) -> Result<Vec<&'w IssuerKey>, JournalError> {
        if !wanted.fallbacks.is_empty() {
            // A cache that is behind must not send the order to another CA.
            journal.load().await?;
        }
        let mut open_order = None;
        if let Some(account) = journal.account_url().await {
            for key in wanted.issuers() {
                match self.issuer(key).await {
                    Lookup::Ready(issuer) if issuer.account.url() == account => {
                        open_order = Some(key);
                        break;
                    }
                    // It may be the one. Whoever is asked first is waited for.
                    Lookup::Pending => open_order = open_order.or(Some(key)),
                    Lookup::Ready(_) | Lookup::Missing | Lookup::NotServed | Lookup::NotReady { .. } => {}
                }
            }
        }
        Ok(candidates(wanted, open_order, self.serving(wanted, stored, now), now))
    }

    /// From when on fallbacks are asked, where there are some and that isn't so yet.
    pub(super) fn fallbacks_from(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let (leaf, renew_at) = self.serving(wanted, stored, now).filter(|_| !wanted.fallbacks.is_empty())?;
        Some(fallbacks_from(leaf, renew_at)).filter(|from| *from > now)
    }

    /// The stored leaf and its renewal time, while it serves and is to be renewed.
    fn serving<'s>(
        &self,
        wanted: &Wanted,
        stored: &'s Stored,
        now: Timestamp,
    ) -> Option<(&'s Leaf, Timestamp)> {
        let leaf = decide::serving(wanted, stored, now).ok()?;
        Some((leaf, self.due(wanted, Some(leaf), self.advice.as_ref(), now).at?))
    }

    /// Asks one issuer. `others` says whether it is one of several that may be asked now.
    pub(super) async fn ask(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        key: &IssuerKey,
        others: bool,
    ) -> Result<(Arc<ReadyIssuer>, Issued), Setback> {
        // admit
        let lookup = self.issuer(key).await;
        if matches!(lookup, Lookup::Pending) {
            return Err(Setback::Pending { issuer: key.clone() });
        }
        if !wanted.fallbacks.is_empty()
            && let Some(until) = history::pause(&self.certificate, key, Timestamp::now())
        {
            return Err(Setback::Paused { issuer: key.clone(), until });
        }
        let issuer =
            self.admit(wanted, key, stored, &lookup).map_err(|refusal| Setback::refused(key, refusal))?;
        // Whoever is held up by a limit needs no turn to say so.
        if journal.account_url().await.as_deref() != Some(issuer.account.url())
            && let Err(wait) =
                self.context.budget.ask(&issuer, &self.orderer(wanted, stored, &issuer, Timestamp::now()))
        {
            return Err(Setback::Limited { issuer, wait });
        }
        self.take_turn(wanted, stored).await?;
        if others && self.context.issuers.pass(&issuer, Timestamp::now()).is_err() {
            return Err(Setback::refused(key, admit::silent_ca(key)));
        }
        // order, authorize, finalize
        if let Some(rehearsal) = self.rehearsal(&issuer, journal).await? {
            match self.obtain(wanted, stored, &rehearsal, journal).await {
                Ok(_) => {
                    tracing::info!(issuer = %rehearsal.key, "the rehearsal passed");
                    self.context.budget.settle(&rehearsal, &self.uid(), &Settled::Issued);
                }
                // It is there to save this CA's limits, not to stand in the way.
                Err(setback @ Setback::Failed { .. }) if setback.is_about_this_issuer() => {
                    tracing::info!(because = passed_over([&setback]), "there is no rehearsal");
                    self.no_rehearsal(setback.left_alone());
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

    /// The issuer to rehearse at now, if there is one and it is ready. There is none for an order that is open: its
    /// key, which the CA may have signed, stands where the rehearsal's would.
    async fn rehearsal(
        &self,
        issuer: &ReadyIssuer,
        journal: &OrderSecret,
    ) -> Result<Option<Arc<ReadyIssuer>>, Setback> {
        let Some((key, when)) = &issuer.rehearsal else { return Ok(None) };
        let now = Timestamp::now();
        if self.no_rehearsals().iter().any(|(other, _)| other == key) {
            return Ok(None);
        }
        if let Some(until) = history::pause(&self.certificate, key, now) {
            self.no_rehearsal(Some((key.clone(), until)));
            return Ok(None);
        }
        let failures = history::failures(&self.certificate, now);
        let due = match when {
            RehearseWhen::Always => true,
            RehearseWhen::AfterFailure => failures.exist(),
        };
        if !due {
            return Ok(None);
        }
        // The API server is asked, not a cache. Where it doesn't answer the attempt ends before anything is ordered.
        journal.load().await.map_err(|error| Setback::Failed {
            issuer: Arc::new(issuer.clone()),
            error: error.into(),
            cost: Cost::default(),
        })?;
        if journal.account_url().await.as_deref() == Some(issuer.account.url()) {
            return Ok(None);
        }
        match self.issuer(key).await {
            Lookup::Ready(rehearsal) => Ok(Some(rehearsal)),
            _ => Ok(None),
        }
    }

    fn no_rehearsal(&self, pause: Option<(IssuerKey, Timestamp)>) {
        self.no_rehearsals.lock().unwrap_or_else(PoisonError::into_inner).extend(pause);
    }

    /// The issuers at which there is no rehearsal before which time.
    pub(super) fn no_rehearsals(&self) -> Vec<(IssuerKey, Timestamp)> {
        self.no_rehearsals.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// Whether what is stored was ordered with this issuer's account.
    fn is_of_issuer(&self, wanted: &Wanted, stored: &Stored, issuer: &ReadyIssuer) -> bool {
        wanted.issuer_of(stored) == Some(&issuer.key)
            && history::is_of_account(&self.certificate, issuer.account.url())
    }

    /// How ARI identifies the certificate that is renewed, so that the CA exempts the order from limits
    /// (RFC 9773 §5). Only a certificate of the same account: another one's would be refused.
    fn replaces(&self, wanted: &Wanted, stored: &Stored, issuer: &ReadyIssuer) -> Option<String> {
        let same = issuer.ari && self.is_of_issuer(wanted, stored, issuer);
        decide::leaf(stored).filter(|_| same).and_then(|leaf| leaf.ari_id.clone())
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
            same_issuer: self.is_of_issuer(wanted, stored, issuer),
            replaces: self
                .replaces(wanted, stored, issuer)
                .and_then(|_| self.advice.as_ref().map(|advice| advice.window)),
            failures: history::failures(&self.certificate, now),
        };
        budget::applicant(&self.certificate, wanted, issuer, &facts, now)
    }

    /// Takes a turn, unless it has one. Whoever has to wait holds nothing meanwhile: no host, no token, no room.
    async fn take_turn(&self, wanted: &Wanted, stored: &Stored) -> Result<(), Setback> {
        if self.turn.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let mut place = self.context.turns.queue_up(self.queue(wanted, stored, Timestamp::now()));
        match tokio::time::timeout(WORTH_TELLING, place.turn()).await {
            Ok(turn) => {
                *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(turn);
                Ok(())
            }
            Err(_) => Err(Setback::Queued(place)),
        }
    }

    /// Waits until an order for the names may be opened, and holds no turn meanwhile. The world may have changed then.
    async fn wait_for_others(&self, wanted: &Wanted, stored: &Stored, issuer: &ReadyIssuer) -> Setback {
        drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut free = pin!(self.context.hosts.free(&wanted.names, issuer.account.thumbprint()));
        if tokio::time::timeout(WORTH_TELLING, free.as_mut()).await.is_err() {
            let step =
                history::step_of_waiting(&self.certificate, "waiting for other issuances of its names");
            self.tell_step(wanted, stored, step).await;
            free.await;
        }
        Setback::Outdated
    }

    /// Among whom it waits for its turn.
    fn queue(&self, wanted: &Wanted, stored: &Stored, now: Timestamp) -> Queue {
        let urgent = decide::leaf(stored).is_some_and(|leaf| runs_out(leaf.not_before, leaf.not_after, now));
        let failing = history::failures(&self.certificate, now).set_behind();
        Queue::of(decide::serving(wanted, stored, now).is_ok(), urgent, failing)
    }

    /// The engine's part. A step that lasts is told in the status, once.
    async fn obtain(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        issuer: &Arc<ReadyIssuer>,
        journal: &OrderSecret,
    ) -> Result<Issued, Setback> {
        let Some(_passage) = self.context.hosts.enter(&wanted.names, issuer.account.thumbprint()) else {
            return Err(self.wait_for_others(wanted, stored, issuer).await);
        };
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
            replaces: self.replaces(wanted, stored, issuer),
            preferred_chain: issuer.preferred_chain.clone(),
        };
        let yields = self.queue(wanted, stored, Timestamp::now()) == Queue::Again;
        let applicant = Applicant {
            yields,
            labels: self.certificate.labels().clone(),
            names: wanted.names.iter().filter(|name| !name.starts_with("*.")).cloned().collect(),
            namespace: self.namespace.clone(),
            thumbprint: issuer.account.thumbprint().to_owned(),
            uid: self.certificate.uid().unwrap_or_default(),
        };
        let solvers = solvers_for(&self.context.solvers, &issuer.solvers, applicant);
        let (steps, seen) = watch::channel(String::new());
        let progress = Steps { steps };
        let account = if yields { issuer.account.yielding() } else { issuer.account.clone() };
        let result = tokio::select! {
            result = obtain(&account, &request, journal, &solvers, &progress) => result,
            never = self.tell_steps(wanted, stored, seen) => match never {},
        };
        self.context.issuers.attempted(issuer, result.as_ref().err(), Timestamp::now());
        result.map_err(|error| {
            let cost = self.context.budget.failed(issuer, &orderer, &error);
            Setback::Failed { issuer: Arc::clone(issuer), error, cost }
        })
    }

    pub(super) async fn tell_step(&self, wanted: &Wanted, stored: &Stored, step: String) {
        let now = Timestamp::now();
        let told = self.reporter.report(&self.held(wanted, stored, now), &Outcome::Working(step), now).await;
        if let Err(error) = told {
            tracing::debug!(%error, "a step went untold");
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
            self.tell_step(wanted, stored, step).await;
            if steps.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
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

pub(super) fn reusable_key(ours: &Ours, wanted: &Wanted) -> Option<waxwing_acme::Secret> {
    let leaf = ours.pair.as_ref().ok().and_then(Option::as_ref)?;
    let key = ours.private_key_pem.as_ref().filter(|_| leaf.key_algorithm == Some(wanted.key))?;
    key_encoding::to_pkcs8(key, wanted.key)
}
