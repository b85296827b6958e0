//! Cron expressions: five fields, as crontab(5) has them, and nothing more.
//!
//! Written here because the crates on jiff look only forward and accept what cert-manager's API refuses (seconds,
//! zones and `L` within the expression).

use std::str::FromStr;

use jiff::civil::{Date, Time};
use thiserror::Error;

/// When something begins: minute, hour, day of the month, month and day of the week.
///
/// ```
/// let cron: waxwing_acme::Cron = "30 2 * * SAT,SUN".parse()?;
/// assert!(cron.is_on(jiff::civil::date(2026, 11, 28)));
/// # Ok::<(), waxwing_acme::CronError>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Bits 0 to 6, from Sunday on.
    weekdays: u64,
    /// Days of the month and of the week are both restricted: then one of them is enough.
    either_day: bool,
}

/// A text that isn't a cron expression, or one that never fires.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum CronError {
    /// There are not five fields.
    #[error(
        "it has {0} fields; write five: minute, hour, day of the month, month and day of the week, such as 0 3 * * 6"
    )]
    Fields(usize),
    /// A field can't be read.
    #[error(
        "its {field} {text:?} can't be read; write {least} to {most}, such as {least}, *, */2 or {least}-{most}"
    )]
    Field {
        /// Which one.
        field: &'static str,
        /// What is written there.
        text: String,
        /// The field's least value.
        least: u8,
        /// The field's greatest value.
        most: u8,
    },
    /// No month that is named has a day that is named.
    #[error("it never comes: none of its months has such a day; write a day that exists")]
    Never,
}

struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    /// Names for the values from `least` on.
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[] };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[] };
const DAY: Field = Field { name: "day of the month", least: 1, most: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
};
/// Sunday is 0, and 7 too.
const WEEKDAY: Field = Field {
    name: "day of the week",
    least: 0,
    most: 7,
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
};

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(CronError::Fields(fields.len()));
        };
        let (days, every_day) = DAY.read(day)?;
        let (months, _) = MONTH.read(month)?;
        let (weekdays, every_weekday) = WEEKDAY.read(weekday)?;
        let either_day = !every_day && !every_weekday;
        let comes = (1..=12).any(|month| months & bit(month) != 0 && days & up_to(LONGEST[month]) != 0);
        if !either_day && !comes {
            return Err(CronError::Never);
        }
        Ok(Self {
            minutes: MINUTE.read(minute)?.0,
            hours: HOUR.read(hour)?.0,
            days,
            months,
            // 7 is Sunday too.
            weekdays: (weekdays | weekdays >> 7) & up_to(6),
            either_day,
        })
    }
}

/// Days of each month, in a leap year; there is no month 0.
const LONGEST: [usize; 13] = [0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Cron {
    /// Whether it fires on this day at all.
    pub fn is_on(&self, date: Date) -> bool {
        let day = self.days & number(date.day()) != 0;
        let weekday = self.weekdays & number(date.weekday().to_sunday_zero_offset()) != 0;
        let wanted = if self.either_day { day || weekday } else { day && weekday };
        self.months & number(date.month()) != 0 && wanted
    }

    /// The times of a day at which it fires, in order.
    pub fn times(&self) -> impl Iterator<Item = Time> + '_ {
        (0..24_i8).filter(|hour| self.hours & number(*hour) != 0).flat_map(move |hour| {
            (0..60_i8)
                .filter(|minute| self.minutes & number(*minute) != 0)
                .filter_map(move |minute| Time::new(hour, minute, 0, 0).ok())
        })
    }
}

impl Field {
    /// The values as bits, and whether they are all of them because of a `*` or a `?`.
    fn read(&self, text: &str) -> Result<(u64, bool), CronError> {
        let wrong = || CronError::Field {
            field: self.name,
            text: text.chars().take(20).collect(),
            least: self.least,
            most: self.most,
        };
        let (mut values, mut every) = (0, false);
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => {
                    (range, Some(decimal(step).filter(|step| *step > 0).ok_or_else(wrong)?))
                }
                None => (part, None),
            };
            let (first, last) = match (range, range.split_once('-')) {
                ("*" | "?", _) => {
                    every |= step.is_none_or(|step| step == 1);
                    (self.least, self.most)
                }
                (_, Some((first, last))) => {
                    (self.value(first).ok_or_else(wrong)?, self.value(last).ok_or_else(wrong)?)
                }
                // `5/10` is from 5 on.
                (one, None) => {
                    let one = self.value(one).ok_or_else(wrong)?;
                    (one, if step.is_some() { self.most } else { one })
                }
            };
            if first > last {
                return Err(wrong());
            }
            let step = usize::from(step.unwrap_or(1));
            values |= (first..=last).step_by(step).fold(0, |values, value| values | bit(usize::from(value)));
        }
        Ok((values, every))
    }

    fn value(&self, text: &str) -> Option<u8> {
        let named = self.names.iter().zip(self.least..).find(|(name, _)| name.eq_ignore_ascii_case(text));
        let value = named.map(|(_, value)| value).or_else(|| decimal(text))?;
        (self.least..=self.most).contains(&value).then_some(value)
    }
}

