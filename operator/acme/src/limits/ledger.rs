//! What has been used of a CA's limits, and who waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::bucket::Bucket;
use super::queue::{Place, line};
use super::{Limits, Purpose, Rate, Refused, Scope, Standing, registered_domains};
use crate::retry::after;

/// Who wants to make an order.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// Who it is: stable, and nobody else's.
    pub id: String,
    /// Among whom tokens are shared out evenly.
    pub namespace: String,
    /// The CA: what [`Scope::RegisteredDomain`] and [`Scope::IdenticalNames`] are counted at.
    pub ca: String,
    /// The account there.
    pub account: String,
    /// The names of the order.
    pub names: BTreeSet<String>,
    /// What it is for.
    pub purpose: Purpose,
    /// How much it is needed.
    pub standing: Standing,
}

/// Why somebody waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wait {
    /// When to ask again.
    pub until: Timestamp,
    /// What is short.
    pub scope: Scope,
    /// The registered domain or the name that it is short for; empty where the scope says it all.
    pub subject: String,
    /// The rate; `None` where the CA has refused and no rate is known.
    pub rate: Option<Rate>,
    /// How many tokens are left.
    pub left: u32,
    /// How many others go first.
    pub ahead: usize,
}

/// What became of an order that tokens were taken for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Settled {
    /// A certificate was issued.
    Issued,
    /// The CA made no order.
    Refused,
    /// The order was made and ended without a certificate; the validations of these names failed.
    Failed(Vec<String>),
}

/// What is left of an order in the ledger.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settlement {
    /// What it has used, to be kept with the certificate; `None` if nothing.
    pub spent: Option<Spent>,
    /// Who waits for what was given back and may ask again at once.
    pub freed: BTreeSet<String>,
}

/// Tokens that were used at one time.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Spent {
    /// When.
    pub at: Timestamp,
    /// Of which scopes, one each; of [`Scope::FailedValidations`] one for each name.
    pub scopes: BTreeSet<Scope>,
}

/// Tokens that were used by somebody, as they were kept.
#[derive(Clone, Debug)]
pub struct Past {
    /// Who, and for what names. Purpose and standing don't matter.
    pub by: Applicant,
    /// What.
    pub spent: Spent,
}

/// Everything that was taken, and everybody who waits.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    buckets: HashMap<Key, Bucket>,
    refusals: HashMap<Subject, Timestamp>,
    waiting: BTreeMap<String, Waiter>,
    held: HashMap<String, Hold>,
    sweep_at: usize,
}

/// What a scope is counted for: an account, a registered domain at a CA, …
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Subject {
    scope: Scope,
    owner: String,
    name: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    subject: Subject,
    rate: Rate,
}

#[derive(Clone, Debug)]
struct Waiter {
    /// What it waits for. Whatever the rates are, it wants the next token.
    subject: Subject,
    namespace: String,
    rank: u8,
    since: Timestamp,
    until: Timestamp,
}

/// Tokens of an order that hasn't ended.
#[derive(Clone, Debug)]
struct Hold {
    by: Applicant,
    at: Timestamp,
    taken: Vec<Key>,
    /// What a failed validation of each name would be counted in.
    failures: Vec<Key>,
}

/// Who doesn't ask again so long after the time named is forgotten.
const PATIENCE: Duration = Duration::from_mins(1);
/// So many are remembered; others come after them.
const WAITING: usize = 10_000;
/// Full buckets are looked for when there are so many more.
const SWEEP: usize = 1024;
/// The name of what a CA refused without saying why: everything of that account.
const EVERYTHING: &str = "*";
/// After a refusal those who wait ask one after the other, so far apart.
const APART: Duration = Duration::from_secs(1);

impl Ledger {
    /// Takes what an order needs, or says until when to wait. Whoever has taken and not settled takes nothing more.
    pub fn admit(&mut self, limits: &Limits, applicant: &Applicant, now: Timestamp) -> Result<(), Wait> {
        self.ask(limits, applicant, now)?;
        self.waiting.remove(&applicant.id);
        if !self.held.contains_key(&applicant.id) {
            self.hold(limits, applicant, now);
        }
        Ok(())
    }

