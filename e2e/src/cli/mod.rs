//! The commands of `e2e`.

mod fetch;

use std::{ffi::OsString, process::ExitCode};

use e2e::{Error, parts::Purpose, sandbox};

/// The lab: a real Kubernetes control plane, real CAs and a real ingress controller on this machine.
#[derive(Debug, clap::Parser)]
#[command(name = "e2e", version, about)]
pub enum Command {
    /// Build or fetch the programs that the lab runs, unless they are there
    Fetch {
        /// What they are for
        #[arg(long = "for", value_name = "PURPOSE", default_value = "test")]
        purpose: Purpose,
    },
    /// Run a command in a sandbox: network, processes and mounts of its own
    Sandbox {
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// The first process of a sandbox
    #[command(hide = true)]
    SandboxInit {
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
}

impl Command {
    /// Runs the command, says what went wrong, and answers with the exit code: 0, 1, or the
    /// sandboxed command's own.
    pub fn run(self) -> ExitCode {
        let outcome = match self {
            Self::Fetch { purpose } => fetch::run(purpose).map(|()| ExitCode::SUCCESS),
            Self::Sandbox { command } => Err(sandbox::enter(&command)),
            Self::SandboxInit { command } => sandbox::init(&command).map(ExitCode::from),
        };
        outcome.unwrap_or_else(|error: Error| {
            eprintln!("e2e: {error}");
            ExitCode::FAILURE
        })
    }
}
