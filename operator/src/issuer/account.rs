//! The account of one issuer: its key is in a Secret before the CA hears of it.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use url::Url;
use waxwing_acme::{
    Account, AccountKey, Actor, Class, Directory, Error, ExternalAccount, Http, HttpConfig, Observer,
    ObtainError, ObtainErrorKind, Retry, TrustRoots, diagnose,
};
use waxwing_api::{
    Acme, AcmeLimits, ExternalAccountBinding, IssuerAcmeStatus, PrivateKeySecretRef,
    RenewalInformationSource, labels, reason,
};

use crate::runtime::client::{CallError, bounded};

/// Why an issuer isn't ready.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Problem {
    /// Of the Ready condition.
    pub(super) reason: Cow<'static, str>,
    /// What happened and what to do next.
    pub(super) message: String,
    pub(super) class: Class,
}

impl Problem {
    /// One that a user must act on, and that is looked at again all the same.
    pub(super) fn new(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let class = Class { actor: Actor::User, retry: Retry::Backoff };
        Self { reason: reason.into(), message: message.into(), class }
    }
}

/// What an issuer's account depends on. While it stays the same, so does the account.
pub(super) fn identity(acme: &Acme) -> Acme {
    // How much is asked at once is the HTTP client's, which the account has; rates are Waxwing's own.
    let limits = acme
        .limits
        .as_ref()
        .and_then(|limits| limits.concurrent_requests)
        .map(|requests| AcmeLimits { concurrent_requests: Some(requests), rates: Vec::new() });
    Acme {
        limits,
        preferred_chain: None,
        profile: None,
        rehearsal: None,
        renewal_information_source: RenewalInformationSource::default(),
        solvers: Vec::new(),
        ..acme.clone()
    }
}

/// The account of an issuer whose Secrets are in `namespace`.
///
/// `known` is what the status says of this very spec: with it the CA isn't asked for the account again.
pub(super) async fn establish(
    client: &Client,
    namespace: &str,
    acme: &Acme,
    known: Option<&IssuerAcmeStatus>,
    observer: Observer,
) -> Result<Account, Problem> {
    let server = Url::parse(&acme.server).map_err(|error| {
        Problem::new(
            reason::INVALID_CONFIG,
            format!(
                "spec.acme.server is not a URL ({error}): write that of the CA's directory, such as \
                 https://acme-v02.api.letsencrypt.org/directory"
            ),
        )
    })?;
    let http = Http::new(HttpConfig { observer, ..http_config(acme) }).map_err(|error| {
        Problem::new(
            reason::INVALID_CONFIG,
            format!("{error}: check that spec.acme.caBundle holds certificates in PEM"),
        )
    })?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let external = match &acme.external_account_binding {
        Some(binding) => Some(external_account(&secrets, namespace, binding).await?),
        None => None,
    };
    let reference = &acme.private_key_secret_ref;
    let stored = stored_key(&secrets, namespace, reference).await?;
    if stored.is_none() && acme.disable_account_key_generation.unwrap_or_default() {
        return Err(Problem::new(
            reason::KEY_MISSING,
            format!(
                "there is no Secret {namespace}/{}: create it with the account's key under {}, or remove \
                 spec.acme.disableAccountKeyGeneration",
                reference.name, reference.key
            ),
        ));
    }
    let directory = Directory::fetch(&http, &server)
        .await
        .map_err(|error| asking("fetching the directory", error, reason::DIRECTORY_UNREACHABLE))?;
    // Made only for a CA that is there, so that a mistyped server leaves nothing behind.
    let key = match stored {
        Some(key) => key,
        None => new_key(&secrets, namespace, reference).await?,
    };
    if let Some(url) = known_url(known, &key) {
        return Account::restore(&directory, &http, key, url)
            .await
            .map_err(|error| asking("restoring the account", error, reason::ACCOUNT_REFUSED));
    }
    if directory.meta().external_account_required && external.is_none() {
        return Err(Problem::new(
            reason::ACCOUNT_REFUSED,
            format!(
                "the CA at {server} binds accounts to ones that it knows already: get a key identifier and a \
                 MAC key from it and name them in spec.acme.externalAccountBinding"
            ),
        ));
    }
    Account::register(&directory, &http, key, &contacts(acme), external.as_ref())
        .await
        .map_err(|error| asking("registering the account", error, reason::ACCOUNT_REFUSED))
}

