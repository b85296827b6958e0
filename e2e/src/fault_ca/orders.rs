//! Orders (RFC 8555 §7.4): made, reused, finalized.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as B64};
use http::header::LOCATION;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    authorizations,
    call::Call,
    clock::{later, seconds},
    issue::{Csr, Terms, bad_csr},
    limits::Bucket,
    problem::Problem,
    renewal,
    reply::Reply,
    script::Play,
    state::{Exempt, Order, Stage, State},
};

/// newOrder.
pub(super) fn create(state: &mut State, call: &Call<'_>) -> Result<Reply, Problem> {
    let account = call.signer()?;
    let names = names(call.payload)?;
    let text = |field: &str| call.payload.get(field).and_then(Value::as_str).map(str::to_owned);
    let (profile, replaces) = (text("profile"), text("replaces"));
    let in_window = match &replaces {
        Some(ari_id) => renewal::replaceable(state, ari_id, account, &names, call.now)?,
        None => false,
    };
    let exempt = match state.certificates.values().any(|one| one.names == names) {
        _ if in_window => Exempt::Replacement,
        true => Exempt::Renewal,
        false => Exempt::No,
    };
    if let Some(profile) = profile.as_ref().filter(|profile| !state.behaviour.profiles.contains_key(*profile))
    {
        let detail = format!("Invalid certificate profile, {profile:?}: not a recognized profile name");
        return Err(Problem::new(400, "invalidProfile", detail));
    }
    if exempt != Exempt::Replacement {
        let buckets = Bucket::of_order(account, &names, exempt == Exempt::Renewal);
        state.buckets.check(&state.behaviour.limits, &buckets, call.now)?;
        if exempt == Exempt::No {
            state.buckets.spend(&state.behaviour.limits, &[Bucket::Orders(account)], call.now);
        }
    }
    let open = state.orders.iter().find(|(_, order)| {
        order.account == account
            && order.names == names
            && order.profile == profile
            && matches!(state.order_status(order, call.now), Some("pending" | "ready"))
    });
    let number = match open {
        Some((number, _)) if state.behaviour.reuse_orders => *number,
        _ => {
            let expires = later(call.now, state.behaviour.order_lifetime);
            let authorizations =
                names.iter().map(|name| authorizations::of(state, account, name, call.now)).collect();
            let number = state.number();
            let stage = Stage::Open;
            let order = Order { account, names, profile, replaces, exempt, authorizations, expires, stage };
            state.orders.insert(number, order);
            number
        }
    };
    reply(state, number, 201, call)
}

/// An order is polled.
pub(super) fn poll(state: &mut State, call: &Call<'_>) -> Result<Reply, Problem> {
    let number = own(state, call)?;
    if let Some(Order { stage, .. }) = state.orders.get_mut(&number)
        && let Stage::Processing { certificate, polls: Some(left) } = stage
    {
        match left.checked_sub(1) {
            Some(fewer) => *left = fewer,
            None => *stage = Stage::Valid { certificate: *certificate },
        }
    }
    reply(state, number, 200, call)
}

/// Finalize.
pub(super) fn finalize(state: &mut State, call: &Call<'_>) -> Result<Reply, Problem> {
    let number = own(state, call)?;
    let order = state.orders.get(&number).ok_or_else(gone)?;
    let status = state.order_status(order, call.now).ok_or_else(gone)?;
    if status != "ready" {
        let detail = format!("Order's status ({status:?}) is not acceptable for finalization");
        return Err(Problem::new(403, "orderNotReady", detail));
    }
    let csr = call.payload.get("csr").and_then(Value::as_str).and_then(|csr| B64.decode(csr).ok());
    let csr = Csr::read(csr.ok_or_else(|| bad_csr(&"it is not base64url"))?)?;
    if csr.names != order.names {
        return Err(bad_csr(&"CSR does not specify same identifiers as Order"));
    }
    let behaviour = &state.behaviour;
    let profile = order.profile.as_ref().and_then(|profile| behaviour.profiles.get(profile));
    let lifetime = *profile.unwrap_or(&behaviour.certificate_lifetime);
    // A certificate's times have no fractions of a second.
    let not_before = Timestamp::from_second(call.now.as_second()).unwrap_or(call.now);
    let not_after = later(not_before, lifetime);
    let terms = Terms { account: order.account, not_before, not_after, crl_url: &state.crl_url };
    let certificate = state.issuing.sign(csr, &terms)?;
    if order.exempt != Exempt::Replacement {
        let buckets = Bucket::of_certificate(&order.names, order.exempt == Exempt::Renewal);
        state.buckets.spend(&behaviour.limits, &buckets, call.now);
    }
    let issued = state.number();
    state.certificates.insert(issued, certificate);
    if let Some(order) = state.orders.get_mut(&number) {
        order.stage = match call.play {
            Some(Play::Processing(polls)) => Stage::Processing { certificate: issued, polls: *polls },
            _ => Stage::Valid { certificate: issued },
        };
    }
    reply(state, number, 200, call)
}