    /// Says until when to wait, if so, and takes nothing: for whoever has more to do before it orders.
    pub fn ask(&mut self, limits: &Limits, applicant: &Applicant, now: Timestamp) -> Result<(), Wait> {
        self.forget_what_is_over(now);
        match self.held.get(&applicant.id) {
            Some(hold) if hold.is_for(applicant) => return Ok(()),
            Some(_) => drop(self.settle(&applicant.id, &Settled::Failed(Vec::new()), now)),
            None => {}
        }
        let binding = self.binding(limits, applicant, now);
        if let Some((wait, subject)) = binding.filter(|(wait, _)| wait.until > now) {
            self.remember(applicant, subject, wait.until);
            return Err(wait);
        }
        Ok(())
    }

    /// Takes what an order that exists has used, if it wasn't taken here.
    pub fn resume(&mut self, limits: &Limits, applicant: &Applicant, ordered_at: Timestamp) {
        if self.held.get(&applicant.id).is_none_or(|hold| !hold.is_for(applicant)) {
            self.hold(limits, applicant, ordered_at);
        }
    }

    /// Remembers one who is known to wait and hasn't asked here yet, so that others don't go first meanwhile.
    pub fn expect(&mut self, limits: &Limits, applicant: &Applicant, now: Timestamp) {
        if let Some((wait, subject)) = self.binding(limits, applicant, now) {
            self.remember(applicant, subject, wait.until.max(now));
        }
    }

    /// Says what became of an order. Tokens that the CA didn't count are given back: all if it made no order; those of
    /// certificates if it issued none.
    pub fn settle(&mut self, id: &str, settled: &Settled, now: Timestamp) -> Settlement {
        let Some(hold) = self.held.remove(id) else { return Settlement::default() };
        let mut used = BTreeSet::new();
        let mut freed = BTreeSet::new();
        for key in &hold.taken {
            let counted = match settled {
                Settled::Issued => true,
                Settled::Refused => false,
                Settled::Failed(_) => key.subject.scope == Scope::Account,
            };
            if counted {
                used.insert(key.subject.scope);
            } else if let Some(bucket) = self.buckets.get_mut(key) {
                bucket.give_back(&hold.by.namespace, hold.at);
                freed.extend(self.next_for(key, now));
            }
        }
        let mut at = hold.at;
        if let Settled::Failed(names) = settled {
            for key in hold.failures.iter().filter(|key| names.contains(&key.subject.name)) {
                self.take(key, &hold.by.namespace, now);
                used.insert(Scope::FailedValidations);
                at = now;
            }
        }
        Settlement { spent: (!used.is_empty()).then_some(Spent { at, scopes: used }), freed }
    }

    /// Forgets one who is gone: it waits no more, and an order that it left open comes to nothing.
    pub fn forget(&mut self, id: &str, now: Timestamp) -> BTreeSet<String> {
        let mut freed = self.settle(id, &Settled::Failed(Vec::new()), now).freed;
        if let Some(Waiter { subject, .. }) = self.waiting.remove(id) {
            let keys = self.buckets.keys().filter(|key| key.subject == subject);
            freed.extend(keys.filter_map(|key| self.next_for(key, now)));
        }
        freed
    }

    /// Takes what was used before. Nothing is checked: it has happened.
    pub fn replay(&mut self, limits: &Limits, mut past: Vec<Past>) {
        past.sort_by_key(|one| one.spent.at);
        for Past { by, spent } in past {
            for key in keys(limits, &by).filter(|key| spent.scopes.contains(&key.subject.scope)) {
                self.take(&key, &by.namespace, spent.at);
            }
        }
    }

    /// The CA said that a limit is used up until a time: nobody asks for it before.
    pub fn refused(&mut self, limits: &Limits, by: &Applicant, refused: &Refused, until: Timestamp) {
        let known =
            refused.scope.filter(|scope| *scope != Scope::FailedValidations || refused.subject.is_some());
        let subjects: Vec<Subject> = match (known, &refused.subject) {
            (None, _) => vec![everything(by)],
            (Some(scope), None) => subjects(by).filter(|subject| subject.scope == scope).collect(),
            (Some(scope), Some(name)) => vec![Subject { name: name.clone(), ..owned(scope, by) }],
        };
        for subject in subjects {
            for rate in
                limits.rates.iter().filter(|rate| rate.scope == subject.scope && subject.name != EVERYTHING)
            {
                let key = Key { subject: subject.clone(), rate: *rate };
                self.buckets.entry(key).or_insert_with(|| Bucket::full(*rate)).empty_until(until);
            }
            let known = self.refusals.entry(subject).or_insert(until);
            *known = until.max(*known);
        }
    }

