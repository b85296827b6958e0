//! A stored certificate that its CA has revoked is replaced, with another key, and the cluster is told why.

#![allow(clippy::expect_used, reason = "a test without its CA has to stop")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::Router;
use e2e::{
    Error,
    lab::{
        Parts, TraefikOptions,
        scenario::{Scenario, Stage, condition},
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, date_time_ymd,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};
use waxwing_api::{Certificate, labels, reason};

const GOOD: u64 = 1;
const REVOKED: u64 = 2;

#[tokio::test]
async fn a_revoked_certificate_is_replaced_with_a_new_key() -> Result<(), Error> {
    let parts = Parts { traefik: Some(TraefikOptions::default()), step_ca: true, ..Parts::default() };
    let stage = Stage::start("revocation", parts).await?;
    let s = stage.scenario("revocation").await?;
    let ca = Ca::start().await;
    let good = ca.store(&s, "calm", GOOD).await?;
    let revoked = ca.store(&s, "shop", REVOKED).await?;
    let keep = json!({"rotationPolicy": "Never"});
    s.certify("calm", json!({"dnsNames": [s.routed("calm")], "privateKey": keep})).await?;
    s.certify("shop", json!({"dnsNames": [s.routed("shop")], "privateKey": keep})).await?;

    // What was revoked is said, and then mended: with another key, although it asks for the same.
    let told = "The CA has revoked the stored certificate (since 2024-01-31T00:00:00Z, keyCompromise).";
    s.told("Certificate", "shop", "Warning", reason::REVOKED, told).await?;
    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!((status.revision, status.failed_issuance_attempts), (Some(1), None));
    let replaced = s.pair("shop-tls").await?;
    assert!(replaced.key_pem != revoked, "the key is another one");
    replaced.serves(&s.roots().await?, &[s.routed("shop")])?;

    // The other one stays: asked about, found good, by the same list.
    let kept = s.ready("calm").await?;
    let ready = condition(&kept, reason::READY).map(|ready| ready.reason.clone());
    assert_eq!(ready.as_deref(), Some(reason::ISSUED));
    assert!(s.pair("calm-tls").await?.key_pem == good, "the key is the same");
    assert_eq!(ca.asked.load(Ordering::SeqCst), 1, "one list for both");

    // A process that knows nothing of it finds both in order.
    stage.operator().kill();
    s.start_again().await?;
    s.certify("later", json!({"dnsNames": [s.routed("later")]})).await?;
    s.ready("later").await?;
    assert!(s.pair("shop-tls").await?.key_pem == replaced.key_pem, "the key is the same");
    assert_eq!(s.get::<Certificate>("shop").await?.status.unwrap_or_default().revision, Some(1));
    s.nothing_left().await
}

/// A CA that Waxwing never orders from, with a list on loopback.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    list_url: String,
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Ca {
    async fn start() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "A CA that revokes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 2, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: REVOKED.into(),
                revocation_time: date_time_ymd(2024, 1, 31),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&issuer).expect("a list").der().to_vec();

        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let router = Router::new().fallback(async move || {
            counter.fetch_add(1, Ordering::SeqCst);
            list
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let list_url = format!("http://{}/ca.crl", listener.local_addr().expect("an address"));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.expect("a server") });
        Self { issuer, certificate_pem, list_url, asked, _serving: serving }
    }

    /// Puts a pair of this CA into the Secret of a Certificate that isn't there yet. Gives the key.
    async fn store(&self, s: &Scenario<'_>, certificate: &str, serial: u64) -> Result<String, Error> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([s.routed(certificate)]).expect("a name");
        params.serial_number = Some(serial.into());
        params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![self.list_url.clone()] }];
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        let chain = format!("{leaf}{}", self.certificate_pem);
        let (name, key) = (format!("{certificate}-tls"), key.serialize_pem());
        s.secret(&name, "kubernetes.io/tls", &[("tls.crt", &chain), ("tls.key", &key)]).await?;
        s.annotate(&name, labels::ADOPT, Some("true")).await?;
        Ok(key)
    }
}
