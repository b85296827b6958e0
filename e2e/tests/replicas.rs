//! Several replicas of which any may die: all certificates are issued, each by one finalized order, and nothing
//! that a replica writes after it has lost its lease takes effect.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use e2e::{
    Error,
    lab::{
        Fleet, Lab, Parts, TraefikOptions,
        scenario::{PATIENCE, Scenario},
    },
    probe,
    sandbox::{NODE_ADDRESS, SILENT_ADDRESS},
};
use futures::future::try_join_all;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// Times that let a test see a lease end. All in one proportion, as the defaults are.
const QUICK: &[(&str, &str)] = &[
    ("WAXWING_LEASE_DURATION", "9s"),
    ("WAXWING_LEASE_RENEW_DEADLINE", "6s"),
    ("WAXWING_LEASE_RETRY_PERIOD", "1500ms"),
];

/// Issuances at once.
const MANY: usize = 60;

/// The tests share a lab, one after the other: there is one Lease.
async fn lab() -> Result<(&'static Lab, MutexGuard<'static, ()>), Error> {
    static LAB: OnceCell<Lab> = OnceCell::const_new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let traefik = TraefikOptions { throttle: Some(Duration::from_millis(100)), ..TraefikOptions::default() };
    let parts = Parts { step_ca: true, traefik: Some(traefik), ..Parts::default() };
    Ok((LAB.get_or_try_init(|| Lab::start("replicas", parts)).await?, turn))
}

/// Applies many Certificates, and waits until a third of them has an order open. Gives these.
async fn many_under_way(s: &Scenario<'_>) -> Result<Vec<String>, Error> {
    try_join_all((0..MANY).map(|number| async move {
        let name = format!("c{number}");
        s.certify(&name, json!({"dnsNames": [s.name(&name)]})).await
    }))
    .await?;
    probe::until("orders", PATIENCE, || async {
        let open = s.open_orders().await?;
        if open.len() >= MANY / 3 {
            return Ok(open);
        }
        Err(Error::Invalid { what: "issuances".to_owned(), why: format!("{} are under way", open.len()) })
    })
    .await
}

