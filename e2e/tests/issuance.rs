//! The main path: from an Issuer and a Certificate to HTTPS, on real parts.

use std::time::Duration;

use e2e::{
    Error,
    lab::{
        Parts, PebbleOptions, TraefikOptions,
        scenario::{Answer, Limits, Scenario, Stage, Web},
    },
    probe,
    sandbox::SILENT_ADDRESS,
};
use k8s_openapi::api::{core::v1::Secret, networking::v1::Ingress};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use waxwing_api::{Certificate, CertificateStatus, Issuer, IssuerKind, labels, reason};

/// What one issuance may cost: the order Secret twice, the target Secret, a route twice, the status, an
/// Event; and the engine's requests with a few polls.
const ONE: Limits = Limits { writes: 10, requests: 16 };

/// What a Certificate that is kept as it stands may cost: its status and an Event.
const KEPT: Limits = Limits { writes: 2, requests: 0 };

/// The tests share one lab. Each has a namespace and names of its own.
async fn scenario(name: &str) -> Result<Scenario<'static>, Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    // As its Helm chart sets it up: whatever comes in by HTTPS has TLS.
    let arguments = vec!["--entryPoints.websecure.http.tls=true".to_owned()];
    let parts = Parts {
        pebble: Some(PebbleOptions::default()),
        step_ca: true,
        traefik: Some(TraefikOptions { arguments, ..TraefikOptions::default() }),
        ..Parts::default()
    };
    STAGE.get_or_try_init(|| Stage::start("issuance", parts)).await?.scenario(name).await
}

fn pebble() -> Value {
    json!({"name": "pebble", "kind": "ClusterIssuer"})
}

#[tokio::test]
async fn a_certificate_serves_https_through_traefik() -> Result<(), Error> {
    let s = scenario("https").await?;
    let host = s.name("shop");
    let app = Web::http(Answer::text("the app")).await?;
    s.route("shop", "traefik", &host, "/", &app, Some("shop-tls")).await?;
    // Without a profile Pebble takes any.
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": pebble(), "profile": "default"})).await?;

    let certificate = s.ready("shop").await?;
    s.told("Certificate", "shop", "Normal", reason::ISSUED, "").await?;
    let pair = s.pair("shop-tls").await?;
    assert_eq!(pair.kind, "kubernetes.io/tls");
    assert_eq!(pair.names()?, [host.as_str()]);
    pair.serves(&s.roots().await?, &[&host])?;
    assert!(pair.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"), "PKCS#8 by default");
    assert_eq!(pair.key_bits()?, 256);

    let status = certificate.status.clone().unwrap_or_default();
    assert_eq!(status.serial_number, Some(pair.serial()?));
    assert_eq!(status.revision, Some(1));
    assert_eq!((status.failed_issuance_attempts, status.next_attempt_time.clone()), (None, None));
    let by = status.issuer_ref.clone().unwrap_or_default();
    assert_eq!((by.name.as_str(), by.kind), ("pebble", IssuerKind::ClusterIssuer));
    assert_two_thirds(&status);
    for (key, value) in [
        (labels::CERTIFICATE_NAME, "shop"),
        (labels::ISSUER_NAME, "pebble"),
        (labels::ISSUER_KIND, "ClusterIssuer"),
        (labels::ISSUER_GROUP, "waxwing.dev"),
        (labels::ALT_NAMES, &host),
    ] {
        assert_eq!(pair.annotations.get(key).map(String::as_str), Some(value), "{key}");
    }

    let http = s.lab().http().await?;
    let url = format!("https://{host}/");
    let body = probe::until("the app over HTTPS", Duration::from_secs(20), || async {
        http.get(&url).await?.ok("the app")
    });
    assert_eq!(body.await?, "the app");

    // Counted until the routes are swept.
    s.nothing_left().await?;
    s.within("shop", ONE)
}

#[tokio::test]
async fn an_issuer_serves_its_namespace() -> Result<(), Error> {
    let s = scenario("issuer").await?;
    s.issuer("own", json!({})).await?;
    s.issuer_is("own", reason::ACCOUNT_REGISTERED).await?;
    let account = s.get::<Issuer>("own").await?.status.unwrap_or_default().acme.unwrap_or_default();
    assert!(account.uri.is_some_and(|uri| uri.starts_with("https://")));
    assert_eq!(account.last_registered_email.as_deref(), Some("ops@example.com"));
    let key: Secret = s.get("own-account").await?;
    assert_eq!(key.labels().get(labels::COMPONENT).map(String::as_str), Some(labels::COMPONENT_ACCOUNT));

    let host = s.name("shop");
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": {"name": "own"}})).await?;
    s.ready("shop").await?;
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[host])?;
    s.nothing_left().await
}

