//! What goes wrong, and what is made of it.

use std::time::Duration;

use jiff::Timestamp;
use waxwing_acme::{
    Account, AccountKey, Actor, ChallengeType, Directory, Error, ExternalAccount, Failure, ObtainErrorKind,
    Problem, Retry, backoff, diagnose,
};

use crate::ca::Ca;
use crate::parts::{Log, Stage, http, request};
use crate::script::{Endpoint, Fault, Script};

const SIGNED: [Endpoint; 6] = [
    Endpoint::NewOrder,
    Endpoint::Order,
    Endpoint::Authorization,
    Endpoint::Challenge,
    Endpoint::Finalize,
    Endpoint::Certificate,
];

#[tokio::test]
async fn a_passing_fault_anywhere_costs_nothing() {
    let faults = [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Problem(500, "serverInternal", None),
        Fault::Problem(503, "serverInternal", Some(0)),
        Fault::Html(502),
        Fault::Problem(400, "badNonce", None),
    ];
    for endpoint in SIGNED {
        for fault in &faults {
            let stage = Stage::new(Script::default()).await;
            stage.ca.script().faults.push((endpoint, fault.clone()));
            let result = stage.obtain(&request(&["a.example"])).await;
            assert!(result.is_ok(), "{fault:?} at {endpoint:?}: {}", result.unwrap_err());
            assert_eq!(stage.ca.orders().1, 1, "{fault:?} at {endpoint:?}: one certificate");
            stage.assert_clean();
        }
    }
}

#[tokio::test]
async fn a_ca_that_hangs_once_is_asked_again() {
    for endpoint in SIGNED {
        for fault in [Fault::Hang, Fault::ActAndHang] {
            let stage = Stage::with_http(Script::default(), http(Duration::from_millis(200))).await;
            stage.ca.script().faults.push((endpoint, fault.clone()));
            let result = stage.obtain(&request(&["a.example"])).await;
            assert!(result.is_ok(), "{fault:?} at {endpoint:?}: {}", result.unwrap_err());
            assert_eq!(stage.ca.orders().1, 1);
        }
    }
}

#[tokio::test]
async fn a_ca_that_keeps_hanging_is_a_time_out_and_the_order_stays() {
    let stage = Stage::with_http(Script::default(), http(Duration::from_millis(100))).await;
    stage.ca.script().faults.extend(vec![(Endpoint::Finalize, Fault::Hang); 20]);
    let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert_eq!(error.class().actor, Actor::Network, "{error}");
    assert!(stage.journal.entry().is_some());
    assert_eq!(stage.log.count("clean up"), 0, "the next attempt goes on with it");
    stage.ca.script().faults.clear();
    stage.obtain(&request(&["a.example"])).await.unwrap();
    assert_eq!(stage.ca.orders(), (1, 1));
}

#[tokio::test]
async fn a_finalize_that_was_acted_on_is_not_sent_again() {
    let stage = Stage::new(Script::default()).await;
    stage.ca.script().faults.push((Endpoint::Finalize, Fault::CutAfter));
    stage.obtain(&request(&["a.example"])).await.unwrap();
    assert_eq!(stage.log.count("ca Finalize"), 1);
}

#[tokio::test]
async fn half_of_all_nonces_refused() {
    let stage = Stage::new(Script { bad_nonces: 50, ..Script::default() }).await;
    for index in 0..10 {
        *stage.journal.entry.lock().unwrap() = None;
        stage.obtain(&request(&[&format!("n{index}.example")])).await.unwrap();
    }
    assert_eq!(stage.ca.orders(), (10, 10));
    stage.assert_clean();
}

#[tokio::test]
async fn a_long_finalize_is_waited_for_as_the_ca_says() {
    let stage = Stage::new(Script { finalize_polls: 1, retry_after: Some(1), ..Script::default() }).await;
    stage.obtain(&request(&["a.example"])).await.unwrap();
    // Without Retry-After it would be asked every 5 ms.
    assert_eq!(stage.log.count("ca Order"), 2);
    assert_eq!(stage.log.count("ca Authorization"), 2);
}

#[tokio::test]
async fn a_ca_that_takes_too_long_leaves_the_order_open() {
    let stage = Stage::new(Script { finalize_polls: 1, retry_after: Some(3600), ..Script::default() }).await;
    let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert!(matches!(*error.kind, ObtainErrorKind::Deadline { .. }), "{error}");
    assert!(matches!(error.class().retry, Retry::NotBefore(_)));
    assert!(stage.journal.entry().is_some());
    stage.ca.script().retry_after = None;
    stage.obtain(&request(&["a.example"])).await.unwrap();
    assert_eq!(stage.ca.orders(), (1, 1));
}

