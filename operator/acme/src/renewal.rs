//! When to renew: a pure function.

use std::time::Duration;

use jiff::Timestamp;

use crate::retry::{after, fraction};
use crate::{SuggestedWindow, Windows};

/// A suggestion is followed this long after the certificate was issued, or after a twentieth of its lifetime, at the
/// soonest.
const SETTLED: Duration = Duration::from_hours(1);
/// The share of the lifetime that may pass for a suggestion or a window, but no more.
const LATEST: f64 = 0.95;
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
    /// When the certificate was issued, which many CAs backdate; by default at its begin.
    pub issued: Option<Timestamp>,
    /// Stable for one certificate: spreads what was issued together.
    pub seed: u64,
}

/// When a certificate valid from `not_before` to `not_after` is to be renewed.
///
/// Where the CA suggests a window that makes sense, at an instant in it; else after two thirds of the lifetime, or
/// after half where the lifetime is under ten days. A wish (`renew_before` or `percentage`) that lies within the
/// lifetime takes the place of the two thirds, and goes before a suggestion that is later. What isn't suggested is up
/// to a hundredth of the lifetime earlier, by `seed`. A suggestion is never followed beyond the point at which a
/// twentieth of the lifetime is left. Whatever is wished, a twentieth of the lifetime lies between an issuance and the
/// next; an hour is enough where the CA suggests it.
pub fn renewal_time(not_before: Timestamp, not_after: Timestamp, wishes: &RenewalWishes) -> Timestamp {
    let Ok(lifetime) = Duration::try_from(not_after.duration_since(not_before)) else {
        return not_before;
    };
    let wish = wishes
        .renew_before
        .or_else(|| wishes.percentage.map(|percentage| lifetime.mul_f64(f64::from(percentage) / 100.0)))
        .filter(|before| !before.is_zero() && *before < lifetime);
    let spread = (lifetime / 100).mul_f64(fraction(wishes.seed));
    let planned = |before: Duration| {
        let planned = after(not_before, lifetime.saturating_sub(before));
        planned.saturating_sub(spread).unwrap_or(planned).max(not_before)
    };
    // Neither a CA whose every window lies in the past nor a wish for nearly the whole lifetime may lead to one
    // certificate after the other.
    let issued = wishes.issued.unwrap_or(not_before).clamp(not_before, not_after);
    let settled = |pause: Duration| after(issued, pause.min(lifetime / 20)).min(not_after);
    let soonest = settled(SETTLED);
    let suggested =
        wishes.suggested.filter(|window| window.is_sensible(not_before, not_after)).map(|window| {
            window.select(wishes.seed).min(after(not_before, lifetime.mul_f64(LATEST))).max(soonest)
        });
    let wished = |before: Duration| planned(before).max(settled(lifetime));
    match (suggested, wish) {
        (Some(suggested), Some(before)) => suggested.min(wished(before)),
        (Some(suggested), None) => suggested,
        (None, before) => {
            wished(before.unwrap_or(if lifetime < TEN_DAYS { lifetime / 2 } else { lifetime / 3 }))
        }
    }
}

/// When to renew, where only some times are welcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RenewalPlan {
    /// The time.
    pub at: Timestamp,
    /// How that goes with the windows.
    pub fit: Fit,
}

/// How a renewal time goes with the windows in which renewals are welcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fit {
    /// It is in a window, or needs none.
    Fits,
    /// The time that was planned has come and its window is over; this is in the next one.
    Postponed,
    /// No window fits: it is renewed outside of them.
    NoWindow,
}

