//! Responders (OCSP), for certificates whose lists don't say it.

use axum::body::Bytes;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SigningKey, date_time_ymd};
use x509_parser::asn1_rs::{Any, FromDer};

use super::pki::{Ca, Server, ask, der, now, responder, revocations};

/// Who signs an answer.
struct Signer<'a> {
    key: &'a KeyPair,
    certificate: Option<Vec<u8>>,
}

const GOOD: &[u8] = &[0x80, 0];
const UNKNOWN: &[u8] = &[0x82, 0];

fn revoked() -> Vec<u8> {
    let reason = der(0xa0, &[&der(0x0a, &[&[1]])]);
    der(0xa1, &[&der(0x18, &[b"20261119000000Z"]), &reason])
}

/// An answer (RFC 6960 §4.2.1) to a question, with this status, valid until the given time.
fn answer(question: &[u8], status: &[u8], until: &str, signer: &Signer<'_>) -> Vec<u8> {
    // SEQUENCE of OCSPRequest, TBSRequest, requestList and Request: in them is the CertID.
    let mut id = question;
    for _ in 0..4 {
        id = Any::from_der(id).unwrap().1.data;
    }
    let time = |text: &str| der(0x18, &[text.as_bytes()]);
    let single = der(0x30, &[id, status, &time("20261120000000Z"), &der(0xa0, &[&time(until)])]);
    let responder = der(0xa2, &[&der(0x04, &[&[7; 20]])]);
    let data = der(0x30, &[&responder, &time("20261120000000Z"), &der(0x30, &[&single])]);
    // ecdsa-with-SHA256.
    let algorithm = der(0x30, &[&der(0x06, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]])]);
    let signature = der(0x03, &[&[0], &signer.key.sign(&data).unwrap()]);
    let certificates =
        signer.certificate.iter().map(|certificate| der(0xa0, &[&der(0x30, &[certificate])])).next();
    let basic = der(0x30, &[&data, &algorithm, &signature, &certificates.unwrap_or_default()]);
    let kind = der(0x06, &[&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01]]);
    let bytes = der(0xa0, &[&der(0x30, &[&kind, &der(0x04, &[&basic])])]);
    der(0x30, &[&der(0x0a, &[&[0]]), &bytes])
}

fn chain(ca: &Ca, server: &Server) -> String {
    ca.chain_with(300, |leaf| leaf.custom_extensions.push(responder(&server.url)))
}

#[tokio::test]
async fn a_responder_says_it_where_there_is_no_list() {
    let (ca, server) = (Ca::new("CA"), Server::start().await);
    let chain = chain(&ca, &server);
    let own = Signer { key: ca.issuer.key(), certificate: None };
    let cases = [
        (GOOD.to_vec(), "20261126000000Z", "good"),
        (revoked(), "20261126000000Z", "revoked since 2026-11-19T00:00:00Z, keyCompromise"),
        (UNKNOWN.to_vec(), "20261126000000Z", "the responder doesn't know the certificate"),
        (revoked(), "20261121000000Z", "it was valid until 2026-11-21T00:00:00Z"),
    ];
    for (status, until, expected) in cases {
        let (asking, asked) = std::sync::mpsc::channel::<Bytes>();
        server.answers(move |question| {
            asking.send(question.clone()).unwrap();
            Vec::new()
        });
        ask(&revocations(), &chain, now()).await;
        let response = answer(&asked.recv().unwrap(), &status, until, &own);
        server.serves(response);
        let answer = ask(&revocations(), &chain, now()).await;
        assert!(answer.contains(expected), "{answer}");
    }
    server.serves(vec![0x30, 3, 0x0a, 1, 6]);
    assert!(ask(&revocations(), &chain, now()).await.contains("can't answer (status 6)"));
    server.serves(b"what?".to_vec());
    assert!(ask(&revocations(), &chain, now()).await.contains("neither"));
}

#[tokio::test]
async fn only_the_issuer_says_who_may_answer_for_it() {
    let (ca, stranger, server) = (Ca::new("CA"), Ca::new("CA"), Server::start().await);
    let chain = chain(&ca, &server);
    let key = KeyPair::generate().unwrap();
    let delegate = |by: &Ca, usage: ExtendedKeyUsagePurpose, until: (i32, u8, u8)| {
        let mut params = CertificateParams::new(["responder.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 11, 1);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.extended_key_usages = vec![usage];
        Some(params.signed_by(&key, &by.issuer).unwrap().der().to_vec())
    };
    let (asking, asked) = std::sync::mpsc::channel::<Bytes>();
    server.answers(move |question| {
        asking.send(question.clone()).unwrap();
        Vec::new()
    });
    ask(&revocations(), &chain, now()).await;
    let question = asked.recv().unwrap();
    let signing = ExtendedKeyUsagePurpose::OcspSigning;
    for (certificate, expected) in [
        (delegate(&ca, signing.clone(), (2026, 12, 1)), "good"),
        (delegate(&ca, signing.clone(), (2026, 11, 21)), "signature"),
        (delegate(&ca, ExtendedKeyUsagePurpose::ServerAuth, (2026, 12, 1)), "signature"),
        (delegate(&stranger, signing, (2026, 12, 1)), "signature"),
        (None, "signature"),
    ] {
        server.serves(answer(&question, GOOD, "20261126000000Z", &Signer { key: &key, certificate }));
        let answer = ask(&revocations(), &chain, now()).await;
        assert!(answer.contains(expected), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_about_another_certificate_is_none() {
    let (ca, server) = (Ca::new("CA"), Server::start().await);
    let chain = chain(&ca, &server);
    let other = ca.chain_with(301, |leaf| leaf.custom_extensions.push(responder(&server.url)));
    let (asking, asked) = std::sync::mpsc::channel::<Bytes>();
    server.answers(move |question| {
        asking.send(question.clone()).unwrap();
        Vec::new()
    });
    ask(&revocations(), &other, now()).await;
    let own = Signer { key: ca.issuer.key(), certificate: None };
    server.serves(answer(&asked.recv().unwrap(), GOOD, "20261126000000Z", &own));
    let answer = ask(&revocations(), &chain, now()).await;
    assert!(answer.contains("doesn't know the certificate"), "{answer}");
}
