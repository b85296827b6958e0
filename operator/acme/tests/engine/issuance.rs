//! What goes well.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use waxwing_acme::{ChallengeType, Identifier, KeyAlgorithm, NoProgress, Request, inspect, obtain};

use crate::issuing::ROOTS;
use crate::parts::{Memory, Stage, http, request};
use crate::script::{Fault, Script};

#[tokio::test]
async fn the_journal_has_all_before_the_next_request_leaves() {
    let stage = Stage::new(Script::default()).await;
    let issued = stage.obtain(&request(&["a.example"])).await.unwrap();

    assert_eq!(issued.leaf.dns_names, ["a.example"]);
    inspect(&issued.chain_pem, issued.private_key_pem.expose()).unwrap();
    let entry = stage.journal.entry().unwrap();
    assert_eq!(entry.order_url, issued.order_url);
    assert_eq!(entry.private_key_pem, issued.private_key_pem);
    assert_eq!(entry.presented.len(), 1);

    let mut log = stage.log.take();
    // It runs beside newOrder.
    log.retain(|line| line != "prepare a.example");
    assert_eq!(
        log,
        [
            "ca NewOrder",
            "save",
            "ca Authorization",
            "present a.example",
            "self-check a.example",
            "ca Challenge",
            "ca Authorization",
            "ca Finalize",
            "ca Order",
            "ca Certificate",
            "clean up a.example",
        ]
    );
    stage.assert_clean();
}

