//! The lab's parts do what tests tell them to: freeze, end, begin again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use e2e::{
    Error,
    lab::{Lab, Parts, PebbleOptions, User},
    probe,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::ListParams};

#[tokio::test]
async fn parts_survive_what_tests_do_to_them() {
    let parts = Parts { pebble: Some(PebbleOptions::default()), ..Parts::default() };
    let lab = Lab::start("faults", parts).await.unwrap();

    let pebble = lab.pebble().unwrap();
    let http = lab.http().await.unwrap();
    let root = pebble.issuance_root().await.unwrap();
    pebble.freeze().unwrap();
    assert!(matches!(http.get(&pebble.directory()).await, Err(Error::Http { .. })));
    pebble.thaw().unwrap();
    http.get(&pebble.directory()).await.unwrap().ok("Pebble").unwrap();
    assert_eq!(pebble.issuance_root().await.unwrap(), root, "it goes on where it was");
    pebble.restart_empty().await.unwrap();
    assert_ne!(pebble.issuance_root().await.unwrap(), root, "it has forgotten everything");
    assert_eq!(pebble.hangs(), 0, "frozen is not hung");

    // As its deadlock does, behind the harness's back.
    let root = pebble.issuance_root().await.unwrap();
    pebble.process().freeze().unwrap();
    probe::until("a restart by the watchdog", Duration::from_mins(1), || async {
        let now = pebble.issuance_root().await?;
        if now == root {
            Err(Error::Invalid { what: "Pebble".to_owned(), why: "still the old".to_owned() })
        } else {
            Ok(())
        }
    })
    .await
    .unwrap();
    assert_eq!(pebble.hangs(), 1);

    let namespaces: Api<Namespace> = Api::all(lab.client(User::Admin).unwrap());
    let before = namespaces.list(&ListParams::default()).await.unwrap().items.len();
    lab.api_server().kill();
    assert!(namespaces.list(&ListParams::default()).await.is_err());
    lab.api_server().start().unwrap();
    lab.api_server_ready().await.unwrap();
    assert_eq!(namespaces.list(&ListParams::default()).await.unwrap().items.len(), before);
}

#[tokio::test]
async fn a_lab_follows_another() {
    for _ in 0..2 {
        let lab = Lab::start("again", Parts::default()).await.unwrap();
        assert!(lab.processes().iter().all(|process| process.ended().is_none()));
    }
}
