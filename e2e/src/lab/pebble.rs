//! Pebble, Let's Encrypt's CA for tests, with everything that can be set about it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::json;

use super::{Dns, Places};
use crate::{
    Error, http::Http, parts::Part, paths, pki::Authority, probe, process::Process, sandbox::NODE_ADDRESS,
};

const URL: &str = "https://localhost:14000";
const MANAGEMENT: &str = "https://localhost:15000";

/// How often the watchdog looks.
const WATCH: Duration = Duration::from_secs(2);

/// How Pebble behaves. The default is a CA that answers at once and makes no trouble.
#[derive(Clone, Debug)]
pub struct PebbleOptions {
    /// Percent of requests whose nonce is refused.
    pub bad_nonces: u8,
    /// Percent of new orders that reuse a valid authorization.
    pub reuse_authorizations: u8,
    /// The Retry-After of authorizations and orders, in seconds; 0 sends none.
    pub retry_after: u32,
    /// Whether validation sleeps up to 5 s, as it does by default.
    pub slow_validation: bool,
    /// Whether everything validates without a look.
    pub always_valid: bool,
    /// Refuses what RFC 8555 leaves open (`-strict`).
    pub strict: bool,
    /// Alternate chains offered beside the default one.
    pub alternate_roots: u8,
    /// Intermediates in a chain.
    pub chain_length: u8,
    /// Key identifiers and base64url MAC keys. Not empty: new accounts must bind to one of them.
    pub external_accounts: BTreeMap<String, String>,
    /// Domains that are refused with `rejectedIdentifier`, and all below them.
    pub blocked_domains: Vec<String>,
    /// Profiles: name, description, lifetime in seconds. An order that names none gets any of them.
    pub profiles: Vec<(String, String, u64)>,
}

/// A running Pebble.
#[derive(Debug)]
pub struct Pebble {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: Process,
    http: Http,
    frozen: AtomicBool,
    hangs: AtomicU32,
}

impl Default for PebbleOptions {
    fn default() -> Self {
        Self {
            bad_nonces: 0,
            reuse_authorizations: 0,
            retry_after: 0,
            slow_validation: false,
            always_valid: false,
            strict: true,
            alternate_roots: 0,
            chain_length: 1,
            external_accounts: BTreeMap::new(),
            blocked_domains: vec!["blocked.test".to_owned()],
            profiles: vec![
                ("default".to_owned(), "90 days".to_owned(), 7_776_000),
                ("shortlived".to_owned(), "6 days".to_owned(), 518_400),
            ],
        }
    }
}

impl Pebble {
    /// The URL of its directory. Its certificate is signed by the lab's root.
    pub const DIRECTORY: &str = "https://localhost:14000/dir";

    /// The URL of its directory for pods.
    pub const POD_DIRECTORY: &str = "https://10.99.0.1:14000/dir";

    /// Where the root of the certificates that it issues is served, inside of the sandbox.
    pub const ISSUANCE_ROOT: &str = "https://localhost:15000/roots/0";

    pub(super) async fn start(
        options: PebbleOptions,
        authority: &Authority,
        places: &Places,
    ) -> Result<Self, Error> {
        let certificate = places.files.join("pebble.pem");
        let key = places.files.join("pebble.key");
        let serving = authority.server(&["localhost", "127.0.0.1", NODE_ADDRESS])?;
        paths::write(&certificate, serving.certificate_pem)?;
        paths::write(&key, serving.key_pem)?;
        let profiles: BTreeMap<String, _> = options
            .profiles
            .iter()
            .map(|(name, description, seconds)| {
                (name.clone(), json!({"description": description, "validityPeriod": seconds}))
            })
            .collect();
        let config = places.files.join("pebble.json");
        let settings = json!({"pebble": {
            // Pods ask it by the node's address.
            "listenAddress": "0.0.0.0:14000",
            "managementListenAddress": "127.0.0.1:15000",
            "certificate": certificate,
            "privateKey": key,
            "httpPort": 80,
            "tlsPort": 443,
            "externalAccountBindingRequired": !options.external_accounts.is_empty(),
            "externalAccountMACKeys": options.external_accounts,
            "domainBlocklist": options.blocked_domains,
            "retryAfter": {"authz": options.retry_after, "order": options.retry_after},
            "keyAlgorithm": "ecdsa",
            "profiles": profiles,
        }});
        paths::write(&config, settings.to_string())?;

        let mut process = Process::new("pebble", &Part::Pebble.program("pebble")?, &places.logs)
            .args([format!("-config={}", config.display()), format!("-dnsserver={}", Dns::ADDRESS)])
            .args([format!("-strict={}", options.strict)])
            .env("PEBBLE_WFE_NONCEREJECT", options.bad_nonces.to_string())
            .env("PEBBLE_AUTHZREUSE", options.reuse_authorizations.to_string())
            .env("PEBBLE_ALTERNATE_ROOTS", options.alternate_roots.to_string())
            .env("PEBBLE_CHAIN_LENGTH", options.chain_length.to_string());
        if !options.slow_validation {
            process = process.env("PEBBLE_VA_NOSLEEP", "1");
        }
        if options.always_valid {
            process = process.env("PEBBLE_VA_ALWAYS_VALID", "1");
        }
        process.start()?;
        let inner = Arc::new(Inner {
            process,
            http: Http::new(authority.pem())?,
            frozen: AtomicBool::new(false),
            hangs: AtomicU32::new(0),
        });
        inner.ready().await?;
        watch(Arc::downgrade(&inner))?;
        Ok(Self { inner })
    }

