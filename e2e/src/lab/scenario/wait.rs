//! Waiting by a watch for what a test expects to be said.

use std::{fmt::Debug, pin::pin, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use http::Method;
use k8s_openapi::{api::events::v1::Event, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{Api, Resource, ResourceExt, api::ListParams, core::NamespaceResourceScope};
use kube_runtime::{WatchStreamExt as _, watcher::watch_object};
use serde::de::DeserializeOwned;
use waxwing_api::{AcmeIssuer as _, Certificate, Issuer, reason};

use super::Scenario;
use crate::{Error, lab::RESPONDER_PORT, probe, sandbox::NODE_ADDRESS};

/// Longest time for anything to come about. A failed self-check alone takes 20 s, a silent CA 30 s; after an outage of
/// the API server the edge may need half a minute to see routes again, and the back-off then lasts a minute.
pub const PATIENCE: Duration = Duration::from_mins(4);

/// A Certificate that was stopped, and what it says.
#[derive(Debug)]
pub struct Stopped {
    /// The Certificate.
    pub certificate: Certificate,
    /// The message of its condition.
    pub message: String,
}

impl Scenario<'_> {
    /// Waits until `look` is content with an object: by a watch, within [`PATIENCE`]. What `look` missed
    /// last is in the error.
    pub async fn until<K, T>(
        &self,
        api: Api<K>,
        name: &str,
        mut look: impl FnMut(Option<&K>) -> Result<T, String>,
    ) -> Result<T, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let mut last = "nothing was seen".to_owned();
        let mut stream = pin!(watch_object(api, name).default_backoff());
        let seen = async {
            while let Some(object) = stream.next().await {
                match object.map_err(|error| error.to_string()).and_then(|object| look(object.as_ref())) {
                    Ok(value) => return Some(value),
                    Err(why) => last = why,
                }
            }
            None
        };
        if let Ok(Some(value)) = tokio::time::timeout(PATIENCE, seen).await {
            return Ok(value);
        }
        Err(Error::NotReady {
            what: format!("{} {}/{name}", K::kind(&()), self.namespace()),
            after: PATIENCE,
            last,
        })
    }

    /// Waits until a Certificate is Ready for its spec as it is now, and no attempt runs.
    pub async fn ready(&self, name: &str) -> Result<Certificate, Error> {
        let certificate = self
            .until(self.api::<Certificate>(), name, |certificate| {
                let certificate = certificate.ok_or("there is none")?;
                let ready = current(certificate, reason::READY)?;
                let done = condition(certificate, reason::ISSUING)
                    .is_none_or(|issuing| issuing.reason == reason::ISSUED);
                if ready.status == "True" && done {
                    Ok(certificate.clone())
                } else {
                    Err(conditions(certificate))
                }
            })
            .await?;
        self.remember(&certificate);
        Ok(certificate)
    }

    /// Waits until the attempt has stopped for this reason, and a Warning that says so has been sent.
    pub async fn stopped(&self, name: &str, why: &str) -> Result<Stopped, Error> {
        self.stopped_saying(name, why, "").await
    }

    /// The same, where the message becomes what is expected only later.
    pub async fn stopped_saying(&self, name: &str, why: &str, words: &str) -> Result<Stopped, Error> {
        let certificate = self
            .until(self.api::<Certificate>(), name, |certificate| {
                let certificate = certificate.ok_or("there is none")?;
                let issuing = current(certificate, reason::ISSUING)?;
                if issuing.status == "False" && issuing.reason == why && issuing.message.contains(words) {
                    Ok(certificate.clone())
                } else {
                    Err(conditions(certificate))
                }
            })
            .await?;
        self.remember(&certificate);
        let message = condition(&certificate, reason::ISSUING)
            .map(|condition| condition.message.clone())
            .unwrap_or_default();
        self.noted("Certificate", name, "Warning", why, |note| says_the_same(note, &message)).await?;
        Ok(Stopped { certificate, message })
    }

    /// Waits until a Certificate with a given UID has an order open.
    pub async fn ordered(&self, certificate: &Certificate) -> Result<(), Error> {
        let name = waxwing_api::labels::order_secret_name(&certificate.uid().unwrap_or_default());
        self.until(self.order_secrets(), &name, |secret| {
            secret.map(|_| ()).ok_or("no order is open".to_owned())
        })
        .await
    }

    /// Waits until Waxwing answers challenges of a host: it has seen that an order is open for it.
    pub async fn answering(&self, host: &str) -> Result<(), Error> {
        let http = self.lab().http().await?;
        let url = format!("http://{NODE_ADDRESS}:{RESPONDER_PORT}/.well-known/acme-challenge/token");
        probe::until(&format!("an answer for {host}"), PATIENCE, || async {
            http.send(Method::GET, &url, &[("host", host)], Bytes::new()).await?.ok("the responder")
        })
        .await
        .map(|_| ())
    }

    /// Waits until an Issuer's Ready condition has this reason; if it is False, until a Warning that says
    /// so has been sent. Gives the message.
    pub async fn issuer_is(&self, name: &str, why: &str) -> Result<String, Error> {
        let (status, message) = self
            .until(self.api::<Issuer>(), name, |issuer| {
                let issuer = issuer.ok_or("there is none")?;
                issuer_condition(issuer.issuer_status(), issuer.metadata.generation, why)
            })
            .await?;
        if status == "False" {
            self.told("Issuer", name, "Warning", why, &message).await?;
        }
        Ok(message)
    }

    /// The same for a `ClusterIssuer`, without the Event.
    pub async fn cluster_issuer_is(&self, name: &str, why: &str) -> Result<String, Error> {
        let (_, message) = self
            .until(self.cluster_issuers(), name, |issuer| {
                let issuer = issuer.ok_or("there is none")?;
                issuer_condition(issuer.issuer_status(), issuer.metadata.generation, why)
            })
            .await?;
        Ok(message)
    }

    /// Waits until an object is gone.
    pub async fn gone<K>(&self, name: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        self.until(self.api::<K>(), name, |object| object.map_or(Ok(()), |_| Err("still there".to_owned())))
            .await
    }

    /// Waits until an Event of this type and reason about an object of the namespace has been sent, whose
    /// note begins as `message` does.
    pub async fn told(
        &self,
        kind: &str,
        name: &str,
        type_: &str,
        why: &str,
        message: &str,
    ) -> Result<(), Error> {
        // An Event's note is shorter than a condition's message may be.
        let begin: String = message.chars().take(200).collect();
        self.noted(kind, name, type_, why, |note| note.starts_with(&begin)).await
    }

    async fn noted(
        &self,
        kind: &str,
        name: &str,
        type_: &str,
        why: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        let what = format!("an Event {type_} {why} about {kind} {}/{name}", self.namespace());
        probe::until(&what, PATIENCE, || async {
            let events = self.events(kind, name).await.map_err(|error| error.to_string())?;
            let found = events.iter().any(|event| {
                event.type_.as_deref() == Some(type_)
                    && event.reason.as_deref() == Some(why)
                    && fits(event.note.as_deref().unwrap_or_default())
            });
            let seen: Vec<_> =
                events.iter().map(|event| (event.reason.as_deref(), event.note.as_deref())).collect();
            if found { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await
    }

    /// The Events about an object of the namespace.
    pub async fn events(&self, kind: &str, name: &str) -> Result<Vec<Event>, Error> {
        let about = ListParams::default().fields(&format!("regarding.kind={kind},regarding.name={name}"));
        let events = self
            .api::<Event>()
            .list(&about)
            .await
            .map_err(Error::kube(|| format!("listing Events of {name}")))?;
        Ok(events.items)
    }
}

/// Whether an Event tells cause and advice as the condition does. It leaves out what differs from attempt to attempt:
/// the paths of URLs, and what is quoted.
fn says_the_same(note: &str, message: &str) -> bool {
    let told = note.trim_end_matches('…');
    let told = told.split(" (asking ").next().unwrap_or(told);
    !told.is_empty() && without_paths(message).starts_with(&without_paths(told))
}

fn without_paths(text: &str) -> String {
    let short = |word: &str| {
        let (scheme, rest) = word.split_once("://")?;
        let (host, path) = rest.split_once('/')?;
        let end = path.trim_end_matches([':', '.', ',', ';', ')']).len();
        Some(format!("{scheme}://{host}{}", path.get(end..).unwrap_or_default()))
    };
    text.split(' ').map(|word| short(word).unwrap_or_else(|| word.to_owned())).collect::<Vec<_>>().join(" ")
}

/// A condition of a Certificate.
pub fn condition<'a>(certificate: &'a Certificate, type_: &str) -> Option<&'a Condition> {
    certificate.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
}

/// A condition that is about the spec as it is now.
fn current<'a>(certificate: &'a Certificate, type_: &str) -> Result<&'a Condition, String> {
    condition(certificate, type_)
        .filter(|condition| condition.observed_generation == certificate.metadata.generation)
        .ok_or_else(|| format!("no condition {type_} for this spec; {}", conditions(certificate)))
}

/// All conditions in one line, for whoever reads why a test has failed.
fn conditions(certificate: &Certificate) -> String {
    let conditions = certificate.status.iter().flat_map(|status| &status.conditions);
    let each: Vec<String> = conditions
        .map(|condition| {
            format!("{}={} {}: {}", condition.type_, condition.status, condition.reason, condition.message)
        })
        .collect();
    if each.is_empty() { "no condition".to_owned() } else { each.join("; ") }
}

fn issuer_condition(
    status: Option<&waxwing_api::IssuerStatus>,
    generation: Option<i64>,
    why: &str,
) -> Result<(String, String), String> {
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == reason::READY).ok_or("no condition")?;
    if ready.reason == why && ready.observed_generation == generation {
        Ok((ready.status.clone(), ready.message.clone()))
    } else {
        Err(format!("{} {}: {}", ready.status, ready.reason, ready.message))
    }
}
