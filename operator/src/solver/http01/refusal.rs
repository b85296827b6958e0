//! What the API server refuses, and what to do about it. Pure.

use waxwing_acme::SolverError;

use super::objects::MakeError;

/// Why something couldn't be made; `right` is the value of the chart that gives the right to it.
pub(super) fn refused(doing: &str, right: &str, error: MakeError) -> SolverError {
    let message = format!("{doing}: {error}");
    let error = match error {
        MakeError::Call(error) => error,
        MakeError::Leaving { .. } => return SolverError::new(message).advising(FIX_LEAVING),
    };
    // What was refused for what it is says nothing about the API server: it is the user's to change.
    if error.is_refusal() {
        let fix = fix_of_refusal(&message, right);
        SolverError::new(message).advising(fix)
    } else {
        SolverError::caused_by(message, error)
    }
}

const FIX_LEAVING: &str = "If that takes a moment, wait: it is tried again. Else see what holds it: a finalizer, or a node that doesn't \
     answer.";

/// What to do about an object that the API server refused for what it is or who asks.
fn fix_of_refusal(message: &str, right: &str) -> String {
    let fix = if message.contains("exceeded quota") {
        "Raise the namespace's ResourceQuota, or ask for less in podTemplate.spec.resources."
    } else if message.contains("must specify") {
        "Set podTemplate.spec.resources: the namespace's ResourceQuota counts what the pod doesn't say."
    } else if message.contains("status unknown for quota") {
        "There is nothing to do: the namespace's ResourceQuota is new and not counted yet."
    } else if message.contains("violates PodSecurity") {
        "Correct podTemplate.spec.securityContext: without it solver pods are what the restricted standard admits."
    } else if message.contains("usage per") {
        "Set podTemplate.spec.resources to what the namespace's LimitRange allows."
    } else if message.contains("is being terminated") {
        "There is nothing to do: the namespace is being deleted."
    } else if message.contains(" cannot ") {
        return format!("Set {right} in the chart's values: by default Waxwing has no right to it.");
    } else {
        "Correct what the API server names, in the issuer's http01 or in the namespace's policies."
    };
    fix.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        for (message, words) in [
            ("pods \"a\" is forbidden: exceeded quota: q, requested: pods=1", "ResourceQuota"),
            (
                "pods \"a\" is forbidden: failed quota: q: must specify limits.cpu",
                "podTemplate.spec.resources",
            ),
            ("pods \"a\" is forbidden: status unknown for quota: q, resources: pods", "not counted yet"),
            (
                "pods \"a\" is forbidden: unable to create new content in namespace web because it is being terminated",
                "is being deleted",
            ),
            ("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\"", "restricted"),
            ("pods is forbidden: User \"waxwing\" cannot patch resource \"pods\"", "http01.rights.pod"),
            ("pods \"a\" is forbidden: maximum cpu usage per Container is 1m", "LimitRange"),
        ] {
            assert!(fix_of_refusal(message, "http01.rights.pod").contains(words), "{message}");
        }
    }
}