#[tokio::test]
async fn a_poll_that_is_refused_is_not_repeated_before_the_time_that_the_ca_names() {
    let refusals =
        [Fault::Problem(503, "serverInternal", Some(3600)), Fault::Problem(429, "rateLimited", Some(3600))];
    // An authorization is read once before the CA is told, and an order is polled after it is finalized.
    for (endpoint, polls_before) in [(Endpoint::Authorization, 1), (Endpoint::Order, 0)] {
        for refusal in &refusals {
            let stage = Stage::new(Script::default()).await;
            let mut faults = vec![(endpoint, Fault::None); polls_before];
            faults.push((endpoint, refusal.clone()));
            stage.ca.script().faults = faults;
            let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
            let named = Timestamp::now() + Duration::from_mins(59);
            assert!(matches!(error.class().retry, Retry::NotBefore(at) if at > named), "{error}");
            assert!(error.problem().is_some(), "the CA's own words stay: {error}");
            assert_eq!(stage.log.count(&format!("ca {endpoint:?}")), polls_before + 1, "{refusal:?}");
            let issued = stage.obtain(&request(&["a.example"])).await.unwrap();
            assert_eq!(error.order_url, Some(issued.order_url), "the next attempt goes on with it");
        }
    }
}

#[tokio::test]
async fn a_rate_limit_is_typed_with_its_time_and_not_asked_again() {
    let stage = Stage::new(Script::default()).await;
    stage.ca.script().faults.push((Endpoint::NewOrder, Fault::Problem(429, "rateLimited", Some(3600))));
    let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert_eq!(error.class().actor, Actor::Ca);
    assert!(matches!(error.class().retry, Retry::NotBefore(_)), "{error}");
    assert_eq!(error.problem().map(Problem::acme_type), Some("rateLimited"));
    assert_eq!(stage.log.count("ca NewOrder"), 1);
    assert!(stage.journal.entry().is_none());
}