    /// How many wait, by what is short.
    pub fn waiting(&self) -> BTreeMap<Scope, usize> {
        let mut waiting: BTreeMap<Scope, usize> = Scope::ALL.into_iter().map(|scope| (scope, 0)).collect();
        for waiter in self.waiting.values() {
            *waiting.entry(waiter.subject.scope).or_default() += 1;
        }
        waiting
    }

    /// Whatever keeps this applicant waiting longest, be it over already.
    fn binding(&self, limits: &Limits, applicant: &Applicant, now: Timestamp) -> Option<(Wait, Subject)> {
        let by_rates = concerned(limits, applicant).map(|key| {
            let full = Bucket::full(key.rate);
            let bucket = self.buckets.get(&key).unwrap_or(&full);
            let Key { subject, rate } = &key;
            let ahead = self.ahead(bucket, subject, applicant, now);
            let (until, left) = (bucket.holds(ahead + 1, now), bucket.left(now));
            let (scope, name) = (subject.scope, subject.name.clone());
            (Wait { until, scope, subject: name, rate: Some(*rate), left, ahead }, key.subject)
        });
        let by_refusals = subjects(applicant)
            .filter(|subject| limits.concerns(applicant.purpose, subject.scope))
            .chain([everything(applicant)])
            .filter_map(|subject| {
                let refused = *self.refusals.get(&subject).filter(|until| **until > now)?;
                let ahead = self.places(&subject).iter().filter(|place| place.id != applicant.id).count();
                let until = after(refused, APART * u32::try_from(ahead).unwrap_or(u32::MAX));
                let name = if subject.name == EVERYTHING { String::new() } else { subject.name.clone() };
                Some((
                    Wait { until, scope: subject.scope, subject: name, rate: None, left: 0, ahead },
                    subject,
                ))
            });
        // What is known by a rate says more than the refusal that it was learnt from.
        by_refusals.chain(by_rates).max_by_key(|(wait, _)| wait.until)
    }

    /// How many of those who wait for the same go before this one.
    fn ahead(&self, bucket: &Bucket, subject: &Subject, applicant: &Applicant, now: Timestamp) -> usize {
        // Nobody takes a failed validation on purpose.
        if subject.scope == Scope::FailedValidations {
            return 0;
        }
        let mut places = self.places(subject);
        places.retain(|place| place.id != applicant.id);
        if places.is_empty() {
            return 0;
        }
        places.push(Place {
            rank: applicant.standing.rank(applicant.purpose),
            since: applicant.standing.since,
            id: &applicant.id,
            namespace: &applicant.namespace,
        });
        line(bucket, places, now).iter().take_while(|place| place.id != applicant.id).count()
    }

    fn places(&self, subject: &Subject) -> Vec<Place<'_>> {
        let waiting = self.waiting.iter().filter(|(_, waiter)| waiter.subject == *subject);
        waiting
            .map(|(id, waiter)| Place {
                rank: waiter.rank,
                since: waiter.since,
                id,
                namespace: &waiter.namespace,
            })
            .collect()
    }

    /// Whose turn it would be.
    fn next_for(&self, key: &Key, now: Timestamp) -> Option<String> {
        let line = line(self.buckets.get(key)?, self.places(&key.subject), now);
        line.first().map(|place| place.id.to_owned())
    }

    fn remember(&mut self, applicant: &Applicant, subject: Subject, until: Timestamp) {
        if self.waiting.len() >= WAITING && !self.waiting.contains_key(&applicant.id) {
            return;
        }
        let waiter = Waiter {
            subject,
            namespace: applicant.namespace.clone(),
            rank: applicant.standing.rank(applicant.purpose),
            since: applicant.standing.since,
            until,
        };
        self.waiting.insert(applicant.id.clone(), waiter);
    }

    fn hold(&mut self, limits: &Limits, applicant: &Applicant, at: Timestamp) {
        let taken: Vec<Key> = concerned(limits, applicant)
            .filter(|key| key.subject.scope != Scope::FailedValidations)
            .collect();
        for key in &taken {
            self.take(key, &applicant.namespace, at);
        }
        let failures =
            keys(limits, applicant).filter(|key| key.subject.scope == Scope::FailedValidations).collect();
        self.held.insert(applicant.id.clone(), Hold { by: applicant.clone(), at, taken, failures });
    }

    fn take(&mut self, key: &Key, namespace: &str, at: Timestamp) {
        self.buckets.entry(key.clone()).or_insert_with(|| Bucket::full(key.rate)).take(namespace, at);
    }

    fn forget_what_is_over(&mut self, now: Timestamp) {
        self.waiting.retain(|_, waiter| after(waiter.until, PATIENCE) > now);
        self.refusals.retain(|_, until| *until > now);
        if self.buckets.len() >= self.sweep_at {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            self.sweep_at = self.buckets.len() * 2 + SWEEP;
        }
    }
}

