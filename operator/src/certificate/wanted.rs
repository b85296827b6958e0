//! What a Certificate asks for: its spec, parsed once into what the rest of this folder works with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use waxwing_acme::{Identifier, KeyAlgorithm, Window, Windows};
use waxwing_api::{
    Certificate, CertificateRenewal, CertificateSpec, IssuerRef, PrivateKeyAlgorithm, PrivateKeyEncoding,
    RenewalPolicy, RotationPolicy, labels,
};

use super::renewal_request;
use super::target_secret::{IssuedBy, Stored, Wrapping};
use crate::issuer::IssuerKey;

/// A Certificate's spec, parsed.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Every DNS name of the certificate, lower case, sorted.
    pub names: BTreeSet<String>,
    /// The common name, one of `names`.
    pub common_name: Option<String>,
    /// The issuer of `issuerRef`.
    pub issuer: IssuerKey,
    /// Who is asked where that can't issue, in this order.
    pub fallbacks: Vec<IssuerKey>,
    /// The ACME profile, where the Certificate names one.
    pub profile: Option<String>,
    /// The key's algorithm and size.
    pub key: KeyAlgorithm,
    /// How the key is written.
    pub encoding: PrivateKeyEncoding,
    /// Whether the stored key is used again.
    pub keep_key: bool,
    /// Renew this long before expiry.
    pub renew_before: Option<Duration>,
    /// Renew when this share of the lifetime is left, in per cent.
    pub renew_before_percentage: Option<u8>,
    /// Whether it is renewed for its age.
    pub renewed: bool,
    /// When a renewal is welcome.
    pub windows: Windows,
    /// When its owner asks for a renewal, whatever else is so.
    pub requested: Option<Timestamp>,
    /// What can't be followed of what is said about renewals, a sentence each. None of it stops an issuance.
    pub ignored: Vec<String>,
    /// The target Secret's name.
    pub secret_name: String,
    wrapping: Wrapping,
}

/// A spec that can't be honoured although it was stored: one that came in before a rule existed.
#[derive(Debug, Error, Eq, PartialEq)]
pub enum WantedError {
    /// No name at all.
    #[error("the spec names no host; add dnsNames")]
    NoName,
    /// A key size that the algorithm doesn't have.
    #[error("privateKey.size {size} doesn't exist for {algorithm}; leave it out for the default")]
    KeySize {
        /// The algorithm.
        algorithm: &'static str,
        /// The size asked for, in bits.
        size: i32,
    },
    /// A reference to another group's issuer.
    #[error("issuerRef.group {0} is not Waxwing's; leave it out, or write waxwing.dev")]
    ForeignGroup(String),
}

impl Wanted {
    /// Parses the spec of a namespaced Certificate.
    pub fn of(certificate: &Certificate) -> Result<Self, WantedError> {
        let spec = &certificate.spec;
        let names: BTreeSet<String> =
            spec.dns_names.iter().chain(&spec.common_name).map(|name| name.to_ascii_lowercase()).collect();
        if names.is_empty() {
            return Err(WantedError::NoName);
        }
        let namespace = certificate.metadata.namespace.as_deref().unwrap_or_default();
        let referred = |reference: &IssuerRef| match reference.group.as_deref() {
            Some(group) if group != waxwing_api::GROUP => Err(WantedError::ForeignGroup(group.to_owned())),
            _ => Ok(IssuerKey::referred(reference, namespace)),
        };
        let issuer = referred(&spec.issuer_ref)?;
        let fallbacks = spec.fallback_issuer_refs.iter().map(referred).collect::<Result<_, _>>()?;
        let private_key = spec.key();
        let renewal = spec.renewal.clone().unwrap_or_default();
        let (windows, mut ignored) = windows(&renewal);
        let requested = renewal_request::requested(certificate).unwrap_or_else(|why| {
            ignored.push(why);
            None
        });
        Ok(Self {
            common_name: spec.common_name.as_ref().map(|name| name.to_ascii_lowercase()),
            profile: spec.profile.clone(),
            key: key_algorithm(private_key.algorithm, private_key.size)?,
            encoding: private_key.encoding,
            keep_key: private_key.rotation_policy == RotationPolicy::Never,
            renew_before: spec.renew_before.map(Duration::from),
            renew_before_percentage: spec
                .renew_before_percentage
                .and_then(|percent| u8::try_from(percent).ok()),
            renewed: renewal.policy != RenewalPolicy::Disabled,
            windows,
            requested,
            ignored,
            secret_name: spec.secret_name.clone(),
            wrapping: wrapping(certificate.metadata.name.as_deref().unwrap_or_default(), spec, &names),
            names,
            issuer,
            fallbacks,
        })
    }

