//! Issuers whose CA refuses them an account: it is asked again when it said, whoever leads.

use e2e::{
    Error,
    fault_ca::{Behaviour, FaultCa, Kind, Rule},
    lab::scenario::Scenario,
};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use waxwing_api::{AcmeIssuer as _, Issuer, IssuerStatus, reason};

use super::{RESTARTS, Trouble, WEEK, limited_for_a_week, says};

/// Waxwing crashes, and begins anew.
async fn restart(s: &Scenario<'_>) -> Result<(), Error> {
    s.operator().kill();
    s.start_again().await
}

fn status(issuer: &Issuer) -> IssuerStatus {
    issuer.issuer_status().cloned().unwrap_or_default()
}

fn new_accounts(ca: &FaultCa) -> usize {
    ca.asked().iter().filter(|asked| asked.kind == Kind::NewAccount).count()
}

fn spec(s: &Scenario<'_>, name: &str, issuer: &str) -> Value {
    json!({"dnsNames": [s.name(name)], "issuerRef": {"name": issuer}})
}

/// An Issuer that waits for a week, after one attempt.
async fn refused(t: &Trouble, name: &str, before: Timestamp) -> Result<Issuer, Error> {
    let said = t.s.issuer_is(name, reason::ACCOUNT_REFUSED).await?;
    assert!(said.contains("Service busy"), "{said}");
    let issuer: Issuer = t.s.get(name).await?;
    let status = status(&issuer);
    assert_eq!((status.failed_attempts, &status.acme), (Some(1), &None));
    let next = status.next_attempt_time.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let week = next.duration_since(before).as_secs_f64();
    assert!(week >= WEEK.as_secs_f64() - 1.0, "{week} s");
    Ok(issuer)
}

/// What the new process has to do with issuers is done: another one is registered, and issues.
async fn looked_at_all(t: &Trouble, ca: &FaultCa) -> Result<(), Error> {
    t.issuer_at(ca, "fresh", json!({})).await?;
    t.s.issuer_is("fresh", reason::ACCOUNT_REGISTERED).await?;
    t.s.certify("next", spec(&t.s, "next", "fresh")).await?;
    t.s.ready("next").await.map(drop)
}

/// An Issuer that is registered and remembers no failure, and has issued.
async fn registered(t: &Trouble, ca: &FaultCa, name: &str, certificate: &str) -> Result<(), Error> {
    t.s.issuer_is(name, reason::ACCOUNT_REGISTERED).await?;
    let status = status(&t.s.get(name).await?);
    assert_eq!((status.failed_attempts, &status.next_attempt_time), (None, &None));
    let account = status.acme.and_then(|acme| acme.uri).unwrap_or_default();
    assert!(ca.accounts().iter().any(|path| account.ends_with(path)), "{account}");
    t.s.ready(certificate).await?;
    assert_eq!(ca.signed(&[&t.s.name(certificate)]), 1);
    assert_eq!(ca.violations(), Vec::<String>::new());
    t.s.nothing_left().await
}

#[tokio::test]
async fn an_issuer_that_was_refused_for_a_week_is_left_alone_over_a_restart() -> Result<(), Error> {
    let _alone = RESTARTS.write().await;
    let t = Trouble::new("refused").await?;
    let ca = FaultCa::start(t.s.lab().authority(), Behaviour::default())?;
    ca.play(Rule::new(Kind::NewAccount, limited_for_a_week()));
    let before = Timestamp::now();
    t.issuer_at(&ca, "limited", json!({})).await?;
    let resting = refused(&t, "limited", before).await?;

    restart(&t.s).await?;
    t.s.certify("shop", spec(&t.s, "shop", "limited")).await?;
    let stopped = t.s.stopped_saying("shop", reason::ISSUER_NOT_READY, "Service busy").await?;
    says(&stopped, &["/limited is not ready", reason::ACCOUNT_REFUSED]);
    looked_at_all(&t, &t.ca).await?;
    assert_eq!(new_accounts(&ca), 1, "nothing is asked again");
    let now: Issuer = t.s.get("limited").await?;
    assert_eq!(now.resource_version(), resting.resource_version(), "nothing is written again");

    // Another spec is another attempt.
    ca.stop_all();
    t.issuer_at(&ca, "limited", json!({"email": "other@example.com"})).await?;
    registered(&t, &ca, "limited", "shop").await?;
    assert_eq!((new_accounts(&ca), ca.accounts().len()), (2, 1));
    Ok(())
}

#[tokio::test]
async fn an_account_that_the_ca_forgot_and_makes_no_more_is_not_asked_for_again() -> Result<(), Error> {
    let _alone = RESTARTS.write().await;
    let t = Trouble::new("no-more").await?;
    t.ca.forget_accounts();
    t.ca.play(Rule::new(Kind::NewAccount, limited_for_a_week()));
    let before = Timestamp::now();
    t.s.certify("shop", spec(&t.s, "shop", "ca")).await?;
    let resting = refused(&t, "ca", before).await?;
    t.s.stopped_saying("shop", reason::ISSUER_NOT_READY, "Service busy").await?;
    let asked = t.ca.asked().len();

    restart(&t.s).await?;
    let another = FaultCa::start(t.s.lab().authority(), Behaviour::default())?;
    looked_at_all(&t, &another).await?;
    let again: Vec<_> = t.ca.asked().into_iter().skip(asked).map(|asked| asked.kind).collect();
    assert_eq!(again, [], "nothing is asked again");
    assert_eq!(new_accounts(&t.ca), 2, "at first, and when it was lost");
    let now: Issuer = t.s.get("ca").await?;
    assert_eq!(now.resource_version(), resting.resource_version(), "nothing is written again");

    t.ca.stop_all();
    t.issuer("other@example.com").await?;
    registered(&t, &t.ca, "ca", "shop").await?;
    assert_eq!((new_accounts(&t.ca), t.ca.accounts().len()), (3, 1));
    Ok(())
}
