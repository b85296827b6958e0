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

const LIMITS: Limits =
    Limits { connections: 32, connection_time: Duration::from_mins(1), header_time: Duration::from_secs(15) };

/// Whether the process can do its work. Clones are handles to the same state.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    ready: Arc<AtomicBool>,
}

impl Readiness {
    /// True between [`Readiness::set`] and shutdown.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Says that the caches are filled (true) or that shutdown has begun (false).
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
        (StatusCode::SERVICE_UNAVAILABLE, "the caches are not filled yet, or the process is ending\n")
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
}
