//! The budget: what CAs allow, shared by all Certificates of a leader's term.
//!
//! The ledger lives in memory. What it must know after a restart, or on another replica, is in what is stored anyway:
//! the status of Certificates, and order Secrets. So no write is made for it alone. What is only on objects that
//! tenants may write isn't believed: it could use up a neighbour's budget. So after a restart nothing is known of
//! Certificates that are gone; if that makes a difference, the CA says so, and nobody asks again before its time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::broadcast;
use waxwing_acme::limits::{
    Applicant, Ledger, Limits, Past, Purpose, Rate, Settled, Standing, Wait, refused_limit,
};
use waxwing_acme::retry::whole_second;
use waxwing_acme::{Failure as HttpFailure, Leaf, ObtainError, ObtainErrorKind, Retry, SuggestedWindow};
use waxwing_api::{Certificate, LimitRefusal, LimitUse};

use super::decide::{Failures, later, until};
use super::limits_used;
use super::memory::{self, Caches, Memory};
use super::wanted::Wanted;
use crate::issuer::ReadyIssuer;
use crate::runtime::metrics::Metrics;
use crate::runtime::watch::Watches;

/// What has been used of each CA's limits, and who waits. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
    caches: Caches,
    /// Certificates, by UID, whose turn may have come.
    freed: broadcast::Sender<String>,
}

/// What an attempt that failed leaves of limits.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// What it has used of them.
    pub used: Option<LimitUse>,
    /// Which the CA called used up.
    pub refusal: Option<LimitRefusal>,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    /// The rates that the ledger knows the past of, each with the CA or the account that it is counted for.
    counted: HashSet<(String, Rate)>,
    /// Since when each waits.
    since: HashMap<String, Timestamp>,
}

/// Turns that come up before a reader must look at all.
const BUFFER: usize = 1024;
/// A limit that a CA calls used up without a time.
const UNNAMED: Duration = Duration::from_mins(10);
/// A limit that a CA calls used up without saying which holds the others of the account up for so long: so that not all
/// ask at once, and one name's limit doesn't stop everybody for a week. Who was refused waits for the CA's time.
const UNSAID: Duration = Duration::from_secs(30);

impl Budget {
    /// What is known at the begin of a term. The caches must have been filled.
    pub fn new(watches: &Watches, metrics: Arc<Metrics>) -> Self {
        let caches = Caches::of(watches);
        let state = State::rebuilt(&memory::read(&caches, now()), now());
        let shared =
            Shared { state: Mutex::new(state), metrics, caches, freed: broadcast::channel(BUFFER).0 };
        Self { shared: Arc::new(shared) }
    }

    /// Takes what a new order needs, or says until when to wait.
    pub fn admit(&self, issuer: &ReadyIssuer, applicant: &Applicant) -> Result<(), Wait> {
        let now = now();
        let mut state = self.state(issuer);
        let admitted = state.ledger.admit(&issuer.limits, applicant, now);
        if admitted.is_ok()
            && let Some(since) = state.since.remove(&applicant.id)
        {
            self.shared.metrics.limit_waited(until(now, since));
        }
        self.told(&mut state, applicant, admitted, now)
    }

    /// Says until when to wait, if so, and takes nothing.
    pub fn ask(&self, issuer: &ReadyIssuer, applicant: &Applicant) -> Result<(), Wait> {
        let now = now();
        let mut state = self.state(issuer);
        let admitted = state.ledger.ask(&issuer.limits, applicant, now);
        self.told(&mut state, applicant, admitted, now)
    }

    fn told(
        &self,
        state: &mut State,
        applicant: &Applicant,
        admitted: Result<(), Wait>,
        now: Timestamp,
    ) -> Result<(), Wait> {
        if admitted.is_err() {
            state.since.entry(applicant.id.clone()).or_insert(now);
        }
        self.count(state);
        admitted.map_err(|wait| Wait { until: whole_second(wait.until), ..wait })
    }

    /// An order that exists takes what it hasn't taken yet, and doesn't wait.
    pub fn resume(&self, issuer: &ReadyIssuer, applicant: &Applicant) {
        self.state(issuer).ledger.resume(&issuer.limits, applicant, now());
    }

