//! Revocation (RFC 8555 §7.6), and the list of what is revoked (RFC 5280 §5).

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as B64};
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    call::Call,
    problem::Problem,
    reply::Reply,
    state::{Certificate, State},
};

/// The reasons that a certificate's owner may give (RFC 5280 §5.3.1).
const REASONS: [u64; 5] = [0, 1, 3, 4, 5];

/// revokeCert, signed by the account that the certificate was issued to, or with the certificate's own key.
pub(super) fn revoke(state: &mut State, call: &Call<'_>) -> Result<Reply, Problem> {
    let (number, certificate) =
        certificate(state, call.payload).ok_or_else(|| Problem::not_found("No such certificate"))?;
    let allowed = match call.signer() {
        Ok(account) => account == certificate.account,
        Err(_) => call.key()?.is_of(&subject_key(certificate)),
    };
    if !allowed {
        return Err(Problem::unauthorized("Requester is not authorized to revoke this certificate"));
    }
    if certificate.revoked.is_some() {
        return Err(Problem::new(
            400,
            "alreadyRevoked",
            "Unable to revoke :: certificate was already revoked",
        ));
    }
    let reason = call.payload.get("reason").and_then(Value::as_u64).unwrap_or_default();
    if !REASONS.contains(&reason) {
        let detail = format!("unsupported revocation reason code provided: {reason}");
        return Err(Problem::new(400, "badRevocationReason", detail));
    }
    mark(state, number, u8::try_from(reason).unwrap_or_default(), call.now);
    Ok(Reply::bytes(200, "application/json", Vec::new()))
}

/// Revokes a certificate that isn't yet.
pub(super) fn mark(state: &mut State, number: usize, reason: u8, now: Timestamp) {
    if let Some(certificate) = state.certificates.get_mut(&number) {
        certificate.revoked.get_or_insert((now, reason));
    }
}

/// The list, of what hasn't expired.
pub(super) fn list(state: &State, now: Timestamp) -> Result<Reply, Problem> {
    let revoked = state.certificates.values().filter(|one| one.revoked.is_some() && one.not_after > now);
    let list = state.issuing.crl(revoked, now).map_err(|_| Problem::internal(500))?;
    Ok(Reply::bytes(200, "application/pkix-crl", list))
}

/// The certificate that a revocation is about.
pub(super) fn certificate<'s>(state: &'s State, payload: &Value) -> Option<(usize, &'s Certificate)> {
    let der = B64.decode(payload.get("certificate")?.as_str()?).ok()?;
    state.certificates.iter().find(|(_, one)| one.der == der).map(|(number, one)| (*number, one))
}

/// The bits of a certificate's public key.
fn subject_key(certificate: &Certificate) -> Vec<u8> {
    let parsed = X509Certificate::from_der(&certificate.der);
    parsed.map(|(_, parsed)| parsed.public_key().subject_public_key.data.to_vec()).unwrap_or_default()
}
