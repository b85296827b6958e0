//! `e2e bench`: how fast, with how many writes, and with how much memory. It asserts nothing: figures
//! are for people to compare.

mod bad_names;
mod certificates;
mod engine;
mod figures;
mod idle;
mod lane;
mod machine;
mod report;

use std::{path::PathBuf, time::Duration};

pub use lane::{Ca, Lane};
pub use machine::Machine;
pub use report::{OperatorUse, Report, Row};

use crate::{
    Error,
    lab::{Lab, Parts, PebbleOptions, Places, TraefikOptions},
    parts::{PEBBLE, Progress, STEP_CA, TRAEFIK},
    paths,
};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many certificates the burst lanes ask for, all at once
    #[arg(long, default_value_t = 100, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub certificates: usize,
    /// How many the other lanes ask for, one after the other
    #[arg(long, default_value_t = 20, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub singles: usize,
    /// How many names that never pass there are in the lane bad-names
    #[arg(long, default_value_t = 1000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=5000))]
    pub bad_names: usize,
    /// What to measure, separated by commas; everything by default
    #[arg(long, value_enum, value_delimiter = ',')]
    pub lanes: Vec<Lane>,
}

/// The Retry-After of the lane that is about it, in seconds: what public CAs send.
const RETRY_AFTER: u32 = 3;

impl Options {
    fn lanes(&self) -> Vec<Lane> {
        Lane::ALL.into_iter().filter(|lane| self.lanes.is_empty() || self.lanes.contains(lane)).collect()
    }
}

/// Measures. To be called inside of a sandbox.
pub async fn run(options: &Options) -> Result<Report, Error> {
    let machine = Machine::read();
    let lanes = options.lanes();
    let (slow, quick): (Vec<Lane>, Vec<Lane>) =
        lanes.iter().copied().partition(|lane| lane.ca() == Ca::SlowPebble);
    let labs = usize::from(!slow.is_empty()) + usize::from(!quick.is_empty());
    let mut progress = Progress::new(lanes.len() + labs);
    let mut rows = Vec::new();
    for (name, retry_after, lanes) in [("quick", 0, quick), ("retry-after", RETRY_AFTER, slow)] {
        if !lanes.is_empty() {
            rows.extend(measure(name, retry_after, &lanes, options, &mut progress).await?);
        }
    }
    Ok(Report { machine, settings: settings(), lanes: rows })
}

/// Where the logs of a run are.
pub fn logs() -> PathBuf {
    paths::test_logs("bench")
}

async fn measure(
    name: &str,
    retry_after: u32,
    lanes: &[Lane],
    options: &Options,
    progress: &mut Progress,
) -> Result<Vec<Row>, Error> {
    progress.begin("cluster, CAs, edge");
    let parts = Parts {
        pebble: Some(PebbleOptions { retry_after, ..PebbleOptions::default() }),
        step_ca: lanes.iter().any(|lane| lane.ca() == Ca::StepCa),
        traefik: Some(TraefikOptions::default()),
        ..Parts::default()
    };
    let places = Places { logs: logs().join(name), ..Places::for_test("bench") };
    let lab = ticking(progress, "starting", Lab::start_in(places, parts, &mut |_| ())).await?;
    progress.end("ready");
    let mut rows = Vec::new();
    for lane in lanes {
        progress.begin(&lane.to_string());
        let measured = ticking(progress, "measuring", lane.run(&lab, options)).await?;
        progress.end(&format!("{} Ready", measured.iter().map(|row| row.ready).sum::<usize>()));
        rows.extend(measured);
    }
    Ok(rows)
}

/// Runs a step and shows that it goes on.
async fn ticking<T>(
    progress: &mut Progress,
    doing: &str,
    step: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    progress.doing(doing);
    let mut step = std::pin::pin!(step);
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            outcome = &mut step => {
                if outcome.is_err() {
                    progress.interrupt();
                }
                return outcome;
            }
            _ = ticks.tick() => progress.tick(),
        }
    }
}

fn settings() -> Vec<String> {
    vec![
        "everything on this machine at once: cluster, CA, ingress controller, Waxwing, and this program"
            .to_owned(),
        format!(
            "Pebble {PEBBLE}: no validation sleeps, no refused nonces, names not seen before; Retry-After: none, \
             in lane retry-after {RETRY_AFTER} s"
        ),
        format!("step-ca {STEP_CA}: its defaults, with a badger database in memory"),
        format!("Traefik {TRAEFIK}: its defaults (providersThrottleDuration 2 s)"),
        "etcd in memory, without fsync; certificates of one name, ECDSA P-256; self-check on".to_owned(),
    ]
}
