//! Accounts (RFC 8555 §7.3).

use http::header::LOCATION;
use serde_json::{Value, json};

use super::{
    call::Call,
    problem::Problem,
    reply::Reply,
    state::{Account, State},
};

/// newAccount.
pub(super) fn create(state: &mut State, call: &Call<'_>) -> Result<Reply, Problem> {
    let key = call.key()?;
    let (status, number) = match state.account_of(key) {
        Some(number) => (200, number),
        None if call.payload.get("onlyReturnExisting") == Some(&Value::Bool(true)) => {
            return Err(unknown("No account exists with the provided key"));
        }
        None => {
            let number = state.number();
            let account = Account { key: key.clone(), contact: contact(call.payload), deactivated: false };
            state.accounts.insert(number, account);
            (201, number)
        }
    };
    let account = state.accounts.get(&number).ok_or_else(|| unknown("no such account"))?;
    Ok(Reply::json(status, &document(account)).header(LOCATION, format!("{}/account/{number}", call.base)))
}

/// An account's own URL.
pub(super) fn update(state: &mut State, call: &Call<'_>) -> Result<Reply, Problem> {
    let signer = call.signer()?;
    if call.number != Some(signer) {
        return Err(Problem::unauthorized("Request signing key did not match account key"));
    }
    let account = state.accounts.get_mut(&signer).ok_or_else(|| unknown("no such account"))?;
    if call.payload.get("contact").is_some() {
        account.contact = contact(call.payload);
    }
    if call.payload.get("status").and_then(Value::as_str) == Some("deactivated") {
        account.deactivated = true;
    }
    Ok(Reply::json(200, &document(account)))
}

/// The account isn't known, or no more (RFC 8555 §6.7).
pub(super) fn unknown(detail: &str) -> Problem {
    Problem::new(400, "accountDoesNotExist", detail)
}

fn contact(payload: &Value) -> Vec<String> {
    let each = payload.get("contact").and_then(Value::as_array).into_iter().flatten();
    each.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn document(account: &Account) -> Value {
    json!({
        "status": if account.deactivated { "deactivated" } else { "valid" },
        "contact": account.contact,
    })
}
