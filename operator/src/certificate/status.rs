//! What happened, as a status and an Event: pure functions.
//!
//! Ready is about the Secret: True while it holds a valid pair for this spec, whatever the last attempt did.
//! Issuing is about the attempt: True with where it is, False with why it stopped. Nothing in a status changes
//! when nothing happened.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use waxwing_acme::Leaf;
use waxwing_acme::retry::{is_to_be_waited_for, whole_second};
use waxwing_api::{
    Certificate, CertificateStatus, IssuerKind, IssuerPause, IssuerRef, LimitRefusal, LimitUse,
    RenewalInformation, SuggestedWindow, reason,
};

use super::admit::Refusal;
use super::advice::Advice;
use super::conditions::{condition, find, full_stop, seconds, sentence, set};
use super::decide::Fault;
use super::history::{cause_before_waiting, failures, is_under_way, kept_pause};
use super::limits_used;
use super::renewal::{Due, Remark};
use super::renewal_request::unreported_issuance;
use super::target_secret::IssuedBy;
use crate::issuer::IssuerKey;

/// What the target Secret holds.
#[derive(Clone, Debug)]
pub struct Held<'a> {
    /// The leaf, if a readable one is stored.
    pub leaf: Option<&'a Leaf>,
    /// Who issued it, as far as that is known.
    pub issued_by: Option<&'a IssuedBy>,
    /// The issuer of `issuerRef`.
    pub first_choice: Option<&'a IssuerKey>,
    /// When it is to be renewed, and what is to be said of that.
    pub due: Due,
    /// What the CA suggests for that.
    pub advice: Option<Advice>,
    /// Why it doesn't serve, if it doesn't.
    pub fault: Option<Fault>,
}

/// What became of a look at a Certificate.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The stored pair is what is wanted.
    Kept,
    /// An attempt is under way and has come to this step.
    Working(String),
    /// A new certificate was stored.
    Issued {
        /// The order that it comes from.
        order_url: String,
        /// The account that it was ordered with.
        account_url: String,
        /// Which issuers were passed over, and why, in sentences.
        passed_over: Option<String>,
        /// What was used of the CAs' limits.
        used: Vec<LimitUse>,
        /// Which issuers are to be left alone until which time.
        pauses: Vec<(IssuerKey, Timestamp)>,
    },
    /// An attempt is due. What is told is that what is stored has changed.
    Due,
    /// An attempt is due, but not yet.
    Waiting,
    /// An attempt is due, but a limit of the CA's is used up.
    Limited(Limited),
    /// No attempt may be made.
    Refused(Refusal),
    /// An attempt failed.
    Failed(Failure),
}

/// A failed attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// What was tried, what the CA answered, what most likely causes it, what to do next.
    pub message: String,
    /// The same for an Event: without what differs from attempt to attempt.
    pub note: String,
    /// Whether only a change can make the next attempt pass.
    pub needs_change: bool,
    /// The begin of the next attempt.
    pub next_attempt: Timestamp,
    /// The order, if there was one.
    pub order_url: Option<String>,
    /// What was used of the CAs' limits.
    pub used: Vec<LimitUse>,
    /// The limit that a CA called used up.
    pub refusal: Option<LimitRefusal>,
    /// Which issuers aren't asked before which time, where there are several.
    pub pauses: Vec<(IssuerKey, Timestamp)>,
}

/// A wait for a limit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limited {
    /// Which limit of which CA, until when, and what to do.
    pub message: String,
    /// The same for an Event: without time and numbers that change.
    pub note: String,
    /// Which issuers aren't asked before which time.
    pub pauses: Vec<(IssuerKey, Timestamp)>,
}

/// A status to write, and an Event to send with it.
#[derive(Debug)]
pub struct Report {
    /// The whole status.
    pub status: CertificateStatus,
    /// At most one Event about what happened.
    pub event: Option<Notice>,
    /// And those about renewals, when they are new: what the CA says of them, and what is said and can't be followed.
    pub remarks: Vec<Notice>,
}

/// An Event's content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// Whether it is about something going wrong.
    pub warning: bool,
    /// The same as a condition's reason.
    pub reason: &'static str,
    /// A sentence, without clocks and counters, so that Events aggregate.
    pub note: String,
}

/// Whether the CA says why it wants a renewal then, and that hasn't been told yet.
pub fn has_explanation(certificate: &Certificate, advice: Option<&Advice>) -> bool {
    suggestion(certificate.status.as_ref(), advice).is_some()
}

