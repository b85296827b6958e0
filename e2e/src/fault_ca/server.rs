//! The CA's server: takes a request, plays what the script says, acts, answers.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::{
    accounts, authorizations,
    authorizations::Look,
    call::{About, Call},
    clock::Clock,
    jws::Jws,
    orders,
    problem::Problem,
    renewal,
    reply::{Answer, Reply},
    request::{Asked, Kind},
    revocation,
    script::Play,
    state::State,
    validate,
};
use crate::Error;

/// What the server and the test share.
pub(super) struct Shared {
    pub(super) clock: Clock,
    state: Mutex<State>,
}

/// No request is larger.
const LARGEST: usize = 1 << 20;

/// A connection on which nothing is answered ends after this at the latest.
const HANG: Duration = Duration::from_mins(10);

impl Shared {
    pub(super) fn new(clock: Clock, state: State) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::new(state) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens on a port of its own, which no later one gets: who asked a CA that has ended goes on asking. The sandbox's
/// every address is good.
pub(super) fn listen() -> Result<(TcpListener, SocketAddr), Error> {
    // Below the ports that the kernel gives to whoever wants any, above those of the lab's parts.
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let failed = || "listening for the fault CA";
    let listener = loop {
        match TcpListener::bind(("0.0.0.0", NEXT.fetch_add(1, Ordering::Relaxed))) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => break bound.map_err(Error::io(failed))?,
        }
    };
    listener.set_nonblocking(true).map_err(Error::io(failed))?;
    let address = listener.local_addr().map_err(Error::io(failed))?;
    Ok((listener, address))
}

/// Serves until it is dropped; over TLS with an acceptor, without one the list of revoked certificates alone.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tokio::spawn(async move {
            let secure = tls.is_some();
            let service = service_fn(|request| Arc::clone(&shared).answer(request, secure));
            let server = http1::Builder::new();
            // A connection that is cut ends with an error; whoever asked sees it.
            let _ = match tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => server.serve_connection(TokioIo::new(stream), service).await,
                    Err(_) => return,
                },
                None => server.serve_connection(TokioIo::new(stream), service).await,
            };
        });
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, secure: bool) -> io::Result<Answer> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, LARGEST).collect().await.map_err(io::Error::other)?.to_bytes();
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let (base, path) = (format!("https://{host}"), parts.uri.path().to_owned());
        let kind = if secure || Kind::of(&path) == Kind::Crl { Kind::of(&path) } else { Kind::Unknown };
        let received = Received { kind, base, path, post: parts.method == Method::POST, body };

        let (record, play) = self.record(&received);
        match &play {
            Some(Play::CutBefore) => return Err(cut()),
            Some(Play::Hang) => return hang().await,
            _ => {}
        }
        let (reply, look) = self.act(&received, play.as_ref());
        if let Some(look) = look {
            tokio::spawn(Arc::clone(&self).look(look));
        }
        match &play {
            Some(Play::CutAfter) => return Err(cut()),
            Some(Play::ActAndHang) => return hang().await,
            Some(Play::Slow(pause)) => tokio::time::sleep(*pause).await,
            _ => {}
        }
        let now = self.clock.now();
        let mut state = self.state();
        if let Some(asked) = state.asked.get_mut(record) {
            asked.status = Some(reply.status);
        }
        // What stands in front of a CA has no nonces to give.
        let gives_nonce = received.post || kind == Kind::NewNonce;
        let nonce = (gives_nonce && !matches!(play, Some(Play::Html(_)))).then(|| state.new_nonce());
        Ok(reply.sent(nonce, now))
    }

    /// Writes down what is asked; where, and what is to be played.
    fn record(&self, received: &Received) -> (usize, Option<Play>) {
        let now = self.clock.now();
        let mut state = self.state();
        let jws = Jws::read(&received.body);
        let about = About::of(&state, received.kind, &received.path, jws.as_ref());
        let play = state.script.next(received.kind, about.account, &about.names);
        let replaces = jws.and_then(|jws| jws.payload.get("replaces")?.as_str().map(str::to_owned));
        state.asked.push(Asked {
            at: now,
            kind: received.kind,
            path: received.path.clone(),
            account: about.account.map(|number| format!("/account/{number}")),
            names: about.names,
            replaces,
            status: None,
        });
        (state.asked.len() - 1, play)
    }

    fn act(&self, received: &Received, play: Option<&Play>) -> (Reply, Option<Look>) {
        let now = self.clock.now();
        let acted = match play {
            Some(Play::Html(status)) => return (Reply::html(*status), None),
            Some(Play::Refuse(problem)) => Err(problem.clone()),
            _ => received.act(&mut self.state(), play, now),
        };
        acted.unwrap_or_else(|problem| (Reply::problem(&problem, now), None))
    }

    async fn look(self: Arc<Self>, look: Look) {
        let at = self.state().behaviour.http01_at;
        let result = validate::look(&look, at).await;
        authorizations::decide(&mut self.state(), &look, result, self.clock.now());
    }
}

