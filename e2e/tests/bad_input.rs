//! Bad input, one test each: a clear condition and an Event, nothing lost, nothing hot-looping.
//!
//! An edge that redirects and a CA with bad nonces are in `difficult_parts.rs`; missing permissions and
//! parts that stop are in `outages.rs`; a Certificate made again mid-issuance is in `issuance.rs`.

use std::time::Duration;

use e2e::{
    Error,
    lab::{
        Parts, PebbleOptions, TraefikOptions,
        scenario::{Answer, Limits, Scenario, Stage, Web, condition},
    },
    sandbox::SILENT_ADDRESS,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{core::v1::Secret, networking::v1::Ingress},
};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use waxwing_api::{Certificate, Issuer, labels, reason};

/// What a refusal may cost: the status and an Event, once more where the first look came too early.
const REFUSED: Limits = Limits { writes: 4, requests: 0 };

/// What a failed attempt may cost: what an issuance does, without the target Secret.
const ATTEMPT: Limits = Limits { writes: 10, requests: 16 };

/// The tests share one lab. Each has a namespace and names of its own.
async fn scenario(name: &str) -> Result<Scenario<'static>, Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    let parts = Parts {
        pebble: Some(PebbleOptions::default()),
        step_ca: true,
        traefik: Some(TraefikOptions {
            throttle: Some(Duration::from_millis(100)),
            ..TraefikOptions::default()
        }),
        ..Parts::default()
    };
    // Most names here never answer, and the edge is quick to learn of those that do.
    let environment = [("WAXWING_SELF_CHECK_TIMEOUT", "4s")];
    STAGE.get_or_try_init(|| Stage::start_with("bad-input", parts, &environment)).await?.scenario(name).await
}

fn pebble() -> Value {
    json!({"name": "pebble", "kind": "ClusterIssuer"})
}

#[tokio::test]
async fn no_such_issuer() -> Result<(), Error> {
    let s = scenario("no-issuer").await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")], "issuerRef": {"name": "misspelt"}})).await?;
    let stopped = s.stopped("shop", reason::ISSUER_NOT_FOUND).await?;
    has(&stopped.message, &["no Issuer", "misspelt", "issuerRef"]);
    assert_never_attempted(&stopped.certificate);
    s.calm("shop", REFUSED).await?;

    s.issuer("misspelt", json!({})).await?;
    s.ready("shop").await?;
    s.nothing_left().await
}

#[tokio::test]
async fn an_issuer_that_is_not_ready() -> Result<(), Error> {
    let s = scenario("not-ready").await?;
    s.issuer("ca", json!({"disableAccountKeyGeneration": true})).await?;
    let message = s.issuer_is("ca", reason::KEY_MISSING).await?;
    has(&message, &["ca-account", "create it"]);
    s.certify("shop", json!({"dnsNames": [s.routed("shop")], "issuerRef": {"name": "ca"}})).await?;
    let stopped = s.stopped_saying("shop", reason::ISSUER_NOT_READY, reason::KEY_MISSING).await?;
    has(&stopped.message, &["is not ready", "ca-account"]);
    assert_never_attempted(&stopped.certificate);
    s.calm("shop", REFUSED).await?;

    // The Certificate goes on by itself once its issuer does.
    s.issuer("ca", json!({})).await?;
    s.issuer_is("ca", reason::ACCOUNT_REGISTERED).await?;
    s.ready("shop").await.map(|_| ())
}

#[tokio::test]
async fn an_account_key_that_is_none() -> Result<(), Error> {
    let s = scenario("bad-key").await?;
    s.secret("ca-account", "Opaque", &[("tls.key", "not a key")]).await?;
    s.issuer("ca", json!({})).await?;
    let message = s.issuer_is("ca", reason::INVALID_KEY).await?;
    has(&message, &["tls.key", "ca-account", "ECDSA P-256"]);
    let kept: Secret = s.get("ca-account").await?;
    let ByteString(key) = kept.data.unwrap_or_default().remove("tls.key").unwrap_or_default();
    assert_eq!(key, b"not a key", "a key that exists is never overwritten");
    Ok(())
}

#[tokio::test]
async fn a_directory_that_is_unreachable() -> Result<(), Error> {
    let s = scenario("unreachable").await?;
    let server = format!("https://{SILENT_ADDRESS}:444/dir");
    let message = unreachable(&s, &server, json!({})).await?;
    has(&message, &[&server, "refused"]);

    // Corrected, it works at once.
    s.issuer("ca", json!({})).await?;
    s.ready("shop").await.map(|_| ())
}