#[tokio::test]
async fn many_names_are_one_order_with_one_write() {
    let stage = Stage::new(Script { validation_polls: 2, ..Script::default() }).await;
    let names: Vec<String> = (0..60).map(|index| format!("n{index}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let issued = stage.obtain(&request(&names)).await.unwrap();
    assert_eq!(issued.leaf.dns_names.len(), 60);
    assert_eq!(stage.ca.orders(), (1, 1));
    assert_eq!(stage.log.count("save"), 1);
    assert_eq!(stage.log.count("clean up"), 60);
    stage.assert_clean();
}

#[tokio::test]
async fn wildcards_and_addresses_are_ordered_as_what_they_are() {
    let mut stage = Stage::new(Script::default()).await;
    stage.solver.kind = ChallengeType::Dns01;
    let issued = stage.obtain(&request(&["*.a.example", "a.example"])).await.unwrap();
    assert_eq!(issued.leaf.dns_names, ["*.a.example", "a.example"]);
    // A TXT record's value is known only with the token: a second write, still before it is presented.
    assert_eq!(stage.log.count("save"), 2);
    let values: Vec<_> = stage.journal.entry().unwrap().presented.into_iter().map(|one| one.value).collect();
    assert_eq!(values.len(), 2);
    assert_ne!(values[0], values[1]);
    stage.assert_clean();
}

#[tokio::test]
async fn authorizations_that_are_valid_already_are_not_solved() {
    let stage = Stage::new(Script { valid_at_once: true, ..Script::default() }).await;
    stage.obtain(&request(&["a.example"])).await.unwrap();
    assert_eq!(stage.log.count("present"), 0);
    assert_eq!(stage.log.count("ca Challenge"), 0);
}

#[tokio::test]
async fn a_ca_that_asks_for_nothing_needs_no_solver() {
    let mut stage = Stage::new(Script { no_authorizations: true, ..Script::default() }).await;
    stage.solver.kind = ChallengeType::TlsAlpn01;
    stage.obtain(&request(&["*.a.example"])).await.unwrap();
    assert_eq!(stage.log.count("ca Authorization"), 0);
}

#[tokio::test]
async fn an_order_that_is_ready_a_little_late_is_finalized() {
    let stage = Stage::new(Script { late_ready: 4, ..Script::default() }).await;
    stage.obtain(&request(&["a.example"])).await.unwrap();
    assert_eq!(stage.ca.orders(), (1, 1));
}

#[tokio::test]
async fn a_failed_self_check_is_advice_only() {
    let mut stage = Stage::new(Script::default()).await;
    stage.solver.self_check_passes = false;
    stage.obtain(&request(&["a.example"])).await.unwrap();
}

#[tokio::test]
async fn the_preferred_chain_is_found_among_alternates() {
    for (preferred, expected) in
        [(Some(ROOTS[1]), ROOTS[1]), (Some(ROOTS[0]), ROOTS[0]), (Some("None"), ROOTS[0])]
    {
        let stage = Stage::new(Script::default()).await;
        let mut request = request(&["a.example"]);
        request.preferred_chain = preferred.map(str::to_owned);
        let issued = stage.obtain(&request).await.unwrap();
        let last = issued.chain_pem.split_inclusive("-----END CERTIFICATE-----\n").last().unwrap();
        let der = rustls_pki_types::pem::PemObject::from_pem_slice(last.as_bytes()).unwrap();
        let der: rustls_pki_types::CertificateDer<'_> = der;
        let (_, link) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(link.issuer().iter_common_name().next().unwrap().as_str().unwrap(), expected);
    }
}

#[tokio::test]
async fn every_key_algorithm_and_a_key_to_reuse() {
    let stage = Stage::new(Script::default()).await;
    let mut kept = None;
    // The scripted CA can't read a signing request on P-521; Pebble can.
    for key in KeyAlgorithm::ALL.into_iter().filter(|key| *key != KeyAlgorithm::EcdsaP521) {
        *stage.journal.entry.lock().unwrap() = None;
        let request = Request { key, ..request(&["a.example"]) };
        kept = Some(stage.obtain(&request).await.unwrap().private_key_pem);
    }
    *stage.journal.entry.lock().unwrap() = None;
    let request = Request { reuse_key: kept.clone(), ..request(&["a.example"]) };
    assert_eq!(Some(stage.obtain(&request).await.unwrap().private_key_pem), kept);
    stage.assert_clean();
}

#[tokio::test]
async fn a_common_name_is_in_the_certificate_when_asked_for() {
    let stage = Stage::new(Script::default()).await;
    let request = Request { common_name: Some("b.example".into()), ..request(&["a.example", "b.example"]) };
    assert_eq!(stage.obtain(&request).await.unwrap().leaf.common_name.as_deref(), Some("b.example"));
}

#[tokio::test]
async fn ari_identifies_what_was_issued_and_is_ordered_with() {
    let stage = Stage::new(Script::default()).await;
    let first = stage.obtain(&request(&["a.example"])).await.unwrap();
    let replaces = first.leaf.ari_id.clone();
    assert!(replaces.is_some());
    let second = Request { replaces: replaces.clone(), ..request(&["a.example"]) };
    let issued = stage.obtain(&second).await.unwrap();
    assert_eq!(issued.replaces, replaces);
    assert_eq!(stage.journal.entry().unwrap().replaces, replaces);
    assert_eq!(stage.obtain(&second).await.unwrap().replaces, replaces, "as the journal says");
    stage.assert_clean();
}

#[tokio::test]
async fn ip_addresses_are_ordered() {
    let stage = Stage::new(Script::default()).await;
    let request = Request::new(vec![Identifier::Ip("192.0.2.7".parse().unwrap())]);
    let issued = stage.obtain(&request).await.unwrap();
    assert_eq!(issued.leaf.ip_addresses, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
}

#[tokio::test]
async fn two_hundred_at_once_over_one_account_all_end() {
    // An error now and then; a hang now and then, with a long finalize.
    for (fault, nth, finalize_polls) in
        [(Fault::Problem(500, "serverInternal", None), 97, 3), (Fault::Hang, 197, 10)]
    {
        let script = Script {
            validation_polls: 3,
            finalize_polls,
            bad_nonces: 10,
            every: Some((nth, fault.clone())),
            ..Script::default()
        };
        let stage = Arc::new(Stage::with_http(script, http(Duration::from_secs(2))).await);
        let mut all = JoinSet::new();
        for index in 0..200 {
            let stage = Arc::clone(&stage);
            all.spawn(async move {
                let request = request(&[&format!("n{index}.example")]);
                obtain(&stage.account, &request, &Memory::default(), &stage.solver, &NoProgress).await
            });
        }
        for one in all.join_all().await {
            one.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        }
        assert_eq!(stage.ca.orders().1, 200, "{fault:?}");
        stage.assert_clean();
    }
}