/// The status after `outcome`.
pub fn report(certificate: &Certificate, held: &Held<'_>, outcome: &Outcome, now: Timestamp) -> Report {
    let before = certificate.status.clone().unwrap_or_default();
    let generation = certificate.metadata.generation;
    let mut status = before.clone();
    let failures = failures(certificate, now);
    let hold_back = failures.hold_back();
    if let Some(acme) = &mut status.acme {
        acme.paused_issuers.retain(|pause| hold_back && is_to_be_waited_for(pause.until.0, now));
    }
    // What a renewal that was asked for leaves behind is still known while it is under way.
    if !failures.same_spec || !hold_back && !matches!(outcome, Outcome::Working(_)) {
        forget_failures(&mut status);
    }
    let mut event = describe_held(&mut status, &before, held, now).or_else(|| revocation(&before, held));
    let ready = ready(held);
    let mut remarks = remarks(&before, held, &ready);
    remarks.extend(suggestion(Some(&before), held.advice.as_ref().filter(|_| held.leaf.is_some())));
    set(&mut status.conditions, ready, generation, now);

    let issuing = match outcome {
        Outcome::Kept => {
            forget_failures(&mut status);
            let says_so = find(&before.conditions, reason::ISSUING)
                .is_some_and(|condition| condition.status == "False" && condition.reason == reason::ISSUED);
            (!says_so)
                .then(|| (false, reason::ISSUED, "The stored certificate is what the spec asks for.".into()))
        }
        Outcome::Due => None,
        // One that has waited for its turn until it wasn't due any more.
        Outcome::Waiting => is_under_way(certificate)
            .then(|| (false, reason::BACKING_OFF, cause_before_waiting(certificate).to_owned())),
        Outcome::Working(step) => Some((true, reason::IN_PROGRESS, sentence(step))),
        Outcome::Issued { order_url, account_url, passed_over, used, pauses: left_alone } => {
            forget_failures(&mut status);
            status.last_issuance_time = Some(Time(seconds(now)));
            let acme = status.acme.get_or_insert_default();
            acme.order_url = Some(order_url.clone());
            acme.account_url = Some(account_url.clone());
            leave_alone(&mut status, left_alone, held.issued_by);
            limits_used::remember(&mut status, used, now);
            let others = passed_over.as_ref().map(|others| format!(" {others}")).unwrap_or_default();
            if let Some(event) = &mut event {
                event.note.push_str(&others);
            }
            Some((false, reason::ISSUED, format!("The certificate was issued and stored.{others}")))
        }
        Outcome::Limited(limited) => {
            // The attempt that was due is this one; the message says when the next is.
            status.next_attempt_time = None;
            leave_alone(&mut status, &limited.pauses, None);
            let known = find(&before.conditions, reason::ISSUING)
                .is_some_and(|condition| condition.reason == reason::RATE_LIMITED);
            if !known {
                event =
                    Some(Notice { warning: true, reason: reason::RATE_LIMITED, note: limited.note.clone() });
            }
            Some((false, reason::RATE_LIMITED, limited.message.clone()))
        }
        Outcome::Refused(refusal) => {
            let message = sentence(&refusal.message);
            let known = find(&before.conditions, reason::ISSUING)
                .is_some_and(|condition| condition.reason == refusal.reason && condition.message == message);
            if !known {
                event = Some(Notice { warning: true, reason: refusal.reason, note: message.clone() });
            }
            Some((false, refusal.reason, message))
        }
        Outcome::Failed(failure) => {
            let reason = if failure.needs_change { reason::FAILED } else { reason::BACKING_OFF };
            let message = full_stop(&failure.message);
            status.failed_issuance_attempts =
                Some(status.failed_issuance_attempts.unwrap_or_default().max(0).saturating_add(1));
            status.last_failure_time = Some(Time(seconds(now)));
            status.next_attempt_time = Some(Time(whole_second(failure.next_attempt)));
            if let Some(order_url) = &failure.order_url {
                status.acme.get_or_insert_default().order_url = Some(order_url.clone());
            }
            if status.acme.is_some() || failure.refusal.is_some() {
                status.acme.get_or_insert_default().refused_limit.clone_from(&failure.refusal);
            }
            leave_alone(&mut status, &failure.pauses, None);
            limits_used::remember(&mut status, &failure.used, now);
            event = Some(Notice { warning: true, reason, note: full_stop(&failure.note) });
            Some((false, reason, message))
        }
    };
    if let Some((is_true, reason, message)) = issuing {
        set(&mut status.conditions, condition(reason::ISSUING, is_true, reason, message), generation, now);
    }
    Report { status, event, remarks }
}

