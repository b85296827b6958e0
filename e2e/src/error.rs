//! What can go wrong in the lab, in words that say what to do about it.

use std::{fmt, io, path::PathBuf, time::Duration};

/// Any failure of the lab.
#[derive(thiserror::Error)]
pub enum Error {
    /// A file, a process or a socket could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to which object.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A program that the lab stands on is not installed.
    #[error("{program} is missing, and {needed_for} needs it\n{install}")]
    Missing {
        /// The program that was looked for.
        program: String,
        /// What needs it.
        needed_for: &'static str,
        /// How to install it.
        install: &'static str,
    },
    /// A build or a download ended with an error.
    #[error("{what} failed; the whole output is in {}\n{tail}", log.display())]
    Build {
        /// The step.
        what: String,
        /// Its whole output.
        log: PathBuf,
        /// The end of its output.
        tail: String,
    },
    /// A part has not been built or fetched.
    #[error("{part} is not there; fetch it with: cargo run -p e2e -- fetch")]
    NotFetched {
        /// The part's name and version.
        part: String,
    },
    /// Something did not come up in its time.
    #[error("{what} is not ready after {} s; last: {last}", after.as_secs())]
    NotReady {
        /// What was waited for.
        what: String,
        /// How long it was waited for.
        after: Duration,
        /// What the last attempt said.
        last: String,
    },
    /// A part ended by itself.
    #[error("{part} ended ({status}); its log is {}\n{tail}", log.display())]
    Ended {
        /// The part's name.
        part: String,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },
    /// The API server refused or did not answer.
    #[error("{what}: {source}")]
    Kube {
        /// What was asked, about which object.
        what: String,
        /// The client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// An HTTP request got no answer.
    #[error("{what}: {source}")]
    Http {
        /// The request.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel refused to make namespaces.
    #[error(
        "this machine allows no network namespace of our own: {answer}\n\
         Run as root, or allow unprivileged user namespaces \
         (Ubuntu: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0). \
         In a container: give it CAP_SYS_ADMIN."
    )]
    NoNamespaces {
        /// What `unshare` said.
        answer: String,
    },
    /// A lab was started outside of a sandbox.
    #[error(
        "the lab runs in a sandbox only, so that this machine stays as it is; \
         run the tests with `make test-lab`, or any command with `e2e sandbox -- COMMAND`"
    )]
    NotInSandbox,
    /// No lab of that name is up.
    #[error("no lab named {name} is up; `e2e up --name {name}` starts one")]
    NotUp {
        /// The lab's name.
        name: String,
    },
    /// Data that should have been well-formed was not.
    #[error("{what}: {why}")]
    Invalid {
        /// What was read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// For `map_err` on I/O: `.map_err(Error::io(|| format!("reading {path}")))`.
    pub fn io<S: Into<String>>(what: impl FnOnce() -> S) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what().into(), source }
    }

    /// For `map_err` on requests to the API server.
    pub fn kube<S: Into<String>>(what: impl FnOnce() -> S) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Kube { what: what().into(), source: Box::new(source) }
    }

    /// For `map_err` on parsers of every kind.
    pub fn invalid<S: Into<String>, E: std::fmt::Display>(
        what: impl FnOnce() -> S,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self::Invalid { what: what().into(), why: error.to_string() }
    }
}

// What a failed `unwrap` in a test prints: the same words, and the causes below them.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = std::error::Error::source(self).and_then(std::error::Error::source);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
