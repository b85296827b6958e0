//! What is asked for: identifiers, key and the rest of one certificate request.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::Secret;

/// One certificate to obtain.
#[derive(Clone, Debug)]
pub struct Request {
    /// The names and addresses that the certificate is to hold. Order and repetition don't matter.
    pub identifiers: Vec<Identifier>,
    /// The subject's common name, where one is wanted. It must be among the identifiers.
    pub common_name: Option<String>,
    /// The CA's certificate profile to ask for.
    pub profile: Option<String>,
    /// The private key's algorithm.
    pub key: KeyAlgorithm,
    /// A private key (PKCS#8, PEM) to use again; without it a new one is made.
    pub reuse_key: Option<Secret>,
    /// The certificate that this one replaces, as RFC 9773 §4.1 identifies it. Dropped where the CA has no ARI.
    pub replaces: Option<String>,
    /// Of the chains that the CA offers, take the one whose topmost certificate was issued by this common name.
    pub preferred_chain: Option<String>,
}

impl Request {
    /// A request for `identifiers` with an ECDSA P-256 key and nothing else said.
    pub fn new(identifiers: Vec<Identifier>) -> Self {
        Self {
            identifiers,
            common_name: None,
            profile: None,
            key: KeyAlgorithm::EcdsaP256,
            reuse_key: None,
            replaces: None,
            preferred_chain: None,
        }
    }

    /// The identifiers, sorted, each once.
    pub fn sorted_identifiers(&self) -> Vec<Identifier> {
        let mut sorted = self.identifiers.clone();
        sorted.sort();
        sorted.dedup();
        sorted
    }

    /// A stable digest (SHA-256, hex) of what an order and its key depend on: identifiers, common name, profile,
    /// key algorithm and `replaces`. An open order is resumed only for the same digest.
    pub fn hash(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        // Each part is written with its length, so that no two requests can run into each other.
        let mut part = |label: &str, value: Option<&str>| {
            context.update(label.as_bytes());
            let length = value.map_or(u64::MAX, |value| value.len() as u64);
            context.update(&length.to_be_bytes());
            context.update(value.unwrap_or_default().as_bytes());
        };
        for identifier in self.sorted_identifiers() {
            part("identifier", Some(&identifier.to_string()));
        }
        part("common name", self.common_name.as_deref());
        part("profile", self.profile.as_deref());
        part("key", Some(self.key.name()));
        part("replaces", self.replaces.as_deref());
        hex(context.finish().as_ref())
    }
}

/// What a certificate is for: a DNS name or an IP address (RFC 8555 §9.7.7, RFC 8738).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Identifier {
    /// A DNS name in lower-case ASCII; may start with `*.`.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl Identifier {
    /// Whether this is a wildcard name.
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Self::Dns(name) if name.starts_with("*."))
    }

    /// The name without its `*.`, or the address: what an authorization is about (RFC 8555 §7.1.4).
    pub fn base(&self) -> String {
        match self {
            Self::Dns(name) => name.strip_prefix("*.").unwrap_or(name).to_owned(),
            Self::Ip(address) => address.to_string(),
        }
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for Identifier {
    type Err = InvalidIdentifier;

    /// Reads an IP address, or a DNS name: lower-cased, one trailing dot taken off.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |why| InvalidIdentifier { text: text.to_owned(), why };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if !name.is_ascii() {
            return Err(invalid("write an international name in its ASCII form (xn--…)"));
        }
        if name.len() > 253 {
            return Err(invalid("a DNS name has at most 253 characters"));
        }
        let base = name.strip_prefix("*.").unwrap_or(&name);
        if base.contains('*') {
            return Err(invalid("a wildcard stands alone in the first label (*.example.com)"));
        }
        if base.is_empty() {
            return Err(invalid("write a DNS name such as www.example.com, or an IP address"));
        }
        for label in base.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(invalid("each part between dots has 1 to 63 characters"));
            }
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if !label.chars().all(allowed) || label.starts_with('-') || label.ends_with('-') {
                return Err(invalid("use letters, digits and inner hyphens only, without port or scheme"));
            }
        }
        Ok(Self::Dns(name))
    }
}

/// Text that is neither a DNS name nor an IP address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} can't be put into a certificate: {why}")]
pub struct InvalidIdentifier {
    text: String,
    why: &'static str,
}

/// The algorithm and size of a certificate's private key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256, the default.
    #[default]
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// ECDSA on P-521. Few public CAs sign it.
    EcdsaP521,
    /// Ed25519. Few public CAs sign it.
    Ed25519,
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 3072 bits.
    Rsa3072,
    /// RSA, 4096 bits.
    Rsa4096,
}

impl KeyAlgorithm {
    /// Every algorithm, for tables and tests.
    pub const ALL: [Self; 7] = [
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::EcdsaP521,
        Self::Ed25519,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
    ];

    /// A stable name, such as `ECDSA-P256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ECDSA-P256",
            Self::EcdsaP384 => "ECDSA-P384",
            Self::EcdsaP521 => "ECDSA-P521",
            Self::Ed25519 => "Ed25519",
            Self::Rsa2048 => "RSA-2048",
            Self::Rsa3072 => "RSA-3072",
            Self::Rsa4096 => "RSA-4096",
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn request(names: &[&str]) -> Request {
        Request::new(names.iter().map(|name| name.parse().unwrap()).collect())
    }

    #[test]
    fn identifiers_are_normalised() {
        assert_eq!("WWW.Example.com.".parse(), Ok(Identifier::Dns("www.example.com".into())));
        assert_eq!("*.example.com".parse::<Identifier>().unwrap().base(), "example.com");
        assert_eq!("2001:DB8::1".parse::<Identifier>().unwrap().to_string(), "2001:db8::1");
    }

    #[test]
    fn what_is_no_identifier_is_refused_with_advice() {
        for text in [
            "",
            ".",
            "a..b",
            "*",
            "*.*.a",
            "a.*.b",
            "exämple.com",
            "-a.com",
            "a-.com",
            "a b",
            "https://a",
            "a:80",
        ] {
            let error = text.parse::<Identifier>().unwrap_err();
            assert!(error.to_string().contains("can't be put into a certificate"), "{text}: {error}");
        }
    }

    #[test]
    fn the_hash_keeps_to_what_an_order_depends_on() {
        let base = request(&["a.example", "b.example"]);
        assert_eq!(base.hash(), request(&["b.example", "a.example", "a.example"]).hash());
        assert_eq!(base.hash().len(), 64);

        let chain = Request { preferred_chain: Some("Root".into()), ..base.clone() };
        assert_eq!(base.hash(), chain.hash(), "the chain is chosen at the end");

        let others = [
            request(&["a.example"]),
            Request { common_name: Some("a.example".into()), ..base.clone() },
            Request { profile: Some("a.example".into()), ..base.clone() },
            Request { replaces: Some("a.example".into()), ..base.clone() },
            Request { key: KeyAlgorithm::Rsa2048, ..base.clone() },
        ];
        let mut hashes: Vec<_> = others.iter().map(Request::hash).chain([base.hash()]).collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), 6);
    }

    proptest! {
        #[test]
        fn what_parses_prints_and_parses_to_the_same(text in "\\PC{0,40}|[a-zA-Z0-9.*_-]{1,30}") {
            if let Ok(identifier) = text.parse::<Identifier>() {
                prop_assert_eq!(identifier.to_string().parse::<Identifier>(), Ok(identifier));
            }
        }
    }
}
