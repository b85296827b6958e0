//! `e2e bench`: measures, in a sandbox.

use std::{env, ffi::OsString};

use e2e::{
    Error,
    bench::{self, Options},
    parts::{self, Progress, Purpose},
    sandbox,
};

/// How a report is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table, for people.
    #[default]
    Table,
    /// For machines.
    Json,
}

/// Measures and prints. Outside of a sandbox: fetches what is needed, and calls itself inside of one.
pub fn run(options: &Options, output: Output) -> Result<(), Error> {
    if !sandbox::inside() {
        parts::fetch(Purpose::Bench, &mut Progress::new(Purpose::Bench.parts().len()))?;
        let exe = env::current_exe().map_err(Error::io(|| "finding the path of this program"))?;
        let again: Vec<OsString> =
            std::iter::once(exe.into_os_string()).chain(env::args_os().skip(1)).collect();
        return Err(sandbox::enter(&again));
    }
    let measured = super::runtime()?.block_on(bench::run(options));
    let report = measured.inspect_err(|_| eprintln!("Logs: {}", bench::logs().display()))?;
    match output {
        Output::Table => print!("{report}"),
        Output::Json => {
            let json =
                serde_json::to_string_pretty(&report).map_err(Error::invalid(|| "writing the report"))?;
            println!("{json}");
        }
    }
    Ok(())
}
