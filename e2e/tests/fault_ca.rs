//! The fault CA does what it is told, and the engine bears it. No Kubernetes here: see trouble.rs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "fault_ca/foreign.rs"]
mod foreign;
#[path = "fault_ca/stage.rs"]
mod stage;

use std::time::Duration;

use e2e::{
    fault_ca::{
        Behaviour, Expired, Kind, Limit, Limits, Play, Problem, RetryAfter, Rule, Suggestion, Validation,
        Window,
    },
    http::Http,
};
use jiff::{SignedDuration, Timestamp};
use stage::{Stage, journal, register, request};
use waxwing_acme::{
    AccountKey, Actor, Issued, Journal as _, ObtainErrorKind, Problem as Refusal, Request, Retry,
};
use x509_parser::prelude::FromDer as _;

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn a_client_that_is_not_ours_is_served() {
    let stage = Stage::new().await;
    let chain = foreign::issue_and_revoke(&stage, "foreign.test").await;
    assert!(chain.matches("BEGIN CERTIFICATE").count() == 2, "{chain}");
    assert_eq!(stage.ca.signed(&["foreign.test"]), 1);
    let looked = stage.ca.looked();
    assert!(looked.len() == 1 && looked[0].name == "foreign.test" && looked[0].result.is_ok(), "{looked:?}");
    stage.assert_clean();
}

#[tokio::test]
async fn an_issuance_is_on_record() {
    let stage = Stage::new().await;
    stage.ca.clock().set("2030-01-01T00:00:00Z".parse().unwrap());
    let names = ["a.record.test", "b.record.test"];
    // By the CA's clock the certificate begins in years.
    let error = stage.obtain(&request(&names), &journal("record-future")).await.unwrap_err();
    assert!(matches!(&*error.kind, ObtainErrorKind::Certificate(_)), "{error}");

    stage.ca.clock().set(Timestamp::now());
    let issued = stage.obtain(&request(&names), &journal("record")).await.unwrap();
    assert_eq!(issued.leaf.dns_names, names);
    assert_eq!(
        issued.leaf.not_after.duration_since(issued.leaf.not_before),
        SignedDuration::try_from(DAY * 90).unwrap()
    );
    let root =
        x509_parser::pem::Pem::iter_from_buffer(stage.ca.issuance_root().as_bytes()).next().unwrap().unwrap();
    let intermediate =
        x509_parser::pem::Pem::iter_from_buffer(issued.chain_pem.as_bytes()).nth(1).unwrap().unwrap();
    let root = root.parse_x509().unwrap();
    intermediate.parse_x509().unwrap().verify_signature(Some(root.public_key())).unwrap();

    let (orders, asked) = (stage.ca.orders(), stage.ca.asked());
    assert_eq!(orders.iter().map(|order| order.status).collect::<Vec<_>>(), ["valid", "valid"]);
    assert_eq!(orders[1].serial.as_ref(), Some(&issued.leaf.serial));
    assert_eq!(Some(&orders[1].account), stage.ca.accounts().first());
    let first = asked.iter().find(|asked| asked.kind == Kind::Finalize).unwrap();
    assert_eq!((first.names.as_slice(), first.status), (&names.map(str::to_owned)[..], Some(200)));
    assert!(first.at.to_string().starts_with("2030-01-01T00:00:"), "{first:?}");
    assert_eq!(stage.ca.looked().len(), 2, "the second order has the first one's authorizations");
    stage.assert_clean();
}

