//! What the cluster remembers of limits: read at the begin of a leader's term, and when an issuer's rates change.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use waxwing_acme::limits::{Applicant, Limits, Past, Purpose, Refused, Standing};
use waxwing_acme::retry::is_to_be_waited_for;
use waxwing_api::{
    Acme, AcmeIssuer, Certificate, ClusterIssuer, Issuer, IssuerKind, IssuerRef, IssuerStatus, LimitRefusal,
    reason,
};

use super::budget::runs_out;
use super::history;
use super::limits_used;
use super::order_secret;
use crate::issuer::{self, IssuerKey};
use crate::runtime::watch::{Watch, Watches};

/// What it is read from. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Caches {
    certificates: Watch<Certificate>,
    cluster_issuers: Watch<ClusterIssuer>,
    issuers: Watch<Issuer>,
    order_secrets: Watch<Secret>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Memory {
    /// CA, account and limits of each issuer that has an account.
    pub issuers: Vec<(String, String, Limits)>,
    /// What was used.
    pub past: Vec<Past>,
    /// Orders that are open.
    pub open: Vec<(Limits, Open)>,
    /// Limits that a CA called used up, and until when.
    pub refused: Vec<(Limits, Applicant, Refused, Timestamp)>,
    /// Who waits.
    pub waiting: Vec<(Limits, Applicant)>,
}

/// An order that is open.
#[derive(Debug)]
pub struct Open {
    /// Whose.
    pub by: Applicant,
    /// Since when.
    pub since: Timestamp,
}

/// An issuer as far as it is known without asking its CA.
#[derive(Clone, Debug)]
struct Known {
    ca: String,
    account: String,
    limits: Limits,
}

impl Caches {
    /// Those of the process.
    pub fn of(watches: &Watches) -> Self {
        Self {
            certificates: watches.certificates.clone(),
            cluster_issuers: watches.cluster_issuers.clone(),
            issuers: watches.issuers.clone(),
            order_secrets: watches.order_secrets.clone(),
        }
    }
}

/// Reads the caches.
pub fn read(caches: &Caches, now: Timestamp) -> Memory {
    let mut known = HashMap::new();
    for one in caches.issuers.store().state() {
        know(
            &mut known,
            IssuerKind::Issuer,
            one.namespace(),
            one.name_any(),
            one.acme(),
            one.issuer_status(),
        );
    }
    for one in caches.cluster_issuers.store().state() {
        know(&mut known, IssuerKind::ClusterIssuer, None, one.name_any(), one.acme(), one.issuer_status());
    }
    let mut memory = Memory {
        issuers: known
            .values()
            .map(|one| (one.ca.clone(), one.account.clone(), one.limits.clone()))
            .collect(),
        ..Memory::default()
    };
    // Of an account that no issuer has any more nothing can be used.
    let accounts: HashMap<&str, &Known> = known.values().map(|one| (one.account.as_str(), one)).collect();
    let of = |account: &str, by: &Applicant| {
        let known = *accounts.get(account)?;
        Some((known, Applicant { ca: known.ca.clone(), account: account.to_owned(), ..by.clone() }))
    };
    let mut by_uid = HashMap::new();
    for certificate in caches.certificates.store().state() {
        let issuer = issuer_of(&certificate, &certificate.spec.issuer_ref, &known);
        let by = applicant(&certificate, issuer, now);
        if let Some(issuer) = issuer
            && history::is_stopped_by(&certificate, reason::RATE_LIMITED)
        {
            memory.waiting.push((issuer.limits.clone(), by.clone()));
        }
        for used in limits_used::in_certificate(certificate.status.as_ref()) {
            if let Some((_, by)) = of(&used.account, &by) {
                memory.past.push(Past { by, spent: limits_used::spent(used, now) });
            }
        }
        if let Some(refusal) = refusal(&certificate, now)
            && let Some((known, by)) = of(&refusal.account, &by)
        {
            let refused = limits_used::refused(refusal);
            memory.refused.push((known.limits.clone(), by, refused, refusal.until.0));
        }
        if let Some(issuer) = issuer {
            by_uid.insert(by.id.clone(), (issuer.limits.clone(), by));
        }
    }
    for order in caches.order_secrets.store().state() {
        let name = order.name_any();
        let whose = order_secret::certificate_uid(&name).and_then(|uid| by_uid.get(uid));
        if let (Some((limits, by)), Some(created)) = (whose, &order.metadata.creation_timestamp) {
            memory.open.push((limits.clone(), Open { by: by.clone(), since: created.0 }));
        }
    }
    memory
}

