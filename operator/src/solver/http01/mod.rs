//! HTTP-01 (RFC 8555 §8.3): ways from the edge to who answers.

pub mod beside;
mod bundle;
pub mod controllers;
mod endpoints;
pub mod existing_route;
pub mod gateway;
mod in_place;
pub mod ingress;
pub mod object;
pub mod objects;
pub mod permanent;
pub mod pod;
mod pod_progress;
mod refusal;
pub mod route;
pub mod routes;
mod sweep;

use std::time::Duration;

use waxwing_acme::{Challenge, ChallengeType, Evidence, Presented, SelfCheck};

use super::{Applicant, SolverContext};

/// What is written down of a challenge: the host. The token needs no record, since who answers answers all.
fn record(solver: String, challenge: &Challenge) -> Presented {
    let host = challenge.identifier.to_string();
    Presented { identifier: host.clone(), challenge_type: ChallengeType::Http01, solver, value: host }
}

/// How long after an outage of the API server an edge may take to see what was made meanwhile: most of them watch by
/// client-go, whose pauses between two tries grow to 30 s, and then have a route to learn.
const EDGES_BACK: Duration = Duration::from_secs(45);

/// How it is looked through the edge now: after an outage that gets the time to see again what is made.
fn look(context: &SolverContext, applicant: &Applicant) -> SelfCheck {
    let ago = context.outages.since_last();
    let check =
        context.self_check.for_at_least(ago.map_or(Duration::ZERO, |ago| EDGES_BACK.saturating_sub(ago)));
    if applicant.yields { check.sparing() } else { check }
}

/// Looks through the edge as the CA will.
async fn self_check(context: &SolverContext, applicant: &Applicant, challenge: &Challenge) -> Evidence {
    let host = challenge.identifier.to_string();
    let evidence =
        look(context, applicant).http01(&host, &challenge.token, &challenge.key_authorization).await;
    context.metrics.self_check(evidence.elapsed);
    evidence
}
