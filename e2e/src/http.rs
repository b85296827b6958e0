//! A small HTTP client: probes, management interfaces, and what a browser would see.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::Error;

/// Longest time for a whole request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest body that is kept.
const LIMIT: usize = 1 << 20;

/// A client that trusts given roots only. Names are resolved by the system, which inside of a
/// sandbox asks the lab's name server.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// An answer with its body.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; what isn't UTF-8 is replaced.
    pub body: String,
}

impl Http {
    /// A client that trusts the certificates of `roots_pem`, which may be empty. Every request uses
    /// a new connection, so that a restarted server is never met through an old one.
    pub fn new(roots_pem: &str) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
            let certificate = certificate.map_err(Error::invalid(|| "reading root certificates"))?;
            roots.add(certificate).map_err(Error::invalid(|| "reading root certificates"))?;
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::invalid(|| "setting up TLS"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client })
    }

    /// GET. Redirects are not followed.
    pub async fn get(&self, url: &str) -> Result<Response, Error> {
        self.send(Method::GET, url, &[], Bytes::new()).await
    }

    /// POST of a JSON document.
    pub async fn post(&self, url: &str, body: &serde_json::Value) -> Result<Response, Error> {
        let headers = [("content-type", "application/json")];
        self.send(Method::POST, url, &headers, Bytes::from(body.to_string())).await
    }

    /// Any request.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response, Error> {
        let what = format!("{method} {url}");
        // Pebble refuses requests without a User-Agent.
        let mut request = Request::builder().method(method).uri(url).header("user-agent", "waxwing-lab");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| failed(&what, error))?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| failed(&what, chain(&error)))?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, LIMIT).collect().await.map_err(|error| failed(&what, error))?;
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            Ok(Response { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|elapsed| Err(failed(&what, elapsed)))
    }
}

impl Response {
    /// The body if the status is 2xx; else an error with both.
    pub fn ok(self, what: &str) -> Result<String, Error> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        Err(Error::Invalid {
            what: what.to_owned(),
            why: format!("answered {}: {}", self.status, self.body.trim()),
        })
    }
}

fn failed(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Http { what: what.to_owned(), source: source.into() }
}

/// The whole chain of causes in one line: hyper's own message says only "client error (Connect)".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
