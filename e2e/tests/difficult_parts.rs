//! Parts that are set up to be difficult: an edge that redirects all HTTP to HTTPS, and a CA that refuses
//! half of all nonces and every account that it doesn't know already.

use std::collections::BTreeMap;

use e2e::{
    Error,
    lab::{
        Parts, PebbleOptions, TraefikOptions,
        scenario::{Limits, Scenario, Stage},
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

fn merged(mut acme: Value, key: &str, value: Value) -> Value {
    acme[key] = value;
    acme
}
