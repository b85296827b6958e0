//! `e2e`: keeps the lab's parts, sandboxes commands, and runs a lab for people.

use std::process::ExitCode;

use clap::Parser as _;

mod cli;

fn main() -> ExitCode {
    cli::Command::parse().run()
}
