//! When to renew: a pure function.

use std::time::Duration;

use jiff::Timestamp;

use crate::retry::{after, fraction};

const TEN_DAYS: Duration = Duration::from_hours(10 * 24);

/// When a certificate valid from `not_before` to `not_after` is to be renewed.
///
/// Without wishes: after two thirds of its lifetime, after half where the lifetime is under ten days. `renew_before`
/// says how long before its end, `percentage` how many percent of the lifetime before its end; either is left aside
/// where it doesn't lie within the lifetime. Up to a hundredth of the lifetime earlier, by `spread_seed`, so that
/// certificates issued together aren't renewed together.
pub fn renewal_time(
    not_before: Timestamp,
    not_after: Timestamp,
    renew_before: Option<Duration>,
    percentage: Option<u8>,
    spread_seed: u64,
) -> Timestamp {
    let Ok(lifetime) = Duration::try_from(not_after.duration_since(not_before)) else {
        return not_before;
    };
    let wished = renew_before
        .or_else(|| percentage.map(|percentage| lifetime.mul_f64(f64::from(percentage) / 100.0)))
        .filter(|before| !before.is_zero() && *before < lifetime);
    let before = wished.unwrap_or(if lifetime < TEN_DAYS { lifetime / 2 } else { lifetime / 3 });
    let planned = after(not_before, lifetime.saturating_sub(before));
    let spread = (lifetime / 100).mul_f64(fraction(spread_seed));
    planned.saturating_sub(spread).unwrap_or(planned).max(not_before)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn elapsed(lifetime: Duration, renew_before: Option<Duration>, percentage: Option<u8>) -> Duration {
        let start = Timestamp::UNIX_EPOCH;
        let time = renewal_time(start, after(start, lifetime), renew_before, percentage, 0);
        time.duration_since(start).try_into().unwrap()
    }

    fn about(actual: Duration, expected: Duration, lifetime: Duration) {
        assert!(
            actual <= expected && actual + lifetime / 100 >= expected,
            "{actual:?} is not just before {expected:?}"
        );
    }

    #[test]
    fn two_thirds_or_half() {
        about(elapsed(DAY * 90, None, None), DAY * 60, DAY * 90);
        about(elapsed(DAY * 6, None, None), DAY * 3, DAY * 6);
    }

    #[test]
    fn wishes_within_the_lifetime_are_followed() {
        about(elapsed(DAY * 90, Some(DAY * 30), None), DAY * 60, DAY * 90);
        about(elapsed(DAY * 90, None, Some(10)), DAY * 81, DAY * 90);
        about(elapsed(DAY * 90, Some(DAY * 90), None), DAY * 60, DAY * 90);
        about(elapsed(DAY * 90, None, Some(100)), DAY * 60, DAY * 90);
    }

    proptest! {
        #[test]
        fn it_lies_within_the_lifetime(start in 0_i64..4_000_000_000, lifetime in 0_u64..400 * 86_400, before in proptest::option::of(any::<u32>()), percentage in proptest::option::of(any::<u8>()), seed in any::<u64>()) {
            let not_before = Timestamp::from_second(start).unwrap();
            let not_after = after(not_before, Duration::from_secs(lifetime));
            let before = before.map(|seconds| Duration::from_secs(seconds.into()));
            let time = renewal_time(not_before, not_after, before, percentage, seed);
            prop_assert!(time >= not_before && time <= not_after);
        }
    }
}