/// Fills what is known of the stored leaf; a leaf with another serial than before is news.
fn describe_held(
    status: &mut CertificateStatus,
    before: &CertificateStatus,
    held: &Held<'_>,
    now: Timestamp,
) -> Option<Notice> {
    status.not_before = held.leaf.map(|leaf| Time(leaf.not_before));
    status.not_after = held.leaf.map(|leaf| Time(leaf.not_after));
    status.serial_number = held.leaf.map(|leaf| leaf.serial.clone());
    status.renewal_time = held.due.at.map(|at| Time(seconds(at)));
    status.issuer_ref = held.leaf.and(held.issued_by).map(|by| IssuerRef {
        name: by.name.clone(),
        kind: if by.kind == IssuerKind::ClusterIssuer.to_string() {
            IssuerKind::ClusterIssuer
        } else {
            IssuerKind::Issuer
        },
        group: Some(waxwing_api::GROUP.into()),
    });
    let ari = held.leaf.and(held.advice.as_ref()).map(|advice| RenewalInformation {
        suggested_window: SuggestedWindow {
            start: Time(seconds(advice.window.start)),
            end: Time(seconds(advice.window.end)),
        },
        explanation_url: advice.explanation_url.clone(),
    });
    if ari.is_some() || status.acme.is_some() {
        status.acme.get_or_insert_default().ari = ari;
    }
    let leaf = held.leaf?;
    if held.fault.is_some() || before.serial_number.as_ref() == Some(&leaf.serial) {
        return None;
    }
    status.last_issuance_time = Some(Time(seconds(unreported_issuance(leaf, now))));
    status.revision = Some(before.revision.unwrap_or_default().max(0).saturating_add(1));
    let by = held.issued_by.map(|by| format!(" from {} {}", by.kind, by.name)).unwrap_or_default();
    Some(Notice {
        warning: false,
        reason: reason::ISSUED,
        note: format!("Stored a certificate for {}{by}.", names(leaf)),
    })
}

/// A few names, or the first and how many others: what is said after them matters more.
fn names(leaf: &Leaf) -> String {
    match leaf.dns_names.as_slice() {
        [first, others @ ..] if others.len() >= NAMES => format!("{first} and {} other names", others.len()),
        names => names.join(", "),
    }
}

/// So many are told.
const NAMES: usize = 5;

/// A revocation is told once, when it shows in the Ready condition.
fn revocation(before: &CertificateStatus, held: &Held<'_>) -> Option<Notice> {
    let fault = held.fault.as_ref().filter(|fault| matches!(fault, Fault::Revoked(_)))?;
    let told = find(&before.conditions, reason::READY).is_some_and(|ready| ready.reason == fault.reason());
    (!told).then(|| Notice { warning: true, reason: fault.reason(), note: sentence(&fault.to_string()) })
}

/// A page of the CA's that says why it wants a certificate renewed is worth reading, once.
fn suggestion(before: Option<&CertificateStatus>, advice: Option<&Advice>) -> Option<Notice> {
    let url = advice?.explanation_url.as_ref()?;
    let told = before
        .and_then(|status| status.acme.as_ref())
        .and_then(|acme| acme.ari.as_ref()?.explanation_url.as_ref());
    (told != Some(url)).then(|| Notice {
        warning: false,
        reason: reason::RENEWAL_SUGGESTED,
        note: format!("The CA suggests when to renew, and says why: {url}"),
    })
}

fn ready(held: &Held<'_>) -> Condition {
    let (is_true, reason, mut message) = match (&held.fault, held.leaf) {
        (None, Some(leaf)) => (
            true,
            reason::ISSUED,
            format!("The Secret holds a certificate for {}.{}", names(leaf), fallback(held)),
        ),
        (Some(fault), _) => (false, fault.reason(), sentence(&fault.to_string())),
        (None, None) => (false, reason::DOES_NOT_EXIST, sentence(&Fault::DoesNotExist.to_string())),
    };
    for remark in &held.due.remarks {
        message.push(' ');
        message.push_str(&remark.text);
    }
    condition(reason::READY, is_true, reason, message)
}

