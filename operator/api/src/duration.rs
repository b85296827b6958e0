//! Durations as Kubernetes writes them: Go's syntax.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// A duration in the syntax of Go's `time.ParseDuration`, such as `720h` or `1h30m`; never negative.
///
/// ```
/// let duration: waxwing_api::GoDuration = "1h30m".parse()?;
/// assert_eq!(duration.get(), std::time::Duration::from_secs(5400));
/// assert_eq!(duration.to_string(), "1h30m0s");
/// # Ok::<(), waxwing_api::ParseDurationError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(Duration);

impl GoDuration {
    /// The duration itself.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<GoDuration> for Duration {
    fn from(duration: GoDuration) -> Self {
        duration.0
    }
}

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, ParseDurationError> {
        if text == "0" {
            return Ok(Self::default());
        }
        let mut nanos: u128 = 0;
        let mut rest = text;
        loop {
            let (value, after) = next_part(rest).ok_or_else(|| ParseDurationError(text.into()))?;
            nanos = nanos.saturating_add(value);
            if after.is_empty() {
                break;
            }
            rest = after;
        }
        // Go counts nanoseconds in an int64: 292 years.
        let nanos = i64::try_from(nanos).map_err(|_| ParseDurationError(text.into()))?;
        Ok(Self(Duration::from_nanos(nanos.unsigned_abs())))
    }
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `720h0m0s`, `1m30s`, `1.5s`, `0s`; below a second with a unit that makes it
    /// at least one: `100ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        let seconds = self.0.as_secs();
        if seconds == 0 && nanos > 0 {
            let (unit, digits) = match nanos {
                1_000_000.. => ("ms", 6),
                1_000.. => ("µs", 3),
                _ => ("ns", 0),
            };
            let scale = 10_u32.pow(digits);
            return write!(f, "{}{}{unit}", nanos / scale, fraction(nanos % scale, digits));
        }
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}{}s", seconds % 60, fraction(nanos, 9))
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for GoDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{PATTERN}')"),
                "message": "write a duration in hours, minutes and seconds, such as 720h or 1h30m; a day is 24h",
            }],
        })
    }
}

/// A text that isn't a duration in Go's syntax.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a duration: write hours, minutes and seconds, such as 720h or 1h30m")]
pub struct ParseDurationError(String);

/// What the API server accepts: bounded, so that its `duration()` can't overflow on one part.
pub(crate) const PATTERN: &str =
    "^([0-9]{1,6}([.][0-9]{1,9})?(h|m)|[0-9]{1,8}([.][0-9]{1,9})?(s|ms|us|µs|ns))+$";

/// The first number and unit of `text` in nanoseconds, and what follows.
fn next_part(text: &str) -> Option<(u128, &str)> {
    let digits_end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, mut rest) = text.split_at(digits_end(text));
    let mut decimals = "";
    if let Some(after) = rest.strip_prefix('.') {
        (decimals, rest) = after.split_at(digits_end(after));
    }
    if whole.is_empty() && decimals.is_empty() {
        return None;
    }
    let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let unit: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let mut nanos = decimal(whole)?.checked_mul(unit)?;
    // More digits than that are finer than a nanosecond of an hour; like Go, they are cut off.
    let decimals = decimals.get(..18).unwrap_or(decimals);
    let scale = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
    nanos = nanos.checked_add(decimal(decimals)?.checked_mul(unit)? / scale)?;
    Some((nanos, rest))
}

fn decimal(digits: &str) -> Option<u128> {
    if digits.is_empty() { Some(0) } else { digits.parse().ok() }
}

/// `.` and the digits of `value`, `digits` long, without trailing zeros; nothing for zero.
fn fraction(value: u32, digits: u32) -> String {
    if value == 0 {
        return String::new();
    }
    let width = digits as usize;
    format!(".{value:0width$}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("720h", 2_592_000_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5m", 30_000_000_000),
            ("1.m", 60_000_000_000),
            ("1m0.000000001s", 60_000_000_001),
            ("100ms", 100_000_000),
            ("1us2µs3μs", 6_000),
            ("5m5m", 600_000_000_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("9223372036854775807ns", i64::MAX),
        ] {
            assert_eq!(
                text.parse::<GoDuration>().unwrap().get().as_nanos(),
                nanos.cast_unsigned().into(),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_go_refuses_and_negative_ones() {
        for text in [
            "",
            "1",
            "h",
            ".h",
            "3d",
            "1 h",
            " 1h",
            "-1h",
            "+1h",
            "1h30",
            "1.5.5h",
            "9223372036854775808ns",
            "2562048h",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn prints_as_go_prints() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (2_592_000_000_000_000, "720h0m0s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
        ] {
            assert_eq!(GoDuration::from(Duration::from_nanos(nanos)).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn round_trip(nanos in prop_oneof![0..=i64::MAX, 0..10_000_000_000_i64]) {
            let duration = GoDuration::from(Duration::from_nanos(nanos.cast_unsigned()));
            prop_assert_eq!(duration.to_string().parse::<GoDuration>(), Ok(duration));
            let json = serde_json::to_string(&duration).unwrap();
            prop_assert_eq!(serde_json::from_str::<GoDuration>(&json).unwrap(), duration);
        }

        /// Else an object that the API server took would stop the watch of all.
        #[test]
        fn what_the_schema_accepts_is_read(text in PATTERN.replace(['^', '$'], "").replace(")+", "){1,2}").as_str()) {
            prop_assert!(text.parse::<GoDuration>().is_ok(), "{}", text);
        }

        #[test]
        fn never_panics(text in "[0-9.hmsuµn -]{0,40}|.{0,20}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