/// When a certificate is to be renewed if renewals are welcome in `windows` alone.
///
/// Around the time that [`renewal_time`] gives: then, if it is in a window; else in the last window before it; else in
/// the next one. A window before half of the time until then has passed is too early: a certificate issued in a window
/// would be renewed in the same. Windows give way when a twentieth of the lifetime is left, and at the end of what the
/// CA suggests; a suggestion that is over doesn't wait for one, because that is how a CA says that it will revoke
/// (RFC 9773 §4.2). What was due and wasn't done in its window waits for the next one if that isn't too late.
pub fn plan_renewal(
    not_before: Timestamp,
    not_after: Timestamp,
    wishes: &RenewalWishes,
    windows: &Windows,
    now: Timestamp,
) -> RenewalPlan {
    let wanted = renewal_time(not_before, not_after, wishes);
    let suggested = wishes.suggested.filter(|window| window.is_sensible(not_before, not_after));
    if windows.is_empty() || suggested.is_some_and(|window| window.end <= now) {
        return RenewalPlan { at: wanted, fit: Fit::Fits };
    }
    let span =
        |from: Timestamp, to: Timestamp| Duration::try_from(to.duration_since(from)).unwrap_or_default();
    let earliest = after(not_before, span(not_before, wanted) / 2);
    let give_way = after(not_before, span(not_before, not_after).mul_f64(LATEST));
    let latest = suggested.map_or(give_way, |window| window.end.min(give_way));
    match windows.fit(wanted, earliest, latest, wishes.seed) {
        None => RenewalPlan { at: wanted, fit: Fit::NoWindow },
        Some(at) if at > now || windows.hold(now) => RenewalPlan { at, fit: Fit::Fits },
        Some(at) => match windows.next(now, latest, wishes.seed) {
            Some(at) => RenewalPlan { at, fit: Fit::Postponed },
            None => RenewalPlan { at, fit: Fit::NoWindow },
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::Window;

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

    #[test]
    fn one_issuance_never_leads_to_the_next_at_once() {
        let (start, end) = (Timestamp::UNIX_EPOCH, after(Timestamp::UNIX_EPOCH, DAY * 100));
        // Backdated by an hour, as Let's Encrypt's are.
        let issued = after(start, SETTLED);
        let past = SuggestedWindow { start, end: after(start, SETTLED) };
        for seed in 0..100 {
            let wishes = RenewalWishes { issued: Some(issued), seed, ..RenewalWishes::default() };
            let at = |wishes| renewal_time(start, end, &wishes);
            assert_eq!(at(RenewalWishes { percentage: Some(99), ..wishes }), after(issued, DAY * 5));
            let before = Some((DAY * 100).saturating_sub(SETTLED));
            assert_eq!(at(RenewalWishes { renew_before: before, ..wishes }), after(issued, DAY * 5));
            assert_eq!(at(RenewalWishes { suggested: Some(past), ..wishes }), after(issued, SETTLED));
        }
    }

    /// A certificate of 90 days from 1 January 2026 on, which wants to be renewed 30 days before its end: 2 March.
    fn planned(windows: &[(&str, u64)], suggested: Option<(i64, i64)>, now: i64) -> RenewalPlan {
        let (start, day) = (day(0), |number| day(number));
        let windows = windows
            .iter()
            .map(|(cron, hours)| Window::new(cron, Duration::from_hours(*hours), "UTC").unwrap())
            .collect();
        let wishes = RenewalWishes {
            renew_before: Some(DAY * 30),
            suggested: suggested.map(|(from, to)| SuggestedWindow { start: day(from), end: day(to) }),
            ..RenewalWishes::default()
        };
        plan_renewal(start, day(90), &wishes, &Windows::new(windows), day(now))
    }

    fn day(number: i64) -> Timestamp {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_hours(24 * number)
    }

    #[test]
    fn windows_bring_it_forward_or_put_it_off() {
        // Day 54 and day 61 are Tuesdays.
        let weekly = planned(&[("0 3 * * TUE", 2)], None, 10);
        assert!(weekly.fit == Fit::Fits && weekly.at >= day(54) && weekly.at < day(55), "{weekly:?}");
        let soon_after_issuance = planned(&[("0 0 1 1,3 *", 24)], None, 10);
        assert!(
            soon_after_issuance.at >= day(59) && soon_after_issuance.at < day(60),
            "{soon_after_issuance:?}"
        );
        let later = planned(&[("0 0 15 * *", 24)], None, 10);
        assert!(later.at >= day(45) && later.at < day(46), "15 February: {later:?}");
        let only_later = planned(&[("0 0 15 1,3 *", 24)], None, 10);
        assert!(
            only_later.at >= day(73) && only_later.at < day(74),
            "15 January is too early: {only_later:?}"
        );
    }

    #[test]
    fn windows_give_way_in_the_end() {
        let none = planned(&[("0 0 29 3 *", 24)], None, 10);
        assert_eq!(none.fit, Fit::NoWindow, "day 87 leaves less than a twentieth");
        assert!(none.at <= day(60) && none.at >= day(59));
    }

    #[test]
    fn what_missed_its_window_waits_for_the_next() {
        let weekly: &[_] = &[("0 0 * * TUE", 24)];
        assert_eq!(planned(weekly, None, 54).fit, Fit::Fits);
        let missed = planned(weekly, None, 56);
        assert!(missed.fit == Fit::Postponed && missed.at >= day(61) && missed.at < day(62), "{missed:?}");
        let open = planned(weekly, None, 61);
        assert!(open.fit == Fit::Fits && open.at <= day(61), "due in an open window");
        let last = planned(weekly, None, 83);
        assert!(last.fit == Fit::NoWindow && last.at <= day(83), "day 89 is too late: {last:?}");
    }

    #[test]
    fn the_ca_goes_before_windows() {
        let weekly: &[_] = &[("0 0 * * TUE", 24)];
        let revoked = planned(weekly, Some((8, 9)), 10);
        assert!(revoked.fit == Fit::Fits && revoked.at <= day(10), "a suggestion that is over: {revoked:?}");
        let between = planned(&[("0 0 15 1,3 *", 24)], Some((50, 52)), 10);
        assert!(
            between.fit == Fit::NoWindow && between.at >= day(50) && between.at <= day(52),
            "{between:?}"
        );
        let before = planned(weekly, Some((50, 52)), 10);
        assert!(before.fit == Fit::Fits && before.at >= day(47) && before.at < day(48), "{before:?}");
    }

    proptest! {
        #[test]
        fn a_plan_keeps_to_its_windows_and_to_the_lifetime(hour in 0..24, weekday in "[*]|[0-6]", minutes in 1_u64..2000, lifetime in 1_i64..400, now in 0_i64..400, seed: u64) {
            let window = Window::new(&format!("0 {hour} * * {weekday}"), Duration::from_mins(minutes), "UTC").unwrap();
            let (windows, now) = (Windows::new(vec![window]), day(now.min(lifetime)));
            let wishes = RenewalWishes { seed, ..RenewalWishes::default() };
            let plan = plan_renewal(day(0), day(lifetime), &wishes, &windows, now);
            prop_assert!(plan.at >= day(0) && plan.at <= day(lifetime));
            match plan.fit {
                Fit::Fits => prop_assert!(windows.hold(plan.at)),
                Fit::Postponed => prop_assert!(windows.hold(plan.at) && plan.at > now),
                Fit::NoWindow => {}
            }
        }

        #[test]
        fn it_lies_within_the_lifetime(start in 0_i64..4_000_000_000, lifetime in 0_u64..400 * 86_400, before in proptest::option::of(any::<u32>()), percentage in proptest::option::of(any::<u8>()), window in proptest::option::of((0_i64..4_000_000_000, 0_i64..4_000_000_000)), issued in proptest::option::of(0_i64..5_000_000_000), seed in any::<u64>()) {
            let not_before = Timestamp::from_second(start).unwrap();
            let not_after = after(not_before, Duration::from_secs(lifetime));
            let before = before.map(|seconds| Duration::from_secs(seconds.into()));
            let suggested = window.map(|(start, end)| SuggestedWindow {
                start: Timestamp::from_second(start).unwrap(),
                end: Timestamp::from_second(end).unwrap(),
            });
            let issued = issued.and_then(|second| Timestamp::from_second(second).ok());
            let wishes = RenewalWishes { renew_before: before, percentage, suggested, issued, seed };
            let time = renewal_time(not_before, not_after, &wishes);
            prop_assert!(time >= not_before && time <= not_after);
        }
    }
}
