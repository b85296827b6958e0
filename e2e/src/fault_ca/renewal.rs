//! Renewal information (RFC 9773).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    behaviour::{Suggestion, Window},
    call::Call,
    clock::seconds,
    problem::Problem,
    reply::Reply,
    script::Play,
    state::{Certificate, State},
};

/// What is suggested for a certificate.
pub(super) fn info(state: &State, call: &Call<'_>) -> Result<Reply, Problem> {
    let found = state.certificate_by_ari(call.last);
    let (_, certificate) = found.ok_or_else(|| Problem::not_found("Certificate not found"))?;
    let suggestion = match call.play {
        Some(Play::Suggest(suggestion)) => suggestion,
        _ => &state.behaviour.suggestion,
    };
    let (start, end) = window(suggestion, certificate, call.now);
    let mut document = json!({"suggestedWindow": {"start": seconds(start), "end": seconds(end)}});
    if let (Some(url), Some(object)) = (&suggestion.explanation_url, document.as_object_mut()) {
        object.insert("explanationURL".to_owned(), Value::String(url.clone()));
    }
    Ok(Reply::json(200, &document).retry_after(suggestion.retry_after.as_ref(), call.now))
}

/// Refuses a `replaces` that can't be (§5); says whether the order comes in the window that is suggested, which is
/// what exempts it from limits at Let's Encrypt.
pub(super) fn replaceable(
    state: &State,
    ari_id: &str,
    account: usize,
    names: &[String],
    now: Timestamp,
) -> Result<bool, Problem> {
    let found = state.certificate_by_ari(ari_id);
    let (_, certificate) = found.ok_or_else(|| Problem::not_found("Certificate to be replaced not found"))?;
    let replaced = state.orders.values().any(|order| {
        order.replaces.as_deref() == Some(ari_id)
            && matches!(state.order_status(order, now), Some("pending" | "ready" | "processing" | "valid"))
    });
    if replaced {
        return Err(Problem::already_replaced(&certificate.serial_hex()));
    }
    if certificate.account != account {
        let detail = "requester account did not request the certificate being replaced by this order";
        return Err(Problem::unauthorized(detail));
    }
    if !certificate.names.iter().any(|name| names.contains(name)) {
        let detail =
            "identifiers in this order do not match any identifiers in the certificate being replaced";
        return Err(Problem::malformed(detail));
    }
    let (start, end) = window(&state.behaviour.suggestion, certificate, now);
    Ok((start..end).contains(&now))
}

fn window(suggestion: &Suggestion, certificate: &Certificate, now: Timestamp) -> (Timestamp, Timestamp) {
    let window = match suggestion.window {
        Window::Usual if certificate.revoked.is_some() => Window::Past,
        window => window,
    };
    window.times(certificate.not_before, certificate.not_after, now)
}
