//! Answers challenges: which solver takes a name, the HTTP-01 responder, and the routes to it.

pub mod choose;
pub mod http01;
pub mod open_orders;
pub mod responder;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use waxwing_acme::{ChallengeType, Identifier, NoSolver, SelfCheck, Solver, Solvers};
use waxwing_api::{AcmeSolver, Http01};

use self::http01::{
    existing_route::ExistingRoute,
    gateway::GatewayRoute,
    ingress::{IngressRoute, Redirecting},
    objects::{Attempt, Objects},
    routes::Routes,
};
use crate::runtime::{client::Outages, metrics::Metrics, watch::Watch};

/// What solvers stand on. One for the process.
#[derive(Debug)]
pub struct SolverContext {
    /// The cluster's ingress classes.
    pub ingress_classes: Watch<IngressClass>,
    /// The cluster's Ingresses.
    pub ingresses: Watch<Ingress>,
    /// Where self-checks are counted.
    pub metrics: Arc<Metrics>,
    /// What serves issuances outside of Waxwing's namespace.
    pub objects: Arc<Objects>,
    /// When the API server was last away.
    pub outages: Outages,
    /// Waxwing's own namespace.
    pub own_namespace: String,
    /// Classes whose edge redirects HTTP to HTTPS.
    pub redirecting: Redirecting,
    /// The routes to the responder.
    pub routes: Arc<Routes>,
    /// Looks at a challenge's answer as a CA would.
    pub self_check: SelfCheck,
    /// The responder's Service in Waxwing's namespace, and its port.
    pub service: (String, u16),
    /// The image of solver pods.
    pub solver_image: String,
}

/// For whom challenges are solved: what solvers know of a Certificate.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// The Certificate's labels, which selectors may ask for.
    pub labels: BTreeMap<String, String>,
    /// Its DNS names, without wildcards.
    pub names: Vec<String>,
    /// Its namespace.
    pub namespace: String,
    /// The thumbprint of the issuer's account (RFC 7638).
    pub thumbprint: String,
    /// Its UID.
    pub uid: String,
    /// Whether others come first.
    pub yields: bool,
}

impl Applicant {
    /// The name that what serves it has, or begins with.
    fn object_name(&self) -> String {
        http01::object::object_name(&self.uid)
    }

    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            labels: BTreeMap::new(),
            names: vec!["shop.example.com".to_owned(), "www.example.com".to_owned()],
            namespace: "web".to_owned(),
            thumbprint: "thumb_print-1".to_owned(),
            uid: "0a1b2c3d-0000-4000-8000-000000000001".to_owned(),
            yields: false,
        }
    }
}

/// The solvers of one issuer for one attempt at a Certificate.
pub fn solvers_for(
    context: &Arc<SolverContext>,
    solvers: &[AcmeSolver],
    applicant: Applicant,
) -> IssuerSolvers {
    IssuerSolvers {
        _attempt: context.objects.attempt(&applicant.uid),
        context: Arc::clone(context),
        applicant: Arc::new(applicant),
        solvers: solvers.to_vec(),
    }
}

/// Chooses among the solvers of one issuer. What they make stays at least until this is dropped.
#[derive(Debug)]
pub struct IssuerSolvers {
    _attempt: Attempt,
    context: Arc<SolverContext>,
    applicant: Arc<Applicant>,
    solvers: Vec<AcmeSolver>,
}

impl Solvers for IssuerSolvers {
    fn choose(
        &self,
        identifier: &Identifier,
        wildcard: bool,
        offered: &[ChallengeType],
    ) -> Result<Arc<dyn Solver>, NoSolver> {
        let (context, applicant) = (&self.context, &self.applicant);
        let chosen = choose::choose(&self.solvers, &applicant.labels, identifier, wildcard, offered)?;
        match chosen.http01.as_ref() {
            Some(Http01 { existing_route: Some(_), .. }) => {
                Ok(Arc::new(ExistingRoute::new(context, applicant)))
            }
            Some(Http01 { ingress: Some(ingress), .. }) => {
                Ok(Arc::new(IngressRoute::new(context, applicant, ingress, identifier)?))
            }
            Some(Http01 { gateway_http_route: Some(gateway), .. }) => {
                Ok(Arc::new(GatewayRoute::new(context, applicant, gateway, identifier)?))
            }
            _ => Err(NoSolver::new(format!(
                "the issuer's solver for {identifier} says no way to solve: give it http01.ingress, \
                 http01.gatewayHTTPRoute or http01.existingRoute"
            ))),
        }
    }
}

/// RFC 4648 §5, the alphabet of tokens and thumbprints.
fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}
