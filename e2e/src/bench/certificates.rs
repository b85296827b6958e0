//! Certificates that are created, and watched until they are Ready.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, future, pin_mut, stream};
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use kube_runtime::{WatchStreamExt as _, watcher};
use tokio::{sync::watch, task::JoinHandle};
use waxwing_api::{Certificate, CertificateSpec, IssuerKind, IssuerRef, reason};

use crate::Error;

/// How long each took, from just before its creation was sent to the watch event that says Ready.
#[derive(Clone, Debug, Default)]
pub struct Timed {
    /// One time for each that became Ready.
    pub times: Vec<Duration>,
    /// From the first creation to the last that became Ready.
    pub span: Duration,
    /// What those say that did not become Ready.
    pub failures: Vec<String>,
}

/// Creates Certificates of one namespace and one issuer, and sees when they are Ready.
#[derive(Debug)]
pub struct Certificates {
    api: Api<Certificate>,
    issuer: String,
    seen: watch::Receiver<HashMap<String, Seen>>,
    task: JoinHandle<()>,
}

/// What the watch saw of one.
#[derive(Clone, Debug)]
enum Seen {
    Ready(Instant),
    NotReady(String),
}

impl Certificates {
    /// Watches the Certificates of `namespace`; those that it creates name the `ClusterIssuer` `issuer`.
    pub fn new(client: Client, namespace: &str, issuer: &str) -> Self {
        let api: Api<Certificate> = Api::namespaced(client, namespace);
        let (sender, seen) = watch::channel(HashMap::new());
        let events = watcher(api.clone(), watcher::Config::default()).default_backoff().applied_objects();
        let task = tokio::spawn(async move {
            pin_mut!(events);
            while let Some(event) = events.next().await {
                let at = Instant::now();
                // A broken watch begins anew by itself.
                let Ok(certificate) = event else { continue };
                sender.send_modify(|seen| note(seen, &certificate, at));
            }
        });
        Self { api, issuer: issuer.to_owned(), seen, task }
    }

    /// Creates one after the other, each when the one before is Ready and `pause(number)` is over.
    pub async fn one_at_a_time(
        &self,
        names: &[String],
        pause: impl Fn(usize) -> Duration,
        within: Duration,
    ) -> Result<Timed, Error> {
        let mut timed = Timed::default();
        for (number, name) in names.iter().enumerate() {
            tokio::time::sleep(pause(number)).await;
            let started = self.create(name).await?;
            match self.ready(name, within).await {
                Ok(at) => timed.times.push(at.duration_since(started)),
                Err(why) => timed.failures.push(why),
            }
        }
        // Pauses are no work.
        timed.span = timed.times.iter().sum();
        Ok(timed)
    }

    /// Creates all at once.
    pub async fn all_at_once(&self, names: &[String], within: Duration) -> Result<Timed, Error> {
        let started = Instant::now();
        let created = names.iter().map(|name| async move { self.create(name).await.map(|at| (name, at)) });
        let created: Vec<_> = future::join_all(created).await.into_iter().collect::<Result<_, _>>()?;
        let mut timed = Timed::default();
        for (name, begun) in created {
            match self.ready(name, within.saturating_sub(started.elapsed())).await {
                Ok(at) => {
                    timed.times.push(at.duration_since(begun));
                    timed.span = timed.span.max(at.duration_since(started));
                }
                Err(why) => timed.failures.push(why),
            }
        }
        Ok(timed)
    }

    /// Creates some, and doesn't wait for them.
    pub async fn create_all(&self, names: &[String], at_once: usize) -> Result<(), Error> {
        let created = stream::iter(names).map(|name| self.create(name));
        created.buffer_unordered(at_once).try_collect::<Vec<_>>().await.map(|_| ())
    }

    async fn create(&self, name: &str) -> Result<Instant, Error> {
        let object = name.replace('.', "-");
        let certificate = Certificate::new(
            &object,
            CertificateSpec {
                secret_name: object.clone(),
                dns_names: vec![name.to_owned()],
                issuer_ref: IssuerRef {
                    name: self.issuer.clone(),
                    kind: IssuerKind::ClusterIssuer,
                    ..IssuerRef::default()
                },
                ..CertificateSpec::default()
            },
        );
        let started = Instant::now();
        let created = self.api.create(&PostParams::default(), &certificate).await;
        created.map_err(Error::kube(|| format!("creating Certificate {object}")))?;
        Ok(started)
    }

    /// When it became Ready, or why it isn't.
    async fn ready(&self, name: &str, within: Duration) -> Result<Instant, String> {
        let object = name.replace('.', "-");
        let mut seen = self.seen.clone();
        let is_ready = |seen: &HashMap<String, Seen>| matches!(seen.get(&object), Some(Seen::Ready(_)));
        // An ended watch and a time-out read the same below: not Ready.
        let _ = tokio::time::timeout(within, seen.wait_for(is_ready)).await;
        match self.seen.borrow().get(&object) {
            Some(Seen::Ready(at)) => Ok(*at),
            Some(Seen::NotReady(why)) => Err(format!("{name}: {why}")),
            None => Err(format!("{name}: never seen by the watch")),
        }
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn note(seen: &mut HashMap<String, Seen>, certificate: &Certificate, at: Instant) {
    let name = certificate.name_any();
    if matches!(seen.get(&name), Some(Seen::Ready(_))) {
        return;
    }
    let conditions =
        certificate.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready =
        conditions.iter().any(|condition| condition.type_ == reason::READY && condition.status == "True");
    let news = if ready {
        Seen::Ready(at)
    } else {
        let issuing = conditions.iter().find(|condition| condition.type_ == reason::ISSUING);
        Seen::NotReady(issuing.map_or_else(|| "no status yet".to_owned(), |issuing| issuing.message.clone()))
    };
    seen.insert(name, news);
}
