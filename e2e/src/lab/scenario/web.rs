//! Small web servers of the lab: an application behind an Ingress, or something that should be a CA and isn't.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::Scenario;
use crate::{Error, pki, sandbox::NODE_ADDRESS};

/// What a server answers every request with.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: &'static str,
}

/// A web server on the node's address. It ends with the test.
#[derive(Debug)]
pub struct Web {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Answer {
    /// 200 and a text.
    pub const fn text(body: &'static str) -> Self {
        Self { status: 200, content_type: "text/plain", body }
    }

    /// 200 and a page.
    pub const fn html(body: &'static str) -> Self {
        Self { status: 200, content_type: "text/html", body }
    }
}

impl Web {
    /// Plain HTTP.
    pub async fn http(answer: Answer) -> Result<Self, Error> {
        Self::start(None, answer).await
    }

    /// Plain HTTP on an address of its own, such as `127.0.0.77:80`.
    pub async fn at(address: &str, answer: Answer) -> Result<Self, Error> {
        let listener =
            TcpListener::bind(address).await.map_err(Error::io(|| format!("listening on {address}")))?;
        Self::serve_on(listener, None, answer)
    }

    /// HTTPS, with a certificate that the lab's root has signed.
    pub async fn https(pair: &pki::Pair, answer: Answer) -> Result<Self, Error> {
        let bad = || "the certificate of a web server";
        let chain =
            CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(Error::invalid(bad))?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::invalid(bad))?
            .with_no_client_auth()
            .with_single_cert(chain.map_err(Error::invalid(bad))?, key)
            .map_err(Error::invalid(bad))?;
        Self::start(Some(TlsAcceptor::from(Arc::new(config))), answer).await
    }

    /// Accepts connections and says nothing.
    pub async fn silent() -> Result<Self, Error> {
        let (listener, address) = listen().await?;
        let server = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                held.push(connection);
            }
        });
        Ok(Self { address, server })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn start(tls: Option<TlsAcceptor>, answer: Answer) -> Result<Self, Error> {
        let (listener, _) = listen().await?;
        Self::serve_on(listener, tls, answer)
    }

    fn serve_on(listener: TcpListener, tls: Option<TlsAcceptor>, answer: Answer) -> Result<Self, Error> {
        let address = listener.local_addr().map_err(Error::io(|| "reading an address"))?;
        let server = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => serve(connection, answer).await,
                        // A client that doesn't trust us ends here.
                        Some(tls) => {
                            if let Ok(connection) = tls.accept(connection).await {
                                serve(connection, answer).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Self { address, server })
    }

    /// Makes the Service `name` in front of it.
    pub(super) async fn service(&self, scenario: &Scenario<'_>, name: &str) -> Result<(), Error> {
        let port = self.address.port();
        scenario
            .apply::<Service>(name, json!({"spec": {"ports": [{"port": 80, "targetPort": port}]}}))
            .await?;
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_ADDRESS]}],
            "ports": [{"port": port}],
        });
        scenario.apply::<EndpointSlice>(name, slice).await.map(|_| ())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn listen() -> Result<(TcpListener, SocketAddr), Error> {
    let failed = || format!("listening on {NODE_ADDRESS}");
    let listener = TcpListener::bind((NODE_ADDRESS, 0)).await.map_err(Error::io(failed))?;
    let address = listener.local_addr().map_err(Error::io(failed))?;
    Ok((listener, address))
}

async fn serve(connection: impl AsyncRead + AsyncWrite + Unpin, answer: Answer) {
    let service = service_fn(move |_: Request<Incoming>| async move {
        let mut response = Response::new(Full::new(Bytes::from_static(answer.body.as_bytes())));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(answer.content_type));
        Ok::<_, Infallible>(response)
    });
    // The client hung up: its business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}
