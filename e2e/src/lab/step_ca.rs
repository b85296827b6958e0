//! step-ca: a second CA, independent of the first, and the one that stands load.

use std::time::Duration;

use serde_json::json;

use super::{Dns, Places};
use crate::{
    Error, http::Http, parts::Part, paths, pki::Authority, probe, process::Process, sandbox::NODE_ADDRESS,
};

const URL: &str = "https://localhost:9000";

/// A running step-ca. Its root is the lab's.
#[derive(Debug)]
pub struct StepCa {
    process: Process,
}

impl StepCa {
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
        format!("{URL}/acme/acme/directory")
    }

    /// The URL of its directory for pods.
    pub fn pod_directory(&self) -> String {
        format!("https://{NODE_ADDRESS}:9000/acme/acme/directory")
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
