//! Lists of revoked certificates (CRL, RFC 5280 §5): checked, and kept as little as a search needs. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use x509_parser::asn1_rs::BitString;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;
use x509_parser::verify::verify_signature;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::der::{
    BIT_STRING, Element, Elements, GENERALIZED_TIME, INTEGER, SEQUENCE, UTC_TIME, context_constructed,
};
use super::{LATE, RevocationReason, Revoked, SKEW, Unusable, source};
use crate::retry::after;

/// What is kept of a list.
#[derive(Debug)]
pub(super) struct List {
    /// Sorted. Sixteen bytes for each certificate, whatever the list says of it.
    entries: Vec<Entry>,
    /// The names of the distribution point that the list is for; empty where it is for all (§5.2.5).
    scope: Vec<String>,
    /// When a newer list will be there at the latest.
    pub(super) next_update: Timestamp,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Entry {
    /// Of the serial number. With a million on the list, one has another's by chance in one of 10¹³ questions; the
    /// cost is a renewal.
    fingerprint: u64,
    /// In Unix seconds.
    since: u32,
    reason: Option<RevocationReason>,
}

impl List {
    /// Reads a list, if it is one that `issuer` signed and that is valid at `now`.
    pub(super) fn read(der: &[u8], issuer: &X509Certificate<'_>, now: Timestamp) -> Result<Self, Unusable> {
        let mut list = Elements::of(der).take(SEQUENCE)?.elements();
        let tbs = list.take(SEQUENCE)?;
        let algorithm = list.take(SEQUENCE)?;
        let signature = list.take(BIT_STRING)?;

        let mut fields = tbs.elements();
        fields.take_if(INTEGER)?;
        if fields.take(SEQUENCE)?.whole != algorithm.whole {
            return Err(Unusable::Malformed);
        }
        if fields.take(SEQUENCE)?.whole != issuer.subject().as_raw() {
            return Err(Unusable::OtherIssuer);
        }
        let this_update = time(&fields.any()?)?;
        let next_update = match fields.next_tag() {
            Some(UTC_TIME | GENERALIZED_TIME) => Some(time(&fields.any()?)?),
            _ => None,
        };
        let revoked = fields.take_if(SEQUENCE)?;
        let extensions = fields.take_if(context_constructed(0))?;

        if !may_sign(issuer) {
            return Err(Unusable::NotASigner);
        }
        verify(issuer.public_key(), &algorithm, &signature, &tbs)?;
        let scope = extensions.map_or(Ok(Vec::new()), |extensions| scope(&extensions))?;
        let next_update = next_update.ok_or(Unusable::Endless)?;
        check_times(this_update, next_update, now)?;
        let entries = revoked.map_or(Ok(Vec::new()), |revoked| entries(revoked.elements()))?;
        Ok(Self { entries, scope, next_update })
    }

    /// Whether it is for the certificates of a distribution point of these names.
    pub(super) fn covers(&self, point: &[String]) -> bool {
        self.scope.is_empty() || self.scope.iter().any(|name| point.contains(name))
    }

    /// What it says of a serial number (an INTEGER's content), if it has it.
    pub(super) fn find(&self, serial: &[u8]) -> Option<Revoked> {
        let wanted = fingerprint(serial);
        let at = self.entries.partition_point(|entry| entry.fingerprint < wanted);
        let entry = self.entries.get(at).filter(|entry| entry.fingerprint == wanted)?;
        let since = Timestamp::from_second(i64::from(entry.since)).unwrap_or(Timestamp::UNIX_EPOCH);
        Some(Revoked { since, reason: entry.reason })
    }

