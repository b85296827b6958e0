//! Renewals: in time, in spite of windows that never come, not at all, and when they are asked for.

use e2e::{
    Error,
    lab::{
        Parts, PebbleOptions, TraefikOptions,
        scenario::{Limits, Roots, Scenario, Stage, condition},
    },
};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use waxwing_api::{Certificate, CertificateStatus, labels, reason};

/// What an issuance may cost at the most; a renewal that was asked for twice by mistake would cost more.
const TWO_ISSUANCES: Limits = Limits { writes: 30, requests: 60 };

/// Renewed when so much of the lifetime is left, in per cent: Pebble's suggestion may be in its last seconds.
const HALF: i32 = 50;

/// The tests share one lab, whose Pebble has a profile of one minute.
async fn scenario(name: &str) -> Result<Scenario<'static>, Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    let pebble = PebbleOptions {
        profiles: vec![("minute".into(), "A minute.".into(), 60), ("day".into(), "A day.".into(), 86_400)],
        ..PebbleOptions::default()
    };
    let parts = Parts {
        pebble: Some(pebble),
        traefik: Some(TraefikOptions::default()),
        step_ca: true,
        ..Parts::default()
    };
    STAGE.get_or_try_init(|| Stage::start("renewal", parts)).await?.scenario(name).await
}

fn pebble(s: &Scenario<'_>, profile: &str, more: Value) -> Value {
    let mut spec = json!({
        "dnsNames": [s.routed("shop")],
        "issuerRef": {"name": "pebble", "kind": "ClusterIssuer"},
        "profile": profile,
    });
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    spec
}

#[tokio::test]
async fn a_certificate_is_renewed_while_it_still_serves() -> Result<(), Error> {
    let s = scenario("in-time").await?;
    let pebble = s.lab().pebble()?;
    s.issuer("ca", json!({"server": pebble.directory()})).await?;
    let spec = json!({
        "dnsNames": [s.name("shop")],
        "issuerRef": {"name": "ca"},
        "profile": "minute",
        "renewBeforePercentage": HALF,
    });
    s.certify("shop", spec).await?;
    let first = s.ready("shop").await?.status.unwrap_or_default().serial_number;

    let renewed = revision(&s, 2, true).await?;
    assert_eq!(renewed.failed_issuance_attempts, None);
    let second = s.pair("shop-tls").await?;
    assert!(first.is_some() && first != Some(second.serial()?), "{first:?}");
    second.serves(&Roots::new(&pebble.issuance_root().await?)?, &[s.name("shop")])?;
    assert!(s.requests("shop").iter().any(|url| url.contains("renewalInfo")), "the CA was asked");
    Ok(())
}

#[tokio::test]
async fn windows_that_do_not_come_in_time_are_told_and_give_way() -> Result<(), Error> {
    let s = scenario("windows").await?;
    let windows = json!([{"cron": "0 0 29 2 *", "windowDuration": "1h", "timezone": "Europe/Berlin"},
                         {"cron": "0 3 * * *", "windowDuration": "2h", "timezone": "Europe/Berln"}]);
    let more = json!({"renewBeforePercentage": HALF, "renewal": {"windows": windows}});
    s.certify("shop", pebble(&s, "minute", more)).await?;
    s.told("Certificate", "shop", "Warning", reason::RENEWAL_SPEC_IGNORED, "spec.renewal.windows[1]").await?;
    let renewed = revision(&s, 2, true).await?;
    let ready = renewed.conditions.iter().find(|condition| condition.type_ == reason::READY).cloned();
    let message = ready.map(|ready| ready.message).unwrap_or_default();
    assert!(message.contains("Europe/Berln") && message.contains("outside"), "{message}");
    s.told("Certificate", "shop", "Warning", reason::NO_WINDOW_FITS, "None of").await
}

#[tokio::test]
async fn what_is_not_renewed_expires_and_is_issued_again_when_it_is_asked_for() -> Result<(), Error> {
    let s = scenario("disabled").await?;
    s.certify("shop", pebble(&s, "minute", json!({"renewal": {"policy": "Disabled"}}))).await?;
    let ready = s.ready("shop").await?;
    let message = condition(&ready, reason::READY).map(|condition| condition.message.clone());
    assert!(message.is_some_and(|message| message.contains("policy is Disabled")));
    assert_eq!(ready.status.unwrap_or_default().renewal_time, None);

    let expired = s
        .until(s.api::<Certificate>(), "shop", |certificate| {
            let certificate = certificate.ok_or("there is none")?;
            let ready = condition(certificate, reason::READY).ok_or("no condition")?;
            if ready.reason == reason::EXPIRED { Ok(certificate.clone()) } else { Err(ready.message.clone()) }
        })
        .await?;
    let status = expired.status.unwrap_or_default();
    assert_eq!((status.revision, status.failed_issuance_attempts), (Some(1), None));
    assert!(s.open_orders().await?.is_empty(), "nothing is ordered");

    ask(&s, &Timestamp::now().to_string()).await?;
    revision(&s, 2, false).await?;
    Ok(())
}