fn decimal(text: &str) -> Option<u8> {
    // A sign is none of crontab's.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn bit(value: usize) -> u64 {
    1 << value
}

fn up_to(value: usize) -> u64 {
    (1 << (value + 1)) - 1
}

fn number(value: i8) -> u64 {
    bit(usize::from(value.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::civil::{date, time};
    use proptest::prelude::*;

    use super::*;

    fn cron(text: &str) -> Cron {
        text.parse().unwrap()
    }

    fn times(text: &str) -> Vec<Time> {
        cron(text).times().collect()
    }

    #[test]
    fn fields_are_read_as_crontab_has_them() {
        assert_eq!(times("5 3 * * *"), [time(3, 5, 0, 0)]);
        assert_eq!(
            times("*/30 1-2 * * *"),
            [time(1, 0, 0, 0), time(1, 30, 0, 0), time(2, 0, 0, 0), time(2, 30, 0, 0)]
        );
        assert_eq!(times("50/5 0 * * *"), [time(0, 50, 0, 0), time(0, 55, 0, 0)]);
        assert_eq!(times("0,59 23 ? * ?"), [time(23, 0, 0, 0), time(23, 59, 0, 0)]);
        assert_eq!(times("* * * * *").len(), 24 * 60);
        assert_eq!(cron("0 0 1 JAN-mar/2 *"), cron("0 0 1 1,3 *"));
        assert_eq!(cron("0 0 * * sun"), cron("0 0 * * 7"));
        assert_eq!(cron("0 0 * * FRI-7"), cron("0 0 * * 0,5,6"));
    }

    #[test]
    fn days_of_the_month_and_of_the_week() {
        // 1 November 2026 is a Sunday.
        assert!(cron("0 0 * * 0").is_on(date(2026, 11, 1)) && !cron("0 0 * * 0").is_on(date(2026, 11, 2)));
        assert!(cron("0 0 2 11 *").is_on(date(2026, 11, 2)) && !cron("0 0 2 11 *").is_on(date(2026, 12, 2)));
        let either = cron("0 0 2 * 0");
        assert!(
            either.is_on(date(2026, 11, 1))
                && either.is_on(date(2026, 11, 2))
                && !either.is_on(date(2026, 11, 3))
        );
        let both = cron("0 0 */2 * 0");
        assert!(both.is_on(date(2026, 11, 1)) && both.is_on(date(2026, 11, 3)), "*/2 restricts");
        assert!(cron("0 0 29 2 *").is_on(date(2028, 2, 29)));
    }

    #[test]
    fn what_never_comes_is_refused() {
        for text in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 FEB ?"] {
            assert_eq!(text.parse::<Cron>(), Err(CronError::Never), "{text}");
        }
        assert!("0 0 30 2 MON".parse::<Cron>().is_ok(), "Mondays of February come");
        assert!("0 0 29 2 *".parse::<Cron>().is_ok());
    }

    #[test]
    fn what_is_no_cron_expression_is_refused_with_words() {
        assert_eq!("@daily".parse::<Cron>(), Err(CronError::Fields(1)));
        assert_eq!("0 0 0 * * *".parse::<Cron>(), Err(CronError::Fields(6)));
        for text in [
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "1, * * * *",
            "+1 * * * *",
            "a * * * *",
            "* * L * *",
            "* * * * 1#2",
            "*/300 * * * *",
            "CRON_TZ=UTC * * * *",
            "* * * FOO *",
            "- * * * *",
            "1-2-3 * * * *",
        ] {
            assert!(text.parse::<Cron>().is_err(), "{text}");
        }
        let error = "0 25 * * *".parse::<Cron>().unwrap_err().to_string();
        assert_eq!(error, "its hour \"25\" can't be read; write 0 to 23, such as 0, *, */2 or 0-23");
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "[0-9*,/?A-Z -]{0,30}|.{0,20}") {
            let _ = text.parse::<Cron>();
        }

        #[test]
        fn what_is_accepted_comes_within_eight_years(minute in 0..60, day in "[*]|[1-9]|[12][0-9]|3[01]", month in "[*]|[1-9]|1[0-2]", weekday in "[*]|[0-7]") {
            if let Ok(cron) = format!("{minute} 4 {day} {month} {weekday}").parse::<Cron>() {
                prop_assert!(date(2021, 1, 1).series(jiff::Span::new().days(1)).take(8 * 366).any(|date| cron.is_on(date)));
                prop_assert_eq!(cron.times().count(), 1);
            }
        }
    }
}