fn know(
    known: &mut HashMap<IssuerKey, Known>,
    kind: IssuerKind,
    namespace: Option<String>,
    name: String,
    acme: &Acme,
    status: Option<&IssuerStatus>,
) {
    // Without an account there was no order.
    let account = status.and_then(|status| status.acme.as_ref()).and_then(|acme| acme.uri.clone());
    let Some(account) = account else { return };
    let one = Known { ca: issuer::ca(acme), account, limits: issuer::limits(acme) };
    known.insert(IssuerKey { kind, namespace, name }, one);
}

fn issuer_of<'k>(
    certificate: &Certificate,
    reference: &IssuerRef,
    known: &'k HashMap<IssuerKey, Known>,
) -> Option<&'k Known> {
    known.get(&IssuerKey::referred(reference, &certificate.namespace().unwrap_or_default()))
}

/// What the CA refused last, if that isn't over. A time that is too far away was not written by us.
fn refusal(certificate: &Certificate, now: Timestamp) -> Option<&LimitRefusal> {
    let refusal = certificate.status.as_ref()?.acme.as_ref()?.refused_limit.as_ref()?;
    is_to_be_waited_for(refusal.until.0, now).then_some(refusal)
}

/// Who a Certificate is, by its status alone: it says what is stored. A fallback may have issued it before there was an
/// account at its first choice.
fn applicant(certificate: &Certificate, issuer: Option<&Known>, now: Timestamp) -> Applicant {
    let spec = &certificate.spec;
    let names =
        spec.dns_names.iter().chain(&spec.common_name).map(|name| name.to_ascii_lowercase()).collect();
    let created = certificate.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
    let mut by = Applicant {
        id: certificate.uid().unwrap_or_default(),
        namespace: certificate.namespace().unwrap_or_default(),
        ca: issuer.map(|issuer| issuer.ca.clone()).unwrap_or_default(),
        account: issuer.map(|issuer| issuer.account.clone()).unwrap_or_default(),
        names,
        purpose: Purpose::FirstIssue,
        standing: Standing { urgent: false, failing: false, since: created },
    };
    let Some(status) = &certificate.status else { return by };
    by.standing.failing = history::failures(certificate, now).set_behind();
    if let (Some(not_before), Some(not_after)) = (&status.not_before, &status.not_after) {
        by.standing.urgent = runs_out(not_before.0, not_after.0, now);
        by.standing.since = status.renewal_time.as_ref().map_or(created, |time| time.0);
        let (issued, named) = (status.issuer_ref.as_ref(), &spec.issuer_ref);
        let same_issuer = issued.is_some_and(|issued| issued.name == named.name && issued.kind == named.kind);
        if same_issuer && issuer.is_some_and(|issuer| history::is_of_account(certificate, &issuer.account)) {
            by.purpose = Purpose::Renewal;
        }
    }
    by
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use waxwing_acme::limits::{Ledger, Scope};
    use waxwing_api::{
        AcmeLimits, AcmeRate, CertificateAcmeStatus, CertificateStatus, ClusterIssuerSpec, GoDuration,
        IssuerAcmeStatus, LimitUse, RateScope,
    };

    use super::super::wanted::tests::certificate;
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn caches(certificates: Vec<Certificate>) -> Caches {
        let rate = AcmeRate {
            scope: RateScope::RegisteredDomain,
            count: 1,
            period: GoDuration::from(std::time::Duration::from_hours(1)),
        };
        let acme = Acme {
            server: "https://ca.example/directory".into(),
            limits: Some(AcmeLimits { rates: vec![rate], ..AcmeLimits::default() }),
            ..Acme::default()
        };
        let mut issuer = ClusterIssuer::new("ca", ClusterIssuerSpec { acme, ..ClusterIssuerSpec::default() });
        let account = IssuerAcmeStatus { uri: Some("account".into()), ..IssuerAcmeStatus::default() };
        issuer.status = Some(IssuerStatus { acme: Some(account), ..IssuerStatus::default() });
        Caches {
            certificates: Watch::of(certificates),
            cluster_issuers: Watch::of(vec![issuer]),
            issuers: Watch::of(Vec::new()),
            order_secrets: Watch::of(Vec::new()),
        }
    }

    fn stopped(reason: &str, message: &str) -> CertificateStatus {
        let issuing = Condition {
            type_: reason::ISSUING.into(),
            status: "False".into(),
            reason: reason.into(),
            message: message.into(),
            observed_generation: Some(1),
            last_transition_time: Time(NOW),
        };
        CertificateStatus { conditions: vec![issuing], ..CertificateStatus::default() }
    }

    #[test]
    fn what_a_status_says_was_used_is_used() {
        let mut certificate = certificate(&["a.example.com"]);
        certificate.status = Some(CertificateStatus {
            acme: Some(CertificateAcmeStatus {
                limits_used: ["account", "of an issuer that is gone"]
                    .map(|account| LimitUse {
                        time: Time(NOW),
                        account: account.into(),
                        scopes: vec![RateScope::RegisteredDomain],
                    })
                    .into(),
                ..CertificateAcmeStatus::default()
            }),
            ..CertificateStatus::default()
        });
        // A fallback issued it, and its first choice is gone: what it used is used.
        let mut by_a_fallback = certificate.clone();
        by_a_fallback.spec.issuer_ref.name = "gone".into();
        assert_eq!(read(&caches(vec![by_a_fallback]), NOW).past.len(), 1);
        let memory = read(&caches(vec![certificate]), NOW);
        assert_eq!((memory.issuers.len(), memory.past.len()), (1, 1));
        let limits = &memory.issuers[0].2;
        let mut ledger = Ledger::default();
        let mut neighbour = memory.past[0].by.clone();
        neighbour.id = "another".into();
        neighbour.names = ["b.example.com".to_owned()].into();
        assert!(ledger.admit(limits, &neighbour, NOW).is_ok());
        let mut ledger = Ledger::default();
        ledger.replay(limits, memory.past);
        let wait = ledger.admit(limits, &neighbour, NOW).unwrap_err();
        assert_eq!((wait.scope, wait.until), (Scope::RegisteredDomain, NOW + SignedDuration::from_hours(1)));
    }

    #[test]
    fn who_waits_and_what_the_ca_said_is_known_again() {
        let mut waiting = certificate(&["a.example.com"]);
        waiting.status = Some(stopped(reason::RATE_LIMITED, "ClusterIssuer ca: the limit is used up."));
        let mut refused = certificate(&["b.example.com"]);
        refused.metadata.name = Some("other".into());
        refused.metadata.uid = Some("other".into());
        let of_a_domain = |subject: &str, hours| LimitRefusal {
            account: "account".into(),
            scope: RateScope::RegisteredDomain,
            subject: Some(subject.into()),
            until: Time(NOW + SignedDuration::from_hours(hours)),
        };
        let refused_by_the_ca = |refusal| CertificateStatus {
            acme: Some(CertificateAcmeStatus {
                refused_limit: Some(refusal),
                ..CertificateAcmeStatus::default()
            }),
            // Whoever's name it is has a say in what the CA quotes.
            ..stopped(
                reason::BACKING_OFF,
                "got \"urn:ietf:params:acme:error:rateLimited: too many new orders\"",
            )
        };
        refused.status = Some(refused_by_the_ca(of_a_domain("example.com", 9)));
        let mut edited = certificate(&["c.example.com"]);
        edited.metadata.name = Some("edited".into());
        edited.status = Some(refused_by_the_ca(of_a_domain("example.net", 24 * 365)));
        let memory = read(&caches(vec![waiting, refused, edited]), NOW);
        assert_eq!(memory.waiting.iter().map(|(_, by)| by.id.as_str()).collect::<Vec<_>>(), ["5f1c"]);
        let [(_, by, said, until)] = &memory.refused[..] else { panic!("{:?}", memory.refused) };
        assert_eq!((by.id.as_str(), said.subject.as_deref()), ("other", Some("example.com")));
        assert_eq!(
            (said.scope, *until),
            (Some(Scope::RegisteredDomain), NOW + SignedDuration::from_hours(9))
        );
    }

    #[test]
    fn an_issuer_without_an_account_has_no_past() {
        let mut caches = caches(vec![certificate(&["a.example.com"])]);
        caches.cluster_issuers = Watch::of(vec![ClusterIssuer::new("ca", ClusterIssuerSpec::default())]);
        let memory = read(&caches, NOW);
        assert!(memory.issuers.is_empty() && memory.past.is_empty() && memory.waiting.is_empty());
    }
}