#[tokio::test]
async fn an_existing_route_needs_nothing_at_the_edge() -> Result<(), Error> {
    let s = scenario("routed").await?;
    let host = s.routed("shop");
    s.certify("shop", json!({"dnsNames": [host]})).await?;
    s.ready("shop").await?;
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[host])?;
    s.nothing_left().await?;
    let routes = s.writes("shop")?.into_iter().filter(|write| write.resource == "ingresses").count();
    assert_eq!(routes, 0);
    s.calm("shop", Limits { writes: 7, ..ONE }).await
}

#[tokio::test]
async fn another_ca_is_another_issuer() -> Result<(), Error> {
    let s = scenario("other-ca").await?;
    let host = s.routed("shop");
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": pebble()})).await?;
    s.ready("shop").await?;
    let first = s.pair("shop-tls").await?;

    s.certify("shop", json!({"dnsNames": [host]})).await?;
    let certificate = s.ready("shop").await?;
    let second = s.pair("shop-tls").await?;
    assert_ne!(first.serial()?, second.serial()?);
    assert_ne!(first.key_pem, second.key_pem);
    second.serves(&s.roots().await?, &[host])?;
    assert_eq!(second.annotations.get(labels::ISSUER_NAME).map(String::as_str), Some("step-ca"));
    assert_eq!(certificate.status.unwrap_or_default().revision, Some(2));
    s.calm("shop", Limits { writes: 2 * ONE.writes, requests: 2 * ONE.requests }).await
}

#[tokio::test]
async fn several_names_are_proved_at_once() -> Result<(), Error> {
    let s = scenario("names").await?;
    let mut hosts: Vec<String> = ["e", "d", "c", "b"].iter().map(|label| s.name(label)).collect();
    hosts.push(s.routed("a"));
    s.certify("shop", json!({"dnsNames": hosts, "commonName": hosts[0]})).await?;
    s.ready("shop").await?;
    let pair = s.pair("shop-tls").await?;
    pair.serves(&s.roots().await?, &hosts)?;
    hosts.sort();
    assert_eq!(pair.names()?, hosts);
    s.nothing_left().await
}

