//! `make demo`: a lab with Waxwing in it, the examples applied, and every step shown as it happens.

mod app;
mod current;
mod install;
mod log_tail;
mod screen;
mod story;
mod timeline;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

pub use app::serve as serve_app;
pub use current::run as run_current;
pub use install::Install;
use screen::{Look, Screen};
pub use story::tell;

use crate::{
    Error,
    lab::{Node, OperatorOptions},
    parts::elapsed,
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

/// Brings the lab up, and has the story told inside of it. Whether it ended well; if not, it has said why. `image` is
/// the archive of Waxwing's image, in place of one of the sources.
pub fn run_lab(named: &Named, wish: Option<Install>, image: Option<PathBuf>) -> Result<bool, Error> {
    let begun = Instant::now();
    let mut screen = Screen::new();
    let unavailable = Node::unavailable();
    let install = Install::choose(wish, unavailable.as_deref())?;
    screen.line("A real cluster, CA and ingress controller on this machine; state in target/lab.");
    match install {
        Install::Helm => {
            screen.line("First run builds Kubernetes, Helm and Waxwing's image: about 15 min on two cores.");
            screen.line("Later: seconds.");
        }
        Install::Process => {
            screen.line("First run builds Kubernetes: about 10 min on two cores. Later: seconds.");
            let why = unavailable.map(|why| format!(", not in pods: {why}")).unwrap_or_default();
            screen.line(&format!("Waxwing runs as a process{why}."));
        }
    }
    let (options, source) = match install {
        Install::Helm => {
            let image = image.map_or_else(install::image, Ok)?;
            (UpOptions { image: Some(image.clone()), ..UpOptions::default() }, image)
        }
        Install::Process => {
            let program = program()?;
            (UpOptions { operator: operator(&program), ..UpOptions::default() }, program)
        }
    };
    if named.running().is_some()
        && let Some(why) = outdated(named, install, &source)
    {
        screen.line(&format!("  {why}: starting the lab anew"));
        named.down()?;
    }
    let running = named.up(&options)?;

    let exe = env::current_exe().map_err(Error::io(|| "finding the path of this program"))?;
    let mut inside = named.command()?;
    inside.arg(exe).args(["demo-story", "--name", named.name(), "--install", install.word()]);
    let status = inside.status().map_err(Error::io(|| "entering the lab"))?;
    if !status.success() {
        return Ok(false);
    }
    screen.line("");
    screen.line(&format!("All of it took {}.", elapsed(begun.elapsed())));
    let roots = relative(&named.roots());
    let logs = match install {
        Install::Helm => "kubectl logs -n waxwing-system -l app.kubernetes.io/name=waxwing".to_owned(),
        Install::Process => format!("less -R {}", relative(&named.logs().join("waxwing.log"))),
    };
    for (what, command) in [
        ("Next: ", "eval \"$(make -s demo-env)\"; kubectl get wcert -A".to_owned()),
        (
            "      ",
            format!(
                "curl --cacert {roots} --connect-to ::127.0.0.1:{} https://shop.example.com",
                running.ports.https
            ),
        ),
        (
            "Renew:",
            "kubectl annotate wcert shop -n web --overwrite waxwing.dev/renew=$(date -u +%FT%TZ)".to_owned(),
        ),
        ("      ", "kubectl get wcert shop -n web -o wide --watch".to_owned()),
        ("Break:", "kubectl apply -f examples/broken.yaml; kubectl get wcert -n broken -o wide".to_owned()),
        ("Logs: ", logs),
        ("End:  ", "make demo-down".to_owned()),
    ] {
        screen.line(&format!("{}  {command}", screen.paint(Look::Bold, what)));
    }
    Ok(true)
}

/// Waxwing's command as a process.
fn operator(program: &Path) -> Vec<OsString> {
    let mut operator: Vec<OsString> = vec![program.into()];
    operator.extend(OperatorOptions::default().arguments.into_iter().map(OsString::from));
    // The steps of an issuance, which are told at debug level.
    operator.extend(
        ["--log-format", "json", "--log-level", "warn,waxwing=debug,waxwing_acme=info"].map(OsString::from),
    );
    operator
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

/// Why the lab that runs is not one for this demo, if so. `source` is the program that runs in it, or the image.
fn outdated(named: &Named, install: Install, source: &Path) -> Option<String> {
    let parts = named.supervised().unwrap_or_default().parts;
    if let Some(part) = parts.iter().find(|part| part.ended.is_some()) {
        return Some(format!("{} has ended ({})", part.name, part.ended.clone().unwrap_or_default()));
    }
    let runs = |name: &str| parts.iter().any(|part| part.name == name);
    let mut inputs = vec![source.to_path_buf()];
    match install {
        // Helm brings the chart, and with it the CRDs, up to date.
        Install::Helm => {
            if !runs("kubelet") {
                return Some("a lab without a node is up".to_owned());
            }
        }
        Install::Process => {
            if !runs("waxwing") {
                return Some("a lab without Waxwing as a process is up".to_owned());
            }
            let crds = fs::read_dir(paths::workspace().join("crds")).into_iter().flatten();
            inputs.extend(crds.filter_map(|entry| entry.ok().map(|entry| entry.path())));
        }
    }
    let started = modified(&named.roots())?;
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