/// A request that was read.
struct Received {
    kind: Kind,
    base: String,
    path: String,
    post: bool,
    body: Bytes,
}

impl Received {
    fn act(
        &self,
        state: &mut State,
        play: Option<&Play>,
        now: Timestamp,
    ) -> Result<(Reply, Option<Look>), Problem> {
        let Self { kind, base, path, .. } = self;
        if !self.post {
            let call = Call::unsigned(base, path, now, play);
            let reply = match kind {
                Kind::Directory => directory(state, base),
                // RFC 8555 §7.2: HEAD is answered with 200, GET with 204.
                Kind::NewNonce => Reply::bytes(200, "application/octet-stream", Vec::new()),
                Kind::RenewalInfo => renewal::info(state, &call)?,
                Kind::Crl => revocation::list(state, now)?,
                _ => return Err(Problem::new(405, "malformed", "Method not allowed")),
            };
            return Ok((reply, None));
        }
        let Some(jws) = Jws::read(&self.body) else {
            state.violations.push(format!("{path}: the body is not a JWS"));
            return Err(Problem::malformed("Parse error reading JWS"));
        };
        let call = Call::signed(state, *kind, base, path, &jws, now, play).inspect_err(|problem| {
            // A CA forgets accounts; nothing else here is the CA's doing.
            if problem.kind != "accountDoesNotExist" {
                state.violations.push(format!("{path}: {}", problem.detail));
            }
        })?;
        let reply = match kind {
            Kind::NewAccount => accounts::create(state, &call)?,
            Kind::Account => accounts::update(state, &call)?,
            Kind::NewOrder => orders::create(state, &call)?,
            Kind::Order => orders::poll(state, &call)?,
            Kind::Authorization => authorizations::read(state, &call)?,
            Kind::Challenge => return authorizations::begin(state, &call),
            Kind::Finalize => orders::finalize(state, &call)?,
            Kind::Certificate => orders::download(state, &call)?,
            Kind::Revoke => revocation::revoke(state, &call)?,
            _ => return Err(Problem::not_found("Page not found")),
        };
        Ok((reply, None))
    }
}

fn directory(state: &State, base: &str) -> Reply {
    let url = |path: &str| format!("{base}/{path}");
    let profiles: serde_json::Map<String, Value> = state
        .behaviour
        .profiles
        .iter()
        .map(|(name, lifetime)| (name.clone(), json!(format!("valid for {} s", lifetime.as_secs()))))
        .collect();
    Reply::json(
        200,
        &json!({
            "newNonce": url("nonce"),
            "newAccount": url("new-account"),
            "newOrder": url("new-order"),
            "revokeCert": url("revoke"),
            "renewalInfo": url("renewal-info"),
            "meta": {"termsOfService": "https://ca.example/terms", "profiles": profiles},
        }),
    )
}

fn cut() -> io::Error {
    io::Error::other("the script cuts the connection")
}

async fn hang() -> io::Result<Answer> {
    tokio::time::sleep(HANG).await;
    Err(cut())
}
