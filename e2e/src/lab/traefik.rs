//! Traefik, the ingress controller, on ports 80 and 443 of the node's address.

use std::time::Duration;

use super::{Places, User, cluster};
use crate::{Error, http::Http, parts::Part, probe, process::Process, sandbox::NODE_ADDRESS};

const PING: &str = "http://127.0.0.1:9100/ping";

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
}

impl Traefik {
    /// The class of its Ingresses.
    pub const CLASS: &str = "traefik";

    pub(super) async fn start(
        options: &TraefikOptions,
        cluster: &cluster::Cluster,
        places: &Places,
    ) -> Result<Self, Error> {
        let mut arguments = vec![
            "--global.checkNewVersion=false".to_owned(),
            "--global.sendAnonymousUsage=false".to_owned(),
            "--log.level=INFO".to_owned(),
            "--log.noColor=true".to_owned(),
            format!("--accessLog.filePath={}", places.logs.join("traefik-access.log").display()),
            "--ping=true".to_owned(),
            "--entryPoints.traefik.address=127.0.0.1:9100".to_owned(),
            format!("--entryPoints.web.address={NODE_ADDRESS}:80"),
            format!("--entryPoints.websecure.address={NODE_ADDRESS}:443"),
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
        let process = Process::new("traefik", &Part::Traefik.program("traefik")?, &places.logs)
            .env("KUBECONFIG", cluster.kubeconfig(User::Traefik).display().to_string())
            .args(arguments);
        process.start()?;
        let http = Http::new("")?;
        probe::ready(&process, Duration::from_secs(20), || async {
            http.get(PING).await?.ok("Traefik's ping")
        })
        .await?;
        Ok(Self { process })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