    /// Says what became of a Certificate's order at an issuer. Gives what it used.
    pub fn settle(&self, issuer: &ReadyIssuer, uid: &str, settled: &Settled) -> Option<LimitUse> {
        let mut state = self.lock();
        let settlement = state.ledger.settle(uid, settled, now());
        drop(state);
        self.wake(settlement.freed);
        settlement.spent.map(|spent| limits_used::of(issuer.account.url(), &spent))
    }

    /// Says that an attempt failed. Gives what it cost: nothing is used while its order is open.
    pub fn failed(&self, issuer: &ReadyIssuer, applicant: &Applicant, error: &ObtainError) -> Cost {
        let mut refusal = None;
        if let Some(refused) = refused_limit(error) {
            let until = match error.class().retry {
                Retry::NotBefore(until) => whole_second(until),
                Retry::Backoff | Retry::AfterChange => later(now(), UNNAMED),
            };
            let until =
                if refused.scope.is_some() { until } else { until.min(whole_second(later(now(), UNSAID))) };
            tracing::info!(limit = ?refused, ca = issuer.ca, %until, "the CA says that a limit is used up");
            self.state(issuer).ledger.refused(&issuer.limits, applicant, &refused, until);
            refusal = limits_used::refusal(issuer.account.url(), &refused, until);
        }
        let used = settled(error).and_then(|settled| self.settle(issuer, &applicant.id, &settled));
        Cost { used, refusal }
    }

    /// Forgets a Certificate that is gone.
    pub fn forget(&self, uid: &str) {
        let mut state = self.lock();
        state.since.remove(uid);
        let freed = state.ledger.forget(uid, now());
        self.count(&state);
        drop(state);
        self.wake(freed);
    }

    /// Tells the UID of each Certificate that waits and whose turn may have come early.
    pub fn freed(&self) -> broadcast::Receiver<String> {
        self.shared.freed.subscribe()
    }

    /// The state, with a ledger that knows the past of this issuer's rates.
    fn state(&self, issuer: &ReadyIssuer) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if !state.knows(&issuer.ca, issuer.account.url(), &issuer.limits) {
            tracing::debug!(issuer = %issuer.key, "rates are new; what was used of them is read again");
            let past = memory::read(&self.shared.caches, now()).past;
            state.learn(&issuer.ca, issuer.account.url(), &issuer.limits, &past);
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, state: &State) {
        for (scope, waiting) in state.ledger.waiting() {
            self.shared.metrics.limit_waiting(scope.name(), waiting);
        }
    }

    fn wake(&self, freed: BTreeSet<String>) {
        for uid in freed {
            // Without a receiver the term is ending.
            let _ = self.shared.freed.send(uid);
        }
    }
}

impl State {
    fn rebuilt(memory: &Memory, now: Timestamp) -> Self {
        let mut state = Self::default();
        for (ca, account, limits) in &memory.issuers {
            state.learn(ca, account, limits, &memory.past);
        }
        for (limits, open) in &memory.open {
            state.ledger.resume(limits, &open.by, open.since);
        }
        for (limits, by, refused, until) in &memory.refused {
            state.ledger.refused(limits, by, refused, *until);
        }
        for (limits, by) in &memory.waiting {
            state.ledger.expect(limits, by, now);
        }
        state
    }

    fn knows(&self, ca: &str, account: &str, limits: &Limits) -> bool {
        limits.rates.iter().all(|rate| self.counted.contains(&(owner(*rate, ca, account), *rate)))
    }

    /// Takes what was used of rates that the ledger doesn't know.
    fn learn(&mut self, ca: &str, account: &str, limits: &Limits, past: &[Past]) {
        for rate in &limits.rates {
            let owner = owner(*rate, ca, account);
            if !self.counted.insert((owner.clone(), *rate)) {
                continue;
            }
            let theirs = |by: &Applicant| {
                if rate.scope.is_of_account() { by.account == owner } else { by.ca == owner }
            };
            let past = past.iter().filter(|one| theirs(&one.by)).cloned().collect();
            self.ledger.replay(&Limits { rates: vec![*rate], renewals: limits.renewals }, past);
        }
    }
}

