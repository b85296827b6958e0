//! When to try again: pure functions, with the clock passed in.

use std::time::Duration;

use jiff::Timestamp;

use crate::{Actor, Class, Retry};

const FIRST: Duration = Duration::from_mins(1);
const TEN_MINUTES: Duration = Duration::from_mins(10);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// A CA that asks to be left alone for longer is asked again after this, so that a broken header isn't for ever.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(7 * 24);

/// When the attempt after `attempt` failed ones (1 for the first failure) may begin.
///
/// A minute, doubled each time, ±20 % by `seed`, at most a tenth of the certificate's `lifetime`, and at most
///
/// - a day where a user must act: each attempt fails just like the last, and costs the CA a validation,
/// - an hour where the CA or the network failed: they recover by themselves, and nobody tells when,
/// - ten minutes where it is this program, or what it stands on.
///
/// What can't succeed before it is changed waits the longest. A time that the CA named is a floor above all of it, up
/// to a week from `now`.
pub fn backoff(
    attempt: u32,
    class: &Class,
    now: Timestamp,
    lifetime: Option<Duration>,
    seed: u64,
) -> Timestamp {
    let longest = longest(class.actor);
    let cap = lifetime.map_or(longest, |lifetime| longest.min(lifetime / 10)).max(FIRST);
    let pause = match class.retry {
        Retry::AfterChange => cap,
        Retry::Backoff | Retry::NotBefore(_) => {
            let doublings = attempt.saturating_sub(1).min(20);
            FIRST.saturating_mul(1 << doublings).min(cap)
        }
    };
    // 0.8 to 1.2, another one for each attempt.
    let jitter = 0.8 + 0.4 * fraction(seed ^ u64::from(attempt).rotate_left(32));
    let at = after(now, pause.mul_f64(jitter).min(cap));
    match class.retry {
        Retry::NotBefore(floor) => at.max(floor.min(after(now, LONGEST_RETRY_AFTER))),
        Retry::Backoff | Retry::AfterChange => at,
    }
}

const fn longest(actor: Actor) -> Duration {
    match actor {
        Actor::User => DAY,
        Actor::Ca | Actor::Network => HOUR,
        Actor::Us => TEN_MINUTES,
    }
}

/// Whether a time up to which stored state says to wait is to be believed, and not over: one later than a day beyond the
/// longest that [`backoff`] and [`parse_retry_after`] give was not written by them.
pub fn is_to_be_waited_for(until: Timestamp, now: Timestamp) -> bool {
    until > now && until <= after(now, LONGEST_RETRY_AFTER + DAY)
}

/// The time that a Retry-After header names: seconds from `now`, or an HTTP-date (RFC 9110 §10.2.3).
///
/// Such a date is by the clock of whoever answered, and the answer's Date header (§6.6.1), `date`, says what that clock
/// showed. The time between the two is counted from `now`, so that it doesn't matter whose clock is off. Without a Date
/// header, the date is taken as it is.
pub fn parse_retry_after(value: &str, date: Option<&str>, now: Timestamp) -> Option<Timestamp> {
    let value = value.trim();
    let pause = if let Ok(seconds) = value.parse() {
        Duration::from_secs(seconds)
    } else {
        let answered = date.and_then(http_date).unwrap_or(now);
        // A date that has passed asks for no pause.
        Duration::try_from(http_date(value)?.duration_since(answered)).unwrap_or_default()
    };
    Some(after(now, pause.min(LONGEST_RETRY_AFTER)))
}

fn http_date(value: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value.trim()).ok()
}