/// Waits for all, and checks that each has cost one finalized order, that those that were `under_way` went on with the
/// same order, and that nobody wrote who had lost the lease.
async fn all_are_well(fleet: &Fleet<'_>, s: &Scenario<'_>, under_way: &[String]) -> Result<(), Error> {
    for number in 0..MANY {
        s.ready(&format!("c{number}")).await?;
    }
    s.nothing_left().await?;
    let orders = fleet.orders()?;
    for number in 0..MANY {
        let certificate = format!("c{number}");
        let of_it = orders.get(&s.name(&certificate)).cloned().unwrap_or_default();
        assert_eq!(of_it.finalized.len(), 1, "{certificate} has cost one finalized order");
        // An order that the CA was just making when a process died is nobody's.
        let most = if under_way.contains(&certificate) { 1 } else { 2 };
        assert!(of_it.created.len() <= most, "{certificate}: {:?} were made", of_it.created);
    }
    assert_eq!(fleet.writes_of_deposed()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_leader_that_is_killed_is_replaced() -> Result<(), Error> {
    let (lab, _turn) = lab().await?;
    let fleet = Fleet::new(lab, "killed", &[QUICK; 3]).await?;
    fleet.start(&[0, 1, 2]).await?;
    let s = fleet.scenario("killed").await?;
    let before = fleet.leader(None).await?;

    let under_way = many_under_way(&s).await?;
    fleet.kill(before).await?;
    let after = fleet.leader(None).await?;
    assert_ne!(before, after);
    all_are_well(&fleet, &s, &under_way).await
}

#[tokio::test]
async fn a_leader_that_was_stopped_writes_no_more() -> Result<(), Error> {
    let (lab, _turn) = lab().await?;
    let fleet = Fleet::new(lab, "stopped", &[QUICK; 3]).await?;
    fleet.start(&[0, 1, 2]).await?;
    let s = fleet.scenario("stopped").await?;
    let before = fleet.leader(None).await?;

    let under_way = many_under_way(&s).await?;
    fleet.process(before).freeze()?;
    fleet.leave(before).await?;
    let after = fleet.leader(None).await?;
    assert_ne!(before, after);
    fleet.process(before).thaw()?;
    fleet.join(before).await?;
    all_are_well(&fleet, &s, &under_way).await?;
    assert!(!fleet.leads(before).await?, "it has seen that it leads no more");
    assert_eq!(fleet.leader(None).await?, after, "it stands by, and lets the other lead");
    fleet.ready(before).await
}

#[tokio::test]
async fn an_api_server_that_is_away_ends_all_leading_and_loses_nothing() -> Result<(), Error> {
    let (lab, _turn) = lab().await?;
    let fleet = Fleet::new(lab, "away", &[QUICK; 3]).await?;
    fleet.start(&[0, 1, 2]).await?;
    let s = fleet.scenario("away").await?;
    let before = fleet.leader(None).await?;

    let under_way = many_under_way(&s).await?;
    lab.api_server().kill();
    // Longer than any lease: this is the fault itself.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!fleet.leads(before).await?, "who can't renew gives up");
    lab.api_server().start()?;
    lab.api_server_ready().await?;
    fleet.leader(None).await?;
    all_are_well(&fleet, &s, &under_way).await
}

#[tokio::test]
async fn an_edge_that_is_restarted_loses_nothing() -> Result<(), Error> {
    let (lab, _turn) = lab().await?;
    let fleet = Fleet::new(lab, "edge", &[&[][..]; 3]).await?;
    fleet.start(&[0, 1, 2]).await?;
    let s = fleet.scenario("edge").await?;
    fleet.leader(None).await?;

    let under_way = many_under_way(&s).await?;
    let traefik = lab.traefik()?.process();
    traefik.kill();
    traefik.start()?;
    all_are_well(&fleet, &s, &under_way).await
}

#[tokio::test]
async fn a_rolling_restart_is_noticed_by_nobody() -> Result<(), Error> {
    let (lab, _turn) = lab().await?;
    let fleet = Fleet::new(lab, "rolling", &[&[][..]; 6]).await?;
    fleet.start(&[0]).await?;
    fleet.leader(Some(0)).await?;
    fleet.start(&[1, 2]).await?;
    let s = fleet.scenario("rolling").await?;
    let asked = lab.traefik()?.challenges()?.len();

    let under_way = many_under_way(&s).await?;
    // As a Deployment does it: when the new one is ready, the old one ends, and doesn't hold up the next.
    for (old, new) in [(0, 3), (1, 4), (2, 5)] {
        fleet.start(&[new]).await?;
        let led = fleet.leads(old).await?;
        let begun = Instant::now();
        fleet.terminate(old).await?;
        let leader = fleet.leader_after(old).await?;
        if led {
            probe::tell(format_args!("after SIGTERM, rolling-{leader} leads in {:?}", begun.elapsed()));
        }
    }
    for old in [0, 1, 2] {
        fleet.ended(old).await?;
    }
    all_are_well(&fleet, &s, &under_way).await?;
    let challenges = lab.traefik()?.challenges()?;
    let by_the_ca: Vec<_> = challenges.iter().skip(asked).filter(|asked| !asked.by_us).collect();
    assert!(by_the_ca.len() >= MANY && by_the_ca.iter().all(|asked| asked.status == 200), "{by_the_ca:?}");
    Ok(())
}

#[tokio::test]
async fn a_replica_that_ends_answers_for_orders_that_others_open_meanwhile() -> Result<(), Error> {
    let (lab, _turn) = lab().await?;
    // However long it takes to look at it.
    let patient = [("WAXWING_SHUTDOWN_GRACE", "60s")];
    let fleet = Fleet::new(lab, "ending", &[&patient[..]; 2]).await?;
    fleet.start(&[0]).await?;
    fleet.leader(Some(0)).await?;
    fleet.start(&[1]).await?;
    let s = fleet.scenario("ending").await?;

    // Orders stay open for as long as the edge routes nothing, and for as long as one is open it answers.
    lab.traefik()?.process().freeze()?;
    let open = s.certify("open", json!({"dnsNames": [s.name("open")]})).await?;
    s.ordered(&open).await?;
    fleet.terminate(0).await?;
    fleet.leader(Some(1)).await?;
    let host = s.name("shop");
    let certificate = s.certify("shop", json!({"dnsNames": [host]})).await?;
    s.ordered(&certificate).await?;
    let answers = try_join_all([0, 1].map(|number| fleet.challenge(number, &host))).await?;
    lab.traefik()?.process().thaw()?;
    for answer in answers {
        assert!(answer.ok("the challenge")?.starts_with("some-token."));
    }
    for name in ["open", "shop"] {
        s.ready(name).await?;
    }
    fleet.ended(0).await
}

#[tokio::test]
async fn what_fails_after_a_take_over_is_ordered_again_and_not_counted() -> Result<(), Error> {
    let (lab, _turn) = lab().await?;
    let quick = [QUICK, &[("WAXWING_SELF_CHECK_TIMEOUT", "2s")]].concat();
    let fleet = Fleet::new(lab, "again", &[&quick, &quick]).await?;
    fleet.start(&[0]).await?;
    fleet.leader(Some(0)).await?;
    fleet.start(&[1]).await?;
    let s = fleet.scenario("again").await?;

    let host = s.name("shop");
    lab.dns().set(&host, &[SILENT_ADDRESS.parse().unwrap()]).await?;
    let certificate = s.certify("shop", json!({"dnsNames": [host]})).await?;
    s.ordered(&certificate).await?;
    fleet.kill(0).await?;
    fleet.leader(Some(1)).await?;
    probe::until("the CA's verdict", PATIENCE, || async {
        let told = fleet.process(1).log().contains("ordering again at once");
        if told { Ok(()) } else { Err("the order is open still") }
    })
    .await?;
    lab.dns().set(&host, &[NODE_ADDRESS.parse().unwrap()]).await?;

    s.ready("shop").await?;
    let log = fleet.process(1).log();
    let (again, counted) = (log.find("ordering again at once"), log.find("the attempt failed"));
    assert!(
        counted.is_none_or(|counted| again.is_some_and(|again| again < counted)),
        "nothing is counted first"
    );
    assert_eq!(fleet.orders()?.get(&host).map(|of| of.finalized.len()), Some(1));
    Ok(())
}

#[tokio::test]
async fn clocks_ten_minutes_off_change_nothing() -> Result<(), Error> {
    let (lab, _turn) = lab().await?;
    let Some(library) = faketime() else {
        assert!(std::env::var_os("CI").is_none(), "scripts/prerequisites installs libfaketime");
        eprintln!("skipped: this machine lacks libfaketime");
        return Ok(());
    };
    let skewed = |offset: &'static str| {
        let faked = [("LD_PRELOAD", library), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        QUICK.iter().copied().chain(faked).collect::<Vec<_>>()
    };
    let (ahead, behind) = (skewed("+10m"), skewed("-10m"));
    let fleet = Fleet::new(lab, "skewed", &[QUICK, &ahead, &behind]).await?;
    fleet.start(&[0]).await?;
    fleet.leader(Some(0)).await?;
    let before = fleet.lease().await?;
    fleet.start(&[1, 2]).await?;
    let s = fleet.scenario("skewed").await?;
    let under_way = many_under_way(&s).await?;
    all_are_well(&fleet, &s, &under_way).await?;
    assert_eq!(fleet.lease().await?, before, "a clock that is ahead takes no live lease");

    // One whose clock is wrong takes over in its turn, and keeps its lease from the others.
    fleet.terminate(2).await?;
    fleet.ended(2).await?;
    fleet.kill(0).await?;
    fleet.leader(Some(1)).await?;
    let before = fleet.lease().await?;
    s.certify("ahead", json!({"dnsNames": [s.name("ahead")]})).await?;
    s.ready("ahead").await?;
    fleet.start(&[2]).await?;
    fleet.renewed(8).await?;
    assert_eq!(fleet.lease().await?, before);

    // It can't speak TLS with a CA whose certificate is of today, but it leads for as long as it lives.
    fleet.terminate(1).await?;
    fleet.leader(Some(2)).await?;
    let before = fleet.lease().await?;
    fleet.start(&[0]).await?;
    fleet.renewed(8).await?;
    assert_eq!(fleet.lease().await?, before, "one that is behind keeps it, too");
    assert_eq!(fleet.writes_of_deposed()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn take_overs_with_the_default_times() -> Result<(), Error> {
    let (lab, _turn) = lab().await?;
    let fleet = Fleet::new(lab, "defaults", &[&[][..]; 3]).await?;
    fleet.start(&[0, 1, 2]).await?;
    let first = fleet.leader(None).await?;
    let begun = Instant::now();
    fleet.kill(first).await?;
    let second = fleet.leader(None).await?;
    probe::tell(format_args!("after SIGKILL, another replica leads in {:.1?}", begun.elapsed()));
    let begun = Instant::now();
    fleet.terminate(second).await?;
    fleet.leader_after(second).await?;
    probe::tell(format_args!("after SIGTERM, another replica leads in {:.3?}", begun.elapsed()));
    Ok(())
}

/// Where the library is that lies about the time.
fn faketime() -> Option<&'static str> {
    const PLACES: [&str; 2] = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    ];
    PLACES.into_iter().find(|place| std::path::Path::new(place).exists())
}
