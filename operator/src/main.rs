//! `waxwing`: see `waxwing --help`.

use std::process::ExitCode;

use clap::Parser;
use waxwing::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waxwing: {error}");
            ExitCode::FAILURE
        }
    }
}
