//! What a Certificate needs now: a pure function of what is wanted, what is stored and the clock.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use waxwing_acme::Leaf;
use waxwing_acme::retry::is_to_be_waited_for;

pub use waxwing_acme::retry::after as later;

use super::renewal::Due;
use super::target_secret::Stored;
use super::wanted::Wanted;

/// What is to be done for a Certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Order a certificate, for this reason.
    Issue(Reason),
    /// Go on with the order that is open.
    Resume(Reason),
    /// A certificate is due, but the last attempt failed and the next may not begin before this time.
    Wait {
        /// The begin of the next attempt.
        until: Timestamp,
        /// Why one is due.
        reason: Reason,
    },
    /// The stored pair is what is wanted, until this time.
    Keep {
        /// When it is to be renewed; never, with the policy Disabled.
        renew_at: Option<Timestamp>,
    },
}

/// Why a certificate is due.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// What is stored doesn't serve.
    Fault(Fault),
    /// It serves, but its renewal time has come.
    Renewing,
    /// It serves, but its owner asks for another.
    Requested,
}

/// Why what is stored doesn't serve: the Ready condition's reason while it is False.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The target Secret is absent or holds no pair.
    DoesNotExist,
    /// The stored pair can't be used.
    InvalidPair(String),
    /// The stored certificate's time is over.
    Expired,
    /// The CA has revoked the stored certificate: since when and why, as a sentence.
    Revoked(String),
    /// The stored certificate is not for what the spec asks now.
    SpecChanged(String),
    /// The stored certificate comes from another issuer than the spec names.
    IssuerChanged,
}

/// The order that the journal holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenOrder {
    /// How many failed attempts the status counted when the order was opened.
    pub opened_after_failures: i32,
}

/// What the status remembers of failed attempts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Failures {
    /// Attempts that failed in a row.
    pub count: i32,
    /// Begin of the next one.
    pub next_attempt: Option<Timestamp>,
    /// Whether they were attempts at the spec as it is now.
    pub same_spec: bool,
    /// Whether a renewal was asked for since the last of them.
    pub asked_since: bool,
}

impl Failures {
    /// Whether the last attempt at the spec as it is now failed.
    pub fn exist(&self) -> bool {
        self.same_spec && self.count > 0
    }

    /// As many as the next attempt is after: others than those that make it wait are forgotten when it ends.
    pub fn counted(&self) -> i32 {
        if self.hold_back() { self.count } else { 0 }
    }

    /// Whether others come before it, as they do unless a renewal was asked for.
    pub fn set_behind(&self) -> bool {
        self.exist() && !self.asked_since
    }

    /// Whether they make the next attempt wait.
    pub fn hold_back(&self) -> bool {
        self.same_spec && !self.asked_since
    }
}

/// Decides.
pub fn decide(
    wanted: &Wanted,
    stored: &Stored,
    open: Option<OpenOrder>,
    failures: Failures,
    due: &Due,
    now: Timestamp,
) -> Decision {
    // An order that was opened after the last failure belongs to an attempt that hasn't ended yet:
    // back-off is about beginning the next one, not about finishing this one.
    let unfinished = open.is_some_and(|order| order.opened_after_failures >= failures.count);
    let serves = match serving(wanted, stored, now) {
        // What nobody wants renewed may run out; it is still ordered anew for another spec.
        Err(Fault::Expired) if !wanted.renewed => fitting(wanted, stored),
        serves => serves,
    };
    let mut window_opens = None;
    let reason = match serves {
        Err(fault) => Reason::Fault(fault),
        Ok(_) => match due.at {
            Some(at) if at <= now && due.requested => Reason::Requested,
            Some(at) if at <= now => Reason::Renewing,
            // A renewal that has begun goes on, in the next window.
            Some(at) if due.postponed && (unfinished || failures.count > 0) => {
                window_opens = Some(at);
                Reason::Renewing
            }
            renew_at => return Decision::Keep { renew_at },
        },
    };
    if unfinished {
        return Decision::Resume(reason);
    }
    match back_off(failures, now).max(window_opens) {
        Some(until) => {
            let asked = wanted.requested.filter(|requested| *requested > now);
            Decision::Wait { until: asked.map_or(until, |asked| until.min(asked)), reason }
        }
        None if open.is_some() => Decision::Resume(reason),
        None => Decision::Issue(reason),
    }
}

