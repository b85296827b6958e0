//! A process that dies anywhere: the next one goes on.

use std::time::Duration;

use waxwing_acme::{Account, AccountKey, Directory, Entry, Request, abandon};

use crate::parts::{Stage, TIMING, http, request};
use crate::script::{Endpoint, Fault, Script};

/// Dies while it waits for the answer to its n-th request, for each n; acted on or not.
#[tokio::test]
async fn killed_at_each_request_it_goes_on_with_the_same_order() {
    for fault in [Fault::Hang, Fault::ActAndHang] {
        for nth in 1.. {
            let stage = Stage::new(Script { validation_polls: 1, ..Script::default() }).await;
            let request = request(&["a.example", "b.example"]);
            let at = stage.ca.requests() + nth;
            stage.ca.script().fault_at = Some((at, fault.clone()));
            let died = tokio::select! {
                result = stage.obtain(&request) => {
                    result.unwrap();
                    false
                }
                () = async { while stage.ca.requests() < at { tokio::task::yield_now().await } } => true,
            };
            if !died {
                assert!(nth > 8, "it took {nth} requests");
                break;
            }
            let before = stage.journal.entry();
            let issued = stage.obtain(&request).await.unwrap();
            let (orders, finalized) = stage.ca.orders();
            assert_eq!(finalized, 1, "{fault:?} at {nth}: one certificate");
            assert!(orders <= 2, "{fault:?} at {nth}: at most one orphan, not {orders}");
            if let Some(before) = before {
                assert_eq!(orders, 1, "{fault:?} at {nth}");
                assert_eq!(before.order_url, issued.order_url, "{fault:?} at {nth}: the same order");
                assert_eq!(
                    before.private_key_pem, issued.private_key_pem,
                    "{fault:?} at {nth}: the same key"
                );
            }
            assert_eq!(stage.log.count("clear"), 0, "only the caller clears");
            stage.assert_clean();
        }
    }
}

#[tokio::test]
async fn another_request_is_another_order_and_the_old_one_is_cleaned_up() {
    let stage = Stage::new(Script::default()).await;
    stage.obtain(&request(&["a.example", "b.example"])).await.unwrap();
    stage.log.take();
    let issued = stage.obtain(&request(&["a.example"])).await.unwrap();
    assert_eq!(issued.leaf.dns_names, ["a.example"]);
    assert_eq!(stage.ca.orders(), (2, 2));
    let log = stage.log.take();
    assert_eq!(log[0], "clean up b.example", "a.example is presented again, so it stays: {log:?}");
}

#[tokio::test]
async fn only_what_fits_is_resumed() {
    type Change = fn(&mut Entry);
    let changes: [(&str, Change); 5] = [
        ("account", |entry| entry.account_url.push('x')),
        ("thumbprint", |entry| entry.thumbprint.push('x')),
        ("request", |entry| entry.request_hash.push('x')),
        ("origin", |entry| entry.order_url = "http://127.0.0.2:1/order/0".into()),
        ("gone", |entry| entry.order_url.push_str("99")),
    ];
    for (what, change) in changes {
        let stage = Stage::new(Script::default()).await;
        let first = stage.obtain(&request(&["a.example"])).await.unwrap();
        change(stage.journal.entry.lock().unwrap().as_mut().unwrap());
        let second = stage.obtain(&request(&["a.example"])).await.unwrap();
        assert_ne!(first.order_url, second.order_url, "{what}");
        assert_ne!(first.private_key_pem, second.private_key_pem, "{what}");
    }
}

#[tokio::test]
async fn a_finished_order_that_was_not_stored_is_downloaded_again() {
    let stage = Stage::new(Script::default()).await;
    let first = stage.obtain(&request(&["a.example"])).await.unwrap();
    stage.log.take();
    let second = stage.obtain(&request(&["a.example"])).await.unwrap();
    assert_eq!(first.chain_pem, second.chain_pem);
    assert_eq!(stage.log.take(), ["ca Order", "ca Certificate", "clean up a.example"]);
}

#[tokio::test]
async fn another_key_to_reuse_is_another_order() {
    let stage = Stage::new(Script::default()).await;
    let first = stage.obtain(&request(&["a.example"])).await.unwrap();
    let other = waxwing_acme::Secret::new(rcgen::KeyPair::generate().unwrap().serialize_pem());
    let request = Request { reuse_key: Some(other.clone()), ..request(&["a.example"]) };
    let second = stage.obtain(&request).await.unwrap();
    assert_ne!(first.order_url, second.order_url);
    assert_eq!(second.private_key_pem, other);
}

#[tokio::test]
async fn an_account_whose_answer_was_lost_is_not_made_twice() {
    let stage = Stage::new(Script::default()).await;
    let http = http(Duration::from_secs(10));
    let directory = Directory::fetch(&http, &stage.ca.directory).await.unwrap();
    let key = AccountKey::generate().unwrap();
    stage.ca.script().faults.push((Endpoint::NewAccount, Fault::CutAfter));
    let contact = ["mailto:ops@example.com".to_owned()];
    let account = Account::register(&directory, &http, key.clone(), &contact, None).await.unwrap();
    let again = Account::register(&directory, &http, key.clone(), &contact, None).await.unwrap();
    assert_eq!(account.url(), again.url());
    assert_eq!(stage.ca.accounts(), 2, "the stage's own, and this one");

    let restored = Account::restore(&directory, &http, key, account.url()).await.unwrap().with_timing(TIMING);
    assert!(restored.is_valid().await.unwrap());
    stage.assert_clean();
}

#[tokio::test]
async fn an_order_that_is_given_up_leaves_nothing() {
    let stage = Stage::new(Script { retry_after: Some(3600), ..Script::default() }).await;
    stage.ca.script().validation_polls = 100;
    stage.obtain(&request(&["a.example", "b.example"])).await.unwrap_err();
    assert!(stage.journal.entry().is_some());
    abandon(&stage.account, &stage.journal, &stage.solver).await.unwrap();
    assert!(stage.journal.entry().is_none());
    assert_eq!(stage.log.count("clean up"), 2);
    assert_eq!(stage.ca.authorizations("deactivated").len(), 2);
    abandon(&stage.account, &stage.journal, &stage.solver).await.unwrap();
    stage.assert_clean();
}

#[tokio::test]
async fn giving_up_needs_no_ca() {
    let stage = Stage::new(Script::default()).await;
    stage.obtain(&request(&["a.example"])).await.unwrap();
    stage
        .ca
        .script()
        .faults
        .extend(vec![(Endpoint::Order, Fault::Problem(503, "serverInternal", Some(600))); 5]);
    abandon(&stage.account, &stage.journal, &stage.solver).await.unwrap();
    assert!(stage.journal.entry().is_none());
}

#[tokio::test]
async fn an_error_page_does_not_make_an_order_gone() {
    let stage = Stage::new(Script::default()).await;
    let first = stage.obtain(&request(&["a.example"])).await.unwrap();
    stage.ca.script().faults.push((Endpoint::Order, Fault::Html(403)));
    stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert_eq!(stage.obtain(&request(&["a.example"])).await.unwrap().order_url, first.order_url);
}
