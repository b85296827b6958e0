//! `e2e demo`: the lab with Waxwing in it, told step by step.

use std::{path::PathBuf, process::ExitCode};

use e2e::{
    Error,
    demo::{self, Cluster, Install},
    up::Named,
};

/// Runs the demo and answers with its exit code.
pub fn run(
    named: &Named,
    cluster: Cluster,
    install: Option<Install>,
    image: Option<PathBuf>,
) -> Result<ExitCode, Error> {
    match cluster {
        Cluster::Lab => {
            if !demo::run_lab(named, install, image)? {
                eprintln!("The lab stays up. Logs: {}   End: make demo-down", named.logs().display());
                return Ok(ExitCode::FAILURE);
            }
        }
        Cluster::Current => super::runtime()?.block_on(demo::run_current())?,
    }
    Ok(ExitCode::SUCCESS)
}
