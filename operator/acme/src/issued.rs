//! What came back: a certificate chain and its key, read and checked. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::request::hex;
use crate::{Identifier, KeyAlgorithm, Request, Secret};

/// A certificate that was obtained and checked.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate and its intermediates, in PEM, leaf first.
    pub chain_pem: String,
    /// Its private key (PKCS#8, PEM).
    pub private_key_pem: Secret,
    /// What the certificate says.
    pub leaf: Leaf,
    /// The order that it came from.
    pub order_url: String,
    /// What the CA took the order to replace (RFC 9773 §5), as in [`Entry::replaces`](crate::Entry). None where the CA
    /// refused to hear of it, so that the order counts against its limits like any other.
    pub replaces: Option<String>,
}

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The beginning of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// Its serial number in lower-case hex, without colons or leading zero bytes.
    pub serial: String,
    /// The DNS names in it, lower-case, sorted.
    pub dns_names: Vec<String>,
    /// The IP addresses in it, sorted.
    pub ip_addresses: Vec<IpAddr>,
    /// The common name of the subject, if it has one.
    pub common_name: Option<String>,
    /// Who issued it: the issuer's common name, or its whole name where it has none.
    pub issuer: String,
    /// How ARI identifies it (RFC 9773 §4.1), if it has an authority key identifier.
    pub ari_id: Option<String>,
    /// Its key's algorithm and size; `None` for one that this engine doesn't make.
    pub key_algorithm: Option<KeyAlgorithm>,
}

/// A chain and a key that don't make a usable pair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// No certificate in the PEM.
    #[error("there is no certificate in PEM in it")]
    NoCertificate,
    /// A certificate can't be read.
    #[error("certificate {position} in the chain can't be read: {reason}")]
    Certificate {
        /// Its place in the chain, from 1.
        position: usize,
        /// Why.
        reason: String,
    },
    /// The key can't be read.
    #[error("the private key can't be read: write it in PEM (PKCS#8, PKCS#1 or SEC 1)")]
    Key,
    /// The key isn't the certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The chain is out of order.
    #[error("certificate {position} in the chain is not signed by the next one")]
    ChainOrder {
        /// The place in the chain, from 1.
        position: usize,
    },
    /// The names aren't those that were asked for.
    #[error(
        "the certificate's names differ from those asked for (missing: {}; not asked for: {})",
        list(missing),
        list(unexpected)
    )]
    Names {
        /// Asked for, and not in it.
        missing: Vec<String>,
        /// In it, and not asked for.
        unexpected: Vec<String>,
    },
    /// It becomes valid later than now: the CA's clock is fast, or this machine's is slow.
    #[error("the certificate is valid from {not_before} on, and not yet")]
    NotYet {
        /// The beginning of its validity.
        not_before: Timestamp,
    },
    /// It is valid no more.
    #[error("the certificate is valid from {not_before} to {not_after}, not now")]
    Validity {
        /// The beginning of its validity.
        not_before: Timestamp,
        /// The end of its validity.
        not_after: Timestamp,
    },
}

/// Clocks differ: a certificate may begin this much in the future.
const SKEW: Duration = Duration::from_mins(5);

/// Reads a stored pair. The key must be the leaf's, and each certificate must be signed by the next. Whether it is
/// valid now, and for which names, is the caller's to compare.
pub fn inspect(chain_pem: &str, private_key_pem: &str) -> Result<Leaf, PairError> {
    let chain = read_chain(chain_pem)?;
    let certificates = parse_chain(&chain)?;
    let Some(leaf) = certificates.first() else { return Err(PairError::NoCertificate) };
    if public_key(private_key_pem)? != leaf.public_key().raw {
        return Err(PairError::KeyMismatch);
    }
    for (index, pair) in certificates.windows(2).enumerate() {
        if let [child, parent] = pair
            && !is_signed_by(child, parent)
        {
            return Err(PairError::ChainOrder { position: index + 1 });
        }
    }
    read_leaf(leaf)
}

/// Checks what a CA issued against what was asked for: everything that [`inspect`] does, the names, and that it is
/// valid at `now` (give or take five minutes).
pub fn check(
    chain_pem: &str,
    private_key_pem: &Secret,
    request: &Request,
    now: Timestamp,
) -> Result<Leaf, PairError> {
    let leaf = inspect(chain_pem, private_key_pem.expose())?;
    let asked: BTreeSet<String> = request.identifiers.iter().map(Identifier::to_string).collect();
    let got: BTreeSet<String> =
        leaf.dns_names.iter().cloned().chain(leaf.ip_addresses.iter().map(IpAddr::to_string)).collect();
    if asked != got {
        return Err(PairError::Names {
            missing: asked.difference(&got).cloned().collect(),
            unexpected: got.difference(&asked).cloned().collect(),
        });
    }
    if leaf.not_before > crate::retry::after(now, SKEW) {
        return Err(PairError::NotYet { not_before: leaf.not_before });
    }
    if leaf.not_after <= now {
        return Err(PairError::Validity { not_before: leaf.not_before, not_after: leaf.not_after });
    }
    Ok(leaf)
}

