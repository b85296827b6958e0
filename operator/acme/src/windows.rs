//! Windows of time in which renewals are welcome: pure functions.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use thiserror::Error;

use crate::cron::{Cron, CronError};
use crate::retry::{after, fraction};

/// A span of time that comes again and again.
#[derive(Clone, Debug)]
pub struct Window {
    begins: Cron,
    lasts: Duration,
    zone: TimeZone,
}

/// Windows, any of which will do. None at all: any time will.
#[derive(Clone, Debug, Default)]
pub struct Windows(Vec<Window>);

/// Why a window can't be used.
#[derive(Debug, Error)]
pub enum WindowError {
    /// Its begin isn't a cron expression.
    #[error("cron {text:?} can't be used: {source}")]
    Cron {
        /// What is written.
        text: String,
        /// Why.
        #[source]
        source: CronError,
    },
    /// Its time zone isn't one.
    #[error(
        "timezone {0:?} isn't known; write an IANA time zone such as Europe/Berlin, or leave it out for UTC"
    )]
    Zone(String),
    /// It is over when it begins.
    #[error("windowDuration is nothing; write how long it lasts, such as 2h")]
    Empty,
}

impl Window {
    /// A window that begins whenever `cron` fires by the clocks of `zone`, an IANA time zone, and lasts for `lasts`.
    ///
    /// Where clocks are set forward over its begin, it begins as much later as they were set; where they are set back
    /// and its begin comes twice, it begins at the first.
    pub fn new(cron: &str, lasts: Duration, zone: &str) -> Result<Self, WindowError> {
        let begins = cron
            .parse()
            .map_err(|source| WindowError::Cron { text: cron.chars().take(80).collect(), source })?;
        if lasts.is_zero() {
            return Err(WindowError::Empty);
        }
        let zone = TimeZone::get(zone).map_err(|_| WindowError::Zone(zone.chars().take(80).collect()))?;
        Ok(Self { begins, lasts, zone })
    }

    /// The last begin from `earliest` to `time`.
    fn last_begin(&self, time: Timestamp, earliest: Timestamp) -> Option<Timestamp> {
        let from = self.date(earliest);
        let mut date = self.date(time).tomorrow().ok()?;
        // Where a whole day was left out, that before it begins later than the one after.
        let mut further = ONE_MORE_DAY;
        let mut found = None;
        for _ in 0..LONGEST_SEARCH {
            let begin = self.begins_on(date).filter(|begin| *begin >= earliest && *begin <= time).max();
            found = found.max(begin);
            if found.is_some() || date < from {
                if further == 0 {
                    break;
                }
                further -= 1;
            }
            date = date.yesterday().ok()?;
        }
        found
    }

    /// The first begin after `time` and not after `latest`.
    fn next_begin(&self, time: Timestamp, latest: Timestamp) -> Option<Timestamp> {
        let to = self.date(latest);
        let mut date = self.date(time).yesterday().ok()?;
        let mut further = ONE_MORE_DAY;
        let mut found: Option<Timestamp> = None;
        for _ in 0..LONGEST_SEARCH {
            let begin = self.begins_on(date).filter(|begin| *begin > time && *begin <= latest).min();
            found = match (found, begin) {
                (Some(found), Some(begin)) => Some(found.min(begin)),
                (found, begin) => found.or(begin),
            };
            if found.is_some() || date > to {
                if further == 0 {
                    break;
                }
                further -= 1;
            }
            date = date.tomorrow().ok()?;
        }
        found
    }

    fn begins_on(&self, date: Date) -> impl Iterator<Item = Timestamp> + '_ {
        let times = self.begins.is_on(date).then(|| self.begins.times());
        times.into_iter().flatten().filter_map(move |time| {
            self.zone.to_ambiguous_timestamp(date.to_datetime(time)).compatible().ok()
        })
    }

    fn date(&self, time: Timestamp) -> Date {
        self.zone.to_datetime(time).date()
    }
}

/// A begin may be moved by clocks that are set: into the next day, and in one place of the world by a whole one.
const ONE_MORE_DAY: u8 = 1;
/// In days; 29 February comes every eight years at the least.
const LONGEST_SEARCH: usize = 10 * 366;

impl Windows {
    /// These windows.
    pub fn new(windows: Vec<Window>) -> Self {
        Self(windows)
    }

    /// Whether there are none, so that any time will do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `time` is in one of them.
    pub fn hold(&self, time: Timestamp) -> bool {
        self.0.iter().any(|window| {
            let earliest = time.saturating_sub(window.lasts).unwrap_or(Timestamp::MIN);
            // The end is not in it any more.
            window.last_begin(time, earliest).is_some_and(|begin| after(begin, window.lasts) > time)
        })
    }

