//! The certificate's private key and its signing request.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, RsaKeySize, SanType};

use crate::{Identifier, KeyAlgorithm, Request, Secret};

/// Makes a private key (PKCS#8, PEM). RSA takes up to seconds and runs beside the async threads.
pub(crate) async fn generate(algorithm: KeyAlgorithm) -> Result<Secret, String> {
    let make =
        move || generate_now(algorithm).map_err(|error| format!("could not be made ({algorithm}): {error}"));
    match algorithm {
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => {
            tokio::task::spawn_blocking(make).await.map_err(|error| error.to_string())?
        }
        _ => make(),
    }
}

/// The signing request (DER, PKCS#10) for `request` with this key: its identifiers, and the common name if asked for.
pub(crate) fn signing_request(key: &Secret, request: &Request) -> Result<Vec<u8>, String> {
    let pair = parse(key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = &request.common_name {
        params.distinguished_name.push(DnType::CommonName, name.as_str());
    }
    for identifier in request.sorted_identifiers() {
        params.subject_alt_names.push(match identifier {
            Identifier::Dns(name) => {
                SanType::DnsName(name.try_into().map_err(|error| format!("a name isn't ASCII: {error}"))?)
            }
            Identifier::Ip(address) => SanType::IpAddress(address),
        });
    }
    let signed =
        params.serialize_request(&pair).map_err(|error| format!("could not sign the request: {error}"))?;
    Ok(signed.der().to_vec())
}

/// Refuses text that isn't a private key.
pub(crate) fn parse(key: &Secret) -> Result<KeyPair, String> {
    // The cause could quote the input; what it says beyond this helps nobody.
    KeyPair::from_pem(key.expose()).map_err(|_| "is not a private key in PEM (PKCS#8)".to_owned())
}

fn generate_now(algorithm: KeyAlgorithm) -> Result<Secret, rcgen::Error> {
    let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
    let pair = match algorithm {
        KeyAlgorithm::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyAlgorithm::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyAlgorithm::EcdsaP521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
        KeyAlgorithm::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        KeyAlgorithm::Rsa2048 => rsa(RsaKeySize::_2048),
        KeyAlgorithm::Rsa3072 => rsa(RsaKeySize::_3072),
        KeyAlgorithm::Rsa4096 => rsa(RsaKeySize::_4096),
    }?;
    Ok(Secret::new(pair.serialize_pem()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use x509_parser::prelude::{FromDer, X509CertificationRequest};

    use super::*;

    #[tokio::test]
    async fn every_algorithm_makes_a_key_that_signs_a_request() {
        for algorithm in KeyAlgorithm::ALL {
            let key = generate(algorithm).await.unwrap();
            assert!(key.expose().starts_with("-----BEGIN PRIVATE KEY-----"), "{algorithm}");
            let mut request =
                Request::new(vec!["*.a.example".parse().unwrap(), "192.0.2.1".parse().unwrap()]);
            request.common_name = Some("*.a.example".into());
            let der = signing_request(&key, &request).unwrap();
            let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
            let subject = parsed.certification_request_info.subject.to_string();
            assert_eq!(subject, "CN=*.a.example", "{algorithm}");
        }
    }

    #[test]
    fn without_a_common_name_the_subject_is_empty() {
        let key = generate_now(KeyAlgorithm::EcdsaP256).unwrap();
        let der = signing_request(&key, &Request::new(vec!["a.example".parse().unwrap()])).unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
        assert_eq!(parsed.certification_request_info.subject.to_string(), "");
    }

    #[test]
    fn what_is_no_key_is_not_quoted() {
        let error = parse(&Secret::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----"))
            .unwrap_err();
        assert!(!error.contains("c2Vj"), "{error}");
    }
}
