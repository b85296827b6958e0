//! The machine that figures come from.

use std::{fmt, fs, process::Command};

use serde::Serialize;

use crate::paths;

/// What figures depend on beside the code.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// How many processors there are.
    pub processors: usize,
    /// What they are.
    pub model: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// How many processes wanted a processor in the minute before: more than a few, and figures are too high.
    pub load: String,
    /// The kernel.
    pub kernel: String,
    /// The commit that was measured; with `+` when files differ from it.
    pub commit: String,
    /// The date, UTC.
    pub date: String,
}

impl Machine {
    /// This machine. What can't be found out is `unknown`.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let memory = field(&text("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib: u64 = memory.trim_end_matches("kB").trim().parse().unwrap_or_default();
        Self {
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            model: field(&text("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            memory_mib: kib / 1024,
            load: text("/proc/loadavg").split(' ').next().map_or_else(unknown, str::to_owned),
            kernel: format!("Linux {}", text("/proc/sys/kernel/osrelease").trim()),
            commit: commit().unwrap_or_else(unknown),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processors, model, memory_mib, load, kernel, commit, date } = self;
        write!(
            f,
            "{processors} x {model}, {memory_mib} MiB, {kernel}; load before {load}; commit {commit}, {date}"
        )
    }
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(paths::workspace()).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let differs = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if differs { format!("{commit}+") } else { commit })
}

fn unknown() -> String {
    "unknown".to_owned()
}
