//! Authorizations (RFC 8555 §7.5): from pending to valid.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, join_all, select};
use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::http::Answer;
use crate::poll::Poll;
use crate::session::LastAnswer;
use crate::signed::{Payload, read, unusable};
use crate::{
    Account, Challenge, ChallengeType, Error, Evidence, Identifier, ObtainErrorKind, Presented, Problem,
    Progress, RequestError, Solver, Solvers, Step,
};

/// An authorization that has yet to become valid, with the solver that is to answer it.
pub(crate) struct Pending {
    url: String,
    challenge_url: String,
    /// Whether the CA has been told already, by an earlier process.
    told: bool,
    pub(crate) challenge: Challenge,
    pub(crate) solver: Arc<dyn Solver>,
}

/// What came of the pending authorizations of an order.
pub(crate) struct Outcome {
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) result: Result<(), ObtainErrorKind>,
}

/// As many authorizations of one order are worked on at once.
const AT_ONCE: usize = 100;
/// A solver's call to its API may take this long.
pub(crate) const SOLVER_PATIENCE: Duration = Duration::from_mins(1);

/// So often a CA that looks in vain and leaves the challenge pending is told to look.
const LOOKS: u32 = 5;

/// A self-check bounds itself; one that doesn't ends here, and the CA is asked.
const SELF_CHECK_PATIENCE: Duration = Duration::from_mins(2);

#[derive(Debug, Deserialize)]
struct Authorization {
    identifier: IdentifierObject,
    status: Status,
    #[serde(default)]
    challenges: Vec<ChallengeObject>,
    #[serde(default)]
    wildcard: bool,
}

#[derive(Debug, Deserialize)]
struct IdentifierObject {
    value: String,
}

#[derive(Debug, Deserialize)]
struct ChallengeObject {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    status: Status,
    #[serde(default)]
    token: String,
    #[serde(default)]
    error: Option<Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pending,
    Processing,
    Valid,
    #[serde(other)]
    Failed,
}

impl Authorization {
    fn identifier(&self, url: &str) -> Result<Identifier, Error> {
        self.identifier.value.parse().map_err(|error| unusable(url, format!("{error}")))
    }

    /// Whether the CA has tried this challenge, failed, and left it pending.
    fn waits_after_failure(&self, challenge_url: &str) -> bool {
        self.challenges.iter().any(|challenge| {
            challenge.url == challenge_url && challenge.status == Status::Pending && challenge.error.is_some()
        })
    }

    /// Why the CA made it invalid: the error of the challenge that failed.
    fn failure(self, url: &str) -> Result<ObtainErrorKind, Error> {
        let base = self.identifier(url)?;
        let identifier = if self.wildcard { Identifier::Dns(format!("*.{base}")) } else { base };
        let failed = self.challenges.into_iter().find(|challenge| challenge.error.is_some());
        let challenge_type = failed.as_ref().and_then(|challenge| ChallengeType::from_name(&challenge.kind));
        Ok(ObtainErrorKind::Validation {
            identifier,
            challenge_type,
            problem: failed.and_then(|failed| failed.error),
        })
    }
}