#[tokio::test]
async fn the_key_is_what_the_spec_asks() -> Result<(), Error> {
    let s = scenario("keys").await?;
    let cases = [
        ("rsa", json!({"algorithm": "RSA", "size": 2048}), 2048, "BEGIN PRIVATE KEY"),
        ("rsa-pkcs1", json!({"algorithm": "RSA", "encoding": "PKCS1"}), 2048, "BEGIN RSA PRIVATE KEY"),
        ("p384", json!({"size": 384}), 384, "BEGIN PRIVATE KEY"),
        ("p256-sec1", json!({"encoding": "PKCS1"}), 256, "BEGIN EC PRIVATE KEY"),
    ];
    for (name, key, _, _) in &cases {
        s.certify(name, json!({"dnsNames": [s.routed(name)], "privateKey": key})).await?;
    }
    let roots = s.roots().await?;
    for (name, _, bits, header) in cases {
        s.ready(name).await?;
        let pair = s.pair(&format!("{name}-tls")).await?;
        pair.serves(&roots, &[s.routed(name)])?;
        assert_eq!(pair.key_bits()?, bits, "{name}");
        assert!(pair.key_pem.contains(header), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_never_rotated_stays() -> Result<(), Error> {
    let s = scenario("rotation").await?;
    let keep = json!({"rotationPolicy": "Never"});
    s.certify("shop", json!({"dnsNames": [s.routed("a")], "privateKey": keep})).await?;
    s.ready("shop").await?;
    let first = s.pair("shop-tls").await?;
    let names = [s.routed("a"), s.routed("b")];
    s.certify("shop", json!({"dnsNames": names, "privateKey": keep})).await?;
    s.ready("shop").await?;
    let second = s.pair("shop-tls").await?;
    second.serves(&s.roots().await?, &names)?;
    assert_ne!(first.serial()?, second.serial()?);
    assert_eq!(first.key_pem, second.key_pem);
    Ok(())
}

#[tokio::test]
async fn a_profile_is_asked_for() -> Result<(), Error> {
    let s = scenario("profile").await?;
    s.certify(
        "short",
        json!({"dnsNames": [s.routed("short")], "issuerRef": pebble(), "profile": "shortlived"}),
    )
    .await?;
    let status = s.ready("short").await?.status.unwrap_or_default();
    let lifetime = s.pair("short-tls").await?.lifetime()?;
    assert!(lifetime <= 6 * 24 * 3600, "{lifetime}");
    let (from, renew) = (seconds(status.not_before.as_ref()), seconds(status.renewal_time.as_ref()));
    assert!((renew - from) * 2 <= lifetime + 2 * 3600, "half of a short lifetime");
    Ok(())
}

#[tokio::test]
async fn a_valid_pair_is_kept() -> Result<(), Error> {
    let s = scenario("kept").await?;
    let host = s.routed("shop");
    let spec = json!({"dnsNames": [host]});
    s.certify("shop", spec.clone()).await?;
    s.ready("shop").await?;
    let pair = s.pair("shop-tls").await?;

    // The Secret stays when the Certificate goes, and serves the one that comes after.
    s.delete::<Certificate>("shop").await?;
    s.nothing_left().await?;
    let asked = s.requests("shop").len();
    let again = s.certify("shop", spec).await?;
    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!(status.serial_number, Some(pair.serial()?));
    assert_eq!(s.requests("shop").len(), asked, "the CA was not asked again");
    let own =
        |write: &e2e::lab::Write| write.name == labels::order_secret_name(&again.uid().unwrap_or_default());
    assert_eq!(s.writes("shop")?.iter().filter(|write| own(write)).count(), 0);

    // One that came from cert-manager, too.
    let copy = s
        .secret("moved-tls", "kubernetes.io/tls", &[("tls.crt", &pair.chain_pem), ("tls.key", &pair.key_pem)])
        .await?;
    assert_eq!(copy.annotations().len(), 0);
    s.annotate("moved-tls", labels::CERT_MANAGER_CERTIFICATE_NAME, Some("moved")).await?;
    s.certify("moved", json!({"dnsNames": [host]})).await?;
    s.ready("moved").await?;
    assert_eq!(s.pair("moved-tls").await?.key_pem, pair.key_pem);
    s.calm("moved", Limits { writes: KEPT.writes + 1, ..KEPT }).await
}

#[tokio::test]
async fn a_secret_is_taken_over_once_its_owner_says_so() -> Result<(), Error> {
    let s = scenario("adopt").await?;
    let host = s.routed("shop");
    s.secret("shop-tls", "kubernetes.io/tls", &[("tls.crt", "somebody's"), ("tls.key", "somebody's")])
        .await?;
    s.certify("shop", json!({"dnsNames": [host]})).await?;
    let stopped = s.stopped("shop", reason::SECRET_NOT_OWNED).await?;
    assert!(stopped.message.contains("waxwing.dev/adopt=true"), "{}", stopped.message);

    s.annotate("shop-tls", labels::ADOPT, Some("true")).await?;
    // A Secret that isn't Waxwing's isn't watched: a change of the Certificate brings the look.
    s.certify("shop", json!({"dnsNames": [host], "renewBefore": "720h"})).await?;
    s.ready("shop").await?;
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[host])
}

#[tokio::test]
async fn the_secret_follows_its_template() -> Result<(), Error> {
    let s = scenario("template").await?;
    let dns_names = json!([s.routed("shop")]);
    let template = |template: Value| json!({"dnsNames": dns_names, "secretTemplate": template});
    s.certify("shop", template(json!({"annotations": {"a": "1", "b": "1"}, "labels": {"tier": "web"}})))
        .await?;
    s.ready("shop").await?;
    let first = s.pair("shop-tls").await?;
    assert_eq!(first.annotations.get("a").map(String::as_str), Some("1"));
    assert_eq!(first.labels.get("tier").map(String::as_str), Some("web"));
    s.annotate("shop-tls", "somebody", Some("else")).await?;

    s.certify("shop", template(json!({"annotations": {"b": "2"}}))).await?;
    s.until(s.api::<Secret>(), "shop-tls", |secret| {
        let secret = secret.ok_or("there is none")?;
        let (annotations, labels) = (secret.annotations(), secret.labels());
        let followed = !annotations.contains_key("a")
            && annotations.get("b").is_some_and(|b| b == "2")
            && !labels.contains_key("tier");
        if followed { Ok(()) } else { Err(format!("{annotations:?} {labels:?}")) }
    })
    .await?;
    let second = s.pair("shop-tls").await?;
    assert_eq!(
        second.annotations.get("somebody").map(String::as_str),
        Some("else"),
        "others' are left alone"
    );
    assert_eq!(second.serial()?, first.serial()?, "and nothing is issued for it");
    s.ready("shop").await?;
    s.calm("shop", Limits { writes: ONE.writes + 2, ..ONE }).await
}

#[tokio::test]
async fn a_secret_that_is_deleted_or_stripped_is_made_whole() -> Result<(), Error> {
    let s = scenario("whole").await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")]})).await?;
    s.ready("shop").await?;
    let first = s.pair("shop-tls").await?;

    s.annotate("shop-tls", labels::ISSUER_NAME, None).await?;
    s.until(s.api::<Secret>(), "shop-tls", |secret| {
        let there = secret.is_some_and(|secret| secret.annotations().contains_key(labels::ISSUER_NAME));
        if there { Ok(()) } else { Err("the annotation is missing".to_owned()) }
    })
    .await?;
    assert_eq!(s.pair("shop-tls").await?.serial()?, first.serial()?);

    s.api::<Secret>()
        .delete("shop-tls", &kube::api::DeleteParams::default())
        .await
        .map_err(Error::kube(|| "deleting"))?;
    s.until(s.api::<Secret>(), "shop-tls", |secret| secret.map(|_| ()).ok_or("there is none".to_owned()))
        .await?;
    let status = s.ready("shop").await?.status.unwrap_or_default();
    let second = s.pair("shop-tls").await?;
    assert_ne!(first.serial()?, second.serial()?);
    assert_eq!(status.serial_number, Some(second.serial()?));
    Ok(())
}

#[tokio::test]
async fn a_changed_spec_is_issued_anew() -> Result<(), Error> {
    let s = scenario("changed").await?;
    let (a, b) = (s.name("a"), s.name("b"));
    s.certify("shop", json!({"dnsNames": [a]})).await?;
    s.ready("shop").await?;
    let first = s.pair("shop-tls").await?;

    s.certify("shop", json!({"dnsNames": [a, b]})).await?;
    let certificate = s.ready("shop").await?;
    let second = s.pair("shop-tls").await?;
    second.serves(&s.roots().await?, &[&a, &b])?;
    assert_ne!(first.key_pem, second.key_pem);
    assert_eq!(certificate.status.unwrap_or_default().revision, Some(2));

    // The order of the names is no change.
    s.certify("shop", json!({"dnsNames": [b, a]})).await?;
    s.ready("shop").await?;
    assert_eq!(s.pair("shop-tls").await?.serial()?, second.serial()?);
    s.nothing_left().await
}

#[tokio::test]
async fn a_spec_that_changes_mid_issuance_starts_afresh() -> Result<(), Error> {
    let s = scenario("midway").await?;
    let (stuck, good) = (s.name("stuck"), s.routed("good"));
    s.resolve(&stuck, &[SILENT_ADDRESS]).await?;
    let certificate = s.certify("shop", json!({"dnsNames": [stuck]})).await?;
    s.ordered(&certificate).await?;
    s.certify("shop", json!({"dnsNames": [good]})).await?;
    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None);
    assert_eq!(s.pair("shop-tls").await?.names()?, [good]);
    s.nothing_left().await
}

#[tokio::test]
async fn a_certificate_deleted_mid_issuance_leaves_nothing() -> Result<(), Error> {
    let s = scenario("deleted").await?;
    let stuck = s.name("stuck");
    s.resolve(&stuck, &[SILENT_ADDRESS]).await?;
    let certificate = s.certify("shop", json!({"dnsNames": [stuck]})).await?;
    s.ordered(&certificate).await?;
    s.delete::<Certificate>("shop").await?;
    s.nothing_left().await?;
    assert!(s.api::<Secret>().get_opt("shop-tls").await.map_err(Error::kube(|| "reading"))?.is_none());
    s.calm("shop", ONE).await
}

#[tokio::test]
async fn a_certificate_made_again_mid_issuance_is_issued() -> Result<(), Error> {
    let s = scenario("again").await?;
    let host = s.name("shop");
    s.resolve(&host, &[SILENT_ADDRESS]).await?;
    let first = s.certify("shop", json!({"dnsNames": [host]})).await?;
    s.ordered(&first).await?;
    s.lab().dns().reset(&host).await?;
    s.delete::<Certificate>("shop").await?;
    let second = s.certify("shop", json!({"dnsNames": [host]})).await?;
    assert_ne!(first.uid(), second.uid());
    s.ready("shop").await?;
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[host])?;
    s.nothing_left().await?;
    s.within("shop", Limits { writes: 2 * ONE.writes, requests: 2 * ONE.requests })
}