    /// The issuer of the stored certificate, if it is among those that the spec names.
    pub fn issuer_of(&self, stored: &Stored) -> Option<&IssuerKey> {
        let Stored::Ours(ours) = stored else { return None };
        let by = ours.issued_by.as_ref()?;
        self.issuers().find(|issuer| IssuedBy::from(*issuer) == *by)
    }

    /// The issuer of `issuerRef`, then the fallbacks.
    pub fn issuers(&self) -> impl Iterator<Item = &IssuerKey> {
        std::iter::once(&self.issuer).chain(&self.fallbacks)
    }

    /// Labels and annotations of the target Secret with a certificate of this issuer.
    pub fn wrapping(&self, issuer: &IssuerKey) -> Wrapping {
        let mut wrapping = self.wrapping.clone();
        let IssuedBy { kind, name } = issuer.into();
        wrapping.annotations.insert(labels::ISSUER_NAME.into(), name);
        wrapping.annotations.insert(labels::ISSUER_KIND.into(), kind);
        wrapping
    }

    /// The names as the engine takes them.
    pub fn identifiers(&self) -> Vec<Identifier> {
        self.names.iter().cloned().map(Identifier::Dns).collect()
    }
}

/// The windows that can be used, and a sentence for each that can't: a certificate must not run out for the sake of one.
fn windows(renewal: &CertificateRenewal) -> (Windows, Vec<String>) {
    let (mut windows, mut ignored) = (Vec::new(), Vec::new());
    for (index, window) in renewal.windows.iter().enumerate() {
        match Window::new(&window.cron, window.window_duration.get(), &window.timezone) {
            Ok(window) => windows.push(window),
            Err(error) => ignored.push(format!("spec.renewal.windows[{index}] is left aside: {error}.")),
        }
    }
    (Windows::new(windows), ignored)
}

fn key_algorithm(algorithm: PrivateKeyAlgorithm, size: Option<i32>) -> Result<KeyAlgorithm, WantedError> {
    let unknown = |algorithm| Err(WantedError::KeySize { algorithm, size: size.unwrap_or_default() });
    Ok(match (algorithm, size) {
        (PrivateKeyAlgorithm::Ecdsa, None | Some(256)) => KeyAlgorithm::EcdsaP256,
        (PrivateKeyAlgorithm::Ecdsa, Some(384)) => KeyAlgorithm::EcdsaP384,
        (PrivateKeyAlgorithm::Ecdsa, Some(521)) => KeyAlgorithm::EcdsaP521,
        (PrivateKeyAlgorithm::Ecdsa, Some(_)) => return unknown("ECDSA"),
        (PrivateKeyAlgorithm::Ed25519, _) => KeyAlgorithm::Ed25519,
        (PrivateKeyAlgorithm::Rsa, None | Some(2048)) => KeyAlgorithm::Rsa2048,
        (PrivateKeyAlgorithm::Rsa, Some(3072)) => KeyAlgorithm::Rsa3072,
        (PrivateKeyAlgorithm::Rsa, Some(4096)) => KeyAlgorithm::Rsa4096,
        (PrivateKeyAlgorithm::Rsa, Some(_)) => return unknown("RSA"),
    })
}

