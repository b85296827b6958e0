//! The demo's app: what stands behind the examples' Services in place of pods.

use axum::{Router, extract::Request, http::header::HOST};
use tokio::net::TcpListener;

use crate::{Error, sandbox::NODE_ADDRESS};

/// Where it listens inside of the lab.
pub const PORT: u16 = 8080;

/// Serves until it is ended.
pub async fn serve() -> Result<(), Error> {
    let failed = || format!("listening on {NODE_ADDRESS}:{PORT}");
    let listener = TcpListener::bind((NODE_ADDRESS, PORT)).await.map_err(Error::io(failed))?;
    axum::serve(listener, Router::new().fallback(hello)).await.map_err(Error::io(|| "serving the demo's app"))
}

async fn hello(request: Request) -> String {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("nobody");
    format!("hello from {host}\n")
}
