//! `e2e demo`: the lab with Waxwing in it, told step by step.

use std::process::ExitCode;

use e2e::{
    Error,
    demo::{self, Cluster},
    up::Named,
};

/// Runs the demo and answers with its exit code.
pub fn run(named: &Named, cluster: Cluster) -> Result<ExitCode, Error> {
    match cluster {
        Cluster::Lab => {
            if !demo::run_lab(named)? {
                eprintln!("The lab stays up. Logs: {}   End: make demo-down", named.logs().display());
                return Ok(ExitCode::FAILURE);
            }
        }
        Cluster::Current => super::runtime()?.block_on(demo::run_current())?,
    }
    Ok(ExitCode::SUCCESS)
}
