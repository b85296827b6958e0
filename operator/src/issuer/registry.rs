//! What is known of each issuer: written by the issuer controller, read by whoever issues.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::broadcast;
use waxwing_acme::{ObtainError, retry::after};
use waxwing_api::{Acme, ClusterIssuer, Issuer, IssuerKind};

use super::{
    IssuerKey, Lookup, ReadyIssuer,
    account::Problem,
    health::{Breaker, is_outage},
};
use crate::runtime::watch::Watch;

/// Changes that a reader may lag behind; one that does is told so and must look at all issuers.
const BUFFER: usize = 256;
/// An account is registered again so often in [`AGAIN`].
const LOSSES: usize = 5;
/// See [`LOSSES`].
const AGAIN: Duration = Duration::from_mins(10);

/// The issuers. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// By the URL of the CA's directory. A CA that answers has none.
    breakers: Mutex<HashMap<String, Breaker>>,
    changes: broadcast::Sender<IssuerKey>,
    cluster_issuers: Option<Watch<ClusterIssuer>>,
    entries: RwLock<HashMap<IssuerKey, Entry>>,
    issuers: Watch<Issuer>,
    /// When each account was registered again because the CA had lost it: the last times.
    losses: Mutex<HashMap<IssuerKey, Vec<Timestamp>>>,
    lost: broadcast::Sender<IssuerKey>,
}

/// The last attempt to make an issuer ready.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// UID and generation of the issuer that it was made for.
    pub(super) version: Version,
    /// What the account depends on.
    pub(super) identity: Acme,
    pub(super) outcome: Outcome,
    /// Failed attempts in a row.
    pub(super) attempts: u32,
    /// The CA has forgotten the account since.
    pub(super) lost: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Failed { problem: Problem, next: Timestamp },
    Ready(Arc<ReadyIssuer>),
}

/// One state of an issuer's spec.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Version {
    pub(super) uid: Option<String>,
    pub(super) generation: Option<i64>,
}

impl Registry {
    /// A registry of the issuers in these caches; without cluster issuers where Waxwing works for some namespaces alone.
    pub fn new(issuers: Watch<Issuer>, cluster_issuers: Option<Watch<ClusterIssuer>>) -> Self {
        let shared = Shared {
            breakers: Mutex::default(),
            changes: broadcast::channel(BUFFER).0,
            cluster_issuers,
            entries: RwLock::default(),
            issuers,
            losses: Mutex::default(),
            lost: broadcast::channel(BUFFER).0,
        };
        Self { shared: Arc::new(shared) }
    }

    /// What is known of an issuer now.
    pub fn lookup(&self, key: &IssuerKey) -> Lookup {
        let namespace = key.namespace.as_deref();
        let exists = match (key.kind, &self.shared.cluster_issuers) {
            (IssuerKind::Issuer, _) => self.shared.issuers.get(namespace, &key.name).is_some(),
            (IssuerKind::ClusterIssuer, Some(issuers)) => issuers.get(None, &key.name).is_some(),
            (IssuerKind::ClusterIssuer, None) => return Lookup::NotServed,
        };
        if !exists {
            return Lookup::Missing;
        }
        match self.entry(key).map(|entry| entry.outcome) {
            Some(Outcome::Ready(issuer)) => Lookup::Ready(issuer),
            Some(Outcome::Failed { problem, .. }) => {
                Lookup::NotReady { reason: problem.reason.into_owned(), message: problem.message }
            }
            None => Lookup::Pending,
        }
    }

    /// Tells of each issuer that becomes ready, changes or goes. Whoever lags looks at all.
    pub fn changes(&self) -> broadcast::Receiver<IssuerKey> {
        self.shared.changes.subscribe()
    }

    /// Says that the CA doesn't know this issuer's account any more: it is registered again, with the
    /// same key. Whoever tells it again of the same account changes nothing.
    ///
    /// False if that was done [again and again](LOSSES) already: a CA that never knows the account which it has just
    /// registered is not to be asked for one after the other.
    pub fn account_lost(&self, issuer: &Arc<ReadyIssuer>, now: Timestamp) -> bool {
        let mut entries = self.shared.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get_mut(&issuer.key) else { return true };
        let current = matches!(&entry.outcome, Outcome::Ready(known) if Arc::ptr_eq(known, issuer));
        if !current || entry.lost {
            return true;
        }
        let mut losses = self.shared.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let times = losses.entry(issuer.key.clone()).or_default();
        times.retain(|time| after(*time, AGAIN) > now);
        if times.len() >= LOSSES {
            return false;
        }
        times.push(now);
        entry.lost = true;
        // No receiver means that the controller is ending.
        let _ = self.shared.lost.send(issuer.key.clone());
        true
    }

