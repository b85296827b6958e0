//! `http01.ingress`: an Ingress routes a host's challenges to who answers: Waxwing itself by an Ingress in its own
//! namespace, or what stands beside the Certificate.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures::future::try_join_all;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use tokio::time::Instant;
use waxwing_acme::{
    Challenge, ChallengeType, Evidence, Identifier, NoSolver, Presented, Solver, SolverError,
};
use waxwing_api::{Http01Ingress, PathType, RoutePolicy, ServiceType};

use super::{
    beside::{self, Beside},
    controllers::{self, Controller, Mode},
    in_place,
    object::Object,
    route::Route,
};
use crate::solver::{Applicant, SolverContext};

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

    pub(super) fn contains(&self, class: Option<&String>) -> bool {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner).contains(&class.cloned())
    }
}

/// Solves by a path at an ingress controller.
#[derive(Clone, Debug)]
pub struct IngressRoute {
    context: Arc<SolverContext>,
    applicant: Arc<Applicant>,
    class: Option<String>,
    controller: &'static Controller,
    path_type: PathType,
    /// None: Waxwing itself answers, by an Ingress in its own namespace.
    beside: Option<Beside>,
}

impl IngressRoute {
    /// The solver for `identifier`, unless no Ingress can route to it.
    pub fn new(
        context: &Arc<SolverContext>,
        applicant: &Arc<Applicant>,
        spec: &Http01Ingress,
        identifier: &Identifier,
    ) -> Result<Self, NoSolver> {
        let host = match identifier {
            Identifier::Dns(host) => host,
            Identifier::Ip(address) => {
                return Err(NoSolver::new(format!(
                    "an Ingress can't route {address}, which is no DNS name: use http01.existingRoute for it"
                )));
            }
        };
        let named =
            spec.name.as_deref().and_then(|name| context.ingresses.get(Some(&applicant.namespace), name));
        let class = class_for(&context.ingress_classes.store().state(), spec, named.as_deref());
        let controller = controllers::of(class.controller.as_deref());
        let serving = || {
            let ingresses = context.ingresses.store().state();
            in_place::serving(ingresses.iter().map(|ingress| &**ingress), &applicant.namespace, host)
        };
        let beside = way(spec, controller, serving).map_err(|why| {
            NoSolver::new(format!(
                "the ingress controller {} can't route the challenge for {host}: {why}",
                controller.controller
            ))
        })?;
        Ok(Self {
            context: Arc::clone(context),
            applicant: Arc::clone(applicant),
            class: class.name,
            controller,
            path_type: spec.path_type,
            beside,
        })
    }

