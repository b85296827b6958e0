//! The part of the demo that runs inside of the lab: applies the examples, shows what happens, and fetches
//! the result.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, pin_mut};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::Secret,
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
        networking::v1::Ingress,
    },
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
    sync::mpsc,
};
use waxwing_api::{Certificate, ClusterIssuer, labels, reason};

use super::{
    app,
    install::{Install, by_helm},
    log_tail::{self, LogTail},
    screen::{Look, Screen},
    seconds,
    timeline::{Line, Moment, News, Timeline, What, from_log},
};
use crate::{
    Error,
    http::Http,
    lab::{OWN_NAMESPACE, Pebble},
    parts::Part,
    paths, probe,
    sandbox::NODE_ADDRESS,
    up::Named,
};

/// The namespace of the examples.
const NAMESPACE: &str = "web";
/// The Certificates that the examples make, and the name of each.
const CERTIFICATES: [(&str, &str); 2] = [("shop", "shop.example.com"), ("app-tls", "app.example.com")];
/// The Services of the examples, which `make demo` leads to the demo's app.
const SERVICES: [&str; 2] = ["shop", "app"];
/// Longest time for the issuer, and for the Certificates.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a moment waits for earlier ones from slower sources.
const IN_ORDER: Duration = Duration::from_millis(60);

/// Tells it.
pub async fn tell(named: &Named, install: Install) -> Result<(), Error> {
    let mut screen = Screen::new();
    let story = Story::new(named).await?;
    if install == Install::Helm {
        by_helm(&story.files, &mut screen).await?;
    }
    story.app().await?;
    story.tidy(&mut screen).await?;
    story.issuer(&mut screen).await?;
    story.certificates(&mut screen).await?;
    story.fetch(&mut screen).await
}

struct Story {
    client: Client,
    files: PathBuf,
    logs: PathBuf,
    app_log: PathBuf,
    kubectl: PathBuf,
}

impl Story {
    async fn new(named: &Named) -> Result<Self, Error> {
        let files = named.directory().join("files");
        let failed = || "reading the lab's kubeconfig";
        let kubeconfig =
            Kubeconfig::read_from(files.join("admin.kubeconfig")).map_err(Error::invalid(failed))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(Error::invalid(failed))?;
        Ok(Self {
            client: Client::try_from(config).map_err(Error::kube(failed))?,
            files,
            logs: named.logs(),
            app_log: named.logs().join("app.log"),
            kubectl: Part::Kubernetes.program("kubectl")?,
        })
    }

    /// Starts the app unless it runs. It ends with the lab.
    async fn app(&self) -> Result<(), Error> {
        let url = format!("http://{NODE_ADDRESS}:{}/", app::PORT);
        let http = Http::new("")?;
        if http.get(&url).await.is_ok() {
            return Ok(());
        }
        let failed = || "starting the demo's app";
        let log = std::fs::File::create(&self.app_log).map_err(Error::io(failed))?;
        let errors = log.try_clone().map_err(Error::io(failed))?;
        let exe = std::env::current_exe().map_err(Error::io(failed))?;
        // A group of its own: Ctrl-C at the demo is not meant for it.
        let _ = std::os::unix::process::CommandExt::process_group(&mut std::process::Command::new(exe), 0)
            .arg("demo-app")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(Error::io(failed))?;
        probe::until("the demo's app", Duration::from_secs(10), || http.get(&url)).await.map(|_| ())
    }

