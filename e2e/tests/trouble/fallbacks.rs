//! Several issuers at CAs in trouble: each is asked when its own answer is over, and an open order stays where it is.

use e2e::{
    Error,
    fault_ca::{Behaviour, FaultCa, Kind, Play, Problem, RetryAfter, Rule},
};
use serde_json::{Value, json};
use waxwing_api::{Certificate, reason};

use super::{PATIENCE, RESTARTS, Trouble, WEEK, beside, condition, stage};

fn limited_for_a_week() -> Play {
    Play::Refuse(Problem::rate_limited().retry_after(RetryAfter::Seconds(WEEK.as_secs())))
}

/// Another CA, and an Issuer `other` that names it.
async fn other(t: &Trouble, behaviour: Behaviour) -> Result<FaultCa, Error> {
    let ca = FaultCa::start(t.s.lab().authority(), behaviour)?;
    let solvers = json!([{"http01": {"existingRoute": {}}}]);
    t.s.issuer("other", json!({"server": ca.directory(), "solvers": solvers})).await?;
    t.s.issuer_is("other", reason::ACCOUNT_REGISTERED).await?;
    Ok(ca)
}

fn spec(t: &Trouble, name: &str) -> Value {
    json!({
        "dnsNames": [t.s.name(name)],
        "issuerRef": {"name": "ca"},
        "fallbackIssuerRefs": [{"name": "other"}],
    })
}

fn issued_by(certificate: &Certificate) -> String {
    let status = certificate.status.clone().unwrap_or_default();
    status.issuer_ref.map(|issuer| issuer.name).unwrap_or_default()
}

#[tokio::test]
async fn a_fallback_has_its_next_turn_while_the_first_choice_is_left_alone() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("turns").await?;
    let other = other(&t, Behaviour::default()).await?;
    t.ca.play(Rule::new(Kind::NewOrder, limited_for_a_week()));
    let away = other.play(Rule::new(Kind::NewOrder, Play::Html(503)));
    t.s.certify("shop", spec(&t, "shop")).await?;
    let stopped = t.s.stopped("shop", reason::BACKING_OFF).await?.certificate;
    let pauses = stopped.status.unwrap_or_default().acme.unwrap_or_default().paused_issuers;
    assert_eq!(pauses.len(), 2, "{pauses:?}");
    other.stop(away);

    let certificate = t.s.ready("shop").await?;
    assert_eq!(issued_by(&certificate), "other");
    let message = condition(&certificate, reason::ISSUING).map(|one| one.message.clone()).unwrap_or_default();
    assert!(message.contains("isn't asked again before"), "{message}");
    assert_eq!(t.ca.count(Kind::NewOrder, &t.s.name("shop")), 1, "the first choice was left alone");
    let status = certificate.status.unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None);
    assert!(status.acme.unwrap_or_default().paused_issuers.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_limit_of_the_first_choice_outlasts_the_certificate() -> Result<(), Error> {
    let _beside = beside().await;
    let lifetime = PATIENCE / 3;
    let short = Behaviour { certificate_lifetime: lifetime, ..Behaviour::default() };
    let t = Trouble::with("outlast", short.clone()).await?;
    let other = other(&t, short).await?;
    t.ca.play(Rule::new(Kind::NewOrder, limited_for_a_week()).after(2));
    t.certify("alone", "first").await?;
    t.s.certify("shop", spec(&t, "shop")).await?;
    for name in ["alone", "shop"] {
        assert_eq!(issued_by(&t.s.ready(name).await?), "ca");
    }
    // Halfway from renewal to expiry a fallback is asked, whatever the first choice named.
    t.renewed("shop").await?;
    let renewed: Certificate = t.s.get("shop").await?;
    assert_eq!((issued_by(&renewed).as_str(), other.signed(&[&t.s.name("shop")])), ("other", 1));
    // Without one it expires, and says so.
    t.s.until(t.s.api::<Certificate>(), "alone", |certificate| {
        let ready = certificate.and_then(|one| condition(one, reason::READY)).ok_or("there is none")?;
        if ready.reason == reason::EXPIRED { Ok(()) } else { Err(ready.message.clone()) }
    })
    .await
}

#[tokio::test]
async fn an_open_order_is_gone_on_with_and_not_rehearsed_again() -> Result<(), Error> {
    let _alone = RESTARTS.write().await;
    let t = Trouble::new("rehearsed").await?;
    let other = other(&t, Behaviour::default()).await?;
    let rehearsal = json!({"issuerRef": {"name": "other"}, "when": "Always"});
    let solvers = json!([{"http01": {"existingRoute": {}}}]);
    t.s.issuer("real", json!({"server": t.ca.directory(), "solvers": solvers, "rehearsal": rehearsal}))
        .await?;
    t.s.issuer_is("real", reason::ACCOUNT_REGISTERED).await?;
    t.ca.play(Rule::new(Kind::Finalize, Play::Processing(None)));
    let host = t.s.name("shop");
    t.s.certify("shop", json!({"dnsNames": [host], "issuerRef": {"name": "real"}})).await?;
    t.asked(Kind::Order, "shop", 2).await?;

    let operator = stage().await?.operator();
    operator.kill();
    let polls = t.ca.count(Kind::Order, &host);
    operator.start_again()?;
    t.asked(Kind::Order, "shop", polls + 2).await?;
    t.ca.release_orders();
    t.issued("shop", 1).await?;
    for ca in [&t.ca, &other] {
        assert_eq!((ca.count(Kind::NewOrder, &host), ca.signed(&[&host])), (1, 1));
    }
    t.s.nothing_left().await
}
