//! Asking a responder about one certificate (OCSP, RFC 6960), in the form that every responder knows (RFC 5019). Pure.

use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use jiff::Timestamp;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::crl::{check_times, time, verify};
use super::der::{
    BIT_STRING, ENUMERATED, Element, Elements, GENERALIZED_TIME, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING,
    SEQUENCE, context, context_constructed, element,
};
use super::{RevocationReason, Revoked, Unusable};
use crate::retry::after;

/// The media type of a question (RFC 6960 §A.1).
pub(super) const QUESTION_TYPE: &str = "application/ocsp-request";

/// 1.3.14.3.2.26, SHA-1: only to name the issuer, as RFC 5019 §2.1.1 asks for.
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// 1.3.6.1.5.5.7.48.1.1, id-pkix-ocsp-basic.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// How long an answer holds that doesn't say it.
const ENDLESS: Duration = Duration::from_hours(7 * 24);
/// A responder sends its own certificate; so many are looked at.
const CERTIFICATES: usize = 4;

/// The question whether the certificate of this serial number (an INTEGER's content) is revoked (§4.1.1).
pub(super) fn question(issuer: &X509Certificate<'_>, serial: &[u8]) -> Vec<u8> {
    let [name, key] = issuer_hashes(issuer);
    let algorithm = element(SEQUENCE, &[&element(OBJECT_IDENTIFIER, &[SHA1]), &element(0x05, &[])]);
    let certificate = element(
        SEQUENCE,
        &[
            &algorithm,
            &element(OCTET_STRING, &[&name]),
            &element(OCTET_STRING, &[&key]),
            &element(INTEGER, &[serial]),
        ],
    );
    let list = element(SEQUENCE, &[&element(SEQUENCE, &[&certificate])]);
    element(SEQUENCE, &[&element(SEQUENCE, &[&list])])
}

/// Reads an answer to that question: a revocation or none, and until when that holds.
pub(super) fn read(
    der: &[u8],
    issuer: &X509Certificate<'_>,
    serial: &[u8],
    now: Timestamp,
) -> Result<(Option<Revoked>, Option<Timestamp>), Unusable> {
    let mut response = Elements::of(der).take(SEQUENCE)?.elements();
    match response.take(ENUMERATED)?.content {
        [0] => {}
        [status] => return Err(Unusable::Responder(*status)),
        _ => return Err(Unusable::Malformed),
    }
    let mut bytes = response.take(context_constructed(0))?.elements().take(SEQUENCE)?.elements();
    if bytes.take(OBJECT_IDENTIFIER)?.content != BASIC {
        return Err(Unusable::Malformed);
    }
    let basic = bytes.take(OCTET_STRING)?;

    let mut basic = basic.elements().take(SEQUENCE)?.elements();
    let data = basic.take(SEQUENCE)?;
    let algorithm = basic.take(SEQUENCE)?;
    let signature = basic.take(BIT_STRING)?;
    let certificates = basic.take_if(context_constructed(0))?;
    check_signer(issuer, &data, &algorithm, &signature, certificates, now)?;

    let mut data = data.elements();
    data.take_if(context_constructed(0))?;
    // Who answers: its signature has said it.
    data.any()?;
    data.take(GENERALIZED_TIME)?;
    let mut answers = data.take(SEQUENCE)?.elements();
    while answers.next_tag().is_some() {
        let mut answer = answers.take(SEQUENCE)?.elements();
        if is_about(answer.take(SEQUENCE)?, issuer, serial)? {
            return single(answer, now);
        }
    }
    Err(Unusable::UnknownCertificate)
}

/// What is said of one certificate (`SingleResponse`, §4.2.1).
fn single(
    mut answer: Elements<'_>,
    now: Timestamp,
) -> Result<(Option<Revoked>, Option<Timestamp>), Unusable> {
    let status = (answer.next_tag(), answer.any()?);
    let this_update = time(&answer.take(GENERALIZED_TIME)?)?;
    let next_update = match answer.take_if(context_constructed(0))? {
        Some(next) => Some(time(&next.elements().take(GENERALIZED_TIME)?)?),
        None => None,
    };
    check_times(this_update, next_update.unwrap_or(after(this_update, ENDLESS)), now)?;
    match status {
        (Some(tag), _) if tag == context(0) => Ok((None, next_update)),
        (Some(tag), revoked) if tag == context_constructed(1) => {
            let mut revoked = revoked.elements();
            let since = time(&revoked.take(GENERALIZED_TIME)?)?;
            let reason = match revoked.take_if(context_constructed(0))? {
                Some(reason) => reason.elements().take(ENUMERATED)?.content.first().copied(),
                None => None,
            };
            Ok((Some(Revoked { since, reason: reason.map(RevocationReason::from_code) }), next_update))
        }
        _ => Err(Unusable::UnknownCertificate),
    }
}

/// The issuer signs itself, or has signed the certificate of whom it lets answer (§4.2.2.2).
fn check_signer(
    issuer: &X509Certificate<'_>,
    data: &Element<'_>,
    algorithm: &Element<'_>,
    signature: &Element<'_>,
    certificates: Option<Element<'_>>,
    now: Timestamp,
) -> Result<(), Unusable> {
    let own = verify(issuer.public_key(), algorithm, signature, data);
    let (Err(failure), Some(certificates)) = (own.clone(), certificates) else { return own };
    let mut certificates = certificates.elements().take(SEQUENCE)?.elements();
    for _ in 0..CERTIFICATES {
        if certificates.next_tag().is_none() {
            break;
        }
        let certificate = certificates.any()?;
        let Ok((_, delegate)) = X509Certificate::from_der(certificate.whole) else { continue };
        if may_answer(&delegate, now)
            && delegate.issuer().as_raw() == issuer.subject().as_raw()
            && delegate.verify_signature(Some(issuer.public_key())).is_ok()
            && verify(delegate.public_key(), algorithm, signature, data).is_ok()
        {
            return Ok(());
        }
    }
    Err(failure)
}

fn may_answer(delegate: &X509Certificate<'_>, now: Timestamp) -> bool {
    let validity = delegate.validity();
    let is_valid =
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now.as_second());
    is_valid
        && delegate.iter_extensions().any(|extension| {
            matches!(extension.parsed_extension(), ParsedExtension::ExtendedKeyUsage(usage) if usage.ocsp_signing)
        })
}

/// Whether a `CertID` (§4.1.1) is that of the question.
fn is_about(id: Element<'_>, issuer: &X509Certificate<'_>, serial: &[u8]) -> Result<bool, Unusable> {
    let mut id = id.elements();
    let algorithm = id.take(SEQUENCE)?.elements().take(OBJECT_IDENTIFIER)?.content;
    let [name, key] = issuer_hashes(issuer);
    Ok(id.take(OCTET_STRING)?.content == name
        && id.take(OCTET_STRING)?.content == key
        && id.take(INTEGER)?.content == serial
        && algorithm == SHA1)
}

/// The SHA-1 of the issuer's name and of its key.
fn issuer_hashes(issuer: &X509Certificate<'_>) -> [Vec<u8>; 2] {
    let hash = |bytes| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec();
    [hash(issuer.subject().as_raw()), hash(&issuer.public_key().subject_public_key.data)]
}