#[tokio::test]
async fn a_directory_that_answers_html() -> Result<(), Error> {
    let s = scenario("html").await?;
    let pair = s.lab().authority().server(&["localhost", "10.99.0.1"])?;
    let page = Web::https(&pair, Answer::html("<!doctype html><title>Welcome</title>")).await?;
    let message = unreachable(&s, &format!("https://{}/dir", page.address()), json!({})).await?;
    has(&message, &["ACME", "directory"]);
    assert!(!message.contains("<title>"), "bodies are not quoted: {message}");
    Ok(())
}

#[tokio::test]
async fn a_directory_with_an_unknown_ca() -> Result<(), Error> {
    let s = scenario("unknown-ca").await?;
    // A server that nobody else asks, at a URL that no other test has.
    let pair = s.lab().authority().server(&["localhost", "10.99.0.1"])?;
    let stranger = Web::https(&pair, Answer::text("")).await?;
    let server = format!("https://{}/unknown", stranger.address());
    let message = unreachable(&s, &server, json!({"caBundle": null})).await?;
    has(&message, &["authority", "caBundle"]);
    Ok(())
}

#[tokio::test]
async fn a_directory_that_times_out() -> Result<(), Error> {
    let s = scenario("time-out").await?;
    let silent = Web::silent().await?;
    let server = format!("https://{}/dir", silent.address());
    let message = unreachable(&s, &server, json!({})).await?;
    has(&message, &[&server, "no answer"]);
    Ok(())
}

#[tokio::test]
async fn an_account_that_is_refused() -> Result<(), Error> {
    let s = scenario("refused").await?;
    s.issuer("ca", json!({"email": "ops..team@example.com"})).await?;
    let message = s.issuer_is("ca", reason::ACCOUNT_REFUSED).await?;
    has(&message, &["invalidContact", "ops..team@example.com"]);
    s.certify("shop", json!({"dnsNames": [s.routed("shop")], "issuerRef": {"name": "ca"}})).await?;
    s.stopped("shop", reason::ISSUER_NOT_READY).await?;
    s.calm("shop", REFUSED).await?;

    s.issuer("ca", json!({})).await?;
    s.ready("shop").await.map(|_| ())
}

#[tokio::test]
async fn a_name_that_the_ca_rejects() -> Result<(), Error> {
    let s = scenario("rejected").await?;
    let (bad, good) = (format!("{}.blocked.test", s.namespace()), s.routed("shop"));
    s.certify("shop", json!({"dnsNames": [good, bad], "issuerRef": pebble()})).await?;
    let stopped = s.stopped("shop", reason::FAILED).await?;
    has(&stopped.message, &["rejectedIdentifier", &bad, "change the name"]);
    // Nothing but a change will help, so the next attempt is far away.
    assert_attempts(&stopped.certificate, 1, SignedDuration::from_hours(12));
    s.calm("shop", ATTEMPT).await?;

    s.certify("shop", json!({"dnsNames": [good], "issuerRef": pebble()})).await?;
    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!((status.failed_issuance_attempts, status.next_attempt_time), (None, None));
    s.nothing_left().await
}

