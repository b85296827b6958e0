//! What the lanes gave, for people and for machines.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::Machine;

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The machine, on which everything ran: Waxwing, cluster, CAs, ingress controller and this program.
    pub machine: Machine,
    /// How CAs, ingress controller and API server were set.
    pub settings: Vec<String>,
    /// What was measured.
    pub lanes: Vec<Row>,
}

/// A lane's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The lane's name, as `--lanes` takes it.
    pub lane: String,
    /// What it measures.
    pub what: String,
    /// How many certificates were asked for.
    pub certificates: usize,
    /// How many of them at once.
    pub at_once: usize,
    /// How many became Ready.
    pub ready: usize,
    /// Ready certificates a second, without pauses between them.
    pub per_second: f64,
    /// Median of create to Ready in seconds.
    pub p50_seconds: f64,
    /// The same, 99th percentile.
    pub p99_seconds: f64,
    /// What Waxwing did and used; absent where only the engine ran.
    pub operator: Option<OperatorUse>,
    /// What those say that did not become Ready.
    pub failures: Vec<String>,
}

/// What Waxwing did and used during a lane, until its routes and orders were swept.
#[derive(Clone, Debug, Serialize)]
pub struct OperatorUse {
    /// Writes to the API server by verb and resource, all of them: also Events, dry-runs and refused ones.
    pub writes: BTreeMap<String, usize>,
    /// All writes for each certificate, but for the leader's lease, which is renewed with time.
    pub writes_each: f64,
    /// The Events among them.
    pub events_each: f64,
    /// Processor seconds for each certificate, user and kernel.
    pub cpu_seconds_each: f64,
    /// The most memory that was resident at once since its start, in MiB.
    pub peak_resident_mib: f64,
    /// The memory that was resident at the end, in MiB.
    pub resident_mib: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Machine   {}", self.machine)?;
        for setting in &self.settings {
            writeln!(f, "Settings  {setting}")?;
        }
        writeln!(
            f,
            "\n{:<16} {:>5} {:>5} {:>9} {:>8} {:>8} {:>18} {:>9} {:>9} {:>9}",
            "lane",
            "n",
            "once",
            "certs/s",
            "p50 s",
            "p99 s",
            "writes/n (Events)",
            "CPU s/n",
            "peak MiB",
            "RSS MiB"
        )?;
        for row in &self.lanes {
            write!(
                f,
                "{:<16} {:>5} {:>5} {:>9.1} {:>8.3} {:>8.3}",
                row.lane, row.certificates, row.at_once, row.per_second, row.p50_seconds, row.p99_seconds
            )?;
            match &row.operator {
                Some(used) => writeln!(
                    f,
                    " {:>18} {:>9.3} {:>9.1} {:>9.1}",
                    format!("{:.1} ({:.1})", used.writes_each, used.events_each),
                    used.cpu_seconds_each,
                    used.peak_resident_mib,
                    used.resident_mib
                )?,
                None => writeln!(f, " {:>18} {:>9} {:>9} {:>9}", "-", "-", "-", "-")?,
            }
        }
        writeln!(f)?;
        for row in &self.lanes {
            writeln!(f, "{:<16} {}", row.lane, row.what)?;
        }
        for row in &self.lanes {
            let Some(used) = &row.operator else { continue };
            writeln!(f, "\nWrites of {}, {} certificates", row.lane, row.certificates)?;
            for (write, count) in &used.writes {
                writeln!(f, "  {count:>6}  {write}")?;
            }
        }
        for row in self.lanes.iter().filter(|row| row.ready < row.certificates) {
            let missing = row.certificates - row.ready;
            writeln!(f, "\n{}: {missing} of {} did not become Ready", row.lane, row.certificates)?;
            for failure in row.failures.iter().take(FAILURES_SHOWN) {
                writeln!(f, "  {failure}")?;
            }
        }
        Ok(())
    }
}

/// More of them say the same.
const FAILURES_SHOWN: usize = 5;
