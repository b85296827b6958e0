//! A look at an HTTP-01 answer from here, as the CA will look at it. Advice only.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::resolve::AddressLookup;
use crate::tls::AcceptAll;
use crate::{Evidence, Observation, Outcome};

/// How a self-check looks.
#[derive(Clone, Debug)]
pub struct SelfCheckConfig {
    /// The name servers to ask, by address and port; none: those of this host.
    pub nameservers: Vec<SocketAddr>,
    /// The port for `http` where a URL names none: 80, another one only in tests.
    pub http_port: u16,
    /// The port for `https` where a URL names none: 443, another one only in tests.
    pub https_port: u16,
    /// How long to look before giving up.
    pub deadline: Duration,
    /// The longest pause between two looks. The first pauses are shorter.
    pub poll: Duration,
    /// How many looks in a row must succeed, at every address. Behind one address there may be several proxies that
    /// don't learn a route at the same instant.
    pub successes: u32,
}

impl Default for SelfCheckConfig {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            http_port: 80,
            https_port: 443,
            deadline: Duration::from_secs(20),
            poll: Duration::from_secs(1),
            successes: 3,
        }
    }
}

/// Looks at HTTP-01 answers through the edge. Clones are cheap.
#[derive(Clone)]
pub struct SelfCheck {
    inner: Arc<Inner>,
    deadline: Duration,
    pace: Pace,
}

/// How often it is looked: the first pause, the part of the time waited so far that one more pause may add, and how many
/// times the configured pause is the longest.
#[derive(Clone, Copy, Debug)]
struct Pace {
    first: Duration,
    part: u32,
    longest: u32,
}

struct Inner {
    config: SelfCheckConfig,
    lookup: AddressLookup,
    tls: Option<TlsConnector>,
    /// Self-checks that wait for their next look.
    waiting: AtomicU32,
}

/// Counts one that waits, however the wait ends.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Quick looks at first, so that waiting takes little longer than what is waited for; then rarer ones.
const USUAL: Pace = Pace { first: Duration::from_millis(25), part: 8, longest: 1 };
/// About a third as many looks.
const SPARING: Pace = Pace { first: Duration::from_millis(250), part: 2, longest: 2 };
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// All that wait look 2000 times a second together, however many they are: a thousand names that never answer leave
/// the processor to those that do.
const EACH_OTHER: Duration = Duration::from_micros(500);
/// As many as Let's Encrypt follows.
const REDIRECTS: usize = 10;
/// A key authorization has under 200 bytes.
const LARGEST_BODY: usize = 4096;
/// More addresses of one name aren't looked at.
const ADDRESSES: usize = 16;

impl SelfCheck {
    /// A self-check that looks as `config` says.
    pub fn new(config: SelfCheckConfig) -> Self {
        let (lookup, deadline) = (AddressLookup::new(&config.nameservers), config.deadline);
        Self {
            inner: Arc::new(Inner { config, lookup, tls: tls_connector(), waiting: AtomicU32::new(0) }),
            deadline,
            pace: USUAL,
        }
    }

    /// The same, but that it looks for at least so long before it gives up.
    #[must_use]
    pub fn for_at_least(&self, deadline: Duration) -> Self {
        Self { deadline: self.deadline.max(deadline), ..self.clone() }
    }

    /// The same, but that it looks less often: for names that failed last time, so that many of them leave the processor
    /// to those that didn't.
    #[must_use]
    pub fn sparing(&self) -> Self {
        Self { pace: SPARING, ..self.clone() }
    }

    /// Looks at `http://<host>/.well-known/acme-challenge/<token>` at every address of `host` until all answer
    /// `expected`, some times in a row, or the deadline passes.
    pub async fn http01(&self, host: &str, token: &str, expected: &str) -> Evidence {
        let config = &self.inner.config;
        let started = Instant::now();
        let mut pause = self.pace.pause(Duration::ZERO, config.poll);
        let mut successes = 0;
        let mut last = None;
        loop {
            let rest = self.deadline.saturating_sub(started.elapsed());
            let looked = tokio::time::timeout(rest, self.http01_once(host, token, expected)).await;
            let Ok(mut evidence) = looked else {
                // A look that the deadline cuts short tells nothing; the one before it does.
                let evidence = last.unwrap_or_else(|| timed_out(host, token));
                return Evidence { elapsed: started.elapsed(), ..evidence };
            };
            evidence.elapsed = started.elapsed();
            successes = if evidence.passed { successes + 1 } else { 0 };
            if successes >= config.successes.max(1) || started.elapsed() + pause >= self.deadline {
                // A pass that wasn't repeated in time is still a pass: it is the best that is known.
                return evidence;
            }
            let passed = evidence.passed;
            last = Some(evidence);
            if passed {
                continue;
            }
            let waiting = Waiting::new(&self.inner.waiting);
            tokio::time::sleep(pause).await;
            let others = waiting.0.load(Ordering::Relaxed);
            pause = self.pace.pause(started.elapsed(), config.poll).max(EACH_OTHER * others);
        }
    }

