//! Parts that are set up to be difficult: an edge that redirects all HTTP to HTTPS, and a CA that refuses
//! half of all nonces and every account that it doesn't know already, and offers several chains.

use std::collections::BTreeMap;

use e2e::{
    Error,
    lab::{
        Parts, PebbleOptions, TraefikOptions,
        scenario::{Limits, Roots, Scenario, Stage},
    },
};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use waxwing_api::{Issuer, reason};

/// The account that the CA knows, and its MAC key.
const KEY_ID: &str = "kid-1";
const MAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

async fn scenario(name: &str) -> Result<Scenario<'static>, Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    let pebble = PebbleOptions {
        bad_nonces: 50,
        alternate_roots: 2,
        external_accounts: BTreeMap::from([(KEY_ID.to_owned(), MAC_KEY.to_owned())]),
        ..PebbleOptions::default()
    };
    let parts = Parts {
        pebble: Some(pebble),
        step_ca: true,
        traefik: Some(TraefikOptions { redirect_to_https: true, ..TraefikOptions::default() }),
        ..Parts::default()
    };
    STAGE.get_or_try_init(|| Stage::start("difficult-parts", parts)).await?.scenario(name).await
}

fn bound_to(key_id: &str) -> Value {
    json!({"externalAccountBinding": {"keyID": key_id, "keySecretRef": {"name": "external", "key": "mac"}}})
}

#[tokio::test]
async fn an_edge_that_redirects_all_http_to_https() -> Result<(), Error> {
    let s = scenario("redirect").await?;
    let hosts = [s.name("a"), s.name("b")];
    s.certify("shop", json!({"dnsNames": hosts})).await?;
    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None);
    s.pair("shop-tls").await?.serves(&s.roots().await?, &hosts)?;

    // From now on both routes are made at once.
    s.certify("later", json!({"dnsNames": [s.name("later")]})).await?;
    s.ready("later").await?;
    s.nothing_left().await?;
    s.within("shop", Limits { writes: 15, requests: 24 })?;
    s.within("later", Limits { writes: 10, requests: 16 })
}

#[tokio::test]
async fn a_ca_that_refuses_half_of_all_nonces() -> Result<(), Error> {
    let s = scenario("nonces").await?;
    s.secret("external", "Opaque", &[("mac", MAC_KEY)]).await?;
    s.issuer("ca", bound_to(KEY_ID)).await?;
    for name in ["a", "b", "c"] {
        s.certify(name, json!({"dnsNames": [s.name(name)], "issuerRef": {"name": "ca"}})).await?;
    }
    let roots = s.roots().await?;
    for name in ["a", "b", "c"] {
        let status = s.ready(name).await?.status.unwrap_or_default();
        assert_eq!(status.failed_issuance_attempts, None, "a refused nonce is no failure");
        s.pair(&format!("{name}-tls")).await?.serves(&roots, &[s.name(name)])?;
        // Each request is sent twice on average.
        s.within(name, Limits { writes: 15, requests: 64 })?;
    }
    s.nothing_left().await
}

#[tokio::test]
async fn a_ca_that_offers_several_chains() -> Result<(), Error> {
    let s = scenario("chains").await?;
    s.secret("external", "Opaque", &[("mac", MAC_KEY)]).await?;
    s.issuer("ca", bound_to(KEY_ID)).await?;
    let spec = json!({"dnsNames": [s.name("shop")], "issuerRef": {"name": "ca"}});
    s.certify("first", spec.clone()).await?;
    s.ready("first").await?;
    let first = s.pair("first-tls").await?;

    // The CA's own order of chains is not the issuer's.
    let mut names = Vec::new();
    for number in 0..=2 {
        let root = Roots::new(&s.lab().pebble()?.root(number).await?)?;
        let issuer = format!("ca-{number}");
        let root_name = root_name(&s.lab().pebble()?.root(number).await?)?;
        s.issuer(&issuer, merged(bound_to(KEY_ID), "preferredChain", json!(root_name))).await?;
        let mut spec = spec.clone();
        spec["issuerRef"]["name"] = json!(issuer);
        s.certify(&issuer, spec).await?;
        s.ready(&issuer).await?;
        let pair = s.pair(&format!("{issuer}-tls")).await?;
        pair.serves(&root, &[s.name("shop")])?;
        assert_eq!(pair.root_name()?, root_name);
        names.push(root_name);
    }
    names.dedup();
    assert_eq!(names.len(), 3);
    assert_eq!(first.root_name()?, names[0], "without a preference: the CA's first");
    s.nothing_left().await
}

#[tokio::test]
async fn a_ca_that_wants_to_know_the_account_already() -> Result<(), Error> {
    let s = scenario("external").await?;
    s.issuer("ca", json!({})).await?;
    let message = s.issuer_is("ca", reason::ACCOUNT_REFUSED).await?;
    assert!(message.contains("externalAccountBinding"), "{message}");

    s.issuer("ca", bound_to(KEY_ID)).await?;
    let message = s.issuer_is("ca", reason::KEY_MISSING).await?;
    assert!(message.contains("external"), "{message}");

    s.secret("external", "Opaque", &[("mac", "this is not base64url!")]).await?;
    s.issuer("ca", bound_to("nobody")).await?;
    let message = s.issuer_is("ca", reason::INVALID_KEY).await?;
    assert!(message.contains("base64url"), "{message}");

    let secrets = s.api::<k8s_openapi::api::core::v1::Secret>();
    secrets.delete("external", &DeleteParams::default()).await.map_err(Error::kube(|| "deleting"))?;
    s.secret("external", "Opaque", &[("mac", MAC_KEY)]).await?;
    s.issuer("ca", merged(bound_to("nobody"), "email", json!("other@example.com"))).await?;
    s.issuer_is("ca", reason::ACCOUNT_REFUSED).await?;

    s.issuer("ca", bound_to(KEY_ID)).await?;
    s.issuer_is("ca", reason::ACCOUNT_REGISTERED).await?;
    let uri = s.get::<Issuer>("ca").await?.status.unwrap_or_default().acme.unwrap_or_default().uri;
    assert!(uri.is_some_and(|uri| uri.starts_with("https://")));
    Ok(())
}

/// The common name of a root, from its PEM.
fn root_name(pem: &str) -> Result<String, Error> {
    let bad = || "a root";
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(Error::invalid(bad))?;
    let root = pem.parse_x509().map_err(Error::invalid(bad))?;
    let name = root.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(name.unwrap_or_default().to_owned())
}

fn merged(mut acme: Value, key: &str, value: Value) -> Value {
    acme[key] = value;
    acme
}
