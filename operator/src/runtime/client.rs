//! The Kubernetes client: no retries of its own, and a bound on every call.

use std::{
    error::Error as StdError,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::{HeaderValue, header::USER_AGENT};
use hyper_util::{
    client::legacy::{Client as HyperClient, Error as HyperError, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{AuthError, Body, ClientBuilder, ConfigExt},
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use kube_runtime::watcher;
use thiserror::Error;
use tokio::{sync::Semaphore, time::Instant};
use tower::ServiceBuilder;

use super::permit::guard;

/// How long one call to the API server may take, watches excepted.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls that wait for the API server's answer at once; it refuses a client that sends thousands (API Priority and
/// Fairness), and each needs a connection.
const CALLS_AT_ONCE: usize = 32;
static TURNS: Semaphore = Semaphore::const_new(CALLS_AT_ONCE);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(20);
const POOL_IDLE: Duration = Duration::from_mins(1);

/// Where the API server is found.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// A kubeconfig file. Without one: `KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; its current one if absent.
    pub context: Option<String>,
    /// Which process it is, for the API server's audit log: the User-Agent names it.
    pub identity: String,
}

/// Remembers when the API server was last away. Clones are handles to the same memory.
#[derive(Clone, Debug, Default)]
pub struct Outages {
    last: Arc<Mutex<Option<Instant>>>,
}

impl Outages {
    /// How long ago a request didn't get there, or got no answer.
    pub fn since_last(&self) -> Option<Duration> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).map(|last| last.elapsed())
    }

    /// A request has failed so.
    pub fn note(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// Makes the client. Nothing is sent yet.
///
/// kube's default client repeats 429 and 5xx up to 15 times by itself, for minutes. Ours doesn't:
/// who calls decides, and an answer is never older than [`CALL_TIMEOUT`].
pub async fn connect(options: &ClientOptions) -> Result<(Client, Outages), ClientError> {
    let mut config = config(options).await?;
    let agent = format!("waxwing/{} ({})", env!("CARGO_PKG_VERSION"), options.identity);
    if let Ok(agent) = HeaderValue::from_str(&agent) {
        config.headers.push((USER_AGENT, agent));
    }
    if let Some(proxy) = &config.proxy_url {
        return Err(ClientError::Proxy { proxy: proxy.host().unwrap_or_default().to_owned() });
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    // Small requests must not wait for the acknowledgement of the one before (Nagle).
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    // A watch is silent for long; a dead peer must still be noticed.
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE));
    connector.set_keepalive_retries(Some(3));
    let build = |source| ClientError::Build { source };
    let connector = config.rustls_https_connector_with_connector(connector).map_err(build)?;
    let http = HyperClient::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_timer(TokioTimer::new())
        .build(connector);
    let outages = Outages::default();
    let noted = outages.clone();
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(build)?)
        .layer(config.extra_headers_layer().map_err(build)?)
        .map_err(move |error| {
            noted.note();
            tower::BoxError::from(error)
        })
        .map_request(guard::<Body>)
        .service(http);
    Ok((ClientBuilder::new(service, config.default_namespace).build(), outages))
}

/// Runs one call within [`CALL_TIMEOUT`], when it has its turn. `what` says what is being done, to which object: "apply
/// Secret web/shop-tls".
pub fn bounded<T>(
    what: impl Into<String>,
    call: impl Future<Output = kube::Result<T>> + Send,
) -> impl Future<Output = Result<T, CallError>> + Send {
    // kube's futures are large, and would be part of each future that awaits one.
    let (what, call) = (what.into(), Box::pin(call));
    in_turn(&TURNS, at_once(what, call))
}

/// The same for a call that may not wait for others: the lease's.
pub async fn at_once<T>(
    what: impl Into<String>,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(CallError::Failed { what: what.into(), source: Box::new(source) }),
        Err(_) => Err(CallError::TimedOut { what: what.into() }),
    }
}

async fn in_turn<T>(turns: &Semaphore, call: impl Future<Output = T>) -> T {
    // It is never closed.
    let _turn = turns.acquire().await;
    call.await
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The HTTP stack could not be built from the configuration.
    #[error("couldn't build the Kubernetes client: {source}")]
    Build {
        /// The cause.
        #[source]
        source: kube::Error,
    },
    /// The named kubeconfig could not be used.
    #[error("couldn't use the kubeconfig {path}: {}", explain_kubeconfig(.source))]
    Kubeconfig {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: KubeconfigError,
    },
    /// The kubeconfig asks for a proxy.
    #[error(
        "the kubeconfig asks for the proxy {proxy}, which Waxwing doesn't support: remove proxy-url from it"
    )]
    Proxy {
        /// Its host.
        proxy: String,
    },
    /// What `KUBECONFIG` names could not be used.
    #[error("couldn't use KUBECONFIG ({files}): {}", explain_inferred(.source))]
    Variable {
        /// Its value.
        files: String,
        /// The cause.
        #[source]
        source: Box<InferConfigError>,
    },
    /// Neither a kubeconfig nor a service account was found.
    #[error(
        "found no Kubernetes cluster: give --kubeconfig, set KUBECONFIG, or run in a pod with a service account: {source}"
    )]
    NoCluster {
        /// The cause.
        #[source]
        source: Box<InferConfigError>,
    },
}

