//! `make demo`: a lab with Waxwing in it, the examples applied, and every step shown as it happens.

mod app;
mod current;
mod log_tail;
mod screen;
mod story;
mod timeline;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

pub use app::serve as serve_app;
pub use current::run as run_current;
use screen::{Look, Screen};
pub use story::tell;

use crate::{
    Error,
    lab::OperatorOptions,
    paths,
    up::{Named, UpOptions},
};

/// Which cluster the demo uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Cluster {
    /// A lab on this machine.
    #[default]
    Lab,
    /// The one that kubectl points at.
    Current,
}

/// Brings the lab up, and has the story told inside of it. Whether it ended well; if not, it has said why.
pub fn run_lab(named: &Named) -> Result<bool, Error> {
    let mut screen = Screen::new();
    screen.line("A real cluster, CA and ingress controller on this machine; state in target/lab.");
    screen.line("First run builds Kubernetes: about 10 min on two cores. Later: seconds.");
    let waxwing = program()?;
    if named.running().is_some()
        && let Some(why) = outdated(named, &waxwing)
    {
        screen.line(&format!("  {why}: starting the lab anew"));
        named.down()?;
    }
    let mut operator: Vec<OsString> = vec![waxwing.into_os_string()];
    operator.extend(OperatorOptions::default().arguments.into_iter().map(OsString::from));
    // The steps of an issuance, which are told at debug level.
    operator.extend(
        ["--log-format", "json", "--log-level", "warn,waxwing=debug,waxwing_acme=info"].map(OsString::from),
    );
    let running = named.up(&UpOptions { operator })?;

    let exe = env::current_exe().map_err(Error::io(|| "finding the path of this program"))?;
    let mut inside = named.command()?;
    inside.arg(exe).args(["demo-story", "--name", named.name()]);
    let status = inside.status().map_err(Error::io(|| "entering the lab"))?;
    if !status.success() {
        return Ok(false);
    }
    let roots = relative(&named.roots());
    screen.line("");
    for (what, command) in [
        ("Next: ", "eval \"$(make -s demo-env)\"; kubectl get wcert -A".to_owned()),
        (
            "      ",
            format!(
                "curl --cacert {roots} --connect-to ::127.0.0.1:{} https://shop.example.com",
                running.ports.https
            ),
        ),
        ("Break:", "kubectl apply -f examples/broken.yaml; kubectl get wcert -n broken -o wide".to_owned()),
        ("Logs: ", format!("less -R {}", relative(&named.logs().join("waxwing.log")))),
        ("End:  ", "make demo-down".to_owned()),
    ] {
        screen.line(&format!("{}  {command}", screen.paint(Look::Bold, what)));
    }
    Ok(true)
}

/// Waxwing's program: `WAXWING` in the environment, else what `make demo` builds.
fn program() -> Result<PathBuf, Error> {
    let program = OperatorOptions::default().program;
    if program.exists() {
        return Ok(program);
    }
    Err(Error::Missing {
        program: program.display().to_string(),
        needed_for: "the demo",
        install: "Build it with: cargo build -p waxwing (make demo does)",
    })
}

/// Why the lab that runs is not one for this demo, if so.
fn outdated(named: &Named, waxwing: &Path) -> Option<String> {
    if let Some(part) =
        named.supervised().and_then(|seen| seen.parts.into_iter().find(|part| part.ended.is_some()))
    {
        return Some(format!("{} has ended ({})", part.name, part.ended.unwrap_or_default()));
    }
    if !named.logs().join("waxwing.log").exists() {
        return Some("a lab without Waxwing is up".to_owned());
    }
    let started = modified(&named.roots())?;
    let mut inputs = vec![waxwing.to_path_buf()];
    let crds = fs::read_dir(paths::workspace().join("crds")).into_iter().flatten();
    inputs.extend(crds.filter_map(|entry| entry.ok().map(|entry| entry.path())));
    let newer = inputs.into_iter().find(|input| modified(input).is_some_and(|changed| changed > started))?;
    Some(format!("{} has changed", relative(&newer)))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// A path as someone in the repository would write it.
fn relative(path: &Path) -> String {
    let workspace = paths::workspace();
    path.strip_prefix(&workspace).unwrap_or(path).display().to_string()
}

/// `0.03 s`.
fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
