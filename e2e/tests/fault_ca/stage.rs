//! What the tests of the fault CA stand on: the CA, the engine's account at it, and an edge that answers challenges.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, http::StatusCode};
use e2e::{
    fault_ca::{Behaviour, FaultCa},
    paths,
    pki::Authority,
};
use tokio::{net::TcpListener, task::JoinSet};
use waxwing_acme::{
    Account, AccountKey, Challenge, ChallengeType, Directory, Evidence, FileJournal, Http, HttpConfig,
    Identifier, Issued, NoProgress, NoSolver, ObtainError, Presented, Request, Solver, SolverError, Solvers,
    Timing, TrustRoots, obtain,
};

/// A CA, an account of the engine's at it, and the edge where it looks for answers.
pub struct Stage {
    pub ca: FaultCa,
    pub authority: Authority,
    pub account: Account,
    pub edge: Edge,
}

/// A web server that knows the answers to challenges, by token. It answers for every name.
#[derive(Clone)]
pub struct Edge {
    pub address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, String>>>,
    _serving: Arc<JoinSet<()>>,
}

/// Waits that suit a CA on loopback; none in these tests takes as long as the patience.
const TIMING: Timing = Timing {
    first_poll: Duration::from_millis(1),
    longest_poll: Duration::from_millis(5),
    patience: Duration::from_secs(20),
};

impl Stage {
    pub async fn new() -> Self {
        Self::with(Behaviour::default()).await
    }

    pub async fn with(behaviour: Behaviour) -> Self {
        let edge = Edge::start().await;
        let authority = Authority::new("Test").unwrap();
        let behaviour = Behaviour { http01_at: Some(edge.address), ..behaviour };
        let ca = FaultCa::start(&authority, behaviour).unwrap();
        let account = register(&authority, &ca, AccountKey::generate().unwrap()).await;
        Self { ca, authority, account, edge }
    }

    pub async fn obtain(&self, request: &Request, journal: &FileJournal) -> Result<Issued, ObtainError> {
        obtain(&self.account, request, journal, &self.edge, &NoProgress).await
    }

    /// The same, by a client that gives up waiting soon.
    pub async fn try_soon(&self, request: &Request, journal: &FileJournal) -> Result<Issued, ObtainError> {
        let timing = Timing { patience: Duration::from_millis(100), ..TIMING };
        obtain(&self.account.with_timing(timing), request, journal, &self.edge, &NoProgress).await
    }

    /// The orders that the CA knows: the status of each.
    pub fn orders(&self) -> Vec<&'static str> {
        self.ca.orders().iter().map(|order| order.status).collect()
    }

    /// Nothing that a CA should never see was seen.
    pub fn assert_clean(&self) {
        assert_eq!(self.ca.violations(), Vec::<String>::new());
    }
}

pub async fn register(authority: &Authority, ca: &FaultCa, key: AccountKey) -> Account {
    let roots = TrustRoots::Custom(authority.pem().as_bytes().to_vec());
    let http = Http::new(HttpConfig { roots, ..HttpConfig::default() }).unwrap();
    let directory = Directory::fetch(&http, &ca.directory().parse().unwrap()).await.unwrap();
    Account::register(&directory, &http, key, &[], None).await.unwrap().with_timing(TIMING)
}

pub fn request(names: &[&str]) -> Request {
    Request::new(names.iter().map(|name| name.parse().unwrap()).collect())
}

/// An empty journal in a file of its own.
pub fn journal(name: &str) -> FileJournal {
    let path = paths::volatile().join(format!("{name}.json"));
    let _ = std::fs::remove_file(&path);
    FileJournal::new(path)
}

impl Edge {
    async fn start() -> Self {
        let answers = Arc::<Mutex<HashMap<String, String>>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::clone(&answers);
        let answer = move |uri: axum::http::Uri| {
            let token = uri.path().strip_prefix("/.well-known/acme-challenge/").map(str::to_owned);
            let answer = token.and_then(|token| served.lock().unwrap().get(&token).cloned());
            async move { answer.map_or((StatusCode::NOT_FOUND, String::new()), |answer| (StatusCode::OK, answer)) }
        };
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
        Self { address, answers, _serving: Arc::new(serving) }
    }

    /// Answers a challenge from now on.
    pub fn answer(&self, token: &str, key_authorization: &str) {
        self.answers.lock().unwrap().insert(token.to_owned(), key_authorization.to_owned());
    }
}

impl Solvers for Edge {
    fn choose(
        &self,
        _: &Identifier,
        _: bool,
        offered: &[ChallengeType],
    ) -> Result<Arc<dyn Solver>, NoSolver> {
        assert!(offered.contains(&ChallengeType::Http01), "{offered:?}");
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Solver for Edge {
    fn id(&self) -> String {
        "edge".to_owned()
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
        self.answer(&challenge.token, &challenge.key_authorization);
        Ok(())
    }

    async fn self_check(&self, challenge: &Challenge) -> Evidence {
        Evidence::passed(challenge.identifier.to_string())
    }

    async fn clean_up(&self, _: &Presented) -> Result<(), SolverError> {
        Ok(())
    }
}
