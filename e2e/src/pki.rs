//! Certificate authorities for the lab's own servers.

use jiff::civil::Date;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::Error;

/// A root that signs the certificates of the lab's own servers.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate, leaf first.
    pub certificate_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
}

impl Authority {
    /// A new self-signed root.
    pub fn new(name: &str) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(failed(name))?;
        let params = authority(name)?;
        let certificate_pem = params.self_signed(&key).map_err(failed(name))?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem })
    }

    /// The root's certificate.
    pub fn pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A server's certificate for DNS names and IP addresses.
    pub fn server(&self, names: &[&str]) -> Result<Pair, Error> {
        let what = names.first().copied().unwrap_or("server");
        self.sign(what, &server(names)?)
    }

    /// The same, valid from midnight (UTC) of one day to midnight of another.
    pub fn server_between(&self, names: &[&str], begin: Date, end: Date) -> Result<Pair, Error> {
        let what = names.first().copied().unwrap_or("server");
        let mut params = server(names)?;
        let midnight = |day: Date| {
            date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
        };
        (params.not_before, params.not_after) = (midnight(begin), midnight(end));
        self.sign(what, &params)
    }

    /// A client's certificate: who it is, and the group that it is in.
    pub fn client(&self, name: &str, group: &str) -> Result<Pair, Error> {
        let mut params = CertificateParams::new(Vec::new()).map_err(failed(name))?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        self.sign(name, &params)
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str) -> Result<Pair, Error> {
        let mut params = authority(name)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        self.sign(name, &params)
    }

    fn sign(&self, what: &str, params: &CertificateParams) -> Result<Pair, Error> {
        let key = KeyPair::generate().map_err(failed(what))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed(what))?;
        Ok(Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// The keys of service account tokens, both PEM: the private and the public one.
pub fn signing_key() -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(failed("service account tokens"))?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn server(names: &[&str]) -> Result<CertificateParams, Error> {
    let what = names.first().copied().unwrap_or("server");
    let sans: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(sans).map_err(failed(what))?;
    params.distinguished_name.push(DnType::CommonName, what);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority(name: &str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed(name))?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn failed(name: &str) -> impl FnOnce(rcgen::Error) -> Error {
    Error::invalid(move || format!("making the certificate of {name}"))
}
