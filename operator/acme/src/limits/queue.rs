//! Who goes first where tokens are short.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Purpose;
use super::bucket::Bucket;

/// How much somebody needs a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// The certificate in use has expired or will soon.
    pub urgent: bool,
    /// The last attempt failed.
    pub failing: bool,
    /// Since when it is due.
    pub since: Timestamp,
}

impl Standing {
    /// The lower, the sooner: certificates in use that run out; then first ones, before renewals that have time. What
    /// fails comes after what doesn't, but a certificate that runs out never waits for somebody's first one.
    pub(super) const fn rank(self, purpose: Purpose) -> u8 {
        match (self.urgent, self.failing, purpose) {
            (true, false, _) => 0,
            (true, true, _) => 1,
            (false, false, Purpose::FirstIssue) => 2,
            (false, false, Purpose::Renewal | Purpose::RenewalByAri) => 3,
            (false, true, Purpose::FirstIssue) => 4,
            (false, true, Purpose::Renewal | Purpose::RenewalByAri) => 5,
        }
    }
}

/// Somebody's place in a line. The order of the fields is the order of the line within a namespace.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place<'a> {
    pub(super) rank: u8,
    pub(super) since: Timestamp,
    pub(super) id: &'a str,
    pub(super) namespace: &'a str,
}

/// The line for a bucket, first of all the one whose turn is next: by rank, and within a rank namespaces take turns, so
/// that many requests of one don't make others wait.
pub(super) fn line<'a>(bucket: &Bucket, mut places: Vec<Place<'a>>, now: Timestamp) -> Vec<Place<'a>> {
    places.sort_unstable();
    let mut before: BTreeMap<&str, usize> = BTreeMap::new();
    let mut turns: Vec<_> = places
        .into_iter()
        .map(|place| {
            let others = before.entry(place.namespace).or_default();
            let turn = bucket.turn(place.namespace, *others, now);
            *others += 1;
            (place.rank, turn, place)
        })
        .collect();
    turns.sort_unstable();
    turns.into_iter().map(|(.., place)| place).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::limits::{Rate, Scope};
    use crate::retry::after;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn ids(bucket: &Bucket, places: &[(u8, u64, &'static str, &'static str)]) -> Vec<&'static str> {
        let places = places.iter().map(|(rank, since, id, namespace)| {
            let since = after(NOW, Duration::from_secs(*since));
            Place { rank: *rank, since, id, namespace }
        });
        line(bucket, places.collect(), NOW).into_iter().map(|place| place.id).collect()
    }

    #[test]
    fn namespaces_take_turns_within_a_rank() {
        let mut bucket = Bucket::full(Rate::new(Scope::Account, 10, Duration::from_secs(100)).unwrap());
        let places =
            [(2, 0, "a1", "a"), (2, 1, "a2", "a"), (2, 2, "a3", "a"), (2, 9, "b1", "b"), (2, 9, "c1", "c")];
        assert_eq!(ids(&bucket, &places), ["a1", "b1", "c1", "a2", "a3"]);
        // Who has just had one waits for those who haven't.
        bucket.take("a", NOW);
        assert_eq!(ids(&bucket, &places), ["b1", "c1", "a1", "a2", "a3"]);
        let urgent = [(2, 0, "b1", "b"), (0, 9, "a1", "a")];
        assert_eq!(ids(&bucket, &urgent), ["a1", "b1"], "rank goes before fairness");
    }

    #[test]
    fn what_runs_out_goes_first_and_what_fails_last() {
        let rank = |urgent, failing, purpose| Standing { urgent, failing, since: NOW }.rank(purpose);
        let order = [
            rank(true, false, Purpose::Renewal),
            rank(true, true, Purpose::Renewal),
            rank(false, false, Purpose::FirstIssue),
            rank(false, false, Purpose::Renewal),
            rank(false, true, Purpose::FirstIssue),
            rank(false, true, Purpose::RenewalByAri),
        ];
        assert!(order.is_sorted_by(|one, other| one < other), "{order:?}");
    }
}
