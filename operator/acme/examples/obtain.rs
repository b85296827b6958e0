//! Obtains a certificate without Kubernetes: asks what it needs, answers HTTP-01 on a port of this machine, and leaves
//! key and chain in a directory. Run it again after a crash: it goes on with the same order.
//!
//! ```sh
//! cargo run -p waxwing-acme --example obtain
//! cargo run -p waxwing-acme --example obtain -- --directory https://127.0.0.1:14000/dir --ca-bundle pebble.pem \
//!     --name a.example --port 5002 --out target/obtain
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::{BufRead, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::get;
use url::Url;
use waxwing_acme::{
    Account, AccountKey, Challenge, ChallengeType, Directory, Evidence, FileJournal, Http, HttpConfig,
    Identifier, Journal, NoSolver, Presented, Progress, Request, Solver, SolverError, Solvers, Step,
    TrustRoots, diagnose, obtain, replace_file,
};

/// Everything that can go wrong here ends with one clear sentence.
type Failure = Box<dyn std::error::Error>;

const HELP: &str = "\
Obtains a certificate over ACME, answering HTTP-01 on a port of this machine.

  --directory URL    the CA's directory       (default: Let's Encrypt's staging CA)
  --email ADDRESS    contact for the account  (default: none)
  --name NAME        a name or address for the certificate; may be repeated
  --address ADDRESS  where to answer HTTP-01  (default: 0.0.0.0)
  --port PORT        where to answer HTTP-01  (default: 80)
  --out DIRECTORY    where key and chain go   (default: .)
  --ca-bundle FILE   trust these root certificates (PEM) for the CA itself
  --log              print one line for each ACME request
  --quiet            print the time alone

What is not given is asked for.
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failure> {
    let options = Options::read(std::env::args().skip(1))?;
    if options.log {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    }
    let identifiers =
        options.names.iter().map(|name| name.parse()).collect::<Result<Vec<Identifier>, _>>()?;
    std::fs::create_dir_all(&options.out)
        .map_err(|error| format!("making {}: {error}", options.out.display()))?;
    let roots = match &options.ca_bundle {
        Some(path) => TrustRoots::Custom(
            std::fs::read(path).map_err(|error| format!("reading {}: {error}", path.display()))?,
        ),
        None => TrustRoots::System,
    };
    let http = Http::new(HttpConfig { roots, ..HttpConfig::default() })?;
    let responder = Responder::listen(options.address, options.port).await?;

    let directory = Directory::fetch(&http, &options.directory).await?;
    let key = account_key(&options.out.join("account.pem"))?;
    let contact: Vec<String> = options.email.iter().map(|email| format!("mailto:{email}")).collect();
    let account = Account::register(&directory, &http, key, &contact, None).await?;

    let request = Request::new(identifiers);
    let journal = FileJournal::new(options.out.join("order.json"));
    let progress = Printer { started: Instant::now(), quiet: options.quiet };
    let issued = match obtain(&account, &request, &journal, &responder, &progress).await {
        Ok(issued) => issued,
        Err(error) => {
            let diagnosis = diagnose(&error, &error.evidence);
            return Err(format!("{error}\ncause: {}\nfix:   {}", diagnosis.cause, diagnosis.fix).into());
        }
    };
    let elapsed = progress.started.elapsed();
    replace_file(&options.out.join("key.pem"), issued.private_key_pem.expose().as_bytes())?;
    replace_file(&options.out.join("chain.pem"), issued.chain_pem.as_bytes())?;
    // Only now that key and chain are on the disk may the order be forgotten.
    journal.clear().await?;
    if options.quiet {
        println!("{:.3}", elapsed.as_secs_f64());
    } else {
        println!(
            "{:>7.3} s  stored in {} (serial {}, until {})",
            elapsed.as_secs_f64(),
            options.out.display(),
            issued.leaf.serial,
            issued.leaf.not_after
        );
    }
    Ok(())
}

/// The account's key: on the disk before an account is made with it.
fn account_key(path: &Path) -> Result<AccountKey, Failure> {
    match std::fs::read_to_string(path) {
        Ok(pem) => Ok(AccountKey::from_pem(&pem).map_err(|error| format!("{}: {error}", path.display()))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = AccountKey::generate()?;
            replace_file(path, key.to_pem().expose().as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(format!("reading {}: {error}", path.display()).into()),
    }
}

struct Options {
    directory: Url,
    email: Option<String>,
    names: Vec<String>,
    address: IpAddr,
    port: u16,
    out: PathBuf,
    ca_bundle: Option<PathBuf>,
    log: bool,
    quiet: bool,
}

impl Options {
    /// Reads flags, and asks for what they don't say.
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let (mut directory, mut email, mut port, mut out) = (None, None, None, None);
        let (mut names, mut address, mut ca_bundle) = (Vec::new(), None, None);
        let (mut log, mut quiet) = (false, false);
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{flag} needs a value; see --help"));
            match flag.as_str() {
                "--directory" => directory = Some(value()?),
                "--email" => email = Some(value()?),
                "--name" => names.push(value()?),
                "--address" => address = Some(value()?),
                "--port" => port = Some(value()?),
                "--out" => out = Some(value()?),
                "--ca-bundle" => ca_bundle = Some(PathBuf::from(value()?)),
                "--log" => log = true,
                "--quiet" => quiet = true,
                "--help" => {
                    print!("{HELP}");
                    std::process::exit(0);
                }
                other => return Err(format!("there is no flag {other}; see --help").into()),
            }
        }
        // Whoever names the names has said all that has no default.
        let ask = names.is_empty();
        let directory =
            fill(directory, ask, "Directory URL", "https://acme-staging-v02.api.letsencrypt.org/directory")?;
        let email = fill(email, ask, "E-mail (may be empty)", "")?;
        if names.is_empty() {
            let text = fill(None, true, "Names, with spaces between", "")?;
            names = text.split_whitespace().map(str::to_owned).collect();
        }
        if names.is_empty() {
            return Err("name at least one name for the certificate".into());
        }
        let port = fill(port, ask, "Port to answer HTTP-01 on", "80")?;
        let out = fill(out, ask, "Directory for key and chain", ".")?;
        Ok(Self {
            directory: directory.parse().map_err(|error| format!("{directory:?} is not a URL: {error}"))?,
            email: Some(email).filter(|email| !email.is_empty()),
            names,
            address: fill(address, false, "", "0.0.0.0")?
                .parse()
                .map_err(|error| format!("--address: {error}"))?,
            port: port.parse().map_err(|_| format!("{port:?} is not a port"))?,
            out: out.into(),
            ca_bundle,
            log,
            quiet,
        })
    }
}

/// What a flag says, or what is answered to a question, or the default.
fn fill(given: Option<String>, ask: bool, question: &str, default: &str) -> Result<String, Failure> {
    if let Some(given) = given {
        return Ok(given);
    }
    if !ask {
        return Ok(default.to_owned());
    }
    if std::io::stdin().is_terminal() {
        print!("{question}{}: ", if default.is_empty() { String::new() } else { format!(" [{default}]") });
        std::io::stdout().flush()?;
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let line = line.trim();
    Ok(if line.is_empty() { default } else { line }.to_owned())
}

/// Prints each step with the time that it came at.
struct Printer {
    started: Instant,
    quiet: bool,
}

impl Progress for Printer {
    fn step(&self, step: &Step) {
        if !self.quiet {
            println!("{:>7.3} s  {step}", self.started.elapsed().as_secs_f64());
        }
    }
}

/// Answers HTTP-01 for every host: the token, a dot, and the thumbprint of the account whose order is open.
#[derive(Clone, Default)]
struct Responder {
    thumbprint: Arc<Mutex<Option<String>>>,
}

impl Responder {
    async fn listen(address: IpAddr, port: u16) -> Result<Self, Failure> {
        let responder = Self::default();
        let answer = |State(responder): State<Self>, UrlPath(token): UrlPath<String>| async move {
            responder.answer(&token)
        };
        let router = Router::new()
            .route("/.well-known/acme-challenge/{token}", get(answer))
            .with_state(responder.clone());
        let listener = tokio::net::TcpListener::bind((address, port)).await.map_err(|error| {
            format!("listening on port {port}: {error}; use another one with --port, and send port 80 there")
        })?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(responder)
    }

    fn answer(&self, token: &str) -> (StatusCode, String) {
        let thumbprint = self.thumbprint.lock().ok().and_then(|thumbprint| thumbprint.clone());
        match thumbprint {
            Some(thumbprint) => (StatusCode::OK, format!("{token}.{thumbprint}")),
            None => (StatusCode::NOT_FOUND, String::new()),
        }
    }

    fn set(&self, thumbprint: Option<String>) {
        if let Ok(mut current) = self.thumbprint.lock() {
            *current = thumbprint;
        }
    }
}

impl Solvers for Responder {
    fn choose(
        &self,
        identifier: &Identifier,
        wildcard: bool,
        offered: &[ChallengeType],
    ) -> Result<Arc<dyn Solver>, NoSolver> {
        if wildcard {
            return Err(NoSolver::new(format!(
                "*.{identifier} needs DNS-01, and this example answers HTTP-01 alone"
            )));
        }
        if !offered.contains(&ChallengeType::Http01) {
            return Err(NoSolver::new("the CA does not offer HTTP-01"));
        }
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Solver for Responder {
    fn id(&self) -> String {
        "responder".to_owned()
    }

    fn challenge_type(&self) -> ChallengeType {
        ChallengeType::Http01
    }

    fn record(&self, challenge: &Challenge) -> Presented {
        let host = challenge.identifier.to_string();
        Presented {
            identifier: host.clone(),
            challenge_type: ChallengeType::Http01,
            solver: self.id(),
            value: host,
        }
    }

    async fn present(&self, challenge: &Challenge) -> Result<(), SolverError> {
        self.set(Some(challenge.thumbprint.clone()));
        Ok(())
    }

    async fn self_check(&self, challenge: &Challenge) -> Evidence {
        // The name's address may lead here only from outside, so this example leaves looking to the CA.
        Evidence::passed(challenge.identifier.to_string())
    }

    async fn clean_up(&self, _: &Presented) -> Result<(), SolverError> {
        self.set(None);
        Ok(())
    }
}