/// The stored leaf if it is valid for what is wanted, whenever it is to be renewed (the Ready condition).
pub fn serving<'a>(wanted: &Wanted, stored: &'a Stored, now: Timestamp) -> Result<&'a Leaf, Fault> {
    if leaf(stored).is_some_and(|leaf| leaf.not_after <= now) {
        return Err(Fault::Expired);
    }
    fitting(wanted, stored)
}

/// The stored leaf if it is what is wanted, be it expired or not.
fn fitting<'a>(wanted: &Wanted, stored: &'a Stored) -> Result<&'a Leaf, Fault> {
    let ours = match stored {
        Stored::Absent | Stored::Unusable { .. } => return Err(Fault::DoesNotExist),
        Stored::Ours(ours) => ours,
    };
    let leaf = match &ours.pair {
        Ok(Some(leaf)) => leaf,
        Ok(None) => return Err(Fault::DoesNotExist),
        Err(error) => return Err(Fault::InvalidPair(error.to_string())),
    };
    if let Some(what) = &ours.revoked {
        return Err(Fault::Revoked(what.clone()));
    }
    if let Some(difference) = difference(wanted, leaf) {
        return Err(Fault::SpecChanged(difference));
    }
    if ours.issued_by.is_some() && wanted.issuer_of(stored).is_none() {
        return Err(Fault::IssuerChanged);
    }
    Ok(leaf)
}

/// The stored leaf, if there is a readable one.
pub fn leaf(stored: &Stored) -> Option<&Leaf> {
    match stored {
        Stored::Ours(ours) => ours.pair.as_ref().ok().and_then(Option::as_ref),
        Stored::Absent | Stored::Unusable { .. } => None,
    }
}

fn back_off(failures: Failures, now: Timestamp) -> Option<Timestamp> {
    let next = failures.next_attempt.filter(|_| failures.hold_back())?;
    is_to_be_waited_for(next, now).then_some(next)
}

/// What the stored leaf has otherwise than the spec asks, as a sentence.
fn difference(wanted: &Wanted, leaf: &Leaf) -> Option<String> {
    let wanted_names: BTreeSet<&str> = wanted.names.iter().map(String::as_str).collect();
    let names: BTreeSet<&str> = leaf.dns_names.iter().map(String::as_str).collect();
    if wanted_names != names {
        let missing: Vec<_> = wanted_names.difference(&names).copied().collect();
        return Some(if missing.is_empty() {
            "the stored certificate is also for names that the spec no longer has".into()
        } else {
            format!("the stored certificate is not for {}", missing.join(", "))
        });
    }
    match leaf.key_algorithm {
        Some(algorithm) if algorithm == wanted.key => None,
        _ => Some(format!("the stored key is not {}", wanted.key)),
    }
}

impl Fault {
    /// The reason as a condition carries it: CamelCase, stable.
    pub const fn reason(&self) -> &'static str {
        use waxwing_api::reason;
        match self {
            Self::DoesNotExist => reason::DOES_NOT_EXIST,
            Self::InvalidPair(_) => reason::INVALID_PAIR,
            Self::Expired => reason::EXPIRED,
            Self::Revoked(_) => reason::REVOKED,
            Self::SpecChanged(_) => reason::SPEC_CHANGED,
            Self::IssuerChanged => reason::ISSUER_CHANGED,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Renewing => f.write_str("the stored certificate's renewal time has come"),
            Self::Requested => f.write_str("its owner asks for a renewal"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoesNotExist => f.write_str("no certificate is stored yet"),
            Self::InvalidPair(why) => write!(f, "the stored pair can't be used: {why}"),
            Self::Expired => f.write_str("the stored certificate has expired"),
            Self::Revoked(what) | Self::SpecChanged(what) => f.write_str(what),
            Self::IssuerChanged => f.write_str("the stored certificate comes from another issuer"),
        }
    }
}

