//! Signed requests (RFC 8555 §6.2), checked without any code of the client's.

use aws_lc_rs::{
    digest,
    signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as B64};
use serde_json::Value;

use super::problem::Problem;

/// A flattened JWS (RFC 7515 §7.2.2), read and not yet checked.
#[derive(Debug)]
pub(super) struct Jws {
    protected: Value,
    /// The payload; null where it is empty (POST-as-GET).
    pub(super) payload: Value,
    signed: String,
    signature: Vec<u8>,
}

/// A public key: ECDSA on P-256, as an uncompressed point (SEC 1 §2.3.3).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct PublicKey(Vec<u8>);

impl Jws {
    /// Reads a request's body; `None` where it isn't a JWS.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let jws: Value = serde_json::from_slice(body).ok()?;
        let part = |name: &str| jws.get(name)?.as_str();
        let (protected, payload) = (part("protected")?, part("payload")?);
        let json = |text: &str| serde_json::from_slice(&B64.decode(text).ok()?).ok();
        Some(Self {
            protected: json(protected)?,
            payload: if payload.is_empty() { Value::Null } else { json(payload)? },
            signed: format!("{protected}.{payload}"),
            signature: B64.decode(part("signature")?).ok()?,
        })
    }

    /// The account's URL that it is signed for.
    pub(super) fn kid(&self) -> Option<&str> {
        self.protected.get("kid")?.as_str()
    }

    /// The key that it brings with it.
    pub(super) fn jwk(&self) -> Option<PublicKey> {
        let jwk = self.protected.get("jwk")?;
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if (text("kty"), text("crv")) != (Some("EC"), Some("P-256")) {
            return None;
        }
        let mut point = vec![4];
        for axis in ["x", "y"] {
            point.extend(B64.decode(text(axis)?).ok()?);
        }
        (point.len() == 65).then_some(PublicKey(point))
    }

    pub(super) fn nonce(&self) -> &str {
        self.protected.get("nonce").and_then(Value::as_str).unwrap_or_default()
    }

    /// Checks the signature and the URL that it was made for (§6.4).
    pub(super) fn verify(&self, key: &PublicKey, url: &str) -> Result<(), Problem> {
        if self.protected.get("alg").and_then(Value::as_str) != Some("ES256") {
            return Err(Problem::new(400, "badSignatureAlgorithm", "this CA takes ES256 alone"));
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.0)
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| Problem::malformed("JWS verification error"))?;
        let signed_for = self.protected.get("url").and_then(Value::as_str).unwrap_or_default();
        if signed_for == url {
            return Ok(());
        }
        Err(Problem::unauthorized(format!(
            "JWS header 'url' is {signed_for:?}, and the request's is {url:?}"
        )))
    }
}

impl PublicKey {
    /// Whether it is this point.
    pub(super) fn is_of(&self, point: &[u8]) -> bool {
        self.0 == point
    }

    /// The thumbprint (RFC 7638): the second half of every key authorization.
    pub(super) fn thumbprint(&self) -> String {
        let (x, y) = self.0.get(1..).unwrap_or_default().split_at(32);
        let canonical =
            format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, B64.encode(x), B64.encode(y));
        B64.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;

    /// RFC 7515, appendix A.3: an ES256 signature made by others.
    #[test]
    fn the_rfcs_example_verifies() {
        let jws = json!({
            "protected": "eyJhbGciOiJFUzI1NiJ9",
            "payload": "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
            "signature": "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        });
        let mut jws = Jws::read(jws.to_string().as_bytes()).unwrap();
        let point = |x: &str, y: &str| [vec![4], B64.decode(x).unwrap(), B64.decode(y).unwrap()].concat();
        let key = PublicKey(point(
            "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        ));
        // It has no `url`, so only that is missed.
        assert_eq!(jws.verify(&key, "").map_err(|problem| problem.kind), Ok(()));
        assert_eq!(jws.verify(&key, "https://ca.test/").unwrap_err().kind, "unauthorized");
        jws.signed.push('A');
        assert_eq!(jws.verify(&key, "").unwrap_err().detail, "JWS verification error");
    }
}
