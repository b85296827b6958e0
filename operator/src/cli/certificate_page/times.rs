//! How the page tells times: pure.

use std::time::Duration;

use jiff::Timestamp;

/// Whether it has come.
pub fn has_come(time: Option<Timestamp>, now: Timestamp) -> bool {
    time.is_some_and(|time| time <= now)
}

/// `in 4m10s (2026-11-26T14:32:10Z)`, or so long ago.
pub fn moment(time: Timestamp, now: Timestamp) -> String {
    let time_text = whole(time);
    if time > now {
        format!("in {} ({time_text})", span(now, time))
    } else {
        format!("{} ago ({time_text})", span(time, now))
    }
}

/// The same of what is to be done then: `due for 4m10s (2026-11-26T14:32:10Z)` when the time has come.
pub fn due(time: Timestamp, now: Timestamp) -> String {
    if time > now { moment(time, now) } else { format!("due for {} ({})", span(time, now), whole(time)) }
}

/// The two greatest units of what lies between.
pub fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = Duration::try_from(to.duration_since(from)).unwrap_or_default().as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (10.., _, _) => format!("{days}d"),
        (1.., _, _) => format!("{days}d{hours}h"),
        (0, 1.., _) => format!("{hours}h{minutes}m"),
        (0, 0, 1..) => format!("{minutes}m{}s", seconds % 60),
        _ => format!("{seconds}s"),
    }
}

fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    #[test]
    fn times_are_told_from_now() {
        let (soon, past) =
            (NOW + SignedDuration::from_secs(250), NOW - SignedDuration::from_millis(3_599_500));
        assert_eq!(moment(soon, NOW), "in 4m10s (2027-01-15T08:04:10Z)");
        assert_eq!(due(soon, NOW), moment(soon, NOW));
        assert_eq!(moment(past, NOW), "59m59s ago (2027-01-15T07:00:00Z)");
        assert_eq!(due(past, NOW), "due for 59m59s (2027-01-15T07:00:00Z)");
        assert!(has_come(Some(NOW), NOW) && !has_come(Some(soon), NOW) && !has_come(None, NOW));
    }

    #[test]
    fn a_span_has_its_two_greatest_units() {
        let of = |seconds| span(NOW, NOW + SignedDuration::from_secs(seconds));
        let told = [0, 59, 60, 3600, 86_399, 86_400, 864_000].map(of);
        assert_eq!(told, ["0s", "59s", "1m0s", "1h0m", "23h59m", "1d0h", "10d"]);
        assert_eq!(of(-5), "0s");
    }
}