    /// Takes away what an earlier demo left, so that this one shows everything again.
    async fn tidy(&self, screen: &mut Screen) -> Result<(), Error> {
        let certificates: Api<Certificate> = Api::namespaced(self.client.clone(), NAMESPACE);
        let ingresses: Api<Ingress> = Api::namespaced(self.client.clone(), NAMESPACE);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        let failed = || format!("taking away what an earlier demo left in namespace {NAMESPACE}");
        let ours =
            ListParams::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_WAXWING));
        let left = secrets.list(&ours).await.map_err(Error::kube(failed))?;
        if left.items.is_empty()
            && certificates.list(&ListParams::default()).await.map_err(Error::kube(failed))?.items.is_empty()
        {
            return Ok(());
        }
        screen.line(&screen.paint(Look::Faint, "Taking away the certificates of the last demo."));
        let all = ListParams::default();
        let now = DeleteParams::default();
        // The annotated Ingress first: it would make its Certificate again.
        ingresses.delete_collection(&now, &all).await.map_err(Error::kube(failed))?;
        certificates.delete_collection(&now, &all).await.map_err(Error::kube(failed))?;
        probe::until("the end of the last demo's Certificates", PATIENCE, || async {
            let left = certificates.list(&all).await.map_err(|error| error.to_string())?;
            if left.items.is_empty() { Ok(()) } else { Err(format!("{} are left", left.items.len())) }
        })
        .await?;
        secrets.delete_collection(&now, &ours).await.map(|_| ()).map_err(Error::kube(failed))
    }

    /// Applies the issuer with the lab's CA as its server, and waits for its account.
    async fn issuer(&self, screen: &mut Screen) -> Result<(), Error> {
        let file = "examples/issuer.yaml";
        let manifest = self.lab_issuer(&paths::read(&paths::workspace().join(file))?)?;
        screen.line("");
        screen.line(&format!(
            "{}{}",
            screen.paint(Look::Bold, &format!("$ kubectl apply -f {file}")),
            screen.paint(Look::Faint, "   # with the lab's CA, Pebble, as its server")
        ));
        let mut ready = tokio::spawn(issuer_ready(self.client.clone()));
        self.kubectl(&["apply", "-f", "-"], Some(&manifest), screen).await?;
        let started = Instant::now();
        loop {
            tokio::select! {
                took = &mut ready => {
                    let took = took.map_err(Error::invalid(|| "watching ClusterIssuer acme"))?;
                    let took = took.map_err(|last| self.late("ClusterIssuer acme", &last))?;
                    let ready = screen.paint(Look::Good, "Ready");
                    screen.line(&format!("  {}  acme     {ready}: its account is registered", seconds(took)));
                    return Ok(());
                }
                () = tokio::time::sleep(IN_ORDER) => {
                    screen.waiting(&format!("  {}  …", seconds(started.elapsed())));
                }
            }
        }
    }

    /// `examples/issuer.yaml`, with Pebble's directory and root.
    fn lab_issuer(&self, yaml: &str) -> Result<String, Error> {
        let failed = || "reading examples/issuer.yaml";
        let mut issuer: Value = serde_yaml::from_str(yaml).map_err(Error::invalid(failed))?;
        let root = paths::read(&self.files.join("lab-root.pem"))?;
        let acme = issuer.pointer_mut("/spec/acme").and_then(Value::as_object_mut);
        let Some(acme) = acme else {
            return Err(Error::Invalid { what: failed().to_owned(), why: "it has no spec.acme".to_owned() });
        };
        acme.insert("server".to_owned(), json!(Pebble::POD_DIRECTORY));
        acme.insert("caBundle".to_owned(), json!(ByteString(root.into_bytes())));
        Ok(issuer.to_string())
    }

    /// Applies the other examples and shows what becomes of their Certificates.
    async fn certificates(&self, screen: &mut Screen) -> Result<(), Error> {
        let (moments, mut received) = mpsc::channel(256);
        for log in log_tail::of_waxwing(&self.logs) {
            tokio::spawn(follow_log(LogTail::from_end(&log)?, moments.clone()));
        }
        let _tasks = [
            tokio::spawn(follow_certificates(self.client.clone(), moments.clone())),
            tokio::spawn(follow_routes(self.client.clone(), moments)),
        ];
        let files = ["examples/certificate.yaml", "examples/app-with-annotated-ingress.yaml"];
        screen.line("");
        screen.line(&screen.paint(Look::Bold, &format!("$ kubectl apply -f {} -f {}", files[0], files[1])));
        let examples = files.map(|file| paths::workspace().join(file).display().to_string());
        self.kubectl(&["apply", "-f", &examples[0], "-f", &examples[1]], None, screen).await?;
        self.endpoints().await?;

        let started = Instant::now();
        let mut timeline = Timeline::default();
        let mut waiting: BTreeMap<String, String> =
            CERTIFICATES.iter().map(|(name, _)| ((*name).to_owned(), "nothing yet".to_owned())).collect();
        let mut looks = tokio::time::interval(IN_ORDER);
        while !waiting.is_empty() {
            tokio::select! {
                heard = received.recv() => match heard {
                    Some(Heard::Moment(moment)) => timeline.add(moment),
                    Some(Heard::Route { host, at }) => timeline.route(&host, at),
                    None => return Err(self.late("the watches of the demo", "they ended")),
                },
                _ = looks.tick() => {
                    let until = Timestamp::now().saturating_sub(IN_ORDER).unwrap_or(Timestamp::MIN);
                    for line in timeline.take(until) {
                        show(screen, &line);
                        waiting.entry(line.name.clone()).and_modify(|last| last.clone_from(&line.text));
                        if line.news == News::Ready {
                            waiting.remove(&line.name);
                        }
                    }
                    let left: Vec<String> = waiting.iter().map(|(name, last)| format!("{name}: {last}")).collect();
                    if started.elapsed() > PATIENCE {
                        return Err(self.late("every Certificate", &left.join("; ")));
                    }
                    if !left.is_empty() {
                        screen.waiting(&format!("  {:.1} s  …", started.elapsed().as_secs_f64()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Leads the examples' Services to the app, as pods behind them would.
    async fn endpoints(&self) -> Result<(), Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        for service in SERVICES {
            let slice = EndpointSlice {
                metadata: ObjectMeta {
                    name: Some(format!("{service}-demo")),
                    labels: Some(BTreeMap::from([(
                        "kubernetes.io/service-name".to_owned(),
                        service.to_owned(),
                    )])),
                    ..ObjectMeta::default()
                },
                address_type: "IPv4".to_owned(),
                endpoints: Some(vec![Endpoint {
                    addresses: vec![NODE_ADDRESS.to_owned()],
                    conditions: Some(EndpointConditions {
                        ready: Some(true),
                        ..EndpointConditions::default()
                    }),
                    ..Endpoint::default()
                }]),
                ports: Some(vec![EndpointPort {
                    name: Some("http".to_owned()),
                    port: Some(i32::from(app::PORT)),
                    ..EndpointPort::default()
                }]),
            };
            let params = PatchParams::apply("waxwing-demo").force();
            api.patch(&slice.name_any(), &params, &Patch::Apply(&slice))
                .await
                .map_err(Error::kube(|| format!("leading Service {service} to the demo's app")))?;
        }
        Ok(())
    }

    /// Fetches each name over HTTPS as a browser would that trusts Pebble's root and no other.
    async fn fetch(&self, screen: &mut Screen) -> Result<(), Error> {
        let lab_root = paths::read(&self.files.join("lab-root.pem"))?;
        let root = Http::new(&lab_root)?.get(Pebble::ISSUANCE_ROOT).await?.ok("Pebble's root")?;
        let browser = Http::new(&root)?;
        screen.line("");
        for (_, host) in CERTIFICATES {
            let url = format!("https://{host}/");
            screen.line(&format!(
                "{}{}",
                screen.paint(Look::Bold, &format!("GET {url}")),
                screen.paint(Look::Faint, "   through Traefik, trusting Pebble's root alone")
            ));
            let started = Instant::now();
            screen.waiting("  waiting for Traefik to take up the certificate");
            let answer = probe::until(&url, PATIENCE, || async {
                let answer = browser.get(&url).await.map_err(|error| error.to_string())?;
                let status = answer.status;
                let body = answer.ok(&url).map_err(|error| error.to_string())?;
                Ok::<_, String>((status, body))
            })
            .await;
            let (status, body) = answer?;
            screen.line(&format!(
                "  {}  {}  {}",
                seconds(started.elapsed()),
                screen.paint(Look::Good, &format!("{status}, verified")),
                body.trim()
            ));
        }
        Ok(())
    }

    /// Runs kubectl, with its output on the screen as it comes.
    async fn kubectl(
        &self,
        arguments: &[&str],
        input: Option<&str>,
        screen: &mut Screen,
    ) -> Result<(), Error> {
        let what = format!("kubectl {}", arguments.join(" "));
        let failed = || what.clone();
        let mut child = Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(self.files.join("admin.kubeconfig"))
            .arg("--cache-dir")
            .arg(self.files.join("kubectl-cache"))
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io(failed))?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            pipe.write_all(input.as_bytes()).await.map_err(Error::io(failed))?;
        }
        if let Some(output) = child.stdout.take() {
            let mut lines = BufReader::new(output).lines();
            while let Some(line) = lines.next_line().await.map_err(Error::io(failed))? {
                screen.line(&line);
            }
        }
        let output = child.wait_with_output().await.map_err(Error::io(failed))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Invalid { what, why })
    }

    fn late(&self, what: &str, last: &str) -> Error {
        let hints = log_tail::of_waxwing(&self.logs).into_iter().map(|log| log_tail::hint(&log));
        let said: Vec<String> = std::iter::once(last.to_owned()).chain(hints).collect();
        Error::NotReady { what: what.to_owned(), after: PATIENCE, last: said.join("\n") }
    }
}

/// What the sources tell.
enum Heard {
    Moment(Moment),
    Route { host: String, at: Timestamp },
}

fn show(screen: &mut Screen, line: &Line) {
    let text = match line.news {
        News::Step => line.text.clone(),
        News::Ready => screen.paint(Look::Good, &line.text),
        News::Bad => screen.paint(Look::Bad, &line.text),
    };
    screen.line(&format!("  {}  {:<8} {text}", seconds(line.time), line.name));
}

/// How long the issuer took from its appearance to Ready, or what it said last.
async fn issuer_ready(client: Client) -> Result<Duration, String> {
    let api: Api<ClusterIssuer> = Api::all(client);
    let events = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
    pin_mut!(events);
    let mut appeared = None;
    let mut last = "it never appeared".to_owned();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Ok(Some(event)) = tokio::time::timeout_at(deadline, events.next()).await {
        let issuer = match event {
            Ok(issuer) => issuer,
            Err(error) => {
                last = error.to_string();
                continue;
            }
        };
        let appeared = *appeared.get_or_insert_with(Instant::now);
        let conditions = issuer.status.map(|status| status.conditions).unwrap_or_default();
        match conditions.into_iter().find(|condition| condition.type_ == reason::READY) {
            Some(ready) if ready.status == "True" => return Ok(appeared.elapsed()),
            Some(ready) => last = ready.message,
            None => "it has no condition yet".clone_into(&mut last),
        }
    }
    Err(last)
}

async fn follow_log(tail: LogTail, moments: mpsc::Sender<Heard>) {
    let (lines, mut received) = mpsc::channel(256);
    let follow = tail.follow(lines);
    let pass = async {
        while let Some(line) = received.recv().await {
            if let Some(moment) = from_log(&line)
                && moments.send(Heard::Moment(moment)).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = follow => {}
        () = pass => {}
    }
}

async fn follow_certificates(client: Client, moments: mpsc::Sender<Heard>) {
    let api: Api<Certificate> = Api::namespaced(client, NAMESPACE);
    let events = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
    pin_mut!(events);
    let mut told: BTreeMap<String, bool> = BTreeMap::new();
    while let Some(event) = events.next().await {
        let at = Timestamp::now();
        // A broken watch begins anew by itself.
        let Ok(certificate) = event else { continue };
        let name = certificate.name_any();
        let key = format!("{NAMESPACE}/{name}");
        let status = certificate.status.as_ref();
        let ready = status.is_some_and(|status| {
            status
                .conditions
                .iter()
                .any(|condition| condition.type_ == reason::READY && condition.status == "True")
        });
        let mut news = Vec::new();
        let before = told.insert(name, ready);
        if before.is_none() {
            news.push(What::Applied);
        }
        if ready && before != Some(true) {
            let until = status.and_then(|status| status.not_after.as_ref());
            let until = until.map(|time| time.0.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
            news.push(What::Ready { until });
        }
        for what in news {
            let moment = Moment { at, certificate: key.clone(), what };
            if moments.send(Heard::Moment(moment)).await.is_err() {
                return;
            }
        }
    }
}

async fn follow_routes(client: Client, moments: mpsc::Sender<Heard>) {
    let api: Api<Ingress> = Api::namespaced(client, OWN_NAMESPACE);
    let routes = format!("{}={}", labels::COMPONENT, labels::COMPONENT_ROUTE);
    let config = watcher::Config::default().labels(&routes);
    let events = watcher(api, config).default_backoff().applied_objects();
    pin_mut!(events);
    // Those that stand there already count from here: before anything is applied.
    while let Some(event) = events.next().await {
        let at = Timestamp::now();
        let Ok(route) = event else { continue };
        let rules = route.spec.and_then(|spec| spec.rules).unwrap_or_default();
        for host in rules.into_iter().filter_map(|rule| rule.host) {
            if moments.send(Heard::Route { host, at }).await.is_err() {
                return;
            }
        }
    }
}
