//! When renewals take place.

use std::time::Duration;

use e2e::{
    Error,
    fault_ca::{Behaviour, Kind},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use waxwing_api::{Certificate, reason};

use super::{Trouble, beside, condition};

#[tokio::test]
async fn a_renewal_waits_for_its_window() -> Result<(), Error> {
    let _beside = beside().await;
    let lifetime = Duration::from_mins(4);
    let t =
        Trouble::with("window", Behaviour { certificate_lifetime: lifetime, ..Behaviour::default() }).await?;
    // Nothing is put off beyond what a CA suggests.
    t.issuer_at(&t.ca, "silent", json!({"renewalInformationSource": "None"})).await?;
    t.s.issuer_is("silent", reason::ACCOUNT_REGISTERED).await?;
    let host = t.s.name("shop");
    let spec = |windows: Value| json!({"dnsNames": [host], "issuerRef": {"name": "silent"}, "renewal": {"windows": windows}});
    t.s.certify("shop", spec(json!([]))).await?;
    let issued = t.s.ready("shop").await?.status.unwrap_or_default();
    let half_time = issued.renewal_time.map(|time| time.0).unwrap_or_default();

    // The next minute after it: within the time for which a renewal of four minutes waits. None is before it.
    let opens = Timestamp::from_second((half_time.as_second() / 60 + 1) * 60).unwrap_or_default();
    let begin = opens.to_zoned(TimeZone::UTC);
    let cron = format!("{} {} * * *", begin.minute(), begin.hour());
    let lasts = SignedDuration::from_secs(30);
    t.s.certify("shop", spec(json!([{"cron": cron, "windowDuration": "30s"}]))).await?;
    let planned =
        t.s.until(t.s.api::<Certificate>(), "shop", |certificate| {
            let certificate = certificate.ok_or("there is none")?;
            let ready = condition(certificate, reason::READY).ok_or("no condition")?;
            if ready.observed_generation != certificate.metadata.generation {
                return Err("not looked at yet".to_owned());
            }
            let status = certificate.status.clone().unwrap_or_default();
            Ok(status.renewal_time.map(|time| time.0).unwrap_or_default())
        })
        .await?;
    assert!(
        planned >= opens && planned <= opens + lasts / 2,
        "{planned} is not in the first half from {opens} on"
    );

    let status = t.renewed("shop").await?;
    assert_eq!((status.revision, status.failed_issuance_attempts), (Some(2), None));
    let renewed = status.last_issuance_time.map(|time| time.0).unwrap_or_default();
    assert!(renewed >= planned, "{renewed} is before {planned}");
    let asked = t.ca.asked();
    let orders: Vec<_> =
        asked.iter().filter(|asked| asked.kind == Kind::NewOrder).map(|asked| asked.at).collect();
    assert!(orders.len() == 2 && orders[0] < half_time && orders[1] >= planned, "{orders:?}");
    t.s.pair("shop-tls").await?.serves(&t.roots()?, &[&host])
}
