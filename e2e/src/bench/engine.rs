//! The floor: the engine alone, with the answer to challenges in this process, no Kubernetes and no
//! self-check. What Waxwing takes beyond it is Kubernetes, the edge, and Waxwing.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use futures::{StreamExt as _, stream};
use tokio::{net::TcpListener, task::JoinHandle};
use url::Url;
use waxwing_acme::{
    Account, AccountKey, Challenge, ChallengeType, Directory, Entry, Evidence, Http, HttpConfig, Identifier,
    Journal, JournalError, NoProgress, NoSolver, Presented, Request, Solver, SolverError, Solvers,
    TrustRoots, obtain,
};

use super::certificates::Timed;
use crate::{
    Error,
    lab::Lab,
    sandbox::{NODE_ADDRESS, SILENT_ADDRESS},
};

/// Obtains a certificate for each of `names`, `at_once` of them at a time, from the CA at `directory`.
///
/// The answers are served on the node's second address, because an ingress controller has the first.
pub async fn issue(lab: &Lab, directory: &str, names: &[String], at_once: usize) -> Result<Timed, Error> {
    let answers = Answers::default();
    let server = serve(&answers).await?;
    point_names_at(lab, SILENT_ADDRESS).await?;
    let account = register(lab, directory).await?;
    let started = Instant::now();
    let ended: Vec<Result<Duration, String>> = stream::iter(names)
        .map(|name| {
            let (account, answers) = (&account, &answers);
            async move {
                let begun = Instant::now();
                let request = Request::new(vec![Identifier::Dns(name.clone())]);
                let journal = Memory::default();
                match obtain(account, &request, &journal, answers, &NoProgress).await {
                    Ok(_) => Ok(begun.elapsed()),
                    Err(error) => Err(format!("{name}: {error}")),
                }
            }
        })
        .buffer_unordered(at_once.max(1))
        .collect()
        .await;
    let span = started.elapsed();
    point_names_at(lab, NODE_ADDRESS).await?;
    server.abort();
    let mut timed = Timed { span, ..Timed::default() };
    for end in ended {
        match end {
            Ok(time) => timed.times.push(time),
            Err(why) => timed.failures.push(why),
        }
    }
    Ok(timed)
}

async fn register(lab: &Lab, directory: &str) -> Result<Account, Error> {
    let what = || format!("registering an account at {directory}");
    let url: Url = directory.parse().map_err(Error::invalid(what))?;
    let roots = TrustRoots::Custom(lab.authority().pem().as_bytes().to_vec());
    let http = Http::new(HttpConfig { roots, ..HttpConfig::default() }).map_err(Error::invalid(what))?;
    let found = Directory::fetch(&http, &url).await.map_err(Error::invalid(what))?;
    let key = AccountKey::generate().map_err(Error::invalid(what))?;
    Account::register(&found, &http, key, &[], None).await.map_err(Error::invalid(what))
}

async fn point_names_at(lab: &Lab, address: &str) -> Result<(), Error> {
    let address: IpAddr = address.parse().map_err(Error::invalid(|| "reading an address"))?;
    lab.dns().set_default(Some(address)).await
}

async fn serve(answers: &Answers) -> Result<JoinHandle<()>, Error> {
    let listener = TcpListener::bind((SILENT_ADDRESS, 80))
        .await
        .map_err(Error::io(|| format!("listening on {SILENT_ADDRESS}:80")))?;
    let router = Router::new()
        .route("/.well-known/acme-challenge/{token}", get(answer))
        .with_state(Arc::clone(&answers.by_token));
    Ok(tokio::spawn(async move {
        // It ends with the measurement, which sees failed validations if it ends earlier.
        let _ = axum::serve(listener, router).await;
    }))
}

type ByToken = Arc<Mutex<HashMap<String, String>>>;

async fn answer(State(answers): State<ByToken>, Path(token): Path<String>) -> Result<String, StatusCode> {
    lock(&answers).get(&token).cloned().ok_or(StatusCode::NOT_FOUND)
}

/// Key authorizations by token: the solver that needs no edge.
#[derive(Clone, Debug, Default)]
struct Answers {
    by_token: ByToken,
}

impl Solvers for Answers {
    fn choose(&self, _: &Identifier, _: bool, _: &[ChallengeType]) -> Result<Arc<dyn Solver>, NoSolver> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Solver for Answers {
    fn id(&self) -> String {
        "in-process".to_owned()
    }

    fn challenge_type(&self) -> ChallengeType {
        ChallengeType::Http01
    }

    fn record(&self, challenge: &Challenge) -> Presented {
        let identifier = challenge.identifier.to_string();
        Presented {
            value: identifier.clone(),
            identifier,
            challenge_type: ChallengeType::Http01,
            solver: self.id(),
        }
    }

    async fn present(&self, challenge: &Challenge) -> Result<(), SolverError> {
        lock(&self.by_token).insert(challenge.token.clone(), challenge.key_authorization.clone());
        Ok(())
    }

    async fn self_check(&self, challenge: &Challenge) -> Evidence {
        Evidence::passed(challenge.identifier.to_string())
    }

    async fn clean_up(&self, _: &Presented) -> Result<(), SolverError> {
        Ok(())
    }
}

/// A journal that forgets with the process.
#[derive(Debug, Default)]
struct Memory(Mutex<Option<Entry>>);

#[async_trait]
impl Journal for Memory {
    async fn load(&self) -> Result<Option<Entry>, JournalError> {
        Ok(lock(&self.0).clone())
    }

    async fn save(&self, entry: &Entry) -> Result<(), JournalError> {
        *lock(&self.0) = Some(entry.clone());
        Ok(())
    }

    async fn clear(&self) -> Result<(), JournalError> {
        *lock(&self.0) = None;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
