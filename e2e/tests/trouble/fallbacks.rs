//! Several issuers at CAs in trouble: each is asked when its own answer is over, and an open order stays where it is.

use std::time::Duration;

use e2e::{
    Error,
    fault_ca::{Behaviour, FaultCa, Kind, Play, Problem, Rule, Validation},
};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use waxwing_api::{Certificate, reason};

use super::{PATIENCE, RESTARTS, Trouble, beside, condition, limited_for_a_week, says};

/// Another CA, and an Issuer `other` that names it.
async fn other(t: &Trouble, behaviour: Behaviour) -> Result<FaultCa, Error> {
    let ca = FaultCa::start(t.s.lab().authority(), behaviour)?;
    t.issuer_at(&ca, "other", json!({})).await?;
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

/// An Issuer `real` at the first CA, which rehearses each certificate at `other`.
async fn real(t: &Trouble) -> Result<(), Error> {
    let rehearsal = json!({"issuerRef": {"name": "other"}, "when": "Always"});
    t.issuer_at(&t.ca, "real", json!({"rehearsal": rehearsal})).await?;
    t.s.issuer_is("real", reason::ACCOUNT_REGISTERED).await.map(drop)
}

fn rehearsed(t: &Trouble, name: &str, note: &str) -> Value {
    json!({
        "dnsNames": [t.s.name(name)],
        "issuerRef": {"name": "real"},
        "secretTemplate": {"annotations": {"note": note}},
    })
}

/// Who is left alone for now.
fn paused(certificate: &Certificate) -> Vec<String> {
    let status = certificate.status.clone().unwrap_or_default();
    status.acme.unwrap_or_default().paused_issuers.into_iter().map(|one| one.name).collect()
}

/// The pair is lost, and issued anew.
async fn issued_again(t: &Trouble, name: &str) -> Result<(), Error> {
    t.s.delete::<Secret>(&format!("{name}-tls")).await?;
    t.renewed(name).await.map(drop)
}

fn issuing(certificate: &Certificate) -> String {
    condition(certificate, reason::ISSUING).map(|one| one.message.clone()).unwrap_or_default()
}

fn issued_by(certificate: &Certificate) -> String {
    let status = certificate.status.clone().unwrap_or_default();
    status.issuer_ref.map(|issuer| issuer.name).unwrap_or_default()
}

#[tokio::test]
async fn a_fallback_has_its_next_turn_while_the_first_choice_is_left_alone() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("turns").await?;
    let lifetime = Duration::from_mins(1);
    let other = other(&t, Behaviour { certificate_lifetime: lifetime, ..Behaviour::default() }).await?;
    t.ca.play(Rule::new(Kind::NewOrder, limited_for_a_week()));
    let away = other.play(Rule::new(Kind::NewOrder, Play::Html(503)));
    t.s.certify("shop", spec(&t, "shop")).await?;
    let stopped = t.s.stopped("shop", reason::BACKING_OFF).await?.certificate;
    let pauses = stopped.status.unwrap_or_default().acme.unwrap_or_default().paused_issuers;
    assert_eq!(pauses.len(), 2, "{pauses:?}");
    other.stop(away);

    let certificate = t.s.ready("shop").await?;
    assert_eq!(issued_by(&certificate), "other");
    let message = issuing(&certificate);
    assert!(message.contains("isn't asked again before"), "{message}");
    assert_eq!(t.ca.count(Kind::NewOrder, &t.s.name("shop")), 1, "the first choice was left alone");
    let status = certificate.status.clone().unwrap_or_default();
    assert_eq!((status.failed_issuance_attempts, paused(&certificate)), (None, vec!["ca".to_owned()]));

    // Its week isn't over because another one has issued, not even in the time that a renewal has for it alone.
    t.renewed("shop").await?;
    assert_eq!(issued_by(&t.s.get("shop").await?), "other");
    assert_eq!(t.ca.count(Kind::NewOrder, &t.s.name("shop")), 1);
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
    real(&t).await?;
    t.ca.play(Rule::new(Kind::Finalize, Play::Processing(None)));
    let host = t.s.name("shop");
    t.s.certify("shop", rehearsed(&t, "shop", "first")).await?;
    t.asked(Kind::Order, "shop", 2).await?;

    t.s.operator().kill();
    let polls = t.ca.count(Kind::Order, &host);
    t.s.start_again().await?;
    t.asked(Kind::Order, "shop", polls + 2).await?;
    t.ca.release_orders();
    t.issued("shop", 1).await?;
    for ca in [&t.ca, &other] {
        assert_eq!((ca.count(Kind::NewOrder, &host), ca.signed(&[&host])), (1, 1));
    }
    t.s.nothing_left().await
}

