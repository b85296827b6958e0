//! Accounts and their keys (RFC 8555 §7.3).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::header::LOCATION;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::signed::{Payload, Signed, binding, lacking, read};
use crate::{Directory, Error, Http, Secret, Timing};

/// An account's key: ECDSA on P-256. Clones share it.
#[derive(Clone)]
pub struct AccountKey {
    inner: Arc<KeyInner>,
}

struct KeyInner {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
    /// The public point's coordinates in base64url.
    x: String,
    y: String,
    thumbprint: String,
}

impl AccountKey {
    /// Makes a new key. Store it before an account is registered with it.
    pub fn generate() -> Result<Self, Error> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| Error::Crypto("making an account key"))?;
        Self::from_pair(pair)
    }

    /// Reads a key in PEM (PKCS#8 or SEC 1).
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| Error::AccountKey("it is not a private key in PEM".to_owned()))?;
        if matches!(der, PrivateKeyDer::Pkcs1(_)) {
            return Err(Error::AccountKey("it is an RSA key; use an ECDSA key on P-256".to_owned()));
        }
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der())
            .map_err(|_| Error::AccountKey("it is not an ECDSA key on P-256".to_owned()))?;
        Self::from_pair(pair)
    }

    /// The key in PEM (PKCS#8).
    pub fn to_pem(&self) -> Secret {
        let text = BASE64_STANDARD.encode(&self.inner.pkcs8);
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = tail;
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Secret::new(pem)
    }

    /// The key's thumbprint (RFC 7638): the second half of every key authorization.
    pub fn thumbprint(&self) -> &str {
        &self.inner.thumbprint
    }

    pub(crate) fn jwk(&self) -> Value {
        json!({"crv": "P-256", "kty": "EC", "x": self.inner.x, "y": self.inner.y})
    }

    pub(crate) fn sign(&self, input: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.inner.pair.sign(&SystemRandom::new(), input);
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_| Error::Crypto("signing a request"))
    }

    pub(crate) fn pkcs8(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.inner.pkcs8.as_slice())
    }

    fn from_pair(pair: EcdsaKeyPair) -> Result<Self, Error> {
        let encoding = || Error::Crypto("encoding an account key");
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| encoding())?.as_ref().to_vec();
        // An uncompressed point (SEC 1 §2.3.3): 4, then the two coordinates.
        let point = pair.public_key().as_ref().get(1..65).ok_or_else(encoding)?;
        let (x, y) = point.split_at(32);
        let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(x), BASE64_URL_SAFE_NO_PAD.encode(y));
        // RFC 7638 §3: these members, in this order, without white space.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        Ok(Self { inner: Arc::new(KeyInner { pair, pkcs8, x, y, thumbprint }) })
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountKey").field("thumbprint", &self.inner.thumbprint).finish_non_exhaustive()
    }
}

/// An account that the CA knows otherwise, to bind a new one to (RFC 8555 §7.3.4).
#[derive(Clone)]
pub struct ExternalAccount {
    /// The key's identifier at the CA.
    pub key_id: String,
    /// The key itself, decoded.
    pub hmac_key: Vec<u8>,
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// An account at a CA. Clones share it.
#[derive(Clone, Debug)]
pub struct Account {
    inner: Arc<AccountInner>,
}

#[derive(Clone, Debug)]
struct AccountInner {
    signed: Signed,
    url: String,
    timing: Timing,
}

#[derive(Deserialize)]
struct AccountObject {
    #[serde(default)]
    status: String,
    #[serde(default)]
    contact: Option<Vec<String>>,
}

impl Account {
    /// Registers an account for `key`, which must already be stored: the CA answers the same key with the same
    /// account, so a crash in between makes no second one. `contact` holds URLs such as `mailto:ops@example.com`.
    /// The CA's terms of service are agreed to.
    pub async fn register(
        directory: &Directory,
        http: &Http,
        key: AccountKey,
        contact: &[String],
        external: Option<&ExternalAccount>,
    ) -> Result<Self, Error> {
        let url = directory.resources().new_account.as_str();
        let mut payload = json!({"termsOfServiceAgreed": true});
        if !contact.is_empty() {
            payload["contact"] = json!(contact);
        }
        if let Some(external) = external {
            payload["externalAccountBinding"] = binding(external, &key, url)?;
        }
        let signed = Signed { http: http.clone(), directory: directory.clone(), key, account_url: None };
        let answer = signed.post(url, Payload::Json(&payload)).await?;
        let location = answer.header(LOCATION).map(str::to_owned);
        let account_url = location.ok_or_else(|| lacking(url, &answer, "it has no Location header"))?;
        let existed = answer.status == http::StatusCode::OK;
        let object: AccountObject = read(url, &answer)?;
        let account = Self::with_url(signed, account_url);
        // CAs that keep contacts say them; those that don't would be told on each start.
        if existed && object.contact.is_some_and(|known| known != contact) {
            account.update_contact(contact).await?;
        }
        Ok(account)
    }