/// The remarks that are worth an Event, unless the condition says them already.
fn remarks(before: &CertificateStatus, held: &Held<'_>, ready: &Condition) -> Vec<Notice> {
    let said = find(&before.conditions, reason::READY).map_or("", |condition| condition.message.as_str());
    let news = |text: &str| !said.contains(text) && ready.message.contains(text);
    let notice = |remark: &Remark| {
        let reason = remark.event.filter(|_| news(&remark.text))?;
        Some(Notice { warning: true, reason, note: remark.text.clone() })
    };
    held.due.remarks.iter().filter_map(notice).collect()
}

/// A sentence where the stored certificate isn't from the first choice.
fn fallback(held: &Held<'_>) -> String {
    match (held.issued_by, held.first_choice) {
        (Some(by), Some(first)) if *by != IssuedBy::from(first) => format!(
            " It comes from {} {}, a fallback; the next renewal begins with {first} again.",
            by.kind, by.name
        ),
        _ => String::new(),
    }
}

/// Adds who is left alone: a CA's time runs on whoever has issued, or failed, meanwhile. But who has issued needs no
/// pause.
fn leave_alone(status: &mut CertificateStatus, new: &[(IssuerKey, Timestamp)], issued_by: Option<&IssuedBy>) {
    let running = status.acme.iter_mut().flat_map(|acme| std::mem::take(&mut acme.paused_issuers));
    let mut pauses: Vec<IssuerPause> = Vec::new();
    for pause in new.iter().map(kept_pause).chain(running) {
        let has_issued =
            issued_by.is_some_and(|by| by.kind == pause.kind.to_string() && by.name == pause.name);
        let known = pauses.iter().any(|known| (known.kind, &known.name) == (pause.kind, &pause.name));
        if !known && !has_issued && pauses.len() < PAUSES {
            pauses.push(pause);
        }
    }
    if !pauses.is_empty() {
        status.acme.get_or_insert_default().paused_issuers = pauses;
    }
}

/// As many issuers as a Certificate can name, and as many again that they rehearse at.
const PAUSES: usize = 8;