#[tokio::test]
async fn what_passes_costs_no_second_certificate() {
    let plays: [fn() -> Play; 7] = [
        || Play::CutBefore,
        || Play::CutAfter,
        || Play::Slow(Duration::from_millis(50)),
        || Play::Html(502),
        || Play::Refuse(Problem::internal(500)),
        || Play::Refuse(Problem::internal(503).retry_after(RetryAfter::Seconds(0))),
        || Play::Refuse(Problem::bad_nonce()),
    ];
    let stage = Stage::new().await;
    for kind in SIGNED {
        for play in plays {
            // More nonces in a row than of any other trouble.
            let times = if matches!(play(), Play::Refuse(Problem { status: 400, .. })) { 10 } else { 2 };
            let name = format!("{kind:?}-{}.passes.test", stage.ca.orders().len()).to_ascii_lowercase();
            stage.ca.play(Rule::new(kind, play()).name(&name).times(times));
            if kind == Kind::Order {
                // Else no order is polled.
                stage.ca.play(Rule::new(Kind::Finalize, Play::Processing(Some(1))).name(&name));
            }
            let result = stage.obtain(&request(&[&name]), &journal(&name)).await;
            assert!(result.is_ok(), "{:?} at {kind:?}: {}", play(), result.unwrap_err());
            assert_eq!(stage.ca.signed(&[&name]), 1, "{:?} at {kind:?}", play());
        }
    }
    stage.assert_clean();
}