fn http_config(acme: &Acme) -> HttpConfig {
    let roots = match &acme.ca_bundle {
        _ if acme.skip_tls_verify.unwrap_or_default() => TrustRoots::SkipVerification,
        Some(ByteString(pem)) => TrustRoots::Custom(pem.clone()),
        None => TrustRoots::System,
    };
    let default = HttpConfig::default();
    let concurrent_requests = acme
        .limits
        .as_ref()
        .and_then(|limits| limits.concurrent_requests)
        .and_then(|number| usize::try_from(number).ok())
        .filter(|number| *number > 0)
        .unwrap_or(default.concurrent_requests);
    HttpConfig { roots, concurrent_requests, ..default }
}

fn contacts(acme: &Acme) -> Vec<String> {
    acme.email.iter().map(|email| format!("mailto:{email}")).collect()
}

/// The account URL in the status, if it belongs to this key.
fn known_url<'a>(known: Option<&'a IssuerAcmeStatus>, key: &AccountKey) -> Option<&'a str> {
    let known = known?;
    let same = known.last_private_key_hash.as_deref() == Some(key.thumbprint());
    known.uri.as_deref().filter(|url| same && Url::parse(url).is_ok())
}

/// The key in the Secret, if there is that Secret.
async fn stored_key(
    secrets: &Api<Secret>,
    namespace: &str,
    reference: &PrivateKeySecretRef,
) -> Result<Option<AccountKey>, Problem> {
    let PrivateKeySecretRef { name, key } = reference;
    let secret = read(secrets, namespace, name).await?;
    secret.map(|secret| parse_key(&secret, namespace, name, key)).transpose()
}

/// A new key, once it is in the Secret. One that exists is never overwritten.
async fn new_key(
    secrets: &Api<Secret>,
    namespace: &str,
    reference: &PrivateKeySecretRef,
) -> Result<AccountKey, Problem> {
    let PrivateKeySecretRef { name, key } = reference;
    let made =
        AccountKey::generate().map_err(|error| Problem::new(reason::INVALID_KEY, error.to_string()))?;
    let secret = key_secret(name, key, &made);
    let what = format!("create Secret {namespace}/{name}");
    match bounded(what, secrets.create(&PostParams::default(), &secret)).await {
        Ok(_) => Ok(made),
        // Someone was faster: theirs is the account's key.
        Err(error) if error.is_already_exists() => {
            stored_key(secrets, namespace, reference).await?.ok_or_else(|| calling(&error))
        }
        Err(error) => Err(calling(&error)),
    }
}

