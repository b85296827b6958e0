//! Answers challenges: which solver takes a name, the HTTP-01 responder, and the routes to it.

pub mod choose;
pub mod http01;
pub mod open_orders;
pub mod responder;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::networking::v1::IngressClass;
use waxwing_acme::{ChallengeType, Identifier, NoSolver, SelfCheck, Solver, Solvers};
use waxwing_api::AcmeSolver;

use self::http01::{
    existing_route::ExistingRoute,
    ingress::{IngressRoute, Redirecting},
    routes::Routes,
};
use crate::runtime::{metrics::Metrics, watch::Watch};

/// What solvers stand on. One for the process.
#[derive(Debug)]
pub struct SolverContext {
    /// The cluster's ingress classes.
    pub ingress_classes: Watch<IngressClass>,
    /// Where self-checks are counted.
    pub metrics: Arc<Metrics>,
    /// Classes whose edge redirects HTTP to HTTPS.
    pub redirecting: Redirecting,
    /// The routes to the responder.
    pub routes: Arc<Routes>,
    /// Looks at a challenge's answer as a CA would.
    pub self_check: SelfCheck,
}

/// The solvers of one issuer for one Certificate, whose labels selectors may ask for.
pub fn solvers_for(
    context: &Arc<SolverContext>,
    solvers: &[AcmeSolver],
    certificate_labels: &BTreeMap<String, String>,
) -> IssuerSolvers {
    IssuerSolvers {
        context: Arc::clone(context),
        labels: certificate_labels.clone(),
        solvers: solvers.to_vec(),
    }
}

/// Chooses among the solvers of one issuer.
#[derive(Clone, Debug)]
pub struct IssuerSolvers {
    context: Arc<SolverContext>,
    labels: BTreeMap<String, String>,
    solvers: Vec<AcmeSolver>,
}

impl Solvers for IssuerSolvers {
    fn choose(
        &self,
        identifier: &Identifier,
        wildcard: bool,
        offered: &[ChallengeType],
    ) -> Result<Arc<dyn Solver>, NoSolver> {
        let chosen = choose::choose(&self.solvers, &self.labels, identifier, wildcard, offered)?;
        let http01 = chosen.http01.as_ref();
        if http01.is_some_and(|http01| http01.existing_route.is_some()) {
            return Ok(Arc::new(ExistingRoute::new(&self.context)));
        }
        match http01.and_then(|http01| http01.ingress.as_ref()) {
            Some(ingress) => Ok(Arc::new(IngressRoute::new(&self.context, ingress, identifier)?)),
            None => Err(NoSolver::new(format!(
                "the issuer's solver for {identifier} says no way to solve: give it http01.ingress or \
                 http01.existingRoute"
            ))),
        }
    }
}

/// RFC 4648 §5, the alphabet of tokens and thumbprints.
fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}
