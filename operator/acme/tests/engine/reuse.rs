//! CAs that answer with orders that are there already.

use std::sync::Arc;

use waxwing_acme::{NoProgress, ObtainErrorKind, Request, obtain};

use crate::parts::{Memory, Stage, request};
use crate::script::Script;

#[tokio::test]
async fn an_order_with_another_keys_certificate_is_left_without_back_off() {
    let stage = Stage::new(Script { foreign_orders: 2, ..Script::default() }).await;
    stage.obtain(&request(&["a.example"])).await.unwrap();
    // Two foreign ones, and our own.
    assert_eq!(stage.ca.orders(), (3, 3));
    assert_eq!(stage.log.count("save"), 3);
}

#[tokio::test]
async fn a_ca_that_keeps_answering_with_the_same_foreign_order_is_an_error() {
    let stage = Stage::new(Script { same_foreign_order: true, ..Script::default() }).await;
    let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert!(matches!(*error.kind, ObtainErrorKind::ForeignOrder), "{error}");
    assert_eq!(stage.log.count("ca NewOrder"), 2);
}

#[tokio::test]
async fn a_pending_order_given_again_is_fine() {
    let stage = Stage::new(Script { reuse_orders: true, ..Script::default() }).await;
    // Its answer is lost, so it is asked for again: the same order comes back.
    stage.ca.script().faults.push((crate::script::Endpoint::NewOrder, crate::script::Fault::CutAfter));
    stage.obtain(&request(&["a.example"])).await.unwrap();
    assert_eq!(stage.ca.orders(), (1, 1));
}

#[tokio::test]
async fn two_for_the_same_names_fly_one_after_the_other() {
    let script = Script { reuse_orders: true, validation_polls: 3, finalize_polls: 3, ..Script::default() };
    let stage = Arc::new(Stage::new(script).await);
    let fly = |stage: Arc<Stage>| async move {
        let request = request(&["a.example", "b.example"]);
        obtain(&stage.account, &request, &Memory::default(), &stage.solver, &NoProgress).await
    };
    let (one, two) = tokio::join!(fly(Arc::clone(&stage)), fly(Arc::clone(&stage)));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.private_key_pem, two.private_key_pem);
    assert_ne!(one.order_url, two.order_url, "each finalized its own order");
    assert_eq!(stage.ca.orders(), (2, 2));
    assert_eq!(stage.log.count("ca NewOrder"), 2, "none found the other's order");
}

#[tokio::test]
async fn what_is_replaced_already_is_ordered_without_saying_so() {
    for kind in ["alreadyReplaced", "malformed"] {
        let stage = Stage::new(Script { refuse_replaces: Some(kind), ..Script::default() }).await;
        let request = Request { replaces: Some("YXV0aA.c2VyaWFs".into()), ..request(&["a.example"]) };
        let issued = stage.obtain(&request).await.unwrap();
        assert_eq!(issued.replaces, None, "it isn't exempt from the CA's limits");
        assert_eq!(stage.log.count("ca NewOrder"), 2);
        let entry = stage.journal.entry().unwrap();
        assert_eq!(entry.replaces, None);
        assert_eq!(entry.request_hash, request.hash(), "it is resumed for the same request");
    }
}

#[tokio::test]
async fn a_ca_that_does_not_echo_replaces_loses_no_order() {
    let stage = Stage::new(Script { forget_replaces: true, ..Script::default() }).await;
    let request = Request { replaces: Some("YXV0aA.c2VyaWFs".into()), ..request(&["a.example"]) };
    let issued = stage.obtain(&request).await.unwrap();
    assert_eq!(stage.ca.orders(), (1, 1));
    assert_eq!((issued.replaces, stage.journal.entry().unwrap().replaces), (None, None));
}
