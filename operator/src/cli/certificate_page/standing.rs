//! Where a Certificate stands, in a few words: pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use waxwing_api::{Certificate, CertificateStatus, reason};

use super::times::{due, moment};

/// What is wrong with the stored pair, and what its renewal is at.
pub fn summary(certificate: &Certificate, now: Timestamp) -> String {
    if certificate.metadata.deletion_timestamp.is_some() {
        return "being deleted".into();
    }
    let status = certificate.status.clone().unwrap_or_default();
    let ready = find(&status.conditions, reason::READY);
    let issuing = find(&status.conditions, reason::ISSUING);
    let renews = status.renewal_time.as_ref().map(|time| time.0);
    let expires = status.not_after.as_ref().map(|time| time.0);
    let attempt = issuing
        .filter(|issuing| issuing.reason != reason::ISSUED)
        .map(|issuing| attempt(&status, issuing, now));
    let pair = match (expires, ready) {
        (Some(expires), _) if expires <= now => Some(format!("expired {}", moment(expires, now))),
        (_, Some(ready)) if ready.status != "True" && attempt.is_none() => Some(ready.reason.clone()),
        _ => None,
    };
    // What is told of an attempt says why a renewal is late.
    let late = renews.filter(|renews| *renews <= now).map(|renews| format!("renewal {}", late(renews, now)));
    let told: Vec<String> = pair.into_iter().chain(attempt.or(late)).collect();
    if !told.is_empty() {
        return told.join("; ");
    }
    match (ready, renews, expires) {
        (None, _, _) => "not looked at yet; is Waxwing running?".into(),
        (_, Some(renews), _) => format!("renews {}", moment(renews, now)),
        (_, None, Some(expires)) => format!("expires {}", moment(expires, now)),
        (_, None, None) => "issued".into(),
    }
}

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether an attempt was made and failed, by the condition Issuing; for the other reasons none is made.
pub fn has_failed(issuing: &Condition) -> bool {
    [reason::BACKING_OFF, reason::FAILED].contains(&&*issuing.reason)
}

fn attempt(status: &CertificateStatus, issuing: &Condition, now: Timestamp) -> String {
    if issuing.status == "True" {
        return format!("under way: {}", issuing.message);
    }
    // The count stays when something else stops the next attempt.
    let attempts = status.failed_issuance_attempts.unwrap_or_default();
    if attempts < 1 || !has_failed(issuing) {
        return format!("stopped: {}", issuing.reason);
    }
    let next = match status.next_attempt_time.as_ref().map(|time| time.0) {
        Some(next) if next > now => format!("; next {}", moment(next, now)),
        Some(next) => format!("; the next is {}", late(next, now)),
        None => String::new(),
    };
    format!("attempt {attempts} failed{next}")
}

fn late(time: Timestamp, now: Timestamp) -> String {
    let asks = if now.duration_since(time) > GRACE { "; is Waxwing running?" } else { "" };
    format!("{}{asks}", due(time, now))
}

/// Within so long a Waxwing that runs, or has just begun to, is at what is due.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{NOW, certificate, condition};
    use super::*;

    /// Of one whose conditions are these, with more of a status.
    fn told(ready: (&str, &str), issuing: (&str, &str), more: &Value) -> String {
        let mut status = more.clone();
        status["conditions"] = json!([
            condition("Ready", ready.0, ready.1, ""),
            condition("Issuing", issuing.0, issuing.1, "The order is created."),
        ]);
        summary(&certificate(&status), NOW)
    }

    const READY: (&str, &str) = ("True", "Issued");
    const ISSUED: (&str, &str) = ("False", "Issued");

    #[test]
    fn each_state_has_words() {
        let none = json!({});
        assert_eq!(summary(&certificate(&Value::Null), NOW), "not looked at yet; is Waxwing running?");
        let expired = ("False", "Expired");
        assert_eq!(told(expired, ("True", "Issuing"), &none), "under way: The order is created.");
        assert_eq!(told(expired, ("False", "IssuerNotFound"), &none), "stopped: IssuerNotFound");
        assert_eq!(told(expired, ISSUED, &none), "Expired");
        assert_eq!(told(READY, ISSUED, &none), "issued");
        let expires = json!({"notAfter": "2027-04-15T08:00:00Z"});
        assert_eq!(told(READY, ISSUED, &expires), "expires in 90d (2027-04-15T08:00:00Z)");
    }

    #[test]
    fn a_renewal_that_is_late_asks_for_waxwing() {
        let renews = |at: &str| told(READY, ISSUED, &json!({"renewalTime": at}));
        assert_eq!(renews("2027-01-15T08:00:01Z"), "renews in 1s (2027-01-15T08:00:01Z)");
        assert_eq!(renews("2027-01-15T07:59:00Z"), "renewal due for 1m0s (2027-01-15T07:59:00Z)");
        assert_eq!(
            renews("2027-01-07T09:00:00Z"),
            "renewal due for 7d23h (2027-01-07T09:00:00Z); is Waxwing running?"
        );
    }

    #[test]
    fn an_attempt_that_is_told_of_says_why_a_renewal_is_late() {
        let late = |issuing| told(READY, issuing, &json!({"renewalTime": "2027-01-07T09:00:00Z"}));
        assert_eq!(late(("True", "Issuing")), "under way: The order is created.");
        assert_eq!(late(("False", "RateLimited")), "stopped: RateLimited");
    }

    #[test]
    fn that_it_has_expired_comes_first() {
        let expired = |issuing, renews: &str| {
            let times = json!({"notAfter": "2027-01-13T09:00:00Z", "renewalTime": renews});
            told(READY, issuing, &times)
        };
        let ago = "expired 1d23h ago (2027-01-13T09:00:00Z)";
        assert_eq!(
            expired(ISSUED, "2027-01-07T09:00:00Z"),
            format!("{ago}; renewal due for 7d23h (2027-01-07T09:00:00Z); is Waxwing running?")
        );
        assert_eq!(
            expired(("False", "RateLimited"), "2027-01-07T09:00:00Z"),
            format!("{ago}; stopped: RateLimited")
        );
        assert_eq!(expired(ISSUED, "2027-01-16T08:00:00Z"), ago, "as one that isn't renewed is");
    }

    #[test]
    fn attempts_are_counted_only_where_they_make_the_next_one_wait() {
        let after = |why: &str, next: &str| {
            let status = json!({"failedIssuanceAttempts": 2, "nextAttemptTime": next});
            told(("False", "DoesNotExist"), ("False", why), &status)
        };
        let next = "2027-01-15T08:04:10Z";
        for why in ["BackingOff", "Failed"] {
            assert_eq!(after(why, next), "attempt 2 failed; next in 4m10s (2027-01-15T08:04:10Z)");
        }
        assert_eq!(after("RateLimited", next), "stopped: RateLimited");
        assert_eq!(after("IssuerNotReady", next), "stopped: IssuerNotReady");
        assert_eq!(
            after("BackingOff", "2027-01-15T07:59:30Z"),
            "attempt 2 failed; the next is due for 30s (2027-01-15T07:59:30Z)"
        );
        assert_eq!(
            after("BackingOff", "2027-01-12T09:00:00Z"),
            "attempt 2 failed; the next is due for 2d23h (2027-01-12T09:00:00Z); is Waxwing running?"
        );
    }
}