    /// An account that is known to exist at `url`. Asks the CA nothing.
    #[allow(clippy::unused_async, reason = "so that a later version may ask")]
    pub async fn restore(
        directory: &Directory,
        http: &Http,
        key: AccountKey,
        url: &str,
    ) -> Result<Self, Error> {
        let signed = Signed { http: http.clone(), directory: directory.clone(), key, account_url: None };
        Ok(Self::with_url(signed, url.to_owned()))
    }

    /// Replaces the account's contacts (RFC 8555 §7.3.2).
    pub async fn update_contact(&self, contact: &[String]) -> Result<(), Error> {
        self.inner.signed.post(self.url(), Payload::Json(&json!({"contact": contact}))).await.map(drop)
    }

    /// Asks the CA whether the account is in good standing (its `status` is `valid`).
    pub async fn is_valid(&self) -> Result<bool, Error> {
        let (object, _): (AccountObject, _) = self.inner.signed.get(self.url()).await?;
        Ok(object.status == "valid")
    }

    /// The account's URL.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// The thumbprint of the account's key (RFC 7638).
    pub fn thumbprint(&self) -> &str {
        self.inner.signed.key.thumbprint()
    }

    /// The CA's directory.
    pub fn directory(&self) -> &Directory {
        &self.inner.signed.directory
    }

    /// The same account, whose issuances wait as `timing` says.
    #[must_use]
    pub fn with_timing(&self, timing: Timing) -> Self {
        self.with(|inner| inner.timing = timing)
    }

    /// The same account, for names that have failed: its requests leave most of the turns at the CA to others, so that
    /// those that do pass don't wait for them, however many they are.
    #[must_use]
    pub fn yielding(&self) -> Self {
        self.with(|inner| inner.signed.http = inner.signed.http.yielding())
    }

    fn with(&self, change: impl FnOnce(&mut AccountInner)) -> Self {
        let mut inner = AccountInner::clone(&self.inner);
        change(&mut inner);
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn timing(&self) -> Timing {
        self.inner.timing
    }

    pub(crate) fn signed(&self) -> &Signed {
        &self.inner.signed
    }

    fn with_url(signed: Signed, url: String) -> Self {
        let signed = Signed { account_url: Some(url.clone()), ..signed };
        Self { inner: Arc::new(AccountInner { signed, url, timing: Timing::default() }) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_key_survives_its_pem() {
        let key = AccountKey::generate().unwrap();
        let again = AccountKey::from_pem(key.to_pem().expose()).unwrap();
        assert_eq!(key.thumbprint(), again.thumbprint());
        assert_eq!(key.thumbprint().len(), 43);
    }

    #[test]
    fn instant_acme_takes_the_same_key() {
        let key = AccountKey::generate().unwrap();
        assert!(instant_acme::Key::from_pkcs8_der(key.pkcs8()).is_ok());
    }

    #[test]
    fn other_keys_are_refused_with_what_to_use() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
            let pem = rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
            let error = AccountKey::from_pem(&pem).unwrap_err().to_string();
            assert!(error.contains("P-256"), "{error}");
        }
        assert!(AccountKey::from_pem("nonsense").is_err());
    }

    #[test]
    fn debug_shows_no_key() {
        let external = ExternalAccount { key_id: "id".into(), hmac_key: vec![42; 4] };
        assert!(!format!("{external:?}").contains("42"));
        assert!(!format!("{:?}", AccountKey::generate().unwrap()).contains("pkcs8"));
    }
}
