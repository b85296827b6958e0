//! A look at a challenge over the network, as RFC 8555 §8.3 says; refusals in Boulder's words.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, header::LOCATION};
use url::Url;

use super::{authorizations::Look, problem::Problem};
use crate::{Error, http::Http};

/// As many redirects are followed.
const REDIRECTS: usize = 10;

/// Looks; `at` is where, instead of where the name leads.
pub(super) async fn look(look: &Look, at: Option<SocketAddr>) -> Result<(), Problem> {
    if look.challenge != "http-01" {
        return Err(Problem::unauthorized(format!(
            "this CA looks at HTTP-01 alone, not at {}",
            look.challenge
        )));
    }
    let http = Http::new("").map_err(|error| Problem::new(500, "serverInternal", error.to_string()))?;
    let mut url = format!("http://{}/.well-known/acme-challenge/{}", look.name, look.token);
    for _ in 0..REDIRECTS {
        let connection = |what: &str| Problem::new(400, "connection", format!("Fetching {url}: {what}"));
        let parsed = Url::parse(&url).map_err(|error| connection(&error.to_string()))?;
        let host = parsed.host_str().unwrap_or_default().to_owned();
        if parsed.scheme() != "http" || parsed.port().is_some() {
            return Err(connection("Invalid redirect: this CA follows to http:// and port 80 alone"));
        }
        let address = match at {
            Some(address) => address,
            None => resolve(&host).await?,
        };
        let target = format!("http://{address}{}", parsed.path());
        let answer = match http.send(Method::GET, &target, &[("host", &host)], Bytes::new()).await {
            Ok(answer) => answer,
            Err(error) => return Err(connection(said(&error))),
        };
        let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        if let (true, Some(location)) = (answer.status.is_redirection(), location) {
            url = parsed.join(location).map_or_else(|_| location.to_owned(), |next| next.to_string());
            continue;
        }
        let ip = address.ip();
        if answer.status != http::StatusCode::OK {
            return Err(Problem::unauthorized(format!(
                "{ip}: Invalid response from {url}: {}",
                answer.status.as_u16()
            )));
        }
        if answer.body.trim_end() == look.key_authorization {
            return Ok(());
        }
        return Err(Problem::unauthorized(format!(
            "{ip}: The key authorization file from the server did not match this challenge. Expected {:?} (got {:?})",
            look.key_authorization, answer.body
        )));
    }
    Err(Problem::new(400, "connection", format!("Fetching {url}: Too many redirects")))
}

async fn resolve(host: &str) -> Result<SocketAddr, Problem> {
    let found = tokio::net::lookup_host((host, 80)).await.ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| {
        let detail = format!(
            "DNS problem: no valid A records found for {host}; no valid AAAA records found for {host}"
        );
        Problem::new(400, "dns", detail)
    })
}

fn said(error: &Error) -> &'static str {
    let text = error.to_string().to_ascii_lowercase();
    if text.contains("refused") {
        "Connection refused"
    } else if text.contains("elapsed") {
        "Timeout during connect (likely firewall problem)"
    } else {
        "Error getting validation data"
    }
}