/// Fetches an order's authorizations and chooses a solver for each that is pending. Fails on one that can't become
/// valid any more.
pub(crate) async fn pending(
    account: &Account,
    urls: Vec<String>,
    solvers: &dyn Solvers,
) -> Result<Vec<Pending>, ObtainErrorKind> {
    let fetched: Vec<(String, Authorization)> = stream::iter(urls)
        .map(|url| async move {
            let (authorization, _) = account.signed().get(&url).await?;
            Ok((url, authorization))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
        .map_err(fetching)?;
    let mut pending = Vec::new();
    for (url, authorization) in fetched {
        match authorization.status {
            Status::Valid => {}
            Status::Pending | Status::Processing => {
                pending.push(choose(account, url, &authorization, solvers)?);
            }
            Status::Failed => return Err(authorization.failure(&url).map_err(fetching)?),
        }
    }
    Ok(pending)
}

fn choose(
    account: &Account,
    url: String,
    authorization: &Authorization,
    solvers: &dyn Solvers,
) -> Result<Pending, ObtainErrorKind> {
    let identifier = authorization.identifier(&url).map_err(fetching)?;
    let offered: Vec<ChallengeType> = authorization
        .challenges
        .iter()
        .filter_map(|challenge| ChallengeType::from_name(&challenge.kind))
        .collect();
    let no_solver = |source| ObtainErrorKind::NoSolver { identifier: identifier.clone(), source };
    let solver = solvers.choose(&identifier, authorization.wildcard, &offered).map_err(no_solver)?;
    let challenge_type = solver.challenge_type();
    let Some(offer) =
        authorization.challenges.iter().find(|challenge| challenge.kind == challenge_type.name())
    else {
        let offers =
            authorization.challenges.iter().map(|challenge| challenge.kind.as_str()).collect::<Vec<_>>();
        let offers = if offers.is_empty() { "nothing".to_owned() } else { offers.join(", ") };
        return Err(no_solver(crate::NoSolver::new(format!(
            "the CA offers {offers}, and not {challenge_type}: choose a solver for what it offers"
        ))));
    };
    Ok(Pending {
        challenge_url: offer.url.clone(),
        told: offer.status != Status::Pending,
        challenge: challenge(account, identifier, authorization.wildcard, challenge_type, &offer.token),
        solver,
        url,
    })
}

/// A challenge with its key authorization (RFC 8555 §8.1).
pub(crate) fn challenge(
    account: &Account,
    identifier: Identifier,
    wildcard: bool,
    challenge_type: ChallengeType,
    token: &str,
) -> Challenge {
    let thumbprint = account.thumbprint().to_owned();
    Challenge {
        identifier,
        wildcard,
        challenge_type,
        token: token.to_owned(),
        key_authorization: format!("{token}.{thumbprint}"),
        thumbprint,
    }
}

/// Brings all pending authorizations to valid, each at its own pace: presents, looks from here, tells the CA, waits.
///
/// After the first failure the CA is told of no further one, since the order is lost; those that it has been told of
/// are waited for, so that nothing is taken away while the CA looks at it.
pub(crate) async fn validate(account: &Account, pending: &[Pending], progress: &dyn Progress) -> Outcome {
    let (failed, _) = watch::channel(false);
    let mut each = Vec::with_capacity(pending.len());
    for one in pending {
        each.push(one.run(account, progress, &failed));
    }
    let done: Vec<_> = stream::iter(each).buffer_unordered(AT_ONCE).collect().await;
    let (evidence, results): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    let mut errors: Vec<ObtainErrorKind> = results.into_iter().filter_map(Result::err).collect();
    // The CA's word on an identifier says more than a wait that was given up.
    let telling =
        errors.iter().position(|error| matches!(error, ObtainErrorKind::Validation { .. })).unwrap_or(0);
    let result = if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(telling)) };
    Outcome { evidence: evidence.into_iter().flatten().collect(), result }
}

impl Pending {
    /// What the solver presents for it.
    pub(crate) fn record(&self) -> Presented {
        self.solver.record(&self.challenge)
    }

    async fn run(
        &self,
        account: &Account,
        progress: &dyn Progress,
        failed: &watch::Sender<bool>,
    ) -> (Option<Evidence>, Result<(), ObtainErrorKind>) {
        let mut evidence = None;
        let result = self.validate(account, progress, failed, &mut evidence).await;
        if result.is_err() {
            failed.send_replace(true);
        }
        (evidence, result)
    }

    async fn validate(
        &self,
        account: &Account,
        progress: &dyn Progress,
        failed: &watch::Sender<bool>,
        evidence: &mut Option<Evidence>,
    ) -> Result<(), ObtainErrorKind> {
        if !self.told && !*failed.borrow() {
            self.present().await?;
            let mut stop = failed.subscribe();
            let stopped = std::pin::pin!(stop.wait_for(|failed| *failed));
            let check = self.solver.self_check(&self.challenge);
            let check = std::pin::pin!(tokio::time::timeout(SELF_CHECK_PATIENCE, check));
            if let Either::Left((Ok(seen), _)) = select(check, stopped).await {
                let identifier = self.challenge.identifier.clone();
                progress.step(&Step::SelfCheck { identifier, evidence: seen.clone() });
                *evidence = Some(seen);
            }
        }
        if *failed.borrow() && !self.told {
            return Ok(());
        }
        self.wait(account, progress).await
    }

    async fn present(&self) -> Result<(), ObtainErrorKind> {
        let presented = tokio::time::timeout(SOLVER_PATIENCE, self.solver.present(&self.challenge)).await;
        let slow = || crate::SolverError::new(format!("no answer within {} s", SOLVER_PATIENCE.as_secs()));
        presented.unwrap_or_else(|_| Err(slow())).map_err(|source| ObtainErrorKind::Solver {
            identifier: self.challenge.identifier.clone(),
            challenge_type: self.challenge.challenge_type,
            source,
        })
    }