    /// A time in one of them: `wanted` itself if it is in one; else in the last one that is over by then, and not
    /// before `earliest`; else in the first one after it, and not after `latest`. In a window that isn't under way
    /// at `wanted`, it lies in the first half, by `seed`: so that there is time left to try again, and what has the
    /// same windows isn't renewed in one moment.
    pub fn fit(
        &self,
        wanted: Timestamp,
        earliest: Timestamp,
        latest: Timestamp,
        seed: u64,
    ) -> Option<Timestamp> {
        if self.hold(wanted) {
            return Some(wanted);
        }
        let last =
            |window: &Window| window.last_begin(wanted, earliest).map(|begin| window.within(begin, seed));
        self.0.iter().filter_map(last).max().or_else(|| self.next(wanted, latest, seed))
    }

    /// A time in the first window that begins after `time`, as [`Windows::fit`] chooses it, and not after `latest`.
    pub fn next(&self, time: Timestamp, latest: Timestamp, seed: u64) -> Option<Timestamp> {
        let next = |window: &Window| {
            window.next_begin(time, latest).map(|begin| (begin, window.within(begin, seed).min(latest)))
        };
        self.0.iter().filter_map(next).min().map(|(_, time)| time)
    }
}

impl Window {
    fn within(&self, begin: Timestamp, seed: u64) -> Timestamp {
        after(begin, (self.lasts / 2).mul_f64(fraction(seed)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn window(cron: &str, hours: u64, zone: &str) -> Window {
        Window::new(cron, HOUR * u32::try_from(hours).unwrap(), zone).unwrap()
    }

    fn windows(cron: &str, hours: u64, zone: &str) -> Windows {
        Windows::new(vec![window(cron, hours, zone)])
    }

    #[test]
    fn the_wanted_time_then_the_last_window_then_the_next() {
        let nightly = windows("0 3 * * *", 2, "UTC");
        let fit = |wanted, earliest, latest| nightly.fit(at(wanted), at(earliest), at(latest), 0);
        let long = ("2026-10-01T00:00:00Z", "2026-12-01T00:00:00Z");
        assert_eq!(fit("2026-11-10T04:59:59Z", long.0, long.1), Some(at("2026-11-10T04:59:59Z")), "in one");
        let before = fit("2026-11-10T05:00:00Z", long.0, long.1).unwrap();
        assert!(before >= at("2026-11-10T03:00:00Z") && before <= at("2026-11-10T04:00:00Z"), "{before}");
        let after = fit("2026-11-10T05:00:00Z", "2026-11-10T03:30:00Z", long.1).unwrap();
        assert!(after >= at("2026-11-11T03:00:00Z") && after <= at("2026-11-11T04:00:00Z"), "{after}");
        assert_eq!(
            fit("2026-11-10T05:00:00Z", "2026-11-10T03:30:00Z", "2026-11-11T02:59:59Z"),
            None,
            "too late"
        );
    }

    #[test]
    fn of_several_windows_the_nearest_counts() {
        let two = Windows::new(vec![window("0 3 * * *", 1, "UTC"), window("0 12 * * *", 1, "UTC")]);
        let fit =
            |wanted| two.fit(at(wanted), at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"), 0).unwrap();
        assert!(
            two.hold(fit("2026-11-10T15:00:00Z"))
                && fit("2026-11-10T15:00:00Z") >= at("2026-11-10T12:00:00Z")
        );
        assert!(fit("2026-11-10T08:00:00Z") < at("2026-11-10T04:00:00Z"));
        let next = two.next(at("2026-11-10T08:00:00Z"), at("2026-12-01T00:00:00Z"), 0).unwrap();
        assert!(next >= at("2026-11-10T12:00:00Z") && two.hold(next));
    }

    #[test]
    fn by_the_clocks_of_its_zone() {
        let berlin = windows("0 3 * * *", 1, "Europe/Berlin");
        assert!(berlin.hold(at("2026-11-10T02:30:00Z")), "winter: an hour ahead of UTC");
        assert!(berlin.hold(at("2026-07-10T01:30:00Z")), "summer: two");
        assert!(!berlin.hold(at("2026-07-10T02:30:00Z")));
        // The first minutes of a Saturday there are a Friday in UTC.
        assert!(windows("0 0 * * SAT", 1, "Asia/Tokyo").hold(at("2026-11-27T15:10:00Z")));
    }

    #[test]
    fn a_window_that_begins_in_a_gap_begins_after_it() {
        // In Berlin 29 March 2026 has no 02:00 to 03:00: the clocks are set forward at 01:00 UTC.
        let window = windows("30 2 * * *", 1, "Europe/Berlin");
        assert!(!window.hold(at("2026-03-29T01:29:59Z")));
        assert!(window.hold(at("2026-03-29T01:30:00Z")) && window.hold(at("2026-03-29T02:29:59Z")));
        assert!(!window.hold(at("2026-03-29T02:30:00Z")));
        let next = window.next(at("2026-03-28T12:00:00Z"), at("2026-04-01T00:00:00Z"), 0).unwrap();
        assert!(window.hold(next) && next < at("2026-03-29T02:30:00Z"), "not left out: {next}");
    }

    #[test]
    fn a_window_that_begins_twice_begins_at_the_first() {
        // In Berlin 25 October 2026 has two 02:30: at 00:30 and at 01:30 UTC.
        let window = windows("30 2 * * *", 1, "Europe/Berlin");
        assert!(window.hold(at("2026-10-25T00:30:00Z")) && window.hold(at("2026-10-25T01:29:59Z")));
        assert!(!window.hold(at("2026-10-25T01:30:00Z")), "an hour is an hour");
    }

    #[test]
    fn a_day_that_was_left_out_is_no_trouble() {
        // Samoa had no 30 December 2011.
        let window = windows("0 12 30 12 *", 1, "Pacific/Apia");
        assert!(window.hold(at("2011-12-30T22:30:00Z")), "noon of the 31st instead");
        let next = window.next(at("2011-12-01T00:00:00Z"), at("2012-02-01T00:00:00Z"), 0).unwrap();
        assert!(window.hold(next));
    }

    #[test]
    fn a_window_longer_than_its_period_is_always_open() {
        let always = windows("0 3 * * *", 25, "UTC");
        for hour in 0..48 {
            assert!(always.hold(after(at("2026-11-10T00:00:00Z"), HOUR * hour)));
        }
    }

    #[test]
    fn years_may_lie_between_two() {
        let leap = windows("0 0 29 2 *", 24, "UTC");
        let next = leap.next(at("2096-03-01T00:00:00Z"), at("2200-01-01T00:00:00Z"), 0).unwrap();
        assert!(next >= at("2104-02-29T00:00:00Z") && leap.hold(next), "2100 is no leap year: {next}");
        assert!(
            leap.fit(at("2104-02-01T00:00:00Z"), at("2095-01-01T00:00:00Z"), at("2104-02-02T00:00:00Z"), 0)
                .is_some()
        );
    }

    #[test]
    fn what_cannot_be_used_says_what_to_write() {
        let error = |cron, lasts, zone| Window::new(cron, lasts, zone).unwrap_err().to_string();
        assert!(error("0 3 * *", HOUR, "UTC").contains("write five"));
        assert!(error("0 3 * * *", HOUR, "Europe/Berln").contains("such as Europe/Berlin"));
        assert!(error("0 3 * * *", Duration::ZERO, "UTC").contains("such as 2h"));
        assert!(Window::new("0 3 * * *", HOUR, "America/Argentina/Buenos_Aires").is_ok());
    }

    proptest! {
        #[test]
        fn what_fits_is_in_a_window_and_within_its_bounds(
            cron in "([0-9]|[1-5][0-9]) ([0-9]|1[0-9]|2[0-3]|[*]/5) ([*]|[1-9]|1[0-9]|2[0-8]) [*] ([*]|[0-6])",
            zone in prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("America/St_Johns"), Just("Australia/Lord_Howe"), Just("Asia/Tokyo")],
            minutes in 1_u64..3000, wanted in 1_700_000_000_i64..1_900_000_000, early in 0_u64..1500, late in 0_u64..1500, seed: u64,
        ) {
            let windows = Windows::new(vec![Window::new(&cron, Duration::from_mins(minutes), zone).unwrap()]);
            let wanted = Timestamp::from_second(wanted).unwrap();
            let (earliest, latest) = (wanted - HOUR * u32::try_from(early).unwrap(), after(wanted, HOUR * u32::try_from(late).unwrap()));
            if let Some(time) = windows.fit(wanted, earliest, latest, seed) {
                prop_assert!(windows.hold(time) && time >= earliest && time <= latest);
                prop_assert!(time == wanted || !windows.hold(wanted));
            }
        }
    }
}