/// The common name of who issued the topmost certificate of a chain.
pub(crate) fn topmost_issuer(chain_pem: &str) -> Option<String> {
    let chain = read_chain(chain_pem).ok()?;
    let certificates = parse_chain(&chain).ok()?;
    certificates.last().and_then(|topmost| common_name(topmost.issuer()))
}

/// The certificates of a chain in PEM.
pub(crate) fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, PairError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .enumerate()
        .map(|(index, der)| {
            der.map_err(|error| PairError::Certificate { position: index + 1, reason: error.to_string() })
        })
        .collect()
}

/// The same, parsed.
pub(crate) fn parse_chain<'a>(
    chain: &'a [CertificateDer<'static>],
) -> Result<Vec<X509Certificate<'a>>, PairError> {
    chain
        .iter()
        .enumerate()
        .map(|(index, der)| match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Ok(certificate),
            Err(error) => Err(PairError::Certificate { position: index + 1, reason: error.to_string() }),
        })
        .collect()
}

/// The public half of a private key, as a certificate holds it (`SubjectPublicKeyInfo`, DER).
fn public_key(private_key_pem: &str) -> Result<Vec<u8>, PairError> {
    let der = PrivateKeyDer::from_pem_slice(private_key_pem.as_bytes()).map_err(|_| PairError::Key)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|_| PairError::Key)?;
    key.public_key().map(|spki| spki.to_vec()).ok_or(PairError::Key)
}

/// Whether `parent` is who issued `child`.
pub(crate) fn is_signed_by(child: &X509Certificate<'_>, parent: &X509Certificate<'_>) -> bool {
    use x509_parser::error::X509Error;

    child.issuer().as_raw() == parent.subject().as_raw()
        && match child.verify_signature(Some(parent.public_key())) {
            // An algorithm that can't be checked here: the names have to do.
            Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => true,
            Err(_) => false,
        }
}

fn read_leaf(certificate: &X509Certificate<'_>) -> Result<Leaf, PairError> {
    let unreadable = |reason: &str| PairError::Certificate { position: 1, reason: reason.to_owned() };
    let time =
        |seconds| Timestamp::from_second(seconds).map_err(|_| unreadable("its validity is out of range"));
    let mut dns_names = BTreeSet::new();
    let mut ip_addresses = BTreeSet::new();
    let names = certificate.subject_alternative_name().map_err(|error| unreadable(&error.to_string()))?;
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => {
                dns_names.insert(name.to_ascii_lowercase());
            }
            GeneralName::IPAddress(octets) => {
                let address = <[u8; 4]>::try_from(*octets)
                    .map(IpAddr::from)
                    .or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from))
                    .map_err(|_| unreadable("it holds an IP address of a wrong length"))?;
                ip_addresses.insert(address);
            }
            _ => {}
        }
    }
    let serial = certificate.raw_serial();
    let significant =
        serial.iter().position(|byte| *byte != 0).and_then(|start| serial.get(start..)).unwrap_or(&[0]);
    Ok(Leaf {
        not_before: time(certificate.validity().not_before.timestamp())?,
        not_after: time(certificate.validity().not_after.timestamp())?,
        serial: hex(significant),
        dns_names: dns_names.into_iter().collect(),
        ip_addresses: ip_addresses.into_iter().collect(),
        common_name: common_name(certificate.subject()),
        issuer: common_name(certificate.issuer()).unwrap_or_else(|| certificate.issuer().to_string()),
        ari_id: ari_id(certificate),
        key_algorithm: key_algorithm(certificate),
    })
}

/// The algorithm of a certificate's key (RFC 5480 §2.1.1 for the curves, RFC 8410 §3 for Ed25519).
fn key_algorithm(certificate: &X509Certificate<'_>) -> Option<KeyAlgorithm> {
    use x509_parser::oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519,
    };
    use x509_parser::public_key::PublicKey;

    let key = certificate.public_key();
    if key.algorithm.algorithm == OID_SIG_ED25519 {
        return Some(KeyAlgorithm::Ed25519);
    }
    if key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
        return [
            (OID_EC_P256, KeyAlgorithm::EcdsaP256),
            (OID_NIST_EC_P384, KeyAlgorithm::EcdsaP384),
            (OID_NIST_EC_P521, KeyAlgorithm::EcdsaP521),
        ]
        .into_iter()
        .find_map(|(oid, algorithm)| (oid == curve).then_some(algorithm));
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => match rsa.key_size() {
            2048 => Some(KeyAlgorithm::Rsa2048),
            3072 => Some(KeyAlgorithm::Rsa3072),
            4096 => Some(KeyAlgorithm::Rsa4096),
            _ => None,
        },
        _ => None,
    }
}

/// RFC 9773 §4.1: the authority key identifier and the serial number's DER content, each in base64url.
fn ari_id(certificate: &X509Certificate<'_>) -> Option<String> {
    let authority =
        certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref(),
            _ => None,
        })?;
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Some(format!("{}.{}", encode(authority.0), encode(certificate.raw_serial())))
}

