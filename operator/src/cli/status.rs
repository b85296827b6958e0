//! `waxwing status`: a Certificate's state on one page.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use thiserror::Error;
use waxwing_api::{Certificate, ClusterIssuer, Issuer, IssuerKind};

use super::certificate_page::{Facts, Found, Page};
use super::cluster::Cluster;
use crate::runtime::client::{CallError, ClientError, bounded};

/// The flags of `waxwing status`.
#[derive(Debug, Args)]
#[command(override_usage = "waxwing status [certificate] <NAME> [OPTIONS]")]
pub struct Status {
    /// The Certificate, with the word certificate before it or without
    #[arg(value_name = "NAME", required = true, num_args = 1..=2)]
    what: Vec<String>,

    /// Text for people, or JSON
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,

    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Why there is no page.
#[derive(Debug, Error)]
pub enum StatusError {
    /// Two words, of which the first is no kind.
    #[error("{0:?} has no page; write waxwing status certificate, and a name")]
    Kind(String),
    /// There is no cluster to ask.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The Certificate can't be read.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It can't be written as JSON.
    #[error("couldn't write the page as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Status {
    /// Prints the page.
    pub async fn run(&self) -> Result<(), StatusError> {
        let name = match &self.what[..] {
            [kind, name] if KINDS.contains(&kind.to_ascii_lowercase().as_str()) => name.as_str(),
            [kind, _] => return Err(StatusError::Kind(kind.clone())),
            what => what.first().map(String::as_str).unwrap_or_default(),
        };
        let (client, namespace) = self.cluster.connect().await?;
        let api: Api<Certificate> = Api::namespaced(client.clone(), &namespace);
        let certificate = bounded(format!("get Certificate {namespace}/{name}"), api.get(name)).await?;
        let (issuer, secret, events) = tokio::join!(
            issuer(&client, &namespace, &certificate),
            secret(&client, &namespace, &certificate),
            events(&client, &namespace, &certificate),
        );
        let facts =
            Facts { certificate: &certificate, issuer, secret, events: &events, now: Timestamp::now() };
        let page = Page::of(&facts);
        match self.output {
            Output::Text => print!("{}", page.text(colours())),
            Output::Json => println!("{}", serde_json::to_string_pretty(&page)?),
        }
        Ok(())
    }
}

const KINDS: [&str; 3] = ["certificate", "certificates", "wcert"];

/// On a terminal, unless its owner wants none (no-color.org).
fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

async fn issuer(client: &Client, namespace: &str, certificate: &Certificate) -> Found<Vec<Condition>> {
    let reference = &certificate.spec.issuer_ref;
    let (name, what) = (&reference.name, format!("get {} {}", reference.kind, reference.name));
    match reference.kind {
        IssuerKind::Issuer => {
            let api: Api<Issuer> = Api::namespaced(client.clone(), namespace);
            found(bounded(what, api.get_opt(name)).await)
                .map(|issuer| issuer.status.unwrap_or_default().conditions)
        }
        IssuerKind::ClusterIssuer => {
            let api: Api<ClusterIssuer> = Api::all(client.clone());
            found(bounded(what, api.get_opt(name)).await)
                .map(|issuer| issuer.status.unwrap_or_default().conditions)
        }
    }
}

/// Only its metadata: the key in it never leaves the API server.
async fn secret(
    client: &Client,
    namespace: &str,
    certificate: &Certificate,
) -> Found<kube::core::ObjectMeta> {
    let name = &certificate.spec.secret_name;
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let answer = bounded(format!("get Secret {namespace}/{name}"), api.get_metadata_opt(name)).await;
    found(answer).map(|secret| secret.metadata)
}

async fn events(client: &Client, namespace: &str, certificate: &Certificate) -> Vec<Event> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let about = format!("regarding.kind=Certificate,regarding.name={}", certificate.name_any());
    let parameters = ListParams::default().fields(&about).limit(MOST_EVENTS);
    let list = bounded("list Events", api.list(&parameters)).await;
    list.map(|list| list.items).unwrap_or_default()
}

const MOST_EVENTS: u32 = 500;

fn found<T>(answer: Result<Option<T>, CallError>) -> Found<T> {
    match answer {
        Ok(Some(object)) => Found::Present(object),
        Ok(None) => Found::Absent,
        Err(_) => Found::Unknown,
    }
}
