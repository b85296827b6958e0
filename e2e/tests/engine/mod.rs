//! What the engine's tests stand on: an edge on port 80, accounts, journals.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    http::{HeaderMap, StatusCode, Uri, header::HOST},
};
use e2e::{
    lab::{Dns, Lab},
    paths,
    sandbox::NODE_ADDRESS,
};
use tokio::net::TcpListener;
use waxwing_acme::{
    Account, AccountKey, Challenge, ChallengeType, Directory, Evidence, FileJournal, Http, HttpConfig,
    Identifier, Issued, NoProgress, NoSolver, ObtainError, Presented, Request, SelfCheck, SelfCheckConfig,
    Solver, SolverError, Solvers, TrustRoots, obtain,
};

/// Port 80 of the node, where every name leads: it answers for the hosts that are in it.
#[derive(Clone)]
pub struct Edge {
    thumbprints: Arc<Mutex<HashMap<String, String>>>,
    check: SelfCheck,
}

impl Edge {
    /// The one edge of this process, on a thread of its own, so that it outlives each test's runtime.
    pub fn shared() -> &'static Self {
        static EDGE: OnceLock<Edge> = OnceLock::new();
        EDGE.get_or_init(|| {
            let thumbprints = Arc::<Mutex<HashMap<String, String>>>::default();
            let served = Arc::clone(&thumbprints);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async move {
                    let listener = TcpListener::bind((NODE_ADDRESS, 80)).await.unwrap();
                    let answer = move |headers: HeaderMap, uri: Uri| {
                        // Pebble says the port, Boulder doesn't.
                        let host = headers.get(HOST).unwrap().to_str().unwrap();
                        let host = host.trim_end_matches(":80").to_owned();
                        let token =
                            uri.path().strip_prefix("/.well-known/acme-challenge/").map(str::to_owned);
                        let thumbprint = served.lock().unwrap().get(&host).cloned();
                        async move {
                            match (token, thumbprint) {
                                (Some(token), Some(thumbprint)) => {
                                    (StatusCode::OK, format!("{token}.{thumbprint}"))
                                }
                                _ => (StatusCode::NOT_FOUND, String::new()),
                            }
                        }
                    };
                    axum::serve(listener, Router::new().fallback(answer)).await.unwrap();
                });
            });
            let check = SelfCheck::new(SelfCheckConfig {
                nameservers: vec![Dns::ADDRESS.parse().unwrap()],
                deadline: Duration::from_secs(3),
                ..SelfCheckConfig::default()
            });
            Self { thumbprints, check }
        })
    }
}

impl Solvers for Edge {
    fn choose(
        &self,
        _: &Identifier,
        _: bool,
        offered: &[ChallengeType],
    ) -> Result<Arc<dyn Solver>, NoSolver> {
        if offered.contains(&ChallengeType::Http01) {
            Ok(Arc::new(self.clone()))
        } else {
            Err(NoSolver::new("only HTTP-01 here"))
        }
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
        let host = challenge.identifier.to_string();
        let challenge_type = ChallengeType::Http01;
        Presented { identifier: host.clone(), challenge_type, solver: self.id(), value: host }
    }

    async fn present(&self, challenge: &Challenge) -> Result<(), SolverError> {
        let host = challenge.identifier.to_string();
        self.thumbprints.lock().unwrap().insert(host, challenge.thumbprint.clone());
        Ok(())
    }

    async fn self_check(&self, challenge: &Challenge) -> Evidence {
        let host = challenge.identifier.to_string();
        self.check.http01(&host, &challenge.token, &challenge.key_authorization).await
    }

    async fn clean_up(&self, presented: &Presented) -> Result<(), SolverError> {
        self.thumbprints.lock().unwrap().remove(&presented.value);
        Ok(())
    }
}

pub async fn directory(lab: &Lab, url: &str) -> (Http, Directory) {
    let roots = TrustRoots::Custom(lab.authority().pem().as_bytes().to_vec());
    let config = HttpConfig { roots, request_timeout: Duration::from_secs(5), ..HttpConfig::default() };
    let http = Http::new(config).unwrap();
    let directory = Directory::fetch(&http, &url.parse().unwrap()).await.unwrap();
    (http, directory)
}

pub async fn account(lab: &Lab, url: &str) -> Account {
    let (http, directory) = directory(lab, url).await;
    let contact = ["mailto:ops@example.com".to_owned()];
    Account::register(&directory, &http, AccountKey::generate().unwrap(), &contact, None).await.unwrap()
}

pub fn request(names: &[&str]) -> Request {
    Request::new(names.iter().map(|name| name.parse().unwrap()).collect())
}

/// A journal in a file of its own.
pub fn journal(name: &str) -> FileJournal {
    let path = paths::volatile().join(format!("{name}.json"));
    let _ = std::fs::remove_file(&path);
    FileJournal::new(path)
}

pub async fn run(account: &Account, request: &Request, journal: &FileJournal) -> Result<Issued, ObtainError> {
    obtain(account, request, journal, Edge::shared(), &NoProgress).await
}
