//! Answers HTTP-01 challenges (RFC 8555 §8.3) for hosts with an open order.
//!
//! There is no store of tokens: the answer to any token is the token and the thumbprint of the
//! account whose order is open for that host. The order Secrets say which that is, in a namespace
//! that no tenant writes to.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{CACHE_CONTROL, CONTENT_TYPE, HOST},
        uri::Authority,
    },
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;

use super::open_orders::OpenOrders;
use crate::runtime::{
    admin::ServeError,
    serve::{Limits, serve},
};

/// The path that every challenge begins with.
pub const PATH: &str = "/.well-known/acme-challenge/";
/// Where a solver pod says that it is ready.
pub const HEALTH_PATH: &str = "/healthz";

/// What tokens of our own begin with, that ask whether a path still leads here.
const PROBE: &str = "waxwing-probe-";

const LIMITS: Limits = Limits {
    connections: 512,
    connection_time: Duration::from_secs(30),
    header_time: Duration::from_secs(5),
};

/// How long an answer waits for the cache to learn of an order.
const MISS: Duration = Duration::from_secs(3);
/// Requests that may wait so at once. Beyond it, unknown hosts get their 404 at once.
const WAITING: usize = 128;
/// RFC 8555 sets no upper bound; tokens of public CAs have 43 characters.
const LONGEST_TOKEN: usize = 256;

/// Endpoints take so long to leave every edge; meanwhile another replica may open an order.
const SETTLE: Duration = Duration::from_secs(5);

/// Serves until `stop`, and then for up to `grace` more while an order is open, or was a moment ago, so
/// that a CA that is validating finds its answer while another replica takes over.
pub async fn run(
    listener: TcpListener,
    orders: OpenOrders,
    grace: Duration,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let end = CancellationToken::new();
    let linger = {
        let (orders, end) = (orders.clone(), end.clone());
        async move {
            stop.cancelled().await;
            tokio::select! {
                () = settled(&orders) => {}
                () = sleep(grace) => {}
            }
            end.cancel();
        }
    };
    let what = "HTTP-01 responder";
    let serving = serve(listener, router(orders), LIMITS, end);
    let (served, ()) = tokio::join!(serving, linger);
    served.map_err(|source| ServeError::Serve { what, source })
}

/// Serves the answers of a solver pod until `stop`.
pub async fn run_given(
    listener: TcpListener,
    given: Given,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let router = answers(Hosts::Given(Arc::new(given))).route(HEALTH_PATH, get(|| async { "ok\n" }));
    let what = "HTTP-01 solver";
    serve(listener, router, LIMITS, stop).await.map_err(|source| ServeError::Serve { what, source })
}

/// What a solver pod answers: every challenge of a few hosts, for one account.
#[derive(Clone, Debug)]
pub struct Given {
    hosts: BTreeSet<String>,
    thumbprint: String,
}

impl Given {
    /// `None` if the thumbprint isn't one (RFC 7638, base64url), or a host can't be asked for.
    pub fn new<H: AsRef<str>>(hosts: &[H], thumbprint: &str) -> Option<Self> {
        if thumbprint.is_empty() || !thumbprint.bytes().all(super::is_base64url) {
            return None;
        }
        let hosts = hosts.iter().map(|host| normal_host(host.as_ref())).collect::<Option<_>>()?;
        Some(Self { hosts, thumbprint: thumbprint.to_owned() })
    }
}

/// The answer to a token of our own. No CA takes it for one: it ends in no account's thumbprint.
pub fn probe_answer(token: &str) -> String {
    format!("{token}.probe")
}

/// A token of our own, that no one has asked for yet. Every replica answers it, for every host: so it finds out
/// whether a path leads here while no order is open.
pub fn probe_token() -> String {
    format!("{PROBE}{:032x}", rand::random::<u128>())
}

/// Returns when no order has been open for a while.
async fn settled(orders: &OpenOrders) {
    let mut changed = orders.changed();
    loop {
        let empty = orders.is_empty();
        tokio::select! {
            () = sleep(SETTLE), if empty => return,
            changed = changed.changed() => if changed.is_err() { return },
        }
    }
}

/// Who answers for a host.
#[derive(Clone)]
enum Hosts {
    Given(Arc<Given>),
    Orders { orders: OpenOrders, waiting: Arc<Semaphore> },
}

impl Hosts {
    async fn thumbprint(&self, host: &str) -> Option<String> {
        match self {
            Self::Given(given) => given.hosts.contains(host).then(|| given.thumbprint.clone()),
            Self::Orders { orders, waiting } => match orders.thumbprint(host) {
                Some(thumbprint) => Some(thumbprint),
                None => match waiting.try_acquire() {
                    Ok(_permit) => orders.wait_for_thumbprint(host, MISS).await,
                    Err(_) => None,
                },
            },
        }
    }

    fn is_probe(&self, token: &str) -> bool {
        matches!(self, Self::Orders { .. }) && token.starts_with(PROBE)
    }
}

fn router(orders: OpenOrders) -> Router {
    answers(Hosts::Orders { orders, waiting: Arc::new(Semaphore::new(WAITING)) })
}

fn answers(hosts: Hosts) -> Router {
    Router::new().route(&format!("{PATH}{{token}}"), get(answer).with_state(hosts))
}

