//! `http01.existingRoute`: the edge already sends challenges to the responder, so there is nothing to make.

use std::sync::Arc;

use async_trait::async_trait;
use waxwing_acme::{Challenge, ChallengeType, Evidence, Presented, Solver, SolverError};

use crate::solver::{Applicant, SolverContext};

/// Solves by a route that is there already.
#[derive(Clone, Debug)]
pub struct ExistingRoute {
    applicant: Arc<Applicant>,
    context: Arc<SolverContext>,
}

impl ExistingRoute {
    /// The solver.
    pub fn new(context: &Arc<SolverContext>, applicant: &Arc<Applicant>) -> Self {
        Self { applicant: Arc::clone(applicant), context: Arc::clone(context) }
    }
}

#[async_trait]
impl Solver for ExistingRoute {
    fn id(&self) -> String {
        "http-01/existing-route".to_owned()
    }

    fn challenge_type(&self) -> ChallengeType {
        ChallengeType::Http01
    }

    fn record(&self, challenge: &Challenge) -> Presented {
        super::record(self.id(), challenge)
    }

    async fn present(&self, _: &Challenge) -> Result<(), SolverError> {
        // The order Secret, saved before, is all that the responder needs.
        Ok(())
    }

    async fn self_check(&self, challenge: &Challenge) -> Evidence {
        super::self_check(&self.context, &self.applicant, challenge).await
    }

    async fn clean_up(&self, _: &Presented) -> Result<(), SolverError> {
        Ok(())
    }
}