/// A call to the API server that brought no answer of use.
#[derive(Debug, Error)]
pub enum CallError {
    /// The API server, or the way to it, said no.
    #[error("couldn't {what}: {}", explain(.source))]
    Failed {
        /// What was being done, to which object.
        what: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer within [`CALL_TIMEOUT`].
    #[error("couldn't {what}: no answer from the API server within {} s", CALL_TIMEOUT.as_secs())]
    TimedOut {
        /// What was being done, to which object.
        what: String,
    },
}

impl CallError {
    /// True if the object exists already (409 `AlreadyExists`).
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_already_exists)
    }

    /// True if the object has changed since it was read (409 Conflict).
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_conflict)
    }

    /// True if RBAC, or a policy, doesn't allow it (403).
    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_forbidden)
    }

    /// True if the API server refuses what was sent (422).
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_invalid)
    }

    /// True if the API server refuses what was sent, or who sent it, so that the same would be refused again: RBAC,
    /// validation, admission (whose webhooks answer 400 where they name no code).
    pub fn is_refusal(&self) -> bool {
        self.status().is_some_and(|status| {
            (400..500).contains(&status.code) && ![401, 408, 409, 429].contains(&status.code)
        })
    }

    /// True if there is no such object, or no such kind (404).
    pub fn is_not_found(&self) -> bool {
        // A kind that isn't served at all is answered without a reason.
        self.status().is_some_and(|status| status.is_not_found() || status.code == 404)
    }

    /// What the API server answered, if it did.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Failed { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::TimedOut { .. } => None,
        }
    }
}

async fn config(options: &ClientOptions) -> Result<Config, ClientError> {
    let choice = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    let mut config = if let Some(path) = &options.kubeconfig {
        let failed = |source| ClientError::Kubeconfig { path: path.display().to_string(), source };
        let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
        Config::from_custom_kubeconfig(kubeconfig, &choice).await.map_err(failed)?
    } else if options.context.is_some() {
        Config::from_kubeconfig(&choice).await.map_err(|source| ClientError::Kubeconfig {
            path: std::env::var("KUBECONFIG").unwrap_or_else(|_| "~/.kube/config".to_owned()),
            source,
        })?
    } else {
        Config::infer().await.map_err(|source| {
            let source = Box::new(source);
            match std::env::var("KUBECONFIG") {
                Ok(files) if !files.is_empty() => ClientError::Variable { files, source },
                _ => ClientError::NoCluster { source },
            }
        })?
    };
    // Ours is built without kube's retry layer; this says so to whoever reads the Config.
    config.default_retry = false;
    Ok(config)
}

/// Why a watch failed: the API server's own sentence, or else what is at the bottom of it.
pub fn explain_watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(source)
        | watcher::Error::WatchStartFailed(source)
        | watcher::Error::WatchFailed(source) => explain(source),
        watcher::Error::WatchError(status) => answer(status),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// The same of a call.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => answer(status),
        kube::Error::SerdeError(source) => format!("the API server's answer doesn't parse: {source}"),
        // What kube itself says of it is little more than the name of a type.
        other => other.source().map_or_else(|| other.to_string(), root_cause),
    }
}

/// The API server's own sentence rather than the debug form of its whole status.
fn answer(status: &kube::core::Status) -> String {
    if status.message.is_empty() {
        format!("the API server answered {} {}", status.code, status.reason).trim_end().to_owned()
    } else {
        status.message.clone()
    }
}

/// hyper's errors say what failed, and nothing of why.
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    let mut unconnected = is_connect(cause);
    // Of a token that can't be read, the file is named above the cause.
    while let (false, Some(next)) = (cause.is::<AuthError>(), cause.source()) {
        cause = next;
        unconnected = unconnected || is_connect(cause);
    }
    if unconnected { format!("no connection to the API server: {cause}") } else { cause.to_string() }
}

fn is_connect(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref::<HyperError>().is_some_and(HyperError::is_connect)
}

