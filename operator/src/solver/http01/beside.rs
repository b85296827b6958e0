//! What answers beside the Certificate: a pod, or Waxwing itself by a Service in that namespace; and the way there, by
//! an Ingress of its own or a path in somebody's.

use std::time::Duration;

use k8s_openapi::api::networking::v1::Ingress;
use serde_json::json;
use waxwing_acme::SolverError;
use waxwing_api::{PodTemplate, ServiceType};

use super::{
    in_place::{Edit, EditError},
    object::{Kind, Object, short_hash},
    pod::{SERVICE_PORT, SolverPod},
    refusal::refused,
    route::Route,
};
use crate::solver::{Applicant, SolverContext};

/// How long a pod may take to get ready. The engine gives a solver a minute.
const POD_PATIENCE: Duration = Duration::from_secs(50);

/// Values of the chart that give rights.
const IN_PLACE: &str = "http01.rights.inPlace";
const POD: &str = "http01.rights.pod";

/// What an issuer says of this way.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Who answers.
    pub responder: Responder,
    /// An Ingress in the Certificate's namespace that takes the path; none: an Ingress of its own.
    pub in_place: Option<String>,
}

/// Who answers beside the Certificate.
#[derive(Clone, Debug)]
pub enum Responder {
    /// Waxwing itself, by a Service that leads to it.
    Operator,
    /// A pod.
    Pod {
        /// What the issuer says of it.
        template: Option<Box<PodTemplate>>,
        /// The type of its Service.
        service_type: ServiceType,
    },
}

impl Beside {
    /// Sees to it that everything that the hosts need is there. Answers with the pod, where there is one.
    pub async fn ensure(
        &self,
        context: &SolverContext,
        applicant: &Applicant,
        routes: &[Route],
    ) -> Result<Option<Object>, SolverError> {
        let (service, pod) = self.responder(context, applicant).await?;
        if let Some(ingress) = &self.in_place {
            let Some(route) = routes.first() else { return Ok(pod) };
            let (path, path_type) = route.path();
            let edit = Edit {
                namespace: &applicant.namespace,
                ingress,
                hosts: std::slice::from_ref(&route.host),
                path: (&path, path_type),
                service: (&service, SERVICE_PORT),
            };
            context
                .objects
                .add_paths(&applicant.uid, &edit)
                .await
                .map_err(|error| edit_error(error, ingress))?;
            return Ok(pod);
        }
        let ingresses: Vec<Object> = routes.iter().map(|route| ingress(applicant, route, &service)).collect();
        context
            .objects
            .ensure(&applicant.uid, &ingresses)
            .await
            .map_err(|error| refused("couldn't route the challenge", POD, error))?;
        Ok(pod)
    }

    /// Waits until a pod answers.
    pub async fn ready(&self, context: &SolverContext, pod: &Object) -> Result<(), SolverError> {
        context.objects.pod_ready(pod, POD_PATIENCE).await.map_err(|trouble| {
            SolverError::new(format!("the solver pod {} isn't ready: {}", pod.name(), trouble.cause))
                .advising(trouble.fix)
        })
    }

    /// A word for it, by which a later process knows it again.
    pub fn word(&self) -> &'static str {
        match (&self.responder, &self.in_place) {
            (Responder::Operator, _) => "in-place",
            (Responder::Pod { .. }, None) => "pod",
            (Responder::Pod { .. }, Some(_)) => "pod-in-place",
        }
    }

    async fn responder(
        &self,
        context: &SolverContext,
        applicant: &Applicant,
    ) -> Result<(String, Option<Object>), SolverError> {
        match &self.responder {
            Responder::Operator => {
                let name = applicant.object_name();
                let copied = context
                    .objects
                    .ensure_copied_endpoints(&applicant.uid, &applicant.namespace, &name)
                    .await;
                copied.map_err(|error| {
                    refused("couldn't make a Service that leads to Waxwing", IN_PLACE, error)
                })?;
                Ok((name, None))
            }
            Responder::Pod { template, service_type } => {
                let made =
                    SolverPod::new(applicant, &context.solver_image, template.as_deref(), *service_type);
                let objects = [made.pod.clone(), made.service];
                context
                    .objects
                    .ensure(&applicant.uid, &objects)
                    .await
                    .map_err(|error| refused("couldn't make the solver pod", POD, error))?;
                Ok((made.name, Some(made.pod)))
            }
        }
    }
}

/// The Ingress of a route, in the Certificate's namespace.
fn ingress(applicant: &Applicant, route: &Route, service: &str) -> Object {
    let Ingress { metadata, spec, .. } =
        route.ingress(&applicant.namespace, &(service.to_owned(), SERVICE_PORT));
    // Certificates of one namespace may have names in common.
    let name = format!("{}-{}", applicant.object_name(), short_hash(&route.name()));
    let body = json!({"metadata": {"annotations": metadata.annotations}, "spec": spec});
    Object::new(Kind::Ingress, &applicant.namespace, &name, &applicant.uid, body)
}

fn edit_error(error: EditError, ingress: &str) -> SolverError {
    match error {
        EditError::Call(error) => refused(
            &format!("couldn't add the challenge's path to Ingress {ingress}"),
            IN_PLACE,
            error.into(),
        ),
        EditError::Unfit(why) => {
            SolverError::new(why).advising("Correct that, or let Waxwing make an Ingress of its own.")
        }
    }
}
