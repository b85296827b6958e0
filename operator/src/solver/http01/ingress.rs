//! `http01.ingress`: an Ingress in Waxwing's namespace routes a host's challenges to the responder.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures::future::try_join_all;
use k8s_openapi::api::networking::v1::IngressClass;
use tokio::time::Instant;
use waxwing_acme::{
    Challenge, ChallengeType, Evidence, Identifier, NoSolver, Presented, Solver, SolverError,
};
use waxwing_api::{Http01Ingress, PathType};

use super::{
    controllers::{self, Controller},
    route::Route,
};
use crate::solver::SolverContext;

const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// The ingress classes whose edge was seen to redirect HTTP to HTTPS: later hosts get both routes at once.
#[derive(Debug, Default)]
pub struct Redirecting {
    classes: Mutex<HashSet<Option<String>>>,
}

impl Redirecting {
    fn add(&self, class: Option<String>) {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner).insert(class);
    }

    fn contains(&self, class: Option<&String>) -> bool {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner).contains(&class.cloned())
    }
}

/// Solves by an Ingress of its own for each host.
#[derive(Clone, Debug)]
pub struct IngressRoute {
    context: Arc<SolverContext>,
    class: Option<String>,
    controller: &'static Controller,
    path_type: PathType,
}

impl IngressRoute {
    /// The solver for `identifier`, unless no Ingress can route to it.
    pub fn new(
        context: &Arc<SolverContext>,
        spec: &Http01Ingress,
        identifier: &Identifier,
    ) -> Result<Self, NoSolver> {
        if let Identifier::Ip(address) = identifier {
            return Err(NoSolver::new(format!(
                "an Ingress can't route {address}, which is no DNS name: use http01.existingRoute for it"
            )));
        }
        let class = class(&context.ingress_classes.store().state(), spec.ingress_class_name.as_deref());
        let controller = controllers::of(class.controller.as_deref());
        if let Err(why) = controller.foreign_host {
            return Err(NoSolver::new(format!(
                "the ingress controller {} can't route the challenge for {identifier}: {why}",
                controller.controller
            )));
        }
        Ok(Self { context: Arc::clone(context), class: class.name, controller, path_type: spec.path_type })
    }

    /// The routes that the host needs as far as is known.
    async fn ensure(&self, host: &str, token: Option<&str>) -> Result<(), SolverError> {
        let mut variants = vec![self.controller.plain];
        if self.context.redirecting.contains(self.class.as_ref()) {
            variants.extend(self.controller.redirected);
        }
        let ensure = variants.into_iter().map(|annotations| async move {
            let route = Route {
                annotations,
                class: self.class.clone(),
                host: host.to_owned(),
                token: token.map(str::to_owned),
            };
            self.context.routes.ensure(&route).await
        });
        match try_join_all(ensure).await {
            Ok(_) => Ok(()),
            Err(error) => Err(SolverError::caused_by(
                format!("couldn't route the challenge for {host} to Waxwing: {error}"),
                error,
            )),
        }
    }

    fn token<'a>(&self, challenge: &'a Challenge) -> Option<&'a str> {
        match self.path_type {
            PathType::Exact => Some(&challenge.token),
            PathType::Prefix => None,
        }
    }

    /// True if the edge may redirect to HTTPS and no route waits there yet.
    fn lacks_redirected(&self) -> bool {
        self.controller.redirected.is_some() && !self.context.redirecting.contains(self.class.as_ref())
    }

    async fn follow_redirect(&self, host: &str, challenge: &Challenge) {
        tracing::info!(
            host,
            class = self.class.as_deref().unwrap_or_default(),
            "the edge redirects HTTP to HTTPS; routing challenges there too"
        );
        self.context.redirecting.add(self.class.clone());
        if let Err(error) = self.ensure(host, self.token(challenge)).await {
            tracing::warn!(%error, host, "no route for redirected challenges");
        }
    }
}

#[async_trait]
impl Solver for IngressRoute {
    fn id(&self) -> String {
        format!("http-01/ingress/{}", self.class.as_deref().unwrap_or_default())
    }

