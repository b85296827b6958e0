//! The command line: a file for each verb.

mod certificate_page;
mod cluster;
mod crds;
mod probe;
mod renew;
mod run;
mod solver;
mod status;

use std::error::Error;

use clap::{Parser, Subcommand};

/// Keeps TLS certificates in a Kubernetes cluster issued and fresh over ACME.
#[derive(Debug, Parser)]
#[command(name = "waxwing", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the `CustomResourceDefinition`s as YAML, or write them to a directory
    Crds(crds::Crds),
    /// Ask whether the responder answers at an address: what `helm test` runs
    Probe(probe::Probe),
    /// Ask for renewals
    Renew(renew::Renew),
    /// Run the operator
    Run(Box<run::Run>),
    /// Answer challenges of a few names: what a solver pod runs
    Solver(solver::Solver),
    /// Say on one page how a Certificate is
    Status(status::Status),
    /// Print the version
    Version,
}

impl Cli {
    /// Does what was asked.
    pub async fn run(self) -> Result<(), Box<dyn Error>> {
        match self.command {
            Command::Crds(crds) => Ok(crds.run()?),
            Command::Probe(probe) => Ok(probe.run().await?),
            Command::Renew(renew) => Ok(renew.run().await?),
            Command::Run(run) => Ok(run.run().await?),
            Command::Solver(solver) => Ok(solver.run().await?),
            Command::Status(status) => Ok(status.run().await?),
            Command::Version => {
                println!("waxwing {}", env!("CARGO_PKG_VERSION"));
                Ok(())
            }
        }
    }
}