    /// Whether this issuer's CA may be asked where another issuer could be, too; if not, from when on.
    pub fn pass(&self, issuer: &ReadyIssuer, now: Timestamp) -> Result<(), Timestamp> {
        let mut breakers = self.shared.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.get_mut(ca(issuer)).map_or(Ok(()), |breaker| breaker.pass(now))
    }

    /// Notes how an attempt at this issuer ended, for [`pass`](Self::pass).
    pub fn attempted(&self, issuer: &ReadyIssuer, error: Option<&ObtainError>, now: Timestamp) {
        let mut breakers = self.shared.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_some_and(is_outage) {
            breakers.entry(ca(issuer).to_owned()).or_default().failed(now);
        } else {
            breakers.remove(ca(issuer));
        }
    }

    /// Accounts reported as lost.
    pub(super) fn lost(&self) -> broadcast::Receiver<IssuerKey> {
        self.shared.lost.subscribe()
    }

    pub(super) fn entry(&self, key: &IssuerKey) -> Option<Entry> {
        self.shared.entries.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn set(&self, key: &IssuerKey, entry: Entry) {
        self.shared.entries.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), entry);
        let _ = self.shared.changes.send(key.clone());
    }

    pub(super) fn remove(&self, key: &IssuerKey) {
        self.shared.entries.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.shared.losses.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        let _ = self.shared.changes.send(key.clone());
    }
}

fn ca(issuer: &ReadyIssuer) -> &str {
    issuer.account.directory().url().as_str()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use waxwing_api::{ClusterIssuerSpec, reason};

    use super::*;

    #[test]
    fn an_issuer_is_missing_pending_or_known() {
        let known = ClusterIssuer::new("known", ClusterIssuerSpec::default());
        let registry = Registry::new(Watch::of(Vec::new()), Some(Watch::of(vec![known])));
        let key = |name: &str| IssuerKey {
            kind: IssuerKind::ClusterIssuer,
            namespace: None,
            name: name.to_owned(),
        };
        assert!(matches!(registry.lookup(&key("other")), Lookup::Missing));
        assert!(matches!(registry.lookup(&key("known")), Lookup::Pending));
        let mut changes = registry.changes();
        let problem = Problem::new(reason::KEY_MISSING, "create it");
        let entry = Entry {
            version: Version::default(),
            identity: Acme::default(),
            outcome: Outcome::Failed { problem, next: Timestamp::MAX },
            attempts: 1,
            lost: false,
        };
        registry.set(&key("known"), entry);
        assert!(
            matches!(registry.lookup(&key("known")), Lookup::NotReady { reason, .. } if reason == reason::KEY_MISSING)
        );
        assert_eq!(changes.try_recv().unwrap(), key("known"));
    }

    #[test]
    fn for_some_namespaces_there_are_no_cluster_issuers() {
        let registry = Registry::new(Watch::of(Vec::new()), None);
        let key = |kind, namespace: Option<&str>| IssuerKey {
            kind,
            namespace: namespace.map(str::to_owned),
            name: "ca".to_owned(),
        };
        assert!(matches!(registry.lookup(&key(IssuerKind::ClusterIssuer, None)), Lookup::NotServed));
        assert!(matches!(registry.lookup(&key(IssuerKind::Issuer, Some("web"))), Lookup::Missing));
    }

    #[test]
    fn keys_read_like_kubectl() {
        let key =
            IssuerKey { kind: IssuerKind::Issuer, namespace: Some("web".to_owned()), name: "ca".to_owned() };
        assert_eq!(key.to_string(), "Issuer web/ca");
        let key = IssuerKey { kind: IssuerKind::ClusterIssuer, namespace: None, name: "ca".to_owned() };
        assert_eq!(key.to_string(), "ClusterIssuer ca");
    }
}
