//! instant-acme's way to the CA: through our own HTTP client, with our own errors.
//!
//! instant-acme knows neither a cached directory nor a pool of nonces, and keeps of an answer only what it needs. So
//! its requests for the directory and for nonces are answered here, what the CA refuses becomes our typed error, and
//! the headers of the last answer are kept.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{LINK, LOCATION};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use jiff::Timestamp;

use crate::http::Answer;
use crate::signed::{REPLAY_NONCE, exchange, next_nonce, unexpected, unusable};
use crate::{Account, Directory, Error, Failure, Http, Problem, RequestError};

/// One issuance's use of instant-acme.
pub(crate) struct Session {
    pub(crate) account: instant_acme::Account,
    last: Arc<Mutex<LastAnswer>>,
}

/// What the last answer's headers said.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastAnswer {
    pub(crate) location: Option<String>,
    pub(crate) alternates: Vec<String>,
    pub(crate) retry_after: Option<Timestamp>,
}

impl Session {
    /// Asks the CA nothing.
    pub(crate) async fn new(account: &Account) -> Result<Self, Error> {
        let last = Arc::default();
        let signed = account.signed();
        let client = Interceptor {
            http: signed.http.clone(),
            directory: signed.directory.clone(),
            last: Arc::clone(&last),
        };
        let account = instant_acme::Account::builder_with_http(Box::new(client))
            .from_parts(account.url().to_owned(), signed.key.pkcs8(), signed.directory.url().to_string())
            .await
            .map_err(|error| typed(error, signed.directory.url().as_str()))?;
        Ok(Self { account, last })
    }

    /// What the last answer's headers said.
    pub(crate) fn last(&self) -> LastAnswer {
        lock(&self.last).clone()
    }

    /// Our error inside instant-acme's, or what instant-acme made of the last answer.
    pub(crate) fn typed(&self, error: instant_acme::Error, url: &str) -> Error {
        typed(error, url).after(self.last().retry_after)
    }
}

/// Our error inside instant-acme's, or its own as ours.
fn typed(error: instant_acme::Error, url: &str) -> Error {
    match error {
        instant_acme::Error::Other(inner) => match inner.downcast::<RequestError>() {
            Ok(request) => (*request).into(),
            Err(inner) => match inner.downcast::<Error>() {
                Ok(error) => *error,
                Err(other) => unusable(url, other.to_string()),
            },
        },
        // Never seen: what the CA refuses is made ours before instant-acme reads it.
        instant_acme::Error::Api(problem) => {
            let problem = Problem::from(&problem);
            let status = problem.status.unwrap_or(400);
            let failure = Failure::Status { status, problem: Some(Box::new(problem)), retry_after: None };
            RequestError { method: "POST", url: url.to_owned(), failure }.into()
        }
        other => unusable(url, other.to_string()),
    }
}

struct Interceptor {
    http: Http,
    directory: Directory,
    last: Arc<Mutex<LastAnswer>>,
}

impl HttpClient for Interceptor {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let (http, directory, last) = (self.http.clone(), self.directory.clone(), Arc::clone(&self.last));
        Box::pin(async move {
            if request.method() == Method::GET && request.uri() == directory.url().as_str() {
                return Ok(answer(Response::new(()), directory.raw()));
            }
            if request.method() == Method::HEAD {
                let nonce = next_nonce(&http, &directory).await.map_err(boxed)?;
                let response = Response::builder().header(REPLAY_NONCE, nonce).body(())?;
                return Ok(answer(response, Bytes::new()));
            }
            let url = request.uri().to_string();
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(|error| boxed(unexpected(&url, error.to_string())))?;
            let got = exchange(&http, &directory, Request::from_parts(parts, body.to_bytes()))
                .await
                .map_err(boxed)?;
            *lock(&last) = LastAnswer::of(&got);
            let mut response = Response::new(());
            *response.status_mut() = got.status;
            *response.headers_mut() = got.headers;
            // The nonce is in the pool already; spent from here too, it would be spent twice.
            response.headers_mut().remove(REPLAY_NONCE);
            Ok(answer(response, got.body))
        })
    }
}

impl LastAnswer {
    pub(crate) fn of(answer: &Answer) -> Self {
        Self {
            location: answer.header(LOCATION).map(str::to_owned),
            alternates: alternates(&answer.headers),
            retry_after: answer.retry_after(Timestamp::now()),
        }
    }
}

fn answer(response: Response<()>, body: Bytes) -> BytesResponse {
    BytesResponse { parts: response.into_parts().0, body: Box::new(body) }
}

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> instant_acme::Error {
    instant_acme::Error::Other(Box::new(error))
}

/// The targets of `Link` headers with `rel="alternate"` (RFC 8555 §7.4.2, RFC 8288).
fn alternates(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|link| {
            let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let alternate = parameters.split(';').any(|parameter| {
                let parameter = parameter.trim().to_ascii_lowercase();
                parameter.strip_prefix("rel=").is_some_and(|value| value.trim_matches('"') == "alternate")
            });
            alternate.then(|| target.to_owned())
        })
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn alternate_links_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(LINK, "<https://ca.example/directory>;rel=\"index\"".parse().unwrap());
        headers.append(
            LINK,
            "<https://ca.example/cert/1/1>; rel=\"alternate\", <https://ca.example/cert/1/2>;title=x;rel=alternate"
                .parse()
                .unwrap(),
        );
        headers.append(LINK, "nonsense".parse().unwrap());
        assert_eq!(alternates(&headers), ["https://ca.example/cert/1/1", "https://ca.example/cert/1/2"]);
    }
}
