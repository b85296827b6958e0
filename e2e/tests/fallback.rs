//! The first choice's CA is away: a fallback issues, and the next renewal begins with the first choice again. And a
//! rehearsal at another CA, whose certificate is thrown away.

use e2e::{
    Error,
    lab::{
        Parts, PebbleOptions, TraefikOptions,
        scenario::{Scenario, Stage, condition},
    },
    sandbox::SILENT_ADDRESS,
};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use waxwing_api::{Certificate, IssuerRef, reason};

#[tokio::test]
async fn another_ca_is_asked() -> Result<(), Error> {
    let parts = Parts {
        pebble: Some(PebbleOptions::default()),
        step_ca: true,
        traefik: Some(TraefikOptions::default()),
        ..Parts::default()
    };
    let stage = Stage::start("fallback", parts).await?;
    a_rehearsal_comes_first(&stage.scenario("rehearsal").await?).await?;
    a_fallback_issues_until_the_first_choice_is_back(&stage.scenario("fallback").await?).await
}

fn spec(s: &Scenario<'_>) -> Value {
    let fallback = json!({"name": "step-ca", "kind": "ClusterIssuer"});
    let missing = json!({"name": "missing"});
    json!({
        "dnsNames": [s.routed("shop")],
        "issuerRef": {"name": "pebble", "kind": "ClusterIssuer"},
        "fallbackIssuerRefs": [missing, fallback],
    })
}

async fn a_fallback_issues_until_the_first_choice_is_back(s: &Scenario<'_>) -> Result<(), Error> {
    let pebble = s.lab().pebble()?;
    pebble.kill();
    s.certify("shop", spec(s)).await?;
    let certificate = s.ready("shop").await?;
    assert_eq!(issuer(&certificate), "step-ca");
    let told =
        |type_: &str| condition(&certificate, type_).map(|one| one.message.clone()).unwrap_or_default();
    assert!(told(reason::READY).contains("ClusterIssuer step-ca, a fallback"), "{}", told(reason::READY));
    for words in ["ClusterIssuer pebble was passed over", "There is no Issuer"] {
        assert!(told(reason::ISSUING).contains(words), "{words:?} is not in {}", told(reason::ISSUING));
    }
    let status = certificate.status.clone().unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None, "a certificate is there: nothing has failed");
    assert_eq!(
        s.get::<Secret>("shop-tls").await?.metadata.annotations.unwrap_or_default()["waxwing.dev/issuer-name"],
        "step-ca"
    );

    // It serves: what the first choice can't do now is no reason to issue again.
    let first = s.pair("shop-tls").await?.serial()?;
    pebble.restart_empty().await?;
    let mut labelled = spec(s);
    labelled["secretTemplate"] = json!({"labels": {"seen": "true"}});
    s.certify("shop", labelled).await?;
    s.until(s.api::<Secret>(), "shop-tls", |secret| {
        let labels = secret.and_then(|secret| secret.metadata.labels.clone()).unwrap_or_default();
        if labels.contains_key("seen") { Ok(()) } else { Err("not looked at yet".to_owned()) }
    })
    .await?;
    assert_eq!(s.pair("shop-tls").await?.serial()?, first);

    // The next one comes from the first choice.
    s.delete::<Secret>("shop-tls").await?;
    s.until(s.api::<Certificate>(), "shop", |certificate| {
        let by = certificate.map(issuer).unwrap_or_default();
        if by == "pebble" { Ok(()) } else { Err(format!("issued by {by}")) }
    })
    .await?;
    s.nothing_left().await
}

async fn a_rehearsal_comes_first(s: &Scenario<'_>) -> Result<(), Error> {
    let (pebble, step_ca) = (s.lab().pebble()?, s.lab().step_ca()?);
    s.issuer("staging", json!({"server": step_ca.directory()})).await?;
    let rehearsal = json!({"issuerRef": {"name": "staging"}, "when": "Always"});
    s.issuer("real", json!({"server": pebble.directory(), "rehearsal": rehearsal})).await?;
    s.issuer_is("staging", reason::ACCOUNT_REGISTERED).await?;
    s.issuer_is("real", reason::ACCOUNT_REGISTERED).await?;

    s.certify("good", json!({"dnsNames": [s.routed("good")], "issuerRef": {"name": "real"}})).await?;
    let certificate = s.ready("good").await?;
    assert_eq!(issuer(&certificate), "real");
    s.pair("good-tls").await?.serves(&s.roots().await?, &[s.routed("good")])?;
    assert!(step_ca.process().log().contains(&s.routed("good")), "it was rehearsed");

    // What fails at the rehearsal never gets to the CA that counts.
    s.resolve(&s.routed("bad"), &[SILENT_ADDRESS]).await?;
    s.certify("bad", json!({"dnsNames": [s.routed("bad")], "issuerRef": {"name": "real"}})).await?;
    let stopped = s.stopped_saying("bad", reason::BACKING_OFF, "Issuer").await?;
    assert!(stopped.message.contains("/staging"), "{}", stopped.message);
    assert!(!pebble.process().log().contains(&s.routed("bad")));

    s.issuer("itself", json!({"rehearsal": {"issuerRef": {"name": "itself"}}})).await?;
    let message = s.issuer_is("itself", reason::INVALID_CONFIG).await?;
    assert!(message.contains("name another one"), "{message}");
    Ok(())
}

fn issuer(certificate: &Certificate) -> String {
    let status = certificate.status.clone().unwrap_or_default();
    status.issuer_ref.map(|IssuerRef { name, .. }| name).unwrap_or_default()
}
