//! `waxwing solver`: what a solver pod runs. It answers challenges and knows nothing of Kubernetes.

use std::{io, net::SocketAddr};

use clap::Args;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    runtime::{
        admin::ServeError,
        log::{self, LogError},
    },
    solver::responder::{self, Given},
};

/// The flags of `waxwing solver`.
#[derive(Debug, Args)]
pub struct Solver {
    /// A DNS name whose challenges are answered. Repeat it for each
    #[arg(long = "host", required = true, value_name = "NAME")]
    hosts: Vec<String>,

    /// The thumbprint of the account's key (RFC 7638): the second half of every answer
    #[arg(long)]
    thumbprint: String,

    /// Where challenges are answered [default: port 8089 of every address]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// How log lines are written [default: text on a terminal, else json]
    #[arg(long, env = "WAXWING_LOG_FORMAT", value_enum)]
    log_format: Option<log::Format>,

    /// error, warn, info, debug or trace
    #[arg(long, env = "WAXWING_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    log_level: String,
}

/// The port of solver pods.
pub const PORT: u16 = 8089;

/// Why a solver pod ended.
#[derive(Debug, Error)]
pub enum SolverError {
    /// There are no logs.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What it is to answer makes no answer.
    #[error("write --host with a DNS name and --thumbprint with what RFC 7638 says")]
    Given,
    /// An address can't be listened on.
    #[error("couldn't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Signals can't be waited for.
    #[error("couldn't wait for signals: {0}")]
    Signal(#[source] io::Error),
    /// It couldn't go on.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Solver {
    /// Answers until SIGTERM or SIGINT.
    pub async fn run(self) -> Result<(), SolverError> {
        log::init(self.log_format, &self.log_level)?;
        let given = Given::new(&self.hosts, &self.thumbprint).ok_or(SolverError::Given)?;
        let listener = self.listener().await?;
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(SolverError::Signal)?;
        let stop = CancellationToken::new();
        tracing::info!(hosts = ?self.hosts, "answering challenges");
        let mut serving = std::pin::pin!(responder::run_given(listener, given, stop.clone()));
        tokio::select! {
            served = serving.as_mut() => return Ok(served?),
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        stop.cancel();
        Ok(serving.await?)
    }

    /// Without a choice: both families where the machine has both.
    async fn listener(&self) -> Result<TcpListener, SolverError> {
        let every = [SocketAddr::from(([0_u16; 8], PORT)), SocketAddr::from(([0_u8; 4], PORT))];
        let mut failed = None;
        for address in self.listen.map_or(every.to_vec(), |address| vec![address]) {
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(listener),
                Err(source) => failed = Some(SolverError::Listen { address, source }),
            }
        }
        Err(failed.unwrap_or(SolverError::Given))
    }
}
