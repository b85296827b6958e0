//! The admin server: /healthz (the process runs), /readyz (its caches are filled), /metrics.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    metrics::Metrics,
    serve::{Limits, serve},
};

/// Probes share this with everyone. Anyone who holds all connections and says nothing keeps them out, and the kubelet
/// restarts what doesn't answer it: so there are many, and silence is short.
const LIMITS: Limits =
    Limits { connections: 256, connection_time: Duration::from_mins(1), header_time: Duration::from_secs(5) };

/// Whether the process can do its work. Clones are handles to the same state.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    ready: Arc<AtomicBool>,
}

impl Readiness {
    /// True once the caches are filled. It stays so while the process ends: it goes on with answering challenges.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Says whether the caches are filled.
    pub fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

/// A server that can't be.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("couldn't listen on {address} for the {what}: {source}")]
    Listen {
        /// What the server is for.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It broke later.
    #[error("the {what} failed: {source}")]
    Serve {
        /// What the server is for.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Listens on `address`; `what` names the server in errors.
pub async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { what, address, source })
}

/// Serves until `stop`.
pub async fn run(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let what = "admin server";
    serve(listener, router(metrics, readiness), LIMITS, stop)
        .await
        .map_err(|source| ServeError::Serve { what, source })
}

fn router(metrics: Arc<Metrics>, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(exposition).with_state(metrics))
}

async fn readyz(State(readiness): State<Readiness>) -> impl IntoResponse {
    if readiness.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the caches are not filled yet: the log says what can't be read\n")
    }
}

async fn exposition(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    match metrics.text() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use axum::{body::Body, http::Request};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    use tower::ServiceExt;

    use super::*;

    async fn status(router: &Router, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn readiness_follows_the_caches() {
        let readiness = Readiness::default();
        let router = router(Arc::new(Metrics::new().unwrap()), readiness.clone());
        assert_eq!(status(&router, "/healthz").await, StatusCode::OK);
        assert_eq!(status(&router, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
        readiness.set(true);
        assert_eq!(status(&router, "/readyz").await, StatusCode::OK);
        assert_eq!(status(&router, "/metrics").await, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_probe_is_answered_in_time_while_others_hold_connections_in_silence() {
        let listener = listen("admin server", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (metrics, readiness) = (Arc::new(Metrics::new().unwrap()), Readiness::default());
        let server = tokio::spawn(run(listener, metrics, readiness, stop.clone()));
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut probe = TcpStream::connect(address).await.unwrap();
        probe.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        // The chart lets probes wait for 5 s.
        tokio::time::timeout(Duration::from_secs(1), probe.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(silent);
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
