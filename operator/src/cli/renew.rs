//! `waxwing renew`: asks for renewals, by the annotation that the operator reads.

use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use thiserror::Error;
use waxwing_api::{Certificate, labels};

use super::cluster::Cluster;
use crate::certificate::renewal_request;
use crate::runtime::client::{CallError, ClientError, bounded};

/// The flags of `waxwing renew`.
#[derive(Debug, Args)]
pub struct Renew {
    /// The Certificates
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "selector"], conflicts_with_all = ["all", "selector"])]
    names: Vec<String>,

    /// All Certificates of the namespace
    #[arg(long, conflicts_with = "selector")]
    all: bool,

    /// Those with these labels, such as app=shop
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,

    #[command(flatten)]
    cluster: Cluster,
}

/// Why renewals weren't asked for.
#[derive(Debug, Error)]
pub enum RenewError {
    /// There is no cluster to ask.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The Certificates can't be listed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// None is meant.
    #[error("namespace {namespace} has no such Certificate; look with kubectl get wcert -A --show-labels")]
    Nothing {
        /// The namespace.
        namespace: String,
    },
    /// Some couldn't be asked for; each was told on standard error.
    #[error("{failed} of {all} {} couldn't be asked to renew", noun(*all))]
    Some {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
}

impl Renew {
    /// Asks for each, and says what happens next.
    pub async fn run(&self) -> Result<(), RenewError> {
        let (client, namespace) = self.cluster.connect().await?;
        let api: Api<Certificate> = Api::namespaced(client, &namespace);
        let names =
            if self.all || self.selector.is_some() { self.listed(&api).await? } else { self.names.clone() };
        if names.is_empty() {
            return Err(RenewError::Nothing { namespace });
        }
        let mut failed = 0;
        for name in &names {
            match ask(&api, &namespace, name).await {
                Ok(certificate) => println!("{namespace}/{name}: {}", renewal_request::next(&certificate)),
                Err(error) => {
                    eprintln!("{namespace}/{name}: {error}");
                    failed += 1;
                }
            }
        }
        if failed > 0 {
            return Err(RenewError::Some { failed, all: names.len() });
        }
        Ok(())
    }

    async fn listed(&self, api: &Api<Certificate>) -> Result<Vec<String>, CallError> {
        let mut parameters = ListParams::default();
        parameters.label_selector.clone_from(&self.selector);
        let certificates = bounded("list Certificates", api.list(&parameters)).await?;
        Ok(certificates.iter().map(ResourceExt::name_any).collect())
    }
}

fn noun(count: usize) -> &'static str {
    if count == 1 { "Certificate" } else { "Certificates" }
}

/// Writes the annotation. The first write needs nothing but the name, and its answer tells what was there: where that
/// makes the request an old one, as a clock that is behind does, a second write, of that version, puts it right.
async fn ask(api: &Api<Certificate>, namespace: &str, name: &str) -> Result<Certificate, CallError> {
    let now = Timestamp::now();
    let (mut time, mut tries) = (renewal_request::time_to_ask(None, now), TRIES);
    let mut patch = json!({"metadata": {"annotations": {}}});
    loop {
        patch["metadata"]["annotations"][labels::RENEW] = json!(time.to_string());
        let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let what = format!("ask for a renewal of Certificate {namespace}/{name}");
        tries -= 1;
        match bounded(what, api.patch(name, &parameters, &Patch::Merge(&patch))).await {
            Ok(certificate) => {
                let needed = renewal_request::time_to_ask(certificate.status.as_ref(), now);
                if needed <= time || tries == 0 {
                    return Ok(certificate);
                }
                time = needed;
                patch["metadata"]["resourceVersion"] = json!(certificate.metadata.resource_version);
            }
            // It was written in between: its answer is looked at again.
            Err(error) if error.is_conflict() && tries > 0 => {
                patch["metadata"] = json!({"annotations": {}});
            }
            Err(error) => return Err(error),
        }
    }
}

/// How often a Certificate that changes all the time is written before the last answer is taken.
const TRIES: usize = 5;
/// Under this name the API server records who asked.
const MANAGER: &str = "waxwing-renew";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_could_not_be_asked_is_said_of_all() {
        let said = |failed, all| RenewError::Some { failed, all }.to_string();
        assert_eq!(said(1, 1), "1 of 1 Certificate couldn't be asked to renew");
        assert_eq!(said(1, 2), "1 of 2 Certificates couldn't be asked to renew");
    }
}