impl Hold {
    fn is_for(&self, applicant: &Applicant) -> bool {
        self.by.names == applicant.names && self.by.account == applicant.account
    }
}

/// A subject of this scope, without its name.
fn owned(scope: Scope, by: &Applicant) -> Subject {
    let owner = if scope.is_of_account() { &by.account } else { &by.ca };
    Subject { scope, owner: owner.clone(), name: String::new() }
}

fn everything(by: &Applicant) -> Subject {
    Subject { name: EVERYTHING.to_owned(), ..owned(Scope::Account, by) }
}

/// All that an order with these names may be counted for.
fn subjects(by: &Applicant) -> impl Iterator<Item = Subject> {
    let names = by.names.iter().map(String::as_str);
    let set = names.clone().collect::<Vec<_>>().join(",");
    let domains = registered_domains(names.clone());
    // The validation of a wildcard is about the name that it stands under.
    let validated: BTreeSet<&str> = names.map(|name| name.strip_prefix("*.").unwrap_or(name)).collect();
    let named = |scope, name: &str| Subject { name: name.to_owned(), ..owned(scope, by) };
    let mut subjects = vec![owned(Scope::Account, by), named(Scope::IdenticalNames, &set)];
    subjects.extend(domains.into_iter().map(|domain| named(Scope::RegisteredDomain, domain)));
    subjects.extend(validated.into_iter().map(|name| named(Scope::FailedValidations, name)));
    subjects.into_iter()
}

/// All that is counted for an order with these names.
fn keys<'l>(limits: &'l Limits, by: &Applicant) -> impl Iterator<Item = Key> + use<'l> {
    let subjects: Vec<Subject> = subjects(by).collect();
    subjects.into_iter().flat_map(|subject| {
        let rates = limits.rates.iter().filter(move |rate| rate.scope == subject.scope);
        let of = subject.clone();
        rates.map(move |rate| Key { subject: of.clone(), rate: *rate })
    })
}

/// All that can stop this order.
fn concerned<'l>(limits: &'l Limits, by: &Applicant) -> impl Iterator<Item = Key> + use<'l> {
    let purpose = by.purpose;
    keys(limits, by).filter(move |key| limits.concerns(purpose, key.subject.scope))
}

impl fmt::Display for Wait {
    /// What is short, without the time: the end of a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.scope {
            Scope::Account => "of this account".to_owned(),
            Scope::RegisteredDomain => format!("for the registered domain {}", self.subject),
            Scope::IdenticalNames => "for exactly these names".to_owned(),
            Scope::FailedValidations => format!("of {}", self.subject),
        };
        match self.rate {
            Some(rate) if self.left > 0 => write!(f, "the limit of {rate} {of} has {} left", self.left)?,
            Some(rate) => write!(f, "the limit of {rate} {of} is used up")?,
            None if self.scope == Scope::Account => write!(f, "the CA refuses new orders {of} for now")?,
            None => write!(f, "the CA says that its limit {of} is used up")?,
        }
        match self.ahead {
            0 => Ok(()),
            1 => write!(f, ", and another one goes first"),
            ahead => write!(f, ", and {ahead} others go first"),
        }
    }
}
