//! The lab's name server, pebble-challtestsrv: every name is the node unless a test says otherwise.

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, json};

use super::Places;
use crate::{Error, http::Http, parts::Part, probe, process::Process, sandbox::NODE_ADDRESS};

/// Where its management interface listens.
const MANAGEMENT: &str = "http://127.0.0.1:8055";

/// The name server. Resolvers ask it at 127.0.0.1:53.
#[derive(Debug)]
pub struct Dns {
    process: Process,
}

impl Dns {
    /// Its address for flags: `127.0.0.1:53`.
    pub const ADDRESS: &str = "127.0.0.1:53";

    pub(super) async fn start(places: &Places) -> Result<Self, Error> {
        let program = Part::Pebble.program("pebble-challtestsrv")?;
        let process = Process::new("challtestsrv", &program, &places.logs).args([
            "-dnsserver",
            Self::ADDRESS,
            "-management",
            "127.0.0.1:8055",
            "-defaultIPv4",
            NODE_ADDRESS,
            // Everything else that it could serve is off.
            "-defaultIPv6=",
            "-http01=",
            "-https01=",
            "-tlsalpn01=",
            "-doh=",
        ]);
        process.start()?;
        let http = Http::new("")?;
        probe::ready(&process, Duration::from_secs(10), || async {
            http.get(&format!("{MANAGEMENT}/")).await.map(|_| ())
        })
        .await?;
        // It serves names in threads of their own: the system's resolver must get an answer.
        probe::ready(&process, Duration::from_secs(10), || async {
            tokio::net::lookup_host(("ready.lab.test", 80)).await.map(|_| ())
        })
        .await?;
        Ok(Self { process })
    }

    /// Sets the A and AAAA records of a name, instead of those before. Without addresses the name
    /// exists and resolves to nothing.
    pub async fn set(&self, name: &str, addresses: &[IpAddr]) -> Result<(), Error> {
        self.reset(name).await?;
        let of_kind =
            |v4: bool| addresses.iter().filter(move |ip| ip.is_ipv4() == v4).map(ToString::to_string);
        let (mut four, six): (Vec<String>, Vec<String>) = (of_kind(true).collect(), of_kind(false).collect());
        if four.is_empty() {
            // A record that isn't an address is left out of answers, and keeps the default away.
            four.push("none".to_owned());
        }
        self.post("add-a", json!({"host": name, "addresses": four})).await?;
        if six.is_empty() {
            return Ok(());
        }
        self.post("add-aaaa", json!({"host": name, "addresses": six})).await
    }

    /// Sets the address of a name that nothing was set for before.
    pub async fn add(&self, name: &str, address: IpAddr) -> Result<(), Error> {
        self.post("add-a", json!({"host": name, "addresses": [address]})).await
    }

    /// Answers every question about a name with SERVFAIL.
    pub async fn fail(&self, name: &str) -> Result<(), Error> {
        self.post("set-servfail", json!({"host": name})).await
    }

    /// Makes a name an alias of another.
    pub async fn alias(&self, name: &str, target: &str) -> Result<(), Error> {
        self.post("set-cname", json!({"host": name, "target": target})).await
    }

    /// Sets a CAA record of a name.
    pub async fn caa(&self, name: &str, tag: &str, value: &str) -> Result<(), Error> {
        self.post("add-caa", json!({"host": name, "policies": [{"tag": tag, "value": value}]})).await
    }

    /// What names that were not set resolve to; `None`: to nothing.
    pub async fn set_default(&self, address: Option<IpAddr>) -> Result<(), Error> {
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        self.post("set-default-ipv4", json!({"ip": address})).await
    }

    /// Forgets everything about a name.
    pub async fn reset(&self, name: &str) -> Result<(), Error> {
        for path in ["clear-a", "clear-aaaa", "clear-servfail", "clear-cname", "clear-caa"] {
            self.post(path, json!({"host": name})).await?;
        }
        Ok(())
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    #[allow(clippy::unused_self, reason = "a started name server is what makes the request possible")]
    async fn post(&self, path: &str, body: Value) -> Result<(), Error> {
        Http::new("")?.post(&format!("{MANAGEMENT}/{path}"), &body).await?.ok(path).map(|_| ())
    }
}
