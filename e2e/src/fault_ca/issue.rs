//! Keys, certificates and lists of revoked ones.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as B64};
use jiff::Timestamp;
use rand::Rng as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CrlDistributionPoint, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateSigningRequestDer;

use super::{clock::later, problem::Problem, state::Certificate};
use crate::Error;

/// A time as rcgen takes it, whose type's crate isn't ours to name; those before 1970 are the begin of that year.
macro_rules! at {
    ($time:expr) => {
        rcgen::date_time_ymd(1970, 1, 1)
            + std::time::Duration::from_secs(u64::try_from($time.as_second()).unwrap_or_default())
    };
}

/// A root, and an intermediate below it that signs.
pub(super) struct Issuing {
    intermediate: Issuer<'static, KeyPair>,
    intermediate_pem: String,
    /// The intermediate's key identifier, which stands in each leaf.
    key_id: Vec<u8>,
    root_pem: String,
}

/// A signing request that was read.
pub(super) struct Csr {
    params: CertificateSigningRequestParams,
    /// The DNS names in it, sorted.
    pub(super) names: Vec<String>,
}

/// What a certificate is to be, beside what its request says.
pub(super) struct Terms<'a> {
    pub(super) account: usize,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) crl_url: &'a str,
}

/// Long before and long after every time that a test sets.
const AUTHORITY_YEARS: (i32, i32) = (1975, 2099);

impl Issuing {
    pub(super) fn new() -> Result<Self, Error> {
        let failed = |error: rcgen::Error| Error::invalid(|| "making the fault CA's certificates")(error);
        let (root_key, key) = (KeyPair::generate().map_err(failed)?, KeyPair::generate().map_err(failed)?);
        let root = authority("Fault CA Root", BasicConstraints::Unconstrained);
        let root_pem = root.self_signed(&root_key).map_err(failed)?.pem();
        let params = authority("Fault CA Intermediate", BasicConstraints::Constrained(0));
        let intermediate = params.signed_by(&key, &Issuer::new(root, root_key)).map_err(failed)?;
        Ok(Self {
            key_id: params.key_identifier(&key),
            intermediate_pem: intermediate.pem(),
            intermediate: Issuer::new(params, key),
            root_pem,
        })
    }

    pub(super) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Signs what was asked for.
    pub(super) fn sign(&self, csr: Csr, terms: &Terms<'_>) -> Result<Certificate, Problem> {
        let Csr { mut params, names } = csr;
        let mut serial = rand::rng().random::<[u8; 16]>().to_vec();
        // No zero byte in front that wouldn't be written.
        serial.insert(0, rand::rng().random_range(1..=u8::MAX));
        let leaf = &mut params.params;
        leaf.serial_number = Some(SerialNumber::from_slice(&serial));
        leaf.not_before = at!(terms.not_before);
        leaf.not_after = at!(terms.not_after);
        leaf.distinguished_name = DistinguishedName::new();
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        leaf.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![terms.crl_url.to_owned()] }];
        let signed = params.signed_by(&self.intermediate).map_err(|error| bad_csr(&error))?;
        // DER writes a zero byte where the number would else be negative.
        if serial.first().is_some_and(|first| first & 0x80 != 0) {
            serial.insert(0, 0);
        }
        Ok(Certificate {
            account: terms.account,
            names,
            ari_id: format!("{}.{}", B64.encode(&self.key_id), B64.encode(&serial)),
            serial,
            der: signed.der().to_vec(),
            chain_pem: format!("{}{}", signed.pem(), self.intermediate_pem),
            not_before: terms.not_before,
            not_after: terms.not_after,
            revoked: None,
        })
    }

    /// The list of those that are revoked, in DER.
    pub(super) fn crl<'a>(
        &self,
        revoked: impl Iterator<Item = &'a Certificate>,
        now: Timestamp,
    ) -> Result<Vec<u8>, rcgen::Error> {
        let revoked = revoked.filter_map(|certificate| {
            let (at, reason) = certificate.revoked?;
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&certificate.serial),
                revocation_time: at!(at),
                reason_code: reason_code(reason),
                invalidity_date: None,
            })
        });
        let list = CertificateRevocationListParams {
            this_update: at!(now),
            next_update: at!(later(now, std::time::Duration::from_hours(24))),
            crl_number: SerialNumber::from(now.as_second().unsigned_abs()),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.intermediate)?.der().to_vec())
    }
}

impl Csr {
    /// Reads a request in DER, and checks that it is signed with its own key.
    pub(super) fn read(der: Vec<u8>) -> Result<Self, Problem> {
        let der = CertificateSigningRequestDer::from(der);
        let params = CertificateSigningRequestParams::from_der(&der).map_err(|error| bad_csr(&error))?;
        let mut names = Vec::new();
        for name in &params.params.subject_alt_names {
            match name {
                SanType::DnsName(name) => names.push(name.to_string().to_ascii_lowercase()),
                other => return Err(bad_csr(&format!("it asks for {other:?}"))),
            }
        }
        names.sort();
        names.dedup();
        Ok(Self { params, names })
    }
}

pub(super) fn bad_csr(why: &dyn std::fmt::Display) -> Problem {
    Problem::new(400, "badCSR", format!("Error finalizing order :: {why}"))
}

/// The reasons that a certificate's owner may give (RFC 5280 §5.3.1); "unspecified" is left out of lists.
fn reason_code(reason: u8) -> Option<RevocationReason> {
    match reason {
        1 => Some(RevocationReason::KeyCompromise),
        3 => Some(RevocationReason::AffiliationChanged),
        4 => Some(RevocationReason::Superseded),
        5 => Some(RevocationReason::CessationOfOperation),
        _ => None,
    }
}

fn authority(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let (from, to) = AUTHORITY_YEARS;
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    params
}
