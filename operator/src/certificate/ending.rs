//! How a look at a Certificate ends when it doesn't end with a new certificate: kept, waiting, refused, failed.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use waxwing_acme::limits::{Scope, Wait};
use waxwing_acme::retry::whole_second;
use waxwing_acme::{
    Actor, Class, Failure as HttpFailure, Journal, ObtainError, ObtainErrorKind, PairError, Retry, backoff,
    diagnose,
};
use waxwing_api::{LimitRefusal, LimitUse, reason};

use super::FIELD_MANAGER;
use super::admit::{self, Refusal};
use super::budget::runs_out_after;
use super::candidates::is_about_this_ca;
use super::conditions::{full_stop, sentence};
use super::decide::{self, Fault, later};
use super::history;
use super::issue::{Interrupted, Line, Next, Rest};
use super::order_secret::OrderSecret;
use super::renewal::Due;
use super::setback::{Setback, passed_over};
use super::status::{Failure, Held, Limited, Outcome};
use super::target_secret::{self, Stored};
use super::turns::Place;
use super::wanted::{Wanted, WantedError};
use crate::issuer::{IssuerKey, ReadyIssuer};
use crate::runtime::client::CallError;

impl Line<'_> {
    /// The stored pair is what is wanted: labels and annotations follow the spec, a left-over order goes.
    pub(super) async fn keep(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        renew_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Rest, Interrupted> {
        // What the annotations say from now on, if they didn't before.
        let issuer = wanted.issuer_of(stored).unwrap_or(&wanted.issuer);
        let wrapping = wanted.wrapping(issuer);
        if let Stored::Ours(ours) = stored
            && !ours.wrapped_as(&wrapping)
        {
            target_secret::write(&self.secrets, &wanted.secret_name, Some(ours), None, &wrapping).await?;
        }
        if let Err(error) = journal.clear().await {
            tracing::warn!(%error, "the order Secret is left for later");
        }
        let issued_by = issuer.into();
        let held = Held { issued_by: Some(&issued_by), ..self.held(wanted, stored, now) };
        let version = self.reporter.report(&held, &Outcome::Kept, now).await?;
        // That it has expired is told too, where nothing is ordered then.
        let expiry = held.leaf.map(|leaf| leaf.not_after).filter(|expiry| *expiry > now);
        let wake = [renew_at, self.ask_at, self.check_at, expiry].into_iter().flatten().min();
        Ok(Rest { wake: wake.unwrap_or(Timestamp::MAX), version })
    }

    /// The next attempt isn't due: the Ready condition may still have changed.
    pub(super) async fn wait(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Rest, Interrupted> {
        let version = self.reporter.report(&self.held(wanted, stored, now), &Outcome::Waiting, now).await?;
        Ok(Rest { wake: self.wake(wanted, stored, until, now), version })
    }

    pub(super) async fn refuse(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: Option<&OrderSecret>,
        refusal: Refusal,
        now: Timestamp,
    ) -> Result<Rest, Interrupted> {
        tracing::info!(reason = refusal.reason, because = refusal.message, "no certificate may be ordered");
        // An order that may not go on must not answer for its hosts any longer; an issuer's outage is no such no.
        if !matches!(refusal.reason, reason::ISSUER_NOT_READY | reason::ISSUER_NOT_FOUND)
            && let Some(journal) = journal
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

    pub(super) async fn unusable_spec(
        &self,
        error: &WantedError,
        now: Timestamp,
    ) -> Result<Rest, Interrupted> {
        let fault = Fault::DoesNotExist;
        let held = Held {
            leaf: None,
            issued_by: None,
            first_choice: None,
            due: Due::default(),
            advice: None,
            fault: Some(fault),
        };
        let refusal = Refusal { reason: reason::INVALID_SPEC, message: error.to_string() };
        let version = self.reporter.report(&held, &Outcome::Refused(refusal), now).await?;
        Ok(Rest { wake: later(now, BACKSTOP), version })
    }

    /// Others come first. That is told, and nothing is held while it waits.
    pub(super) async fn queue_up(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        place: Place,
        now: Timestamp,
    ) -> Result<Next, Interrupted> {
        let step =
            history::step_of_waiting(&self.certificate, "waiting for its turn, behind other issuances");
        self.tell_step(wanted, stored, step).await;
        let asked = wanted.requested.filter(|at| *at > now);
        let until = changes_at(wanted, stored, now).into_iter().chain(asked).min();
        Ok(Next::Queue { place, until })
    }

    /// No issuer has issued. An attempt that failed says more than a no to another one.
    pub(super) async fn set_back(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        journal: &OrderSecret,
        mut setbacks: Vec<Setback>,
        now: Timestamp,
    ) -> Result<Rest, Interrupted> {
        // What has failed is told, whatever has changed meanwhile.
        let outdated = setbacks.iter().any(|setback| matches!(setback, Setback::Outdated));
        setbacks.retain(|setback| !matches!(setback, Setback::Outdated));
        if setbacks.is_empty() || outdated && !setbacks.iter().any(Setback::is_failure) {
            return Ok(self.rest_until(now));
        }
        let waits = || setbacks.iter().position(Setback::is_limit);
        let refuses = || setbacks.iter().position(|setback| setback.left_alone().is_none());
        let told = setbacks
            .iter()
            .rposition(Setback::is_failure)
            .or_else(waits)
            .or_else(refuses)
            .unwrap_or_default();
        let all = passed_over(&setbacks);
        let others = self.others(wanted, stored, &setbacks, told);
        let setback = setbacks.remove(told);
        let passed_over = passed_over(&setbacks);
        match setback {
            Setback::Outdated | Setback::Queued(_) => Ok(self.rest_until(now)),
            Setback::Pending { issuer } => {
                let refusal = Refusal { reason: reason::ISSUER_NOT_READY, message: admit::pending(&issuer) };
                self.refuse(wanted, stored, Some(journal), refusal, now).await
            }
            Setback::Paused { until, .. } => {
                let until = others.next.map_or(until, |next| until.min(next));
                if let Some(message) = all
                    && history::is_stopped_by(&self.certificate, reason::ISSUED)
                {
                    // What they answered is told nowhere since another one has issued.
                    let refusal = Refusal { reason: reason::BACKING_OFF, message };
                    let outcome = Outcome::Refused(refusal);
                    let version =
                        self.reporter.report(&self.held(wanted, stored, now), &outcome, now).await?;
                    return Ok(Rest { wake: self.wake(wanted, stored, until, now), version });
                }
                self.wait(wanted, stored, until, now).await
            }
            Setback::Refused { mut refusal, .. } => {
                if let Some(others) = passed_over {
                    refusal.message = format!("{} {others}", sentence(&refusal.message));
                }
                self.refuse(wanted, stored, Some(journal), refusal, now).await
            }
            Setback::Limited { issuer, wait } => {
                let until = others.next.map_or(wait.until, |next| wait.until.min(next));
                let wait = Wait { until, ..wait };
                self.limited(wanted, stored, &issuer, &wait, Others { passed_over, ..others }, now).await
            }
            Setback::Failed { issuer, error, .. } => {
                self.fail(wanted, stored, &issuer, journal, error, Others { passed_over, ..others }).await
            }
        }
    }

    /// What the issuers leave of an attempt, beside what is told of one of them.
    fn others(&self, wanted: &Wanted, stored: &Stored, setbacks: &[Setback], told: usize) -> Others {
        let costs = || setbacks.iter().filter_map(Setback::cost);
        let mut others = Others {
            passed_over: None,
            used: costs().filter_map(|cost| cost.used.clone()).collect(),
            refusal: costs().find_map(|cost| cost.refusal.clone()),
            next: None,
            pauses: self.no_rehearsals(),
        };
        if !wanted.fallbacks.is_empty() {
            let now = Timestamp::now();
            let failed = |error: &ObtainError| self.next_attempt(stored, &error.class(), now);
            let next = |setback: &Setback| setback.next(failed, later(now, BACKSTOP));
            let beside = setbacks.iter().enumerate().filter(|(place, _)| *place != told);
            let beside = beside.map(|(_, setback)| next(setback));
            others.next = beside.chain(self.fallbacks_from(wanted, stored, now)).min();
            let pause = |setback: &Setback| Some((setback.paused()?.clone(), next(setback)));
            others.pauses.extend(setbacks.iter().filter_map(pause));
        }
        others
    }

    /// A limit of the CA's is used up: nothing runs until the time named.
    async fn limited(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        issuer: &ReadyIssuer,
        wait: &Wait,
        others: Others,
        now: Timestamp,
    ) -> Result<Rest, Interrupted> {
        tracing::info!(because = %wait, until = %wait.until, "a limit of the CA is used up");
        let what = Wait { ahead: 0, left: 0, ..wait.clone() };
        let limited = Limited {
            message: format!(
                "{}: {wait}. The next attempt is at {}; {}.{}",
                issuer.key,
                wait.until,
                instead(wait.scope),
                others.passed_over.map(|others| format!(" {others}")).unwrap_or_default()
            ),
            pauses: others.pauses,
            note: sentence(&format!("{}: {what}", issuer.key)),
        };
        let version =
            self.reporter.report(&self.held(wanted, stored, now), &Outcome::Limited(limited), now).await?;
        Ok(Rest { wake: self.wake(wanted, stored, wait.until, now), version })
    }

    async fn fail(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        issuer: &Arc<ReadyIssuer>,
        journal: &OrderSecret,
        error: ObtainError,
        others: Others,
    ) -> Result<Rest, Interrupted> {
        if stands_on_api_server(&error) {
            return Err(error.into());
        }
        if error.is_account_unknown() {
            // The order went with the account. The issuer registers again and tells when it is ready.
            let registers = self.context.issuers.account_lost(issuer, Timestamp::now());
            if let Err(error) = journal.clear().await {
                tracing::warn!(%error, "the order Secret is left for later");
            }
            if registers {
                return Err(error.into());
            }
        }
        if journal.begun_elsewhere() && is_verdict(&error.kind) {
            // The CA may have asked a process that was dying for the answer. The next order is this process's own.
            tracing::info!(%error, "an order that another process began has failed; ordering again at once");
            if let Err(error) = journal.clear().await {
                tracing::warn!(%error, "the order Secret is left for later");
            }
            return Ok(self.rest_until(Timestamp::now()));
        }
        let diagnosis = diagnose(&error, &error.evidence);
        tracing::warn!(%error, cause = diagnosis.cause, fix = diagnosis.fix, "the attempt failed");
        let class = error.class();
        let (cause, fix) = (full_stop(&diagnosis.cause), full_stop(&diagnosis.fix));
        let passed_over = others.passed_over.as_ref().map(|others| format!(" {others}")).unwrap_or_default();
        let told = Told {
            message: format!("{cause} {fix}{passed_over} (asking {}: {error})", issuer.key),
            note: format!("{} {fix} (asking {})", without_paths(&cause), issuer.key),
        };
        // Another issuer may have its turn before this one; a name that can't be validated can't be anywhere.
        let others = Others { next: others.next.filter(|_| is_about_this_ca(&error)), ..others };
        let order_url = match error.order_url {
            Some(url) => Some(url),
            None => journal.order_url().await,
        };
        if (order_has_ended(&error.kind) || self.is_stuck(journal, &error.kind).await)
            && let Err(error) = journal.clear().await
        {
            tracing::warn!(%error, "the order Secret is left for later");
        }
        self.back_off(wanted, stored, &class, told, order_url, others).await
    }

    /// Whether the CA has answered for a day without bringing the order to an end: another may fare better.
    async fn is_stuck(&self, journal: &OrderSecret, kind: &ObtainErrorKind) -> bool {
        let answered = match kind {
            ObtainErrorKind::Deadline { .. } => true,
            ObtainErrorKind::Ca { source, .. } => match source {
                waxwing_acme::Error::Request(request) => {
                    matches!(request.failure, HttpFailure::Status { .. })
                }
                waxwing_acme::Error::Answer { .. } => true,
                _ => false,
            },
            _ => false,
        };
        let since = journal.since().await;
        answered && since.is_some_and(|since| later(since, STUCK) <= Timestamp::now())
    }

    /// The certificate is signed but couldn't be stored: the order keeps it, the next look fetches it again.
    pub(super) async fn store_failed(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        issuer: &ReadyIssuer,
        error: CallError,
    ) -> Result<Rest, Interrupted> {
        if error.is_refusal() && !error.is_not_found() {
            let class = Class { actor: Actor::User, retry: Retry::Backoff };
            let message = sentence(&format!(
                "{error}. The certificate from {} is signed and waits; allow {FIELD_MANAGER} to write this Secret",
                issuer.key
            ));
            let told = Told { note: message.clone(), message };
            return self.back_off(wanted, stored, &class, told, None, Others::default()).await;
        }
        // Conflicts and outages: what is true now is decided on anew.
        Err(error.into())
    }

    async fn back_off(
        &self,
        wanted: &Wanted,
        stored: &Stored,
        class: &Class,
        told: Told,
        order_url: Option<String>,
        others: Others,
    ) -> Result<Rest, Interrupted> {
        let now = Timestamp::now();
        let own = self.next_attempt(stored, class, now);
        let failure = Failure {
            message: told.message,
            note: told.note,
            needs_change: class.retry == Retry::AfterChange,
            next_attempt: whole_second(others.next.map_or(own, |next| own.min(next))),
            order_url,
            used: others.used,
            refusal: others.refusal,
            pauses: others.pauses,
        };
        let next = failure.next_attempt;
        let reason = if failure.needs_change { reason::FAILED } else { reason::BACKING_OFF };
        self.context.metrics.issuance(reason);
        let version =
            self.reporter.report(&self.held(wanted, stored, now), &Outcome::Failed(failure), now).await?;
        Ok(Rest { wake: self.wake(wanted, stored, next, now), version })
    }

    /// When an issuer may be asked again after an attempt that failed so.
    fn next_attempt(&self, stored: &Stored, class: &Class, now: Timestamp) -> Timestamp {
        let count = history::failures(&self.certificate, now).counted();
        let lifetime = decide::leaf(stored).map(|leaf| decide::until(leaf.not_after, leaf.not_before));
        let attempt = u32::try_from(count).unwrap_or_default().saturating_add(1);
        backoff(attempt, class, now, lifetime, self.seed)
    }

    /// When to look again while waiting: at `until`, and whenever what is stored tells something else by then. It is
    /// asked about, is needed more urgently, may come from a fallback, has expired.
    fn wake(&self, wanted: &Wanted, stored: &Stored, until: Timestamp, now: Timestamp) -> Timestamp {
        let sooner = [self.ask_at, changes_at(wanted, stored, now), self.fallbacks_from(wanted, stored, now)];
        sooner.into_iter().flatten().filter(|at| *at > now).fold(until, Timestamp::min)
    }

    pub(super) fn held<'s>(&self, wanted: &'s Wanted, stored: &'s Stored, now: Timestamp) -> Held<'s> {
        let leaf = decide::leaf(stored);
        Held {
            leaf,
            issued_by: match stored {
                Stored::Ours(ours) => ours.issued_by.as_ref(),
                Stored::Absent | Stored::Unusable { .. } => None,
            },
            first_choice: Some(&wanted.issuer),
            due: self.due(wanted, leaf, self.advice.as_ref(), now),
            advice: self.advice.clone(),
            fault: decide::serving(wanted, stored, now).err(),
        }
    }
}

/// What is told of an attempt that failed, in sentences.
struct Told {
    /// All of it.
    message: String,
    /// What doesn't differ from attempt to attempt.
    note: String,
}

/// What the other issuers leave of an attempt that one of them is told of.
#[derive(Default)]
struct Others {
    /// Which were passed over, and why, in sentences.
    passed_over: Option<String>,
    /// What was used of the CAs' limits, by all of them.
    used: Vec<LimitUse>,
    /// A limit that a CA called used up.
    refusal: Option<LimitRefusal>,
    /// When the first of them may be asked.
    next: Option<Timestamp>,
    /// Which issuers aren't asked before which time.
    pauses: Vec<(IssuerKey, Timestamp)>,
}

/// What helps beside waiting.
const fn instead(scope: Scope) -> &'static str {
    match scope {
        Scope::Account => {
            "for more at once, put names that belong together into one Certificate, name a fallback issuer, or ask the \
             CA for a higher limit"
        }
        Scope::RegisteredDomain => {
            "for more at once, put several names of the domain into one Certificate, name a fallback issuer, or ask the \
             CA for a higher limit"
        }
        Scope::IdenticalNames => {
            "find out why the same names are asked for so often; a certificate for other names may be issued now"
        }
        Scope::FailedValidations => "make the name reachable until then, or remove it",
    }
}

/// How soon what no watch tells is looked at again.
const BACKSTOP: Duration = Duration::from_mins(5);
/// The same for a target Secret that isn't Waxwing's and so isn't watched.
const FOREIGN_SECRET: Duration = Duration::from_secs(30);
/// An order that a CA hasn't brought to an end in this time is left.
const STUCK: Duration = Duration::from_hours(24);
const A_MOMENT: Duration = Duration::from_secs(1);

/// URLs without their paths, which differ from order to order.
fn without_paths(text: &str) -> String {
    let short = |word: &str| {
        let (scheme, rest) = word.split_once("://")?;
        let (host, path) = rest.split_once('/')?;
        let end = path.trim_end_matches([':', '.', ',', ';', ')']).len();
        Some(format!("{scheme}://{host}{}", path.get(end..).unwrap_or_default()))
    };
    text.split(' ').map(|word| short(word).unwrap_or_else(|| word.to_owned())).collect::<Vec<_>>().join(" ")
}

/// When what serves is needed more urgently, or has expired.
fn changes_at(wanted: &Wanted, stored: &Stored, now: Timestamp) -> Option<Timestamp> {
    let leaf = decide::serving(wanted, stored, now).ok()?;
    let urgent = later(runs_out_after(leaf.not_before, leaf.not_after), A_MOMENT);
    [urgent, leaf.not_after].into_iter().filter(|at| *at > now).min()
}

/// Whether the issuance failed for want of the API server, which says nothing about the Certificate.
fn stands_on_api_server(error: &ObtainError) -> bool {
    if !matches!(&*error.kind, ObtainErrorKind::Journal(_) | ObtainErrorKind::Solver { .. }) {
        return false;
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(call) = error.downcast_ref::<CallError>() {
            return !call.is_refusal() || call.is_not_found();
        }
        source = error.source();
    }
    false
}

/// Whether the CA has looked and said no.
fn is_verdict(kind: &ObtainErrorKind) -> bool {
    matches!(kind, ObtainErrorKind::Validation { .. } | ObtainErrorKind::OrderInvalid { .. })
}

/// Whether the order can't be gone on with, so that its Secret is of no more use.
fn order_has_ended(kind: &ObtainErrorKind) -> bool {
    match kind {
        ObtainErrorKind::Validation { .. }
        | ObtainErrorKind::OrderInvalid { .. }
        | ObtainErrorKind::NoSolver { .. }
        | ObtainErrorKind::ForeignOrder
        | ObtainErrorKind::Request(_)
        | ObtainErrorKind::Key(_) => true,
        // What isn't valid yet is waited for.
        ObtainErrorKind::Certificate(error) => !matches!(error, PairError::NotYet { .. }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_a_cas_server_and_no_order() {
        assert_eq!(
            without_paths("No answer from https://ca.example/order/7: time-out. See http://a.example/."),
            "No answer from https://ca.example: time-out. See http://a.example."
        );
    }
}
