//! HTTP-01 (RFC 8555 §8.3): ways from the edge to who answers.

pub mod beside;
pub mod controllers;
mod endpoints;
pub mod existing_route;
pub mod gateway;
mod in_place;
pub mod ingress;
pub mod objects;
pub mod permanent;
pub mod pod;
pub mod route;
pub mod routes;

use waxwing_acme::{Challenge, ChallengeType, Evidence, Presented};

use super::SolverContext;

/// What is written down of a challenge: the host. The token needs no record, since who answers answers all.
fn record(solver: String, challenge: &Challenge) -> Presented {
    let host = challenge.identifier.to_string();
    Presented { identifier: host.clone(), challenge_type: ChallengeType::Http01, solver, value: host }
}

/// Looks through the edge as the CA will.
async fn self_check(context: &SolverContext, challenge: &Challenge) -> Evidence {
    let host = challenge.identifier.to_string();
    let evidence = context.self_check.http01(&host, &challenge.token, &challenge.key_authorization).await;
    context.metrics.self_check(evidence.elapsed);
    evidence
}