/// `now` and `pause` later, or the end of time.
pub fn after(now: Timestamp, pause: Duration) -> Timestamp {
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

/// `time`, or the next whole second: what is stored in whole seconds must not come sooner.
pub fn whole_second(time: Timestamp) -> Timestamp {
    let down = Timestamp::from_second(time.as_second()).unwrap_or(time);
    if down < time { after(down, Duration::from_secs(1)) } else { down }
}

/// A number from 0 to 1 that depends on `seed` alone and is evenly spread (the finalizer of `SplitMix64`).
#[allow(clippy::cast_precision_loss)]
pub(crate) fn fraction(seed: u64) -> f64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Class = Class { actor: Actor::User, retry: Retry::Backoff };

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn pause(attempt: u32, class: &Class, lifetime: Option<Duration>, seed: u64) -> Duration {
        backoff(attempt, class, now(), lifetime, seed).duration_since(now()).try_into().unwrap()
    }

    #[test]
    fn it_doubles_to_a_day() {
        let pauses: Vec<u64> = (1..=13).map(|attempt| pause(attempt, &BACKOFF, None, 7).as_secs()).collect();
        assert!((48..=72).contains(&pauses[0]), "{pauses:?}");
        assert!((96..=144).contains(&pauses[1]), "{pauses:?}");
        assert!((192..=288).contains(&pauses[2]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= 86_400), "{pauses:?}");
        assert!(pauses[12] >= 69_120, "{pauses:?}");
    }

    #[test]
    fn who_must_act_says_how_long_a_pause_gets() {
        let longest = |actor| pause(30, &Class { actor, retry: Retry::Backoff }, None, 7);
        assert!((DAY.mul_f64(0.79)..=DAY).contains(&longest(Actor::User)));
        for actor in [Actor::Ca, Actor::Network] {
            assert!((HOUR.mul_f64(0.79)..=HOUR).contains(&longest(actor)));
        }
        assert!((TEN_MINUTES.mul_f64(0.79)..=TEN_MINUTES).contains(&longest(Actor::Us)));
    }

    #[test]
    fn short_lifetimes_are_tried_more_often() {
        let six_days = DAY * 6;
        assert!(pause(30, &BACKOFF, Some(six_days), 1) <= six_days / 10);
        assert!(pause(1, &BACKOFF, Some(FIRST), 1) >= Duration::from_secs(48));
    }

    #[test]
    fn what_the_ca_names_is_a_floor() {
        let at = after(now(), Duration::from_secs(100_000));
        let class = Class { actor: Actor::Ca, retry: Retry::NotBefore(at) };
        assert_eq!(backoff(1, &class, now(), Some(Duration::from_hours(1)), 1), at);
        let years = Class { actor: Actor::Ca, retry: Retry::NotBefore(after(now(), DAY * 1000)) };
        assert_eq!(backoff(1, &years, now(), None, 1), after(now(), LONGEST_RETRY_AFTER));
        let past = Class { actor: Actor::Ca, retry: Retry::NotBefore(Timestamp::UNIX_EPOCH) };
        assert_eq!(backoff(1, &past, now(), None, 1), backoff(1, &BACKOFF, now(), None, 1));
    }

    #[test]
    fn what_must_change_first_waits_longest() {
        let class = Class { actor: Actor::User, retry: Retry::AfterChange };
        assert!(pause(1, &class, None, 3) >= DAY.mul_f64(0.79));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parse = |value| parse_retry_after(value, None, now());
        assert_eq!(parse(" 30 "), Some(after(now(), Duration::from_secs(30))));
        assert_eq!(parse("Sun, 22 Nov 2026 12:01:00 GMT"), Some(after(now(), FIRST)));
        assert_eq!(parse("Sun, 22 Nov 2020 12:01:00 GMT"), Some(now()));
        assert_eq!(parse("Sun, 22 Nov 2099 12:01:00 GMT"), Some(after(now(), LONGEST_RETRY_AFTER)));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-1"), None);
        assert_eq!(parse("99999999999999999"), Some(after(now(), LONGEST_RETRY_AFTER)));
    }

    #[test]
    fn a_date_counts_by_the_clock_of_whoever_names_it() {
        let in_an_hour = Some(after(now(), HOUR));
        let parse = |value, date| parse_retry_after(value, Some(date), now());
        let (a_day_behind, a_day_ahead) = ("Sat, 21 Nov 2026 12:00:00 GMT", "Mon, 23 Nov 2026 12:00:00 GMT");
        assert_eq!(parse("Sat, 21 Nov 2026 13:00:00 GMT", a_day_behind), in_an_hour);
        assert_eq!(parse("Mon, 23 Nov 2026 13:00:00 GMT", a_day_ahead), in_an_hour);
        assert_eq!(parse("Mon, 23 Nov 2026 11:00:00 GMT", a_day_ahead), Some(now()), "it has passed there");
        assert_eq!(parse("3600", a_day_ahead), in_an_hour);
        assert_eq!(parse("Sun, 22 Nov 2026 13:00:00 GMT", "no date"), in_an_hour);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_nothing_nor_beyond_its_cap(attempt in any::<u32>(), seed in any::<u64>(), lifetime in proptest::option::of(0_u64..400 * 86_400)) {
            let lifetime = lifetime.map(Duration::from_secs);
            let cap = lifetime.map_or(DAY, |lifetime| DAY.min(lifetime / 10)).max(FIRST);
            let pause = pause(attempt, &BACKOFF, lifetime, seed);
            prop_assert!(pause >= Duration::from_secs(48) && pause <= cap);
        }
    }

    #[test]
    fn a_stored_time_is_believed_up_to_what_a_ca_may_ask() {
        let waits = |hours| is_to_be_waited_for(after(now(), HOUR * hours), now());
        assert!(!waits(0), "over");
        assert!(waits(1));
        assert!(waits(8 * 24));
        assert!(!waits(8 * 24 + 1));
    }

    #[test]
    fn whole_seconds_are_not_sooner() {
        assert_eq!(whole_second(now()), now());
        assert_eq!(
            whole_second(after(now(), Duration::from_millis(1))),
            after(now(), Duration::from_secs(1))
        );
    }
}