/// What is wrong with the files of `KUBECONFIG`; that there is no service account either is beside the point.
fn explain_inferred(error: &InferConfigError) -> String {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<KubeconfigError>());
    cause.map_or_else(|| error.to_string(), explain_kubeconfig)
}

fn explain_kubeconfig(error: &KubeconfigError) -> String {
    match error {
        // kube shows the path in Rust's debug form.
        KubeconfigError::ReadConfig(source, path) => format!("couldn't read {}: {source}", path.display()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use futures::FutureExt as _;
    use kube::core::Status;

    use super::*;

    fn refused(reason: &str, code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("secrets \"a\" is forbidden", reason).with_code(code).boxed())
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let error = bounded("create Secret web/a", async { Err::<(), _>(refused("AlreadyExists", 409)) })
            .await
            .unwrap_err();
        assert!(error.is_already_exists() && !error.is_conflict());
        let error = bounded("apply Secret web/a", async { Err::<(), _>(refused("Forbidden", 403)) })
            .await
            .unwrap_err();
        assert!(error.is_forbidden() && error.is_refusal());
        assert_eq!(error.to_string(), "couldn't apply Secret web/a: secrets \"a\" is forbidden");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_told_with_the_cause() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let http: HyperClient<_, axum::body::Body> =
            HyperClient::builder(TokioExecutor::new()).build(HttpConnector::new());
        let away = http.get(format!("http://{closed}/").parse().unwrap()).await.unwrap_err();
        let away = kube::Error::Service(Box::new(away));
        let error = bounded("get Certificate web/shop", async { Err::<(), _>(away) }).await.unwrap_err();
        let told = error.to_string();
        let cause = "couldn't get Certificate web/shop: no connection to the API server: Connection refused";
        assert!(told.starts_with(cause), "{told}");
        assert!(!error.is_refusal() && error.status().is_none());
    }

    #[test]
    fn a_cause_is_told_without_the_names_of_types() {
        let cut = || kube::Error::ReadEvents(std::io::Error::other("cut"));
        assert_eq!(explain(&cut()), "cut");
        assert_eq!(explain(&kube::Error::ReadEvents(std::io::Error::other(cut()))), "cut");
        assert_eq!(explain(&kube::Error::Service("not now".into())), "not now");
        let token = AuthError::ReadTokenFile(std::io::Error::other("gone"), "/token".into());
        assert!(explain(&kube::Error::Service(token.into())).contains("/token"));
        let silent = Status::failure("", "").with_code(503).boxed();
        assert_eq!(explain(&kube::Error::Api(silent)), "the API server answered 503");
    }

    #[test]
    fn a_watch_is_explained_in_the_api_servers_words_alone() {
        let words = "secrets \"a\" is forbidden";
        let status = Status::failure(words, "Forbidden").with_code(403).boxed();
        for error in [
            watcher::Error::InitialListFailed(refused("Forbidden", 403)),
            watcher::Error::WatchStartFailed(refused("Forbidden", 403)),
            watcher::Error::WatchError(status),
        ] {
            assert_eq!(explain_watch(&error), words);
        }
        let cut = kube::Error::ReadEvents(std::io::Error::other("cut"));
        assert_eq!(explain_watch(&watcher::Error::WatchFailed(cut)), "cut");
    }

    #[test]
    fn a_kubeconfig_that_is_not_there_is_named() {
        let source = Kubeconfig::read_from("/nonexist").unwrap_err();
        let told = ClientError::Kubeconfig { path: "/nonexist".to_owned(), source }.to_string();
        let start = "couldn't use the kubeconfig /nonexist: couldn't read /nonexist: No such file";
        assert!(told.starts_with(start), "{told}");
    }

    #[test]
    fn what_would_be_refused_again_is_told_from_an_outage() {
        let failed = |code| CallError::Failed { what: String::new(), source: Box::new(refused("", code)) };
        assert!([400, 403, 404, 413, 422].into_iter().all(|code| failed(code).is_refusal()));
        assert!([401, 408, 409, 429, 500, 503].into_iter().all(|code| !failed(code).is_refusal()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_turn_is_not_the_api_servers_delay() {
        let turns = Semaphore::new(2);
        let slow = || {
            let answer = tokio::time::sleep(CALL_TIMEOUT * 9 / 10);
            in_turn(&turns, at_once("get Secret web/a", answer.map(Ok)))
        };
        let answers = futures::future::join_all((0..6).map(|_| async { slow().await })).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_api_server_holds_nobody() {
        let error =
            bounded("get Secret web/a", std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        assert!(matches!(error, CallError::TimedOut { .. }));
    }
}
