//! Authorizations and their challenges (RFC 8555 §7.5).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    behaviour::{Expired, Validation},
    call::Call,
    clock::{later, seconds},
    limits::Bucket,
    problem::Problem,
    reply::Reply,
    request::Looked,
    script::Play,
    state::{Authorization, State, Verdict, secret},
};

/// A look at a challenge that is to be had.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) authorization: usize,
    pub(super) challenge: String,
    pub(super) name: String,
    pub(super) token: String,
    pub(super) key_authorization: String,
}

/// The authorization of a name for a new order: one that is valid, or a new one.
pub(super) fn of(state: &mut State, account: usize, name: &str, now: Timestamp) -> usize {
    let valid = state
        .authorizations
        .iter()
        .find(|(_, one)| one.account == account && one.name == name && one.status(now) == "valid");
    if let Some((number, _)) = valid.filter(|_| state.behaviour.reuse_authorizations) {
        return *number;
    }
    let expires = later(now, state.behaviour.pending_lifetime);
    let number = state.number();
    let one =
        Authorization { account, name: name.to_owned(), token: secret(), expires, verdict: Verdict::Pending };
    state.authorizations.insert(number, one);
    number
}

/// An authorization is read or deactivated.
pub(super) fn read(state: &mut State, call: &Call<'_>) -> Result<Reply, Problem> {
    let number = own(state, call)?;
    if call.payload.get("status").and_then(Value::as_str) == Some("deactivated")
        && let Some(one) = state.authorizations.get_mut(&number)
    {
        one.verdict = Verdict::Deactivated;
    }
    let one = state.authorizations.get(&number).ok_or_else(gone)?;
    let status = one.status(call.now);
    let offered =
        state.behaviour.challenges.iter().filter(|kind| one.name == one.base() || **kind == "dns-01");
    let challenges: Vec<Value> =
        offered.map(|kind| challenge(one, number, kind, status, call.base)).collect();
    let mut document = json!({
        "status": status,
        "expires": seconds(one.expires),
        "identifier": {"type": "dns", "value": one.base()},
        "challenges": challenges,
    });
    if one.name != one.base()
        && let Some(object) = document.as_object_mut()
    {
        object.insert("wildcard".to_owned(), Value::Bool(true));
    }
    let retry_after = state.behaviour.poll_after.as_ref().filter(|_| status == "pending");
    Ok(Reply::json(200, &document).retry_after(retry_after, call.now))
}

/// The CA is told to look at a challenge; whether it is to be looked at over the network.
pub(super) fn begin(state: &mut State, call: &Call<'_>) -> Result<(Reply, Option<Look>), Problem> {
    let number = own(state, call)?;
    let kind = call.last;
    let thumbprint = call.key()?.thumbprint();
    let one = state.authorizations.get_mut(&number).ok_or_else(gone)?;
    if !state.behaviour.challenges.contains(&kind) {
        return Err(Problem::not_found("No such challenge"));
    }
    let mut look = None;
    match one.verdict {
        Verdict::Pending => {
            one.verdict = Verdict::Looking(kind.to_owned());
            look = Some(Look {
                authorization: number,
                challenge: kind.to_owned(),
                name: one.base().to_owned(),
                token: one.token.clone(),
                key_authorization: format!("{}.{thumbprint}", one.token),
            });
        }
        Verdict::Looking(_) => {}
        _ => return Err(Problem::malformed("Unable to update challenge :: authorization must be pending")),
    }
    let validation = match call.play {
        Some(Play::Validate(validation)) => validation.clone(),
        _ => state.behaviour.validation.clone(),
    };
    if let Some(begun) = &look {
        match validation {
            Validation::Real => {}
            Validation::Never => look = None,
            Validation::Valid => {
                decide(state, begun, Ok(()), call.now);
                look = None;
            }
            Validation::Fails(problem) => {
                decide(state, begun, Err(problem), call.now);
                look = None;
            }
        }
    }
    let one = state.authorizations.get(&number).ok_or_else(gone)?;
    let document = challenge(one, number, kind, one.status(call.now), call.base);
    let reply = Reply::json(200, &document)
        .header(http::header::LINK, format!("<{}/authorization/{number}>;rel=\"up\"", call.base));
    Ok((reply, look))
}

/// Writes down what a look has shown.
pub(super) fn decide(state: &mut State, look: &Look, result: Result<(), Problem>, now: Timestamp) {
    let lifetime = state.behaviour.authorization_lifetime;
    let Some(one) = state.authorizations.get_mut(&look.authorization) else { return };
    let account = one.account;
    let said = result.as_ref().map(drop).map_err(|problem| problem.detail.clone());
    if matches!(one.verdict, Verdict::Looking(_)) {
        one.verdict = match result {
            Ok(()) => {
                one.expires = later(now, lifetime);
                Verdict::Valid(look.challenge.clone())
            }
            Err(problem) => Verdict::Invalid(look.challenge.clone(), problem),
        };
    }
    if said.is_err() {
        let bucket = Bucket::Failures(account, look.name.clone());
        state.buckets.spend(&state.behaviour.limits, &[bucket], now);
    }
    let account = format!("/account/{account}");
    state.looked.push(Looked { at: now, account, name: look.name.clone(), result: said });
}

fn challenge(one: &Authorization, number: usize, kind: &str, status: &str, base: &str) -> Value {
    let mut document = json!({
        "type": kind,
        "url": format!("{base}/challenge/{number}/{kind}"),
        "token": one.token,
        "status": match &one.verdict {
            Verdict::Looking(looked) if looked == kind && status == "pending" => "processing",
            Verdict::Valid(looked) if looked == kind => "valid",
            Verdict::Invalid(looked, _) if looked == kind => "invalid",
            _ => "pending",
        },
    });
    if let Verdict::Invalid(looked, problem) = &one.verdict
        && looked == kind
        && let Some(object) = document.as_object_mut()
    {
        object.insert("error".to_owned(), problem.document());
    }
    document
}

/// The number of an authorization, of one of the account that asks.
fn own(state: &State, call: &Call<'_>) -> Result<usize, Problem> {
    let (signer, number) = (call.signer()?, call.number()?);
    let one = state.authorizations.get(&number).filter(|one| one.account == signer).ok_or_else(gone)?;
    if one.expires <= call.now && state.behaviour.expired == Expired::Gone {
        return Err(Problem::not_found("Expired authorization"));
    }
    Ok(number)
}

fn gone() -> Problem {
    Problem::not_found("No such authorization")
}