fn forget_failures(status: &mut CertificateStatus) {
    status.failed_issuance_attempts = None;
    status.last_failure_time = None;
    status.next_attempt_time = None;
    if let Some(acme) = &mut status.acme {
        acme.refused_limit = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::wanted::tests::certificate;
    use super::*;
    use jiff::SignedDuration;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn leaf(serial: &str) -> Leaf {
        Leaf {
            not_before: NOW,
            not_after: NOW + jiff::SignedDuration::from_hours(2160),
            serial: serial.into(),
            dns_names: vec!["a.example".into()],
            ip_addresses: Vec::new(),
            common_name: None,
            issuer: "test".into(),
            ari_id: None,
            key_algorithm: None,
        }
    }

    fn holding(leaf: &Leaf) -> Held<'_> {
        Held {
            leaf: Some(leaf),
            issued_by: None,
            first_choice: None,
            due: Due { at: Some(NOW), ..Due::default() },
            advice: None,
            fault: None,
        }
    }

    const EMPTY: Held<'static> = Held {
        leaf: None,
        issued_by: None,
        first_choice: None,
        due: Due { at: None, requested: false, postponed: false, remarks: Vec::new() },
        advice: None,
        fault: Some(Fault::DoesNotExist),
    };

    fn issued(passed_over: Option<&str>, pauses: Vec<(IssuerKey, Timestamp)>) -> Outcome {
        Outcome::Issued {
            order_url: "https://ca.example/order/1".into(),
            account_url: "https://ca.example/account/1".into(),
            passed_over: passed_over.map(str::to_owned),
            used: Vec::new(),
            pauses,
        }
    }

    fn failed(next: i64) -> Outcome {
        Outcome::Failed(Failure {
            message: "Port 80 of 203.0.113.7 refused".into(),
            note: "Port 80 of 203.0.113.7 refused".into(),
            needs_change: false,
            next_attempt: NOW + jiff::SignedDuration::from_secs(next),
            order_url: None,
            used: Vec::new(),
            refusal: None,
            pauses: Vec::new(),
        })
    }

    #[test]
    fn an_issued_certificate_is_reported_once() {
        let mut certificate = certificate(&["a.example"]);
        let leaf = leaf("01");
        let outcome = issued(None, Vec::new());
        let first = report(&certificate, &holding(&leaf), &outcome, NOW);
        assert_eq!(first.status.revision, Some(1));
        assert_eq!(first.status.last_issuance_time, Some(Time(NOW)));
        assert_eq!(first.event.unwrap().note, "Stored a certificate for a.example.");
        certificate.status = Some(first.status.clone());
        let later = NOW + jiff::SignedDuration::from_hours(1);
        let second = report(&certificate, &holding(&leaf), &Outcome::Kept, later);
        assert_eq!(second.status, first.status, "nothing happened, so nothing changes");
        assert_eq!(second.event, None);
    }

    #[test]
    fn a_pair_that_was_there_before_has_both_conditions() {
        // As after a crash between the Secret and the status, or where a Secret was taken over.
        let leaf = leaf("01");
        let kept = report(&certificate(&["a.example"]), &holding(&leaf), &Outcome::Kept, NOW).status;
        for type_ in [reason::READY, reason::ISSUING] {
            assert_eq!(find(&kept.conditions, type_).unwrap().reason, reason::ISSUED);
        }
    }

    #[test]
    fn a_fallback_is_named_and_why_it_was_asked() {
        let mut certificate = certificate(&["a.example"]);
        let leaf = leaf("01");
        let key =
            |name: &str| IssuerKey { kind: IssuerKind::ClusterIssuer, namespace: None, name: name.into() };
        let (first, second) = (key("first"), key("second"));
        let by = IssuedBy::from(&second);
        let held = Held { issued_by: Some(&by), first_choice: Some(&first), ..holding(&leaf) };
        let why = "ClusterIssuer first was passed over. It is down.";
        let outcome = issued(Some(why), Vec::new());
        let issued = report(&certificate, &held, &outcome, NOW);
        let note = issued.event.unwrap().note;
        assert_eq!(note, format!("Stored a certificate for a.example from ClusterIssuer second. {why}"));
        certificate.status = Some(issued.status);
        let kept = report(&certificate, &held, &Outcome::Kept, NOW).status;
        assert_eq!(kept.issuer_ref.unwrap().name, "second");
        assert!(find(&kept.conditions, reason::READY).unwrap().message.contains("a fallback"));
        assert!(find(&kept.conditions, reason::ISSUING).unwrap().message.ends_with(why));
    }

    #[test]
    fn failures_count_and_a_new_spec_starts_afresh() {
        let mut certificate = certificate(&["a.example"]);
        for expected in 1..=2 {
            let report = report(&certificate, &EMPTY, &failed(60), NOW);
            assert_eq!(report.status.failed_issuance_attempts, Some(expected));
            let note = report.event.unwrap().note;
            assert!(!note.contains(char::is_numeric) || note.contains("203.0.113.7"), "{note}");
            certificate.status = Some(report.status);
        }
        assert!(failures(&certificate, NOW).same_spec);
        certificate.metadata.generation = Some(2);
        assert!(!failures(&certificate, NOW).same_spec);
        let report = report(&certificate, &EMPTY, &failed(60), NOW);
        assert_eq!(report.status.failed_issuance_attempts, Some(1));
    }

    #[test]
    fn a_serving_certificate_stays_ready_when_its_renewal_fails() {
        let leaf = leaf("01");
        let report = report(&certificate(&["a.example"]), &holding(&leaf), &failed(60), NOW);
        assert_eq!(find(&report.status.conditions, reason::READY).unwrap().status, "True");
        assert_eq!(find(&report.status.conditions, reason::ISSUING).unwrap().status, "False");
    }

    #[test]
    fn a_revocation_is_an_event_once_and_recalled_word_for_word() {
        let mut certificate = certificate(&["a.example"]);
        let leaf = leaf("01");
        let revoked = |what: &str| Held { fault: Some(Fault::Revoked(what.into())), ..holding(&leaf) };
        let found = revoked("the CA has revoked it (since 2026-11-01T00:00:00Z, keyCompromise)");
        let first = report(&certificate, &found, &Outcome::Waiting, NOW);
        let notice = first.event.unwrap();
        assert_eq!((notice.warning, notice.reason), (true, reason::REVOKED));
        let ready = find(&first.status.conditions, reason::READY).unwrap().clone();
        assert_eq!((&*ready.status, &*ready.reason), ("False", reason::REVOKED));
        assert_eq!(notice.note, ready.message);
        certificate.status = Some(first.status.clone());
        let second = report(&certificate, &revoked(&ready.message), &Outcome::Waiting, NOW);
        assert_eq!((second.status, second.event), (first.status, None));
    }

    #[test]
    fn a_remark_is_an_event_once_and_stands_in_the_message() {
        let mut certificate = certificate(&["a.example"]);
        let leaf = leaf("01");
        let mut held = holding(&leaf);
        let text = "None of the windows comes in time.".to_owned();
        held.due.remarks.push(Remark { event: Some(reason::NO_WINDOW_FITS), text: text.clone() });
        let first = report(&certificate, &held, &Outcome::Kept, NOW);
        assert_eq!(first.event.unwrap().reason, reason::ISSUED, "beside what happened");
        assert_eq!(first.remarks.iter().map(|notice| &notice.note).collect::<Vec<_>>(), [&text]);
        let ready = find(&first.status.conditions, reason::READY).unwrap();
        assert_eq!(ready.message, format!("The Secret holds a certificate for a.example. {text}"));
        certificate.status = Some(first.status.clone());
        let second = report(&certificate, &held, &Outcome::Kept, NOW);
        assert_eq!((second.remarks, second.status), (Vec::new(), first.status));
    }

    #[test]
    fn what_is_not_renewed_has_no_renewal_time() {
        let leaf = leaf("01");
        let mut held = holding(&leaf);
        held.due = Due { remarks: vec![Remark { event: None, text: "So.".into() }], ..Due::default() };
        held.fault = Some(Fault::Expired);
        let report = report(&certificate(&["a.example"]), &held, &Outcome::Kept, NOW);
        assert_eq!(report.status.renewal_time, None);
        assert_eq!(report.remarks, [], "as its owner wants it");
        let ready = find(&report.status.conditions, reason::READY).unwrap();
        assert_eq!(
            (ready.reason.as_str(), ready.message.as_str()),
            (reason::EXPIRED, "The stored certificate has expired. So.")
        );
    }

    #[test]
    fn a_renewal_that_is_asked_for_starts_afresh() {
        let mut certificate = certificate(&["a.example"]);
        certificate.status = Some(report(&certificate, &EMPTY, &failed(3600), NOW).status);
        let later = NOW + jiff::SignedDuration::from_mins(1);
        certificate.metadata.annotations =
            Some([(waxwing_api::labels::RENEW.to_owned(), later.to_string())].into());
        assert!(failures(&certificate, NOW).hold_back(), "not yet");
        assert!(!failures(&certificate, later).hold_back());
        assert!(failures(&certificate, later).same_spec, "a rehearsal that follows failures is still due");
        let waits = report(&certificate, &EMPTY, &Outcome::Working("waiting".into()), later).status;
        let waiting = Certificate { status: Some(waits), ..certificate.clone() };
        assert!(failures(&waiting, later).exist(), "it is so after a wait too");
        assert_eq!(
            failures(&waiting, later).counted(),
            0,
            "but an order that is made then is a first attempt's"
        );
        let again = report(&certificate, &EMPTY, &failed(60), later);
        assert_eq!(again.status.failed_issuance_attempts, Some(1));
        certificate.status = Some(again.status);
        assert!(failures(&certificate, later).hold_back(), "and no loop");
    }

    #[test]
    fn an_explanation_of_the_cas_is_told_once_beside_whatever_happens() {
        let mut certificate = certificate(&["a.example"]);
        let leaf = leaf("01");
        let window = waxwing_acme::SuggestedWindow { start: NOW, end: NOW };
        let url = "https://ca.example/why";
        let advice = Some(Advice { window, explanation_url: Some(url.into()) });
        assert!(has_explanation(&certificate, advice.as_ref()));
        let held = Held { advice: advice.clone(), ..holding(&leaf) };
        let first = report(&certificate, &held, &failed(60), NOW);
        assert_eq!(first.event.unwrap().reason, reason::BACKING_OFF);
        assert!(first.remarks.iter().any(|remark| remark.note.contains(url)), "{:?}", first.remarks);
        certificate.status = Some(first.status);
        assert!(!has_explanation(&certificate, advice.as_ref()));
        assert!(report(&certificate, &held, &failed(60), NOW).remarks.is_empty());
    }

    #[test]
    fn what_was_refused_and_who_waits_is_kept_until_the_next_answer() {
        let mut certificate = certificate(&["a.example"]);
        let key = IssuerKey { kind: IssuerKind::ClusterIssuer, namespace: None, name: "first".into() };
        let until = NOW + jiff::SignedDuration::from_millis(1500);
        let refusal = LimitRefusal {
            account: "https://ca.example/account/1".into(),
            scope: waxwing_api::RateScope::Account,
            subject: None,
            until: Time(until),
        };
        let Outcome::Failed(failure) = failed(60) else { unreachable!() };
        let failure = Failure {
            refusal: Some(refusal.clone()),
            pauses: vec![(key, until)],
            next_attempt: until,
            ..failure
        };
        let refused = report(&certificate, &EMPTY, &Outcome::Failed(failure), NOW).status;
        let acme = refused.acme.clone().unwrap();
        assert_eq!(acme.refused_limit, Some(refusal));
        let whole = Time(NOW + jiff::SignedDuration::from_secs(2));
        assert_eq!(acme.paused_issuers[0].until, whole, "never sooner than the CA said");
        assert_eq!(refused.next_attempt_time, Some(whole.clone()));
        certificate.status = Some(refused);
        let again = |now| report(&certificate, &EMPTY, &failed(60), now).status.acme.unwrap();
        assert_eq!((again(NOW).refused_limit, again(NOW).paused_issuers.len()), (None, 1));
        assert_eq!(again(whole.0).paused_issuers.len(), 0, "it is over");
        let limited = Limited { message: "wait".into(), note: "wait".into(), pauses: Vec::new() };
        let limited = report(&certificate, &EMPTY, &Outcome::Limited(limited), NOW).status;
        assert_eq!(limited.next_attempt_time, None, "this was the attempt");
    }

    #[test]
    fn a_cas_time_runs_on_when_another_one_has_issued() {
        let mut certificate = certificate(&["a.example"]);
        let leaf = leaf("01");
        let key =
            |name: &str| IssuerKey { kind: IssuerKind::ClusterIssuer, namespace: None, name: name.into() };
        let until = NOW + SignedDuration::from_hours(24);
        let issued = |pauses: &[&str]| issued(None, pauses.iter().map(|name| (key(name), until)).collect());
        let paused = |certificate: &Certificate, outcome: &Outcome, now| -> Vec<String> {
            let acme = report(certificate, &holding(&leaf), outcome, now).status.acme.unwrap_or_default();
            acme.paused_issuers.into_iter().map(|one| one.name).collect()
        };
        certificate.status = Some(report(&certificate, &holding(&leaf), &issued(&["busy"]), NOW).status);
        assert_eq!(paused(&certificate, &Outcome::Kept, NOW), ["busy"]);
        assert_eq!(paused(&certificate, &Outcome::Kept, until), [""; 0], "it is over");
        // Whoever wasn't asked meanwhile is left alone still.
        assert_eq!(paused(&certificate, &issued(&["other", "other"]), NOW), ["other", "busy"]);
        let Outcome::Failed(failure) = failed(60) else { unreachable!() };
        assert_eq!(paused(&certificate, &Outcome::Failed(failure), NOW), ["busy"]);
        let pauses = vec![(key("rehearsal"), until)];
        let limited = Limited { message: "wait".into(), note: "wait".into(), pauses };
        assert_eq!(paused(&certificate, &Outcome::Limited(limited), NOW), ["rehearsal", "busy"]);
        let by = IssuedBy::from(&key("busy"));
        let held = Held { issued_by: Some(&by), ..holding(&leaf) };
        let none =
            report(&certificate, &held, &issued(&[]), NOW).status.acme.unwrap_or_default().paused_issuers;
        assert!(none.is_empty(), "it has issued itself: {none:?}");
        certificate.metadata.generation = Some(2);
        assert_eq!(paused(&certificate, &Outcome::Kept, NOW), [""; 0], "another spec may fare better");
    }

    #[test]
    fn a_refusal_is_an_event_once() {
        let mut certificate = certificate(&["a.example"]);
        let refused =
            Outcome::Refused(Refusal { reason: reason::ISSUER_NOT_FOUND, message: "there is none".into() });
        let first = report(&certificate, &EMPTY, &refused, NOW);
        assert!(first.event.unwrap().warning);
        certificate.status = Some(first.status);
        assert_eq!(report(&certificate, &EMPTY, &refused, NOW).event, None);
    }
}