    /// The URL of its directory. Its certificate is signed by the lab's root.
    pub fn directory(&self) -> String {
        format!("{URL}/dir")
    }

    /// The root of the certificates that it issues, as PEM. It changes with every start.
    pub async fn issuance_root(&self) -> Result<String, Error> {
        self.root(0).await
    }

    /// Another root of the certificates that it issues: 1 is the first alternate one.
    pub async fn root(&self, number: u8) -> Result<String, Error> {
        self.inner.http.get(&format!("{MANAGEMENT}/roots/{number}")).await?.ok("Pebble's root")
    }

    /// SIGSTOP: connections are accepted, nothing is answered.
    pub fn freeze(&self) -> Result<(), Error> {
        self.inner.frozen.store(true, Ordering::SeqCst);
        self.inner.process.freeze()
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<(), Error> {
        self.inner.process.thaw()?;
        self.inner.frozen.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Starts it anew: without accounts and orders, with new roots.
    pub async fn restart_empty(&self) -> Result<(), Error> {
        self.inner.restart().await
    }

    /// Ends it; connections are refused until [`restart_empty`](Self::restart_empty).
    pub fn kill(&self) {
        self.inner.frozen.store(true, Ordering::SeqCst);
        self.inner.process.kill();
    }

    /// How often it hung by itself and was restarted empty. Pebble 2.10.1 has a deadlock.
    pub fn hangs(&self) -> u32 {
        self.inner.hangs.load(Ordering::SeqCst)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.inner.process
    }
}

impl Inner {
    async fn ready(&self) -> Result<(), Error> {
        probe::ready(&self.process, Duration::from_secs(20), || async {
            self.http.get(&format!("{URL}/dir")).await?.ok("Pebble's directory")?;
            self.alive().await
        })
        .await
    }

    /// Any answer will do, but the question must take the lock that the deadlock is about.
    async fn alive(&self) -> Result<(), Error> {
        self.http.get(&format!("{MANAGEMENT}/cert-status-by-serial/1")).await.map(|_| ())
    }

    async fn restart(&self) -> Result<(), Error> {
        self.frozen.store(true, Ordering::SeqCst);
        self.process.kill();
        self.process.start()?;
        let ready = self.ready().await;
        self.frozen.store(false, Ordering::SeqCst);
        ready
    }
}

/// Restarts a Pebble that hangs, and says so.
fn watch(pebble: Weak<Inner>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io(|| "starting Pebble's watchdog"))?;
    let work = async move {
        let mut unanswered = 0;
        loop {
            tokio::time::sleep(WATCH).await;
            let Some(pebble) = pebble.upgrade() else { return };
            if pebble.frozen.load(Ordering::SeqCst) || pebble.alive().await.is_ok() {
                unanswered = 0;
                continue;
            }
            unanswered += 1;
            // Frozen or restarted by a test while the question was open: not a hang.
            if unanswered < 2 || pebble.frozen.load(Ordering::SeqCst) {
                continue;
            }
            unanswered = 0;
            pebble.hangs.fetch_add(1, Ordering::SeqCst);
            let outcome = match pebble.restart().await {
                Ok(()) => "restarted empty".to_owned(),
                Err(error) => format!("not restarted: {error}"),
            };
            eprintln!("lab: Pebble hung (a deadlock of its own, known in 2.10.1) and was {outcome}");
        }
    };
    thread::Builder::new()
        .name("pebble-watchdog".to_owned())
        .spawn(move || runtime.block_on(work))
        .map_err(Error::io(|| "starting Pebble's watchdog"))?;
    Ok(())
}
