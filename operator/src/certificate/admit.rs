//! May this Certificate have these names, from this issuer, in this Secret?
//!
//! A shared ingress controller proves every host on it, and a CA reuses valid authorizations of a shared
//! account: so who may have a name is Waxwing's to ask before an order is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::core::{Selector, SelectorExt};
use waxwing_api::{AllowRule, Certificate, IssuerKind, reason};

use super::claims::Claims;
use super::target_secret::Stored;
use super::wanted::Wanted;
use crate::issuer::{IssuerKey, Lookup, ReadyIssuer};

/// What an admission is decided on.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The Certificate's namespace.
    pub namespace: &'a str,
    /// That namespace's labels.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// The issuer that it names.
    pub issuer: &'a Lookup,
    /// Whose its names are.
    pub claims: &'a Claims,
    /// The target Secret.
    pub stored: &'a Stored,
}

/// A no, with what to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The Issuing condition's reason.
    pub reason: &'static str,
    /// A sentence for the user.
    pub message: String,
}

impl Refusal {
    /// Whether another issuer might be asked instead.
    pub fn is_about_the_issuer(&self) -> bool {
        matches!(
            self.reason,
            reason::ISSUER_NOT_FOUND
                | reason::ISSUER_NOT_READY
                | reason::NAME_OWNED_ELSEWHERE
                | reason::NOT_ALLOWED
        )
    }
}

/// Decides whether the issuer `key` may be asked. It comes back ready for use.
pub fn admit(wanted: &Wanted, key: &IssuerKey, facts: &Facts<'_>) -> Result<Arc<ReadyIssuer>, Refusal> {
    let refuse = |reason, message| Err(Refusal { reason, message });
    match facts.stored {
        Stored::Unusable { foreign: true, because } => {
            return refuse(reason::SECRET_NOT_OWNED, because.clone());
        }
        Stored::Unusable { foreign: false, because } => {
            return refuse(reason::SECRET_UNUSABLE, because.clone());
        }
        Stored::Absent | Stored::Ours(_) => {}
    }
    let field = if *key == wanted.issuer { "issuerRef" } else { "fallbackIssuerRefs" };
    let issuer = match facts.issuer {
        Lookup::Missing => {
            let message = format!("there is no {key}; create it, or correct {field}");
            return refuse(reason::ISSUER_NOT_FOUND, message);
        }
        Lookup::NotServed => {
            let message = format!(
                "{key} isn't known to this Waxwing, which works for some namespaces alone; create an Issuer in \
                 namespace {}, and name it in {field}",
                facts.namespace
            );
            return refuse(reason::ISSUER_NOT_FOUND, message);
        }
        Lookup::Pending => return refuse(reason::ISSUER_NOT_READY, pending(key)),
        Lookup::NotReady { reason: why, message } => {
            return refuse(reason::ISSUER_NOT_READY, format!("{key} is not ready ({why}): {message}"));
        }
        Lookup::Ready(issuer) => issuer,
    };
    names_allowed(wanted, key, facts, &issuer.allow)?;
    Ok(Arc::clone(issuer))
}

fn names_allowed(
    wanted: &Wanted,
    key: &IssuerKey,
    facts: &Facts<'_>,
    allow: &[AllowRule],
) -> Result<(), Refusal> {
    let refuse = |reason, message| Err(Refusal { reason, message });
    for name in &wanted.names {
        let rules = rules_for(allow, name, facts.namespace_labels);
        if !allow.is_empty() && rules.is_empty() {
            return refuse(
                reason::NOT_ALLOWED,
                format!(
                    "{key} does not allow {name} in namespace {}; ask its owner for a rule under spec.allow",
                    facts.namespace
                ),
            );
        }
        // A rule without a selector says which names the issuer is for, not whose they are; and a tenant's own
        // Issuer can't give away a neighbour's name.
        let consented = key.kind == IssuerKind::ClusterIssuer
            && rules.iter().any(|rule| rule.namespace_selector.is_some());
        if let (false, Some(claimant)) = (consented, claimed_elsewhere(facts, name)) {
            return refuse(
                reason::NAME_OWNED_ELSEWHERE,
                format!(
                    "{name} is routed by {claimant} and by nothing of namespace {}; ask for the certificate there, \
                     or have a rule with a namespaceSelector added to {key}'s spec.allow",
                    facts.namespace
                ),
            );
        }
    }
    Ok(())
}

/// What is said while it isn't known yet whether an issuer can be asked.
pub fn pending(key: &IssuerKey) -> String {
    format!("{key} is not ready (Pending): its account is being looked up")
}

/// The no to an issuer whose CA has failed again and again, while others can be asked.
pub fn silent_ca(key: &IssuerKey) -> Refusal {
    Refusal {
        reason: reason::ISSUER_NOT_READY,
        message: format!("the CA of {key} has failed several times in a row, and is left alone for a while"),
    }
}

/// The no to a Certificate whose target Secret belongs to another one.
pub fn secret_conflict(wanted: &Wanted, first: &str) -> Refusal {
    Refusal {
        reason: reason::SECRET_CONFLICT,
        message: format!(
            "Certificate {first} keeps Secret {} already; choose another secretName, or delete one of the two",
            wanted.secret_name
        ),
    }
}

/// The Certificate with the oldest right to a target Secret: the one that was created first.
pub fn first_of<'a>(candidates: impl IntoIterator<Item = &'a Certificate>) -> Option<&'a Certificate> {
    candidates.into_iter().min_by_key(|certificate| {
        let created = certificate.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
        (created, certificate.metadata.name.clone())
    })
}