#[tokio::test]
async fn a_page_with_status_200_is_no_answer_and_nothing_is_lost() {
    let stage = Stage::new().await;
    for kind in SIGNED {
        let (name, journal) =
            (format!("{kind:?}.html.test").to_ascii_lowercase(), journal(&format!("html-{kind:?}")));
        let page = stage.ca.play(Rule::new(kind, Play::Html(200)).name(&name));
        if kind == Kind::Order {
            stage.ca.play(Rule::new(Kind::Finalize, Play::Processing(Some(1))).name(&name));
        }
        let error = stage.obtain(&request(&[&name]), &journal).await.unwrap_err();
        assert!(error.to_string().contains("it is an HTML page"), "{kind:?}: {error}");
        assert_ne!(error.class().retry, Retry::AfterChange, "{kind:?}");
        stage.ca.stop(page);
        stage.obtain(&request(&[&name]), &journal).await.unwrap();
        assert_eq!(stage.ca.signed(&[&name]), 1, "{kind:?}");
    }
    stage.assert_clean();
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back() {
    let stage = Stage::new().await;
    let week = DAY * 7;
    let floors = [
        (Some(RetryAfter::Seconds(week.as_secs())), true),
        (Some(RetryAfter::Date(week)), true),
        (Some(RetryAfter::Text("next week".to_owned())), false),
        (None, false),
    ];
    for (index, (retry_after, named)) in floors.into_iter().enumerate() {
        let name = format!("limited-{index}.test");
        let refusal = Problem { retry_after, ..Problem::rate_limited() };
        stage.ca.play(Rule::new(Kind::NewOrder, Play::Refuse(refusal)).name(&name));
        let error = stage.obtain(&request(&[&name]), &journal(&name)).await.unwrap_err();
        match error.class().retry {
            Retry::NotBefore(at) => {
                assert!(named && from_now(at) <= week && from_now(at) > DAY * 6, "{name}: {at}");
            }
            other => assert!(!named && other == Retry::Backoff, "{name}: {other:?}"),
        }
        assert_eq!(stage.ca.count(Kind::NewOrder, &name), 1, "it isn't asked again");
    }
    stage.assert_clean();
}

#[tokio::test]
async fn limits_are_enforced_by_the_cas_clock_and_renewals_are_exempt() {
    let once = |hours| Some(Limit { count: 1, period: Duration::from_hours(hours) });
    let limits = Limits { certificates_per_domain: once(2), new_orders: once(1), ..Limits::default() };
    let stage = Stage::with(Behaviour { limits, ..Behaviour::default() }).await;
    let journal = journal("limits");
    let first = obtain_anew(&stage, &request(&["a.limits.test"])).await.unwrap();
    let error = stage.obtain(&request(&["b.limits.test"]), &journal).await.unwrap_err();
    assert_eq!(error.problem().map(Refusal::acme_type), Some("rateLimited"));
    assert!(
        error
            .to_string()
            .contains("too many certificates (1) already issued for \"limits.test\" in the last 2h0m0s"),
        "{error}"
    );
    assert!(matches!(error.class().retry, Retry::NotBefore(at) if from_now(at) > Duration::from_mins(118)));

    // The same names again: no new ones. And what says that it replaces, in its window, is exempt from all.
    obtain_anew(&stage, &request(&["a.limits.test"])).await.unwrap();
    let now = Timestamp::now();
    stage.ca.behave(|behaviour| {
        behaviour.limits.certificates_per_set = once(2);
        behaviour.suggestion = Suggestion::new(Window::At(
            now - SignedDuration::from_hours(1),
            now + SignedDuration::from_hours(1),
        ));
    });
    obtain_anew(&stage, &request(&["a.limits.test"])).await.unwrap();
    let error = obtain_anew(&stage, &request(&["a.limits.test"])).await.unwrap_err();
    assert!(error.to_string().contains("for this exact set of domains"), "{error}");
    obtain_anew(&stage, &replacing(&first)).await.unwrap();

    stage.ca.clock().advance(Duration::from_hours(2));
    stage.ca.behave(|behaviour| behaviour.limits.certificates_per_set = None);
    stage.ca.behave(|behaviour| behaviour.suggestion = Suggestion::default());
    let error = stage.obtain(&request(&["b.limits.test"]), &journal).await;
    assert!(
        error.is_ok() || error.is_err_and(|error| matches!(*error.kind, ObtainErrorKind::Certificate(_)))
    );
    assert_eq!(stage.ca.signed(&["b.limits.test"]), 1, "there is room again");
}

#[tokio::test]
async fn failed_validations_are_limited_for_each_name() {
    let limits = Limits {
        failed_validations: Some(Limit { count: 2, period: Duration::from_hours(1) }),
        ..Limits::default()
    };
    let stage = Stage::with(Behaviour { limits, ..Behaviour::default() }).await;
    let silent = Behaviour { http01_at: "127.0.0.1:1".parse().ok(), ..Behaviour::default() };
    let edge = stage.edge.address;
    stage.ca.behave(|behaviour| behaviour.http01_at = silent.http01_at);
    for _ in 0..2 {
        let error = stage.obtain(&request(&["fails.test"]), &journal("fails")).await.unwrap_err();
        assert_eq!(error.problem().map(Refusal::acme_type), Some("connection"), "{error}");
        assert!(error.to_string().contains("Connection refused"), "{error}");
    }
    stage.ca.behave(|behaviour| behaviour.http01_at = Some(edge));
    let error = stage.obtain(&request(&["fails.test"]), &journal("fails")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("too many failed authorizations (2) for \"fails.test\" in the last 1h0m0s"),
        "{error}"
    );
    stage.obtain(&request(&["passes.test"]), &journal("passes")).await.unwrap();
    assert_eq!(stage.orders(), ["invalid", "invalid", "valid"]);
    assert_eq!(stage.ca.looked().iter().filter(|looked| looked.result.is_err()).count(), 2);
    stage.assert_clean();
}

#[tokio::test]
async fn an_order_that_expired_is_made_anew() {
    for expired in [Expired::Gone, Expired::Invalid] {
        let stage = Stage::with(Behaviour { expired, ..Behaviour::default() }).await;
        let (name, journal) = ("expires.test", journal(&format!("expires-{expired:?}")));
        let never = stage.ca.play(Rule::new(Kind::Challenge, Play::Validate(Validation::Never)));
        let error = stage.try_soon(&request(&[name]), &journal).await.unwrap_err();
        assert!(matches!(*error.kind, ObtainErrorKind::Deadline { .. }), "{expired:?}: {error}");
        stage.ca.stop(never);
        stage.ca.clock().advance(DAY * 8);
        // What is issued by that clock begins in a week, which is another test's concern.
        let _ = stage.obtain(&request(&[name]), &journal).await;
        let gone = if expired == Expired::Gone { "expired" } else { "invalid" };
        assert_eq!(stage.orders(), [gone, "valid"], "{expired:?}");
        stage.assert_clean();
    }
}

#[tokio::test]
async fn an_authorization_that_expires_under_way_ends_the_order_and_a_valid_one_is_reused() {
    let behaviour = Behaviour { authorization_lifetime: DAY, ..Behaviour::default() };
    let stage = Stage::with(behaviour).await;
    obtain_anew(&stage, &request(&["a.reuse.test"])).await.unwrap();
    obtain_anew(&stage, &request(&["a.reuse.test", "b.reuse.test"])).await.unwrap();
    assert_eq!(
        stage.ca.looked().iter().map(|looked| looked.name.as_str()).collect::<Vec<_>>(),
        ["a.reuse.test", "b.reuse.test"]
    );

    let stage =
        Stage::with(Behaviour { expired: Expired::Invalid, pending_lifetime: DAY, ..Behaviour::default() })
            .await;
    let journal = journal("authorization-expires");
    stage.ca.play(Rule::new(Kind::Challenge, Play::Validate(Validation::Never)).times(1));
    stage.try_soon(&request(&["c.reuse.test"]), &journal).await.unwrap_err();
    stage.ca.clock().advance(DAY * 2);
    let _ = stage.obtain(&request(&["c.reuse.test"]), &journal).await;
    assert_eq!(stage.orders(), ["invalid", "valid"]);
}

#[tokio::test]
async fn an_open_order_is_given_again_and_the_slower_key_gets_another() {
    let stage = Stage::new().await;
    let (slow, fast) = (journal("shared-slow"), journal("shared-fast"));
    let asked = request(&["shared.test"]);
    stage.ca.play(Rule::new(Kind::Finalize, Play::Refuse(Problem::rate_limited())).times(1));
    let error = stage.obtain(&asked, &slow).await.unwrap_err();
    assert_eq!(stage.orders(), ["ready"]);
    // As another cluster with the same account does.
    let other = stage.obtain(&asked, &fast).await.unwrap();
    assert_eq!(error.order_url.as_ref(), Some(&other.order_url));
    let own = stage.obtain(&asked, &slow).await.unwrap();
    assert_ne!(own.order_url, other.order_url);
    assert_eq!(stage.orders(), ["valid", "valid"]);

    stage.ca.play(Rule::new(Kind::Finalize, Play::Refuse(Problem::rate_limited())).times(1));
    stage.obtain(&request(&["profile.test"]), &journal("shared-plain")).await.unwrap_err();
    let profile = Request { profile: Some("shortlived".into()), ..request(&["profile.test"]) };
    let short = obtain_anew(&stage, &profile).await.unwrap();
    assert_eq!(
        short.leaf.not_after.duration_since(short.leaf.not_before),
        SignedDuration::from_hours(6 * 24)
    );
    assert_eq!(stage.orders(), ["valid", "valid", "ready", "valid"], "another profile, another order");
    stage.assert_clean();
}

#[tokio::test]
async fn what_was_replaced_already_is_issued_all_the_same() {
    let stage = Stage::new().await;
    let first = obtain_anew(&stage, &request(&["replaced.test"])).await.unwrap();
    obtain_anew(&stage, &replacing(&first)).await.unwrap();
    obtain_anew(&stage, &replacing(&first)).await.unwrap();
    let asked = stage.ca.asked();
    let orders: Vec<_> = asked
        .iter()
        .filter(|asked| asked.kind == Kind::NewOrder)
        .map(|asked| (asked.replaces.is_some(), asked.status))
        .collect();
    assert_eq!(orders, [(false, Some(201)), (true, Some(201)), (true, Some(409)), (false, Some(201))]);
    stage.assert_clean();
}

#[tokio::test]
async fn an_order_in_processing_is_waited_for_and_taken_up_again() {
    let stage = Stage::new().await;
    stage.ca.behave(|behaviour| behaviour.poll_after = Some(RetryAfter::Seconds(0)));
    stage.ca.play(Rule::new(Kind::Finalize, Play::Processing(Some(3))).name("soon.test"));
    stage.obtain(&request(&["soon.test"]), &journal("soon")).await.unwrap();
    assert_eq!(stage.ca.count(Kind::Order, "soon.test"), 4);

    stage.ca.play(Rule::new(Kind::Finalize, Play::Processing(None)).name("stuck.test"));
    let journal = journal("stuck");
    for _ in 0..2 {
        let error = stage.try_soon(&request(&["stuck.test"]), &journal).await.unwrap_err();
        assert!(matches!(*error.kind, ObtainErrorKind::Deadline { .. }), "{error}");
    }
    stage.ca.release_orders();
    stage.obtain(&request(&["stuck.test"]), &journal).await.unwrap();
    assert_eq!((stage.ca.signed(&["stuck.test"]), stage.ca.count(Kind::Finalize, "stuck.test")), (1, 1));
    stage.assert_clean();
}

#[tokio::test]
async fn an_account_that_is_forgotten_is_said_so_and_registered_again() {
    let stage = Stage::new().await;
    let key = AccountKey::generate().unwrap();
    let account = register(&stage.authority, &stage.ca, key.clone()).await;
    assert_eq!(stage.ca.accounts().len(), 2);
    stage.ca.forget_accounts();
    assert!(account.is_valid().await.unwrap_err().is_account_unknown());
    let again = register(&stage.authority, &stage.ca, key).await;
    assert_ne!(again.url(), account.url());
    assert_eq!(stage.ca.accounts().len(), 1);
    stage.assert_clean();
}

#[tokio::test]
async fn rules_are_for_an_account_too() {
    let stage = Stage::new().await;
    let other = Stage {
        account: register(&stage.authority, &stage.ca, AccountKey::generate().unwrap()).await,
        ..stage
    };
    let refusal = Play::Refuse(Problem::rate_limited());
    other.ca.play(Rule::new(Kind::NewOrder, refusal).account(&other.ca.accounts()[0]));
    obtain_anew(&other, &request(&["mine.test"])).await.unwrap();
    other
        .ca
        .play(Rule::new(Kind::NewOrder, Play::Refuse(Problem::rate_limited())).account(other.account.url()));
    let error = obtain_anew(&other, &request(&["other.test"])).await.unwrap_err();
    assert_eq!(error.class().actor, Actor::Ca, "{error}");
}

#[tokio::test]
async fn renewal_information_is_as_the_test_says() {
    let stage = Stage::new().await;
    let issued = obtain_anew(&stage, &request(&["ari.test"])).await.unwrap();
    let leaf = &issued.leaf;
    let ask = async || stage.account.renewal_info(leaf.ari_id.as_deref().unwrap()).await.unwrap().unwrap();
    for (window, sensible) in [
        (Window::Usual, true),
        (Window::Past, true),
        (Window::Reversed, false),
        (Window::FarFuture, false),
        (Window::YearsWide, false),
    ] {
        stage.ca.behave(|behaviour| behaviour.suggestion = Suggestion::new(window));
        let said = ask().await.window;
        assert_eq!(said.is_sensible(leaf.not_before, leaf.not_after), sensible, "{window:?}: {said:?}");
    }
    let explained = Suggestion {
        retry_after: None,
        explanation_url: Some("https://ca.example/why".to_owned()),
        ..Suggestion::new(Window::Past)
    };
    stage.ca.play(Rule::new(Kind::RenewalInfo, Play::Suggest(explained)).name("ari.test").times(1));
    let info = ask().await;
    assert_eq!(info.explanation_url.as_deref(), Some("https://ca.example/why"));
    assert!(info.window.end < Timestamp::now());
    assert!(from_now(info.ask_again) > Duration::from_hours(5), "without Retry-After: in six hours");
    assert_eq!(ask().await.explanation_url, None, "once");
    assert!(stage.account.renewal_info("AAAA.AAAA").await.is_err());
    stage.assert_clean();
}

#[tokio::test]
async fn a_revoked_certificate_is_listed_and_due() {
    let stage = Stage::new().await;
    let issued = obtain_anew(&stage, &request(&["revoked.test"])).await.unwrap();
    let other = obtain_anew(&stage, &request(&["kept.test"])).await.unwrap();
    assert!(listed(&stage, &issued).await.is_empty());
    assert!(stage.ca.revoke(&issued.leaf.serial));
    assert!(!stage.ca.revoke("00"));
    assert_eq!(listed(&stage, &issued).await, [issued.leaf.serial.as_str()]);
    let window = async |issued: &Issued| {
        stage.account.renewal_info(issued.leaf.ari_id.as_deref().unwrap()).await.unwrap().unwrap().window
    };
    assert!(window(&issued).await.end < Timestamp::now());
    assert!(window(&other).await.start > Timestamp::now());
}

#[tokio::test]
async fn a_clock_that_is_a_day_off_shows_in_dates_and_certificates() {
    let stage = Stage::new().await;
    let http = Http::new(stage.authority.pem()).unwrap();
    for hours in [-24, 24] {
        stage.ca.clock().set_ahead(SignedDuration::from_hours(hours));
        let answer = http.get(&stage.ca.directory()).await.unwrap();
        let date = answer.headers["date"].to_str().unwrap();
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).unwrap();
        let off = date.duration_since(Timestamp::now()) - SignedDuration::from_hours(hours);
        assert!(off.abs() < SignedDuration::from_mins(1), "{off}");
        let journal = journal(&format!("off-{hours}"));
        let issued = stage.obtain(&request(&["clock.test"]), &journal).await;
        // A certificate that begins yesterday is as good as any; one that begins tomorrow is of no use today.
        let Err(error) = issued else {
            assert_eq!(hours, -24);
            continue;
        };
        assert!(
            matches!(error.class().retry, Retry::NotBefore(at) if from_now(at) > DAY * 9 / 10),
            "{error}"
        );
        // Another one would begin no sooner: this one is kept.
        stage.obtain(&request(&["clock.test"]), &journal).await.unwrap_err();
        assert_eq!(stage.orders(), ["valid", "valid"]);
    }
}