/// A certificate is downloaded.
pub(super) fn download(state: &State, call: &Call<'_>) -> Result<Reply, Problem> {
    let signer = call.signer()?;
    let certificate = state.certificates.get(&call.number()?).filter(|one| one.account == signer);
    let certificate = certificate.ok_or_else(|| Problem::not_found("Certificate not found"))?;
    Ok(Reply::bytes(200, "application/pem-certificate-chain", certificate.chain_pem.clone().into_bytes()))
}

/// The names that a new order asks for, sorted, each once.
pub(super) fn names(payload: &Value) -> Result<Vec<String>, Problem> {
    let identifiers = payload.get("identifiers").and_then(Value::as_array);
    let mut names = Vec::new();
    for identifier in identifiers.into_iter().flatten() {
        let text = |field: &str| identifier.get(field).and_then(Value::as_str).unwrap_or_default();
        if text("type") != "dns" {
            return Err(Problem::new(400, "unsupportedIdentifier", "this CA issues for DNS names alone"));
        }
        names.push(text("value").to_ascii_lowercase());
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Problem::malformed("NewOrder request did not specify any identifiers"));
    }
    Ok(names)
}

/// The number of an order, of one of the account that asks.
fn own(state: &State, call: &Call<'_>) -> Result<usize, Problem> {
    let (signer, number) = (call.signer()?, call.number()?);
    state.orders.get(&number).filter(|order| order.account == signer).map(|_| number).ok_or_else(gone)
}

fn gone() -> Problem {
    Problem::not_found("No order found for this account and number")
}

fn reply(state: &State, number: usize, http: u16, call: &Call<'_>) -> Result<Reply, Problem> {
    let order = state.orders.get(&number).ok_or_else(gone)?;
    let status = state.order_status(order, call.now).ok_or_else(gone)?;
    let base = call.base;
    let identifiers: Vec<Value> =
        order.names.iter().map(|name| json!({"type": "dns", "value": name})).collect();
    let authorizations: Vec<String> =
        order.authorizations.iter().map(|number| format!("{base}/authorization/{number}")).collect();
    let mut document = json!({
        "status": status,
        "expires": seconds(order.expires),
        "identifiers": identifiers,
        "authorizations": authorizations,
        "finalize": format!("{base}/finalize/{number}"),
    });
    let mut add = |field: &str, value: Value| {
        if let Some(object) = document.as_object_mut() {
            object.insert(field.to_owned(), value);
        }
    };
    if let Some(profile) = &order.profile {
        add("profile", json!(profile));
    }
    if let Some(replaces) = &order.replaces {
        add("replaces", json!(replaces));
    }
    if let Stage::Valid { certificate } = order.stage {
        add("certificate", json!(format!("{base}/certificate/{certificate}")));
    }
    if let Some(problem) = state.order_problem(order).filter(|_| status == "invalid") {
        add("error", problem.document());
    }
    let waits = matches!(status, "pending" | "processing");
    let retry_after = state.behaviour.poll_after.as_ref().filter(|_| waits);
    Ok(Reply::json(http, &document)
        .header(LOCATION, format!("{base}/order/{number}"))
        .retry_after(retry_after, call.now))
}
