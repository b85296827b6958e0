//! A CA's directory (RFC 8555 §7.1.1).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use jiff::Timestamp;
use serde::Deserialize;
use url::Url;

use crate::attempts::Attempts;
use crate::nonces::Nonces;
use crate::{Error, Failure, Http, RequestError};

/// A CA's directory, fetched once. Clones share it, and the nonces that the CA handed out.
#[derive(Clone, Debug)]
pub struct Directory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    url: Url,
    raw: Bytes,
    resources: Resources,
    nonces: Nonces,
}

/// The URLs in a directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resources {
    pub(crate) new_nonce: Url,
    pub(crate) new_account: Url,
    pub(crate) new_order: Url,
    #[serde(default)]
    pub(crate) renewal_info: Option<Url>,
    #[serde(default)]
    pub(crate) meta: Meta,
}

/// What a directory says about its CA (RFC 8555 §9.7.6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Where its terms of service are.
    #[serde(default)]
    pub terms_of_service: Option<String>,
    /// Where to read about the CA.
    #[serde(default)]
    pub website: Option<String>,
    /// The names by which a CAA record allows it to issue.
    #[serde(default)]
    pub caa_identities: Vec<String>,
    /// Whether an account must be bound to one that the CA knows otherwise (RFC 8555 §7.3.4).
    #[serde(default)]
    pub external_account_required: bool,
    /// The certificate profiles offered, each with its description.
    #[serde(default)]
    pub profiles: BTreeMap<String, String>,
}

impl Directory {
    /// Fetches the directory at `url`.
    pub async fn fetch(http: &Http, url: &Url) -> Result<Self, Error> {
        let fail = |failure| RequestError { method: "GET", url: url.to_string(), failure };
        let mut attempts = Attempts::new();
        let answer = loop {
            let request = Request::builder()
                .method(Method::GET)
                .uri(url.as_str())
                .body(Bytes::new())
                .map_err(|error| fail(Failure::Unexpected(error.to_string())))?;
            match http.request(request).await {
                Ok(answer) => break answer,
                Err(error) => attempts.after(error).await?,
            }
        };
        let resources = serde_json::from_slice(&answer.body).map_err(|error| {
            fail(answer.unexpected(format!("it is not a directory ({error})"), Timestamp::now()))
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                url: url.clone(),
                raw: answer.body,
                resources,
                nonces: Nonces::default(),
            }),
        })
    }

    /// The URL that it was fetched from.
    pub fn url(&self) -> &Url {
        &self.inner.url
    }

    /// What it says about its CA.
    pub fn meta(&self) -> &Meta {
        &self.inner.resources.meta
    }

    /// Where to ask when to renew (ARI, RFC 9773), if the CA offers it.
    pub fn renewal_info(&self) -> Option<&Url> {
        self.inner.resources.renewal_info.as_ref()
    }

    pub(crate) fn resources(&self) -> &Resources {
        &self.inner.resources
    }

    pub(crate) fn raw(&self) -> Bytes {
        self.inner.raw.clone()
    }

    pub(crate) fn nonces(&self) -> &Nonces {
        &self.inner.nonces
    }
}
