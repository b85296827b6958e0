//! One request, understood and checked.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    accounts::unknown,
    jws::{Jws, PublicKey},
    problem::Problem,
    request::{Kind, number},
    script::Play,
    state::State,
};

/// What a request's handler works with.
pub(super) struct Call<'a> {
    /// The CA's address as the client wrote it: `https://localhost:1234`.
    pub(super) base: &'a str,
    pub(super) now: Timestamp,
    /// The account that signed it.
    account: Option<usize>,
    /// The key that signed it.
    key: Option<PublicKey>,
    /// The number in the path.
    pub(super) number: Option<usize>,
    /// The last part of the path.
    pub(super) last: &'a str,
    pub(super) payload: &'a Value,
    pub(super) play: Option<&'a Play>,
}

/// Who asks and what it is about, as far as that can be told before anything is checked.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) account: Option<usize>,
    pub(super) names: Vec<String>,
}

impl<'a> Call<'a> {
    /// A request that needs no signature.
    pub(super) fn unsigned(base: &'a str, path: &'a str, now: Timestamp, play: Option<&'a Play>) -> Self {
        Self {
            base,
            now,
            account: None,
            key: None,
            number: number(path),
            last: last(path),
            payload: &Value::Null,
            play,
        }
    }

    /// A signed request, once its nonce, its signature and its account are in order.
    pub(super) fn signed(
        state: &mut State,
        kind: Kind,
        base: &'a str,
        path: &'a str,
        jws: &'a Jws,
        now: Timestamp,
        play: Option<&'a Play>,
    ) -> Result<Self, Problem> {
        let brings_key = kind == Kind::NewAccount || (kind == Kind::Revoke && jws.kid().is_none());
        let (account, key) = if brings_key {
            (
                None,
                jws.jwk().ok_or_else(|| Problem::malformed("No embedded JWK, or one that isn't of P-256"))?,
            )
        } else {
            let kid = jws.kid().ok_or_else(|| Problem::malformed("No Key ID in JWS header"))?;
            let known = number(kid).and_then(|number| Some((number, state.accounts.get(&number)?)));
            let (number, account) = known.ok_or_else(|| unknown(&format!("Account {kid:?} not found")))?;
            if account.deactivated {
                return Err(Problem::unauthorized("Account is not valid, has status \"deactivated\""));
            }
            (Some(number), account.key.clone())
        };
        jws.verify(&key, &format!("{base}{path}"))?;
        if !state.spend_nonce(jws.nonce()) {
            return Err(Problem::bad_nonce());
        }
        let call = Self::unsigned(base, path, now, play);
        Ok(Self { account, key: Some(key), payload: &jws.payload, ..call })
    }

    /// The account that signed it.
    pub(super) fn signer(&self) -> Result<usize, Problem> {
        self.account.ok_or_else(|| Problem::unauthorized("not signed for an account"))
    }

    /// The key that signed it.
    pub(super) fn key(&self) -> Result<&PublicKey, Problem> {
        self.key.as_ref().ok_or_else(|| Problem::malformed("not signed"))
    }

    /// The number in the path.
    pub(super) fn number(&self) -> Result<usize, Problem> {
        self.number.ok_or_else(|| Problem::not_found("Page not found"))
    }
}

impl About {
    pub(super) fn of(state: &State, kind: Kind, path: &str, jws: Option<&Jws>) -> Self {
        let signer = match jws {
            Some(jws) if kind == Kind::NewAccount => jws.jwk().and_then(|key| state.account_of(&key)),
            Some(jws) => jws.kid().and_then(number),
            None => None,
        };
        let about = |account: usize, names: &[String]| Self { account: Some(account), names: names.to_vec() };
        let of_number = number(path).and_then(|number| match kind {
            Kind::Order | Kind::Finalize => {
                state.orders.get(&number).map(|order| about(order.account, &order.names))
            }
            Kind::Authorization | Kind::Challenge => state
                .authorizations
                .get(&number)
                .map(|one| about(one.account, std::slice::from_ref(&one.name))),
            Kind::Certificate => state.certificates.get(&number).map(|one| about(one.account, &one.names)),
            _ => None,
        });
        let of_certificate = || match kind {
            Kind::RenewalInfo => state.certificate_by_ari(last(path)).map(|(_, one)| one),
            Kind::Revoke => {
                jws.and_then(|jws| super::revocation::certificate(state, &jws.payload)).map(|(_, one)| one)
            }
            _ => None,
        };
        let found = of_number.or_else(|| of_certificate().map(|one| about(one.account, &one.names)));
        let found = found.unwrap_or_else(|| match jws {
            Some(jws) if kind == Kind::NewOrder => {
                Self { account: None, names: super::orders::names(&jws.payload).unwrap_or_default() }
            }
            _ => Self::default(),
        });
        let account = signer.or(found.account).filter(|number| state.accounts.contains_key(number));
        Self { account, names: found.names }
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}
