//! Let's Encrypt's limits (<https://letsencrypt.org/docs/rate-limits/>), counted as Boulder counts: a bucket that
//! holds `count` and is refilled evenly over `period`.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

use super::{
    clock::{earlier, later},
    problem::{Problem, RetryAfter},
};

/// What is limited. The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// New orders for each account.
    pub new_orders: Option<Limit>,
    /// Certificates for each registered domain: the last two labels of a name, as all of the lab's names end in
    /// `.test`.
    pub certificates_per_domain: Option<Limit>,
    /// Certificates for each exact set of names.
    pub certificates_per_set: Option<Limit>,
    /// Failed validations for each name and account.
    pub failed_validations: Option<Limit>,
}

/// So many in a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limit {
    /// How many.
    pub count: u32,
    /// In how long.
    pub period: Duration,
}

/// What is counted separately.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Bucket {
    Orders(usize),
    Domain(String),
    Set(Vec<String>),
    Failures(usize, String),
}

/// What is left in each bucket: the time at which it is full again (the "theoretical arrival time" of GCRA).
#[derive(Debug, Default)]
pub(super) struct Buckets {
    full_at: HashMap<Bucket, Timestamp>,
}

const WEEK: Duration = Duration::from_hours(7 * 24);

impl Limits {
    /// Those of Let's Encrypt's production environment.
    pub fn lets_encrypt() -> Self {
        Self {
            new_orders: Some(Limit { count: 300, period: Duration::from_hours(3) }),
            certificates_per_domain: Some(Limit { count: 50, period: WEEK }),
            certificates_per_set: Some(Limit { count: 5, period: WEEK }),
            failed_validations: Some(Limit { count: 5, period: Duration::from_hours(1) }),
        }
    }

    /// The limit on a bucket.
    pub(super) fn on(&self, bucket: &Bucket) -> Option<Limit> {
        match bucket {
            Bucket::Orders(_) => self.new_orders,
            Bucket::Domain(_) => self.certificates_per_domain,
            Bucket::Set(_) => self.certificates_per_set,
            Bucket::Failures(..) => self.failed_validations,
        }
    }
}

impl Bucket {
    /// The buckets that a new order is checked against. `renewal`: these names were issued for before, and the order
    /// doesn't say so with `replaces`; one that does is exempt from all.
    pub(super) fn of_order(account: usize, names: &[String], renewal: bool) -> Vec<Self> {
        let mut buckets: Vec<Self> = names.iter().map(|name| Self::Failures(account, name.clone())).collect();
        buckets.push(Self::Set(names.to_vec()));
        if !renewal {
            buckets.push(Self::Orders(account));
            buckets.extend(Self::domains(names));
        }
        buckets
    }

    /// The buckets that a certificate is taken from.
    pub(super) fn of_certificate(names: &[String], renewal: bool) -> Vec<Self> {
        let mut buckets = vec![Self::Set(names.to_vec())];
        if !renewal {
            buckets.extend(Self::domains(names));
        }
        buckets
    }

    fn domains(names: &[String]) -> Vec<Self> {
        let mut domains: Vec<String> = names.iter().map(|name| registered_domain(name)).collect();
        domains.sort();
        domains.dedup();
        domains.into_iter().map(Self::Domain).collect()
    }

    /// As Boulder says that it is empty.
    fn refusal(&self, limit: Limit, retry_in: Duration, now: Timestamp) -> Problem {
        let (count, period) = (limit.count, go_duration(limit.period));
        let at = later(now, retry_in).strftime("%Y-%m-%d %H:%M:%S UTC");
        let (what, anchor) = match self {
            Self::Orders(_) => {
                (format!("too many new orders ({count}) from this account"), "new-orders-per-account")
            }
            Self::Domain(domain) => (
                format!("too many certificates ({count}) already issued for {domain:?}"),
                "new-certificates-per-registered-domain",
            ),
            Self::Set(_) => (
                format!("too many certificates ({count}) already issued for this exact set of domains"),
                "new-certificates-per-exact-set-of-hostnames",
            ),
            Self::Failures(_, name) => (
                format!("too many failed authorizations ({count}) for {name:?}"),
                "authorization-failures-per-hostname-per-account",
            ),
        };
        let detail = format!(
            "{what} in the last {period}, retry after {at}: see https://letsencrypt.org/docs/rate-limits/#{anchor}"
        );
        Problem::new(429, "rateLimited", detail).retry_after(RetryAfter::Seconds(retry_in.as_secs()))
    }
}

