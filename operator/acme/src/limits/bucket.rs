//! A bucket of tokens that refills evenly (the generic cell rate algorithm).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Rate;

/// What has been taken of one rate. Times are nanoseconds since 1970, so that sums can't overflow.
///
/// One time is enough for the tokens themselves: when the bucket will be full again. The times of tokens that may
/// still be given back are kept, so that giving one back leaves exactly what would be without it.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    interval: i128,
    capacity: i128,
    /// When it would be full, by all that can't be given back any more.
    settled: i128,
    /// The tokens taken since, oldest first.
    taken: Vec<i128>,
    /// For each namespace, when its own use would be forgotten if the whole bucket were its: who has used least
    /// lately comes first.
    namespaces: BTreeMap<String, i128>,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn full(rate: Rate) -> Self {
        let count = i128::from(rate.count.get());
        let period = i128::try_from(rate.period.as_nanos()).unwrap_or(i128::MAX >> 32);
        // Rounded up, so that no more is let through than the CA does.
        let interval = (period + count - 1) / count;
        Self {
            interval,
            capacity: interval * count,
            settled: i128::MIN >> 1,
            taken: Vec::new(),
            namespaces: BTreeMap::new(),
        }
    }

    /// When it holds `number` tokens, if the ones before the last are taken as soon as they are there.
    pub(super) fn holds(&self, number: usize, now: Timestamp) -> Timestamp {
        let number = i128::try_from(number).unwrap_or(i128::MAX >> 64);
        let full_at = self.full_at().max(now.as_nanosecond());
        time(full_at - self.capacity + number * self.interval)
    }

    /// How many tokens it holds.
    pub(super) fn left(&self, now: Timestamp) -> u32 {
        let missing = (self.full_at() - now.as_nanosecond()).max(0);
        let left = (self.capacity - missing).max(0) / self.interval.max(1);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// Whether nothing of what was taken matters any more.
    pub(super) fn is_full(&self, now: Timestamp) -> bool {
        self.full_at() <= now.as_nanosecond()
    }

    /// Takes a token at `at`, whether there is one or not.
    pub(super) fn take(&mut self, namespace: &str, at: Timestamp) {
        let at = at.as_nanosecond();
        let place = self.taken.partition_point(|taken| *taken <= at);
        self.taken.insert(place, at);
        self.settle(at);
        let used = self.namespaces.entry(namespace.to_owned()).or_insert(at);
        *used = (*used).max(at) + self.interval;
        self.namespaces.retain(|_, used| *used > at);
    }

    /// Gives back the token that was taken at `at`.
    pub(super) fn give_back(&mut self, namespace: &str, at: Timestamp) {
        let at = at.as_nanosecond();
        let Ok(place) = self.taken.binary_search(&at) else { return };
        self.taken.remove(place);
        if let Some(used) = self.namespaces.get_mut(namespace) {
            *used -= self.interval;
        }
    }

    /// Holds nothing before `until`, and then one.
    pub(super) fn empty_until(&mut self, until: Timestamp) {
        let full_at = until.as_nanosecond() + self.capacity - self.interval;
        if full_at > self.full_at() {
            self.settled = full_at;
            self.taken.clear();
        }
    }

    /// When a namespace's turn comes after `others` of its own that are before it, compared with that of others.
    pub(super) fn turn(&self, namespace: &str, others: usize, now: Timestamp) -> i128 {
        let now = now.as_nanosecond();
        let used = self.namespaces.get(namespace).copied().unwrap_or(now).max(now);
        used + i128::try_from(others).unwrap_or(i128::MAX >> 64) * self.interval
    }

    fn full_at(&self) -> i128 {
        self.taken.iter().fold(self.settled, |full_at, taken| full_at.max(*taken) + self.interval)
    }

    /// Nothing is given back after a whole period, and nothing at all of what a full bucket has made good.
    fn settle(&mut self, now: i128) {
        let old = self.taken.partition_point(|taken| *taken < now.saturating_sub(self.capacity));
        for taken in self.taken.drain(..old) {
            self.settled = self.settled.max(taken) + self.interval;
        }
    }
}

