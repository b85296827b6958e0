//! Traefik, the ingress controller, on ports 80 and 443 of an address of the node.

use std::{path::PathBuf, time::Duration};

use super::{Places, User, cluster};
use crate::{Error, http::Http, parts::Part, paths, probe, process::Process};

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

/// A request for a challenge's answer.
#[derive(Debug)]
pub struct ChallengeRequest {
    /// By a self-check; else by the CA.
    pub by_us: bool,
    /// The answer's.
    pub status: u16,
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
            // It tells who asks.
            "--accessLog.fields.headers.names.User-Agent=keep".to_owned(),
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

    /// The requests for challenges' answers that it has had, in order.
    pub fn challenges(&self) -> Result<Vec<ChallengeRequest>, Error> {
        let log = paths::read(&self.access_log)?;
        let lines = log.lines().filter(|line| line.contains(" /.well-known/acme-challenge/"));
        let asked = lines.map(|line| {
            // In the Common Log Format, the status comes after the request, which is quoted.
            let status = line.split('"').nth(2).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            ChallengeRequest { by_us: line.contains("(self-check)"), status: status.unwrap_or_default() }
        });
        Ok(asked.collect())
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