impl Buckets {
    /// Refuses what one of the buckets no longer holds; of several, by the one that takes longest.
    pub(super) fn check(&self, limits: &Limits, buckets: &[Bucket], now: Timestamp) -> Result<(), Problem> {
        let empty = buckets.iter().filter_map(|bucket| {
            let limit = limits.on(bucket)?;
            let retry_in = self.take(bucket, limit, now).err()?;
            Some((retry_in, bucket.refusal(limit, retry_in, now)))
        });
        match empty.max_by_key(|(retry_in, _)| *retry_in) {
            Some((_, refusal)) => Err(refusal),
            None => Ok(()),
        }
    }

    /// Takes one from each bucket that still holds one.
    pub(super) fn spend(&mut self, limits: &Limits, buckets: &[Bucket], now: Timestamp) {
        for bucket in buckets {
            let Some(limit) = limits.on(bucket) else { continue };
            if let Ok(full_at) = self.take(bucket, limit, now) {
                self.full_at.insert(bucket.clone(), full_at);
            }
        }
    }

    /// When the bucket would be full again if one was taken, or how long until there is one.
    fn take(&self, bucket: &Bucket, limit: Limit, now: Timestamp) -> Result<Timestamp, Duration> {
        let each = limit.period / limit.count.max(1);
        let from = self.full_at.get(bucket).copied().unwrap_or(now).max(now);
        let full_at = later(from, each);
        let allowed_at = earlier(full_at, each * limit.count);
        match Duration::try_from(allowed_at.duration_since(now)) {
            Ok(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(full_at),
        }
    }
}

fn registered_domain(name: &str) -> String {
    let labels: Vec<&str> = name.rsplit('.').take(2).collect();
    labels.into_iter().rev().collect::<Vec<_>>().join(".")
}

/// As Go writes a duration: `168h0m0s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_bucket_is_emptied_at_once_and_filled_evenly() {
        let limits = Limits::lets_encrypt();
        let mut buckets = Buckets::default();
        let set = [Bucket::Set(names(&["a.test"]))];
        let begin = Timestamp::UNIX_EPOCH;
        for _ in 0..5 {
            buckets.check(&limits, &set, begin).unwrap();
            buckets.spend(&limits, &set, begin);
        }
        let refusal = buckets.check(&limits, &set, begin).unwrap_err();
        assert_eq!((refusal.status, refusal.kind.as_str()), (429, "rateLimited"));
        // A fifth of a week.
        assert!(matches!(refusal.retry_after, Some(RetryAfter::Seconds(120_960))), "{refusal:?}");
        assert_eq!(
            refusal.detail,
            "too many certificates (5) already issued for this exact set of domains in the last 168h0m0s, retry \
             after 1970-01-02 09:36:00 UTC: see \
             https://letsencrypt.org/docs/rate-limits/#new-certificates-per-exact-set-of-hostnames"
        );
        let next = later(begin, Duration::from_mins(2016));
        buckets.check(&limits, &set, next).unwrap();
        buckets.spend(&limits, &set, next);
        assert!(buckets.check(&limits, &set, next).is_err());
        buckets.check(&limits, &[Bucket::Set(names(&["b.test"]))], next).unwrap();
    }

    #[test]
    fn renewals_are_exempt_from_what_counts_new_ones() {
        let two = names(&["a.b.test", "b.test"]);
        let domain = Bucket::Domain("b.test".to_owned());
        assert_eq!(Bucket::of_order(1, &two, false).iter().filter(|bucket| **bucket == domain).count(), 1);
        let renewal = Bucket::of_order(1, &two, true);
        assert!(!renewal.contains(&domain) && !renewal.contains(&Bucket::Orders(1)));
        assert!(renewal.contains(&Bucket::Failures(1, "b.test".to_owned())));
        assert!(renewal.contains(&Bucket::Set(two)));
    }

    #[test]
    fn the_strictest_limit_is_said_and_none_means_none() {
        let limit = |count, hours| Some(Limit { count, period: Duration::from_hours(hours) });
        let limits =
            Limits { new_orders: limit(1, 1), certificates_per_domain: limit(1, 2), ..Limits::default() };
        let mut buckets = Buckets::default();
        let order = Bucket::of_order(1, &names(&["a.test"]), false);
        buckets.spend(&limits, &order, Timestamp::UNIX_EPOCH);
        let refusal = buckets.check(&limits, &order, Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(
            refusal
                .detail
                .starts_with("too many certificates (1) already issued for \"a.test\" in the last 2h0m0s")
        );
        buckets.check(&Limits::default(), &order, Timestamp::UNIX_EPOCH).unwrap();
    }
}