fn time(nanoseconds: i128) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds).unwrap_or(if nanoseconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::limits::Scope;
    use crate::retry::after;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn rate(count: u32, seconds: u64) -> Rate {
        Rate::new(Scope::Account, count, Duration::from_secs(seconds)).unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        after(NOW, Duration::from_secs(seconds))
    }

    #[test]
    fn a_full_bucket_gives_its_count_at_once_and_then_one_each_interval() {
        let mut bucket = Bucket::full(rate(3, 30));
        for left in (0..3).rev() {
            assert!(bucket.holds(1, NOW) <= NOW);
            bucket.take("a", NOW);
            assert_eq!(bucket.left(NOW), left);
        }
        assert_eq!((bucket.holds(1, NOW), bucket.holds(2, NOW)), (at(10), at(20)));
        assert_eq!(bucket.holds(4, at(100)), at(110), "three of them at once");
        assert_eq!((bucket.left(at(9)), bucket.left(at(10)), bucket.left(at(1000))), (0, 1, 3));
        assert!(bucket.is_full(at(30)) && !bucket.is_full(at(29)));
    }

    #[test]
    fn what_is_given_back_is_as_never_taken() {
        let mut bucket = Bucket::full(rate(2, 20));
        bucket.take("a", NOW);
        bucket.take("a", at(9));
        bucket.give_back("a", NOW);
        // The first one's refill, which had nearly come, goes with it.
        assert_eq!((bucket.left(at(9)), bucket.holds(2, at(9))), (1, at(19)));
        bucket.give_back("a", at(9));
        bucket.give_back("a", at(9));
        assert_eq!(bucket.left(at(9)), 2);
    }

    #[test]
    fn a_refusal_empties_it() {
        let mut bucket = Bucket::full(rate(5, 50));
        bucket.empty_until(at(100));
        assert_eq!((bucket.left(at(99)), bucket.left(at(100)), bucket.left(at(110))), (0, 1, 2));
        bucket.empty_until(at(50));
        assert_eq!(bucket.left(at(99)), 0, "an earlier one gives nothing back");
    }

    #[test]
    fn who_used_less_comes_first() {
        let mut bucket = Bucket::full(rate(10, 100));
        bucket.take("a", NOW);
        assert!(bucket.turn("b", 0, NOW) < bucket.turn("a", 0, NOW));
        assert!(bucket.turn("a", 0, NOW) < bucket.turn("b", 2, NOW));
        assert_eq!(bucket.turn("a", 0, at(10)), bucket.turn("b", 0, at(10)), "it is forgotten");
    }

    /// What is asked of a bucket: after how many seconds, and whether an earlier token is given back (which).
    fn asked() -> impl Strategy<Value = Vec<(u64, Option<prop::sample::Index>)>> {
        prop::collection::vec((0_u64..40, prop::option::weighted(0.3, any::<prop::sample::Index>())), 1..120)
    }

    proptest! {
        /// The CA's own rule, over every stretch of time: a burst of `count`, and one each interval.
        #[test]
        fn never_more_than_the_rate(count in 1_u32..8, interval in 1_u64..30, asked in asked()) {
            let rate = rate(count, interval * u64::from(count));
            let mut bucket = Bucket::full(rate);
            let (mut taken, mut clock) = (Vec::<u64>::new(), 0);
            for (pause, given_back) in asked {
                clock += pause;
                match given_back {
                    Some(which) if !taken.is_empty() => {
                        // Soon enough: what is older than a period can't be given back.
                        let which = taken.remove(which.index(taken.len()));
                        if which + interval * u64::from(count) < clock {
                            taken.push(which);
                            taken.sort_unstable();
                        } else {
                            bucket.give_back("a", at(which));
                        }
                    }
                    _ if bucket.holds(1, at(clock)) <= at(clock) => {
                        bucket.take("a", at(clock));
                        taken.push(clock);
                    }
                    _ => {}
                }
                for (first, begin) in taken.iter().enumerate() {
                    for (last, end) in taken.iter().enumerate().skip(first) {
                        let number = u64::try_from(last - first + 1).unwrap();
                        prop_assert!(number <= u64::from(count) + (end - begin) / interval, "{taken:?}");
                    }
                }
            }
        }

        /// Made anew from what was taken, in whatever order, it lets no more through.
        #[test]
        fn rebuilt_it_is_no_more_generous(count in 1_u32..8, interval in 1_u64..30, times in prop::collection::vec(0_u64..500, 0..40)) {
            let rate = rate(count, interval * u64::from(count));
            let build = |times: &[u64]| {
                let mut bucket = Bucket::full(rate);
                for time in times {
                    bucket.take("a", at(*time));
                }
                bucket
            };
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let (one, other) = (build(&sorted), build(&times));
            // What is older than a period when a later one comes is settled in the order of its coming, which can
            // only hold back more.
            prop_assert!(other.full_at() >= one.full_at());
        }
    }
}
