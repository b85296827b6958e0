//! The HTTP client of one CA endpoint: time-outs, bounds, typed errors, one log line for each request.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tracing::info;

use crate::retry::parse_retry_after;
use crate::slots::Slots;
use crate::tls::AcceptAll;
use crate::{Error, Failure, Problem, RequestError};

/// How a CA endpoint is reached.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Whom to trust for the CA's own TLS certificate.
    pub roots: TrustRoots,
    /// The time for a TCP connection to come about.
    pub connect_timeout: Duration,
    /// The time for a whole request, from connecting to the last byte of the answer.
    pub request_timeout: Duration,
    /// How many requests may be under way at once. Further ones wait their turn. One that the CA answers only when it
    /// has looked at a challenge counts for a second.
    pub concurrent_requests: usize,
    /// Who is told of each request.
    pub observer: Observer,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            roots: TrustRoots::System,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            concurrent_requests: 16,
            observer: Observer::default(),
        }
    }
}

/// Is told of each request that has ended: the host, and the status of the answer or 0 if there was none. For metrics;
/// it must not block.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Told>>);

type Told = dyn Fn(&str, u16) + Send + Sync;

impl Observer {
    /// An observer that calls `told`.
    pub fn new(told: impl Fn(&str, u16) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observer({})", if self.0.is_some() { "…" } else { "none" })
    }
}

/// Whom to trust for the CA's own TLS certificate.
#[derive(Clone, Debug, Default)]
pub enum TrustRoots {
    /// The host's root certificates, or Mozilla's where the host has none.
    #[default]
    System,
    /// These certificates (PEM) and no others.
    Custom(Vec<u8>),
    /// Anyone. For tests.
    SkipVerification,
}

/// A client for one CA endpoint. Clones share connections and bounds.
#[derive(Clone)]
pub struct Http {
    inner: Arc<Inner>,
    yields: bool,
    lengthy: bool,
}

struct Inner {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    slots: Slots,
    request_timeout: Duration,
    observer: Observer,
}

/// An answer of less than 400, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) const AGENT: &str = concat!("waxwing/", env!("CARGO_PKG_VERSION"));
/// No ACME answer comes near it.
const LARGEST_BODY: usize = 1 << 20;
/// The longest wait for a slot, in whole-request time-outs.
const TURNS: u32 = 10;
/// So long a lengthy request keeps its turn.
const FAIR_TURN: Duration = Duration::from_secs(1);

impl Http {
    /// A client that speaks HTTPS alone.
    #[allow(clippy::needless_pass_by_value, reason = "a configuration is handed over")]
    pub fn new(config: HttpConfig) -> Result<Self, Error> {
        Self::build(&config, false)
    }

    /// A client that also speaks plain HTTP, which no CA on a network may be asked with: for tests on loopback.
    #[allow(clippy::needless_pass_by_value, reason = "a configuration is handed over")]
    pub fn allowing_plain_http(config: HttpConfig) -> Result<Self, Error> {
        Self::build(&config, true)
    }

