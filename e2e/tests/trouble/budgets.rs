//! Renewals that a CA suggests, and its limits: Let's Encrypt exempts them, and any other CA may count them.

use std::time::Duration;

use e2e::{
    Error,
    fault_ca::{Behaviour, Kind, Limit, Limits, Play, Rule, Suggestion, Window},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use waxwing_api::{Certificate, reason};

use super::{PATIENCE, Trouble, WEEK, beside, condition, edge};

/// So many certificates for the same names, by what is said on the issuer.
fn in_a_week(count: u32) -> Value {
    json!({"rates": [{"scope": "IdenticalNames", "count": count, "period": "168h"}]})
}

fn spec(t: &Trouble, issuer: &str) -> Value {
    json!({"dnsNames": [t.s.name("shop")], "issuerRef": {"name": issuer}})
}

/// Waits until a Certificate waits for a limit. Gives it.
async fn limited(t: &Trouble, name: &str) -> Result<Certificate, Error> {
    t.s.until(t.s.api::<Certificate>(), name, |certificate| {
        let certificate = certificate.ok_or("there is none")?;
        let issuing = condition(certificate, reason::ISSUING).ok_or("no condition Issuing")?;
        if issuing.reason == reason::RATE_LIMITED {
            let used_up = "1 certificate in 7 days for exactly these names is used up";
            assert!(issuing.message.contains(used_up), "{}", issuing.message);
            Ok(certificate.clone())
        } else {
            Err(format!("{}: {}", issuing.reason, issuing.message))
        }
    })
    .await
}

/// Whether each new order said what it replaces, and how it was answered.
fn orders(t: &Trouble) -> Vec<(bool, Option<u16>)> {
    let asked = t.ca.asked();
    let orders = asked.iter().filter(|asked| asked.kind == Kind::NewOrder);
    orders.map(|asked| (asked.replaces.is_some(), asked.status)).collect()
}

fn uses(certificate: &Certificate) -> usize {
    let status = certificate.status.clone().unwrap_or_default();
    status.acme.map(|acme| acme.limits_used.len()).unwrap_or_default()
}

#[tokio::test]
async fn a_renewal_that_lets_encrypt_suggests_needs_no_budget() -> Result<(), Error> {
    let _beside = beside().await;
    // Suggested is all of the certificate's life; the renewal comes before the end of both.
    let lifetime = Duration::from_secs(150);
    let now = Timestamp::now();
    let window = Window::At(now + SignedDuration::from_secs(10), now + SignedDuration::from_secs(158));
    let limits = Limits { certificates_per_set: Some(Limit { count: 1, period: WEEK }), ..Limits::default() };
    let suggestion = Suggestion::new(window);
    let behaviour = Behaviour { certificate_lifetime: lifetime, limits, suggestion, ..Behaviour::default() };
    let t = Trouble::with("exempt", behaviour).await?;
    let usual = Play::Suggest(Suggestion::default());
    t.ca.play(Rule::new(Kind::RenewalInfo, usual).name(&t.s.name("shop")).after(1));
    // Whose limits they are is told from the name.
    let port = t.ca.directory().rsplit(':').next().and_then(|rest| rest.split('/').next()?.parse().ok());
    edge::lead(443, port.unwrap_or_default())?;
    let server = "https://acme-v02.api.letsencrypt.org/directory";
    let acme = json!({"server": server, "caBundle": null, "skipTLSVerify": true, "limits": in_a_week(1)});
    t.issuer_at(&t.ca, "letsencrypt", acme).await?;
    t.s.issuer_is("letsencrypt", reason::ACCOUNT_REGISTERED).await?;

    t.s.certify("shop", spec(&t, "letsencrypt")).await?;
    assert_eq!(uses(&t.s.ready("shop").await?), 1);
    t.s.certify("again", spec(&t, "letsencrypt")).await?;
    limited(&t, "again").await?;
    let status = t.renewed("shop").await?;
    assert_eq!(status.failed_issuance_attempts, None);
    t.s.pair("shop-tls").await?.serves(&t.roots()?, &[&t.s.name("shop")])?;
    assert_eq!(uses(&t.s.get("shop").await?), 1, "the renewal has used nothing");
    limited(&t, "again").await?;
    assert_eq!(orders(&t), [(false, Some(201)), (true, Some(201))], "and nobody was refused");
    assert_eq!(t.ca.violations(), Vec::<String>::new());
    t.s.nothing_left().await
}

#[tokio::test]
async fn a_renewal_that_another_ca_suggests_waits_as_any_order_does() -> Result<(), Error> {
    let _beside = beside().await;
    // By itself it would be renewed when the test has given up long since.
    let lifetime = PATIENCE * 5 / 2;
    let t = Trouble::with("counted", Behaviour { certificate_lifetime: lifetime, ..Behaviour::default() })
        .await?;
    let past = Play::Suggest(Suggestion::new(Window::Past));
    t.ca.play(Rule::new(Kind::RenewalInfo, past).name(&t.s.name("shop")).times(1));
    t.issuer_at(&t.ca, "ca", json!({"limits": in_a_week(1)})).await?;
    t.s.issuer_is("ca", reason::ACCOUNT_REGISTERED).await?;
    t.s.certify("shop", spec(&t, "ca")).await?;
    t.s.ready("shop").await?;
    let waits = limited(&t, "shop").await?;
    assert!(condition(&waits, reason::READY).is_some_and(|ready| ready.status == "True"), "it serves");
    assert_eq!(orders(&t), [(false, Some(201))], "the CA wasn't asked");

    // Whoever knows better says so on the issuer.
    t.issuer_at(&t.ca, "ca", json!({"limits": in_a_week(2)})).await?;
    let status = t.renewed("shop").await?;
    assert_eq!(status.failed_issuance_attempts, None);
    assert_eq!(uses(&t.s.get("shop").await?), 2);
    assert_eq!(orders(&t), [(false, Some(201)), (true, Some(201))]);
    t.s.nothing_left().await
}
