//! A user's request for a renewal: an annotation on the Certificate that holds a time.
//!
//! It is due when that time has come and the last issuance is older. So an issuance satisfies it, nothing needs to be
//! written back, and a time in the future is a plan. Pure.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use waxwing_acme::Leaf;
use waxwing_api::{Certificate, CertificateStatus, labels, reason};

use super::decide::later;

/// The time that the annotation asks for, in whole seconds, as statuses have them. What can't be read is told as a
/// sentence.
pub fn requested(certificate: &Certificate) -> Result<Option<Timestamp>, String> {
    let Some(text) = certificate.annotations().get(labels::RENEW) else { return Ok(None) };
    if let Ok(time) = text.trim().parse::<Timestamp>() {
        return Ok(Timestamp::from_second(time.as_second()).ok());
    }
    let start: String = text.chars().take(40).collect();
    Err(format!(
        "The annotation {} is left aside: {start:?} is not a time; write one such as 2026-11-26T03:00:00Z, or remove it.",
        labels::RENEW
    ))
}

/// When the stored leaf was issued, as far as the status knows.
pub fn last_issuance(status: Option<&CertificateStatus>, leaf: &Leaf, now: Timestamp) -> Timestamp {
    match status.filter(|status| status.serial_number.as_ref() == Some(&leaf.serial)) {
        Some(status) => status.last_issuance_time.as_ref().map_or(leaf.not_before, |time| time.0),
        None => unreported_issuance(leaf, now),
    }
}

/// When a leaf was issued that no status knows: just now, by a process that ended before it could report; or when it
/// says, if somebody else has stored it.
pub fn unreported_issuance(leaf: &Leaf, now: Timestamp) -> Timestamp {
    let age = Duration::try_from(now.duration_since(leaf.not_before)).unwrap_or_default();
    if age < BACKDATED { now } else { leaf.not_before }
}

/// CAs date what they issue back by an hour, so that clocks that are slow take it.
const BACKDATED: Duration = Duration::from_hours(2);

/// Whether a renewal was asked for since the last attempt ended: back-off, and what CAs asked for, is about those before.
pub fn asked_since(certificate: &Certificate, now: Timestamp) -> bool {
    let ended = certificate
        .status
        .as_ref()
        .and_then(|status| status.last_failure_time.as_ref().or(status.last_issuance_time.as_ref()));
    let asked = requested(certificate).ok().flatten().filter(|time| *time <= now);
    matches!((asked, ended), (Some(asked), Some(ended)) if asked > ended.0)
}

/// The time to write for a renewal now: later than everything that would make it an old request.
pub fn time_to_ask(status: Option<&CertificateStatus>, now: Timestamp) -> Timestamp {
    let done = status
        .into_iter()
        .flat_map(|status| [&status.last_issuance_time, &status.last_failure_time])
        .flatten()
        .map(|time| later(time.0, Duration::from_secs(1)))
        .max();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    done.map_or(now, |done| done.max(now))
}

