//! Which hosts have an open order, and the account's thumbprint that answers for each: an index of the order Secrets.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use tokio::{sync::watch, time::timeout};
use waxwing_api::labels;

use crate::runtime::watch::Change;

/// The index. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct OpenOrders {
    index: Arc<RwLock<Index>>,
    version: watch::Sender<u64>,
}

impl Default for OpenOrders {
    fn default() -> Self {
        Self { index: Arc::default(), version: watch::Sender::new(0) }
    }
}

impl OpenOrders {
    /// Keeps the index like the cache of order Secrets, for as long as `changes` go on. `all` reads the cache.
    pub async fn follow(
        &self,
        changes: impl Stream<Item = Change<Secret>>,
        all: impl Fn() -> Vec<Arc<Secret>>,
    ) {
        let mut changes = pin!(changes);
        while let Some(change) = changes.next().await {
            {
                let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
                match change {
                    Change::Applied(secret) => index.apply(&secret),
                    Change::Deleted(secret) => index.remove(&secret),
                    Change::Resynced => {
                        *index = Index::default();
                        for secret in all() {
                            index.apply(&secret);
                        }
                    }
                }
            }
            self.version.send_modify(|version| *version = version.wrapping_add(1));
        }
    }

    /// The thumbprint that answers for this host now.
    pub fn thumbprint(&self, host: &str) -> Option<String> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).thumbprint(host).map(str::to_owned)
    }

    /// Like [`OpenOrders::thumbprint`], but gives the cache up to `wait` to learn of the order.
    pub async fn wait_for_thumbprint(&self, host: &str, wait: Duration) -> Option<String> {
        let mut version = self.version.subscribe();
        let found = async {
            loop {
                version.borrow_and_update();
                if let Some(thumbprint) = self.thumbprint(host) {
                    return Some(thumbprint);
                }
                version.changed().await.ok()?;
            }
        };
        timeout(wait, found).await.ok().flatten()
    }

    /// True if any order is open for this host.
    pub fn is_open(&self, host: &str) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).hosts.contains_key(host)
    }

    /// True if the order Secret of this name is there.
    pub fn has(&self, order_secret: &str) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).secrets.contains_key(order_secret)
    }

    /// True if no order is open at all.
    pub fn is_empty(&self) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).hosts.is_empty()
    }

    /// Tells of each change of the index.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

/// The DNS names in an order Secret's `hosts`.
pub fn hosts_of(secret: &Secret) -> BTreeSet<String> {
    text(secret, labels::ORDER_HOSTS)
        .lines()
        .map(|line| line.trim().trim_end_matches('.').to_ascii_lowercase())
        .filter(|host| !host.is_empty())
        .collect()
}

#[derive(Debug, Default)]
struct Index {
    /// By host, then by age. Where two accounts have an order open the newer one answers: only one account at a time is
    /// worked for (`HostGate`), and the older order is one that waits for its CA.
    hosts: HashMap<String, BTreeMap<Age, String>>,
    /// What each Secret put there.
    secrets: HashMap<String, (Timestamp, BTreeSet<String>)>,
}

/// When an order Secret was made, and its name.
type Age = (Timestamp, String);

impl Index {
    fn apply(&mut self, secret: &Secret) {
        self.remove(secret);
        let Some(name) = secret.metadata.name.clone() else { return };
        let thumbprint = text(secret, labels::ORDER_THUMBPRINT).trim();
        // It is part of every answer, so it must be what a thumbprint is: base64url (RFC 7638).
        if thumbprint.is_empty() || !thumbprint.bytes().all(super::is_base64url) {
            return;
        }
        let made = secret.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
        let hosts = hosts_of(secret);
        for host in &hosts {
            let orders = self.hosts.entry(host.clone()).or_default();
            orders.insert((made, name.clone()), thumbprint.to_owned());
        }
        self.secrets.insert(name, (made, hosts));
    }

    fn remove(&mut self, secret: &Secret) {
        let Some(name) = &secret.metadata.name else { return };
        let Some((made, hosts)) = self.secrets.remove(name) else { return };
        for host in hosts {
            if let Some(orders) = self.hosts.get_mut(&host) {
                orders.remove(&(made, name.clone()));
                if orders.is_empty() {
                    self.hosts.remove(&host);
                }
            }
        }
    }

    fn thumbprint(&self, host: &str) -> Option<&str> {
        Some(self.hosts.get(host)?.last_key_value()?.1)
    }
}

fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let data = secret.data.as_ref().and_then(|data| data.get(key));
    data.and_then(|ByteString(bytes)| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use futures::stream;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    use super::*;

    /// An order Secret as the responder reads it.
    pub(crate) fn order(name: &str, made: i64, thumbprint: &str, hosts: &str) -> Secret {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                creation_timestamp: Some(Time(Timestamp::from_second(made).unwrap())),
                ..ObjectMeta::default()
            },
            data: Some(
                [
                    (labels::ORDER_THUMBPRINT.to_owned(), bytes(thumbprint)),
                    (labels::ORDER_HOSTS.to_owned(), bytes(hosts)),
                ]
                .into(),
            ),
            ..Secret::default()
        }
    }

    #[test]
    fn the_newer_order_answers_and_its_end_leaves_the_other() {
        let mut index = Index::default();
        index.apply(&order("b", 20, "second", "a.example\n"));
        index.apply(&order("a", 10, "first", "A.example.\nb.example"));
        assert_eq!(index.thumbprint("a.example"), Some("second"));
        assert_eq!(index.thumbprint("b.example"), Some("first"));
        index.remove(&order("b", 20, "", ""));
        assert_eq!(index.thumbprint("a.example"), Some("first"));
        index.remove(&order("a", 10, "", ""));
        assert_eq!(index.thumbprint("b.example"), None);
        assert!(index.hosts.is_empty() && index.secrets.is_empty());
    }

    #[test]
    fn a_thumbprint_that_is_none_answers_nothing() {
        let mut index = Index::default();
        index.apply(&order("a", 10, "<script>", "a.example"));
        index.apply(&order("b", 10, "", "a.example"));
        assert_eq!(index.thumbprint("a.example"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_miss_waits_for_the_cache() {
        let orders = OpenOrders::default();
        assert_eq!(orders.wait_for_thumbprint("a.example", Duration::from_secs(3)).await, None);
        let waiting = orders.wait_for_thumbprint("a.example", Duration::from_secs(3));
        let change = Change::Applied(Arc::new(order("a", 10, "first", "a.example")));
        let following = async {
            // The waiter looks first.
            tokio::task::yield_now().await;
            orders.follow(stream::iter([change]), Vec::new).await;
        };
        let (found, ()) = tokio::join!(waiting, following);
        assert_eq!(found.as_deref(), Some("first"));
        orders.follow(stream::iter([Change::Resynced]), Vec::new).await;
        assert!(orders.is_empty());
    }
}