    fn build(config: &HttpConfig, plain: bool) -> Result<Self, Error> {
        let mut connector = HttpConnector::new();
        // Requests are smaller than a segment: Nagle's algorithm would hold each one back for an ACK.
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.connect_timeout));
        connector.enforce_http(false);
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls_config(&config.roots)?);
        let builder = if plain { builder.https_or_http() } else { builder.https_only() };
        let connector = builder.enable_http1().enable_http2().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(config.concurrent_requests.clamp(1, 32))
            // A connection that died silently must not take every request with it.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .build(connector);
        let slots = Slots::new(config.concurrent_requests);
        let (request_timeout, observer) = (config.request_timeout, config.observer.clone());
        let inner = Arc::new(Inner { client, slots, request_timeout, observer });
        Ok(Self { inner, yields: false, lengthy: false })
    }

    /// The same client, whose requests leave most of the turns to those of others.
    pub(crate) fn yielding(&self) -> Self {
        Self { yields: true, ..self.clone() }
    }

    /// The same client, for requests that the CA may answer late for a reason that lies elsewhere: they let others
    /// take their turn after [`FAIR_TURN`].
    pub(crate) fn lengthy(&self) -> Self {
        Self { lengthy: true, ..self.clone() }
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub(crate) async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, RequestError> {
        let method = method_name(request.method());
        let url = request.uri().to_string();
        let fail = |failure| RequestError { method, url: url.clone(), failure };

        let patience = self.inner.request_timeout.saturating_mul(TURNS);
        let slot = tokio::time::timeout(patience, self.inner.slots.take(self.yields)).await;
        let Ok(Some(slot)) = slot else { return Err(fail(Failure::Busy { after: patience })) };

        let host = request.uri().host().unwrap_or_default().to_owned();
        let started = Instant::now();
        let mut answer = pin!(tokio::time::timeout(self.inner.request_timeout, self.send(request)));
        let turn = if self.lengthy { FAIR_TURN } else { self.inner.request_timeout };
        let in_turn = tokio::time::timeout(turn, answer.as_mut()).await;
        drop(slot);
        let outcome = match in_turn {
            Ok(answered) => answered,
            Err(_) => answer.await,
        }
        .unwrap_or(Err(Failure::Timeout { after: self.inner.request_timeout }));
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &outcome {
            Ok(answer) => info!(method, url, status = answer.status.as_u16(), elapsed_ms, "ACME request"),
            Err(error) => info!(method, url, %error, elapsed_ms, "ACME request"),
        }
        if let Observer(Some(told)) = &self.inner.observer {
            told(&host, outcome.as_ref().map_or(0, |answer| answer.status.as_u16()));
        }
        outcome.map_err(fail)
    }

    /// Sends a request; an answer that isn't a success in ACME's language is an error.
    pub(crate) async fn request(&self, request: Request<Bytes>) -> Result<Answer, RequestError> {
        let (method, url) = (method_name(request.method()), request.uri().to_string());
        let answer = self.exchange(request).await?;
        answer.accept(Timestamp::now()).map_err(|failure| RequestError { method, url, failure })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Answer, Failure> {
        let mut request = request.map(Full::new);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let response = self.inner.client.request(request).await.map_err(|error| classify(&error))?;
        let (parts, body) = response.into_parts();
        let answer = Answer { status: parts.status, headers: parts.headers, body: Bytes::new() };
        match Limited::new(body, LARGEST_BODY).collect().await {
            Ok(body) => Ok(Answer { body: body.to_bytes(), ..answer }),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err(answer.unexpected(format!("it is larger than {LARGEST_BODY} bytes"), Timestamp::now()))
            }
            Err(error) => Err(Failure::Interrupted(root_cause(error.as_ref()))),
        }
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("request_timeout", &self.inner.request_timeout).finish_non_exhaustive()
    }
}

impl Answer {
    /// A header's value, if it is there and is text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// When the CA wants to be asked again.
    pub(crate) fn retry_after(&self, now: Timestamp) -> Option<Timestamp> {
        parse_retry_after(self.header(RETRY_AFTER)?, self.header(DATE), now)
    }

    /// Turns what isn't a success in ACME's language into a typed failure.
    pub(crate) fn accept(self, now: Timestamp) -> Result<Self, Failure> {
        if self.status.is_client_error() || self.status.is_server_error() {
            return Err(Failure::Status {
                status: self.status.as_u16(),
                problem: self.problem().map(Box::new),
                retry_after: self.retry_after(now),
            });
        }
        if self.status.is_redirection() {
            return Err(Failure::Redirect {
                status: self.status.as_u16(),
                to: self.header(LOCATION).map(str::to_owned),
                retry_after: self.retry_after(now),
            });
        }
        if self.header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")) {
            return Err(self.unexpected("it is an HTML page", now));
        }
        Ok(self)
    }

    /// The failure that it isn't what an ACME server says.
    pub(crate) fn unexpected(&self, why: impl Into<String>, now: Timestamp) -> Failure {
        let why = why.into();
        match self.retry_after(now) {
            Some(retry_after) => Failure::Maintenance { why, retry_after },
            None => Failure::Unexpected(why),
        }
    }

    /// The problem document in it, if it is one. Some CAs call it plain JSON.
    pub(crate) fn problem(&self) -> Option<Problem> {
        serde_json::from_slice::<Problem>(&self.body)
            .ok()
            .filter(|problem| problem.kind.is_some() || problem.detail.is_some())
    }
}

