//! What an issuance stands on, in memory: a journal, a solver, and a log of what happened in which order.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use waxwing_acme::{
    Account, AccountKey, Challenge, ChallengeType, Directory, Entry, Evidence, Http, HttpConfig, Identifier,
    Issued, Journal, JournalError, NoProgress, NoSolver, ObtainError, Presented, Request, Solver,
    SolverError, Solvers, Timing, obtain,
};

use crate::ca::Ca;
use crate::script::Script;

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// How often something that starts so happened.
    pub fn count(&self, prefix: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.starts_with(prefix)).count()
    }
}

/// A journal in memory.
#[derive(Clone, Default)]
pub struct Memory {
    pub entry: Arc<Mutex<Option<Entry>>>,
    pub broken: Arc<Mutex<bool>>,
    log: Log,
}

impl Memory {
    pub fn entry(&self) -> Option<Entry> {
        self.entry.lock().unwrap().clone()
    }
}

#[async_trait]
impl Journal for Memory {
    async fn load(&self) -> Result<Option<Entry>, JournalError> {
        Ok(self.entry())
    }

    async fn save(&self, entry: &Entry) -> Result<(), JournalError> {
        if *self.broken.lock().unwrap() {
            return Err(JournalError::new("the disk is full"));
        }
        self.log.add("save");
        *self.entry.lock().unwrap() = Some(entry.clone());
        Ok(())
    }

    async fn clear(&self) -> Result<(), JournalError> {
        self.log.add("clear");
        *self.entry.lock().unwrap() = None;
        Ok(())
    }
}

/// A solver that only writes down what it is asked for.
#[derive(Clone)]
pub struct TestSolver {
    pub kind: ChallengeType,
    pub fails: bool,
    pub self_check_passes: bool,
    log: Log,
}

#[async_trait]
impl Solver for TestSolver {
    fn id(&self) -> String {
        format!("test-{}", self.kind)
    }

    fn challenge_type(&self) -> ChallengeType {
        self.kind
    }

    fn record(&self, challenge: &Challenge) -> Presented {
        let value = match self.kind {
            ChallengeType::Http01 => challenge.identifier.to_string(),
            _ => challenge.dns_value(),
        };
        Presented {
            identifier: challenge.identifier.to_string(),
            challenge_type: self.kind,
            solver: self.id(),
            value,
        }
    }

    async fn prepare(&self, identifier: &Identifier) -> Result<(), SolverError> {
        self.log.add(format!("prepare {identifier}"));
        Ok(())
    }

    async fn present(&self, challenge: &Challenge) -> Result<(), SolverError> {
        assert_eq!(challenge.key_authorization, format!("{}.{}", challenge.token, challenge.thumbprint));
        assert!(!challenge.token.is_empty());
        if self.fails {
            return Err(SolverError::new("the API server refused"));
        }
        self.log.add(format!("present {}", challenge.identifier));
        Ok(())
    }

    async fn self_check(&self, challenge: &Challenge) -> Evidence {
        self.log.add(format!("self-check {}", challenge.identifier));
        let evidence = Evidence::passed(challenge.identifier.to_string());
        Evidence { passed: self.self_check_passes, ..evidence }
    }

    async fn clean_up(&self, presented: &Presented) -> Result<(), SolverError> {
        self.log.add(format!("clean up {}", presented.identifier));
        Ok(())
    }
}

impl Solvers for TestSolver {
    fn choose(
        &self,
        identifier: &Identifier,
        _: bool,
        offered: &[ChallengeType],
    ) -> Result<Arc<dyn Solver>, NoSolver> {
        if offered.contains(&self.kind) {
            Ok(Arc::new(self.clone()))
        } else {
            Err(NoSolver::new(format!("nothing answers {offered:?} for {identifier}")))
        }
    }
}

/// A CA, an account at it, and everything else for issuances.
pub struct Stage {
    pub ca: Ca,
    pub account: Account,
    pub journal: Memory,
    pub solver: TestSolver,
    pub log: Log,
}

/// Waits that suit a CA on loopback.
pub const TIMING: Timing = Timing {
    first_poll: Duration::from_millis(1),
    longest_poll: Duration::from_millis(5),
    patience: Duration::from_secs(20),
};

pub fn http(request_timeout: Duration) -> Http {
    let config = HttpConfig { request_timeout, ..HttpConfig::default() };
    Http::allowing_plain_http(config).unwrap()
}

impl Stage {
    pub async fn new(script: Script) -> Self {
        Self::with_http(script, http(Duration::from_secs(10))).await
    }

    pub async fn with_http(script: Script, http: Http) -> Self {
        let log = Log::default();
        let ca = Ca::start(script, log.clone()).await;
        let directory = Directory::fetch(&http, &ca.directory).await.unwrap();
        let key = AccountKey::generate().unwrap();
        let account = Account::register(&directory, &http, key, &[], None).await.unwrap().with_timing(TIMING);
        let journal = Memory { log: log.clone(), ..Memory::default() };
        let solver = TestSolver {
            kind: ChallengeType::Http01,
            fails: false,
            self_check_passes: true,
            log: log.clone(),
        };
        log.take();
        Self { ca, account, journal, solver, log }
    }

    pub async fn obtain(&self, request: &Request) -> Result<Issued, ObtainError> {
        obtain(&self.account, request, &self.journal, &self.solver, &NoProgress).await
    }

    /// Nothing that a CA should never see was seen.
    pub fn assert_clean(&self) {
        assert_eq!(self.ca.violations(), Vec::<String>::new());
    }
}

pub fn request(names: &[&str]) -> Request {
    Request::new(names.iter().map(|name| name.parse().unwrap()).collect())
}
