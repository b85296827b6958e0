//! A certificate that lives a minute is renewed in time, and the CA is asked when it wants that.

use e2e::{
    Error,
    lab::{
        Parts, PebbleOptions, TraefikOptions,
        scenario::{Roots, Stage},
    },
};
use serde_json::json;
use waxwing_api::{Certificate, reason};

#[tokio::test]
async fn a_certificate_is_renewed_while_it_still_serves() -> Result<(), Error> {
    let pebble = PebbleOptions {
        profiles: vec![("minute".into(), "A minute.".into(), 60)],
        ..PebbleOptions::default()
    };
    let parts = Parts {
        pebble: Some(pebble),
        traefik: Some(TraefikOptions::default()),
        step_ca: true,
        ..Parts::default()
    };
    let stage = Stage::start("renewal", parts).await?;
    let s = stage.scenario("renewal").await?;
    let pebble = s.lab().pebble()?;
    s.issuer("ca", json!({"server": pebble.directory()})).await?;
    s.certify("shop", json!({"dnsNames": [s.name("shop")], "issuerRef": {"name": "ca"}})).await?;
    s.ready("shop").await?;
    let first = s.pair("shop-tls").await?.serial()?;

    let renewed = s
        .until(s.api::<Certificate>(), "shop", |certificate| {
            let status = certificate.and_then(|one| one.status.clone()).unwrap_or_default();
            let ready = status.conditions.iter().find(|condition| condition.type_ == reason::READY);
            assert!(ready.is_none_or(|ready| ready.status == "True"), "it serves all the time: {ready:?}");
            if status.revision >= Some(2) { Ok(status) } else { Err("not renewed yet".to_owned()) }
        })
        .await?;
    assert_eq!(renewed.failed_issuance_attempts, None);
    let second = s.pair("shop-tls").await?;
    assert_ne!(second.serial()?, first);
    second.serves(&Roots::new(&pebble.issuance_root().await?)?, &[s.name("shop")])?;
    assert!(s.requests("shop").iter().any(|url| url.contains("renewalInfo")), "the CA was asked");
    Ok(())
}