/// The kinds of signed requests of an issuance.
const SIGNED: [Kind; 6] =
    [Kind::NewOrder, Kind::Order, Kind::Authorization, Kind::Challenge, Kind::Finalize, Kind::Certificate];

/// Obtains a certificate with an empty journal.
async fn obtain_anew(stage: &Stage, request: &Request) -> Result<Issued, waxwing_acme::ObtainError> {
    let journal = journal(&format!("anew-{}", request.identifiers[0]));
    let issued = stage.obtain(request, &journal).await?;
    journal.clear().await.unwrap();
    Ok(issued)
}

fn replacing(issued: &Issued) -> Request {
    let names: Vec<&str> = issued.leaf.dns_names.iter().map(String::as_str).collect();
    Request { replaces: issued.leaf.ari_id.clone(), ..request(&names) }
}

/// The serial numbers in the list that a certificate names, whose signature is checked.
async fn listed(stage: &Stage, issued: &Issued) -> Vec<String> {
    let pems: Vec<_> =
        x509_parser::pem::Pem::iter_from_buffer(issued.chain_pem.as_bytes()).map(Result::unwrap).collect();
    let (leaf, issuer) = (pems[0].parse_x509().unwrap(), pems[1].parse_x509().unwrap());
    let text = format!("{:?}", leaf.extensions());
    let url = stage.ca.crl_url();
    assert!(text.contains(&url), "the certificate names {url}: {text}");
    let list = raw(&url).await;
    let (_, list) = x509_parser::revocation_list::CertificateRevocationList::from_der(&list).unwrap();
    list.verify_signature(issuer.public_key()).unwrap();
    let hex = |bytes: &[u8]| {
        let significant = bytes.iter().skip_while(|byte| **byte == 0);
        significant
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(u32::from(digit), 16))
            .collect()
    };
    list.iter_revoked_certificates().map(|one| hex(one.raw_serial())).collect()
}

/// A body that isn't text.
async fn raw(url: &str) -> Vec<u8> {
    use http_body_util::BodyExt as _;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<http_body_util::Empty<bytes::Bytes>>();
    let answer = client.get(url.parse().unwrap()).await.unwrap();
    answer.into_body().collect().await.unwrap().to_bytes().to_vec()
}

fn from_now(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}
