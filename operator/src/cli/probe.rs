//! `waxwing probe`: asks whether Waxwing's responder answers at an address. It is what `helm test` runs.

use std::{collections::BTreeSet, io, net::SocketAddr};

use clap::Args;
use thiserror::Error;
use waxwing_acme::{Evidence, SelfCheck, SelfCheckConfig};

use crate::solver::responder;

/// The arguments of `waxwing probe`.
#[derive(Debug, Args)]
pub struct Probe {
    /// The Service in front of the responder
    #[arg(value_name = "HOST:PORT")]
    address: String,
}

/// Why a responder can't be said to work.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The name has no address.
    #[error("couldn't look {address} up: {source}; name a Service and its port: {example}", example = EXAMPLE)]
    Lookup {
        /// The name and port.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no answer, or another one.
    #[error(
        "no responder of Waxwing's answers at {address}: {evidence}. A Service leads to pods that are ready: \
         `kubectl get pods` shows whether there are any"
    )]
    NoAnswer {
        /// The name and port.
        address: String,
        /// What came in its place.
        evidence: Box<Evidence>,
    },
}

const EXAMPLE: &str = "waxwing.waxwing-system.svc:80";

impl Probe {
    /// Asks at every address of the name, some times each: several pods may stand behind it.
    pub async fn run(self) -> Result<(), ProbeError> {
        for socket in ask(&self.address, SelfCheckConfig::default()).await? {
            println!("waxwing {}: the responder answers at {socket}", env!("CARGO_PKG_VERSION"));
        }
        Ok(())
    }
}

/// Asks as `how` says. Answers with the addresses.
async fn ask(address: &str, how: SelfCheckConfig) -> Result<BTreeSet<SocketAddr>, ProbeError> {
    let found = tokio::net::lookup_host(address).await;
    let found = found.map_err(|source| ProbeError::Lookup { address: address.to_owned(), source })?;
    let found: BTreeSet<SocketAddr> = found.collect();
    for socket in &found {
        let check = SelfCheck::new(SelfCheckConfig { http_port: socket.port(), ..how.clone() });
        let token = responder::probe_token();
        let answer = responder::probe_answer(&token);
        let evidence = check.http01(&socket.ip().to_string(), &token, &answer).await;
        if !evidence.passed {
            let evidence = Box::new(evidence);
            return Err(ProbeError::NoAnswer { address: address.to_owned(), evidence });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::solver::{open_orders::OpenOrders, responder::Given};

    #[tokio::test]
    async fn a_responder_is_told_from_what_else_answers() {
        let how = SelfCheckConfig { deadline: Duration::from_secs(2), ..SelfCheckConfig::default() };
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(responder::run(listener, OpenOrders::default(), Duration::ZERO, stop.clone()));
        assert_eq!(ask(&address.to_string(), how.clone()).await.unwrap(), BTreeSet::from([address]));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let given = Given::new(&["127.0.0.1"], "thumb").unwrap();
        tokio::spawn(responder::run_given(listener, given, stop.clone()));
        let refused = ask(&address, how.clone()).await.unwrap_err().to_string();
        assert!(refused.contains("another body") && refused.contains("kubectl get pods"), "{refused}");
        let unknown = ask("waxwing.invalid", how).await.unwrap_err().to_string();
        assert!(unknown.contains("waxwing.waxwing-system.svc:80"), "{unknown}");
        stop.cancel();
    }
}