fn owner(rate: Rate, ca: &str, account: &str) -> String {
    if rate.scope.is_of_account() { account } else { ca }.to_owned()
}

/// What makes a difference for limits, beside spec and issuer.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The stored leaf.
    pub leaf: Option<&'a Leaf>,
    /// When it is to be renewed.
    pub due: Option<Timestamp>,
    /// Whether the issuer wanted now issued it.
    pub same_issuer: bool,
    /// The CA's suggestion, if the order will name the leaf as what it replaces.
    pub replaces: Option<SuggestedWindow>,
    /// Failed attempts.
    pub failures: Failures,
}

/// Who asks, for a Certificate as it stands.
pub fn applicant(
    certificate: &Certificate,
    wanted: &Wanted,
    issuer: &ReadyIssuer,
    facts: &Facts<'_>,
    now: Timestamp,
) -> Applicant {
    let purpose = purpose(wanted, facts, now);
    let created = certificate.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    Applicant {
        id: certificate.uid().unwrap_or_default(),
        namespace: certificate.namespace().unwrap_or_default(),
        ca: issuer.ca.clone(),
        account: issuer.account.url().to_owned(),
        names: wanted.names.clone(),
        purpose,
        standing: Standing {
            urgent: facts.leaf.is_some_and(|leaf| runs_out(leaf.not_before, leaf.not_after, now)),
            failing: facts.failures.set_behind(),
            since: facts.due.unwrap_or(created),
        },
    }
}

/// Boulder exempts an order that names what it replaces within the suggested window alone.
fn purpose(wanted: &Wanted, facts: &Facts<'_>, now: Timestamp) -> Purpose {
    let same_names = |leaf: &Leaf| {
        let names: BTreeSet<&String> = leaf.dns_names.iter().collect();
        names.into_iter().eq(&wanted.names)
    };
    let renewal = facts.leaf.is_some_and(|leaf| facts.same_issuer && same_names(leaf));
    let by_ari = facts.replaces.is_some_and(|window| window.start <= now && now <= window.end);
    match (by_ari, renewal) {
        (true, _) => Purpose::RenewalByAri,
        (false, true) => Purpose::Renewal,
        (false, false) => Purpose::FirstIssue,
    }
}