fn rules_for<'a>(
    allow: &'a [AllowRule],
    name: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<&'a AllowRule> {
    allow
        .iter()
        .filter(|rule| rule.dns_names.iter().any(|pattern| covers(pattern, name)))
        .filter(|rule| match &rule.namespace_selector {
            None => true,
            // A selector that makes no sense selects nothing.
            Some(selector) => {
                Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
            }
        })
        .collect()
}

/// `*` covers every name, `*.zone` every one below the zone, any other pattern itself.
fn covers(pattern: &str, name: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let pattern = pattern.to_ascii_lowercase();
    match pattern.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => name.ends_with(suffix),
        _ => pattern == name,
    }
}

/// What routes the name, if that is of other namespaces alone.
fn claimed_elsewhere<'a>(facts: &Facts<'a>, name: &str) -> Option<&'a str> {
    let claimants = facts.claims.get(name).filter(|claimants| !claimants.contains_key(facts.namespace))?;
    claimants.values().next().map(String::as_str)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use kube::ResourceExt;

    use super::super::wanted::tests::wanted;
    use super::*;

    /// The no to a Certificate of namespace `web` for `a.example`, which these namespaces claim.
    fn refusal(
        allow: &[AllowRule],
        claimed_by: &[&str],
        namespace_labels: &[(&str, &str)],
    ) -> Option<Refusal> {
        let wanted = wanted(&["a.example"]);
        let labels = namespace_labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let claimants =
            claimed_by.iter().map(|namespace| ((*namespace).to_owned(), format!("HTTPRoute {namespace}/r")));
        let facts = Facts {
            namespace: "web",
            namespace_labels: &labels,
            issuer: &Lookup::Missing,
            claims: &Claims::from([("a.example".to_owned(), claimants.collect())]),
            stored: &Stored::Absent,
        };
        names_allowed(&wanted, &wanted.issuer, &facts, allow).err()
    }

    fn why(
        allow: &[AllowRule],
        claimed_by: &[&str],
        namespace_labels: &[(&str, &str)],
    ) -> Option<&'static str> {
        refusal(allow, claimed_by, namespace_labels).map(|refusal| refusal.reason)
    }

    fn rule(dns_name: &str, team: Option<&str>) -> AllowRule {
        AllowRule {
            namespace_selector: team.map(|team| LabelSelector {
                match_labels: Some(BTreeMap::from([("team".to_owned(), team.to_owned())])),
                match_expressions: None,
            }),
            dns_names: vec![dns_name.into()],
        }
    }

    #[test]
    fn the_secret_is_asked_about_before_the_issuer() {
        let wanted = wanted(&["a.example"]);
        let facts = |stored| Facts {
            namespace: "web",
            namespace_labels: const { &BTreeMap::new() },
            issuer: &Lookup::Missing,
            claims: const { &Claims::new() },
            stored,
        };
        let reason = |facts| admit(&wanted, &wanted.issuer, &facts).unwrap_err().reason;
        let foreign = Stored::Unusable { foreign: true, because: "it isn't ours".into() };
        assert_eq!(reason(facts(&foreign)), reason::SECRET_NOT_OWNED);
        assert_eq!(reason(facts(&Stored::Absent)), reason::ISSUER_NOT_FOUND);
    }

    #[test]
    fn without_cluster_issuers_an_issuer_is_advised() {
        let wanted = wanted(&["a.example"]);
        let facts = Facts {
            namespace: "web",
            namespace_labels: const { &BTreeMap::new() },
            issuer: &Lookup::NotServed,
            claims: const { &Claims::new() },
            stored: &Stored::Absent,
        };
        let key =
            IssuerKey { kind: IssuerKind::ClusterIssuer, namespace: None, name: "letsencrypt".to_owned() };
        let refusal = admit(&wanted, &key, &facts).unwrap_err();
        assert_eq!(refusal.reason, reason::ISSUER_NOT_FOUND);
        assert!(refusal.message.contains("create an Issuer in namespace web"), "{}", refusal.message);
    }

    #[test]
    fn a_neighbours_name_is_refused_and_ones_own_is_not() {
        assert_eq!(why(&[], &[], &[]), None);
        assert_eq!(why(&[], &["shop", "web"], &[]), None);
        let refusal = refusal(&[], &["shop"], &[]).unwrap();
        assert_eq!(refusal.reason, reason::NAME_OWNED_ELSEWHERE);
        assert!(refusal.message.contains("is routed by HTTPRoute shop/r"), "{}", refusal.message);
    }

    #[test]
    fn rules_limit_an_issuer_and_only_those_with_a_selector_give_a_neighbours_name() {
        assert_eq!(why(&[rule("b.example", None)], &[], &[]), Some(reason::NOT_ALLOWED));
        assert_eq!(why(&[rule("*.example", None)], &[], &[]), None);
        assert_eq!(why(&[rule("*.example", None)], &["shop"], &[]), Some(reason::NAME_OWNED_ELSEWHERE));
        assert_eq!(why(&[rule("*.example", Some("web"))], &["shop"], &[("team", "web")]), None);
        assert_eq!(
            why(&[rule("*.example", Some("web"))], &["shop"], &[("team", "other")]),
            Some(reason::NOT_ALLOWED)
        );
    }

    #[test]
    fn the_first_certificate_keeps_the_secret() {
        let mut old = super::super::wanted::tests::certificate(&["a.example"]);
        let mut new = old.clone();
        let at = |seconds| {
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::constant(seconds, 0)))
        };
        old.metadata.creation_timestamp = at(1);
        old.metadata.name = Some("z".into());
        new.metadata.creation_timestamp = at(2);
        assert_eq!(first_of([&new, &old]).unwrap().name_any(), "z");
    }
}