#[tokio::test]
async fn a_renewal_that_is_asked_for_comes_once_and_keeps_the_key_where_it_should() -> Result<(), Error> {
    let s = scenario("asked").await?;
    s.certify("shop", pebble(&s, "day", json!({"privateKey": {"rotationPolicy": "Never"}}))).await?;
    let issued = s.ready("shop").await?.status.unwrap_or_default();
    let issued_at = issued.last_issuance_time.map(|time| time.0).unwrap_or_default();
    assert!(issued_at > Timestamp::UNIX_EPOCH);
    let first = s.pair("shop-tls").await?;

    // In the future it is a plan.
    let tonight = Timestamp::from_second((Timestamp::now() + SignedDuration::from_hours(1)).as_second())
        .map_err(Error::invalid(|| "a time"))?;
    ask(&s, &tonight.to_string()).await?;
    s.until(s.api::<Certificate>(), "shop", |certificate| {
        let renewal = certificate.and_then(|one| one.status.clone()?.renewal_time).map(|time| time.0);
        if renewal == Some(tonight) { Ok(()) } else { Err(format!("renewed at {renewal:?}")) }
    })
    .await?;

    // What isn't a time is told, and changes nothing else.
    ask(&s, "tomorrow").await?;
    let told = "The annotation waxwing.dev/renew is left aside";
    s.told("Certificate", "shop", "Warning", reason::RENEWAL_SPEC_IGNORED, told).await?;
    assert_eq!(s.ready("shop").await?.status.unwrap_or_default().revision, Some(1));

    // Times are whole seconds: one of the same second is satisfied already.
    let asked = Timestamp::now().max(issued_at + SignedDuration::from_secs(1));
    ask(&s, &asked.to_string()).await?;
    let renewed = revision(&s, 2, true).await?;
    let renewed_at = renewed.last_issuance_time.map(|time| time.0);
    assert!(renewed_at.is_some_and(|time| time.as_second() >= asked.as_second()), "{renewed_at:?}");
    let second = s.pair("shop-tls").await?;
    assert_ne!(second.serial()?, first.serial()?);
    assert_eq!(second.key_pem, first.key_pem, "rotationPolicy: Never");
    // Whatever else makes it look at the Certificate again, it is done.
    s.certify("shop", pebble(&s, "day", json!({"secretTemplate": {"labels": {"looked": "again"}}}))).await?;
    s.calm("shop", TWO_ISSUANCES).await?;
    assert_eq!(s.ready("shop").await?.status.unwrap_or_default().revision, Some(2));
    Ok(())
}

#[tokio::test]
async fn asking_outranks_back_off() -> Result<(), Error> {
    let s = scenario("back-off").await?;
    let name = s.name("nowhere");
    s.resolve(&name, &[]).await?;
    s.certify("shop", json!({"dnsNames": [name]})).await?;
    let failed = s.stopped("shop", reason::BACKING_OFF).await?.certificate.status.unwrap_or_default();
    let first = failed.last_failure_time.map(|time| time.0);
    assert_eq!(failed.failed_issuance_attempts, Some(1));

    // Later than the failure, whose time is in whole seconds.
    let asked = first.unwrap_or_default() + SignedDuration::from_secs(1);
    ask(&s, &asked.to_string()).await?;
    s.until(s.api::<Certificate>(), "shop", |certificate| {
        let status = certificate.and_then(|one| one.status.clone()).unwrap_or_default();
        let last = status.last_failure_time.map(|time| time.0);
        if last.is_none() || last == first {
            return Err("not tried again yet".to_owned());
        }
        assert_eq!(status.failed_issuance_attempts, Some(1), "counted anew: back-off was reset");
        Ok(())
    })
    .await
}

/// Waits until so many certificates have been issued. Meanwhile, if `serving`, the stored one must serve.
async fn revision(s: &Scenario<'_>, revision: i64, serving: bool) -> Result<CertificateStatus, Error> {
    s.until(s.api::<Certificate>(), "shop", |certificate| {
        let certificate = certificate.ok_or("there is none")?;
        let ready = condition(certificate, reason::READY);
        let status = certificate.status.clone().unwrap_or_default();
        if serving && status.revision >= Some(1) {
            assert!(ready.is_some_and(|ready| ready.status == "True"), "it serves all the time: {ready:?}");
        }
        let serves = ready.is_some_and(|ready| ready.status == "True");
        if serves && status.revision >= Some(revision) {
            Ok(status)
        } else {
            Err(format!("{:?}", status.revision))
        }
    })
    .await
}

async fn ask(s: &Scenario<'_>, time: &str) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {labels::RENEW: time}}}));
    s.api::<Certificate>()
        .patch("shop", &PatchParams::default(), &patch)
        .await
        .map_err(Error::kube(|| "asking for a renewal"))
        .map(|_| ())
}
