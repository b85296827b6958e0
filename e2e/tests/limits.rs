//! Limits of CAs: what would exceed one waits, says until when, and goes on in the order of need.

use e2e::{
    Error,
    fault_ca::{Behaviour, FaultCa, Kind, Limits, Play, Rule, Validation},
    lab::{
        Parts, TraefikOptions,
        scenario::{PATIENCE, Scenario, Stage, condition},
    },
    probe,
    sandbox::SILENT_ADDRESS,
};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use waxwing_api::{Certificate, LimitUse, RateScope, labels, reason};

/// One test at a time: some end the only Waxwing.
async fn alone() -> Result<(&'static Stage, MutexGuard<'static, ()>), Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let parts = Parts { step_ca: true, traefik: Some(TraefikOptions::default()), ..Parts::default() };
    let stage = STAGE.get_or_try_init(|| Stage::start("limits", parts)).await?;
    Ok((stage, turn))
}

#[tokio::test]
async fn the_same_names_again_wait_and_say_until_when() -> Result<(), Error> {
    let (stage, _turn) = alone().await?;
    let s = stage.scenario("limited").await?;
    issuer(&s, json!([{"scope": "IdenticalNames", "count": 1, "period": "168h"}])).await?;
    let host = s.routed("shop");
    certify(&s, "first", &host).await?;
    let first = s.ready("first").await?;
    let used = limits_used(&first);
    assert_eq!(used.iter().map(|one| one.scopes.clone()).collect::<Vec<_>>(), [[RateScope::IdenticalNames]]);

    let asked = new_orders(&s, "again");
    certify(&s, "again", &host).await?;
    let message = limited(&s, "again", "used up").await?;
    s.told("Certificate", "again", "Warning", reason::RATE_LIMITED, "Issuer").await?;
    let until = used[0].time.0 + SignedDuration::from_hours(7 * 24);
    let until = until.to_string();
    for words in ["Issuer", "1 certificate in 7 days for exactly these names is used up", &until] {
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
    assert_eq!(s.open_orders().await?, [""; 0], "waiting holds nothing");

    // Another process knows it too. A change that is no other order brings a look.
    stage.operator().kill();
    s.start_again().await?;
    let note = json!({"annotations": {"note": "seen"}});
    s.certify("again", spec(&host, json!({"secretTemplate": note}))).await?;
    assert_eq!(limited(&s, "again", &until).await?, message);
    assert_eq!(new_orders(&s, "again"), asked, "the CA wasn't asked");

    // Whoever knows better says so on the issuer.
    issuer(&s, json!([{"scope": "IdenticalNames", "count": 2, "period": "168h"}])).await?;
    let again = s.ready("again").await?;
    assert_eq!(limits_used(&again).len(), 1);
    s.nothing_left().await
}

#[tokio::test]
async fn namespaces_take_turns() -> Result<(), Error> {
    let (stage, _turn) = alone().await?;
    let greedy = stage.scenario("greedy").await?;
    let modest = stage.scenario("modest").await?;
    let domain = |count: u32| json!([{"scope": "RegisteredDomain", "count": count, "period": "100h"}]);
    for s in [&greedy, &modest] {
        issuer(s, domain(1)).await?;
    }
    // All names of the zone are of one registered domain, and the limit is the CA's.
    certify(&greedy, "one", &greedy.routed("one")).await?;
    let used = limits_used(&greedy.ready("one").await?);
    let turn = |number: i64| (used[0].time.0 + SignedDuration::from_hours(100 * number)).to_string();
    certify(&greedy, "two", &greedy.routed("two")).await?;
    limited(&greedy, "two", &turn(1)).await?;

    // Who has had none goes before who has had one, though it comes later.
    certify(&modest, "one", &modest.routed("one")).await?;
    limited(&modest, "one", &turn(1)).await?;
    let note = json!({"annotations": {"note": "look"}});
    greedy.certify("two", spec(&greedy.routed("two"), json!({"secretTemplate": note}))).await?;
    let behind = limited(&greedy, "two", &turn(2)).await?;
    assert!(behind.contains("another one goes first"), "{behind}");

    for s in [&greedy, &modest] {
        issuer(s, domain(2)).await?;
    }
    modest.ready("one").await?;
    limited(&greedy, "two", "2 certificates in 100 hours").await?;
    assert_eq!(limits_used(&greedy.get("two").await?).len(), 0);
    // Whoever is gone leaves its place.
    greedy.delete::<Certificate>("two").await?;
    modest.nothing_left().await
}

#[tokio::test]
async fn sixty_of_one_domain_see_no_refusal_of_a_ca_with_lets_encrypts_limits() -> Result<(), Error> {
    let (stage, _turn) = alone().await?;
    let s = stage.scenario("sixty").await?;
    let behaviour = Behaviour { limits: Limits::lets_encrypt(), ..Behaviour::default() };
    let ca = FaultCa::start(s.lab().authority(), behaviour)?;
    let rates = json!([
        {"scope": "Account", "count": 300, "period": "3h"},
        {"scope": "RegisteredDomain", "count": 50, "period": "168h"},
        {"scope": "IdenticalNames", "count": 5, "period": "168h"},
        {"scope": "FailedValidations", "count": 5, "period": "1h"},
    ]);
    s.issuer("ca", json!({"server": ca.directory(), "limits": {"rates": rates}})).await?;
    s.issuer_is("ca", reason::ACCOUNT_REGISTERED).await?;
    for number in 0..60 {
        let name = format!("c{number}");
        certify(&s, &name, &s.routed(&name)).await?;
    }
    // Which fifty it is is nobody's promise.
    probe::until("50 certificates, and 10 that wait", PATIENCE, || async {
        let all =
            s.api::<Certificate>().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let count = |is: &dyn Fn(&Certificate) -> bool| all.items.iter().filter(|one| is(one)).count();
        let issued = count(&|one| condition(one, reason::READY).is_some_and(|ready| ready.status == "True"));
        let waiting = count(&|one| {
            condition(one, reason::ISSUING).is_some_and(|why| why.reason == reason::RATE_LIMITED)
        });
        if (issued, waiting) == (50, 10) { Ok(()) } else { Err(format!("{issued} issued, {waiting} wait")) }
    })
    .await?;
    let refused = ca.asked().into_iter().filter(|asked| asked.status == Some(429)).count();
    assert_eq!((refused, ca.orders().len()), (0, 50));
    assert_eq!(ca.violations(), Vec::<String>::new());

    // Its own count is full: had Waxwing asked for one more, it would have said so.
    let rates = json!([{"scope": "RegisteredDomain", "count": 100, "period": "168h"}]);
    s.issuer("ca", json!({"server": ca.directory(), "limits": {"rates": rates}})).await?;
    probe::until("a refusal of the CA", PATIENCE, || async {
        let asked = ca.asked();
        let refused = asked.iter().any(|asked| asked.kind == Kind::NewOrder && asked.status == Some(429));
        if refused { Ok(()) } else { Err("none yet".to_owned()) }
    })
    .await?;
    delete_all(&s).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn one_that_waits_for_its_turn_is_tried_at_once_when_that_is_asked_for() -> Result<(), Error> {
    let (stage, _turn) = alone().await?;
    let s = stage.scenario("turns").await?;
    let behaviour = Behaviour { validation: Validation::Valid, ..Behaviour::default() };
    let ca = FaultCa::start(s.lab().authority(), behaviour)?;
    s.issuer("ca", json!({"server": ca.directory()})).await?;
    s.issuer_is("ca", reason::ACCOUNT_REGISTERED).await?;
    // They fail once, and then hang: more than are tried at once of those that have failed.
    let mut hanging = Vec::new();
    for number in 0..120 {
        let name = format!("c{number}");
        let host = s.routed(&name);
        ca.play(Rule::new(Kind::NewOrder, Play::Html(200)).name(&host).times(1));
        hanging.push((host.clone(), ca.play(Rule::new(Kind::NewOrder, Play::Hang).name(&host))));
        certify(&s, &name, &host).await?;
    }
    let waits = probe::until("a Certificate that waits for its turn", PATIENCE, || async {
        let all =
            s.api::<Certificate>().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let says = |one: &Certificate| {
            condition(one, reason::ISSUING).is_some_and(|why| why.message.contains("its turn"))
        };
        all.items.iter().find(|one| says(one)).map(ResourceExt::name_any).ok_or("none yet".to_owned())
    })
    .await?;

    let host = s.routed(&waits);
    for (_, rule) in hanging.iter().filter(|(other, _)| *other == host) {
        ca.stop(*rule);
    }
    let now = Timestamp::now().to_string();
    let patch = Patch::Merge(json!({"metadata": {"annotations": {labels::RENEW: now}}}));
    let patched = s.api::<Certificate>().patch(&waits, &PatchParams::default(), &patch).await;
    patched.map_err(Error::kube(|| "asking for a certificate"))?;
    s.ready(&waits).await?;
    // Four hang at once, for half a minute: in the line it would have been the hundredth.
    let asked = ca.asked();
    let orders: Vec<_> = asked.iter().filter(|asked| asked.kind == Kind::NewOrder).collect();
    let before = orders.iter().rposition(|asked| asked.names == [host.clone()]).unwrap_or_default();
    assert!((120..180).contains(&before), "{before} orders were asked for before it");

    delete_all(&s).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_restart_in_the_middle_of_back_off_changes_no_next_attempt() -> Result<(), Error> {
    let (stage, _turn) = alone().await?;
    let s = stage.scenario("back-off").await?;
    issuer(&s, json!([{"scope": "FailedValidations", "count": 5, "period": "1h"}])).await?;
    let host = s.name("shop");
    s.resolve(&host, &[SILENT_ADDRESS]).await?;
    certify(&s, "shop", &host).await?;
    let before = s.stopped("shop", reason::BACKING_OFF).await?.certificate;
    let scopes: Vec<_> = limits_used(&before).into_iter().map(|one| one.scopes).collect();
    assert_eq!(scopes, [[RateScope::FailedValidations]]);

    stage.operator().kill();
    s.start_again().await?;
    // Looked at together with it.
    certify(&s, "other", &s.routed("other")).await?;
    s.ready("other").await?;
    let after = s.get::<Certificate>("shop").await?;
    assert_eq!(after.status, before.status);
    let next = after.status.unwrap_or_default().next_attempt_time;
    assert!(next.is_some_and(|next| next.0 > Timestamp::now()), "the test itself took too long");
    assert_eq!(new_orders(&s, "shop"), 1);
    s.delete::<Certificate>("shop").await?;
    s.nothing_left().await
}

async fn issuer(s: &Scenario<'_>, rates: Value) -> Result<(), Error> {
    s.issuer("ca", json!({"limits": {"rates": rates}})).await?;
    s.issuer_is("ca", reason::ACCOUNT_REGISTERED).await.map(|_| ())
}

async fn certify(s: &Scenario<'_>, name: &str, host: &str) -> Result<Certificate, Error> {
    s.certify(name, spec(host, json!({}))).await
}

async fn delete_all(s: &Scenario<'_>) -> Result<(), Error> {
    let (how, which) = (DeleteParams::default(), ListParams::default());
    let deleted = s.api::<Certificate>().delete_collection(&how, &which).await;
    deleted.map(|_| ()).map_err(Error::kube(|| "deleting the Certificates"))
}

/// Waits until a Certificate waits for a limit, for its spec as it is now, and says these words. Gives the message.
async fn limited(s: &Scenario<'_>, name: &str, words: &str) -> Result<String, Error> {
    s.until(s.api::<Certificate>(), name, |certificate| {
        let certificate = certificate.ok_or("there is none")?;
        let issuing = condition(certificate, reason::ISSUING).ok_or("no condition Issuing")?;
        let current = issuing.observed_generation == certificate.metadata.generation;
        if current && issuing.reason == reason::RATE_LIMITED && issuing.message.contains(words) {
            Ok(issuing.message.clone())
        } else {
            Err(format!("{}: {}", issuing.reason, issuing.message))
        }
    })
    .await
}

fn spec(host: &str, more: Value) -> Value {
    let mut spec = json!({"dnsNames": [host], "issuerRef": {"name": "ca"}});
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    spec
}

fn limits_used(certificate: &Certificate) -> Vec<LimitUse> {
    let status = certificate.status.clone().unwrap_or_default();
    status.acme.map(|acme| acme.limits_used).unwrap_or_default()
}

fn new_orders(s: &Scenario<'_>, certificate: &str) -> usize {
    s.requests(certificate).into_iter().filter(|url| url.ends_with("/new-order")).count()
}