    /// How many certificates are on it.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Checks a signature of whom this key belongs to.
pub(super) fn verify(
    key: &SubjectPublicKeyInfo<'_>,
    algorithm: &Element<'_>,
    signature: &Element<'_>,
    signed: &Element<'_>,
) -> Result<(), Unusable> {
    use x509_parser::error::X509Error;

    let (_, algorithm) = AlgorithmIdentifier::from_der(algorithm.whole).map_err(|_| Unusable::Malformed)?;
    let (_, signature) = BitString::from_der(signature.whole).map_err(|_| Unusable::Malformed)?;
    match verify_signature(key, &algorithm, &signature, signed.whole) {
        Ok(()) => Ok(()),
        Err(X509Error::SignatureUnsupportedAlgorithm) => Err(Unusable::Algorithm),
        Err(_) => Err(Unusable::Signature),
    }
}

/// A `UTCTime` or a `GeneralizedTime`.
pub(super) fn time(element: &Element<'_>) -> Result<Timestamp, Unusable> {
    let (_, time) = ASN1Time::from_der(element.whole).map_err(|_| Unusable::Malformed)?;
    Timestamp::from_second(time.timestamp()).map_err(|_| Unusable::Malformed)
}

/// Clocks differ, and CAs are late.
pub(super) fn check_times(begin: Timestamp, end: Timestamp, now: Timestamp) -> Result<(), Unusable> {
    if begin > after(now, SKEW) {
        return Err(Unusable::Future(begin));
    }
    if after(end, LATE) < now {
        return Err(Unusable::Lapsed(end));
    }
    Ok(())
}

fn may_sign(issuer: &X509Certificate<'_>) -> bool {
    match issuer.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.crl_sign()),
        Err(_) => false,
    }
}

/// The names that a list limits itself to, out of its extensions.
fn scope(extensions: &Element<'_>) -> Result<Vec<String>, Unusable> {
    let mut list = extensions.elements().take(SEQUENCE)?.elements();
    let mut scope = Vec::new();
    while list.next_tag().is_some() {
        let extension = list.any()?;
        let (_, extension) = X509Extension::from_der(extension.whole).map_err(|_| Unusable::Malformed)?;
        match extension.parsed_extension() {
            ParsedExtension::IssuingDistributionPoint(point) => {
                let partial = point.only_contains_ca_certs
                    || point.only_contains_attribute_certs
                    || point.only_some_reasons.is_some()
                    || point.indirect_crl;
                scope = source::names(point.distribution_point.as_ref());
                if partial || (point.distribution_point.is_some() && scope.is_empty()) {
                    return Err(Unusable::Scope);
                }
            }
            ParsedExtension::AuthorityKeyIdentifier(_) | ParsedExtension::CRLNumber(_) => {}
            // A delta list among them (§5.2.4).
            _ if extension.critical => return Err(Unusable::Critical),
            _ => {}
        }
    }
    Ok(scope)
}

fn entries(mut revoked: Elements<'_>) -> Result<Vec<Entry>, Unusable> {
    let mut entries = Vec::new();
    while revoked.next_tag().is_some() {
        let mut entry = revoked.take(SEQUENCE)?.elements();
        let serial = entry.take(INTEGER)?;
        let since = time(&entry.any()?)?.as_second();
        let reason = entry.take_if(SEQUENCE)?.map_or(Ok(None), |extensions| reason(extensions.elements()))?;
        entries.push(Entry {
            fingerprint: fingerprint(serial.content),
            since: u32::try_from(since.max(0)).unwrap_or(u32::MAX),
            reason,
        });
    }
    entries.sort_unstable();
    entries.shrink_to_fit();
    Ok(entries)
}

/// The reason in an entry's extensions (§5.3.1).
fn reason(mut extensions: Elements<'_>) -> Result<Option<RevocationReason>, Unusable> {
    let mut reason = None;
    while extensions.next_tag().is_some() {
        let extension = extensions.any()?;
        let (_, extension) = X509Extension::from_der(extension.whole).map_err(|_| Unusable::Malformed)?;
        match extension.parsed_extension() {
            ParsedExtension::ReasonCode(code) => reason = Some(RevocationReason::from_code(code.0)),
            // §5.3: such a list may not be used at all.
            _ if extension.critical => return Err(Unusable::Critical),
            _ => {}
        }
    }
    Ok(reason)
}

/// Equal numbers have equal ones, however many zeros a CA puts before them.
fn fingerprint(serial: &[u8]) -> u64 {
    let significant = serial.iter().position(|byte| *byte != 0).and_then(|start| serial.get(start..));
    let hash = digest(&SHA256, significant.unwrap_or_default());
    hash.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}