/// What happens next with a Certificate that carries a request for now, as a sentence.
pub fn next(certificate: &Certificate) -> String {
    if certificate.metadata.deletion_timestamp.is_some() {
        return "It is being deleted; nothing is ordered.".into();
    }
    let conditions = certificate.status.iter().flat_map(|status| &status.conditions);
    let issuing = conditions.into_iter().find(|condition| condition.type_ == reason::ISSUING);
    match issuing {
        Some(issuing) if issuing.status == "True" => {
            "An attempt is under way already; the certificate that it brings is the renewal.".into()
        }
        Some(issuing)
            if ![reason::ISSUED, reason::BACKING_OFF, reason::FAILED].contains(&&*issuing.reason) =>
        {
            format!("It was stopped, and may be again: {} ({})", issuing.message, issuing.reason)
        }
        // Only the annotation is there yet: whether Waxwing runs isn't known here.
        _ => {
            "A renewal is asked for. Waxwing orders it at once; what is stored serves until the new pair is \
             stored."
                .into()
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::super::wanted::tests::certificate;
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn at(seconds: i64) -> Time {
        Time(NOW + jiff::SignedDuration::from_secs(seconds))
    }

    fn asking(text: &str) -> Certificate {
        let mut certificate = certificate(&["a.example"]);
        certificate.metadata.annotations = Some([(labels::RENEW.to_owned(), text.to_owned())].into());
        certificate
    }

    #[test]
    fn a_time_is_read_in_whole_seconds() {
        assert_eq!(requested(&certificate(&["a.example"])), Ok(None));
        let time = Ok(Some(Timestamp::constant(1_795_662_000, 0)));
        assert_eq!(requested(&asking("2026-11-26T03:00:00Z")), time);
        assert_eq!(requested(&asking(" 2026-11-26T04:00:00.9+01:00 ")), time);
        for text in ["", "now", "1795662000", "2026-11-26", "2026-11-26 03:00", "9999999-01-01T00:00:00Z"] {
            let told = requested(&asking(text)).unwrap_err();
            assert!(told.contains("write one such as"), "{told}");
        }
    }

    #[test]
    fn what_is_not_reported_yet_was_issued_just_now() {
        let leaf = Leaf {
            not_before: at(-3600).0,
            not_after: at(3600).0,
            serial: "01".into(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            common_name: None,
            issuer: "test".into(),
            ari_id: None,
            key_algorithm: None,
        };
        let mut status =
            CertificateStatus { last_issuance_time: Some(at(-60)), ..CertificateStatus::default() };
        assert_eq!(last_issuance(Some(&status), &leaf, NOW), NOW, "another serial number");
        status.serial_number = Some("01".into());
        assert_eq!(last_issuance(Some(&status), &leaf, NOW), at(-60).0);
        status.last_issuance_time = None;
        assert_eq!(last_issuance(Some(&status), &leaf, NOW), leaf.not_before, "a status of an older version");
        assert_eq!(last_issuance(None, &leaf, NOW), NOW);
        let old = Leaf { not_before: at(-80 * 86_400).0, ..leaf };
        assert_eq!(last_issuance(None, &old, NOW), old.not_before, "somebody else has stored it");
    }

    #[test]
    fn a_request_outranks_the_failures_before_it() {
        let mut certificate = asking(&NOW.to_string());
        let mut failed = |seconds| {
            certificate.status = Some(CertificateStatus {
                last_failure_time: Some(at(seconds)),
                ..CertificateStatus::default()
            });
            asked_since(&certificate, NOW)
        };
        assert!(failed(-1));
        assert!(!failed(0) && !failed(1), "an attempt was made since");
        assert!(!asked_since(&asking(&at(5).0.to_string()), NOW), "not yet");
    }

    #[test]
    fn the_time_to_write_makes_a_new_request_whatever_the_clock_says() {
        assert_eq!(time_to_ask(None, NOW + jiff::SignedDuration::from_millis(900)), NOW);
        let status = CertificateStatus {
            last_issuance_time: Some(at(-10)),
            last_failure_time: Some(at(20)),
            ..CertificateStatus::default()
        };
        assert_eq!(time_to_ask(Some(&status), NOW), at(21).0);
        assert_eq!(time_to_ask(Some(&status), at(60).0), at(60).0);
    }

    #[test]
    fn what_happens_next_is_said() {
        let with = |status: &str, reason: &str| {
            let mut certificate = certificate(&["a.example"]);
            let condition = Condition {
                type_: reason::ISSUING.into(),
                status: status.into(),
                reason: reason.into(),
                message: "There is none.".into(),
                observed_generation: None,
                last_transition_time: at(0),
            };
            certificate.status =
                Some(CertificateStatus { conditions: vec![condition], ..CertificateStatus::default() });
            next(&certificate)
        };
        assert!(with("True", reason::IN_PROGRESS).contains("under way"));
        assert!(with("False", reason::ISSUER_NOT_FOUND).ends_with("There is none. (IssuerNotFound)"));
        assert!(with("False", reason::BACKING_OFF).starts_with("A renewal is asked for."));
        assert!(next(&certificate(&["a.example"])).starts_with("A renewal is asked for."));
    }
}
