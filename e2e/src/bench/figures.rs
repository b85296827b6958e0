//! From single times to the figures of a lane. Pure.

use std::time::Duration;

/// The time that `percent` of all don't exceed (nearest rank); zero of none.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// `amount` for each of `count`; zero of none.
pub fn each(amount: f64, count: usize) -> f64 {
    match u32::try_from(count) {
        Ok(0) | Err(_) => 0.0,
        Ok(count) => amount / f64::from(count),
    }
}

/// How many of `count` there were in a second, over `time`; zero where no time passed.
pub fn per_second(count: usize, time: Duration) -> f64 {
    match u32::try_from(count) {
        Ok(count) if !time.is_zero() => f64::from(count) / time.as_secs_f64(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "these quotients are exact")]

    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let times: Vec<Duration> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(10));
        assert_eq!(percentile(&times, 99), Duration::from_millis(20));
        assert_eq!(percentile(&times, 0), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!(each(5.0, 2), 2.5);
        assert_eq!(each(5.0, 0), 0.0);
        assert_eq!(per_second(10, Duration::from_secs(4)), 2.5);
        assert_eq!(per_second(10, Duration::ZERO), 0.0);
    }
}
