//! The self-check against edges that behave one way or another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use waxwing_acme::{Outcome, SelfCheck, SelfCheckConfig};

const PATH: &str = "/.well-known/acme-challenge/token";

/// An edge on loopback that answers with `answer` what is asked for.
async fn edge<A: IntoResponse>(answer: impl Fn() -> A + Clone + Send + Sync + 'static) -> (u16, JoinSet<()>) {
    serve(Router::new().route(PATH, get(async move || answer()))).await
}

async fn serve(router: Router) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (port, serving)
}

fn check(http_port: u16) -> SelfCheck {
    SelfCheck::new(SelfCheckConfig {
        http_port,
        deadline: Duration::from_secs(5),
        poll: Duration::from_millis(20),
        successes: 2,
        ..SelfCheckConfig::default()
    })
}

async fn outcome(port: u16) -> Outcome {
    let evidence = check(port).http01_once("127.0.0.1", "token", "expected").await;
    evidence.observations.last().unwrap().outcome.clone()
}

#[tokio::test]
async fn it_passes_after_some_successes_in_a_row() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let (port, _serving) = edge(move || match counter.fetch_add(1, Ordering::SeqCst) {
        // A route that one of several proxies learns first.
        0 | 2 => (StatusCode::NOT_FOUND, "no such route"),
        _ => (StatusCode::OK, "expected\n"),
    })
    .await;
    let evidence = check(port).http01("127.0.0.1", "token", "expected").await;
    assert!(evidence.passed, "{evidence}");
    assert_eq!(asked.load(Ordering::SeqCst), 5, "not, yes, not, yes, yes");
}

#[tokio::test]
async fn what_is_seen_is_said_without_quoting_it() {
    let (port, _serving) = edge(|| "<html>secret</html>").await;
    let evidence = check(port).http01_once("127.0.0.1", "token", "expected").await;
    assert!(!evidence.passed);
    assert_eq!(evidence.observations[0].outcome, Outcome::WrongBody);
    assert!(!format!("{evidence:?} {evidence}").contains("secret"));

    let (port, _serving) = edge(|| StatusCode::NOT_FOUND).await;
    assert_eq!(outcome(port).await, Outcome::Status(404));
    assert_eq!(outcome(1).await, Outcome::Refused);
}

#[tokio::test]
async fn it_ends_at_its_deadline() {
    let (port, _serving) = edge(|| StatusCode::NOT_FOUND).await;
    let check = SelfCheck::new(SelfCheckConfig {
        http_port: port,
        deadline: Duration::from_millis(200),
        ..SelfCheckConfig::default()
    });
    let evidence = check.http01("127.0.0.1", "token", "expected").await;
    assert!(!evidence.passed);
    assert_eq!(evidence.failures().count(), 1);
    let longer = check.for_at_least(Duration::from_millis(400)).for_at_least(Duration::ZERO);
    let evidence = longer.http01("127.0.0.1", "token", "expected").await;
    assert!(evidence.elapsed > Duration::from_millis(200), "{evidence}");
}

#[tokio::test]
async fn what_was_seen_before_a_look_is_cut_short_is_said() {
    let asked = Arc::new(AtomicUsize::new(0));
    let router = Router::new().route(
        PATH,
        get(async move || match asked.fetch_add(1, Ordering::SeqCst) {
            0 => StatusCode::NOT_FOUND,
            _ => std::future::pending().await,
        }),
    );
    let (port, _serving) = serve(router).await;
    let evidence = check(port).http01("127.0.0.1", "token", "expected").await;
    assert_eq!(evidence.observations.len(), 1, "{evidence}");
    assert_eq!(evidence.observations[0].outcome, Outcome::Status(404));
}

#[tokio::test]
async fn redirects_are_followed_to_the_usual_ports_only() {
    let (target, _target) = edge(|| "expected").await;
    let (port, _serving) =
        edge(move || ([(header::LOCATION, format!("http://127.0.0.1:{target}{PATH}"))], StatusCode::FOUND))
            .await;
    assert!(matches!(outcome(port).await, Outcome::RedirectRefused(_)));

    // A relative one stays on the edge; this one turns in a circle.
    let (port, _serving) = edge(|| ([(header::LOCATION, PATH)], StatusCode::FOUND)).await;
    assert_eq!(outcome(port).await, Outcome::TooManyRedirects);

    let (port, _serving) = edge(|| ([(header::LOCATION, "ftp://127.0.0.1/")], StatusCode::FOUND)).await;
    assert!(matches!(outcome(port).await, Outcome::RedirectRefused(_)));
}

#[tokio::test]
async fn a_redirect_to_https_is_seen() {
    let (port, _serving) =
        edge(|| ([(header::LOCATION, format!("https://127.0.0.1{PATH}"))], StatusCode::MOVED_PERMANENTLY))
            .await;
    let check =
        SelfCheck::new(SelfCheckConfig { http_port: port, https_port: 1, ..SelfCheckConfig::default() });
    let evidence = check.http01_once("127.0.0.1", "token", "expected").await;
    assert!(evidence.redirected_to_https);
    assert!(!evidence.passed, "nobody listens there");
}

#[tokio::test]
async fn a_name_server_that_does_not_answer_is_said() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let check = SelfCheck::new(SelfCheckConfig {
        nameservers: vec![silent.local_addr().unwrap()],
        deadline: Duration::from_millis(300),
        ..SelfCheckConfig::default()
    });
    let evidence = check.http01("a.example", "token", "expected").await;
    assert!(!evidence.passed);
    assert_eq!(evidence.observations[0].outcome, Outcome::TimedOut);
}
