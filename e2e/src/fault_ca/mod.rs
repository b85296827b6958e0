//! A certificate authority for tests, with every fault that a CA may have: an ACME server (RFC 8555, RFC 9773) of our
//! own, with a clock that the test sets.
//!
//! It behaves as Let's Encrypt does ([`Behaviour`]), but for what a test lets it play ([`FaultCa::play`]): cut
//! connections, error pages, refusals, slow answers, odd renewal windows, for a kind of request, an account or a name,
//! so many times or until it is stopped. It enforces Let's Encrypt's limits ([`Limits`]) and expires what it hands out
//! by its own [`Clock`]. Signatures, nonces and URLs are checked without the client's code. What it was asked is on
//! record, so that a test asserts on what the CA saw ([`FaultCa::asked`], [`FaultCa::orders`],
//! [`FaultCa::looked`]); what no client should send is in [`FaultCa::violations`].
//!
//! It runs on a thread of its own, in the test's process, on every address of the sandbox. It lacks what no test needs:
//! key rollover, external accounts, OCSP, alternate chains, identifiers other than DNS names.

mod accounts;
mod authorizations;
mod behaviour;
mod call;
mod clock;
mod issue;
mod jws;
mod limits;
mod orders;
mod problem;
mod renewal;
mod reply;
mod request;
mod revocation;
mod script;
mod server;
mod state;
mod validate;

use std::{sync::Arc, thread};

pub use behaviour::{Behaviour, Expired, Suggestion, Validation, Window};
pub use clock::Clock;
pub use limits::{Limit, Limits};
pub use problem::{Problem, RetryAfter};
pub use request::{Asked, Kind, Looked, SeenOrder};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
pub use script::{Play, Rule, RuleId};
use server::Shared;
use state::{Order, Stage, State};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::{
    Error,
    pki::{Authority, Pair},
    sandbox::NODE_ADDRESS,
};

/// A running CA. Dropping it ends it. Nothing in it belongs to the async runtime that started it.
pub struct FaultCa {
    shared: Arc<Shared>,
    port: u16,
    /// The server's thread waits for its end.
    _ends: oneshot::Sender<()>,
}

