//! A small CA that plays what a script says: reused orders, refused nonces, cut connections, HTML, …
//!
//! It checks every signature, nonce and URL, so that it is an independent witness of what the engine sends.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as B64;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

use crate::issuing::Issuing;
use crate::parts::Log;
use crate::script::{Endpoint, Fault, Script};
use crate::state::{Order, State};

/// A running CA on loopback. Dropping it ends it.
pub struct Ca {
    /// The URL of its directory.
    pub directory: Url,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    base: String,
    script: Mutex<Script>,
    state: Mutex<State>,
    issuing: Issuing,
    log: Log,
}

type Answer = Response<Full<Bytes>>;

impl Ca {
    /// Starts a CA that plays `script` and writes what it is asked to `log`.
    pub async fn start(script: Script, log: Log) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let directory = format!("{base}/directory").parse().unwrap();
        let shared = Arc::new(Shared {
            base,
            script: Mutex::new(script),
            state: Mutex::default(),
            issuing: Issuing::new(),
            log,
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&shared)));
        Self { directory, shared, _serving: serving }
    }

    /// Changes what it plays.
    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap()
    }

    /// How many requests it has seen.
    pub fn requests(&self) -> usize {
        self.shared.state().requests
    }

    /// The names whose authorizations are in this state.
    pub fn authorizations(&self, status: &str) -> Vec<String> {
        let state = self.shared.state();
        state.authorizations.iter().filter(|one| one.status == status).map(|one| one.name.clone()).collect()
    }

    /// How many accounts it has.
    pub fn accounts(&self) -> usize {
        self.shared.accounts()
    }

    /// How many orders it has, and how many of them got a certificate.
    pub fn orders(&self) -> (usize, usize) {
        let state = self.shared.state();
        (state.orders.len(), state.orders.iter().filter(|order| order.certificate.is_some()).count())
    }

    /// What it saw that it should never see.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state().violations.clone()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = hyper::service::service_fn(|request| Arc::clone(&shared).answer(request));
            // A fault ends the connection with an error.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Shared {
    fn accounts(&self) -> usize {
        self.state().accounts.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, io::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let endpoint = Endpoint::of(&path);
        let fault = {
            let mut state = self.state();
            state.requests += 1;
            let signed = if parts.method == Method::POST {
                state.signed += 1;
                state.signed
            } else {
                0
            };
            self.script.lock().unwrap().fault(endpoint, state.requests, signed)
        };
        self.log.add(format!("ca {endpoint:?}"));
        let cut = || io::Error::other("the script cuts the connection");
        match fault {
            Fault::CutBefore => return Err(cut()),
            Fault::Hang => std::future::pending().await,
            Fault::Html(status) => return Ok(html(status)),
            Fault::NotAcme(kind) => {
                let mut answer = self.respond(200, kind, "{}".to_owned());
                answer.headers_mut().insert("retry-after", 3600.into());
                return Ok(answer);
            }
            Fault::Problem(status, kind, retry_after) => {
                let mut answer = self.problem(status, kind, "the script says so");
                if let Some(seconds) = retry_after {
                    answer.headers_mut().insert("retry-after", seconds.into());
                }
                return Ok(answer);
            }
            Fault::CutAfter | Fault::ActAndHang | Fault::None => {}
        }
        let agent = parts.headers.get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        if !agent.starts_with("waxwing/") {
            self.state().violations.push(format!("{endpoint:?}: user agent {agent:?}"));
        }
        let answer =
            if parts.method == Method::POST { self.post(endpoint, &path, &body) } else { self.get(endpoint) };
        match fault {
            Fault::CutAfter => Err(cut()),
            Fault::ActAndHang => std::future::pending().await,
            _ => Ok(answer),
        }
    }

    fn get(&self, endpoint: Endpoint) -> Answer {
        match endpoint {
            Endpoint::Directory => {
                let base = &self.base;
                self.json(
                    200,
                    &json!({
                        "newNonce": format!("{base}/nonce"),
                        "newAccount": format!("{base}/new-account"),
                        "newOrder": format!("{base}/new-order"),
                        "revokeCert": format!("{base}/revoke"),
                        "renewalInfo": format!("{base}/renewal-info"),
                        "meta": {"termsOfService": "https://ca.example/terms", "profiles": {"short": "six days"}},
                    }),
                )
            }
            Endpoint::NewNonce => self.json(200, &Value::Null),
            _ => self.problem(405, "malformed", "not with GET"),
        }
    }

    fn post(&self, endpoint: Endpoint, path: &str, body: &[u8]) -> Answer {
        let (account, payload) = match self.verify(endpoint, path, body) {
            Ok(verified) => verified,
            Err(refusal) => return *refusal,
        };
        let id = path.rsplit('/').next().and_then(|id| id.parse::<usize>().ok());
        match (endpoint, id) {
            (Endpoint::NewAccount, _) => self.new_account(&account, &payload),
            (Endpoint::Account, _) => self.json(200, &json!({"status": "valid"})),
            (Endpoint::NewOrder, _) => self.new_order(&account, &payload),
            (Endpoint::Order, Some(id)) => self.order(id, true),
            (Endpoint::Authorization, Some(id)) => self.authorization(id, &payload),
            (Endpoint::Challenge, Some(id)) => self.challenge(id),
            (Endpoint::Finalize, Some(id)) => self.finalize(id, &payload),
            (Endpoint::Certificate, Some(id)) => self.certificate(id, path.contains("alternate")),
            _ => self.problem(404, "malformed", "no such resource"),
        }
    }

    /// Checks a JWS; gives the account's URL (or the new key's point) and the payload.
    fn verify(&self, endpoint: Endpoint, path: &str, body: &[u8]) -> Result<(String, Value), Box<Answer>> {
        let violation = |what: &str| {
            self.state().violations.push(format!("{endpoint:?}: {what}"));
            Box::new(self.problem(400, "malformed", what))
        };
        let jws: Value = serde_json::from_slice(body).map_err(|_| violation("not a JWS"))?;
        let part = |name: &str| jws[name].as_str().unwrap_or_default().to_owned();
        let decode = |text: &str| B64.decode(text).unwrap_or_default();
        let protected: Value =
            serde_json::from_slice(&decode(&part("protected"))).map_err(|_| violation("header"))?;
        if protected["url"] != format!("{}{path}", self.base) {
            return Err(violation("url differs"));
        }
        let nonce = protected["nonce"].as_str().unwrap_or_default();
        let known = self.state().nonces.remove(nonce);
        if !known {
            return Err(violation("a nonce spent twice or made up"));
        }
        let bad = self.script.lock().unwrap().bad_nonces;
        if self.state().draw() % 100 < bad {
            return Err(Box::new(self.problem(400, "badNonce", "try again")));
        }
        let (account, point) = if endpoint == Endpoint::NewAccount {
            let mut point = vec![4];
            for axis in ["x", "y"] {
                point.extend(decode(protected["jwk"][axis].as_str().unwrap_or_default()));
            }
            (B64.encode(&point), point)
        } else {
            let account = protected["kid"].as_str().unwrap_or_default().to_owned();
            let Some(point) = self.state().accounts.get(&account).cloned() else {
                return Err(Box::new(self.problem(400, "accountDoesNotExist", "unknown account")));
            };
            (account, point)
        };
        let input = format!("{}.{}", part("protected"), part("payload"));
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(input.as_bytes(), &decode(&part("signature")))
            .map_err(|_| violation("signature"))?;
        let payload = decode(&part("payload"));
        Ok((
            account,
            if payload.is_empty() { Value::Null } else { serde_json::from_slice(&payload).unwrap() },
        ))
    }

    fn new_account(&self, point: &str, payload: &Value) -> Answer {
        let point = B64.decode(point).unwrap();
        let known =
            self.state().accounts.iter().find(|(_, known)| **known == point).map(|(url, _)| url.clone());
        let document = json!({"status": "valid", "contact": payload["contact"]});
        if let Some(url) = known {
            return self.located(200, &url, &document);
        }
        let key_id = self.script.lock().unwrap().external_account;
        let binding = payload["externalAccountBinding"]["protected"].as_str().unwrap_or_default();
        let header: Value =
            serde_json::from_slice(&B64.decode(binding).unwrap_or_default()).unwrap_or_default();
        if key_id.is_some_and(|key_id| header["kid"] != key_id) {
            return self.problem(403, "externalAccountRequired", "bind the account");
        }
        let url = format!("{}/account/{}", self.base, self.accounts());
        self.state().accounts.insert(url.clone(), point);
        self.located(201, &url, &document)
    }

    fn new_order(&self, account: &str, payload: &Value) -> Answer {
        let script = self.script.lock().unwrap();
        let replaces = payload["replaces"].as_str().map(str::to_owned);
        if let (Some(kind), Some(_)) = (script.refuse_replaces, &replaces) {
            drop(script);
            return self.problem(409, kind, "that certificate was replaced already");
        }
        let names: BTreeSet<String> = payload["identifiers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|identifier| identifier["value"].as_str().unwrap().to_owned())
            .collect();
        let names: Vec<String> = names.into_iter().collect();
        let mut state = self.state();
        let reusable = |order: &Order| {
            script.reuse_orders
                && order.account == account
                && order.names == names
                && matches!(order.status, "pending" | "ready")
        };
        let foreign_before =
            state.orders.iter().position(|order| order.names == names && order.status == "valid");
        let id = match state.orders.iter().position(reusable) {
            Some(id) => id,
            None if script.same_foreign_order && foreign_before.is_some() => foreign_before.unwrap(),
            None => {
                let authorizations = if script.no_authorizations {
                    Vec::new()
                } else {
                    names.iter().map(|name| state.authorize(name, script.valid_at_once)).collect()
                };
                let foreign = script.same_foreign_order || state.orders.len() < script.foreign_orders;
                let certificate = foreign.then(|| {
                    state.certificates.push(self.issuing.foreign(&names));
                    state.certificates.len() - 1
                });
                state.orders.push(Order {
                    names,
                    replaces,
                    authorizations,
                    status: if foreign { "valid" } else { "pending" },
                    polls: 0,
                    late: script.late_ready,
                    certificate,
                    account: account.to_owned(),
                });
                state.orders.len() - 1
            }
        };
        drop((script, state));
        let mut answer = self.order(id, false);
        *answer.status_mut() = StatusCode::CREATED;
        answer
    }

    fn order(&self, id: usize, polled: bool) -> Answer {
        let script = self.script.lock().unwrap();
        let mut state = self.state();
        let State { orders, authorizations, .. } = &mut *state;
        let Some(order) = orders.get_mut(id) else {
            drop((script, state));
            return self.problem(404, "malformed", "no such order");
        };
        let of_order = || order.authorizations.iter().filter_map(|id| authorizations.get(*id));
        let mut error = Value::Null;
        if order.status == "pending" {
            if let Some(failed) = of_order().find(|one| one.status == "invalid") {
                order.status = "invalid";
                error = json!({"type": "urn:ietf:params:acme:error:unauthorized", "detail": failed.name});
            } else if of_order().all(|one| one.status == "valid") {
                if order.late == 0 {
                    order.status = "ready";
                }
                order.late = order.late.saturating_sub(1);
            }
        }
        if order.status == "processing" && polled {
            order.polls += 1;
            if order.polls > script.finalize_polls {
                order.status = "valid";
            }
        }
        let base = &self.base;
        let mut document = json!({
            "status": order.status,
            "identifiers": order.names.iter().map(|name| json!({"type": "dns", "value": name})).collect::<Vec<_>>(),
            "authorizations": order.authorizations.iter().map(|id| format!("{base}/authorization/{id}")).collect::<Vec<_>>(),
            "finalize": format!("{base}/finalize/{id}"),
        });
        if !error.is_null() {
            document["error"] = error;
        }
        if let (Some(certificate), "valid") = (order.certificate, order.status) {
            document["certificate"] = json!(format!("{base}/certificate/{certificate}"));
        }
        if let Some(replaces) = order.replaces.as_ref().filter(|_| !script.forget_replaces) {
            document["replaces"] = json!(replaces);
        }
        let retry_after = script.retry_after.filter(|_| order.status == "processing");
        let url = format!("{base}/order/{id}");
        drop((script, state));
        let mut answer = self.located(200, &url, &document);
        if let Some(seconds) = retry_after {
            answer.headers_mut().insert("retry-after", seconds.into());
        }
        answer
    }

    fn authorization(&self, id: usize, payload: &Value) -> Answer {
        let script = self.script.lock().unwrap();
        let mut state = self.state();
        if let (Some(authorization), "deactivated") =
            (state.authorizations.get_mut(id), payload["status"].as_str().unwrap_or_default())
        {
            authorization.status = "deactivated";
        }
        let Some(authorization) = state.authorizations.get_mut(id) else {
            drop((script, state));
            return self.problem(404, "malformed", "no such authorization");
        };
        let mut error = Value::Null;
        let fails = script.invalid.filter(|(host, _)| *host == authorization.name);
        if authorization.status == "processing" {
            authorization.polls += 1;
            if authorization.polls > script.validation_polls {
                authorization.status = if fails.is_some() { "invalid" } else { "valid" };
            }
        }
        if let (Some((_, kind)), "invalid") = (fails, authorization.status) {
            error = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "looked, and saw nothing"});
        }
        if authorization.looked_in_vain && authorization.status == "pending" {
            error =
                json!({"type": "urn:ietf:params:acme:error:connection", "detail": "looked, and saw nothing"});
        }
        let (status, challenge) = match authorization.status {
            "processing" => ("pending", "processing"),
            other => (other, other),
        };
        let offered: &[&str] =
            if script.offered.is_empty() { &["dns-01", "http-01"] } else { &script.offered };
        let challenges: Vec<Value> = offered
            .iter()
            .map(|kind| {
                let mut one = json!({
                    "type": kind, "url": format!("{}/challenge/{id}", self.base), "status": challenge,
                    "token": format!("token-{id}"),
                });
                if *kind == "http-01" && !error.is_null() {
                    one["error"] = error.clone();
                }
                one
            })
            .collect();
        let (wildcard, base) = match authorization.name.strip_prefix("*.") {
            Some(base) => (true, base.to_owned()),
            None => (false, authorization.name.clone()),
        };
        let mut document = json!({
            "status": status, "identifier": {"type": "dns", "value": base}, "challenges": challenges,
        });
        if wildcard {
            document["wildcard"] = json!(true);
        }
        let retry_after = script.retry_after.filter(|_| status == "pending");
        drop((script, state));
        let mut answer = self.json(200, &document);
        if let Some(seconds) = retry_after {
            answer.headers_mut().insert("retry-after", seconds.into());
        }
        answer
    }

    fn challenge(&self, id: usize) -> Answer {
        let mut script = self.script.lock().unwrap();
        let mut state = self.state();
        let authorization = &mut state.authorizations[id];
        if authorization.status != "pending" {
            drop((script, state));
            return self.problem(400, "malformed", "the authorization is not pending");
        }
        if script.looks_in_vain > 0 {
            script.looks_in_vain -= 1;
            authorization.looked_in_vain = true;
        } else {
            authorization.status = "processing";
        }
        drop((script, state));
        self.json(
            200,
            &json!({"type": "http-01", "url": "x", "status": "processing", "token": format!("token-{id}")}),
        )
    }

    fn finalize(&self, id: usize, payload: &Value) -> Answer {
        drop(self.order(id, false));
        let wrong = self.script.lock().unwrap().wrong_name;
        let mut state = self.state();
        if state.orders[id].status != "ready" {
            drop(state);
            return self.problem(403, "orderNotReady", "the order is not ready");
        }
        let csr = B64.decode(payload["csr"].as_str().unwrap()).unwrap();
        let (names, chain) = self.issuing.sign(csr, wrong);
        let ordered = state.orders[id].names.clone();
        if names != ordered {
            state.violations.push(format!("a CSR for {names:?} instead of {ordered:?}"));
        }
        state.certificates.push(chain);
        let certificate = state.certificates.len() - 1;
        let order = &mut state.orders[id];
        order.certificate = Some(certificate);
        order.status = "processing";
        drop(state);
        self.order(id, false)
    }

    fn certificate(&self, id: usize, alternate: bool) -> Answer {
        let chains = self.state().certificates[id].clone();
        let body = chains[usize::from(alternate)].clone();
        let mut answer = self.respond(200, "application/pem-certificate-chain", body);
        if !alternate {
            let link = format!("<{}/alternate/certificate/{id}>;rel=\"alternate\"", self.base);
            answer.headers_mut().append("link", link.parse().unwrap());
            answer.headers_mut().append("link", "<https://ca.example/dir>;rel=\"index\"".parse().unwrap());
        }
        answer
    }

    fn problem(&self, status: u16, kind: &str, detail: &str) -> Answer {
        let document = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail});
        self.respond(status, "application/problem+json", document.to_string())
    }

    fn located(&self, status: u16, url: &str, document: &Value) -> Answer {
        let mut answer = self.json(status, document);
        answer.headers_mut().insert("location", url.parse().unwrap());
        answer
    }

    fn json(&self, status: u16, document: &Value) -> Answer {
        let body = if document.is_null() { String::new() } else { document.to_string() };
        self.respond(status, "application/json", body)
    }

    fn respond(&self, status: u16, kind: &str, body: String) -> Answer {
        let nonce = self.state().nonce();
        Response::builder()
            .status(status)
            .header("content-type", kind)
            .header("replay-nonce", nonce)
            .body(Full::from(body))
            .unwrap()
    }
}

fn html(status: u16) -> Answer {
    Response::builder()
        .status(status)
        .header("content-type", "text/html; charset=utf-8")
        .body(Full::from("<!DOCTYPE html><title>Maintenance</title>"))
        .unwrap()
}
