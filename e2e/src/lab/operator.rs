//! Waxwing itself, run as a process as the user `waxwing`.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use super::Places;
use crate::{Error, paths, probe, process::Process};

/// Waxwing's own namespace. The lab makes it, with the Service `waxwing` in front of the responder.
pub const OWN_NAMESPACE: &str = "waxwing-system";

/// The port of the node's address on which the Service `waxwing` expects the responder.
pub const RESPONDER_PORT: u16 = 8089;

/// Longest time that Waxwing may take to end by itself.
const GRACE: Duration = Duration::from_secs(30);

/// How Waxwing is started.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// A word for its log, so that a test may run two of them.
    pub name: String,
    /// The program; `WAXWING` in the environment, else `target/debug/waxwing`, is the default.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// More variables of its environment.
    pub environment: Vec<(String, String)>,
}

/// A Waxwing process.
#[derive(Debug)]
pub struct Operator {
    process: Process,
}

impl Default for OperatorOptions {
    fn default() -> Self {
        let built = || paths::target().join("debug/waxwing");
        Self {
            name: "waxwing".to_owned(),
            program: env::var_os("WAXWING").map_or_else(built, PathBuf::from),
            arguments: vec!["run".to_owned()],
            environment: Vec::new(),
        }
    }
}

impl Operator {
    pub(super) fn start(options: OperatorOptions, kubeconfig: &Path, places: &Places) -> Result<Self, Error> {
        let operator = Self::new(options, kubeconfig, places)?;
        operator.process.start()?;
        Ok(operator)
    }

    /// One that doesn't run yet.
    pub(super) fn new(options: OperatorOptions, kubeconfig: &Path, places: &Places) -> Result<Self, Error> {
        if !options.program.exists() {
            return Err(Error::Missing {
                program: options.program.display().to_string(),
                needed_for: "this test",
                install: "Build it with: cargo build -p waxwing",
            });
        }
        let mut process = Process::new(&options.name, &options.program, &places.logs)
            .args(options.arguments)
            .env("KUBECONFIG", kubeconfig.display().to_string());
        for (name, value) in options.environment {
            process = process.env(&name, value);
        }
        Ok(Self { process })
    }

    /// SIGKILL: a crash.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again after [`kill`](Self::kill) or [`stop`](Self::stop).
    pub fn start_again(&self) -> Result<(), Error> {
        self.process.start()
    }

    /// SIGTERM, and how it ended; `None` if it had to be killed.
    pub async fn stop(&self) -> Option<ExitStatus> {
        self.process.stop(GRACE).await
    }

    /// Waits until its log holds `text`.
    pub async fn logged(&self, text: &str, within: Duration) -> Result<(), Error> {
        probe::until(&format!("a log line with {text:?}"), within, || async {
            self.process.check().map_err(|error| error.to_string())?;
            if self.process.log().contains(text) { Ok(()) } else { Err("not logged yet".to_owned()) }
        })
        .await
    }

    /// Its process: log, usage, signals.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