fn method_name(method: &http::Method) -> &'static str {
    match *method {
        http::Method::GET => "GET",
        http::Method::HEAD => "HEAD",
        _ => "POST",
    }
}

/// TLS that trusts `roots`.
pub(crate) fn tls_config(roots: &TrustRoots) -> Result<rustls::ClientConfig, Error> {
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Roots(error.to_string()))?;
    let mut store = RootCertStore::empty();
    match roots {
        TrustRoots::SkipVerification => {
            return Ok(builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAll::new()))
                .with_no_client_auth());
        }
        TrustRoots::Custom(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| Error::Roots(format!("not PEM: {error}")))?;
                store
                    .add(certificate)
                    .map_err(|error| Error::Roots(format!("not a CA certificate: {error}")))?;
            }
            if store.is_empty() {
                return Err(Error::Roots("there is no certificate in PEM in it".to_owned()));
            }
        }
        TrustRoots::System => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
        }
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// Why a request brought no answer.
pub(crate) fn classify(error: &hyper_util::client::legacy::Error) -> Failure {
    if let Some(tls) = find_tls(error) {
        return match tls {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => Failure::UnknownAuthority,
            other => Failure::Tls(other.to_string()),
        };
    }
    if error.is_connect() {
        Failure::Connect(root_cause(error))
    } else {
        Failure::Interrupted(root_cause(error))
    }
}

/// The TLS error at the root of an error, if there is one.
pub(crate) fn find_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    // An io::Error's source() leaves out the error that it wraps.
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
        && let Some(tls) = find_tls(inner)
    {
        return Some(tls);
    }
    error.source().and_then(find_tls)
}

/// What the innermost error says: the outer ones only repeat that a request failed.
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::Router;
    use axum::routing::get;
    use tokio::sync::mpsc;

    use super::*;

    fn answer(status: u16, headers: &[(http::header::HeaderName, &str)]) -> Answer {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() }
    }

    #[test]
    fn a_page_where_acme_was_expected_may_say_when_to_come_again() {
        let (now, html) = (Timestamp::UNIX_EPOCH, (CONTENT_TYPE, "text/html"));
        let failure = answer(200, &[html.clone(), (RETRY_AFTER, "3600")]).accept(now).unwrap_err();
        let failed = RequestError { method: "GET", url: "https://ca.example/".into(), failure };
        let named = crate::retry::after(now, Duration::from_hours(1));
        assert_eq!(failed.class().retry, crate::Retry::NotBefore(named), "{failed}");
        let failure = answer(200, &[html]).accept(now).unwrap_err();
        assert!(matches!(&failure, Failure::Unexpected(why) if why == "it is an HTML page"), "{failure}");
    }

    #[test]
    fn a_refusals_date_counts_by_the_clock_of_whoever_refuses() {
        let (behind, at) = ((DATE, "Sat, 21 Nov 2026 12:00:00 GMT"), "Sat, 21 Nov 2026 13:00:00 GMT");
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        let failure = answer(503, &[behind, (RETRY_AFTER, at)]).accept(now).unwrap_err();
        let named = crate::retry::after(now, Duration::from_hours(1));
        assert!(
            matches!(failure, Failure::Status { retry_after, .. } if retry_after == Some(named)),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn an_answer_that_is_long_in_coming_holds_back_nobody() {
        let (asked, mut heard) = mpsc::channel(1);
        let never = move || async move {
            asked.send(()).await.unwrap();
            std::future::pending::<()>().await;
        };
        let app = Router::new().route("/never", get(never)).route("/at-once", get(|| async {}));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let one_at_a_time = HttpConfig { concurrent_requests: 1, ..HttpConfig::default() };
        let http = Http::allowing_plain_http(one_at_a_time).unwrap();
        let get = |path: &str| Request::get(format!("{base}{path}")).body(Bytes::new()).unwrap();

        let (lengthy, request) = (http.lengthy(), get("/never"));
        let lengthy = tokio::spawn(async move { lengthy.exchange(request).await });
        heard.recv().await.unwrap();
        assert_eq!(http.exchange(get("/at-once")).await.unwrap().status, StatusCode::OK);
        assert!(!lengthy.is_finished());
    }
}
