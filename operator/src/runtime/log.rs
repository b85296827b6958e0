//! Logs: JSON for machines, text for people, to standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use thiserror::Error;
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// How a log line is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For a terminal.
    Text,
}

/// Why there are no logs.
#[derive(Debug, Error)]
pub enum LogError {
    /// The level isn't one.
    #[error(
        "can't use the log level {level:?}; write error, warn, info, debug or trace, or directives such as info,waxwing=debug"
    )]
    Level {
        /// What was given.
        level: String,
        /// The cause.
        #[source]
        source: ParseError,
    },
    /// Logging was set up twice.
    #[error("couldn't set up logging: {0}")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets up logging for the process. `level` is a plain level for Waxwing's own code (libraries then
/// speak from warn on) or a list of tracing directives.
pub fn init(format: Option<Format>, level: &str) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(directives(level))
        .map_err(|source| LogError::Level { level: level.to_owned(), source })?;
    let default = if std::io::stderr().is_terminal() { Format::Text } else { Format::Json };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format.unwrap_or(default) {
        Format::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
        Format::Text => builder.with_target(false).try_init(),
    };
    done.map_err(LogError::Twice)
}

/// A plain level is about our own crates. What kube's watcher warns of at each try we say ourselves, once.
fn directives(level: &str) -> String {
    match level {
        "error" => level.to_owned(),
        "warn" => "warn,kube_runtime::watcher=error".to_owned(),
        "info" | "debug" | "trace" => {
            format!(
                "warn,kube_runtime::watcher=error,waxwing={level},waxwing_acme={level},waxwing_api={level}"
            )
        }
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_plain_level_leaves_libraries_quiet() {
        let ours = "waxwing=debug,waxwing_acme=debug,waxwing_api=debug";
        assert_eq!(directives("debug"), format!("warn,kube_runtime::watcher=error,{ours}"));
        assert_eq!(directives("info,kube_runtime=debug"), "info,kube_runtime=debug");
    }

    #[test]
    fn a_wrong_level_is_explained() {
        let error = init(Some(Format::Json), "waxwing=loud").unwrap_err();
        assert!(error.to_string().starts_with("can't use the log level \"waxwing=loud\""));
    }
}
