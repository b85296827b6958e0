//! The programs that the lab runs: which there are, where they are kept, and how to get them.
//!
//! A part's directory is named after everything that goes into it, so a present directory is a
//! finished and current one. Parts are built beside it and moved there whole.

mod build;
mod progress;

use std::{
    fs,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
pub(crate) use build::run as run_build;
pub use progress::{Progress, elapsed};

use crate::{Error, paths};

/// The release of the Gateway API: the one that Traefik is built with.
pub const GATEWAY_API: &str = "1.6.3";
/// The release of Helm.
pub const HELM: &str = "3.22.0";
/// The release of kubeconform.
pub const KUBECONFORM: &str = "0.8.0";
/// The release of Kubernetes that `cluster/go.mod` names.
pub const KUBERNETES: &str = "1.36.3";
/// The release of Pebble.
pub const PEBBLE: &str = "2.10.1";
/// The release of the Prometheus Operator.
pub const PROMETHEUS_OPERATOR: &str = "0.94.0";
/// The release of step-ca.
pub const STEP_CA: &str = "0.30.2";
/// The release of Traefik.
pub const TRAEFIK: &str = "3.7.15";

/// A program, or a few that come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The `CustomResourceDefinition`s of the Gateway API, in `crds/`.
    GatewayApi,
    /// What installs charts.
    Helm,
    /// What checks manifests by schemas, and the `OpenAPI` documents of Kubernetes, in `openapi/`.
    Kubeconform,
    /// etcd, the control plane and kubectl.
    Kubernetes,
    /// Pebble, and the name server that its tests use.
    Pebble,
    /// The `CustomResourceDefinition`s of its monitors (`ServiceMonitor`, `PodMonitor`), in `crds/`.
    PrometheusOperator,
    /// A second, independent CA.
    StepCa,
    /// The ingress controller.
    Traefik,
}

/// What the parts are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Purpose {
    /// `make manifests`: Helm, and what checks its renders.
    Chart,
    /// `make demo` with Waxwing as a process: no second CA.
    Demo,
    /// `make demo` with Waxwing in pods: Helm too.
    Install,
    /// `make test`: everything.
    Test,
    /// `make bench`: the CAs, the edge and the cluster.
    Bench,
}

impl Purpose {
    /// The parts that are needed.
    pub fn parts(self) -> &'static [Part] {
        match self {
            Self::Chart => &[Part::Helm, Part::Kubeconform, Part::PrometheusOperator],
            Self::Demo => &[Part::Kubernetes, Part::Pebble, Part::Traefik],
            Self::Install => &[Part::Kubernetes, Part::Pebble, Part::Traefik, Part::Helm],
            Self::Test => &[
                Part::Kubernetes,
                Part::Pebble,
                Part::Traefik,
                Part::StepCa,
                Part::Helm,
                Part::Kubeconform,
                Part::GatewayApi,
                Part::PrometheusOperator,
            ],
            Self::Bench => &[Part::Kubernetes, Part::Pebble, Part::Traefik, Part::StepCa],
        }
    }
}

impl Part {
    /// Its name and version.
    pub fn title(self) -> String {
        match self {
            Self::GatewayApi => format!("Gateway API {GATEWAY_API}"),
            Self::Helm => format!("Helm {HELM}"),
            Self::Kubeconform => format!("kubeconform {KUBECONFORM}"),
            Self::Kubernetes => format!("Kubernetes {KUBERNETES}"),
            Self::Pebble => format!("Pebble {PEBBLE}"),
            Self::PrometheusOperator => format!("Prometheus Operator {PROMETHEUS_OPERATOR}"),
            Self::StepCa => format!("step-ca {STEP_CA}"),
            Self::Traefik => format!("Traefik {TRAEFIK}"),
        }
    }

    /// Where it is kept.
    pub fn directory(self) -> Result<PathBuf, Error> {
        let (name, version) = match self {
            Self::GatewayApi => ("gateway-api", GATEWAY_API),
            Self::Helm => ("helm", HELM),
            Self::Kubeconform => ("kubeconform", KUBECONFORM),
            Self::Kubernetes => ("kubernetes", KUBERNETES),
            Self::Pebble => ("pebble", PEBBLE),
            Self::PrometheusOperator => ("prometheus-operator", PROMETHEUS_OPERATOR),
            Self::StepCa => ("step-ca", STEP_CA),
            Self::Traefik => ("traefik", TRAEFIK),
        };
        let mut inputs = build::recipe(self).into_bytes();
        for file in build::sources(self) {
            inputs.extend(paths::read(&file)?.into_bytes());
        }
        let mut key = u64::default();
        for byte in digest(&SHA256, &inputs).as_ref().iter().take(6) {
            key = key << 8 | u64::from(*byte);
        }
        Ok(paths::parts().join(format!("{name}-{version}-{key:012x}")))
    }

    /// The path of one of its programs, which must be there.
    pub fn program(self, name: &str) -> Result<PathBuf, Error> {
        let path = self.directory()?.join(name);
        if path.exists() { Ok(path) } else { Err(Error::NotFetched { part: self.title() }) }
    }

    /// Gets it unless it is there.
    fn ensure(self, progress: &mut Progress) -> Result<(), Error> {
        let directory = self.directory()?;
        progress.begin(&self.title());
        if directory.exists() {
            progress.end("cached");
            return Ok(());
        }
        let parts = paths::parts();
        paths::create(&parts)?;
        // One builder at a time: two would fight for the same processors. The lock ends with us.
        let lock = parts.join("lock");
        let lock = fs::File::create(&lock).map_err(Error::io(|| format!("opening {}", lock.display())))?;
        if lock.try_lock().is_err() {
            progress.doing("waiting for another build");
            lock.lock().map_err(Error::io(|| "waiting for another build"))?;
        }
        if directory.exists() {
            progress.end("cached");
            return Ok(());
        }
        let unfinished = with_suffix(&directory, ".unfinished");
        // Left by a build that was interrupted.
        let _ = fs::remove_dir_all(&unfinished);
        paths::create(&unfinished)?;
        let log = with_suffix(&directory, ".log");
        let verb = build::build(self, &unfinished, &log, progress)?;
        fs::rename(&unfinished, &directory)
            .map_err(Error::io(|| format!("moving a finished build to {}", directory.display())))?;
        progress.end(verb);
        Ok(())
    }
}

/// Gets all parts that `purpose` needs, in the words of `progress`.
pub fn fetch(purpose: Purpose, progress: &mut Progress) -> Result<(), Error> {
    for part in purpose.parts() {
        part.ensure(progress)?;
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_version_is_the_one_that_go_mod_names() {
        let module = paths::read(&paths::workspace().join("e2e/cluster/go.mod")).unwrap();
        assert!(module.contains(&format!("k8s.io/kubernetes v{KUBERNETES}\n")));
    }

    #[test]
    fn directories_tell_parts_and_inputs_apart() {
        let all: Vec<PathBuf> = Purpose::Test.parts().iter().map(|part| part.directory().unwrap()).collect();
        for (index, directory) in all.iter().enumerate() {
            assert!(!all[..index].contains(directory));
        }
        assert_eq!(Part::Pebble.directory().unwrap(), Part::Pebble.directory().unwrap());
    }
}