#[tokio::test]
async fn an_annotated_ingress_has_its_certificates() -> Result<(), Error> {
    let s = scenario("annotated").await?;
    let (a, b) = (s.name("a"), s.name("b"));
    let app = Web::http(Answer::text("the app")).await?;
    s.route("app", "traefik", &a, "/", &app, None).await?;
    let ingress = |issuer: &str, tls: Value| {
        let backend = json!({"service": {"name": "app", "port": {"number": 80}}});
        json!({
            "metadata": {"annotations": {labels::INGRESS_CLUSTER_ISSUER: issuer}},
            "spec": {
                "ingressClassName": "traefik",
                "tls": tls,
                "rules": [{"host": a, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
            },
        })
    };
    let one = |secret: &str, host: &str| json!({"hosts": [host], "secretName": secret});

    s.apply::<Ingress>("app", ingress("step-ca", json!([one("a-tls", &a), one("b-tls", &b)]))).await?;
    for (secret, host) in [("a-tls", &a), ("b-tls", &b)] {
        let certificate = s.ready(secret).await?;
        let owner = certificate.owner_references().first().cloned().unwrap_or_default();
        assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Ingress", "app"));
        s.pair(secret).await?.serves(&s.roots().await?, &[host])?;
    }
    let url = format!("https://{a}/");
    let http = s.lab().http().await?;
    probe::until("the app over HTTPS", Duration::from_secs(20), || async {
        http.get(&url).await?.ok("the app")
    })
    .await?;

    // Another issuer, and one entry less.
    s.apply::<Ingress>("app", ingress("pebble", json!([one("a-tls", &a)]))).await?;
    s.gone::<Certificate>("b-tls").await?;
    s.until(s.api::<Certificate>(), "a-tls", |certificate| {
        let by = certificate
            .and_then(|certificate| certificate.status.as_ref()?.issuer_ref.clone())
            .unwrap_or_default();
        if by.name == "pebble" { Ok(()) } else { Err(format!("{by:?}")) }
    })
    .await?;
    s.pair("b-tls").await?;

    // The Certificate goes with the Ingress, the Secret doesn't.
    s.delete::<Ingress>("app").await?;
    s.gone::<Certificate>("a-tls").await?;
    s.pair("a-tls").await?;
    s.nothing_left().await
}

#[tokio::test]
async fn an_issuer_may_give_away_a_neighbours_name() -> Result<(), Error> {
    let (neighbour, s) = (scenario("landlord").await?, scenario("lodger").await?);
    let host = neighbour.name("shop");
    let app = Web::http(Answer::text("the neighbour's")).await?;
    neighbour.route("shop", "traefik", &host, "/", &app, None).await?;
    let step_ca = s.cluster_issuers().get("step-ca").await.map_err(Error::kube(|| "reading step-ca"))?;
    let namespaces = json!({"matchLabels": {"kubernetes.io/metadata.name": s.namespace()}});
    let issuer = json!({
        "apiVersion": "waxwing.dev/v1",
        "kind": "ClusterIssuer",
        "metadata": {"name": s.namespace()},
        "spec": {"acme": step_ca.spec.acme, "allow": [{"namespaceSelector": namespaces, "dnsNames": [host]}]},
    });
    s.lab().apply(s.namespace(), &issuer.to_string()).await?;
    let by = json!({"name": s.namespace(), "kind": "ClusterIssuer"});
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": by})).await?;
    s.ready("shop").await?;
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[&host])?;

    // To these namespaces alone.
    let third = scenario("third").await?;
    third.certify("shop", json!({"dnsNames": [host], "issuerRef": by})).await?;
    third.stopped("shop", reason::NOT_ALLOWED).await.map(|_| ())
}

#[tokio::test]
async fn private_keys_are_in_secrets_alone() -> Result<(), Error> {
    let s = scenario("secrecy").await?;
    s.issuer("own", json!({})).await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")], "issuerRef": {"name": "own"}})).await?;
    s.ready("shop").await?;
    let account: Secret = s.get("own-account").await?;
    let account = account.data.unwrap_or_default().remove("tls.key").unwrap_or_default();
    let keys = s.pair("shop-tls").await?.key_pem + &String::from_utf8_lossy(&account.0);
    let lines: Vec<&str> = keys.lines().filter(|line| !line.starts_with("-----")).collect();
    assert!(lines.len() >= 4, "two keys of two lines or more");

    let metrics = s.lab().http().await?.get("http://127.0.0.1:9402/metrics").await?.ok("the metrics")?;
    let certificate =
        serde_json::to_string(&s.get::<Certificate>("shop").await?).map_err(Error::invalid(|| "it"))?;
    let events = format!("{:?}", s.events("Certificate", "shop").await?);
    for (place, text) in [
        ("log", s.operator().process().log()),
        ("metrics", metrics),
        ("status", certificate),
        ("Events", events),
    ] {
        assert!(
            !text.contains("PRIVATE KEY") && !lines.iter().any(|line| text.contains(line)),
            "a key is in the {place}"
        );
    }
    Ok(())
}

/// Renewal is due when two thirds of the lifetime are over, give or take the spread.
fn assert_two_thirds(status: &CertificateStatus) {
    let (from, to) = (seconds(status.not_before.as_ref()), seconds(status.not_after.as_ref()));
    let share = (seconds(status.renewal_time.as_ref()) - from) * 100 / (to - from);
    assert!((60..=70).contains(&share), "renewed after {share} % of the lifetime");
}

fn seconds(time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> i64 {
    time.map(|time| time.0.as_second()).unwrap_or_default()
}