    /// What the host needs as far as is known. Answers with the pod, where there is one.
    async fn ensure(&self, host: &str, token: Option<&str>) -> Result<Option<Object>, SolverError> {
        let redirecting = self.context.redirecting.contains(self.class.as_ref());
        let routes = routes(self.controller, self.class.as_ref(), redirecting, host, token);
        if let Some(beside) = &self.beside {
            return beside.ensure(&self.context, &self.applicant, &routes).await;
        }
        match try_join_all(routes.iter().map(|route| self.context.routes.ensure(route))).await {
            Ok(_) => Ok(None),
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
        let own = self.beside.as_ref().is_none_or(|beside| beside.in_place.is_none());
        own && self.controller.redirected.is_some() && !self.context.redirecting.contains(self.class.as_ref())
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
        let class = self.class.as_deref().unwrap_or_default();
        match &self.beside {
            None => format!("http-01/ingress/{class}"),
            Some(beside) => format!("http-01/ingress/{class}/{}", beside.word()),
        }
    }

    fn challenge_type(&self) -> ChallengeType {
        ChallengeType::Http01
    }

    fn record(&self, challenge: &Challenge) -> Presented {
        super::record(self.id(), challenge)
    }

    async fn prepare(&self, identifier: &Identifier) -> Result<(), SolverError> {
        match self.path_type {
            PathType::Prefix => self.ensure(&identifier.to_string(), None).await.map(|_| ()),
            // There is no path before there is a token.
            PathType::Exact => Ok(()),
        }
    }

    async fn present(&self, challenge: &Challenge) -> Result<(), SolverError> {
        let pod = self.ensure(&challenge.identifier.to_string(), self.token(challenge)).await?;
        match (&self.beside, pod) {
            (Some(beside), Some(pod)) => beside.ready(&self.context, &pod).await,
            _ => Ok(()),
        }
    }

    async fn self_check(&self, challenge: &Challenge) -> Evidence {
        let start = Instant::now();
        let host = challenge.identifier.to_string();
        let (token, expected) = (&challenge.token, &challenge.key_authorization);
        let check = super::look(&self.context, &self.applicant);
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

/// What a host needs at the edge.
pub(super) fn routes(
    controller: &Controller,
    class: Option<&String>,
    redirecting: bool,
    host: &str,
    token: Option<&str>,
) -> Vec<Route> {
    let redirected = controller.redirected.filter(|_| redirecting);
    [Some(controller.plain), redirected]
        .into_iter()
        .flatten()
        .map(|annotations| Route {
            annotations,
            class: class.cloned(),
            host: host.to_owned(),
            token: token.map(str::to_owned),
        })
        .collect()
}

/// How the challenge is solved: as the issuer says, else as is known of the controller. `serving` gives an Ingress of
/// the Certificate's namespace that has the host.
fn way(
    spec: &Http01Ingress,
    controller: &Controller,
    serving: impl Fn() -> Option<String>,
) -> Result<Option<Beside>, &'static str> {
    let (in_place, node_port) = match controller.mode {
        Mode::Operator => (false, false),
        Mode::Pod { in_place, node_port } => (in_place, node_port),
    };
    let pod = || beside::Responder::Pod {
        template: spec.pod_template.clone().map(Box::new),
        service_type: spec.service_type.unwrap_or(if node_port {
            ServiceType::NodePort
        } else {
            ServiceType::ClusterIp
        }),
    };
    let beside = |responder, in_place| Ok(Some(Beside { responder, in_place }));
    match (spec.responder, &spec.name) {
        (Some(waxwing_api::Responder::Pod), None) => beside(pod(), in_place.then(serving).flatten()),
        (Some(waxwing_api::Responder::Pod), Some(name)) => beside(pod(), Some(name.clone())),
        (Some(waxwing_api::Responder::Operator), Some(name)) => {
            beside(beside::Responder::Operator, Some(name.clone()))
        }
        (None, Some(name)) => match controller.mode {
            Mode::Operator => beside(beside::Responder::Operator, Some(name.clone())),
            Mode::Pod { .. } => beside(pod(), Some(name.clone())),
        },
        (Some(waxwing_api::Responder::Operator), None) => controller.foreign_host.map(|()| None),
        (None, None) => match controller.mode {
            Mode::Operator => Ok(None),
            Mode::Pod { .. } if spec.route_policy == RoutePolicy::Permanent => Err(
                "it needs a pod, whose path can't stay; remove routePolicy: Permanent, or use existingRoute",
            ),
            Mode::Pod { .. } => beside(pod(), in_place.then(serving).flatten()),
        },
    }
}

/// The class that a spec means: `named`, the Ingress that it names, has one of its own.
fn class_for(classes: &[Arc<IngressClass>], spec: &Http01Ingress, named: Option<&Ingress>) -> Class {
    let name = named.and_then(in_place::class_name).or(spec.ingress_class_name.as_deref());
    class(classes, name)
}

#[derive(Debug, Eq, PartialEq)]
pub(super) struct Class {
    pub(super) name: Option<String>,
    pub(super) controller: Option<String>,
}

/// The named class, or the cluster's default: as the API server does, the newest of those marked so.
pub(super) fn class(classes: &[Arc<IngressClass>], name: Option<&str>) -> Class {
    let found = match name {
        Some(name) => classes.iter().find(|class| class.metadata.name.as_deref() == Some(name)),
        None => classes.iter().filter(|class| is_default(class)).max_by_key(|class| {
            let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, std::cmp::Reverse(class.metadata.name.clone()))
        }),
    };
    Class {
        name: name.map(str::to_owned).or_else(|| found.and_then(|class| class.metadata.name.clone())),
        controller: found
            .and_then(|class| class.spec.as_ref()?.controller.clone())
            .or_else(|| name.and_then(controllers::of_annotation).map(str::to_owned)),
    }
}

fn is_default(class: &IngressClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use k8s_openapi::{
        api::networking::v1::{IngressClassSpec, IngressSpec},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };

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
    fn the_issuer_decides_else_the_controller() {
        let traefik = controllers::of(Some("traefik.io/ingress-controller"));
        let openshift = controllers::of(Some("openshift.io/ingress-to-route"));
        let alb = controllers::of(Some("ingress.k8s.aws/alb"));
        let said = |spec: &Http01Ingress, controller, serving: Option<&str>| {
            way(spec, controller, || serving.map(str::to_owned)).map(|beside| {
                beside.map(|beside| {
                    let service = match beside.responder {
                        beside::Responder::Operator => None,
                        beside::Responder::Pod { service_type, .. } => Some(service_type),
                    };
                    (service, beside.in_place)
                })
            })
        };
        let plain = Http01Ingress::default();
        let pod = Http01Ingress { responder: Some(waxwing_api::Responder::Pod), ..plain.clone() };
        let operator = Http01Ingress { responder: Some(waxwing_api::Responder::Operator), ..plain.clone() };
        let named = Http01Ingress { name: Some("app".to_owned()), ..plain.clone() };
        let permanent = Http01Ingress { route_policy: RoutePolicy::Permanent, ..plain.clone() };
        let app = Some("app".to_owned());
        assert_eq!(said(&plain, traefik, Some("app")), Ok(None));
        assert_eq!(said(&pod, traefik, Some("app")), Ok(Some((Some(ServiceType::ClusterIp), None))));
        assert_eq!(said(&named, traefik, None), Ok(Some((None, app.clone()))));
        assert_eq!(said(&plain, openshift, Some("app")), Ok(Some((Some(ServiceType::ClusterIp), None))));
        assert!(said(&operator, openshift, None).unwrap_err().contains("responder: Pod"));
        assert!(said(&permanent, openshift, None).is_err());
        assert_eq!(said(&permanent, traefik, None), Ok(None));
        assert_eq!(said(&plain, alb, Some("app")), Ok(Some((Some(ServiceType::NodePort), app.clone()))));
        assert_eq!(said(&plain, alb, None), Ok(Some((Some(ServiceType::NodePort), None))));
        assert_eq!(said(&named, alb, None), Ok(Some((Some(ServiceType::NodePort), app))));
    }

    #[test]
    fn an_ingress_that_is_named_has_a_class_of_its_own() {
        let classes = [
            ingress_class("web", "traefik.io/ingress-controller", true),
            ingress_class("alb", "ingress.k8s.aws/alb", false),
        ];
        let spec = Http01Ingress { name: Some("app".to_owned()), ..Http01Ingress::default() };
        let app = |class: Option<&str>, annotation: Option<&str>| Ingress {
            metadata: ObjectMeta {
                annotations: annotation
                    .map(|class| [("kubernetes.io/ingress.class".to_owned(), class.to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(IngressSpec {
                ingress_class_name: class.map(str::to_owned),
                ..IngressSpec::default()
            }),
            ..Ingress::default()
        };
        let name = |named: Option<&Ingress>| class_for(&classes, &spec, named).name.unwrap();
        assert_eq!(name(Some(&app(Some("alb"), None))), "alb");
        assert_eq!(name(Some(&app(None, Some("alb")))), "alb");
        assert_eq!(name(Some(&app(None, None))), "web");
        assert_eq!(name(None), "web");
        // So the pod's Service is what that controller needs.
        let class = class_for(&classes, &spec, Some(&app(Some("alb"), None)));
        let beside = way(&spec, controllers::of(class.controller.as_deref()), || None).unwrap().unwrap();
        assert!(matches!(
            beside.responder,
            beside::Responder::Pod { service_type: ServiceType::NodePort, .. }
        ));
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
        assert_eq!(named(Some("gce")), ("gce".to_owned(), "k8s.io/ingress-gce".to_owned()));
        assert_eq!(class(&[], None), Class { name: None, controller: None });
    }
}
