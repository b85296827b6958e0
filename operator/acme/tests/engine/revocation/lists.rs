//! Lists of revoked certificates.

use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use jiff::SignedDuration;
use rcgen::{CrlScope, CustomExtension, date_time_ymd};
use waxwing_acme::{RevocationConfig, RevocationSources, RevocationStatus, Revocations};

use super::pki::{Ca, Server, ask, now, responder, revocations, scope};

#[tokio::test]
async fn a_list_is_fetched_once_for_all_that_name_it() {
    let (ca, server, revocations) = (Ca::new("CA"), Server::start().await, revocations());
    server.serves(ca.list_with(&[1, 300], |list| {
        list.issuing_distribution_point = Some(scope(&server.url));
    }));
    let chain = |serial| ca.chain(serial, &[&server.url]);
    let revoked = "revoked since 2026-11-19T00:00:00Z, keyCompromise";
    let (good, bad, also_bad) = (chain(2), chain(300), chain(1));
    let (good, bad, also_bad) = tokio::join!(
        ask(&revocations, &good, now()),
        ask(&revocations, &bad, now()),
        ask(&revocations, &also_bad, now())
    );
    assert_eq!((&*good, &*bad, &*also_bad), ("good", revoked, revoked));
    assert_eq!(server.asked(), 1);
    let sources = RevocationSources::of(&chain(2)).unwrap();
    let answer = revocations.ask(&sources, now()).await;
    assert_eq!(answer.holds_until, Some("2026-11-26T00:00:00Z".parse().unwrap()));
}

#[tokio::test]
async fn a_list_is_fetched_again_after_hours_and_a_failure_after_one() {
    let (ca, server, revocations) = (Ca::new("CA"), Server::start().await, revocations());
    let chain = ca.chain(1, &[&server.url]);
    let after = |minutes| now() + SignedDuration::from_mins(minutes);
    assert!(ask(&revocations, &chain, now()).await.ends_with("status 404"));
    server.serves(ca.list(&[]));
    assert!(ask(&revocations, &chain, after(59)).await.ends_with("status 404"), "not asked again so soon");
    assert_eq!(server.asked(), 1);
    assert_eq!(ask(&revocations, &chain, after(60)).await, "good");
    server.serves(ca.list(&[1]));
    assert_eq!(ask(&revocations, &chain, after(60 + 5 * 60)).await, "good", "the same list");
    assert!(ask(&revocations, &chain, after(60 + 6 * 60)).await.starts_with("revoked"));
    assert_eq!(server.asked(), 3);
    // Who asks later may have looked at the clock earlier; one that was set back is another matter.
    assert!(ask(&revocations, &chain, after(60 + 6 * 60 - 1)).await.starts_with("revoked"));
    assert_eq!(server.asked(), 3);
    ask(&revocations, &chain, after(60)).await;
    assert_eq!(server.asked(), 4);
}

#[tokio::test]
async fn what_cannot_be_used_says_nothing_of_a_certificate() {
    let (ca, server) = (Ca::new("CA"), Server::start().await);
    let named_alike = Ca::new("CA");
    let another = Ca::new("Another CA");
    let elsewhere = |url: &str, kind| {
        let mut scope = scope(url);
        scope.scope = kind;
        ca.list_with(&[1], |list| list.issuing_distribution_point = Some(scope))
    };
    let dated = |from: (i32, u8, u8), to: (i32, u8, u8)| {
        ca.list_with(&[1], |list| {
            list.this_update = date_time_ymd(from.0, from.1, from.2);
            list.next_update = date_time_ymd(to.0, to.1, to.2);
        })
    };
    let mut cut = ca.list(&[1]);
    cut.pop();
    for (list, why) in [
        (dated((2026, 11, 10), (2026, 11, 22)), "it was valid until 2026-11-22T00:00:00Z"),
        (dated((2026, 11, 23), (2026, 11, 30)), "it is not valid before 2026-11-23T00:00:00Z"),
        (named_alike.list(&[1]), "its signature is not the issuer's"),
        (another.list(&[1]), "it is of another issuer"),
        (
            elsewhere("http://ca.example/2.crl", Some(CrlScope::UserCertsOnly)),
            "it is about other certificates",
        ),
        (elsewhere(&server.url, Some(CrlScope::CaCertsOnly)), "it is about other certificates"),
        (cut, "it is neither a list"),
        (b"not here".to_vec(), "it is neither a list"),
        (Vec::new(), "it is neither a list"),
    ] {
        server.serves(list);
        let answer = ask(&revocations(), &ca.chain(1, &[&server.url]), now()).await;
        assert!(answer.contains(why), "{answer}");
    }
}

#[tokio::test]
async fn a_changed_byte_never_changes_the_answer() {
    let (ca, server) = (Ca::new("CA"), Server::start().await);
    let list = ca.list(&[1, 2, 3]);
    let (listed, unlisted) = (ca.chain(2, &[&server.url]), ca.chain(4, &[&server.url]));
    for position in (0..list.len()).step_by(5) {
        let mut changed = list.clone();
        changed[position] ^= 0x01;
        server.serves(changed);
        let revocations = revocations();
        assert_ne!(ask(&revocations, &listed, now()).await, "good", "byte {position}");
        assert!(!ask(&revocations, &unlisted, now()).await.starts_with("revoked"), "byte {position}");
    }
}

