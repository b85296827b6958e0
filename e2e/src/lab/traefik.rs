//! Traefik, the ingress controller, on ports 80 and 443 of an address of the node.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Places, User, cluster};
use crate::{Error, http::Http, parts::Part, probe, process::Process};

/// The port of its ping.
const PING: u16 = 9100;

/// How Traefik is set up. The default is its own default.
#[derive(Clone, Debug, Default)]
pub struct TraefikOptions {
    /// Whether port 80 redirects everything to HTTPS.
    pub redirect_to_https: bool,
    /// How long it gathers changes before it applies them; 2 s if not set.
    pub throttle: Option<Duration>,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// A running Traefik.
#[derive(Debug)]
pub struct Traefik {
    process: Process,
    access_log: PathBuf,
}

impl Traefik {
    /// The class of its Ingresses.
    pub const CLASS: &str = "traefik";

    /// `name` is that of its process and of its logs.
    pub(super) async fn start(
        name: &str,
        address: &str,
        options: &TraefikOptions,
        cluster: &cluster::Cluster,
        places: &Places,
    ) -> Result<Self, Error> {
        let access_log = places.logs.join(format!("{name}-access.log"));
        let mut arguments = vec![
            "--global.checkNewVersion=false".to_owned(),
            "--global.sendAnonymousUsage=false".to_owned(),
            "--log.level=INFO".to_owned(),
            "--log.noColor=true".to_owned(),
            format!("--accessLog.filePath={}", access_log.display()),
            "--ping=true".to_owned(),
            format!("--entryPoints.traefik.address={address}:{PING}"),
            format!("--entryPoints.web.address={address}:80"),
            format!("--entryPoints.websecure.address={address}:443"),
            "--providers.kubernetesIngress=true".to_owned(),
        ];
        if options.redirect_to_https {
            arguments.push("--entryPoints.web.http.redirections.entryPoint.to=websecure".to_owned());
            arguments.push("--entryPoints.web.http.redirections.entryPoint.scheme=https".to_owned());
        }
        if let Some(throttle) = options.throttle {
            arguments.push(format!("--providers.providersThrottleDuration={}ms", throttle.as_millis()));
        }
        arguments.extend(options.arguments.iter().cloned());
        let process = Process::new(name, &Part::Traefik.program("traefik")?, &places.logs)
            .env("KUBECONFIG", cluster.kubeconfig(User::Traefik).display().to_string())
            .args(arguments);
        process.start()?;
        let http = Http::new("")?;
        probe::ready(&process, Duration::from_secs(20), || async {
            http.get(&format!("http://{address}:{PING}/ping")).await?.ok("Traefik's ping")
        })
        .await?;
        Ok(Self { process, access_log })
    }

    /// Where it writes what it was asked, in the Common Log Format.
    pub fn access_log(&self) -> &Path {
        &self.access_log
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