    /// Looks once, at every address of `host`.
    pub async fn http01_once(&self, host: &str, token: &str, expected: &str) -> Evidence {
        let started = Instant::now();
        let url = challenge_url(host, token);
        let (addresses, mut observations) = match self.inner.lookup.addresses(host).await {
            Ok(addresses) => (addresses, Vec::new()),
            Err(outcome) => (Vec::new(), vec![Observation { address: None, url: url.clone(), outcome }]),
        };
        let looks = addresses.iter().take(ADDRESSES).map(|address| self.look(*address, host, &url, expected));
        observations.extend(join_all(looks).await.into_iter().flatten());
        Evidence {
            host: host.to_owned(),
            passed: verdict(&observations),
            redirected_to_https: observations
                .iter()
                .any(|seen| matches!(&seen.outcome, Outcome::RedirectedTo(to) if to.starts_with("https:"))),
            addresses,
            observations,
            elapsed: started.elapsed(),
        }
    }

    /// Asks one address and follows its redirects.
    async fn look(&self, address: IpAddr, host: &str, url: &str, expected: &str) -> Vec<Observation> {
        let mut seen = Vec::new();
        let mut address = address;
        let mut observe = |address, url: &str, outcome| {
            seen.push(Observation { address: Some(address), url: url.to_owned(), outcome });
        };
        let Ok(mut target) = Url::parse(url) else {
            observe(address, url, Outcome::Broken("the host can't be part of a URL".to_owned()));
            return seen;
        };
        for _ in 0..=REDIRECTS {
            let asked = tokio::time::timeout(REQUEST_TIMEOUT, self.ask(address, &target, expected)).await;
            let next = match asked.unwrap_or(Ok(Outcome::TimedOut)) {
                Ok(outcome) => {
                    observe(address, target.as_str(), outcome);
                    return seen;
                }
                Err(Redirect(location)) => location,
            };
            let Some(next) = self.redirect(&target, &next) else {
                observe(address, target.as_str(), Outcome::RedirectRefused(next));
                return seen;
            };
            observe(address, target.as_str(), Outcome::RedirectedTo(next.to_string()));
            // Another host has other addresses; the same one is asked where it was.
            if let Some(other) = next.host_str().filter(|other| !other.eq_ignore_ascii_case(host)) {
                match self.inner.lookup.addresses(bare(other)).await.map(|found| found.first().copied()) {
                    Ok(Some(found)) => address = found,
                    Ok(None) => {
                        observe(address, next.as_str(), Outcome::NoAddress);
                        return seen;
                    }
                    Err(outcome) => {
                        observe(address, next.as_str(), outcome);
                        return seen;
                    }
                }
            }
            target = next;
        }
        observe(address, target.as_str(), Outcome::TooManyRedirects);
        seen
    }

    /// Where a redirect leads, if a CA follows it: `http` or `https`, on their own ports.
    fn redirect(&self, from: &Url, location: &str) -> Option<Url> {
        let next = from.join(location).ok()?;
        let own_port = match next.scheme() {
            "http" => self.inner.config.http_port,
            "https" => self.inner.config.https_port,
            _ => return None,
        };
        next.port().is_none_or(|port| port == own_port).then_some(next)
    }

    /// One GET on a connection of its own.
    async fn ask(&self, address: IpAddr, url: &Url, expected: &str) -> Result<Outcome, Redirect> {
        let secure = url.scheme() == "https";
        let default = if secure { self.inner.config.https_port } else { self.inner.config.http_port };
        let target = SocketAddr::new(address, url.port().unwrap_or(default));
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Ok(connect_outcome(&error)),
            Err(_) => return Ok(Outcome::TimedOut),
        };
        // Best effort: a delay of milliseconds is all that it saves.
        let _ = stream.set_nodelay(true);
        if !secure {
            return exchange(stream, url, expected).await;
        }
        let Some(connector) = &self.inner.tls else {
            return Ok(Outcome::Tls("not available here".to_owned()));
        };
        let name = url.host_str().map(bare).and_then(|host| ServerName::try_from(host.to_owned()).ok());
        let Some(name) = name else { return Ok(Outcome::Tls("the host can't be a server name".to_owned())) };
        match connector.connect(name, stream).await {
            Ok(stream) => exchange(stream, url, expected).await,
            Err(error) => Ok(Outcome::Tls(error.to_string())),
        }
    }
}

