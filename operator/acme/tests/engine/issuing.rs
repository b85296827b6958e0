//! The scripted CA's keys and certificates.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls_pki_types::CertificateSigningRequestDer;

/// An intermediate that two roots have signed.
pub struct Issuing {
    intermediate: Issuer<'static, KeyPair>,
    /// The intermediate's certificate, by the first root and by the second.
    links: [String; 2],
}

/// The common names of the roots: of the chain given first, and of the alternate one.
pub const ROOTS: [&str; 2] = ["Scripted Root One", "Scripted Root Two"];

impl Issuing {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority("Scripted Intermediate");
        let links = ROOTS.map(|name| {
            let root = Issuer::new(authority(name), KeyPair::generate().unwrap());
            params.signed_by(&key, &root).unwrap().pem()
        });
        Self { intermediate: Issuer::new(params, key), links }
    }

    /// The chains for a signing request, by root; and its names.
    pub fn sign(&self, csr: Vec<u8>, wrong_name: bool) -> (Vec<String>, Vec<String>) {
        let mut csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).unwrap();
        let mut names: Vec<String> = csr
            .params
            .subject_alt_names
            .iter()
            .map(|name| match name {
                SanType::DnsName(name) => name.to_string(),
                SanType::IpAddress(address) => address.to_string(),
                other => format!("{other:?}"),
            })
            .collect();
        names.sort();
        csr.params.use_authority_key_identifier_extension = true;
        if wrong_name {
            csr.params.subject_alt_names = vec![SanType::DnsName("other.example".try_into().unwrap())];
        }
        let leaf = csr.signed_by(&self.intermediate).unwrap().pem();
        (names, self.chains(&leaf))
    }

    /// The chains of a certificate for these names and a key that nobody has.
    pub fn foreign(&self, names: &[String]) -> Vec<String> {
        let params = CertificateParams::new(names).unwrap();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &self.intermediate).unwrap().pem();
        self.chains(&leaf)
    }

    fn chains(&self, leaf: &str) -> Vec<String> {
        self.links.iter().map(|link| format!("{leaf}{link}")).collect()
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}