#[tokio::test]
async fn a_ca_that_is_away_is_passed_over_unasked() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("away").await?;
    let _other = other(&t, Behaviour::default()).await?;
    let away = t.ca.play(Rule::new(Kind::NewOrder, Play::Html(503)));
    for name in ["one", "two", "three"] {
        t.s.certify(name, spec(&t, name)).await?;
        assert_eq!(issued_by(&t.s.ready(name).await?), "other");
        assert!(t.ca.count(Kind::NewOrder, &t.s.name(name)) > 0, "{name}: the first choice was asked first");
    }
    t.s.certify("four", spec(&t, "four")).await?;
    let four = t.s.ready("four").await?;
    assert_eq!(issued_by(&four), "other");
    let (message, first) = (issuing(&four), format!("Issuer {}/ca", t.s.namespace()));
    for words in [format!("{first} was passed over. The CA of {first}"), "several times in a row".to_owned()]
    {
        assert!(message.contains(&words), "{words:?} is not in {message:?}");
    }
    assert_eq!(t.ca.count(Kind::NewOrder, &t.s.name("four")), 0, "it is left alone");

    // Who has no other choice isn't held, and what it finds out is known to all.
    t.ca.stop(away);
    t.certify("alone", "first").await?;
    t.issued("alone", 1).await?;
    t.s.certify("five", spec(&t, "five")).await?;
    let five = t.s.ready("five").await?;
    assert_eq!(issued_by(&five), "ca", "{}", issuing(&five));
    t.s.nothing_left().await
}

#[tokio::test]
async fn a_rehearsal_that_fails_is_heeded_and_one_at_a_limit_is_left_out() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("rehearsal").await?;
    let other = other(&t, Behaviour::default()).await?;
    real(&t).await?;
    let refusal = Problem::new(400, "connection", "192.0.2.7: Timeout during connect");
    let fails = Play::Validate(Validation::Fails(refusal));
    other.play(Rule::new(Kind::Challenge, fails).name(&t.s.name("fails")).times(1));
    t.s.certify("fails", rehearsed(&t, "fails", "first")).await?;
    let stopped = t.s.stopped("fails", reason::BACKING_OFF).await?;
    says(&stopped, &["Timeout during connect", "/other"]);
    assert_eq!(t.ca.count(Kind::NewOrder, &t.s.name("fails")), 0, "it never gets to the CA that counts");
    t.s.certify("fails", rehearsed(&t, "fails", "second")).await?;
    t.issued("fails", 1).await?;
    assert_eq!(other.signed(&[&t.s.name("fails")]), 1);

    // A limit is the other CA's own.
    other.play(Rule::new(Kind::NewOrder, limited_for_a_week()));
    t.s.certify("limited", rehearsed(&t, "limited", "first")).await?;
    t.issued("limited", 1).await?;
    let host = t.s.name("limited");
    assert_eq!((other.count(Kind::NewOrder, &host), other.signed(&[&host])), (1, 0));
    let certificate: Certificate = t.s.get("limited").await?;
    assert_eq!((issued_by(&certificate).as_str(), paused(&certificate)), ("real", vec!["other".to_owned()]));
    issued_again(&t, "limited").await?;
    assert_eq!((other.count(Kind::NewOrder, &host), t.ca.signed(&[&host])), (1, 2), "its week isn't over");
    t.s.nothing_left().await
}
