//! How Waxwing comes into the demo's lab: in pods by Helm, or as a process beside the cluster.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    modified,
    screen::{Look, Screen},
    seconds,
};
use crate::{
    Error,
    parts::{Part, Progress, run_build},
    paths,
};

/// Longest time for the release to be ready.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often a wait says that it goes on.
const LOOK: Duration = Duration::from_millis(60);

/// How Waxwing comes into the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Install {
    /// By Helm, in pods, as in a cluster of one's own; the lab has a node, which needs root
    Helm,
    /// As a process beside the cluster
    Process,
}

impl Install {
    /// What was wished for, else what is possible. `unavailable` says why the lab can have no node, if so.
    pub(super) fn choose(wish: Option<Self>, unavailable: Option<&str>) -> Result<Self, Error> {
        match (wish, unavailable) {
            (Some(Self::Helm), Some(why)) => {
                let why = format!("{why}; or leave --install out, and Waxwing runs as a process");
                Err(Error::Invalid { what: "an install by Helm".to_owned(), why })
            }
            (Some(wish), _) => Ok(wish),
            (None, Some(_)) => Ok(Self::Process),
            (None, None) => Ok(Self::Helm),
        }
    }

    /// As it is written on the command line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Helm => "helm",
            Self::Process => "process",
        }
    }
}

/// The archive of Waxwing's image as the sources are now. It is built unless it is there.
pub(super) fn image() -> Result<PathBuf, Error> {
    const TITLE: &str = "Waxwing's image";
    let archive = paths::target().join("image/waxwing.tar");
    let log = paths::lab().join("image.log");
    paths::create(&paths::lab())?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let script = |name: &str| {
        let mut command = Command::new(paths::workspace().join("scripts").join(name));
        command.arg(architecture);
        command
    };
    let mut progress = Progress::new(1);
    progress.begin(TITLE);
    if !archive.exists() {
        progress.note("the first build of Waxwing's image takes about 4 minutes on two cores");
    }
    progress.doing("building");
    run_build(TITLE, script("static-build"), &log, &mut progress)?;
    // The script ends with the path of the program.
    let program = PathBuf::from(paths::tail(&log, 1));
    if modified(&archive).is_some_and(|written| modified(&program).is_some_and(|built| built < written)) {
        progress.end("cached");
        return Ok(archive);
    }
    run_build(TITLE, script("image"), &log, &mut progress)?;
    progress.end("built");
    Ok(archive)
}

/// What a person would write, in two lines. It does nothing where the release is as the chart says.
const HELM: [&str; 2] = [
    "upgrade --install waxwing charts/waxwing --namespace waxwing-system",
    "--create-namespace --set log.level=debug --wait",
];

/// Installs the chart in the lab, whose files are in `files`, or upgrades to what it is now. The steps of an issuance
/// are told at debug level.
pub(super) async fn by_helm(files: &Path, screen: &mut Screen) -> Result<(), Error> {
    let [release, options] = HELM;
    screen.line("");
    screen.line(&screen.paint(Look::Bold, &format!("$ helm {release} \\")));
    screen.line(&screen.paint(Look::Bold, &format!("    {options}")));
    let mut helm = tokio::process::Command::new(Part::Helm.program("helm")?);
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(variable, files.join("helm"));
    }
    helm.env("KUBECONFIG", files.join("admin.kubeconfig"))
        .args(HELM.iter().flat_map(|line| line.split(' ')))
        .current_dir(paths::workspace())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let started = Instant::now();
    let mut output = std::pin::pin!(tokio::time::timeout(PATIENCE, helm.output()));
    let output = loop {
        tokio::select! {
            output = output.as_mut() => break output,
            () = tokio::time::sleep(LOOK) => screen.waiting(&format!("  {}  …", seconds(started.elapsed()))),
        }
    };
    let late = |_| {
        let last = "look at `kubectl get pods -n waxwing-system`".to_owned();
        Error::NotReady { what: "Waxwing's release".to_owned(), after: PATIENCE, last }
    };
    let output = output.map_err(late)?.map_err(Error::io(|| "starting helm"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Invalid { what: format!("helm {release}"), why });
    }
    let ready = screen.paint(Look::Good, "Ready");
    screen.line(&format!("  {}  waxwing  {ready}: its pods run", seconds(started.elapsed())));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn helm_is_chosen_where_it_is_possible() {
        assert_eq!(Install::choose(None, None).unwrap(), Install::Helm);
        assert_eq!(Install::choose(None, Some("no root")).unwrap(), Install::Process);
        assert_eq!(Install::choose(Some(Install::Process), None).unwrap(), Install::Process);
        let refused = Install::choose(Some(Install::Helm), Some("no root")).unwrap_err();
        assert!(refused.to_string().contains("no root"), "{refused}");
    }
}