#[tokio::test]
async fn whatever_is_answered_retry_after_is_a_floor() {
    let read = [Endpoint::NewOrder, Endpoint::Order, Endpoint::Authorization, Endpoint::Finalize];
    let pages = SIGNED.into_iter().map(|endpoint| (endpoint, Fault::NotAcme("text/html")));
    let documents = read.into_iter().map(|endpoint| (endpoint, Fault::NotAcme("application/json")));
    let rejected = Fault::Problem(400, "rejectedIdentifier", Some(3600));
    for (endpoint, fault) in pages.chain(documents).chain([(Endpoint::NewOrder, rejected)]) {
        let stage = Stage::new(Script::default()).await;
        stage.ca.script().faults.push((endpoint, fault.clone()));
        let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
        let (class, named) = (error.class(), Timestamp::now() + Duration::from_mins(59));
        let next = backoff(1, &class, Timestamp::now(), None, 1);
        assert!(next > named, "{fault:?} at {endpoint:?}: {class:?}, {error}");
    }
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for() {
    let stage = Stage::new(Script::default()).await;
    stage.ca.script().faults.push((Endpoint::NewOrder, Fault::Problem(429, "rateLimited", Some(1))));
    stage.obtain(&request(&["a.example"])).await.unwrap();
}

#[tokio::test]
async fn a_ca_that_looked_in_vain_and_waits_is_told_again_and_not_for_ever() {
    let stage = Stage::new(Script { looks_in_vain: 4, ..Script::default() }).await;
    stage.obtain(&request(&["a.example"])).await.unwrap();
    assert_eq!(stage.log.count("ca Challenge"), 5);
    stage.assert_clean();

    let stage = Stage::new(Script { looks_in_vain: 99, ..Script::default() }).await;
    let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert_eq!(error.problem().map(Problem::acme_type), Some("connection"), "{error}");
    assert_eq!(stage.log.count("ca Challenge"), 5);
}

#[tokio::test]
async fn a_failed_validation_names_the_identifier_and_is_cleaned_up() {
    let stage = Stage::new(Script { invalid: Some(("b.example", "connection")), ..Script::default() }).await;
    let error = stage.obtain(&request(&["a.example", "b.example"])).await.unwrap_err();
    assert_eq!(error.identifier().map(ToString::to_string).as_deref(), Some("b.example"));
    assert_eq!(error.problem().map(Problem::acme_type), Some("connection"));
    assert_eq!(error.evidence.len(), 2);
    assert!(error.order_url.is_some());
    assert_eq!(stage.log.count("clean up"), 2);
    assert!(stage.journal.entry().is_none(), "there is nothing to go on with");
    let said = diagnose(&error, &error.evidence);
    assert!(said.cause.contains("b.example answers as expected from here"), "{said}");

    stage.ca.script().invalid = None;
    stage.obtain(&request(&["a.example", "b.example"])).await.unwrap();
    assert_eq!(stage.ca.orders(), (2, 1));
}

#[tokio::test]
async fn no_solver_for_what_the_ca_offers_is_for_the_user() {
    let stage = Stage::new(Script { offered: vec!["tls-alpn-01", "made-up-01"], ..Script::default() }).await;
    let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert!(matches!(*error.kind, ObtainErrorKind::NoSolver { .. }), "{error}");
    assert_eq!(error.class().retry, Retry::AfterChange);
}

#[tokio::test]
async fn a_ca_that_offers_something_else_is_answered_with_that() {
    let mut stage = Stage::new(Script { offered: vec!["dns-01"], ..Script::default() }).await;
    stage.solver.kind = ChallengeType::Dns01;
    stage.obtain(&request(&["a.example"])).await.unwrap();
}

#[tokio::test]
async fn a_solver_that_fails_is_ours() {
    let mut stage = Stage::new(Script::default()).await;
    stage.solver.fails = true;
    let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert!(error.to_string().contains("presenting the http-01 answer for a.example"), "{error}");
    assert_eq!(error.class().actor, Actor::Us);
    assert_eq!(stage.log.count("ca Challenge"), 0, "the CA isn't told");
}

#[tokio::test]
async fn nothing_is_presented_that_the_journal_does_not_have() {
    let stage = Stage::new(Script::default()).await;
    *stage.journal.broken.lock().unwrap() = true;
    let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
    assert_eq!(stage.log.count("ca Authorization"), 0);
    assert_eq!(stage.log.count("present"), 0);
}

#[tokio::test]
async fn a_certificate_for_other_names_is_not_kept() {
    let stage = Stage::new(Script { wrong_name: true, ..Script::default() }).await;
    let error = stage.obtain(&request(&["a.example"])).await.unwrap_err();
    assert!(error.to_string().contains("missing: a.example; not asked for: other.example"), "{error}");
    assert!(stage.journal.entry().is_none());
}

#[tokio::test]
async fn an_account_that_the_ca_forgot_is_said_so() {
    let stage = Stage::new(Script::default()).await;
    let fault = Fault::Problem(400, "accountDoesNotExist", None);
    stage.ca.script().faults.push((Endpoint::NewOrder, fault));
    assert!(stage.obtain(&request(&["a.example"])).await.unwrap_err().is_account_unknown());
}

#[tokio::test]
async fn an_account_is_bound_to_one_that_the_ca_knows() {
    let ca = Ca::start(Script { external_account: Some("kid-1"), ..Script::default() }, Log::default()).await;
    let http = http(Duration::from_secs(10));
    let directory = Directory::fetch(&http, &ca.directory).await.unwrap();
    let key = AccountKey::generate().unwrap();
    let refused = Account::register(&directory, &http, key.clone(), &[], None).await.unwrap_err();
    assert_eq!(refused.class().retry, Retry::AfterChange, "{refused}");
    let external = ExternalAccount { key_id: "kid-1".into(), hmac_key: vec![1; 32] };
    Account::register(&directory, &http, key, &[], Some(&external)).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_none_says_what_it_is() {
    let http = http(Duration::from_millis(200));
    let fetch = async |fault: Option<Fault>| {
        let script = Script {
            faults: fault.map(|fault| (Endpoint::Directory, fault)).into_iter().collect(),
            ..Script::default()
        };
        let ca = Ca::start(script, Log::default()).await;
        Directory::fetch(&http, &ca.directory).await
    };
    let directory = fetch(None).await.unwrap();
    assert_eq!(directory.meta().profiles["short"], "six days");
    assert!(directory.renewal_info().is_some());

    let error = fetch(Some(Fault::Html(200))).await.unwrap_err();
    assert!(error.to_string().contains("it is an HTML page"), "{error}");
    assert_eq!(error.class().actor, Actor::Ca, "an outage, most likely");
    let error = fetch(Some(Fault::Html(404))).await.unwrap_err();
    assert!(error.to_string().contains("status 404"), "{error}");
    assert_eq!(error.class().actor, Actor::User);
    fetch(Some(Fault::Html(502))).await.unwrap();
    fetch(Some(Fault::CutBefore)).await.unwrap();
    fetch(Some(Fault::Hang)).await.unwrap();

    let nobody = "http://127.0.0.1:1/directory".parse().unwrap();
    let error = Directory::fetch(&http, &nobody).await.unwrap_err();
    assert!(
        matches!(&error, Error::Request(request) if matches!(request.failure, Failure::Connect(_))),
        "{error}"
    );
    assert_eq!(error.class().actor, Actor::Network);
}
