//! The engine alone against a Pebble that stops, goes on, and begins again empty.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod engine;

use e2e::lab::{Lab, Parts, PebbleOptions};
use engine::{directory, journal, request, run};
use waxwing_acme::{Account, AccountKey, ExternalAccount, Journal as _, RequestError};

#[tokio::test]
async fn a_ca_that_stops_and_one_that_forgets() {
    let mut options = PebbleOptions::default();
    // 32 times the byte 7, in base64url.
    options
        .external_accounts
        .insert("kid-1".to_owned(), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc".to_owned());
    let parts = Parts { pebble: Some(options), ..Parts::default() };
    let lab = Lab::start("engine-faults", parts).await.unwrap();
    let pebble = lab.pebble().unwrap();

    let (http, directory) = directory(&lab, &pebble.directory()).await;
    assert!(directory.meta().external_account_required);
    let key = AccountKey::generate().unwrap();
    let refused = Account::register(&directory, &http, key.clone(), &[], None).await.unwrap_err();
    assert_eq!(refused.request().map(RequestError::acme_type), Some("externalAccountRequired"));
    let external = ExternalAccount { key_id: "kid-1".into(), hmac_key: vec![7; 32] };
    let account = Account::register(&directory, &http, key.clone(), &[], Some(&external)).await.unwrap();

    // It stops as soon as the journal has the order.
    let (name, journal) = ("stops.example.test", journal("stops"));
    let asked = request(&[name]);
    let stopped = {
        let stop = async {
            while journal.load().await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
            pebble.freeze().unwrap();
        };
        let attempt = run(&account, &asked, &journal);
        tokio::join!(attempt, stop).0
    };
    let open = journal.load().await.unwrap().unwrap();
    pebble.thaw().unwrap();
    let issued = run(&account, &asked, &journal).await.unwrap();
    assert_eq!(issued.order_url, open.order_url, "{stopped:?}");
    assert_eq!(issued.private_key_pem, open.private_key_pem);

    // It forgets everything; the journal's order is gone with it.
    pebble.restart_empty().await.unwrap();
    let error = run(&account, &asked, &journal).await.unwrap_err();
    assert!(error.is_account_unknown(), "{error}");
    let account = Account::register(&directory, &http, key, &[], Some(&external)).await.unwrap();
    let again = run(&account, &asked, &journal).await.unwrap();
    assert_ne!(again.order_url, open.order_url);
}
