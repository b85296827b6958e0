//! When the CA wants a certificate renewed (ARI, RFC 9773).

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use jiff::Timestamp;
use serde::Deserialize;

use crate::attempts::Attempts;
use crate::http::Answer;
use crate::retry::{after, fraction};
use crate::{Account, Error, Failure, RequestError};

/// What a CA says about a certificate's renewal (RFC 9773 §4.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RenewalInfo {
    /// When to renew. In the past: now.
    pub window: SuggestedWindow,
    /// A page that says why, for people.
    pub explanation_url: Option<String>,
    /// When to ask again: the CA's Retry-After, kept between a minute and a day; six hours where it names none
    /// (§4.3.2).
    pub ask_again: Timestamp,
}

/// The time in which a CA wants a certificate renewed (RFC 9773 §4.2).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub struct SuggestedWindow {
    /// Its begin.
    pub start: Timestamp,
    /// Its end.
    pub end: Timestamp,
}

impl Account {
    /// Asks the CA when to renew the certificate that `ari_id` identifies ([`Leaf::ari_id`](crate::Leaf)).
    /// `None` where the CA doesn't offer ARI. Unsigned, so it costs no nonce (§4.1).
    pub async fn renewal_info(&self, ari_id: &str) -> Result<Option<RenewalInfo>, Error> {
        let Some(resource) = self.directory().renewal_info() else { return Ok(None) };
        let url = format!("{}/{ari_id}", resource.as_str().trim_end_matches('/'));
        let fail = |failure| RequestError { method: "GET", url: url.clone(), failure };
        let mut attempts = Attempts::new();
        loop {
            let request = Request::builder()
                .method(Method::GET)
                .uri(&url)
                .body(Bytes::new())
                .map_err(|error| fail(Failure::Unexpected(error.to_string())))?;
            match self.signed().http.request(request).await {
                Ok(answer) => return Ok(read(&answer, Timestamp::now()).map(Some).map_err(fail)?),
                Err(error) => attempts.after(error).await?,
            }
        }
    }
}

impl SuggestedWindow {
    /// Whether it makes sense for a certificate of this validity. One that is reversed, begins after the
    /// certificate's end or is wider than its lifetime doesn't, and is left aside (§4.2: "treat as if not provided").
    pub fn is_sensible(&self, not_before: Timestamp, not_after: Timestamp) -> bool {
        let width = self.end.duration_since(self.start);
        width.is_positive() && self.start < not_after && width <= not_after.duration_since(not_before)
    }

    /// A time in the window, evenly spread by `seed` (§4.2). Equal for equal windows, so that asking again changes
    /// nothing.
    pub fn select(&self, seed: u64) -> Timestamp {
        let width = Duration::try_from(self.end.duration_since(self.start)).unwrap_or_default();
        after(self.start, width.mul_f64(fraction(seed)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    suggested_window: SuggestedWindow,
    #[serde(default, rename = "explanationURL")]
    explanation_url: Option<String>,
}

const UNNAMED: Duration = Duration::from_hours(6);
const SOONEST: Duration = Duration::from_mins(1);
const LATEST: Duration = Duration::from_hours(24);

fn read(answer: &Answer, now: Timestamp) -> Result<RenewalInfo, Failure> {
    let body: Body = serde_json::from_slice(&answer.body)
        .map_err(|error| answer.unexpected(format!("it is not renewal information ({error})"), now))?;
    Ok(RenewalInfo {
        window: body.suggested_window,
        explanation_url: body.explanation_url,
        ask_again: ask_again(answer.retry_after(now), now),
    })
}

fn ask_again(retry_after: Option<Timestamp>, now: Timestamp) -> Timestamp {
    retry_after.unwrap_or(after(now, UNNAMED)).clamp(after(now, SOONEST), after(now, LATEST))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::header::{DATE, RETRY_AFTER};
    use http::{HeaderValue, StatusCode};
    use proptest::prelude::*;

    use super::*;

    fn at(hours: u64) -> Timestamp {
        after(Timestamp::UNIX_EPOCH, Duration::from_hours(hours))
    }

    fn window(start: u64, end: u64) -> SuggestedWindow {
        SuggestedWindow { start: at(start), end: at(end) }
    }

    #[test]
    fn windows_that_make_no_sense_are_told_apart() {
        let sensible = |window: SuggestedWindow| window.is_sensible(at(1000), at(2000));
        assert!(sensible(window(1600, 1700)));
        assert!(sensible(window(10, 11)), "the past means now: the certificate was revoked");
        assert!(!sensible(window(1700, 1600)), "reversed");
        assert!(!sensible(window(1600, 1600)), "empty");
        assert!(!sensible(window(2000, 2100)), "after the end");
        assert!(!sensible(window(1500, 20_000)), "years wide");
    }

    #[test]
    fn the_ca_is_asked_neither_all_the_time_nor_never() {
        let now = at(0);
        assert_eq!(ask_again(None, now), at(6));
        assert_eq!(ask_again(Some(now), now), after(now, SOONEST));
        assert_eq!(ask_again(Some(at(10_000)), now), at(24));
        assert_eq!(ask_again(Some(at(2)), now), at(2));
    }

    const INFO: &str = r#"{"suggestedWindow": {"start": "2025-01-02T04:00:00Z", "end": "2025-01-03T04:00:00Z"},
                           "explanationURL": "https://acme.example.com/docs/ari"}"#;

    fn answer(body: &'static str, retry_after: &'static str) -> Answer {
        // A day ahead of `at(0)`.
        let date = HeaderValue::from_static("Fri, 02 Jan 1970 00:00:00 GMT");
        let retry_after = HeaderValue::from_static(retry_after);
        let headers = [(DATE, date), (RETRY_AFTER, retry_after)].into_iter().collect();
        Answer { status: StatusCode::OK, headers, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn the_answer_is_read_as_the_rfc_writes_it() {
        let info = read(&answer(INFO, "7200"), at(0)).unwrap();
        assert_eq!(info.explanation_url.as_deref(), Some("https://acme.example.com/docs/ari"));
        assert!(info.window.start < info.window.end);
        assert_eq!(info.ask_again, at(2));
    }

    #[test]
    fn a_date_to_ask_again_at_counts_by_the_cas_clock() {
        let info = read(&answer(INFO, "Fri, 02 Jan 1970 02:00:00 GMT"), at(0)).unwrap();
        assert_eq!(info.ask_again, at(2));
    }

    #[test]
    fn what_is_no_renewal_information_says_all_the_same_when_to_ask_again() {
        let failure = read(&answer(r#"{"maintenance": true}"#, "7200"), at(0)).unwrap_err();
        let expected = at(2);
        assert!(matches!(failure, Failure::Maintenance { retry_after, .. } if retry_after == expected));
    }

    proptest! {
        #[test]
        fn the_time_is_in_the_window(start in 0_u64..100_000, width in 1_u64..10_000, seed: u64) {
            let window = window(start, start + width);
            let selected = window.select(seed);
            prop_assert!(window.start <= selected && selected <= window.end);
            prop_assert_eq!(selected, window.select(seed));
        }
    }
}