async fn answer(
    State(hosts): State<Hosts>,
    Path(token): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let header = headers.get(HOST).and_then(|value| value.to_str().ok());
    let Some(host) = uri.authority().map(Authority::as_str).or(header).and_then(normal_host) else {
        return unknown();
    };
    if !is_token(&token) {
        return unknown();
    }
    if hosts.is_probe(&token) {
        return text(probe_answer(&token));
    }
    let Some(thumbprint) = hosts.thumbprint(&host).await else {
        tracing::debug!(host, "asked for a challenge of a host without an open order");
        return unknown();
    };
    tracing::debug!(host, "answered a challenge");
    text(format!("{token}.{thumbprint}"))
}

fn text(body: String) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

fn unknown() -> Response {
    (StatusCode::NOT_FOUND, [(CACHE_CONTROL, "no-store")], "no ACME order is open for this host\n")
        .into_response()
}

/// A host as the order Secrets write it: lower case, no port, no trailing dot.
fn normal_host(host: &str) -> Option<String> {
    let host = host.trim();
    let name = match host.strip_prefix('[') {
        // An IPv6 address stands in brackets.
        Some(rest) => rest.split_once(']')?.0,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    (!name.is_empty() && name.len() <= 253).then_some(name)
}

/// RFC 8555 §8.3: base64url without padding.
fn is_token(token: &str) -> bool {
    (1..=LONGEST_TOKEN).contains(&token.len()) && token.bytes().all(super::is_base64url)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use axum::{
        body::{Body, to_bytes},
        http::Request,
    };
    use futures::stream;
    use tower::ServiceExt;

    use super::*;
    use crate::{runtime::watch::Change, solver::open_orders::tests::order};

    async fn responder() -> Router {
        let orders = OpenOrders::default();
        let secret = Arc::new(order("order-1", 10, "thumb_print-1", "shop.example.com"));
        orders.follow(stream::iter([Change::Applied(secret)]), Vec::new).await;
        router(orders)
    }

    async fn ask(router: &Router, host: &str, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).header(HOST, host).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn only_open_orders_are_answered() {
        let router = responder().await;
        let path = "/.well-known/acme-challenge/abc-DEF_123";
        let good = (StatusCode::OK, "abc-DEF_123.thumb_print-1".to_owned());
        for host in
            ["shop.example.com", "SHOP.example.com.", "shop.example.com:80", " shop.example.com.:8080"]
        {
            assert_eq!(ask(&router, host, path).await, good, "{host}");
        }
        for host in ["other.example.com", "example.com", "", "[", "[::1]:80"] {
            assert_eq!(ask(&router, host, path).await.0, StatusCode::NOT_FOUND, "{host}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_of_our_own_are_answered_for_every_host() {
        let token = probe_token();
        let path = format!("{PATH}{token}");
        let answer = (StatusCode::OK, probe_answer(&token));
        assert_eq!(ask(&responder().await, "other.example.com", &path).await, answer);
        let given = Given::new(&["other.example.com"], "thumb").unwrap();
        let pod = answers(Hosts::Given(Arc::new(given)));
        assert_eq!(
            ask(&pod, "other.example.com", &path).await.1,
            format!("{token}.thumb"),
            "a pod has no use for them"
        );
    }

    #[tokio::test]
    async fn a_pod_answers_what_it_was_given() {
        let given = Given::new(&["Shop.example.com.", "www.example.com"], "thumb").unwrap();
        let pod = answers(Hosts::Given(Arc::new(given)));
        let path = "/.well-known/acme-challenge/abc";
        assert_eq!(ask(&pod, "shop.example.com", path).await, (StatusCode::OK, "abc.thumb".to_owned()));
        assert_eq!(ask(&pod, "www.example.com:80", path).await.0, StatusCode::OK);
        assert_eq!(ask(&pod, "example.com", path).await.0, StatusCode::NOT_FOUND);
        assert!(Given::new(&["a.example"], "no thumbprint").is_none());
        assert!(Given::new(&[""], "thumb").is_none());
    }

    #[tokio::test]
    async fn tokens_are_base64url_and_short() {
        let router = responder().await;
        let long = "a".repeat(257);
        for token in ["a%20b", "%3Cscript%3E", "a.b", "a%2Fb", "a+b", "é", long.as_str(), ""] {
            let token = token.replace('é', "%C3%A9");
            let path = format!("/.well-known/acme-challenge/{token}");
            assert_eq!(ask(&router, "shop.example.com", &path).await.0, StatusCode::NOT_FOUND, "{token}");
        }
        let path = "/.well-known/acme-challenge/a/b";
        assert_eq!(ask(&router, "shop.example.com", path).await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_soon_after_the_last_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, orders) = (CancellationToken::new(), OpenOrders::default());
        stop.cancel();
        let start = tokio::time::Instant::now();
        let secret = Arc::new(order("order-1", 10, "thumb", "shop.example.com"));
        orders.follow(stream::iter([Change::Applied(Arc::clone(&secret))]), Vec::new).await;
        let closing = async {
            sleep(Duration::from_mins(1)).await;
            orders.follow(stream::iter([Change::Deleted(secret)]), Vec::new).await;
        };
        let running = run(listener, orders.clone(), Duration::from_hours(1), stop);
        let ((), ended) = tokio::join!(closing, running);
        ended.unwrap();
        let took = start.elapsed();
        assert!(took >= Duration::from_mins(1) + SETTLE && took < Duration::from_mins(2), "{took:?}");
    }
}