fn common_name(name: &x509_parser::x509::X509Name<'_>) -> Option<String> {
    name.iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned)
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    struct Pair {
        leaf: String,
        intermediate: String,
        key: Secret,
    }

    fn pair(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let intermediate_key = KeyPair::generate().unwrap();
        let root = Issuer::new(authority("Root"), KeyPair::generate().unwrap());
        let intermediate = authority("Intermediate").signed_by(&intermediate_key, &root).unwrap().pem();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(authority("Intermediate"), intermediate_key);
        let leaf = params.signed_by(&key, &issuer).unwrap().pem();
        Pair { leaf, intermediate, key: Secret::new(key.serialize_pem()) }
    }

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn request(names: &[&str]) -> Request {
        Request::new(names.iter().map(|name| name.parse().unwrap()).collect())
    }

    #[test]
    fn a_good_pair_says_what_it_is() {
        let pair = pair(&["b.example", "A.example", "192.0.2.1", "2001:db8::1"], |params| {
            params.serial_number = Some(vec![0x00, 0x87, 0x65, 0x43, 0x21].into());
        });
        let chain = format!("{}{}", pair.leaf, pair.intermediate);
        let asked = request(&["a.example", "b.example", "192.0.2.1", "2001:db8::1"]);
        let leaf = check(&chain, &pair.key, &asked, now()).unwrap();
        assert_eq!(leaf.dns_names, ["a.example", "b.example"]);
        assert_eq!(leaf.ip_addresses.len(), 2);
        assert_eq!(leaf.serial, "87654321");
        assert_eq!(leaf.issuer, "Intermediate");
        assert_eq!(topmost_issuer(&chain).as_deref(), Some("Root"));
        // RFC 9773 §4.1: the serial number keeps the zero byte that makes it positive.
        assert!(leaf.ari_id.unwrap().ends_with(".AIdlQyE"));
    }

    #[test]
    fn what_does_not_belong_together_is_told_apart() {
        let one = pair(&["a.example"], |_| {});
        let other = pair(&["a.example"], |_| {});
        let asked = request(&["a.example"]);
        let chain = format!("{}{}", one.leaf, one.intermediate);
        let check = |chain: &str, key: &Secret| check(chain, key, &asked, now()).map(drop);
        assert_eq!(check(&chain, &one.key), Ok(()));
        assert_eq!(check(&one.leaf, &one.key), Ok(()), "a leaf alone is in order");
        assert_eq!(check(&chain, &other.key), Err(PairError::KeyMismatch));
        assert_eq!(check(&chain, &Secret::new("no key")), Err(PairError::Key));
        assert_eq!(check("", &one.key), Err(PairError::NoCertificate));
        let swapped = format!("{}{}", one.intermediate, one.leaf);
        assert_eq!(check(&swapped, &one.key), Err(PairError::KeyMismatch));
        let twice = format!("{}{}", one.leaf, one.leaf);
        assert_eq!(check(&twice, &one.key), Err(PairError::ChainOrder { position: 1 }));
        // The same name, another key: only the signature tells.
        let foreign = format!("{}{}", one.leaf, other.intermediate);
        assert_eq!(check(&foreign, &one.key), Err(PairError::ChainOrder { position: 1 }));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(check(broken, &one.key), Err(PairError::Certificate { position: 1, .. })));
    }

    #[test]
    fn names_are_exactly_those_asked_for() {
        let pair = pair(&["a.example", "b.example"], |_| {});
        let check = |names: &[&str]| check(&pair.leaf, &pair.key, &request(names), now()).map(drop);
        assert_eq!(check(&["b.example", "a.example"]), Ok(()));
        let names = |missing: &[&str], unexpected: &[&str]| {
            let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            Err(PairError::Names { missing: own(missing), unexpected: own(unexpected) })
        };
        assert_eq!(check(&["a.example"]), names(&[], &["b.example"]));
        assert_eq!(check(&["a.example", "b.example", "c.example"]), names(&["c.example"], &[]));
    }

    #[test]
    fn validity_is_now_give_or_take_a_little() {
        let pair = pair(&["a.example"], |params| {
            params.not_before = rcgen::date_time_ymd(2026, 11, 22);
            params.not_after = rcgen::date_time_ymd(2027, 2, 20);
        });
        let valid =
            |now: &str| check(&pair.leaf, &pair.key, &request(&["a.example"]), now.parse().unwrap()).is_ok();
        let asked = request(&["a.example"]);
        let early = check(&pair.leaf, &pair.key, &asked, "2026-11-20T00:00:00Z".parse().unwrap());
        let not_before = "2026-11-22T00:00:00Z".parse().unwrap();
        assert_eq!(early.map(drop), Err(PairError::NotYet { not_before }));
        assert!(valid("2026-11-21T23:56:00Z"), "a clock that is a little slow");
        assert!(!valid("2026-11-21T23:54:00Z"));
        assert!(valid("2027-02-19T23:59:59Z"));
        assert!(!valid("2027-02-20T00:00:00Z"));
    }
}
