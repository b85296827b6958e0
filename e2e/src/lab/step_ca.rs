//! step-ca: a second CA, independent of the first, and the one that stands load.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;

use super::{Dns, Places};
use crate::{
    Error, http::Http, parts::Part, paths, pki::Authority, probe, process::Process, sandbox::NODE_ADDRESS,
};

/// A running step-ca. Its root is the lab's.
#[derive(Debug)]
pub struct StepCa {
    process: Process,
}

/// The orders for one DNS name, by their identifiers at the CA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// All of them.
    pub created: BTreeSet<String>,
    /// Those for which a certificate was signed.
    pub finalized: BTreeSet<String>,
}

impl StepCa {
    /// Its URL without a path.
    pub(super) const URL: &str = "https://localhost:9000";

    /// Where its directory is.
    pub(super) const DIRECTORY_PATH: &str = "/acme/acme/directory";

    pub(super) async fn start(authority: &Authority, places: &Places) -> Result<Self, Error> {
        let file = |name: &str| places.files.join(name);
        let intermediate = authority.intermediate("Waxwing lab step-ca")?;
        paths::write(&file("step-ca.pem"), intermediate.certificate_pem)?;
        paths::write(&file("step-ca.key"), intermediate.key_pem)?;
        let config = json!({
            "root": file("lab-root.pem"),
            "crt": file("step-ca.pem"),
            "key": file("step-ca.key"),
            // Pods ask it by the node's address.
            "address": "0.0.0.0:9000",
            "dnsNames": ["localhost", "127.0.0.1", NODE_ADDRESS],
            "db": {"type": "badgerv2", "dataSource": places.data.join("step-ca")},
            "logger": {"format": "json"},
            "authority": {"provisioners": [{
                "type": "ACME",
                "name": "acme",
                "claims": {"maxTLSCertDuration": "2160h", "defaultTLSCertDuration": "2160h"},
            }]},
        });
        paths::write(&file("step-ca.json"), config.to_string())?;
        let process = Process::new("step-ca", &Part::StepCa.program("step-ca")?, &places.logs)
            .args([file("step-ca.json").as_os_str().to_owned()])
            .args(["--resolver", Dns::ADDRESS]);
        process.start()?;
        let step_ca = Self { process };
        let http = Http::new(authority.pem())?;
        probe::ready(&step_ca.process, Duration::from_secs(20), || async {
            http.get(&step_ca.directory()).await?.ok("step-ca's directory")
        })
        .await?;
        Ok(step_ca)
    }

    /// The URL of its directory. Its certificate, and those that it issues, end at the lab's root.
    pub fn directory(&self) -> String {
        format!("{}{}", Self::URL, Self::DIRECTORY_PATH)
    }

    /// The URL of its directory for pods.
    pub fn pod_directory(&self) -> String {
        format!("https://{NODE_ADDRESS}:9000{}", Self::DIRECTORY_PATH)
    }

    /// How many accounts with this contact it has made, by its log.
    pub fn accounts(&self, email: &str) -> usize {
        let log = self.process.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let made = lines.filter(|line| line.path.ends_with("/new-account") && line.status == 201);
        let accounts = made.filter_map(|line| serde_json::from_str::<Account>(&line.response).ok());
        let contact = format!("mailto:{email}");
        accounts.filter(|account| account.contact.contains(&contact)).count()
    }

    /// The orders of which its log tells from the byte `begin` on, by DNS name.
    pub fn orders(&self, begin: usize) -> BTreeMap<String, Orders> {
        let mut orders: BTreeMap<String, Orders> = BTreeMap::new();
        let log = self.process.log();
        let lines = log.get(begin..).unwrap_or_default().lines();
        for line in lines.filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            let (created, finalized) = (line.path.ends_with("/new-order"), line.path.ends_with("/finalize"));
            if !created && !finalized {
                continue;
            }
            let Ok(order) = serde_json::from_str::<Order>(&line.response) else { continue };
            for identifier in order.identifiers {
                let of_name = orders.entry(identifier.value).or_default();
                if created {
                    of_name.created.insert(order.id.clone());
                }
                if finalized && order.status == "valid" {
                    of_name.finalized.insert(order.id.clone());
                }
            }
        }
        orders
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// What its log says of a request.
#[derive(Deserialize)]
struct Line {
    path: String,
    status: u16,
    #[serde(default)]
    response: String,
}

#[derive(Deserialize)]
struct Account {
    #[serde(default)]
    contact: Vec<String>,
}

#[derive(Deserialize)]
struct Order {
    id: String,
    status: String,
    identifiers: Vec<Identifier>,
}

#[derive(Deserialize)]
struct Identifier {
    value: String,
}
