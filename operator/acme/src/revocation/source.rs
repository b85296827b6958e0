//! Where a certificate says that its revocation can be asked. Pure.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use url::Url;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_PKIX_ACCESS_DESCRIPTOR_OCSP, Oid, asn1_rs::oid};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::issued::{is_signed_by, parse_chain, read_chain};

/// Where it can be asked whether a certificate was revoked, and what is to be known of it for that.
#[derive(Clone, Debug)]
pub struct RevocationSources {
    /// The certificate's serial number: an INTEGER's content in DER.
    pub(super) serial: Vec<u8>,
    /// The certificate of who issued it.
    pub(super) issuer: CertificateDer<'static>,
    /// Its distribution points (RFC 5280 §4.2.1.13) that cover all reasons; each by its names, which are URLs.
    pub(super) points: Vec<Vec<String>>,
    /// Its OCSP responders (RFC 5280 §4.2.2.1).
    pub(super) responders: Vec<Url>,
}

/// A certificate that lives shorter isn't revoked but left to expire.
const SHORT_LIVED: Duration = Duration::from_hours(7 * 24);
/// RFC 9608 §4: the CA won't say anything about revocation.
const NO_REV_AVAIL: Oid<'static> = oid!(2.5.29.56);
/// So many places of each kind are asked at most.
const PLACES: usize = 4;
const LONGEST_URL: usize = 2048;

impl RevocationSources {
    /// Those of the leaf of a chain (PEM, leaf first, then who issued it). `None` where there is nothing to ask: it
    /// lives less than seven days, says itself that its CA won't tell (RFC 9608), names neither a list nor a
    /// responder that can be reached by HTTP, or its issuer's certificate isn't in the chain.
    pub fn of(chain_pem: &str) -> Option<Self> {
        let chain = read_chain(chain_pem).ok()?;
        let certificates = parse_chain(&chain).ok()?;
        let [leaf, issuer, ..] = certificates.as_slice() else { return None };
        let validity = leaf.validity();
        let lifetime = validity.not_after.timestamp().saturating_sub(validity.not_before.timestamp());
        let lives_long = u64::try_from(lifetime).is_ok_and(|lifetime| lifetime >= SHORT_LIVED.as_secs());
        if !lives_long || is_never_revoked(leaf) || !is_signed_by(leaf, issuer) {
            return None;
        }
        let sources = Self {
            serial: leaf.raw_serial().to_vec(),
            issuer: chain.get(1)?.clone(),
            points: points(leaf),
            responders: responders(leaf),
        };
        (!sources.points.is_empty() || !sources.responders.is_empty()).then_some(sources)
    }

    pub(super) fn issuer(&self) -> Option<X509Certificate<'_>> {
        X509Certificate::from_der(&self.issuer).ok().map(|(_, issuer)| issuer)
    }
}

/// A URL that may be asked: of HTTP, without a user in it, and not absurdly long. The certificate was made by a CA,
/// but it stands in a Secret that others may write.
pub(super) fn askable(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|_| text.len() <= LONGEST_URL)?;
    let plain = url.username().is_empty() && url.password().is_none() && url.host().is_some();
    (plain && matches!(url.scheme(), "http" | "https")).then_some(url)
}

fn is_never_revoked(leaf: &X509Certificate<'_>) -> bool {
    leaf.iter_extensions().any(|extension| extension.oid == NO_REV_AVAIL)
}

/// A point for some reasons only, or of a list that another issuer signs, can't say that a certificate is good.
fn points(leaf: &X509Certificate<'_>) -> Vec<Vec<String>> {
    let points = leaf.iter_extensions().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::CRLDistributionPoints(points) => Some(&points.points),
        _ => None,
    });
    points
        .flatten()
        .filter(|point| point.reasons.is_none() && point.crl_issuer.is_none())
        .map(|point| names(point.distribution_point.as_ref()))
        .filter(|names| names.iter().any(|name| askable(name).is_some()))
        .take(PLACES)
        .collect()
}

/// The full name of a distribution point: the URLs in it.
pub(super) fn names(point: Option<&DistributionPointName<'_>>) -> Vec<String> {
    let Some(DistributionPointName::FullName(names)) = point else { return Vec::new() };
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(url) => Some((*url).to_owned()),
            _ => None,
        })
        .take(PLACES)
        .collect()
}

fn responders(leaf: &X509Certificate<'_>) -> Vec<Url> {
    let accesses = leaf.iter_extensions().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => Some(&access.accessdescs),
        _ => None,
    });
    accesses
        .flatten()
        .filter(|access| access.access_method == OID_PKIX_ACCESS_DESCRIPTOR_OCSP)
        .filter_map(|access| match access.access_location {
            GeneralName::URI(url) => askable(url),
            _ => None,
        })
        .take(PLACES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_of_http_are_asked() {
        assert!(askable("http://ca.example/1.crl").is_some());
        assert!(askable("https://ca.example:8443/crl?shard=1").is_some());
        for refused in [
            "ldap://ca.example/cn=ca?certificateRevocationList",
            "file:///etc/passwd",
            "http://user@ca.example/1.crl",
            "http://:secret@ca.example/1.crl",
            "//ca.example/1.crl",
            "http:",
            "",
        ] {
            assert!(askable(refused).is_none(), "{refused}");
        }
        assert!(askable(&format!("http://ca.example/{}", "a".repeat(LONGEST_URL))).is_none());
    }
}
