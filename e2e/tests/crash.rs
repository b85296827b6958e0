//! Killed anywhere, Waxwing loses nothing: the next process goes on with the same orders.

use std::{
    collections::BTreeSet,
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use e2e::{
    Error,
    lab::{
        Parts, TraefikOptions,
        scenario::{PATIENCE, Scenario, Stage},
    },
    probe,
};
use kube::ResourceExt as _;
use kube::api::ListParams;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use waxwing_api::{Certificate, reason};

/// How many certificates are issued while Waxwing is killed.
const CERTIFICATES: usize = 100;

/// Kills come after so many more lines of Waxwing's log: some before it is up, most in the middle of work.
const LINES: std::ops::Range<usize> = 1..400;

/// So often it is killed at most; after that it may finish.
const KILLS: usize = 30;

/// One test at a time: each ends the only Waxwing.
async fn alone() -> Result<(&'static Stage, MutexGuard<'static, ()>), Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let parts = Parts { step_ca: true, traefik: Some(TraefikOptions::default()), ..Parts::default() };
    // Nobody waits for an orderly end.
    let environment = [("WAXWING_SHUTDOWN_GRACE", "1s")];
    let stage = STAGE.get_or_try_init(|| Stage::start_with("crash", parts, &environment)).await?;
    Ok((stage, turn))
}

#[tokio::test]
async fn a_hundred_issuances_survive_kills_at_random_moments() -> Result<(), Error> {
    let (stage, _turn) = alone().await?;
    let s = stage.scenario("crash").await?;
    let seed = seed();
    println!("the moments come from SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let before = finalized(stage)?;

    // All of its work lies ahead of the first moment, however long applying takes.
    stage.operator().kill();
    for number in 0..CERTIFICATES {
        s.certify(&name(number), json!({"dnsNames": [s.routed(&name(number))]})).await?;
    }
    s.start_again().await?;
    let mut kills = 0;
    while kills < KILLS && count_ready(&s).await? < CERTIFICATES {
        let lines = stage.operator().process().log().lines().count() + random.random_range(LINES);
        let moment = probe::until("the moment to kill", PATIENCE, || async {
            let enough = stage.operator().process().log().lines().count() >= lines;
            let ready = count_ready(&s).await.map_err(|error| error.to_string())?;
            if enough || ready == CERTIFICATES { Ok(()) } else { Err(format!("{ready} are ready")) }
        });
        moment.await?;
        stage.operator().kill();
        s.start_again().await?;
        kills += 1;
    }
    println!("killed {kills} times");
    assert!(kills >= 5, "too few kills to tell anything");

    // Each is Ready, with the key that its certificate was signed for, and a certificate of its own.
    let roots = s.roots().await?;
    let mut serials = BTreeSet::new();
    for number in 0..CERTIFICATES {
        let status = s.ready(&name(number)).await?.status.unwrap_or_default();
        assert_eq!(status.revision, Some(1), "{} was issued once", name(number));
        let pair = s.pair(&format!("{}-tls", name(number))).await?;
        pair.serves(&roots, &[s.routed(&name(number))])?;
        assert_eq!(status.serial_number, Some(pair.serial()?));
        serials.insert(pair.serial()?);
    }
    assert_eq!(serials.len(), CERTIFICATES);
    s.nothing_left().await?;

    // The CA's own word: one finalized order for each, so no key that it signed for is lost.
    let orders: BTreeSet<String> = finalized(stage)?.difference(&before).cloned().collect();
    assert_eq!(orders.len(), CERTIFICATES, "finalized orders");
    // And one account, whatever became of the processes.
    assert_eq!(stage.lab().step_ca()?.accounts("ops@example.com"), 1, "accounts");
    Ok(())
}

#[tokio::test]
async fn an_orderly_end_mid_issuance_hands_the_order_over() -> Result<(), Error> {
    let (stage, _turn) = alone().await?;
    let s = stage.scenario("orderly").await?;
    let host = s.name("shop");
    s.resolve(&host, &[e2e::sandbox::SILENT_ADDRESS]).await?;
    let certificate = s.certify("shop", json!({"dnsNames": [host]})).await?;
    s.ordered(&certificate).await?;

    let ended = stage.operator().stop().await;
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert_eq!(s.open_orders().await?, ["shop"], "the order waits for the next process");
    s.lab().dns().reset(&host).await?;
    s.start_again().await?;
    let after = s.ready("shop").await?;
    assert_eq!(after.status.clone().unwrap_or_default().failed_issuance_attempts, None);
    let orders = s.requests("shop").into_iter().filter(|url| url.ends_with("/new-order")).count();
    assert_eq!(orders, 1, "and is gone on with");
    assert_eq!(
        s.events("Certificate", "shop")
            .await?
            .iter()
            .filter(|event| event.type_.as_deref() == Some("Warning"))
            .count(),
        0
    );
    s.nothing_left().await
}

#[tokio::test]
async fn a_restart_changes_nothing_for_what_rests() -> Result<(), Error> {
    let (stage, _turn) = alone().await?;
    let s = stage.scenario("rests").await?;
    s.certify("good", json!({"dnsNames": [s.routed("good")]})).await?;
    s.certify("bad", json!({"dnsNames": [s.routed("bad")], "issuerRef": {"name": "none"}})).await?;
    s.ready("good").await?;
    // Its last write: the Event comes after the status.
    s.told("Certificate", "good", "Normal", reason::ISSUED, "").await?;
    s.stopped("bad", reason::ISSUER_NOT_FOUND).await?;
    s.nothing_left().await?;
    let before = (s.writes("good")?, s.writes("bad")?, s.requests("good"));
    let good: Certificate = s.get("good").await?;

    stage.operator().kill();
    s.start_again().await?;
    // Another one is issued by the new process, so it has looked at these too.
    s.certify("next", json!({"dnsNames": [s.routed("next")]})).await?;
    s.ready("next").await?;
    assert_eq!((s.writes("good")?, s.writes("bad")?, s.requests("good")), before);
    assert_eq!(s.get::<Certificate>("good").await?.resource_version(), good.resource_version());
    Ok(())
}

fn name(number: usize) -> String {
    format!("c{number}")
}

/// From the environment, to see a failure again; else another one each time.
fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).subsec_nanos();
    env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| now().into())
}

async fn count_ready(s: &Scenario<'_>) -> Result<usize, Error> {
    let all = s.api::<Certificate>().list(&ListParams::default()).await;
    let all = all.map_err(Error::kube(|| "listing Certificates"))?;
    let ready = |certificate: &&Certificate| {
        e2e::lab::scenario::condition(certificate, reason::READY).is_some_and(|ready| ready.status == "True")
    };
    Ok(all.items.iter().filter(ready).count())
}

/// The orders that step-ca has finalized.
fn finalized(stage: &Stage) -> Result<BTreeSet<String>, Error> {
    let orders = stage.lab().step_ca()?.orders(0);
    Ok(orders.into_values().flat_map(|orders| orders.finalized).collect())
}
