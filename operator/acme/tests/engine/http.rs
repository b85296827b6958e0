//! TLS to the CA: whom to trust, and what is said otherwise.

use std::sync::Arc;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use waxwing_acme::{Actor, Directory, Error, Failure, Http, HttpConfig, RequestError, TrustRoots};

/// A server that ends each TLS handshake well, and answers whatever comes with `answer`.
async fn server(answer: Vec<u8>) -> (url::Url, String, JoinSet<()>) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/directory", listener.local_addr().unwrap().port());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut request = [0; 4096];
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (url.parse().unwrap(), root_pem, serving)
}

fn directory() -> Vec<u8> {
    let body = r#"{"newNonce":"https://localhost/n","newAccount":"https://localhost/a","newOrder":"https://localhost/o"}"#;
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

async fn fetch(url: &url::Url, roots: TrustRoots) -> Result<Directory, Error> {
    let http = Http::new(HttpConfig { roots, ..HttpConfig::default() }).unwrap();
    Directory::fetch(&http, url).await
}

fn failure(result: Result<Directory, Error>) -> Failure {
    match result.unwrap_err() {
        Error::Request(RequestError { failure, .. }) => failure,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn trust_is_what_is_configured() {
    let (url, root, _serving) = server(directory()).await;
    fetch(&url, TrustRoots::Custom(root.into_bytes())).await.unwrap();
    fetch(&url, TrustRoots::SkipVerification).await.unwrap();
    assert!(matches!(failure(fetch(&url, TrustRoots::System).await), Failure::UnknownAuthority));

    let by_address: url::Url = url.as_str().replace("localhost", "127.0.0.1").parse().unwrap();
    let (_, other_root, _other) = server(directory()).await;
    assert!(matches!(
        failure(fetch(&by_address, TrustRoots::Custom(other_root.into_bytes())).await),
        Failure::UnknownAuthority | Failure::Tls(_)
    ));
}

#[tokio::test]
async fn a_bundle_without_a_certificate_is_refused() {
    for bundle in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let config = HttpConfig { roots: TrustRoots::Custom(bundle.into()), ..HttpConfig::default() };
        assert!(matches!(Http::new(config), Err(Error::Roots(_))), "{bundle:?}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n".to_vec();
    answer.resize(3 << 20, b' ');
    let (url, root, _serving) = server(answer).await;
    let failure = failure(fetch(&url, TrustRoots::Custom(root.into_bytes())).await);
    assert!(matches!(&failure, Failure::Unexpected(why) if why.contains("larger")), "{failure}");
}

#[tokio::test]
async fn plain_http_is_not_spoken() {
    let url = "http://127.0.0.1:1/directory".parse().unwrap();
    assert!(fetch(&url, TrustRoots::System).await.is_err());
}

#[tokio::test]
async fn a_redirect_says_where_to() {
    let answer =
        b"HTTP/1.1 301 Moved\r\nlocation: https://ca.example/directory\r\ncontent-length: 0\r\n\r\n".to_vec();
    let (url, root, _serving) = server(answer).await;
    let error = fetch(&url, TrustRoots::Custom(root.into_bytes())).await.unwrap_err();
    assert_eq!(error.class().actor, Actor::User, "{error}");
    let failure = failure(Err(error));
    assert!(failure.to_string().contains("https://ca.example/directory"), "{failure}");
}
