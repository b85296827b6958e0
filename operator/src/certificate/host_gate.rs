//! One account at a time has an order open for a host.
//!
//! The responder answers a challenge from the host and the thumbprint of the account whose order is open for
//! it: two accounts at once would leave it without an answer.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Who has orders open for which hosts. Clones are handles to the same gate.
#[derive(Clone, Debug, Default)]
pub struct HostGate {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    hosts: Mutex<HashMap<String, Holder>>,
    left: Notify,
}

#[derive(Debug)]
struct Holder {
    thumbprint: String,
    orders: usize,
}

/// The right to have an order open for some hosts. Dropping it gives it back.
#[derive(Debug)]
pub struct Passage {
    gate: HostGate,
    hosts: BTreeSet<String>,
    /// Whether it had to be waited for.
    pub waited: bool,
}

impl HostGate {
    /// Waits until no other account than that of `thumbprint` has an order open for any of the hosts.
    pub async fn enter(&self, hosts: &BTreeSet<String>, thumbprint: &str) -> Passage {
        let mut waited = false;
        loop {
            let left = self.shared.left.notified();
            if self.try_enter(hosts, thumbprint) {
                return Passage { gate: self.clone(), hosts: hosts.clone(), waited };
            }
            waited = true;
            left.await;
        }
    }

    fn try_enter(&self, hosts: &BTreeSet<String>, thumbprint: &str) -> bool {
        let mut held = self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.iter().any(|host| held.get(host).is_some_and(|holder| holder.thumbprint != thumbprint)) {
            return false;
        }
        for host in hosts {
            held.entry(host.clone())
                .or_insert_with(|| Holder { thumbprint: thumbprint.to_owned(), orders: 0 })
                .orders += 1;
        }
        true
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut held = self.gate.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        for host in &self.hosts {
            if let Some(holder) = held.get_mut(host) {
                holder.orders -= 1;
                if holder.orders == 0 {
                    held.remove(host);
                }
            }
        }
        drop(held);
        self.gate.shared.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn hosts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn one_account_shares_a_host_and_another_waits() {
        let gate = HostGate::default();
        let first = gate.enter(&hosts(&["a", "b"]), "one").await;
        let second = gate.enter(&hosts(&["b"]), "one").await;
        assert!(!second.waited);
        let other_hosts = hosts(&["b", "c"]);
        let mut other = Box::pin(gate.enter(&other_hosts, "two"));
        assert!(other.as_mut().now_or_never().is_none());
        drop(first);
        assert!(other.as_mut().now_or_never().is_none());
        drop(second);
        assert!(other.await.waited);
        assert!(gate.shared.hosts.lock().unwrap().is_empty(), "what is left is forgotten");
    }
}