/// A duration as std has it; negative ones are zero.
pub fn until(time: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(now)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;
    use waxwing_acme::{KeyAlgorithm, SuggestedWindow};

    use super::super::renewal::due;
    use super::super::target_secret::IssuedBy;
    use super::super::target_secret::tests::ours_with;
    use super::super::wanted::tests::{leaf, wanted};
    use super::*;
    use crate::issuer::IssuerKey;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    fn leaf_of(names: &[&str], begun: i64, left: i64) -> Leaf {
        Leaf {
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..leaf(NOW - hours(begun), NOW + hours(left))
        }
    }

    fn stored(leaf: Leaf) -> Stored {
        Stored::Ours(Box::new(ours_with(Ok(Some(leaf)))))
    }

    /// Decides by what follows from the stored leaf.
    fn decide(
        wanted: &Wanted,
        stored: &Stored,
        open: Option<OpenOrder>,
        failures: Failures,
        suggested: Option<SuggestedWindow>,
        seed: u64,
        now: Timestamp,
    ) -> Decision {
        let leaf = super::leaf(stored);
        let due = due(wanted, leaf, leaf.map(|leaf| leaf.not_before), suggested, seed, now);
        super::decide(wanted, stored, open, failures, &due, now)
    }

    fn plainly(stored: &Stored) -> Decision {
        decide(&wanted(&["a.example"]), stored, None, Failures::default(), None, 0, NOW)
    }

    #[test]
    fn nothing_stored_is_issued() {
        assert_eq!(plainly(&Stored::Absent), Decision::Issue(Reason::Fault(Fault::DoesNotExist)));
        let empty = Stored::Ours(Box::new(ours_with(Ok(None))));
        assert_eq!(plainly(&empty), Decision::Issue(Reason::Fault(Fault::DoesNotExist)));
    }

    #[test]
    fn a_valid_pair_is_kept_until_two_thirds() {
        let Decision::Keep { renew_at: Some(renew_at) } =
            plainly(&stored(leaf_of(&["a.example"], 30 * 24, 60 * 24)))
        else {
            panic!("not kept")
        };
        assert!(renew_at > NOW && renew_at < NOW + hours(31 * 24));
    }

    #[test]
    fn each_fault_has_its_reason() {
        assert_eq!(
            plainly(&stored(leaf_of(&["a.example"], 10, -1))),
            Decision::Issue(Reason::Fault(Fault::Expired))
        );
        assert_eq!(
            plainly(&stored(leaf_of(&["a.example"], 80 * 24, 10 * 24))),
            Decision::Issue(Reason::Renewing)
        );
        let Decision::Issue(Reason::Fault(Fault::SpecChanged(what))) =
            plainly(&stored(leaf_of(&["b.example"], 1, 900)))
        else {
            panic!("not seen")
        };
        assert_eq!(what, "the stored certificate is not for a.example");
        let mut rsa = leaf_of(&["a.example"], 1, 900);
        rsa.key_algorithm = Some(KeyAlgorithm::Rsa2048);
        assert!(matches!(plainly(&stored(rsa)), Decision::Issue(Reason::Fault(Fault::SpecChanged(_)))));
        let mut other = ours_with(Ok(Some(leaf_of(&["a.example"], 1, 900))));
        other.issued_by = Some(IssuedBy { kind: "Issuer".into(), name: "other".into() });
        assert_eq!(
            plainly(&Stored::Ours(Box::new(other))),
            Decision::Issue(Reason::Fault(Fault::IssuerChanged))
        );
    }

    #[test]
    fn a_certificate_of_a_fallback_serves_until_its_renewal() {
        let mut of_another = ours_with(Ok(Some(leaf_of(&["a.example"], 24, 89 * 24))));
        of_another.issued_by = Some(IssuedBy { kind: "ClusterIssuer".into(), name: "other".into() });
        let stored = Stored::Ours(Box::new(of_another));
        let mut wanted = wanted(&["a.example"]);
        assert_eq!(serving(&wanted, &stored, NOW), Err(Fault::IssuerChanged));
        wanted.fallbacks = vec![IssuerKey { name: "other".into(), ..wanted.issuer.clone() }];
        assert!(serving(&wanted, &stored, NOW).is_ok());
        assert_eq!(wanted.issuer_of(&stored), wanted.fallbacks.first());
    }

    #[test]
    fn a_window_in_the_past_renews_now() {
        // What RFC 9773 §4.2 says of a certificate that was revoked.
        let stored = stored(leaf_of(&["a.example"], 24, 89 * 24));
        let suggested = Some(SuggestedWindow { start: NOW - hours(2), end: NOW - hours(1) });
        let wanted = wanted(&["a.example"]);
        let decision = decide(&wanted, &stored, None, Failures::default(), suggested, 0, NOW);
        assert_eq!(decision, Decision::Issue(Reason::Renewing));
    }

    #[test]
    fn a_revoked_certificate_is_replaced_at_once_and_is_not_ready_meanwhile() {
        let mut ours = ours_with(Ok(Some(leaf_of(&["a.example"], 24, 89 * 24))));
        ours.revoked = Some("the CA has revoked it".into());
        let stored = Stored::Ours(Box::new(ours));
        let fault = Fault::Revoked("the CA has revoked it".into());
        assert_eq!(plainly(&stored), Decision::Issue(Reason::Fault(fault.clone())));
        assert_eq!(serving(&wanted(&["a.example"]), &stored, NOW), Err(fault.clone()));
        assert_eq!(fault.reason(), "Revoked");
        let failures =
            Failures { count: 1, next_attempt: Some(NOW + hours(1)), same_spec: true, ..Failures::default() };
        let decision = decide(&wanted(&["a.example"]), &stored, None, failures, None, 0, NOW);
        assert_eq!(decision, Decision::Wait { until: NOW + hours(1), reason: Reason::Fault(fault) });
    }

    #[test]
    fn back_off_waits_unless_the_spec_has_changed() {
        let failures =
            Failures { count: 3, next_attempt: Some(NOW + hours(2)), same_spec: true, ..Failures::default() };
        let at = |failures| decide(&wanted(&["a.example"]), &Stored::Absent, None, failures, None, 0, NOW);
        assert_eq!(
            at(failures),
            Decision::Wait { until: NOW + hours(2), reason: Reason::Fault(Fault::DoesNotExist) }
        );
        assert_eq!(
            at(Failures { same_spec: false, ..failures }),
            Decision::Issue(Reason::Fault(Fault::DoesNotExist))
        );
        assert_eq!(
            at(Failures { next_attempt: Some(NOW - hours(2)), ..failures }),
            Decision::Issue(Reason::Fault(Fault::DoesNotExist))
        );
    }

    #[test]
    fn a_next_attempt_in_two_years_was_not_written_by_waxwing() {
        let failures = Failures {
            count: 3,
            next_attempt: Some(NOW + hours(2 * 365 * 24)),
            same_spec: true,
            ..Failures::default()
        };
        let decision = decide(&wanted(&["a.example"]), &Stored::Absent, None, failures, None, 0, NOW);
        assert_eq!(decision, Decision::Issue(Reason::Fault(Fault::DoesNotExist)));
    }

    #[test]
    fn an_unreported_order_outranks_back_off_and_a_reported_one_doesnt() {
        let failures =
            Failures { count: 3, next_attempt: Some(NOW + hours(2)), same_spec: true, ..Failures::default() };
        let with = |opened_after_failures| {
            let open = Some(OpenOrder { opened_after_failures });
            decide(&wanted(&["a.example"]), &Stored::Absent, open, failures, None, 0, NOW)
        };
        assert_eq!(with(3), Decision::Resume(Reason::Fault(Fault::DoesNotExist)));
        assert!(matches!(with(2), Decision::Wait { .. }));
    }

    #[test]
    fn what_nobody_wants_renewed_is_ordered_for_faults_alone() {
        let mut wanted = wanted(&["a.example"]);
        wanted.renewed = false;
        let at = |stored: &Stored| decide(&wanted, stored, None, Failures::default(), None, 0, NOW);
        assert_eq!(at(&stored(leaf_of(&["a.example"], 89 * 24, 24))), Decision::Keep { renew_at: None });
        assert_eq!(at(&stored(leaf_of(&["a.example"], 90 * 24, -1))), Decision::Keep { renew_at: None });
        assert_eq!(at(&Stored::Absent), Decision::Issue(Reason::Fault(Fault::DoesNotExist)));
        let changed = at(&stored(leaf_of(&["b.example"], 90 * 24, -1)));
        assert!(matches!(changed, Decision::Issue(Reason::Fault(Fault::SpecChanged(_)))), "{changed:?}");
    }

    #[test]
    fn a_renewal_that_has_begun_waits_for_the_next_window_and_is_not_forgotten() {
        let stored = stored(leaf_of(&["a.example"], 70 * 24, 20 * 24));
        let wanted = wanted(&["a.example"]);
        let window = NOW + hours(5);
        let due = Due { at: Some(window), postponed: true, ..Due::default() };
        let at = |open, failures| super::decide(&wanted, &stored, open, failures, &due, NOW);
        assert_eq!(at(None, Failures::default()), Decision::Keep { renew_at: Some(window) });
        let failed =
            Failures { count: 2, next_attempt: Some(NOW + hours(1)), same_spec: true, ..Failures::default() };
        assert_eq!(at(None, failed), Decision::Wait { until: window, reason: Reason::Renewing });
        let later = Failures { next_attempt: Some(NOW + hours(9)), ..failed };
        assert_eq!(at(None, later), Decision::Wait { until: NOW + hours(9), reason: Reason::Renewing });
        let unfinished = Some(OpenOrder { opened_after_failures: 2 });
        assert_eq!(at(unfinished, failed), Decision::Resume(Reason::Renewing));
    }

    #[test]
    fn windows_hold_up_nothing_but_an_ordinary_renewal() {
        let mut wanted = wanted(&["a.example"]);
        let never_now = waxwing_acme::Window::new("0 0 1 1 *", Duration::from_mins(1), "UTC").unwrap();
        wanted.windows = waxwing_acme::Windows::new(vec![never_now]);
        let at = |stored: &Stored, suggested| {
            decide(&wanted, stored, None, Failures::default(), suggested, 0, NOW)
        };
        assert!(matches!(at(&Stored::Absent, None), Decision::Issue(_)));
        assert!(matches!(at(&stored(leaf_of(&["b.example"], 24, 24)), None), Decision::Issue(_)));
        let fresh = stored(leaf_of(&["a.example"], 24, 89 * 24));
        let revoked = Some(SuggestedWindow { start: NOW - hours(2), end: NOW - hours(1) });
        assert_eq!(at(&fresh, revoked), Decision::Issue(Reason::Renewing));
        assert!(matches!(at(&fresh, None), Decision::Keep { .. }));
    }

    #[test]
    fn a_request_is_due_when_its_time_has_come_and_nothing_was_issued_since() {
        // `decide` here takes the stored leaf to be issued a day ago.
        let mut wanted = wanted(&["a.example"]);
        let stored = stored(leaf_of(&["a.example"], 24, 89 * 24));
        let mut at = |requested| {
            wanted.requested = Some(requested);
            decide(&wanted, &stored, None, Failures::default(), None, 0, NOW)
        };
        assert_eq!(at(NOW), Decision::Issue(Reason::Requested));
        assert_eq!(at(NOW - hours(23)), Decision::Issue(Reason::Requested));
        assert!(matches!(at(NOW - hours(24)), Decision::Keep { renew_at: Some(at) } if at > NOW), "done");
        assert_eq!(at(NOW + hours(3)), Decision::Keep { renew_at: Some(NOW + hours(3)) });
        assert!(
            matches!(at(NOW + hours(5000)), Decision::Keep { renew_at: Some(at) } if at < NOW + hours(2000))
        );
    }

    #[test]
    fn a_request_goes_before_the_policy_disabled_windows_and_back_off() {
        let mut wanted = wanted(&["a.example"]);
        (wanted.renewed, wanted.requested) = (false, Some(NOW - hours(1)));
        let expired = stored(leaf_of(&["a.example"], 90 * 24, -1));
        let at = |wanted: &Wanted, failures| decide(wanted, &expired, None, failures, None, 0, NOW);
        assert_eq!(at(&wanted, Failures::default()), Decision::Issue(Reason::Requested));
        let failures =
            Failures { count: 2, next_attempt: Some(NOW + hours(9)), same_spec: true, ..Failures::default() };
        assert!(matches!(at(&wanted, failures), Decision::Wait { until, .. } if until == NOW + hours(9)));
        wanted.requested = Some(NOW + hours(2));
        wanted.renewed = true;
        assert!(matches!(at(&wanted, failures), Decision::Wait { until, .. } if until == NOW + hours(2)));
        let window = waxwing_acme::Window::new("0 0 1 1 *", Duration::from_mins(1), "UTC").unwrap();
        wanted.windows = waxwing_acme::Windows::new(vec![window]);
        wanted.requested = Some(NOW);
        let fresh = stored(leaf_of(&["a.example"], 24, 89 * 24));
        let decision = decide(&wanted, &fresh, None, Failures::default(), None, 0, NOW);
        assert_eq!(decision, Decision::Issue(Reason::Requested));
    }

    proptest! {
        #[test]
        fn a_kept_pair_is_one_that_serves(begun in 1i64..5000, left in -100i64..5000, seed: u64) {
            let stored = stored(leaf_of(&["a.example"], begun, left));
            let wanted = wanted(&["a.example"]);
            let decision = decide(&wanted, &stored, None, Failures::default(), None, seed, NOW);
            match decision {
                Decision::Keep { renew_at } => {
                    prop_assert!(renew_at.is_some_and(|at| at > NOW));
                    prop_assert!(serving(&wanted, &stored, NOW).is_ok());
                }
                Decision::Issue(reason) => prop_assert!(matches!(reason, Reason::Fault(Fault::Expired) | Reason::Renewing)),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
