//! How the CA behaves where no rule of the script says otherwise.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use jiff::Timestamp;

use super::{
    clock::{earlier, later},
    limits::Limits,
    problem::{Problem, RetryAfter},
};

/// How the CA behaves. The default is Let's Encrypt's way, as far as it is public, without its limits.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// How challenges are validated.
    pub validation: Validation,
    /// Where HTTP-01 is looked for; `None`: where the name resolves to, on port 80.
    pub http01_at: Option<SocketAddr>,
    /// The challenges that are offered. A wildcard is offered DNS-01 alone.
    pub challenges: Vec<&'static str>,
    /// How long an order may be worked on.
    pub order_lifetime: Duration,
    /// How long an authorization may be pending.
    pub pending_lifetime: Duration,
    /// How long a valid authorization is good for other orders of its account; zero: for its own alone.
    pub authorization_lifetime: Duration,
    /// What becomes of what has expired.
    pub expired: Expired,
    /// newOrder answers the same account, names and profile with the order that is open, as Boulder does.
    pub reuse_orders: bool,
    /// newOrder takes valid authorizations of the same account.
    pub reuse_authorizations: bool,
    /// How long certificates are valid where the order names no profile.
    pub certificate_lifetime: Duration,
    /// The profiles offered: their name, and the lifetime of their certificates.
    pub profiles: BTreeMap<String, Duration>,
    /// What renewal information says.
    pub suggestion: Suggestion,
    /// The Retry-After of orders and authorizations that aren't decided.
    pub poll_after: Option<RetryAfter>,
    /// What is enforced.
    pub limits: Limits,
}

/// How a challenge is validated.
#[derive(Clone, Debug)]
pub enum Validation {
    /// HTTP-01 as RFC 8555 §8.3 says; redirects to HTTPS aren't followed. Other challenges fail.
    Real,
    /// Valid at once, without a look.
    Valid,
    /// Invalid at once, with this problem.
    Fails(Problem),
    /// Never decided.
    Never,
}

/// What becomes of an order or an authorization whose time is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expired {
    /// 404, as Boulder answers.
    Gone,
    /// It is `invalid`, or `expired` where an authorization was valid (RFC 8555 §7.1.6).
    Invalid,
}

/// What renewal information says (RFC 9773 §4.2).
#[derive(Clone, Debug)]
pub struct Suggestion {
    /// The window.
    pub window: Window,
    /// The Retry-After; Let's Encrypt says six hours.
    pub retry_after: Option<RetryAfter>,
    /// A page that says why.
    pub explanation_url: Option<String>,
}

/// A suggested window, by the certificate that is asked about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Window {
    /// Around two thirds of the lifetime, or half where that is under ten days; in the past if it is revoked.
    Usual,
    /// Begins an hour ago and ends half an hour ago, as Boulder's for what is revoked.
    Past,
    /// A day, ten years after the certificate's end.
    FarFuture,
    /// The usual one with its ends exchanged.
    Reversed,
    /// From the certificate's begin on, for ten years.
    YearsWide,
    /// From the first time to the second.
    At(Timestamp, Timestamp),
}

const DAY: Duration = Duration::from_hours(24);
const HALF_HOUR: Duration = Duration::from_mins(30);
const TEN_YEARS: Duration = Duration::from_hours(24 * 3652);

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            validation: Validation::Real,
            http01_at: None,
            challenges: vec!["http-01", "dns-01"],
            order_lifetime: DAY * 7,
            pending_lifetime: DAY * 7,
            authorization_lifetime: DAY * 30,
            expired: Expired::Gone,
            reuse_orders: true,
            reuse_authorizations: true,
            certificate_lifetime: DAY * 90,
            profiles: [("classic".to_owned(), DAY * 90), ("shortlived".to_owned(), DAY * 6)].into(),
            suggestion: Suggestion::default(),
            poll_after: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Suggestion {
    fn default() -> Self {
        Self::new(Window::Usual)
    }
}

impl Suggestion {
    /// A window with Let's Encrypt's Retry-After.
    pub fn new(window: Window) -> Self {
        Self { window, retry_after: Some(RetryAfter::Seconds(6 * 3600)), explanation_url: None }
    }
}

impl Window {
    /// Its begin and its end for a certificate of this validity.
    pub(super) fn times(
        self,
        not_before: Timestamp,
        not_after: Timestamp,
        now: Timestamp,
    ) -> (Timestamp, Timestamp) {
        let lifetime = Duration::try_from(not_after.duration_since(not_before)).unwrap_or_default();
        let usual = {
            let left = if lifetime < DAY * 10 { lifetime / 2 } else { lifetime / 3 };
            let (ideal, half) = (earlier(not_after, left), (lifetime / 50).min(DAY));
            (earlier(ideal, half), later(ideal, half))
        };
        match self {
            Self::Usual => usual,
            // Half an hour, but never wider than a short lifetime.
            Self::Past => {
                let end = earlier(now, HALF_HOUR);
                (earlier(end, HALF_HOUR.min(lifetime / 50)), end)
            }
            Self::FarFuture => (later(not_after, TEN_YEARS), later(not_after, TEN_YEARS + DAY)),
            Self::Reversed => (usual.1, usual.0),
            Self::YearsWide => (not_before, later(not_before, TEN_YEARS)),
            Self::At(start, end) => (start, end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_what_they_are_called() {
        let begin = Timestamp::UNIX_EPOCH;
        let (end, now) = (later(begin, DAY * 90), later(begin, DAY * 10));
        let times = |window: Window| window.times(begin, end, now);
        assert_eq!(times(Window::Usual), (later(begin, DAY * 59), later(begin, DAY * 61)));
        assert_eq!(times(Window::Reversed), (times(Window::Usual).1, times(Window::Usual).0));
        assert!(times(Window::Past).1 < now);
        assert!(times(Window::FarFuture).0 > end);
        assert!(times(Window::YearsWide).1 > later(end, DAY * 3000));
    }
}
