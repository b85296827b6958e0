//! What a self-check saw, as plain data.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// What a self-check saw at the end of its wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The host that was asked for.
    pub host: String,
    /// Whether every address gave the expected answer.
    pub passed: bool,
    /// The addresses that the host resolved to.
    pub addresses: Vec<IpAddr>,
    /// What the last round saw, in the order that it was seen.
    pub observations: Vec<Observation>,
    /// How long the self-check took.
    pub elapsed: Duration,
    /// Whether the edge sent plain HTTP to HTTPS.
    pub redirected_to_https: bool,
}

impl Evidence {
    /// Evidence of a check that passed without looking, for solvers that know.
    pub fn passed(host: impl Into<String>) -> Self {
        Self { host: host.into(), passed: true, ..Self::default() }
    }

    /// What went wrong, in the order that it was seen.
    pub fn failures(&self) -> impl Iterator<Item = &Observation> {
        self.observations.iter().filter(|observation| observation.outcome.is_failure())
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.passed {
            return write!(f, "{} answers as expected", self.host);
        }
        let mut failures = self.failures().peekable();
        if failures.peek().is_none() {
            return write!(f, "{} was not seen to answer", self.host);
        }
        for (index, failure) in failures.take(4).enumerate() {
            write!(f, "{}{failure}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// One thing that a self-check saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The address that was asked; none where there was none to ask.
    pub address: Option<IpAddr>,
    /// The URL that was asked.
    pub url: String,
    /// What came of it.
    pub outcome: Outcome,
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, &self.outcome) {
            (_, outcome @ (Outcome::NoAddress | Outcome::Dns(_))) => write!(f, "{outcome}"),
            (Some(address), outcome) => write!(f, "GET {} at {address}: {outcome}", self.url),
            (None, outcome) => write!(f, "GET {}: {outcome}", self.url),
        }
    }
}

/// What came of one request, or of a name's resolution. Bodies are never kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The expected answer.
    Ok,
    /// The connection was refused.
    Refused,
    /// No answer in time.
    TimedOut,
    /// There is no way to this address from here (such as IPv6 where there is none). Doesn't count as a failure
    /// while another address answers.
    Unreachable,
    /// Another status than 200.
    Status(u16),
    /// Status 200 with another body than expected.
    WrongBody,
    /// The edge redirected to this URL, which was followed.
    RedirectedTo(String),
    /// The edge redirected to this URL, which a CA doesn't follow: another scheme, or another port than 80 and 443.
    RedirectRefused(String),
    /// More redirects than a CA follows.
    TooManyRedirects,
    /// The TLS handshake after a redirect failed.
    Tls(String),
    /// The connection broke, or what came wasn't HTTP.
    Broken(String),
    /// The name has no A or AAAA record.
    NoAddress,
    /// The name could not be resolved.
    Dns(String),
}

impl Outcome {
    /// Whether a CA that saw this would give up.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Ok | Self::RedirectedTo(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("as expected"),
            Self::Refused => f.write_str("connection refused"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Unreachable => f.write_str("no route from here"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::WrongBody => f.write_str("status 200, but another body than the challenge's answer"),
            Self::RedirectedTo(url) => write!(f, "redirected to {url}"),
            Self::RedirectRefused(url) => write!(f, "redirected to {url}, where no CA follows"),
            Self::TooManyRedirects => f.write_str("too many redirects"),
            Self::Tls(why) => write!(f, "TLS failed: {why}"),
            Self::Broken(why) => write!(f, "{why}"),
            Self::NoAddress => f.write_str("the name has no A or AAAA record"),
            Self::Dns(why) => write!(f, "the name could not be resolved: {why}"),
        }
    }
}