/// Without the issuer. Template first, so that what Waxwing's own keys say can't be overridden.
fn wrapping(name: &str, spec: &CertificateSpec, names: &BTreeSet<String>) -> Wrapping {
    let template = spec.secret_template.clone().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = template.labels;
    labels.insert(labels::MANAGED_BY.into(), labels::MANAGED_BY_WAXWING.into());
    labels.insert(labels::COMPONENT.into(), labels::COMPONENT_CERTIFICATE.into());
    let alt_names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut annotations: BTreeMap<String, String> = template.annotations;
    for (key, value) in [
        (labels::CERTIFICATE_NAME, name),
        (labels::ISSUER_GROUP, waxwing_api::GROUP),
        (labels::COMMON_NAME, spec.common_name.as_deref().unwrap_or_default()),
        (labels::ALT_NAMES, &alt_names.join(",")),
    ] {
        annotations.insert(key.into(), value.to_owned());
    }
    Wrapping { labels, annotations }
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;
    use kube::api::ObjectMeta;
    use waxwing_acme::Leaf;
    use waxwing_api::{IssuerKind, PrivateKey};

    use super::*;

    /// The parsed form of a plain Certificate web/shop for `names`.
    pub fn wanted(names: &[&str]) -> Wanted {
        Wanted::of(&certificate(names)).unwrap()
    }

    /// A plain Certificate web/shop for `names`.
    pub fn certificate(names: &[&str]) -> Certificate {
        Certificate {
            metadata: ObjectMeta {
                name: Some("shop".into()),
                namespace: Some("web".into()),
                uid: Some("5f1c".into()),
                generation: Some(1),
                ..ObjectMeta::default()
            },
            spec: CertificateSpec {
                secret_name: "shop-tls".into(),
                issuer_ref: IssuerRef { name: "ca".into(), kind: IssuerKind::ClusterIssuer, group: None },
                dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
                ..CertificateSpec::default()
            },
            status: None,
        }
    }

    /// A plain leaf for a.example.
    pub fn leaf(not_before: Timestamp, not_after: Timestamp) -> Leaf {
        Leaf {
            not_before,
            not_after,
            serial: "01".into(),
            dns_names: vec!["a.example".into()],
            ip_addresses: Vec::new(),
            common_name: None,
            issuer: "test".into(),
            ari_id: None,
            key_algorithm: Some(KeyAlgorithm::EcdsaP256),
        }
    }

    #[test]
    fn names_are_lower_case_sorted_and_hold_the_common_name() {
        let mut certificate = certificate(&["B.example", "a.example"]);
        certificate.spec.common_name = Some("a.example".into());
        let wanted = Wanted::of(&certificate).unwrap();
        assert_eq!(wanted.names.iter().collect::<Vec<_>>(), ["a.example", "b.example"]);
        assert_eq!(wanted.wrapping.annotations[labels::ALT_NAMES], "a.example,b.example");
    }

    #[test]
    fn the_template_adds_and_never_overrides() {
        let mut certificate = certificate(&["a.example"]);
        certificate.spec.secret_template = Some(waxwing_api::SecretTemplate {
            labels: BTreeMap::from([
                ("team".into(), "web".into()),
                (labels::COMPONENT.into(), "account".into()),
            ]),
            annotations: BTreeMap::new(),
        });
        let wanted = Wanted::of(&certificate).unwrap();
        assert_eq!(wanted.wrapping.labels["team"], "web");
        assert_eq!(wanted.wrapping.labels[labels::COMPONENT], labels::COMPONENT_CERTIFICATE);
    }

    #[test]
    fn a_window_that_cannot_be_used_is_left_aside_with_a_sentence() {
        let mut certificate = certificate(&["a.example"]);
        let window = |timezone: &str| waxwing_api::CertificateRenewalWindow {
            cron: "0 3 * * *".into(),
            window_duration: Duration::from_hours(2).into(),
            timezone: timezone.into(),
        };
        certificate.spec.renewal = Some(CertificateRenewal {
            windows: vec![window("Europe/Berln"), window("Europe/Berlin")],
            ..CertificateRenewal::default()
        });
        let wanted = Wanted::of(&certificate).unwrap();
        assert!(!wanted.windows.is_empty() && wanted.renewed);
        assert_eq!(
            wanted.ignored,
            [
                "spec.renewal.windows[0] is left aside: timezone \"Europe/Berln\" isn't known; write an IANA time zone such as Europe/Berlin, or leave it out for UTC."
            ]
        );
    }

    #[test]
    fn an_unknown_key_size_is_refused() {
        let mut certificate = certificate(&["a.example"]);
        certificate.spec.private_key = Some(PrivateKey {
            algorithm: PrivateKeyAlgorithm::Rsa,
            size: Some(1024),
            ..PrivateKey::default()
        });
        assert_eq!(
            Wanted::of(&certificate).unwrap_err(),
            WantedError::KeySize { algorithm: "RSA", size: 1024 }
        );
    }
}