#[tokio::test]
async fn a_server_that_misbehaves_is_told_apart_and_holds_nothing_up() {
    let (ca, server) = (Ca::new("CA"), Server::start().await);
    let chain = ca.chain(1, &[&server.url]);
    let config = RevocationConfig {
        request_timeout: Duration::from_millis(300),
        largest_list: 10_000,
        ..RevocationConfig::default()
    };
    let strict = || Revocations::new(config.clone()).unwrap();
    let with_type = |kind: &'static str, list: Vec<u8>| ([(header::CONTENT_TYPE, kind)], list);

    let list = ca.list(&[]);
    server.answers(move |_| with_type("text/html; charset=utf-8", list.clone()));
    assert!(ask(&strict(), &chain, now()).await.ends_with("it is an HTML page"));
    server.answers(|_| (StatusCode::FOUND, [(header::LOCATION, "http://127.0.0.1:1/")]));
    assert!(ask(&strict(), &chain, now()).await.ends_with("status 302"));
    // Its length announced, and not.
    server.serves(vec![0; 10_001]);
    assert!(ask(&strict(), &chain, now()).await.ends_with("it is larger than 10000 bytes"));
    server.answers(|_| {
        Body::from_stream(futures::stream::iter([(); 2].map(|()| std::io::Result::Ok(vec![0; 6_000]))))
    });
    assert!(ask(&strict(), &chain, now()).await.ends_with("it is larger than 10000 bytes"));
    // Begins, and never ends.
    server.answers(|_| Body::from_stream(futures::stream::pending::<std::io::Result<Vec<u8>>>()));
    assert!(ask(&strict(), &chain, now()).await.contains("no answer within"));
    // Nobody there.
    let closed = ca.chain(1, &["http://127.0.0.1:1/1.crl"]);
    assert!(ask(&strict(), &closed, now()).await.contains("no connection"));
}

#[tokio::test]
async fn the_next_place_is_asked_when_one_fails() {
    let (ca, server) = (Ca::new("CA"), Server::start().await);
    server.serves(ca.list(&[1]));
    let chain = ca.chain(1, &["ldap://ca.example/cn=ca", "http://127.0.0.1:1/1.crl", &server.url]);
    assert!(ask(&revocations(), &chain, now()).await.starts_with("revoked"));
}

#[tokio::test]
async fn two_cas_do_not_share_a_list_at_one_url() {
    let (one, other, server) = (Ca::new("CA"), Ca::new("CA"), Server::start().await);
    server.serves(one.list(&[1]));
    let revocations = revocations();
    assert!(ask(&revocations, &one.chain(1, &[&server.url]), now()).await.starts_with("revoked"));
    let answer = ask(&revocations, &other.chain(1, &[&server.url]), now()).await;
    assert!(answer.contains("signature"), "{answer}");
}

#[test]
fn what_lives_short_or_names_no_place_is_not_asked_about() {
    let ca = Ca::new("CA");
    let url = "http://ca.example/1.crl";
    assert!(RevocationSources::of(&ca.chain(1, &[url])).is_some());
    assert!(
        RevocationSources::of(&ca.chain_with(1, |leaf| leaf.custom_extensions.push(responder(url))))
            .is_some()
    );
    for nothing in [
        ca.chain(1, &[]),
        ca.chain(1, &["ldap://ca.example/cn=ca"]),
        ca.chain(1, &["http://user@ca.example/1.crl"]),
        ca.chain(1, &[url]).split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned(),
        "no chain".to_owned(),
    ] {
        assert!(RevocationSources::of(&nothing).is_none(), "{nothing}");
    }
    let point = |leaf: &mut rcgen::CertificateParams| {
        leaf.crl_distribution_points = vec![rcgen::CrlDistributionPoint { uris: vec![url.to_owned()] }];
    };
    let six_days = ca.chain_with(1, |leaf| {
        point(leaf);
        leaf.not_after = date_time_ymd(2026, 11, 7);
    });
    assert!(RevocationSources::of(&six_days).is_none());
    let never_revoked = ca.chain_with(1, |leaf| {
        point(leaf);
        // RFC 9608 §2: noRevAvail, whose value is NULL.
        leaf.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 56], vec![5, 0]));
    });
    assert!(RevocationSources::of(&never_revoked).is_none());
}

#[tokio::test]
async fn a_question_ends_when_its_time_is_over() {
    let (ca, server) = (Ca::new("CA"), Server::start().await);
    server.answers(|_| Body::from_stream(futures::stream::pending::<std::io::Result<Vec<u8>>>()));
    let config = RevocationConfig { patience: Duration::from_millis(100), ..RevocationConfig::default() };
    let sources = RevocationSources::of(&ca.chain(1, &[&server.url])).unwrap();
    let answer = Revocations::new(config).unwrap().ask(&sources, now()).await;
    assert!(matches!(answer.status, RevocationStatus::Unknown(_)));
}