impl FaultCa {
    /// Starts one. `authority` signs the certificate of its server, and is not what it issues under.
    pub fn start(authority: &Authority, behaviour: Behaviour) -> Result<Self, Error> {
        let ((listener, address), (plain, plain_address)) = (server::listen()?, server::listen()?);
        let crl_url = format!("http://{NODE_ADDRESS}:{}/crl", plain_address.port());
        let state = State::new(behaviour, issue::Issuing::new()?, crl_url);
        let shared = Shared::new(Clock::default(), state);
        let acceptor = acceptor(&authority.server(&["localhost", "127.0.0.1", NODE_ADDRESS])?)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io(|| "starting the fault CA"))?;
        let (ends, ended) = oneshot::channel();
        let served = Arc::clone(&shared);
        let work = async move {
            tokio::select! {
                _ = ended => {}
                result = server::serve(Arc::clone(&served), listener, Some(acceptor)) => report(result),
                result = server::serve(served, plain, None) => report(result),
            }
        };
        thread::Builder::new()
            .name("fault-ca".to_owned())
            .spawn(move || runtime.block_on(work))
            .map_err(Error::io(|| "starting the fault CA"))?;
        Ok(Self { shared, port: address.port(), _ends: ends })
    }

    /// The URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/directory", self.port)
    }

    /// The URL of its directory for pods.
    pub fn pod_directory(&self) -> String {
        format!("https://{NODE_ADDRESS}:{}/directory", self.port)
    }

    /// The root of the certificates that it issues, as PEM.
    pub fn issuance_root(&self) -> String {
        self.shared.state().issuing.root_pem().to_owned()
    }

    /// Where the list of revoked certificates is (RFC 5280 §4.2.1.13).
    pub fn crl_url(&self) -> String {
        self.shared.state().crl_url.clone()
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Changes how it behaves.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.state().behaviour);
    }

    /// Lets it play something. Rules given earlier go first.
    pub fn play(&self, rule: Rule) -> RuleId {
        self.shared.state().script.add(rule)
    }

    /// Ends what a rule lets it play.
    pub fn stop(&self, rule: RuleId) {
        self.shared.state().script.stop(rule);
    }

    /// Ends all that it was told to play.
    pub fn stop_all(&self) {
        self.shared.state().script.clear();
    }

    /// Forgets all accounts, with their orders and authorizations.
    pub fn forget_accounts(&self) {
        let mut state = self.shared.state();
        state.accounts.clear();
        state.orders.clear();
        state.authorizations.clear();
    }

    /// Lets the time of all orders and authorizations be over, whatever the clock says.
    pub fn expire_all(&self) {
        let (now, mut state) = (self.shared.clock.now(), self.shared.state());
        state.orders.values_mut().for_each(|order| order.expires = now);
        state.authorizations.values_mut().for_each(|one| one.expires = now);
    }

    /// Gives out the certificates of all orders that are in `processing`.
    pub fn release_orders(&self) {
        for order in self.shared.state().orders.values_mut() {
            if let Some(certificate) = order.stage.certificate() {
                order.stage = Stage::Valid { certificate };
            }
        }
    }

    /// Revokes a certificate by its serial number in lower-case hex, as a CA must that has issued it by mistake;
    /// whether there is one.
    pub fn revoke(&self, serial: &str) -> bool {
        let (now, mut state) = (self.shared.clock.now(), self.shared.state());
        let found =
            state.certificates.iter().find(|(_, one)| one.serial_hex() == serial).map(|(number, _)| *number);
        found.inspect(|number| revocation::mark(&mut state, *number, 4, now)).is_some()
    }

    /// All requests, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// How many requests of a kind there were about a name.
    pub fn count(&self, kind: Kind, name: &str) -> usize {
        let of = |asked: &&Asked| asked.kind == kind && asked.names.iter().any(|one| one == name);
        self.shared.state().asked.iter().filter(of).count()
    }

    /// The orders that it knows, oldest first.
    pub fn orders(&self) -> Vec<SeenOrder> {
        let now = self.shared.clock.now();
        let state = self.shared.state();
        let seen = |(number, order): (&usize, &Order)| SeenOrder {
            path: format!("/order/{number}"),
            account: format!("/account/{}", order.account),
            names: order.names.clone(),
            replaces: order.replaces.clone(),
            status: state.order_status(order, now).unwrap_or("expired"),
            serial: order
                .stage
                .certificate()
                .and_then(|number| state.certificates.get(&number))
                .map(state::Certificate::serial_hex),
        };
        state.orders.iter().map(seen).collect()
    }

    /// How many certificates it has signed for exactly these names.
    pub fn signed(&self, names: &[&str]) -> usize {
        let mut names = names.to_vec();
        names.sort_unstable();
        self.shared.state().certificates.values().filter(|one| one.names == names).count()
    }

    /// The paths of the accounts that it knows.
    pub fn accounts(&self) -> Vec<String> {
        self.shared.state().accounts.keys().map(|number| format!("/account/{number}")).collect()
    }

    /// The looks that it had at challenges, in order.
    pub fn looked(&self) -> Vec<Looked> {
        self.shared.state().looked.clone()
    }

    /// What no client should send: unsigned requests, wrong URLs, nonces that were spent or made up.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state().violations.clone()
    }
}

impl std::fmt::Debug for FaultCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultCa").field("port", &self.port).finish_non_exhaustive()
    }
}

fn acceptor(pair: &Pair) -> Result<TlsAcceptor, Error> {
    fn failed<E: std::fmt::Display>(error: E) -> Error {
        Error::invalid(|| "setting up the fault CA's TLS")(error)
    }
    let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(failed)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(failed)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("lab: the fault CA ended: {error}");
    }
}
