//! A private key, written as `privateKey.encoding` asks.
//!
//! The engine makes PKCS#8 (RFC 5958). `PKCS1` stands, as in cert-manager, for the algorithm's own older
//! form: PKCS#1 for RSA (RFC 8017, appendix A.1.2), SEC 1 for ECDSA (RFC 5915). Ed25519 has none.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use waxwing_acme::{KeyAlgorithm, Secret};
use waxwing_api::PrivateKeyEncoding;

/// A key that can't be written otherwise.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum EncodingError {
    /// Not PKCS#8 in PEM.
    #[error("the private key is not PKCS#8")]
    NotPkcs8,
}

/// Writes a PKCS#8 key as asked.
pub fn encode(
    pkcs8: &Secret,
    algorithm: KeyAlgorithm,
    encoding: PrivateKeyEncoding,
) -> Result<Secret, EncodingError> {
    let curve = match (encoding, algorithm) {
        (PrivateKeyEncoding::Pkcs8, _) | (_, KeyAlgorithm::Ed25519) => return Ok(pkcs8.clone()),
        (PrivateKeyEncoding::Pkcs1, KeyAlgorithm::EcdsaP256) => Some(P256),
        (PrivateKeyEncoding::Pkcs1, KeyAlgorithm::EcdsaP384) => Some(P384),
        (PrivateKeyEncoding::Pkcs1, KeyAlgorithm::EcdsaP521) => Some(P521),
        (
            PrivateKeyEncoding::Pkcs1,
            KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096,
        ) => None,
    };
    let der =
        PrivatePkcs8KeyDer::from_pem_slice(pkcs8.expose().as_bytes()).map_err(|_| EncodingError::NotPkcs8)?;
    let inner = private_key_of(der.secret_pkcs8_der()).ok_or(EncodingError::NotPkcs8)?;
    match curve {
        None => Ok(pem("RSA PRIVATE KEY", inner)),
        Some(curve) => {
            let sec1 = with_curve(inner, curve).ok_or(EncodingError::NotPkcs8)?;
            Ok(pem("EC PRIVATE KEY", &sec1))
        }
    }
}

/// Reads a key in any of the three forms into PKCS#8, for reuse; `None` for one that can't be read.
pub fn to_pkcs8(key: &Secret, algorithm: KeyAlgorithm) -> Option<Secret> {
    match PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(_) => Some(key.clone()),
        PrivateKeyDer::Pkcs1(der) => Some(wrap(der.secret_pkcs1_der(), &[RSA, NULL].concat())),
        PrivateKeyDer::Sec1(der) => {
            let curve = match algorithm {
                KeyAlgorithm::EcdsaP256 => P256,
                KeyAlgorithm::EcdsaP384 => P384,
                KeyAlgorithm::EcdsaP521 => P521,
                _ => return None,
            };
            Some(wrap(der.secret_sec1_der(), &[EC_PUBLIC_KEY, curve].concat()))
        }
        _ => None,
    }
}

// Object identifiers, in DER.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const NULL: &[u8] = &[0x05, 0x00];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
/// `[0] parameters` of an `ECPrivateKey`.
const PARAMETERS: u8 = 0xa0;

/// The `privateKey` of a `PrivateKeyInfo`.
fn private_key_of(pkcs8: &[u8]) -> Option<&[u8]> {
    let (SEQUENCE, info, _) = element(pkcs8)? else { return None };
    let (INTEGER, _, rest) = element(info)? else { return None };
    let (SEQUENCE, _, rest) = element(rest)? else { return None };
    let (OCTET_STRING, key, _) = element(rest)? else { return None };
    Some(key)
}

/// An `ECPrivateKey` that names its curve, which it needn't inside PKCS#8.
fn with_curve(key: &[u8], curve: &[u8]) -> Option<Vec<u8>> {
    let (SEQUENCE, body, _) = element(key)? else { return None };
    let (INTEGER, version, rest) = element(body)? else { return None };
    let (OCTET_STRING, secret, rest) = element(rest)? else { return None };
    if rest.first() == Some(&PARAMETERS) {
        return Some(key.to_vec());
    }
    let parts =
        [write(INTEGER, version), write(OCTET_STRING, secret), write(PARAMETERS, curve), rest.to_vec()]
            .concat();
    Some(write(SEQUENCE, &parts))
}

fn wrap(key: &[u8], algorithm: &[u8]) -> Secret {
    let info = [write(INTEGER, &[0]), write(SEQUENCE, algorithm), write(OCTET_STRING, key)].concat();
    pem("PRIVATE KEY", &write(SEQUENCE, &info))
}

/// The first DER element: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = bytes
            .iter()
            .try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))?;
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn write(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let bytes = content.len().to_be_bytes();
            let significant = bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
            // A usize has at most eight bytes.
            der.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
            der.extend(significant);
        }
    }
    der.extend_from_slice(content);
    der
}

fn pem(label: &str, der: &[u8]) -> Secret {
    use base64::Engine;

    let base64 = base64::prelude::BASE64_STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    Secret::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(algorithm: &'static rcgen::SignatureAlgorithm) -> rcgen::KeyPair {
        rcgen::KeyPair::generate_for(algorithm).unwrap()
    }

    #[test]
    fn every_form_is_the_same_key() {
        let rsa =
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        for (key, algorithm, label) in [
            (key(&rcgen::PKCS_ECDSA_P256_SHA256), KeyAlgorithm::EcdsaP256, "EC PRIVATE KEY"),
            (key(&rcgen::PKCS_ECDSA_P384_SHA384), KeyAlgorithm::EcdsaP384, "EC PRIVATE KEY"),
            (key(&rcgen::PKCS_ECDSA_P521_SHA512), KeyAlgorithm::EcdsaP521, "EC PRIVATE KEY"),
            (rsa, KeyAlgorithm::Rsa2048, "RSA PRIVATE KEY"),
            (key(&rcgen::PKCS_ED25519), KeyAlgorithm::Ed25519, "PRIVATE KEY"),
        ] {
            let pkcs8 = Secret::new(key.serialize_pem());
            let old = encode(&pkcs8, algorithm, PrivateKeyEncoding::Pkcs1).unwrap();
            assert!(old.expose().starts_with(&format!("-----BEGIN {label}-----")), "{algorithm}");
            let certificate =
                rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
            waxwing_acme::inspect(&certificate.pem(), old.expose()).unwrap();
            let again = to_pkcs8(&old, algorithm).unwrap();
            waxwing_acme::inspect(&certificate.pem(), again.expose()).unwrap();
            assert!(again.expose().starts_with("-----BEGIN PRIVATE KEY-----"));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let junk = Secret::new("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        assert_eq!(
            encode(&junk, KeyAlgorithm::Rsa2048, PrivateKeyEncoding::Pkcs1),
            Err(EncodingError::NotPkcs8)
        );
    }
}
