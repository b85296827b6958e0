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
        /// The cause, where every directive names a level.
        #[source]
        source: Option<ParseError>,
    },
    /// Logging was set up twice.
    #[error("couldn't set up logging: {0}")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a directive ends in.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// kube's client warns at each restart of the API server, and its watcher at each try, of what we say ourselves, once.
/// That the API server's CA can't be read again nobody else says.
const QUIET: &str = "kube_client=error,kube_client::client::tls=warn,kube_runtime::watcher=error";

/// kube's client warns with the whole of an answer that it can't read, which may be a Secret.
const NO_BODIES: &str = "kube_client::client=error,kube_client::client::tls=warn";

/// Sets up logging for the process. `level` is a plain level for Waxwing's own code (libraries then
/// speak from warn on) or a list of tracing directives.
pub fn init(format: Option<Format>, level: &str) -> Result<(), LogError> {
    let filter = filter(level)?;
    let default = if std::io::stderr().is_terminal() { Format::Text } else { Format::Json };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format.unwrap_or(default) {
        Format::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
        Format::Text => builder.with_target(false).try_init(),
    };
    done.map_err(LogError::Twice)
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let failed = |source| LogError::Level { level: level.to_owned(), source };
    // A word that is no level would be taken for a module that alone is to speak: "warning" would silence everything.
    if !level.split(',').all(names_level) {
        return Err(failed(None));
    }
    EnvFilter::builder().parse(directives(level)).map_err(|source| failed(Some(source)))
}

/// True for `info` and for `waxwing=info`. The chart's values.schema.json has a pattern of the same kind.
fn names_level(directive: &str) -> bool {
    let level = directive.rsplit('=').next().unwrap_or_default();
    LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known))
}

/// A plain level is about our own crates.
fn directives(level: &str) -> String {
    match level.to_ascii_lowercase().as_str() {
        "warn" => format!("warn,{QUIET}"),
        plain @ ("info" | "debug" | "trace") => {
            format!("warn,{QUIET},waxwing={plain},waxwing_acme={plain},waxwing_api={plain}")
        }
        "off" | "error" => level.to_owned(),
        _ => format!("{level},{NO_BODIES}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_plain_level_leaves_libraries_quiet() {
        let ours = "waxwing=debug,waxwing_acme=debug,waxwing_api=debug";
        assert_eq!(directives("debug"), format!("warn,{QUIET},{ours}"));
        assert_eq!(directives("Debug"), format!("warn,{QUIET},{ours}"));
        assert_eq!(directives("warn"), format!("warn,{QUIET}"));
        for others in ["off", "error"] {
            assert_eq!(directives(others), others);
        }
        let own = "warn,kube_client=trace";
        assert_eq!(directives(own), format!("{own},{NO_BODIES}"), "an answer's body is no matter of a level");
    }

    #[test]
    fn a_wrong_level_is_explained() {
        let wrong =
            ["warning", "loud", "waxwing", "info,waxwing", "waxwing=loud", "=info", "[issue]", "", "info,"];
        for level in wrong {
            let error = filter(level).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("can't use the log level {level:?}; write error,")),
                "{error}"
            );
        }
        assert!(matches!(init(Some(Format::Json), "warning"), Err(LogError::Level { .. })));
    }

    #[test]
    fn levels_and_directives_that_end_in_one_are_taken() {
        for level in ["off", "ERROR", "Info", "info,waxwing=debug", "warn,[issue]=trace,waxwing[issue]=Debug"]
        {
            assert!(filter(level).is_ok(), "{level}");
        }
    }
}