impl fmt::Debug for SelfCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfCheck").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// Where an HTTP-01 answer is looked for (RFC 8555 §8.3).
pub fn challenge_url(host: &str, token: &str) -> String {
    let host = if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
    format!("http://{host}/.well-known/acme-challenge/{token}")
}

/// A redirect's target, as the edge wrote it.
struct Redirect(String);

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    url: &Url,
    expected: &str,
) -> Result<Outcome, Redirect> {
    let broken = |error: hyper::Error| Ok(Outcome::Broken(format!("no HTTP answer ({error})")));
    let (mut sender, connection) = match hyper::client::conn::http1::handshake(TokioIo::new(stream)).await {
        Ok(parts) => parts,
        Err(error) => return broken(error),
    };
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    let request = Request::get(path)
        .header(HOST, host)
        .header(
            USER_AGENT,
            HeaderValue::from_static(concat!("waxwing/", env!("CARGO_PKG_VERSION"), " (self-check)")),
        )
        .header(CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::<Bytes>::new());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Ok(Outcome::Broken(error.to_string())),
    };
    let answer = async move {
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return broken(error),
        };
        if response.status().is_redirection()
            && let Some(location) = response.headers().get(LOCATION).and_then(|value| value.to_str().ok())
        {
            return Err(Redirect(location.to_owned()));
        }
        if response.status() != StatusCode::OK {
            return Ok(Outcome::Status(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), LARGEST_BODY).collect().await;
        match body.map(http_body_util::Collected::to_bytes) {
            // RFC 8555 §8.3: white space at the end is left aside.
            Ok(body) if body.trim_ascii_end() == expected.as_bytes() => Ok(Outcome::Ok),
            Ok(_) => Ok(Outcome::WrongBody),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Ok(Outcome::WrongBody),
            Err(error) => Ok(Outcome::Broken(format!("the answer broke off ({error})"))),
        }
    };
    // The connection ends with this look: nothing is left running.
    tokio::pin!(answer);
    tokio::select! {
        outcome = &mut answer => outcome,
        _ = connection => answer.await,
    }
}

fn connect_outcome(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::TimedOut => Outcome::TimedOut,
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::AddrNotAvailable => Outcome::Unreachable,
        _ => Outcome::Broken(error.to_string()),
    }
}

impl Pace {
    /// The pause after so long a wait, where `poll` is the longest as configured.
    fn pause(self, waited: Duration, poll: Duration) -> Duration {
        let longest = poll * self.longest;
        (waited / self.part).max(self.first).min(longest)
    }
}

/// Passed where something answered as expected, and nothing failed but what can't be reached from here.
fn verdict(observations: &[Observation]) -> bool {
    let mut passed = false;
    for observation in observations {
        match &observation.outcome {
            Outcome::Ok => passed = true,
            Outcome::RedirectedTo(_) | Outcome::Unreachable => {}
            _ => return false,
        }
    }
    passed
}

fn timed_out(host: &str, token: &str) -> Evidence {
    let url = challenge_url(host, token);
    let observations = vec![Observation { address: None, url, outcome: Outcome::TimedOut }];
    Evidence { host: host.to_owned(), observations, ..Evidence::default() }
}

/// A host without the brackets that a URL puts around an IPv6 address.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn tls_connector() -> Option<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAll::new()))
        .with_no_client_auth();
    Some(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_time_waited_up_to_the_longest() {
        let poll = Duration::from_secs(1);
        assert_eq!(USUAL.pause(Duration::ZERO, poll), USUAL.first);
        assert_eq!(USUAL.pause(Duration::from_secs(2), poll), Duration::from_millis(250));
        assert_eq!(USUAL.pause(Duration::from_secs(19), poll), poll);
        assert_eq!(USUAL.pause(Duration::ZERO, Duration::from_millis(5)), Duration::from_millis(5));
    }

    #[test]
    fn a_sparing_one_looks_a_third_as_often() {
        let looks = |pace: Pace| {
            let (mut waited, mut looks) = (Duration::ZERO, 1);
            while waited < Duration::from_secs(20) {
                waited += pace.pause(waited, Duration::from_secs(1));
                looks += 1;
            }
            looks
        };
        assert!(looks(SPARING) * 3 <= looks(USUAL), "{} and {}", looks(SPARING), looks(USUAL));
    }
}
