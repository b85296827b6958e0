//! When to renew: a pure function.

use std::time::Duration;

use jiff::Timestamp;

use crate::SuggestedWindow;
use crate::retry::{after, fraction};

/// A suggestion is followed this long after the certificate's begin, or after a twentieth of its lifetime, at the
/// soonest.
const SETTLED: Duration = Duration::from_hours(1);
const TEN_DAYS: Duration = Duration::from_hours(10 * 24);

/// What a renewal time follows from, beside the certificate's validity.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenewalWishes {
    /// Renew this long before the certificate's end.
    pub renew_before: Option<Duration>,
    /// Renew when this share of the lifetime is left, in per cent. `renew_before` goes first.
    pub percentage: Option<u8>,
    /// What the CA suggests (ARI, RFC 9773).
    pub suggested: Option<SuggestedWindow>,
    /// Stable for one certificate: spreads what was issued together.
    pub seed: u64,
}

/// When a certificate valid from `not_before` to `not_after` is to be renewed.
///
/// Where the CA suggests a window that makes sense, at an instant in it; else after two thirds of the lifetime, or
/// after half where the lifetime is under ten days. A wish (`renew_before` or `percentage`) that lies within the
/// lifetime takes the place of the two thirds, and goes before a suggestion that is later. What isn't suggested is up
/// to a hundredth of the lifetime earlier, by `seed`. A suggestion is never followed beyond the point at which a
/// twentieth of the lifetime is left.
pub fn renewal_time(not_before: Timestamp, not_after: Timestamp, wishes: &RenewalWishes) -> Timestamp {
    let Ok(lifetime) = Duration::try_from(not_after.duration_since(not_before)) else {
        return not_before;
    };
    let wished = wishes
        .renew_before
        .or_else(|| wishes.percentage.map(|percentage| lifetime.mul_f64(f64::from(percentage) / 100.0)))
        .filter(|before| !before.is_zero() && *before < lifetime);
    let spread = (lifetime / 100).mul_f64(fraction(wishes.seed));
    let planned = |before: Duration| {
        let planned = after(not_before, lifetime.saturating_sub(before));
        planned.saturating_sub(spread).unwrap_or(planned).max(not_before)
    };
    // A CA whose every window lies in the past must not be asked for one certificate after the other.
    let soonest = after(not_before, SETTLED.min(lifetime / 20));
    let suggested = wishes
        .suggested
        .filter(|window| window.is_sensible(not_before, not_after))
        .map(|window| window.select(wishes.seed).clamp(soonest, after(not_before, lifetime.mul_f64(0.95))));
    match (suggested, wished) {
        (Some(suggested), Some(before)) => suggested.min(planned(before)),
        (Some(suggested), None) => suggested,
        (None, before) => {
            planned(before.unwrap_or(if lifetime < TEN_DAYS { lifetime / 2 } else { lifetime / 3 }))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn elapsed(lifetime: Duration, renew_before: Option<Duration>, percentage: Option<u8>) -> Duration {
        let start = Timestamp::UNIX_EPOCH;
        let wishes = RenewalWishes { renew_before, percentage, ..RenewalWishes::default() };
        let time = renewal_time(start, after(start, lifetime), &wishes);
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

    #[test]
    fn a_suggestion_is_followed_unless_it_makes_no_sense_or_comes_too_late() {
        let (start, end) = (Timestamp::UNIX_EPOCH, after(Timestamp::UNIX_EPOCH, DAY * 100));
        let day = |day| after(start, DAY * day);
        let at = |from, to, renew_before| {
            let suggested = Some(SuggestedWindow { start: day(from), end: day(to) });
            let wishes = RenewalWishes { renew_before, suggested, ..RenewalWishes::default() };
            renewal_time(start, end, &wishes)
        };
        assert!((day(40)..=day(41)).contains(&at(40, 41, None)));
        assert!((day(80)..=day(81)).contains(&at(80, 81, None)), "later than two thirds is the CA's to say");
        assert!(at(80, 81, Some(DAY * 50)) <= day(50), "a wish goes before a later suggestion");
        assert!(at(81, 80, None) <= day(67), "reversed: as if there were none");
        assert_eq!(at(97, 99, None), day(95), "a twentieth is left");
    }

    proptest! {
        #[test]
        fn it_lies_within_the_lifetime(start in 0_i64..4_000_000_000, lifetime in 0_u64..400 * 86_400, before in proptest::option::of(any::<u32>()), percentage in proptest::option::of(any::<u8>()), window in proptest::option::of((0_i64..4_000_000_000, 0_i64..4_000_000_000)), seed in any::<u64>()) {
            let not_before = Timestamp::from_second(start).unwrap();
            let not_after = after(not_before, Duration::from_secs(lifetime));
            let before = before.map(|seconds| Duration::from_secs(seconds.into()));
            let suggested = window.map(|(start, end)| SuggestedWindow {
                start: Timestamp::from_second(start).unwrap(),
                end: Timestamp::from_second(end).unwrap(),
            });
            let wishes = RenewalWishes { renew_before: before, percentage, suggested, seed };
            let time = renewal_time(not_before, not_after, &wishes);
            prop_assert!(time >= not_before && time <= not_after);
        }
    }
}
