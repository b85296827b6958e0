//! A CA with lists and a responder, on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CustomExtension, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevocationReason, RevokedCertParams, date_time_ymd,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use waxwing_acme::{RevocationConfig, RevocationSources, RevocationStatus, Revocations};

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The lists below are valid from two days before it to four days after.
pub fn now() -> Timestamp {
    at("2026-11-22T12:00:00Z")
}

/// A CA.
pub struct Ca {
    pub issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A chain of ninety days that names these lists.
    pub fn chain(&self, serial: u64, lists: &[&str]) -> String {
        self.chain_with(serial, |params| {
            if !lists.is_empty() {
                let uris = lists.iter().map(|url| (*url).to_owned()).collect();
                params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
            }
        })
    }

    pub fn chain_with(&self, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 11, 1);
        params.not_after = date_time_ymd(2027, 1, 30);
        params.serial_number = Some(serial.into());
        change(&mut params);
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().pem();
        format!("{leaf}{}", self.pem)
    }

    /// A list with these serial numbers, revoked because of a key compromise.
    pub fn list(&self, serials: &[u64]) -> Vec<u8> {
        self.list_with(serials, |_| {})
    }

    pub fn list_with(
        &self,
        serials: &[u64],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> Vec<u8> {
        let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2026, 11, 19),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 11, 20),
            next_update: date_time_ymd(2026, 11, 26),
            crl_number: 7_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

/// Says that a list is for these distribution points.
pub fn scope(url: &str) -> CrlIssuingDistributionPoint {
    CrlIssuingDistributionPoint {
        distribution_point: CrlDistributionPoint { uris: vec![url.to_owned()] },
        scope: Some(rcgen::CrlScope::UserCertsOnly),
    }
}

/// An extension that names a responder (RFC 5280 §4.2.2.1).
pub fn responder(url: &str) -> CustomExtension {
    let method = der(0x06, &[&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01]]);
    let access = der(0x30, &[&method, &der(0x86, &[url.as_bytes()])]);
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], der(0x30, &[&access]))
}

/// An element in DER, of less than 64 KiB.
pub fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = if content.len() < 128 { vec![tag, low] } else { vec![tag, 0x82, high, low] };
    [head, content].concat()
}

type Answer = dyn Fn(Bytes) -> Response + Send + Sync;

/// A server that answers every path in the same way, and counts.
pub struct Server {
    pub url: String,
    answer: Arc<Mutex<Arc<Answer>>>,
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Server {
    pub async fn start() -> Self {
        let not_found: Arc<Answer> = Arc::new(|_| StatusCode::NOT_FOUND.into_response());
        let (answer, asked) = (Arc::new(Mutex::new(not_found)), Arc::new(AtomicUsize::new(0)));
        let router = {
            let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
            Router::new().fallback(async move |body: Bytes| {
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = Arc::clone(&*answer.lock().unwrap());
                answer(body)
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/1.crl", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, answer, asked, _serving: serving }
    }

    /// From now on answers so.
    pub fn answers<A: IntoResponse>(&self, answer: impl Fn(Bytes) -> A + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(move |body| answer(body).into_response());
    }

    pub fn serves(&self, body: Vec<u8>) {
        self.answers(move |_| body.clone());
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

pub fn revocations() -> Revocations {
    Revocations::new(RevocationConfig::default()).unwrap()
}

/// Asks about a chain, in a word or two.
pub async fn ask(revocations: &Revocations, chain: &str, now: Timestamp) -> String {
    let sources = RevocationSources::of(chain).unwrap();
    match revocations.ask(&sources, now).await.status {
        RevocationStatus::Good => "good".to_owned(),
        RevocationStatus::Revoked(revoked) => format!("revoked {revoked}"),
        RevocationStatus::Unknown(error) => error.to_string(),
    }
}
