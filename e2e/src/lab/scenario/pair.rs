//! What a target Secret holds, read as a web server and a browser read it, and not by Waxwing's own code.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt as _;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::aws_lc_rs,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::Error;

/// A certificate chain and its key, with the Secret that they were in.
#[derive(Clone)]
pub struct Pair {
    /// `tls.crt`.
    pub chain_pem: String,
    /// `tls.key`.
    pub key_pem: String,
    /// The Secret's type.
    pub kind: String,
    /// The Secret's labels.
    pub labels: BTreeMap<String, String>,
    /// The Secret's annotations.
    pub annotations: BTreeMap<String, String>,
    chain: Vec<CertificateDer<'static>>,
}

/// Whom a browser trusts.
#[derive(Debug)]
pub struct Roots {
    verifier: Arc<WebPkiServerVerifier>,
}

impl Roots {
    /// Those of a PEM text.
    pub fn new(pem: &str) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate).map_err(Error::invalid(|| "reading root certificates"))?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(aws_lc_rs::default_provider()),
        )
        .build()
        .map_err(Error::invalid(|| "reading root certificates"))?;
        Ok(Self { verifier })
    }
}

impl Pair {
    /// What a Secret holds.
    pub fn of(secret: &Secret) -> Result<Self, Error> {
        let name = secret.name_any();
        let text = |key: &str| {
            let ByteString(bytes) = secret.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| {
                Error::Invalid { what: format!("Secret {name}"), why: format!("it has no {key}") }
            })?;
            Ok(String::from_utf8_lossy(bytes).into_owned())
        };
        let chain_pem: String = text("tls.crt")?;
        Ok(Self {
            chain: certificates(&chain_pem)?,
            chain_pem,
            key_pem: text("tls.key")?,
            kind: secret.type_.clone().unwrap_or_default(),
            labels: secret.labels().clone(),
            annotations: secret.annotations().clone(),
        })
    }

    /// Checks what a browser and a web server check: the chain ends at a root, is valid now and for every
    /// name, and the key is the leaf's.
    pub fn serves<S: AsRef<str>>(&self, roots: &Roots, names: &[S]) -> Result<(), Error> {
        let bad = |why: String| Error::Invalid { what: "the stored pair".to_owned(), why };
        let (leaf, intermediates) =
            self.chain.split_first().ok_or_else(|| bad("it holds no certificate".to_owned()))?;
        for name in names {
            let name = name.as_ref();
            let server = ServerName::try_from(name.to_owned()).map_err(|error| bad(error.to_string()))?;
            roots
                .verifier
                .verify_server_cert(leaf, intermediates, &server, &[], UnixTime::now())
                .map_err(|error| bad(format!("{name}: {error}")))?;
        }
        let key =
            PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
        let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| bad(error.to_string()))?;
        CertifiedKey::new(self.chain.clone(), key).keys_match().map_err(|error| bad(error.to_string()))
    }

    /// The leaf's serial number in lower-case hex, without colons or leading zero bytes.
    pub fn serial(&self) -> Result<String, Error> {
        self.with_leaf(|leaf| {
            let significant = leaf.raw_serial().iter().skip_while(|byte| **byte == 0);
            let digits = significant.flat_map(|byte| [byte >> 4, byte & 15]);
            digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
        })
    }

    /// The DNS names in the leaf, sorted.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        self.with_leaf(|leaf| {
            let extension = leaf.subject_alternative_name().ok().flatten();
            let names = extension.iter().flat_map(|extension| &extension.value.general_names);
            let mut names: Vec<String> = names
                .filter_map(|name| match name {
                    x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                })
                .collect();
            names.sort();
            names
        })
    }

    /// The common name of whoever issued the topmost certificate of the chain: the root's.
    pub fn root_name(&self) -> Result<String, Error> {
        let bad = |why: String| Error::Invalid { what: "the stored chain".to_owned(), why };
        let top = self.chain.last().ok_or_else(|| bad("it is empty".to_owned()))?;
        let (_, top) = X509Certificate::from_der(top).map_err(|error| bad(error.to_string()))?;
        let name =
            top.issuer().iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
        name.ok_or_else(|| bad("its topmost certificate has no issuer".to_owned()))
    }

    /// The bits of the leaf's public key.
    pub fn key_bits(&self) -> Result<usize, Error> {
        self.with_leaf(|leaf| leaf.public_key().parsed().map(|key| key.key_size()).unwrap_or_default())
    }

    /// The lifetime of the leaf, in seconds.
    pub fn lifetime(&self) -> Result<i64, Error> {
        self.with_leaf(|leaf| leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp())
    }

    fn with_leaf<T>(&self, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, Error> {
        let bad = |why: String| Error::Invalid { what: "the stored certificate".to_owned(), why };
        let leaf = self.chain.first().ok_or_else(|| bad("there is none".to_owned()))?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| bad(error.to_string()))?;
        Ok(read(&leaf))
    }
}

// Without the key.
impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("chain_pem", &self.chain_pem)
            .field("annotations", &self.annotations)
            .finish_non_exhaustive()
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(Error::invalid(|| "reading certificates"))
}
