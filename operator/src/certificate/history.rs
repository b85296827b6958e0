//! What a Certificate's status says of earlier attempts: pure functions.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use waxwing_acme::retry::{is_to_be_waited_for, whole_second};
use waxwing_api::{Certificate, IssuerPause, reason};

use super::conditions::{find, sentence};
use super::decide::Failures;
use super::renewal_request::asked_since;
use crate::issuer::IssuerKey;

/// What the status remembers of failed attempts at the spec as it is now.
pub fn failures(certificate: &Certificate, now: Timestamp) -> Failures {
    let Some(status) = &certificate.status else { return Failures::default() };
    Failures {
        count: status.failed_issuance_attempts.unwrap_or_default().max(0),
        next_attempt: status.next_attempt_time.as_ref().map(|time| time.0),
        same_spec: attempted_this_spec(certificate),
        asked_since: asked_since(certificate, now),
    }
}

/// Whether the condition Issuing says that it was stopped for this reason.
pub fn is_stopped_by(certificate: &Certificate, why: &str) -> bool {
    issuing(certificate).is_some_and(|issuing| issuing.reason == why)
}

/// Whether the condition Issuing says that an attempt is under way.
pub fn is_under_way(certificate: &Certificate) -> bool {
    issuing(certificate).is_some_and(|issuing| issuing.status == "True")
}

/// What is told of one that waits: what for, and why its last attempt failed, as long as the spec is the same.
pub fn step_of_waiting(certificate: &Certificate, what_for: &str) -> String {
    let said = issuing(certificate).filter(|_| attempted_this_spec(certificate));
    let cause = said.and_then(|said| match said.message.split_once(BEFORE) {
        Some((_, cause)) => Some(cause),
        None if [reason::BACKING_OFF, reason::FAILED].contains(&&*said.reason) => Some(&*said.message),
        None => None,
    });
    match cause.filter(|cause| *cause != FAILED) {
        Some(cause) => format!("{}{BEFORE}{cause}", sentence(what_for)),
        None => what_for.to_owned(),
    }
}

/// Why the attempt before one that has waited failed.
pub fn cause_before_waiting(certificate: &Certificate) -> &str {
    issuing(certificate).and_then(|said| said.message.split_once(BEFORE)).map_or(FAILED, |(_, cause)| cause)
}

const BEFORE: &str = " The last attempt: ";
const FAILED: &str = "The last attempt failed.";

/// Until when an issuer isn't asked again, as the status remembers it.
pub fn pause(certificate: &Certificate, issuer: &IssuerKey, now: Timestamp) -> Option<Timestamp> {
    if !failures(certificate, now).hold_back() {
        return None;
    }
    let pauses = &certificate.status.as_ref()?.acme.as_ref()?.paused_issuers;
    // An Issuer is of the Certificate's own namespace.
    let pause = pauses.iter().find(|one| (one.kind, &one.name) == (issuer.kind, &issuer.name))?;
    is_to_be_waited_for(pause.until.0, now).then_some(pause.until.0)
}

/// Whether the stored certificate was ordered with this account, as far as is known.
pub fn is_of_account(certificate: &Certificate, account_url: &str) -> bool {
    let acme = certificate.status.as_ref().and_then(|status| status.acme.as_ref());
    acme.and_then(|acme| acme.account_url.as_deref()).is_none_or(|known| known == account_url)
}

/// What [`pause`] reads.
pub fn kept_pause((issuer, until): &(IssuerKey, Timestamp)) -> IssuerPause {
    IssuerPause { name: issuer.name.clone(), kind: issuer.kind, until: Time(whole_second(*until)) }
}

fn attempted_this_spec(certificate: &Certificate) -> bool {
    issuing(certificate).is_some_and(|issuing| issuing.observed_generation == certificate.metadata.generation)
}

fn issuing(certificate: &Certificate) -> Option<&Condition> {
    find(&certificate.status.as_ref()?.conditions, reason::ISSUING)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use waxwing_api::{CertificateAcmeStatus, CertificateStatus, IssuerKind};

    use super::super::wanted::tests::certificate;
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn key(name: &str) -> IssuerKey {
        IssuerKey { kind: IssuerKind::ClusterIssuer, namespace: None, name: name.into() }
    }

    fn after(hours: i64) -> Timestamp {
        NOW + SignedDuration::from_hours(hours)
    }

    fn stopped(acme: CertificateAcmeStatus) -> Certificate {
        let mut certificate = certificate(&["a.example"]);
        let issuing = Condition {
            type_: reason::ISSUING.into(),
            status: "False".into(),
            reason: reason::BACKING_OFF.into(),
            message: String::new(),
            observed_generation: certificate.metadata.generation,
            last_transition_time: Time(NOW),
        };
        certificate.status = Some(CertificateStatus {
            conditions: vec![issuing],
            acme: Some(acme),
            ..CertificateStatus::default()
        });
        certificate
    }

    #[test]
    fn one_that_waits_for_its_turn_keeps_why_it_failed() {
        let step = |certificate: &Certificate| step_of_waiting(certificate, "waiting for its turn");
        assert_eq!(step(&certificate(&["a.example"])), "waiting for its turn");
        let mut waits = stopped(CertificateAcmeStatus::default());
        let mut say = |status: &str, message: &str| {
            let issuing = &mut waits.status.as_mut().unwrap().conditions[0];
            (issuing.status, issuing.message) = (status.into(), message.into());
            waits.clone()
        };
        let told = step(&say("False", "Port 80 refused."));
        assert_eq!(told, "Waiting for its turn. The last attempt: Port 80 refused.");
        let mut told = say("True", &told);
        assert_eq!(step(&told), "Waiting for its turn. The last attempt: Port 80 refused.", "once");
        assert!(is_under_way(&told));
        assert_eq!(cause_before_waiting(&told), "Port 80 refused.");
        told.metadata.generation = Some(7);
        assert_eq!(step(&told), "waiting for its turn", "another spec");
        assert_eq!(step(&say("False", FAILED)), "waiting for its turn");
    }

    #[test]
    fn a_pause_is_for_one_issuer_and_this_spec() {
        let pauses = [(key("first"), after(2)), (key("edited"), after(24 * 365))];
        let mut certificate = stopped(CertificateAcmeStatus {
            paused_issuers: pauses.iter().map(kept_pause).collect(),
            ..CertificateAcmeStatus::default()
        });
        assert_eq!(pause(&certificate, &key("first"), NOW), Some(after(2)));
        assert_eq!(pause(&certificate, &key("first"), after(2)), None, "it is over");
        assert_eq!(pause(&certificate, &key("second"), NOW), None);
        assert_eq!(pause(&certificate, &key("edited"), NOW), None, "so long a CA has no reason to ask");
        certificate.metadata.generation = Some(2);
        assert_eq!(pause(&certificate, &key("first"), NOW), None, "another spec may fare better");
    }

    #[test]
    fn a_certificate_of_another_account_is_known() {
        let of = |account: Option<&str>| {
            stopped(CertificateAcmeStatus {
                account_url: account.map(str::to_owned),
                ..CertificateAcmeStatus::default()
            })
        };
        assert!(is_of_account(&of(Some("https://ca.example/1")), "https://ca.example/1"));
        assert!(!is_of_account(&of(Some("https://ca.example/2")), "https://ca.example/1"));
        assert!(is_of_account(&of(None), "https://ca.example/1"), "by a version that didn't keep it");
    }
}
