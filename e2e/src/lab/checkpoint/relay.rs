//! The way to one server: HTTP/1.1 over TLS on both sides, request by request.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    request, response,
};
use http_body_util::{BodyExt as _, Full, Limited, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::{
    asked::Asked,
    tally::{Moment, Tally, Visit},
};
use crate::{Error, pki::Authority};

/// Largest body of a request or of an answer that counts.
const LIMIT: usize = 32 << 20;

/// Says what a request asks.
type Reader = Box<dyn Fn(&Method, &Uri) -> Asked + Send + Sync>;

/// The server behind a relay.
pub(super) struct Upstream {
    /// Its URL without a path.
    pub(super) base: String,
    /// What a request asks of it.
    pub(super) asked: Reader,
}

/// A relay at work. Dropping it closes all of its connections.
#[derive(Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    listening: JoinHandle<()>,
}

struct Passage {
    upstream: Upstream,
    tally: Arc<Tally>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// The request of a connection whose answer is the last thing that Waxwing hears.
type Last = Mutex<Option<Visit>>;

impl Relay {
    pub(super) async fn start(
        upstream: Upstream,
        tally: Arc<Tally>,
        authority: &Authority,
    ) -> Result<Self, Error> {
        let what = || format!("listening in front of {}", upstream.base);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Error::io(what))?;
        let address = listener.local_addr().map_err(Error::io(what))?;
        let acceptor = acceptor(authority)?;
        let client = client(authority)?;
        let passage = Arc::new(Passage { upstream, tally, client });
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        connections.spawn(Arc::clone(&passage).connection(stream, acceptor.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { address, listening })
    }

    /// Without a path. The name is one that the server behind it answers for, too.
    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Passage {
    async fn connection(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        // Small answers must not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let last = Arc::new(Last::default());
        let service = service_fn(|request| Arc::clone(&self).pass(request, Arc::clone(&last)));
        // Whatever ends it: who asked is dead, or has closed it.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        let visit = last.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(visit) = visit {
            // It was closed after the answer: all of that has been handed over.
            visit.strike();
        }
    }

    /// An error closes the connection without an answer.
    async fn pass(self: Arc<Self>, request: Request<Incoming>, last: Arc<Last>) -> Result<Answer, Error> {
        let (head, body) = request.into_parts();
        let body = self.whole(body).await?;
        let asked = match (self.upstream.asked)(&head.method, &head.uri) {
            Asked::Once(asked) => asked,
            Asked::Watch | Asked::Lease => {
                let (head, body) = self.forward(head, body).await?.into_parts();
                return Ok(Response::from_parts(head, body.boxed()));
            }
        };
        let visit = self.tally.arrive(asked);
        if visit.is_due(Moment::BeforeRequest) {
            visit.strike();
            return Err(self.failed("Waxwing was killed before its request was sent on"));
        }
        // What has been sent on is done, whether or not anyone waits for the answer.
        let passage = Arc::clone(&self);
        let asking = tokio::spawn(async move {
            let answer = passage.forward(head, body).await;
            let whole = match answer {
                Ok(answer) => passage.collect(answer).await,
                Err(error) => Err(error),
            };
            (whole, visit)
        });
        let (answer, visit) = asking.await.map_err(|error| self.failed(error))?;
        if visit.is_due(Moment::BeforeAnswer) {
            visit.strike();
            return Err(self.failed("Waxwing was killed before it got the answer"));
        }
        let (mut head, body) = answer?;
        if visit.is_due(Moment::AfterAnswer) {
            // The connection's end says that the answer has been handed over.
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(visit);
        }
        let body = Full::new(body).map_err(|never| match never {});
        Ok(Response::from_parts(head, body.boxed()))
    }

    /// Asks the server. The Host header stays what it was, so that the server's own links lead through here.
    async fn forward(&self, mut head: request::Parts, body: Bytes) -> Result<Response<Incoming>, Error> {
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = format!("{}{path}", self.upstream.base).parse().map_err(|error| self.failed(error))?;
        for_one_connection(&mut head.headers);
        let mut answer = self
            .client
            .request(Request::from_parts(head, Full::new(body)))
            .await
            .map_err(|error| self.failed(error))?;
        for_one_connection(answer.headers_mut());
        Ok(answer)
    }

    async fn collect(&self, answer: Response<Incoming>) -> Result<(response::Parts, Bytes), Error> {
        let (head, body) = answer.into_parts();
        Ok((head, self.whole(body).await?))
    }

    async fn whole(&self, body: Incoming) -> Result<Bytes, Error> {
        let body = Limited::new(body, LIMIT).collect().await.map_err(|error| self.failed(error))?;
        Ok(body.to_bytes())
    }

    fn failed(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Http { what: format!("relaying to {}", self.upstream.base), source: source.into() }
    }
}

/// Removes what is about one of the two connections alone.
fn for_one_connection(headers: &mut HeaderMap) {
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
}

fn acceptor(authority: &Authority) -> Result<TlsAcceptor, Error> {
    let failed = || "setting up TLS for a relay";
    // A kubeconfig of the lab names the server `kubernetes`.
    let pair = authority.server(&["localhost", "kubernetes"])?;
    let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(Error::invalid(failed))?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(Error::invalid(failed))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::invalid(failed))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(Error::invalid(failed))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn client(authority: &Authority) -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, Error> {
    let failed = || "setting up TLS for a relay";
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).map_err(Error::invalid(failed))?;
    roots.add(root).map_err(Error::invalid(failed))?;
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::invalid(failed))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{super::tally::Point, *};
    use crate::http::Http;

    /// A server that counts what it is asked, behind a relay.
    async fn relayed() -> (Relay, Arc<Tally>, Http, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let server = axum::Router::new().fallback(move |headers: HeaderMap| async move {
            count.fetch_add(1, Ordering::SeqCst);
            headers.get("host").map(|host| host.to_str().unwrap_or_default().to_owned()).unwrap_or_default()
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, server).await });
        let authority = Authority::new("relay").unwrap();
        let upstream = Upstream {
            base,
            asked: Box::new(|method, uri| match uri.path() {
                "/watch" => Asked::Watch,
                path => Asked::Once(format!("{method} {path}")),
            }),
        };
        let tally = Arc::new(Tally::default());
        let relay = Relay::start(upstream, Arc::clone(&tally), &authority).await.unwrap();
        (relay, tally, Http::new(authority.pem()).unwrap(), asked)
    }

    #[tokio::test]
    async fn each_moment_is_what_it_says() {
        for (moment, arrives, is_answered) in [
            (Moment::BeforeRequest, 1, false),
            (Moment::BeforeAnswer, 2, false),
            (Moment::AfterAnswer, 2, true),
        ] {
            let (relay, tally, http, asked) = relayed().await;
            tally.begin(Some(Point { request: 2, moment }), Box::new(|| ()));
            http.get(&format!("{}/watch", relay.url())).await.unwrap().ok("a watch").unwrap();
            let url = format!("{}/a", relay.url());
            assert_eq!(
                format!("https://{}", http.get(&url).await.unwrap().ok("the first").unwrap()),
                relay.url(),
                "the server sees the name that it was asked by"
            );
            let second = http.get(&url).await;
            tally.struck().await;
            assert_eq!(second.is_ok(), is_answered, "{moment:?}");
            assert_eq!(asked.load(Ordering::SeqCst), 1 + arrives, "{moment:?}, with the watch");
            let run = tally.end();
            assert_eq!((run.requests.len(), run.killed), (2, true));
        }
    }
}
