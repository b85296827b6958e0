//! Which of an issuer's solvers takes a name. Pure.

use std::collections::BTreeMap;

use waxwing_acme::{ChallengeType, Identifier, NoSolver};
use waxwing_api::{AcmeSolver, SolverSelector};

/// The solver for `identifier` (without a wildcard's `*.`) among those of the issuer.
///
/// A selector admits a name when each of its parts that is present does. The most specific wins:
/// a name in `dnsNames`, then the longest of `dnsZones`, then the most `matchLabels`, then the order in the list.
/// `labels` are those of the Certificate.
pub fn choose<'a>(
    solvers: &'a [AcmeSolver],
    labels: &BTreeMap<String, String>,
    identifier: &Identifier,
    wildcard: bool,
    offered: &[ChallengeType],
) -> Result<&'a AcmeSolver, NoSolver> {
    let name = if wildcard { format!("*.{identifier}") } else { identifier.to_string() };
    if solvers.is_empty() {
        return Err(NoSolver::new(format!(
            "the CA wants proof of control over {name}, and the issuer has no solver: add one to its spec.acme.solvers"
        )));
    }
    let admitting: Vec<(Rank, &AcmeSolver)> = solvers
        .iter()
        .filter_map(|solver| Some((rank(solver.selector.as_ref(), labels, identifier, &name)?, solver)))
        .collect();
    if admitting.is_empty() {
        return Err(NoSolver::new(format!(
            "none of the issuer's solvers is for {name}: each has a selector that leaves it out; \
             add the name or its zone to a selector, or a solver without one"
        )));
    }
    let able = admitting.into_iter().filter(|(_, solver)| {
        challenge_type(solver)
            .is_some_and(|kind| offered.contains(&kind) && (!wildcard || proves_wildcards(kind)))
    });
    // The first of the best: later ones must be better, not equal.
    let best = able.reduce(|best, next| if next.0 > best.0 { next } else { best });
    match best {
        Some((_, solver)) => Ok(solver),
        None if wildcard => Err(NoSolver::new(format!(
            "{name} is a wildcard, which CAs grant by DNS-01 alone, and Waxwing has no DNS-01 yet: \
             list the names one by one"
        ))),
        None => {
            let offered: Vec<&str> = offered.iter().map(|kind| kind.name()).collect();
            Err(NoSolver::new(format!(
                "the CA offers {} for {name}, and none of the issuer's solvers for it does that: \
                 use another CA for this name",
                if offered.is_empty() { "no known challenge".to_owned() } else { offered.join(", ") }
            )))
        }
    }
}

/// What a solver does.
pub fn challenge_type(solver: &AcmeSolver) -> Option<ChallengeType> {
    solver.http01.as_ref().map(|_| ChallengeType::Http01)
}

/// How specific a selector is, from the most important part on.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Rank {
    names: bool,
    /// Labels of the longest matching zone.
    zone: usize,
    labels: usize,
}

/// None if the selector doesn't admit the name.
fn rank(
    selector: Option<&SolverSelector>,
    labels: &BTreeMap<String, String>,
    identifier: &Identifier,
    name: &str,
) -> Option<Rank> {
    let Some(selector) = selector else { return Some(Rank::default()) };
    let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    if !selector.match_labels.iter().all(has) {
        return None;
    }
    let names = !selector.dns_names.is_empty();
    if names && !selector.dns_names.iter().any(|listed| listed.eq_ignore_ascii_case(name)) {
        return None;
    }
    let zone = if selector.dns_zones.is_empty() {
        0
    } else {
        selector.dns_zones.iter().filter_map(|zone| within(identifier, zone)).max()?
    };
    Some(Rank { names, zone, labels: selector.match_labels.len() })
}

/// The number of labels of `zone`, if the name is it or below it.
fn within(identifier: &Identifier, zone: &str) -> Option<usize> {
    let Identifier::Dns(name) = identifier else { return None };
    let zone = zone.trim_end_matches('.').to_ascii_lowercase();
    let inside = *name == zone || name.strip_suffix(&zone).is_some_and(|rest| rest.ends_with('.'));
    inside.then(|| zone.split('.').count())
}

