//! Fetches lists and answers of responders: bounded in time and size, by HTTP or HTTPS, without following redirects.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tracing::info;
use url::Url;

use super::{FetchError, RevocationConfig, RevocationError};
use crate::http::{AGENT, classify, root_cause, tls_config};
use crate::{Error, Failure};

pub(super) struct Fetch {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    slots: Semaphore,
    request_timeout: Duration,
    largest_list: usize,
}

/// An answer about one certificate is a few hundred bytes, and some certificates.
const LARGEST_RESPONSE: usize = 64 << 10;

impl Fetch {
    pub(super) fn new(config: &RevocationConfig) -> Result<Self, Error> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.connect_timeout));
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(&config.roots)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            // The same host is next asked in hours.
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self {
            client,
            slots: Semaphore::new(config.concurrent_requests.clamp(1, Semaphore::MAX_PERMITS)),
            request_timeout: config.request_timeout,
            largest_list: config.largest_list,
        })
    }

    /// Fetches a list.
    pub(super) async fn get(&self, url: &Url) -> Result<Vec<u8>, RevocationError> {
        let request = Request::get(url.as_str()).body(Full::default());
        self.exchange("GET", url, request, self.largest_list).await
    }

    /// Asks a responder.
    pub(super) async fn post(
        &self,
        url: &Url,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, RevocationError> {
        let request = Request::post(url.as_str())
            .header(CONTENT_TYPE, HeaderValue::from_static(content_type))
            .body(Full::from(body));
        self.exchange("POST", url, request, LARGEST_RESPONSE).await
    }

    async fn exchange(
        &self,
        method: &'static str,
        url: &Url,
        request: Result<Request<Full<Bytes>>, http::Error>,
        limit: usize,
    ) -> Result<Vec<u8>, RevocationError> {
        let started = Instant::now();
        let outcome = match request {
            Ok(request) => self.bounded(request, limit).await,
            Err(error) => Err(FetchError::Failed(Failure::Connect(error.to_string()))),
        };
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &outcome {
            Ok(answer) => info!(method, %url, bytes = answer.len(), elapsed_ms, "revocation request"),
            Err(error) => info!(method, %url, %error, elapsed_ms, "revocation request"),
        }
        outcome.map_err(|source| RevocationError::Fetch { url: url.to_string(), source })
    }

    /// Waiting for a slot is bounded by whoever asks.
    async fn bounded(&self, request: Request<Full<Bytes>>, limit: usize) -> Result<Vec<u8>, FetchError> {
        let late = Failure::Timeout { after: self.request_timeout };
        let Ok(_slot) = self.slots.acquire().await else { return Err(FetchError::Failed(late)) };
        tokio::time::timeout(self.request_timeout, self.send(request, limit))
            .await
            .unwrap_or(Err(FetchError::Failed(late)))
    }

    async fn send(&self, mut request: Request<Full<Bytes>>, limit: usize) -> Result<Vec<u8>, FetchError> {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let response =
            self.client.request(request).await.map_err(|error| FetchError::Failed(classify(&error)))?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let text =
            |name: header::HeaderName| response.headers().get(name).and_then(|text| text.to_str().ok());
        if text(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")) {
            return Err(FetchError::Html);
        }
        let announced = text(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(FetchError::TooLarge { limit });
        }
        let mut read = Vec::with_capacity(announced.unwrap_or_default());
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| FetchError::Failed(Failure::Interrupted(root_cause(&error))))?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len().saturating_add(data.len()) > limit {
                return Err(FetchError::TooLarge { limit });
            }
            read.extend_from_slice(&data);
        }
        Ok(read)
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch").field("request_timeout", &self.request_timeout).finish_non_exhaustive()
    }
}
