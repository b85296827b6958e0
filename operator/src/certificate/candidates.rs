//! Which issuers are asked, in which order, and when the next one is: pure functions.

use jiff::Timestamp;
use waxwing_acme::{Error, Failure, Leaf, ObtainError, ObtainErrorKind};

use super::wanted::Wanted;
use crate::issuer::{IssuerKey, health};

/// The issuers to ask now, in this order.
///
/// The one with whom an order is open goes first, so that a restart goes on with it. The fallbacks are asked only
/// where the stored certificate (`serving`, with its renewal time) doesn't serve, or has come half of the way from its
/// renewal to its end: until then the first choice has time to recover.
pub fn candidates<'w>(
    wanted: &'w Wanted,
    open_order: Option<&'w IssuerKey>,
    serving: Option<(&Leaf, Timestamp)>,
    now: Timestamp,
) -> Vec<&'w IssuerKey> {
    let first_alone = serving.is_some_and(|(leaf, renew_at)| now < fallbacks_from(leaf, renew_at));
    let choices = wanted.issuers().take(if first_alone { 1 } else { usize::MAX });
    let mut candidates: Vec<_> = open_order.into_iter().collect();
    for issuer in choices {
        if !candidates.contains(&issuer) {
            candidates.push(issuer);
        }
    }
    candidates
}

/// From when on fallbacks are asked for the renewal of a certificate that serves.
pub fn fallbacks_from(leaf: &Leaf, renew_at: Timestamp) -> Timestamp {
    let half = leaf.not_after.duration_since(renew_at) / 2;
    renew_at.saturating_add(half).unwrap_or(leaf.not_after)
}

/// Whether another CA might issue what this error kept one from: its outages, its limits and its policy are its own.
/// A name that can't be validated can't be validated for another CA either.
pub fn is_about_this_ca(error: &ObtainError) -> bool {
    const OF_ITS_OWN: [&str; 10] = [
        "badCSR",
        "badPublicKey",
        "badSignatureAlgorithm",
        "caa",
        "externalAccountRequired",
        "invalidProfile",
        "rateLimited",
        "rejectedIdentifier",
        "unsupportedIdentifier",
        "userActionRequired",
    ];
    health::is_outage(error)
        || asks_for_less(error)
        || error.problem().is_some_and(|problem| OF_ITS_OWN.contains(&problem.acme_type()))
}

/// A limit of the CA, or of what stands before it, that isn't told in ACME's words.
fn asks_for_less(error: &ObtainError) -> bool {
    let ObtainErrorKind::Ca { source: Error::Request(request), .. } = &*error.kind else { return false };
    matches!(request.failure, Failure::Status { status: 429, .. })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use waxwing_acme::{Identifier, Problem, RequestError};
    use waxwing_api::IssuerKind;

    use super::super::wanted::tests::{leaf, wanted};
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn key(name: &str) -> IssuerKey {
        IssuerKey { kind: IssuerKind::ClusterIssuer, namespace: None, name: name.into() }
    }

    fn names(candidates: &[&IssuerKey]) -> Vec<String> {
        candidates.iter().map(|issuer| issuer.name.clone()).collect()
    }

    #[test]
    fn a_certificate_that_serves_leaves_the_first_choice_half_of_the_time() {
        let mut wanted = wanted(&["a.example"]);
        wanted.fallbacks = vec![key("second"), key("third")];
        let renew_at = NOW + SignedDuration::from_hours(60 * 24);
        let leaf = leaf(NOW, renew_at + SignedDuration::from_hours(30 * 24));
        let at = |days: i64| {
            let now = renew_at + SignedDuration::from_hours(days * 24);
            names(&candidates(&wanted, None, Some((&leaf, renew_at)), now))
        };
        assert_eq!(at(0), ["ca"]);
        assert_eq!(at(14), ["ca"]);
        assert_eq!(at(15), ["ca", "second", "third"]);
        assert_eq!(names(&candidates(&wanted, None, None, NOW)), ["ca", "second", "third"]);
    }

    #[test]
    fn an_open_order_is_gone_on_with() {
        let mut wanted = wanted(&["a.example"]);
        wanted.fallbacks = vec![key("second")];
        let open = key("second");
        assert_eq!(names(&candidates(&wanted, Some(&open), None, NOW)), ["second", "ca"]);
    }

    #[test]
    fn a_name_that_cant_be_validated_is_no_matter_of_the_ca() {
        let validation = |kind: &str| {
            let problem =
                Problem { kind: Some(format!("urn:ietf:params:acme:error:{kind}")), ..Problem::default() };
            let identifier = Identifier::Dns("a.example".into());
            ObtainErrorKind::Validation { identifier, challenge_type: None, problem: Some(problem) }.into()
        };
        for (kind, expected) in [
            ("connection", false),
            ("dns", false),
            ("unauthorized", false),
            ("caa", true),
            ("rateLimited", true),
        ] {
            assert_eq!(is_about_this_ca(&validation(kind)), expected, "{kind}");
        }
        for (status, expected) in [(429, true), (404, false)] {
            let failure = Failure::Status { status, problem: None, retry_after: None };
            let request = RequestError { method: "POST", url: "https://ca.example/".into(), failure };
            let error = ObtainErrorKind::Ca { doing: "ordering", source: request.into() }.into();
            assert_eq!(is_about_this_ca(&error), expected, "{status}");
        }
    }
}