fn key_secret(name: &str, key: &str, account_key: &AccountKey) -> Secret {
    let pem = account_key.to_pem().expose().as_bytes().to_vec();
    Secret {
        data: Some([(key.to_owned(), ByteString(pem))].into()),
        metadata: ObjectMeta {
            labels: Some(
                [
                    (labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_WAXWING.to_owned()),
                    (labels::COMPONENT.to_owned(), labels::COMPONENT_ACCOUNT.to_owned()),
                ]
                .into(),
            ),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn parse_key(secret: &Secret, namespace: &str, name: &str, key: &str) -> Result<AccountKey, Problem> {
    let Some(ByteString(pem)) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return Err(Problem::new(
            reason::KEY_MISSING,
            format!(
                "the Secret {namespace}/{name} has no {key}: add the account's key to it, or name another Secret in \
                 spec.acme.privateKeySecretRef, or delete this one so that a new key is made"
            ),
        ));
    };
    let pem = std::str::from_utf8(pem).unwrap_or_default();
    AccountKey::from_pem(pem).map_err(|error| {
        Problem::new(
            reason::INVALID_KEY,
            format!("{key} in the Secret {namespace}/{name}: {error}; put an ECDSA P-256 key there, or name another Secret"),
        )
    })
}

async fn external_account(
    secrets: &Api<Secret>,
    namespace: &str,
    binding: &ExternalAccountBinding,
) -> Result<ExternalAccount, Problem> {
    let (name, key) = (&binding.key_secret_ref.name, &binding.key_secret_ref.key);
    let Some(secret) = read(secrets, namespace, name).await? else {
        return Err(Problem::new(
            reason::KEY_MISSING,
            format!("there is no Secret {namespace}/{name}: create it with the CA's MAC key under {key}"),
        ));
    };
    let Some(ByteString(text)) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return Err(Problem::new(
            reason::KEY_MISSING,
            format!("the Secret {namespace}/{name} has no {key}: put the CA's MAC key there"),
        ));
    };
    let hmac_key = mac_key(text).ok_or_else(|| {
        Problem::new(
            reason::INVALID_KEY,
            format!(
                "{key} in the Secret {namespace}/{name} is not base64url: copy the MAC key as the CA shows it"
            ),
        )
    })?;
    Ok(ExternalAccount { key_id: binding.key_id.clone(), hmac_key })
}

/// CAs show the key in base64url (RFC 8555 §7.3.4); files end with a newline, and some tools pad.
fn mac_key(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.trim().trim_end_matches('=');
    BASE64_URL_SAFE_NO_PAD.decode(text).ok().filter(|key| !key.is_empty())
}

async fn read(secrets: &Api<Secret>, namespace: &str, name: &str) -> Result<Option<Secret>, Problem> {
    bounded(format!("get Secret {namespace}/{name}"), secrets.get_opt(name))
        .await
        .map_err(|error| calling(&error))
}

/// The API server didn't do what the account needs.
fn calling(error: &CallError) -> Problem {
    let next = if error.is_forbidden() { "; check Waxwing's RBAC, which the chart sets up" } else { "" };
    let class = Class { actor: Actor::Us, retry: Retry::Backoff };
    Problem { reason: reason::KEY_MISSING.into(), message: format!("{error}{next}"), class }
}

/// The CA didn't.
fn asking(doing: &'static str, error: Error, refused: &'static str) -> Problem {
    let class = error.class();
    let unreachable = matches!(class.actor, Actor::Network)
        || error.request().is_none_or(|error| error.problem().is_none());
    let reason = if unreachable { reason::DIRECTORY_UNREACHABLE } else { refused };
    let error = ObtainError::from(ObtainErrorKind::Ca { doing, source: error });
    Problem { reason: reason.into(), message: diagnose(&error, &[]).to_string(), class }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use waxwing_acme::{Failure, RequestError};

    use super::*;

    #[test]
    fn the_stored_key_comes_back() {
        let key = AccountKey::generate().unwrap();
        let secret = key_secret("account", "tls.key", &key);
        let again = parse_key(&secret, "web", "account", "tls.key").unwrap();
        assert_eq!(again.thumbprint(), key.thumbprint());
        let missing = parse_key(&secret, "web", "account", "other").unwrap_err();
        assert_eq!(missing.reason, reason::KEY_MISSING);
        let mut broken = secret;
        broken.data = Some([("tls.key".to_owned(), ByteString(b"SECRET-TEXT".to_vec()))].into());
        let problem = parse_key(&broken, "web", "account", "tls.key").unwrap_err();
        assert_eq!(problem.reason, reason::INVALID_KEY);
        assert!(!problem.message.contains("SECRET-TEXT"));
    }

    #[test]
    fn the_account_is_known_only_with_its_key() {
        let key = AccountKey::generate().unwrap();
        let known = |hash: &str, uri: &str| IssuerAcmeStatus {
            uri: Some(uri.to_owned()),
            last_private_key_hash: Some(hash.to_owned()),
            ..IssuerAcmeStatus::default()
        };
        let url = "https://ca.example/account/1";
        assert_eq!(known_url(Some(&known(key.thumbprint(), url)), &key), Some(url));
        assert_eq!(known_url(Some(&known("other", url)), &key), None);
        assert_eq!(known_url(Some(&known(key.thumbprint(), "nonsense")), &key), None);
        assert_eq!(known_url(None, &key), None);
    }

    #[test]
    fn mac_keys_are_taken_as_cas_show_them() {
        assert_eq!(mac_key(b"AQID\n"), Some(vec![1, 2, 3]));
        assert_eq!(mac_key(b"AQIDBA=="), Some(vec![1, 2, 3, 4]));
        assert_eq!(mac_key(b"not base64!"), None);
        assert_eq!(mac_key(b""), None);
    }

    #[test]
    fn solvers_change_no_account() {
        let acme = Acme { server: "https://ca.example".to_owned(), ..Acme::default() };
        let solvers = Acme { solvers: vec![waxwing_api::AcmeSolver::default()], ..acme.clone() };
        assert_eq!(identity(&acme), identity(&solvers));
        let email = Acme { email: Some("a@b.example".to_owned()), ..acme.clone() };
        assert_ne!(identity(&acme), identity(&email));
    }

    #[test]
    fn a_silent_ca_and_a_refusing_one_are_told_apart() {
        let error = |failure| {
            Error::from(RequestError { method: "GET", url: "https://ca.example/".to_owned(), failure })
        };
        let silent = error(Failure::Connect("connection refused".to_owned()));
        assert_eq!(asking("x", silent, reason::ACCOUNT_REFUSED).reason, reason::DIRECTORY_UNREACHABLE);
        let problem = waxwing_acme::Problem {
            kind: Some("urn:ietf:params:acme:error:unauthorized".to_owned()),
            detail: Some("no".to_owned()),
            ..waxwing_acme::Problem::default()
        };
        let refusing =
            error(Failure::Status { status: 403, problem: Some(Box::new(problem)), retry_after: None });
        assert_eq!(asking("x", refusing, reason::ACCOUNT_REFUSED).reason, reason::ACCOUNT_REFUSED);
    }
}
