//! When the stored certificate is to be renewed, and what its owner should know of that: a pure function.

use jiff::Timestamp;
use waxwing_acme::{Fit, Leaf, RenewalWishes, SuggestedWindow, plan_renewal};
use waxwing_api::reason;

use super::decide::until;
use super::wanted::Wanted;

/// When a renewal is due.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Due {
    /// The time; none if there never is one.
    pub at: Option<Timestamp>,
    /// Whether it is the time that its owner asks for.
    pub requested: bool,
    /// Whether an earlier time has gone by unused, and this is in the next window.
    pub postponed: bool,
    /// What is to be said about it.
    pub remarks: Vec<Remark>,
}

/// A sentence about renewals, for the Ready condition's message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remark {
    /// The reason of the Event that says it too, once; without one it is no news.
    pub event: Option<&'static str>,
    /// The sentence.
    pub text: String,
}

/// When the stored `leaf`, issued at `issued`, is to be renewed. `suggested` is what the CA says of it; `seed` spreads
/// renewals: stable for one Certificate.
pub fn due(
    wanted: &Wanted,
    leaf: Option<&Leaf>,
    issued: Option<Timestamp>,
    suggested: Option<SuggestedWindow>,
    seed: u64,
    now: Timestamp,
) -> Due {
    let ignored = |text: &String| Remark { event: Some(reason::RENEWAL_SPEC_IGNORED), text: text.clone() };
    let mut due = Due { remarks: wanted.ignored.iter().map(ignored).collect(), ..Due::default() };
    let Some(leaf) = leaf else { return due };
    if wanted.renewed {
        for_its_age(&mut due, wanted, leaf, issued, suggested, seed, now);
    } else {
        due.remarks.push(Remark { event: None, text: NOT_RENEWED.into() });
    }
    // An issuance since then was the renewal.
    let open = wanted.requested.filter(|requested| issued.is_none_or(|issued| issued < *requested));
    if let Some(requested) = open.filter(|requested| due.at.is_none_or(|at| *requested < at)) {
        due.at = Some(requested);
        due.requested = true;
    }
    due
}

fn for_its_age(
    due: &mut Due,
    wanted: &Wanted,
    leaf: &Leaf,
    issued: Option<Timestamp>,
    suggested: Option<SuggestedWindow>,
    seed: u64,
    now: Timestamp,
) {
    let lifetime = until(leaf.not_after, leaf.not_before);
    if wanted.renew_before.is_some_and(|before| before >= lifetime) {
        due.remarks.push(Remark { event: Some(reason::RENEWAL_SPEC_IGNORED), text: TOO_EARLY.into() });
    }
    let wishes = RenewalWishes {
        renew_before: wanted.renew_before,
        percentage: wanted.renew_before_percentage,
        suggested,
        issued,
        seed,
    };
    let plan = plan_renewal(leaf.not_before, leaf.not_after, &wishes, &wanted.windows, now);
    due.at = Some(plan.at);
    due.postponed = plan.fit == Fit::Postponed;
    if plan.fit == Fit::NoWindow {
        due.remarks.push(Remark { event: Some(reason::NO_WINDOW_FITS), text: NO_WINDOW.into() });
    }
}

const NOT_RENEWED: &str = "It isn't renewed: spec.renewal.policy is Disabled.";
const TOO_EARLY: &str = "spec.renewBefore is left aside: the certificate's whole lifetime isn't longer; write a shorter \
     time, or renewBeforePercentage.";
const NO_WINDOW: &str = "None of spec.renewal.windows comes in time, so it is renewed outside of them; write windows \
     that come more often, or a longer renewBefore.";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::SignedDuration;

    use super::super::wanted::tests::{leaf, wanted};
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    #[test]
    fn a_renew_before_of_the_whole_lifetime_is_left_aside_and_told() {
        let day = Duration::from_hours(24);
        let leaf = leaf(NOW, NOW + SignedDuration::from_hours(24));
        let with = |renew_before: Option<Duration>| {
            let mut wanted = wanted(&["a.example"]);
            wanted.renew_before = renew_before;
            due(&wanted, Some(&leaf), None, None, 7, NOW)
        };
        for too_long in [day, day * 30] {
            let Due { at, remarks, .. } = with(Some(too_long));
            assert_eq!(at, with(None).at, "as if it weren't there");
            assert_eq!(
                remarks.iter().map(|one| one.event).collect::<Vec<_>>(),
                [Some(reason::RENEWAL_SPEC_IGNORED)]
            );
        }
        let fits = with(Some(day / 4));
        assert!(fits.remarks.is_empty() && fits.at != with(None).at, "{fits:?}");
    }
}