#[tokio::test]
async fn a_name_that_resolves_nowhere() -> Result<(), Error> {
    let s = scenario("nowhere").await?;
    let host = s.name("shop");
    s.resolve(&host, &[]).await?;
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": pebble()})).await?;
    let stopped = s.stopped("shop", reason::BACKING_OFF).await?;
    has(&stopped.message, &[&host, "no A or AAAA record", "Point"]);
    assert_attempts(&stopped.certificate, 1, SignedDuration::from_secs(30));
    s.calm("shop", ATTEMPT).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_name_that_resolves_to_the_wrong_host() -> Result<(), Error> {
    let s = scenario("wrong-host").await?;
    let (refuses, else_one) = (s.name("refuses"), s.name("else"));
    // Somebody else's web server, on an address of its own.
    let _somebody = Web::at("127.0.0.77:80", Answer::html("Welcome to nginx!")).await?;
    s.resolve(&refuses, &[SILENT_ADDRESS]).await?;
    s.resolve(&else_one, &["127.0.0.77"]).await?;
    s.certify("refuses", json!({"dnsNames": [refuses], "issuerRef": pebble()})).await?;
    s.certify("else", json!({"dnsNames": [else_one], "issuerRef": pebble()})).await?;

    let stopped = s.stopped("refuses", reason::BACKING_OFF).await?;
    has(&stopped.message, &[&refuses, SILENT_ADDRESS, "port 80", "refused", "Point"]);
    assert_attempts(&stopped.certificate, 1, SignedDuration::from_secs(30));
    let stopped = s.stopped("else", reason::BACKING_OFF).await?;
    has(&stopped.message, &[&else_one, "127.0.0.77", "something else answers"]);
    s.calm("refuses", ATTEMPT).await?;
    s.calm("else", ATTEMPT).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_name_whose_edge_answers_404() -> Result<(), Error> {
    let s = scenario("edge-404").await?;
    let host = s.name("shop");
    // A class that the edge at this address doesn't serve.
    let solvers = json!([{"http01": {"ingress": {"ingressClassName": "elsewhere"}}}]);
    s.issuer("ca", json!({"solvers": solvers})).await?;
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": {"name": "ca"}})).await?;
    let stopped = s.stopped("shop", reason::BACKING_OFF).await?;
    has(&stopped.message, &[&host, "404", "ingress class"]);
    assert_attempts(&stopped.certificate, 1, SignedDuration::from_secs(30));
    s.calm("shop", ATTEMPT).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_neighbours_name() -> Result<(), Error> {
    let (neighbour, s) = (scenario("neighbour").await?, scenario("tenant").await?);
    let host = neighbour.name("shop");
    let app = Web::http(Answer::text("the neighbour's")).await?;
    neighbour.route("shop", "traefik", &host, "/", &app, None).await?;
    s.certify("shop", json!({"dnsNames": [s.routed("mine"), host]})).await?;
    let stopped = s.stopped("shop", reason::NAME_OWNED_ELSEWHERE).await?;
    has(&stopped.message, &[&host, neighbour.namespace(), "spec.allow"]);
    assert_never_attempted(&stopped.certificate);
    s.calm("shop", REFUSED).await?;

    // The name becomes free.
    neighbour.delete::<Ingress>("shop").await?;
    s.ready("shop").await.map(|_| ())
}

#[tokio::test]
async fn a_name_that_the_issuer_does_not_allow() -> Result<(), Error> {
    let s = scenario("allow").await?;
    let host = s.routed("shop");
    let issuer: Issuer = s.issuer("ca", json!({})).await?;
    let mut spec = serde_json::to_value(&issuer.spec).map_err(Error::invalid(|| "an issuer"))?;
    spec["allow"] = json!([{"dnsNames": ["*.example.test"]}]);
    s.apply::<Issuer>("ca", json!({"spec": spec})).await?;
    s.issuer_is("ca", reason::ACCOUNT_REGISTERED).await?;
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": {"name": "ca"}})).await?;
    let stopped = s.stopped("shop", reason::NOT_ALLOWED).await?;
    has(&stopped.message, &[&host, "allow"]);
    s.calm("shop", REFUSED).await?;

    spec["allow"] = json!([{"dnsNames": [host]}]);
    s.apply::<Issuer>("ca", json!({"spec": spec})).await?;
    s.ready("shop").await.map(|_| ())
}

#[tokio::test]
async fn an_ingress_that_contradicts_itself() -> Result<(), Error> {
    let s = scenario("ingress").await?;
    let host = s.name("shop");
    let tls = json!([{"hosts": [host], "secretName": "shop-tls"}]);
    let annotations = json!({labels::INGRESS_ISSUER: "one", labels::INGRESS_CLUSTER_ISSUER: "other"});
    let rules = json!([{"host": host}]);
    s.apply::<Ingress>(
        "shop",
        json!({"metadata": {"annotations": annotations}, "spec": {"tls": tls, "rules": rules}}),
    )
    .await?;
    s.told("Ingress", "shop", "Warning", "BadConfig", "").await?;

    // A Certificate of that name which the Ingress didn't make is left alone.
    s.certify("mine-tls", json!({"dnsNames": [s.routed("mine")], "secretName": "mine-tls"})).await?;
    let before = s.ready("mine-tls").await?;
    let tls = json!([{"hosts": [host], "secretName": "mine-tls"}]);
    let annotations = json!({labels::INGRESS_CLUSTER_ISSUER: "step-ca"});
    s.apply::<Ingress>(
        "mine",
        json!({"metadata": {"annotations": annotations}, "spec": {"tls": tls, "rules": rules}}),
    )
    .await?;
    s.told("Ingress", "mine", "Warning", "BadConfig", "").await?;
    s.calm("mine-tls", ATTEMPT).await?;
    assert_eq!(s.get::<Certificate>("mine-tls").await?.spec, before.spec);
    assert_eq!(s.certificates().await?, ["mine-tls", "witness-1"]);
    Ok(())
}

#[tokio::test]
async fn a_challenge_that_is_answered_wrongly() -> Result<(), Error> {
    let s = scenario("wrong-answer").await?;
    let host = s.name("shop");
    let other = Web::http(Answer::text("token.of-somebody-else")).await?;
    s.route("other", "traefik", &host, "/.well-known/acme-challenge/", &other, None).await?;
    s.issuer("ca", json!({"solvers": [{"http01": {"existingRoute": {}}}]})).await?;
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": {"name": "ca"}})).await?;
    let stopped = s.stopped("shop", reason::BACKING_OFF).await?;
    has(&stopped.message, &[&host, "something else answers", "/.well-known/acme-challenge/"]);
    assert_attempts(&stopped.certificate, 1, SignedDuration::from_secs(30));
    s.calm("shop", ATTEMPT).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_challenge_that_the_ca_leaves_pending() -> Result<(), Error> {
    let s = scenario("pending").await?;
    let host = s.name("shop");
    s.resolve(&host, &[SILENT_ADDRESS]).await?;
    // step-ca looks, fails, and waits to be told again. It is, a few times.
    s.certify("shop", json!({"dnsNames": [host]})).await?;
    let stopped = s.stopped("shop", reason::BACKING_OFF).await?;
    has(&stopped.message, &[&host, SILENT_ADDRESS, "port 80", "refused"]);
    assert_attempts(&stopped.certificate, 1, SignedDuration::from_secs(30));
    s.calm("shop", Limits { requests: 32, ..ATTEMPT }).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn an_unsupported_key() -> Result<(), Error> {
    let s = scenario("key").await?;
    let spec = |key: Value| json!({"dnsNames": [s.routed("shop")], "issuerRef": pebble(), "privateKey": key});
    // One that there isn't is refused on apply, one that the CA doesn't take by the CA.
    let refused = s.certify("shop", spec(json!({"algorithm": "RSA", "size": 1024}))).await;
    has(&refused.err().map(|error| error.to_string()).unwrap_or_default(), &["2048, 3072 or 4096"]);
    s.certify("shop", spec(json!({"algorithm": "Ed25519"}))).await?;
    let stopped = s.stopped("shop", reason::FAILED).await?;
    has(&stopped.message, &["badCSR", "Choose another private key algorithm"]);
    assert_attempts(&stopped.certificate, 1, SignedDuration::from_hours(12));
    s.calm("shop", ATTEMPT).await?;

    s.certify("shop", spec(json!({"algorithm": "ECDSA"}))).await?;
    s.ready("shop").await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_profile_that_the_ca_does_not_offer() -> Result<(), Error> {
    let s = scenario("no-profile").await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")], "issuerRef": pebble(), "profile": "eternal"}))
        .await?;
    let stopped = s.stopped("shop", reason::FAILED).await?;
    has(&stopped.message, &["eternal", "profile"]);
    assert_attempts(&stopped.certificate, 1, SignedDuration::from_hours(12));
    s.calm("shop", ATTEMPT).await
}

#[tokio::test]
async fn a_wildcard_without_a_solver_for_it() -> Result<(), Error> {
    let s = scenario("wildcard").await?;
    let host = format!("*.{}.test", s.namespace());
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": pebble()})).await?;
    let stopped = s.stopped("shop", reason::FAILED).await?;
    has(&stopped.message, &[&host, "wildcard", "DNS-01"]);
    assert_attempts(&stopped.certificate, 1, SignedDuration::from_hours(12));
    s.calm("shop", ATTEMPT).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_secret_that_is_immutable() -> Result<(), Error> {
    let s = scenario("immutable").await?;
    let mut secret =
        Secret { type_: Some("kubernetes.io/tls".to_owned()), immutable: Some(true), ..Secret::default() };
    secret.metadata.name = Some("shop-tls".to_owned());
    secret.data = Some(["tls.crt", "tls.key"].map(|key| (key.to_owned(), ByteString::default())).into());
    s.create(&secret).await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")]})).await?;
    let stopped = s.stopped("shop", reason::SECRET_UNUSABLE).await?;
    has(&stopped.message, &["shop-tls", "immutable", "delete it"]);
    assert_never_attempted(&stopped.certificate);
    s.calm("shop", REFUSED).await
}

#[tokio::test]
async fn a_secret_of_another_type() -> Result<(), Error> {
    let s = scenario("type").await?;
    s.secret("shop-tls", "Opaque", &[]).await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")]})).await?;
    let stopped = s.stopped("shop", reason::SECRET_UNUSABLE).await?;
    has(&stopped.message, &["shop-tls", "type Opaque", "delete it"]);
    assert_never_attempted(&stopped.certificate);
    s.calm("shop", REFUSED).await
}

#[tokio::test]
async fn a_secret_that_is_not_ours() -> Result<(), Error> {
    let s = scenario("foreign").await?;
    let before = s.secret("shop-tls", "Opaque", &[("password", "somebody's")]).await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")]})).await?;
    let stopped = s.stopped("shop", reason::SECRET_NOT_OWNED).await?;
    has(&stopped.message, &["shop-tls", "choose another secretName", "waxwing.dev/adopt=true"]);
    assert_never_attempted(&stopped.certificate);
    s.calm("shop", REFUSED).await?;
    let after: Secret = s.get("shop-tls").await?;
    assert_eq!(
        (after.resource_version(), after.data),
        (before.resource_version(), before.data),
        "it is left alone"
    );
    Ok(())
}

#[tokio::test]
async fn two_certificates_for_one_secret() -> Result<(), Error> {
    let s = scenario("one-secret").await?;
    let spec = |label: &str| json!({"dnsNames": [s.routed(label)], "secretName": "shared-tls"});
    s.certify("first", spec("first")).await?;
    s.ready("first").await?;
    let pair = s.pair("shared-tls").await?;
    s.certify("second", spec("second")).await?;
    let stopped = s.stopped("second", reason::SECRET_CONFLICT).await?;
    has(&stopped.message, &["first", "shared-tls", "secretName"]);
    assert_never_attempted(&stopped.certificate);
    s.calm("second", Limits { writes: REFUSED.writes + 1, ..REFUSED }).await?;
    assert_eq!(s.pair("shared-tls").await?.serial()?, pair.serial()?);
    s.ready("first").await?;

    // The Secret is the second's when the first is gone.
    s.delete::<Certificate>("first").await?;
    s.ready("second").await?;
    assert_eq!(s.pair("shared-tls").await?.names()?, [s.routed("second")]);
    Ok(())
}

#[tokio::test]
async fn two_certificates_for_the_same_names() -> Result<(), Error> {
    let s = scenario("same-names").await?;
    let names = [s.name("a"), s.routed("b")];
    for name in ["first", "second"] {
        s.certify(name, json!({"dnsNames": names, "issuerRef": pebble()})).await?;
    }
    let roots = s.roots().await?;
    let mut pairs = Vec::new();
    for name in ["first", "second"] {
        s.ready(name).await?;
        let pair = s.pair(&format!("{name}-tls")).await?;
        pair.serves(&roots, &names)?;
        pairs.push(pair);
    }
    assert_ne!(pairs[0].key_pem, pairs[1].key_pem);
    s.nothing_left().await?;
    s.calm("first", ATTEMPT).await?;
    s.calm("second", ATTEMPT).await
}

#[tokio::test]
async fn a_stored_pair_that_is_damaged() -> Result<(), Error> {
    let s = scenario("damaged").await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")]})).await?;
    s.certify("other", json!({"dnsNames": [s.routed("other")]})).await?;
    s.ready("shop").await?;
    s.ready("other").await?;
    let strange = s.pair("other-tls").await?;
    for (key, value) in [
        ("tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("tls.key", &strange.key_pem),
    ] {
        let before = s.pair("shop-tls").await?;
        damage(&s, key, value).await?;
        s.until(s.api::<Secret>(), "shop-tls", |secret| {
            let data =
                secret.and_then(|secret| secret.data.as_ref()?.get(key)).map(|value| value.0.as_slice());
            if data.is_some_and(|data| data != value.as_bytes()) {
                Ok(())
            } else {
                Err(format!("{key} is still damaged"))
            }
        })
        .await?;
        s.ready("shop").await?;
        let after = s.pair("shop-tls").await?;
        after.serves(&s.roots().await?, &[s.routed("shop")])?;
        assert_ne!(after.key_pem, before.key_pem);
    }
    let revision = s.get::<Certificate>("shop").await?.status.unwrap_or_default().revision;
    assert_eq!(revision, Some(3));
    s.calm("shop", Limits { writes: 3 * ATTEMPT.writes, requests: 3 * ATTEMPT.requests }).await
}

#[tokio::test]
async fn a_two_year_old_status_edited_by_hand() -> Result<(), Error> {
    let s = scenario("edited").await?;
    let ago = Timestamp::now() - SignedDuration::from_hours(2 * 365 * 24);
    let ahead = Timestamp::now() + SignedDuration::from_hours(2 * 365 * 24);
    let false_since = |type_: &str, reason: &str| json!({"type": type_, "status": "False", "reason": reason, "message": "", "lastTransitionTime": ago});

    // One that serves goes on serving, and the status says so again.
    s.certify("shop", json!({"dnsNames": [s.routed("shop")]})).await?;
    let before = s.ready("shop").await?.status.unwrap_or_default();
    let asked = s.requests("shop").len();
    let nonsense = json!({
        "conditions": [false_since("Ready", "Expired"), false_since("Issuing", "BackingOff")],
        "notBefore": ago, "notAfter": ago, "renewalTime": ago, "lastFailureTime": ago, "nextAttemptTime": ahead,
        "failedIssuanceAttempts": 2_000_000_000, "serialNumber": "00", "revision": -7,
    });
    s.edit_status("shop", nonsense).await?;
    let after = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!(after.serial_number, before.serial_number);
    assert_eq!(
        (after.not_before, after.not_after, after.renewal_time),
        (before.not_before, before.not_after, before.renewal_time)
    );
    assert_eq!((after.failed_issuance_attempts, after.next_attempt_time), (None, None));
    assert_eq!(s.requests("shop").len(), asked, "nothing was issued for it");

    // One that waits for a time that Waxwing can't have written waits no longer.
    let host = s.name("late");
    s.resolve(&host, &[SILENT_ADDRESS]).await?;
    s.certify("late", json!({"dnsNames": [host], "issuerRef": pebble()})).await?;
    s.stopped("late", reason::BACKING_OFF).await?;
    s.lab().dns().reset(&host).await?;
    s.edit_status("late", json!({"nextAttemptTime": ahead, "failedIssuanceAttempts": 2_000_000_000})).await?;
    s.ready("late").await?;
    s.calm("late", Limits { writes: 2 * ATTEMPT.writes, requests: 2 * ATTEMPT.requests }).await
}

/// An Issuer whose directory can't be had, and a Certificate that waits for it. Gives the Issuer's message.
async fn unreachable(s: &Scenario<'_>, server: &str, acme: Value) -> Result<String, Error> {
    let mut acme = acme;
    acme["server"] = json!(server);
    s.issuer("ca", acme).await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")], "issuerRef": {"name": "ca"}})).await?;
    let message = s.issuer_is("ca", reason::DIRECTORY_UNREACHABLE).await?;
    let stopped = s.stopped_saying("shop", reason::ISSUER_NOT_READY, reason::DIRECTORY_UNREACHABLE).await?;
    assert_never_attempted(&stopped.certificate);
    s.calm("shop", Limits { writes: REFUSED.writes + 2, ..REFUSED }).await?;
    let asked = s.asked(server);
    assert!((1..=4).contains(&asked), "the directory was asked {asked} times");
    Ok(message)
}

/// Writes something else into the Secret `shop-tls`.
async fn damage(s: &Scenario<'_>, key: &str, value: &str) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"data": {key: ByteString(value.as_bytes().to_vec())}}));
    let patched = s.api::<Secret>().patch("shop-tls", &PatchParams::default(), &patch).await;
    patched.map(|_| ()).map_err(Error::kube(|| "damaging the Secret"))
}

/// A message says all of this.
fn has(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

/// No attempt was made, so none has failed.
fn assert_never_attempted(certificate: &Certificate) {
    let status = certificate.status.clone().unwrap_or_default();
    assert_eq!((status.failed_issuance_attempts, status.next_attempt_time), (None, None));
    assert_eq!(status.acme, None, "no order");
    let ready = condition(certificate, reason::READY);
    assert_eq!(ready.map(|ready| ready.status.as_str()), Some("False"));
}

/// So many attempts have failed, and the next begins at least `pause` after the last one.
fn assert_attempts(certificate: &Certificate, failed: i32, pause: SignedDuration) {
    let status = certificate.status.clone().unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, Some(failed));
    let (last, next) = (status.last_failure_time, status.next_attempt_time);
    let (last, next) =
        (last.map_or(Timestamp::MAX, |time| time.0), next.map_or(Timestamp::MIN, |time| time.0));
    assert!(next.duration_since(last) >= pause, "{last} {next}");
}