    fn challenge_type(&self) -> ChallengeType {
        ChallengeType::Http01
    }

    fn record(&self, challenge: &Challenge) -> Presented {
        let host = challenge.identifier.to_string();
        Presented {
            identifier: host.clone(),
            challenge_type: ChallengeType::Http01,
            solver: self.id(),
            value: host,
        }
    }

    async fn prepare(&self, identifier: &Identifier) -> Result<(), SolverError> {
        match self.path_type {
            PathType::Prefix => self.ensure(&identifier.to_string(), None).await,
            // There is no path before there is a token.
            PathType::Exact => Ok(()),
        }
    }

    async fn present(&self, challenge: &Challenge) -> Result<(), SolverError> {
        self.ensure(&challenge.identifier.to_string(), self.token(challenge)).await
    }

    async fn self_check(&self, challenge: &Challenge) -> Evidence {
        let start = Instant::now();
        let host = challenge.identifier.to_string();
        let (token, expected) = (&challenge.token, &challenge.key_authorization);
        let check = &self.context.self_check;
        let whole = check.http01(&host, token, expected);
        let mut evidence = if self.lacks_redirected() {
            // A first look tells of a redirect long before the check gives up.
            let redirected = async {
                if check.http01_once(&host, token, expected).await.redirected_to_https {
                    self.follow_redirect(&host, challenge).await;
                }
            };
            let mut whole = std::pin::pin!(whole);
            tokio::select! {
                evidence = whole.as_mut() => evidence,
                () = redirected => whole.await,
            }
        } else {
            whole.await
        };
        if !evidence.passed && evidence.redirected_to_https && self.lacks_redirected() {
            self.follow_redirect(&host, challenge).await;
            evidence = check.http01(&host, token, expected).await;
        }
        self.context.metrics.self_check(start.elapsed());
        evidence
    }

    async fn clean_up(&self, _: &Presented) -> Result<(), SolverError> {
        // Routes hold no token and may serve another order; they are swept when it has been quiet.
        Ok(())
    }
}

#[derive(Debug, Eq, PartialEq)]
struct Class {
    name: Option<String>,
    controller: Option<String>,
}

/// The named class, or the cluster's default: as the API server does, the newest of those marked so.
fn class(classes: &[Arc<IngressClass>], name: Option<&str>) -> Class {
    let found = match name {
        Some(name) => classes.iter().find(|class| class.metadata.name.as_deref() == Some(name)),
        None => classes.iter().filter(|class| is_default(class)).max_by_key(|class| {
            let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, std::cmp::Reverse(class.metadata.name.clone()))
        }),
    };
    Class {
        name: name.map(str::to_owned).or_else(|| found.and_then(|class| class.metadata.name.clone())),
        controller: found.and_then(|class| class.spec.as_ref()?.controller.clone()),
    }
}

fn is_default(class: &IngressClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use k8s_openapi::{api::networking::v1::IngressClassSpec, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    fn ingress_class(name: &str, controller: &str, default: bool) -> Arc<IngressClass> {
        Arc::new(IngressClass {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                annotations: default.then(|| [(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(IngressClassSpec { controller: Some(controller.to_owned()), parameters: None }),
        })
    }

    #[test]
    fn the_class_is_the_named_one_or_the_default() {
        let classes = [
            ingress_class("nginx", "k8s.io/ingress-nginx", false),
            ingress_class("web", "traefik.io/x", true),
        ];
        let named = |name: Option<&str>| {
            let Class { name, controller } = class(&classes, name);
            (name.unwrap_or_default(), controller.unwrap_or_default())
        };
        assert_eq!(named(Some("nginx")), ("nginx".to_owned(), "k8s.io/ingress-nginx".to_owned()));
        assert_eq!(named(None), ("web".to_owned(), "traefik.io/x".to_owned()));
        assert_eq!(named(Some("none")), ("none".to_owned(), String::new()));
        assert_eq!(class(&[], None), Class { name: None, controller: None });
    }
}
