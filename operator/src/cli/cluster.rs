//! Which cluster and namespace a verb is about: as kubectl chooses them.

use std::path::PathBuf;

use clap::Args;
use kube::Client;

use crate::runtime::client::{self, ClientError, ClientOptions};

/// The flags that verbs for users share.
#[derive(Debug, Args)]
pub struct Cluster {
    /// The namespace [default: that of the kubeconfig's context]
    #[arg(short, long)]
    namespace: Option<String>,

    /// A kubeconfig file [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, env = "WAXWING_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// A context of the kubeconfig [default: its current one]
    #[arg(long, env = "WAXWING_CONTEXT")]
    context: Option<String>,
}

impl Cluster {
    /// A client, and the namespace.
    pub async fn connect(&self) -> Result<(Client, String), ClientError> {
        // kube would take the same one, but only where no other is compiled in.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let options = ClientOptions {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            identity: "command line".into(),
        };
        let (client, _outages) = client::connect(&options).await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        Ok((client, namespace))
    }
}
