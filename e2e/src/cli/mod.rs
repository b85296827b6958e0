//! The commands of `e2e`.

mod bench;
mod demo;
mod fetch;
mod image;
mod up;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use e2e::{
    Error,
    demo::{self as demonstration, Cluster, Install},
    parts::Purpose,
    sandbox,
    up::{Named, UpOptions, forward, supervise},
};

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
    /// Show Waxwing at work: a lab, the examples, and every step as it happens
    Demo {
        #[command(flatten)]
        lab: LabName,
        /// Which cluster
        #[arg(long, value_enum, default_value_t)]
        cluster: Cluster,
        /// How Waxwing is installed in the lab [default: helm where the lab can have a node, else process]
        #[arg(long, value_enum)]
        install: Option<Install>,
        /// An archive with Waxwing's image, for Helm [default: built from the sources]
        #[arg(long, value_name = "ARCHIVE")]
        image: Option<PathBuf>,
    },
    /// Measure speed, API writes, processor time and memory
    Bench {
        #[command(flatten)]
        options: e2e::bench::Options,
        /// How the figures are printed
        #[arg(short, long, value_enum, default_value_t)]
        output: bench::Output,
    },
    /// Write Waxwing's container image
    Image {
        #[command(flatten)]
        options: image::Options,
    },
    /// Start a lab that keeps running, and return when it is ready
    Up {
        #[command(flatten)]
        lab: LabName,
        /// Waxwing's program and arguments, to run it in the lab
        #[arg(last = true)]
        operator: Vec<OsString>,
    },
    /// End a lab; nothing of it stays but its logs
    Down {
        #[command(flatten)]
        lab: LabName,
    },
    /// Say what runs and where; exit code 1 when something doesn't
    Status {
        #[command(flatten)]
        lab: LabName,
    },
    /// Print a part's log, or which logs there are
    Logs {
        #[command(flatten)]
        lab: LabName,
        /// The part
        part: Option<String>,
        /// Print what comes, until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// Print shell variables that point kubectl at a lab: eval "$(e2e env)"
    Env {
        #[command(flatten)]
        lab: LabName,
    },
    /// Run a command inside of a lab
    Exec {
        #[command(flatten)]
        lab: LabName,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// The part of the demo that runs inside of the lab
    #[command(hide = true)]
    DemoStory {
        #[command(flatten)]
        lab: LabName,
        /// How Waxwing is installed
        #[arg(long, value_enum)]
        install: Install,
    },
    /// The demo's app
    #[command(hide = true)]
    DemoApp,
    /// Runs a lab's parts inside of its sandbox
    #[command(hide = true)]
    Supervise {
        #[command(flatten)]
        lab: LabName,
        /// An archive with Waxwing's image
        #[arg(long)]
        image: Option<PathBuf>,
        /// Waxwing's program and arguments
        #[arg(last = true)]
        operator: Vec<OsString>,
    },
    /// Connects the socket that standard input is to an address
    #[command(hide = true)]
    Forward {
        /// The address
        #[arg(long)]
        to: String,
    },
    /// The first process of a sandbox
    #[command(hide = true)]
    SandboxInit {
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
}

/// Which lab.
#[derive(Debug, clap::Args)]
pub struct LabName {
    /// The lab's name: several run side by side
    #[arg(long, default_value = "demo", value_name = "NAME")]
    name: String,
}

impl LabName {
    fn parse(&self) -> Result<Named, Error> {
        Named::new(&self.name)
    }
}

impl Command {
    /// Runs the command, says what went wrong, and answers with the exit code: 0, 1, or the
    /// sandboxed command's own.
    pub fn run(self) -> ExitCode {
        self.outcome().unwrap_or_else(|error| {
            eprintln!("e2e: {error}");
            ExitCode::FAILURE
        })
    }

    fn outcome(self) -> Result<ExitCode, Error> {
        match self {
            Self::Fetch { purpose } => fetch::run(purpose)?,
            Self::Sandbox { command } => return Err(sandbox::enter(&command)),
            Self::SandboxInit { command } => return sandbox::init(&command).map(ExitCode::from),
            Self::Demo { lab, cluster, install, image } => {
                return demo::run(&lab.parse()?, cluster, install, image);
            }
            Self::Bench { options, output } => bench::run(&options, output)?,
            Self::DemoStory { lab, install } => {
                runtime()?.block_on(demonstration::tell(&lab.parse()?, install))?;
            }
            Self::DemoApp => runtime()?.block_on(demonstration::serve_app())?,
            Self::Image { options } => image::run(&options)?,
            Self::Up { lab, operator } => up::up(&lab.parse()?, operator)?,
            Self::Down { lab } => up::down(&lab.parse()?)?,
            Self::Status { lab } => {
                if !up::status(&lab.parse()?)? {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Self::Logs { lab, part, follow } => up::logs(&lab.parse()?, part.as_deref(), follow)?,
            Self::Env { lab } => up::env(&lab.parse()?)?,
            Self::Exec { lab, command } => up::exec(&lab.parse()?, &command)?,
            Self::Supervise { lab, image, operator } => {
                runtime()?.block_on(supervise(&lab.parse()?, UpOptions { operator, image }))?;
            }
            Self::Forward { to } => runtime()?.block_on(forward(to))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Runtime::new().map_err(Error::io(|| "starting the async runtime"))
}
