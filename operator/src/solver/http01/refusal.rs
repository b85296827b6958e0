//! What the API server refuses, and what to do about it. Pure.

use waxwing_acme::SolverError;

use crate::runtime::client::CallError;

/// The error of a call; `right` is the value of the chart that gives the right to it.
pub(super) fn refused(doing: &str, right: &str, error: CallError) -> SolverError {
    let message = format!("{doing}: {error}");
    // What was refused for what it is says nothing about the API server: it is the user's to change.
    let is_verdict = error.status().is_some_and(|status| {
        (400..500).contains(&status.code) && ![401, 408, 409, 429].contains(&status.code)
    });
    if is_verdict {
        let fix = fix_of_refusal(&message, right);
        SolverError::new(message).advising(fix)
    } else {
        SolverError::caused_by(message, error)
    }
}

/// What to do about an object that the API server refused for what it is or who asks. `right` is the value of the chart
/// that gives the right to it.
fn fix_of_refusal(message: &str, right: &str) -> String {
    if message.contains("exceeded quota") || message.contains("must specify") {
        "Raise the namespace's ResourceQuota, or set podTemplate.spec.resources.".to_owned()
    } else if message.contains("violates PodSecurity") {
        "Correct podTemplate.spec.securityContext: without it solver pods are what the restricted standard admits."
            .to_owned()
    } else if message.contains("usage per") {
        "Set podTemplate.spec.resources to what the namespace's LimitRange allows.".to_owned()
    } else if message.contains(" cannot ") {
        format!("Set {right} in the chart's values: by default Waxwing has no right to it.")
    } else {
        "Correct what the API server names, in the issuer's http01 or in the namespace's policies.".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        for (message, words) in [
            ("pods \"a\" is forbidden: exceeded quota: q, requested: pods=1", "ResourceQuota"),
            ("pods \"a\" is forbidden: failed quota: q: must specify limits.cpu", "ResourceQuota"),
            ("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\"", "restricted"),
            ("pods is forbidden: User \"waxwing\" cannot patch resource \"pods\"", "http01.rights.pod"),
            ("pods \"a\" is forbidden: maximum cpu usage per Container is 1m", "LimitRange"),
        ] {
            assert!(fix_of_refusal(message, "http01.rights.pod").contains(words), "{message}");
        }
    }
}
