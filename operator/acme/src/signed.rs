//! Signed requests (RFC 8555 §6.2) with an account's key, for what instant-acme doesn't do: register a key that is
//! already stored, read and change an account, work on authorizations at the same time, fetch alternate chains.

use std::time::Instant;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::attempts::Attempts;
use crate::http::Answer;
use crate::{AccountKey, Directory, Error, ExternalAccount, Failure, Http, RequestError};

/// Sends signed requests to one CA as one key.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub(crate) http: Http,
    pub(crate) directory: Directory,
    pub(crate) key: AccountKey,
    /// The account's URL; none before there is an account.
    pub(crate) account_url: Option<String>,
}

/// What a signed request carries.
pub(crate) enum Payload<'a> {
    /// Nothing: POST-as-GET (RFC 8555 §6.3).
    Get,
    /// A JSON document.
    Json(&'a Value),
}

impl Signed {
    /// Sends `payload` to `url`. Refused nonces and passing failures are tried again, a few times; whoever calls this
    /// must be able to bear that the CA acts on it twice.
    pub(crate) async fn post(&self, url: &str, payload: Payload<'_>) -> Result<Answer, Error> {
        let mut attempts = Attempts::new();
        loop {
            match self.post_once(url, &payload).await {
                Ok(answer) => return Ok(answer),
                Err(Error::Request(error)) => attempts.after(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// The same, for requests that the CA may answer late for a reason that lies elsewhere.
    pub(crate) fn lengthy(&self) -> Self {
        Self { http: self.http.lengthy(), ..self.clone() }
    }

    /// Fetches a JSON resource (POST-as-GET).
    pub(crate) async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<(T, Answer), Error> {
        let answer = self.post(url, Payload::Get).await?;
        Ok((read(url, &answer)?, answer))
    }

    async fn post_once(&self, url: &str, payload: &Payload<'_>) -> Result<Answer, Error> {
        let nonce = next_nonce(&self.http, &self.directory).await?;
        let mut protected = json!({"alg": "ES256", "nonce": nonce, "url": url});
        match &self.account_url {
            Some(account) => protected["kid"] = json!(account),
            None => protected["jwk"] = self.key.jwk(),
        }
        let payload = match payload {
            Payload::Get => String::new(),
            Payload::Json(value) => encode(value),
        };
        let body = seal(&protected, &payload, |input| self.key.sign(input))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(CONTENT_TYPE, "application/jose+json")
            .body(Bytes::from(body.to_string()))
            .map_err(|error| unusable(url, error.to_string()))?;
        exchange(&self.http, &self.directory, request).await.map_err(Error::from)
    }
}

/// A nonce from those that earlier answers brought, or a new one (RFC 8555 §7.2).
pub(crate) async fn next_nonce(http: &Http, directory: &Directory) -> Result<String, Error> {
    if let Some(nonce) = directory.nonces().take(Instant::now()) {
        return Ok(nonce);
    }
    let url = directory.resources().new_nonce.as_str();
    let request = Request::builder()
        .method(Method::HEAD)
        .uri(url)
        .body(Bytes::new())
        .map_err(|error| unusable(url, error.to_string()))?;
    let answer = http.request(request).await?;
    answer.header(REPLAY_NONCE).map(str::to_owned).ok_or_else(|| lacking(url, &answer, "it brought no nonce"))
}

/// Sends a request and keeps the nonce of its answer, also of one that refuses.
pub(crate) async fn exchange(
    http: &Http,
    directory: &Directory,
    request: Request<Bytes>,
) -> Result<Answer, RequestError> {
    let url = request.uri().to_string();
    let answer = http.exchange(request).await?;
    if let Some(nonce) = answer.header(REPLAY_NONCE) {
        directory.nonces().put(nonce.to_owned(), Instant::now());
    }
    answer.accept(Timestamp::now()).map_err(|failure| RequestError { method: "POST", url, failure })
}

/// The binding of a new account to one that the CA knows otherwise (RFC 8555 §7.3.4).
pub(crate) fn binding(
    external: &ExternalAccount,
    key: &AccountKey,
    new_account_url: &str,
) -> Result<Value, Error> {
    let protected = json!({"alg": "HS256", "kid": external.key_id, "url": new_account_url});
    let mac = hmac::Key::new(hmac::HMAC_SHA256, &external.hmac_key);
    seal(&protected, &encode(&key.jwk()), |input| Ok(hmac::sign(&mac, input).as_ref().to_vec()))
}

/// Reads an answer's JSON document.
pub(crate) fn read<T: DeserializeOwned>(url: &str, answer: &Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|error| lacking(url, answer, error.to_string()))
}

/// A failure to understand the answer of `url`.
pub(crate) fn unusable(url: &str, reason: impl Into<String>) -> Error {
    Error::Answer { url: url.to_owned(), reason: reason.into(), retry_after: None }
}

/// The same, where it may say when to come again.
pub(crate) fn lacking(url: &str, answer: &Answer, reason: impl Into<String>) -> Error {
    unusable(url, reason).after(answer.retry_after(Timestamp::now()))
}

/// A failure of a POST that never left.
pub(crate) fn unexpected(url: &str, reason: impl Into<String>) -> RequestError {
    RequestError { method: "POST", url: url.to_owned(), failure: Failure::Unexpected(reason.into()) }
}

pub(crate) const REPLAY_NONCE: &str = "replay-nonce";

/// A flattened JWS (RFC 7515 §7.2.2).
fn seal(
    protected: &Value,
    payload: &str,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, Error>,
) -> Result<Value, Error> {
    let protected = encode(protected);
    let signature = sign(format!("{protected}.{payload}").as_bytes())?;
    Ok(
        json!({"protected": protected, "payload": payload, "signature": BASE64_URL_SAFE_NO_PAD.encode(signature)}),
    )
}

fn encode(value: &impl Serialize) -> String {
    // A Value always serializes: its keys are strings.
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// RFC 7515, appendix A.1: an HS256 signature.
    #[test]
    fn a_binding_is_an_hs256_jws() {
        let external = ExternalAccount { key_id: "kid-1".into(), hmac_key: vec![7; 32] };
        let key = AccountKey::generate().unwrap();
        let binding = binding(&external, &key, "https://ca.example/new-account").unwrap();
        let text = |field: &str| binding[field].as_str().unwrap().to_owned();
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
        let protected: Value = serde_json::from_slice(&decode(&text("protected"))).unwrap();
        assert_eq!(
            protected,
            json!({"alg": "HS256", "kid": "kid-1", "url": "https://ca.example/new-account"})
        );
        assert_eq!(serde_json::from_slice::<Value>(&decode(&text("payload"))).unwrap(), key.jwk());
        let mac = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let input = format!("{}.{}", text("protected"), text("payload"));
        hmac::verify(&mac, input.as_bytes(), &decode(&text("signature"))).unwrap();
    }
}