/// Whether less than a sixth of a lifetime is left: a renewal was due when a third was.
pub(super) fn runs_out(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> bool {
    now > runs_out_after(not_before, not_after)
}

/// Until when it doesn't.
pub(super) fn runs_out_after(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    let left = until(not_after, not_before) / 6;
    not_after.saturating_sub(left).unwrap_or(not_before)
}

/// What an error says of the order's tokens; `None` while the order is open.
fn settled(error: &ObtainError) -> Option<Settled> {
    Some(match &*error.kind {
        // Refused by the CA's own answer. If there was none, it may have made the order all the same.
        ObtainErrorKind::Ca { doing: "ordering", source } => {
            match source.request().map(|error| &error.failure) {
                Some(HttpFailure::Status { status: 400..=499, problem: Some(_), .. }) => Settled::Refused,
                _ => Settled::Failed(Vec::new()),
            }
        }
        ObtainErrorKind::Validation { identifier, .. } => {
            let seen = error.evidence.iter().filter(|seen| !seen.passed).map(|seen| seen.host.clone());
            Settled::Failed(seen.chain([identifier.base()]).collect())
        }
        ObtainErrorKind::OrderInvalid { .. }
        | ObtainErrorKind::NoSolver { .. }
        | ObtainErrorKind::Certificate(_)
        | ObtainErrorKind::ForeignOrder => Settled::Failed(Vec::new()),
        ObtainErrorKind::Request(_) | ObtainErrorKind::Key(_) => Settled::Refused,
        _ => return None,
    })
}

fn now() -> Timestamp {
    whole_second(Timestamp::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use waxwing_acme::limits::{Scope, Spent};
    use waxwing_acme::{Error, Problem, RequestError};

    use super::super::wanted::tests::{self, wanted};
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn leaf(names: &[&str]) -> Leaf {
        Leaf {
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..tests::leaf(NOW, later(NOW, Duration::from_hours(90 * 24)))
        }
    }

    #[test]
    fn a_renewal_is_for_the_same_names_from_the_same_issuer() {
        let wanted = wanted(&["a.example", "b.example"]);
        let (same, other) = (leaf(&["b.example", "a.example"]), leaf(&["a.example"]));
        let of = |leaf, same_issuer, replaces| {
            let facts = Facts { leaf, due: None, same_issuer, replaces, failures: Failures::default() };
            purpose(&wanted, &facts, NOW)
        };
        assert_eq!(of(None, false, None), Purpose::FirstIssue);
        assert_eq!(of(Some(&other), true, None), Purpose::FirstIssue);
        assert_eq!(of(Some(&same), false, None), Purpose::FirstIssue);
        assert_eq!(of(Some(&same), true, None), Purpose::Renewal);
        let window = |from, to| {
            let at =
                |seconds| later(NOW - jiff::SignedDuration::from_secs(100), Duration::from_secs(seconds));
            Some(SuggestedWindow { start: at(from), end: at(to) })
        };
        assert_eq!(of(Some(&same), true, window(0, 200)), Purpose::RenewalByAri);
        assert_eq!(of(Some(&same), true, window(0, 99)), Purpose::Renewal, "the window is over");
        assert_eq!(of(Some(&same), true, window(101, 200)), Purpose::Renewal, "it hasn't begun");
    }

    #[test]
    fn a_sixth_of_the_lifetime_is_near_the_end() {
        let leaf = leaf(&[]);
        let after_days = |days: u64| {
            runs_out(leaf.not_before, leaf.not_after, later(NOW, Duration::from_hours(24 * days)))
        };
        assert!(!after_days(60) && !after_days(75) && after_days(76) && after_days(90) && after_days(1000));
    }

    #[test]
    fn tokens_stay_with_an_order_that_may_exist() {
        let ca = |doing, failure| -> ObtainError {
            let request = RequestError { method: "POST", url: "https://ca.example/".into(), failure };
            ObtainErrorKind::Ca { doing, source: Error::Request(request) }.into()
        };
        let refused = || {
            let problem = Some(Box::new(Problem::default()));
            HttpFailure::Status { status: 403, problem, retry_after: None }
        };
        let lost = HttpFailure::Timeout { after: Duration::from_secs(30) };
        assert_eq!(settled(&ca("ordering", refused())), Some(Settled::Refused));
        assert_eq!(settled(&ca("ordering", lost)), Some(Settled::Failed(Vec::new())));
        assert_eq!(settled(&ca("polling the order", refused())), None, "the order is open");
        let invalid = ObtainErrorKind::Validation {
            identifier: waxwing_acme::Identifier::Dns("*.a.example".into()),
            challenge_type: None,
            problem: None,
        };
        assert_eq!(settled(&invalid.into()), Some(Settled::Failed(vec!["a.example".into()])));
    }

    #[test]
    fn the_past_of_a_rate_is_learnt_once() {
        let rate = Rate::new(Scope::RegisteredDomain, 2, Duration::from_hours(1)).unwrap();
        let limits = Limits { rates: vec![rate], ..Limits::default() };
        let by = Applicant {
            id: "a".into(),
            namespace: "web".into(),
            ca: "ca.example".into(),
            account: "account".into(),
            names: ["a.example.com".to_owned()].into(),
            purpose: Purpose::FirstIssue,
            standing: Standing { urgent: false, failing: false, since: NOW },
        };
        let past =
            [Past { by: by.clone(), spent: Spent { at: NOW, scopes: [Scope::RegisteredDomain].into() } }];
        let mut state = State::default();
        for account in ["one", "two"] {
            assert_eq!(
                state.knows("ca.example", account, &limits),
                account == "two",
                "the domain is the CA's"
            );
            state.learn("ca.example", account, &limits, &past);
        }
        assert_eq!(state.ledger.admit(&limits, &by, NOW), Ok(()), "one of two is left");
        assert!(state.ledger.admit(&limits, &Applicant { id: "b".into(), ..by }, NOW).is_err());
    }
}
