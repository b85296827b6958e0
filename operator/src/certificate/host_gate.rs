//! One account at a time has an order open for a host, and one order for the same names.
//!
//! The responder answers a challenge from the host and the thumbprint of the account whose order is open for
//! it: two accounts at once would leave it without an answer. Two orders of an account for the same names are one
//! at most CAs; the engine lets the second wait, here it does so without a turn.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Who has orders open for which hosts. Clones are handles to the same gate.
#[derive(Clone, Debug, Default)]
pub struct HostGate {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<Held>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Held {
    hosts: HashMap<String, Holder>,
    orders: HashSet<Order>,
}

#[derive(Debug)]
struct Holder {
    thumbprint: String,
    orders: usize,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Order {
    thumbprint: String,
    hosts: BTreeSet<String>,
}

/// The right to have an order open for some hosts. Dropping it gives it back.
#[derive(Debug)]
pub struct Passage {
    gate: HostGate,
    order: Order,
}

impl HostGate {
    /// The right to have an order open for `hosts` with the account of `thumbprint`, if nobody stands in the way.
    pub fn enter(&self, hosts: &BTreeSet<String>, thumbprint: &str) -> Option<Passage> {
        let order = Order { thumbprint: thumbprint.to_owned(), hosts: hosts.clone() };
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.admits(&order) {
            return None;
        }
        for host in hosts {
            held.hosts
                .entry(host.clone())
                .or_insert_with(|| Holder { thumbprint: thumbprint.to_owned(), orders: 0 })
                .orders += 1;
        }
        held.orders.insert(order.clone());
        Some(Passage { gate: self.clone(), order })
    }

    /// Returns when nobody stands in the way any more; others may enter before whoever has waited.
    pub async fn free(&self, hosts: &BTreeSet<String>, thumbprint: &str) {
        let order = Order { thumbprint: thumbprint.to_owned(), hosts: hosts.clone() };
        loop {
            let left = self.shared.left.notified();
            if self.shared.held.lock().unwrap_or_else(PoisonError::into_inner).admits(&order) {
                return;
            }
            left.await;
        }
    }
}

impl Held {
    fn admits(&self, order: &Order) -> bool {
        let others = |host| self.hosts.get(host).is_some_and(|holder| holder.thumbprint != order.thumbprint);
        !order.hosts.iter().any(others) && !self.orders.contains(order)
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut held = self.gate.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        for host in &self.order.hosts {
            if let Some(holder) = held.hosts.get_mut(host) {
                holder.orders -= 1;
                if holder.orders == 0 {
                    held.hosts.remove(host);
                }
            }
        }
        held.orders.remove(&self.order);
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
        let first = gate.enter(&hosts(&["a", "b"]), "one").unwrap();
        let second = gate.enter(&hosts(&["b"]), "one").unwrap();
        let other_hosts = hosts(&["b", "c"]);
        assert!(gate.enter(&other_hosts, "two").is_none());
        let mut other = Box::pin(gate.free(&other_hosts, "two"));
        assert!(other.as_mut().now_or_never().is_none());
        drop(first);
        assert!(other.as_mut().now_or_never().is_none());
        drop(second);
        other.await;
        drop(gate.enter(&other_hosts, "two").unwrap());
        let held = gate.shared.held.lock().unwrap();
        assert!(held.hosts.is_empty() && held.orders.is_empty(), "what is left is forgotten");
    }

    #[tokio::test]
    async fn the_same_names_are_ordered_one_after_the_other() {
        let gate = HostGate::default();
        let (same, more) = (hosts(&["a"]), hosts(&["a", "b"]));
        let first = gate.enter(&same, "one").unwrap();
        let _other_names = gate.enter(&more, "one").unwrap();
        assert!(gate.enter(&same, "one").is_none());
        let mut second = Box::pin(gate.free(&same, "one"));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        second.await;
        assert!(gate.enter(&same, "one").is_some());
    }
}