    /// Tells the CA, and waits for its verdict.
    async fn wait(&self, account: &Account, progress: &dyn Progress) -> Result<(), ObtainErrorKind> {
        let mut poll = Poll::new(account.timing());
        let mut retry_after = None;
        let mut looks = 1;
        if !self.told {
            progress.step(&Step::Validating);
            retry_after = self.tell(account).await?;
        }
        loop {
            let identifier = &self.challenge.identifier;
            poll.wait(retry_after, || format!("the validation of {identifier}")).await?;
            let (authorization, answer) = loop {
                let polled = self.read(account).await;
                if let Some(read) = poll.outcome(polled).await.map_err(fetching)? {
                    break read;
                }
            };
            match authorization.status {
                Status::Valid => return Ok(()),
                Status::Failed => return Err(authorization.failure(&self.url).map_err(fetching)?),
                // It has looked in vain, and waits to be told again (RFC 8555 §8.2), as step-ca does.
                Status::Pending if authorization.waits_after_failure(&self.challenge_url) => {
                    if looks == LOOKS {
                        return Err(authorization.failure(&self.url).map_err(fetching)?);
                    }
                    // By default 1 s, 2 s, 4 s, 8 s: an edge that has just lost a backend recovers in seconds.
                    tokio::time::sleep(account.timing().longest_poll * (1 << (looks - 1)) / 3).await;
                    looks += 1;
                    retry_after = self.tell(account).await?;
                }
                Status::Pending | Status::Processing => retry_after = LastAnswer::of(&answer).retry_after,
            }
        }
    }

    /// Tells the CA that the challenge can be validated; its Retry-After. Some, such as step-ca, look before they
    /// answer: a name that doesn't answer them must not keep others waiting.
    async fn tell(&self, account: &Account) -> Result<Option<Timestamp>, ObtainErrorKind> {
        match account.signed().lengthy().post(&self.challenge_url, Payload::Json(&json!({}))).await {
            Ok(answer) => Ok(LastAnswer::of(&answer).retry_after),
            // It may have been told already, by a request whose answer was lost: the authorization says so.
            Err(error) if is_told_already(&error) => Ok(error.request().and_then(RequestError::retry_after)),
            Err(source) => Err(ObtainErrorKind::Ca { doing: "telling the CA to validate", source }),
        }
    }

    async fn read(&self, account: &Account) -> Result<(Authorization, Answer), Error> {
        let answer = account.signed().post(&self.url, Payload::Get).await?;
        Ok((read(&self.url, &answer)?, answer))
    }
}

/// Tells the CA that pending authorizations won't be completed (RFC 8555 §7.5.2). Valid ones stay: they are of use to
/// other orders.
pub(crate) async fn deactivate(account: &Account, urls: Vec<String>) -> Result<(), Error> {
    for url in urls {
        let (authorization, _): (Authorization, _) = account.signed().get(&url).await?;
        if authorization.status == Status::Pending {
            account.signed().post(&url, Payload::Json(&json!({"status": "deactivated"}))).await?;
        }
    }
    Ok(())
}

/// Takes away what was presented; what can't be taken away is handed back, and logged.
pub(crate) async fn clean_up(presented: &[Presented], solvers: &dyn Solvers) -> Vec<Presented> {
    let mut each = Vec::with_capacity(presented.len());
    for one in presented {
        each.push(clean_up_one(one, solvers));
    }
    join_all(each).await.into_iter().flatten().collect()
}

async fn clean_up_one(presented: &Presented, solvers: &dyn Solvers) -> Option<Presented> {
    // A solver that is no longer configured can't clean up; whoever removed it knows.
    let solver = solvers.by_id(presented)?;
    let reason = match tokio::time::timeout(SOLVER_PATIENCE, solver.clean_up(presented)).await {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", SOLVER_PATIENCE.as_secs()),
    };
    let Presented { identifier, solver, .. } = presented;
    tracing::warn!(identifier, solver, reason, "could not clean up a challenge");
    Some(presented.clone())
}

fn is_told_already(error: &Error) -> bool {
    error.request().is_some_and(|request| matches!(request.acme_type(), "malformed" | "unauthorized"))
}

fn fetching(source: Error) -> ObtainErrorKind {
    ObtainErrorKind::Ca { doing: "reading an authorization", source }
}