/// RFC 8555 §8.3 and RFC 8737 §3: a web server proves its own name alone.
fn proves_wildcards(kind: ChallengeType) -> bool {
    kind == ChallengeType::Dns01
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use waxwing_api::{ExistingRoute, Http01, Http01Ingress};

    use super::*;

    fn solver(class: &str, selector: Option<SolverSelector>) -> AcmeSolver {
        let ingress =
            Http01Ingress { ingress_class_name: Some(class.to_owned()), ..Http01Ingress::default() };
        let http01 = Some(Http01 { ingress: Some(ingress), ..Http01::default() });
        AcmeSolver { selector, http01 }
    }

    fn selector(names: &[&str], zones: &[&str], labels: &[(&str, &str)]) -> SolverSelector {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        SolverSelector {
            match_labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            dns_names: owned(names),
            dns_zones: owned(zones),
        }
    }

    fn chosen(solvers: &[AcmeSolver], labels: &[(&str, &str)], name: &str) -> Result<String, String> {
        let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let wildcard = name.starts_with("*.");
        let identifier = name.trim_start_matches("*.").parse().unwrap();
        let offered = [ChallengeType::Http01, ChallengeType::Dns01, ChallengeType::TlsAlpn01];
        match choose(solvers, &labels, &identifier, wildcard, &offered) {
            Ok(solver) => {
                let http01 = solver.http01.as_ref().unwrap();
                Ok(http01.ingress.as_ref().unwrap().ingress_class_name.clone().unwrap())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_most_specific_selector_wins() {
        let solvers = [
            solver("any", None),
            solver("labels", Some(selector(&[], &[], &[("team", "a")]))),
            solver("two-labels", Some(selector(&[], &[], &[("team", "a"), ("tier", "1")]))),
            solver("zone", Some(selector(&[], &["example.com"], &[]))),
            solver("longer-zone", Some(selector(&[], &["example.com", "eu.example.com"], &[]))),
            solver("zone-again", Some(selector(&[], &["example.com"], &[]))),
            solver("name", Some(selector(&["www.example.com"], &[], &[]))),
        ];
        let none: &[(&str, &str)] = &[];
        assert_eq!(chosen(&solvers, none, "other.org").unwrap(), "any");
        assert_eq!(chosen(&solvers, none, "notexample.com").unwrap(), "any");
        assert_eq!(chosen(&solvers, &[("team", "a")], "other.org").unwrap(), "labels");
        assert_eq!(chosen(&solvers, &[("team", "a"), ("tier", "1")], "other.org").unwrap(), "two-labels");
        assert_eq!(chosen(&solvers, &[("team", "a")], "example.com").unwrap(), "zone");
        assert_eq!(chosen(&solvers, none, "a.eu.example.com").unwrap(), "longer-zone");
        assert_eq!(chosen(&solvers, none, "www.example.com").unwrap(), "name");
    }

    #[test]
    fn every_part_of_a_selector_must_admit() {
        let solvers = [solver("both", Some(selector(&["www.example.com"], &[], &[("team", "a")])))];
        assert!(chosen(&solvers, &[("team", "b")], "www.example.com").unwrap_err().contains("selector"));
        assert_eq!(chosen(&solvers, &[("team", "a")], "www.example.com").unwrap(), "both");
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(chosen(&[], &[], "a.example").unwrap_err().contains("spec.acme.solvers"));
        let any = [solver("any", None)];
        assert!(chosen(&any, &[], "*.a.example").unwrap_err().contains("DNS-01"));
        let identifier = "a.example".parse().unwrap();
        let error = choose(&any, &BTreeMap::new(), &identifier, false, &[ChallengeType::Dns01]).unwrap_err();
        assert!(error.to_string().contains("offers dns-01 for a.example"), "{error}");
        let existing = [AcmeSolver {
            selector: None,
            http01: Some(Http01 { existing_route: Some(ExistingRoute {}), ..Http01::default() }),
        }];
        choose(&existing, &BTreeMap::new(), &identifier, false, &[ChallengeType::Http01]).unwrap();
    }
}
