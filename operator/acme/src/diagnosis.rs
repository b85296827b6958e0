//! From an error and what self-checks saw to a cause and a next step. Pure.

use std::fmt;

use crate::{
    Actor, Error, Evidence, Failure, ObtainError, ObtainErrorKind, Outcome, PairError, Problem, RequestError,
};

/// What most likely causes a failure, and what to do next. Each is one or two sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What most likely causes it.
    pub cause: String,
    /// What to do next.
    pub fix: String,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.cause, self.fix)
    }
}

/// What most likely causes `error`, given what self-checks saw.
pub fn diagnose(error: &ObtainError, evidence: &[Evidence]) -> Diagnosis {
    match &*error.kind {
        ObtainErrorKind::Ca { source: Error::Request(request), .. } => of_request(request),
        ObtainErrorKind::Ca { source, .. } => {
            say(sentence(source), "Check the issuer's server URL and account.")
        }
        ObtainErrorKind::NoSolver { identifier, source } => say(
            format!("No solver takes {identifier}: {source}."),
            "Add a solver whose selector matches this name, or change the name.",
        ),
        ObtainErrorKind::Validation { identifier, problem, .. } => {
            of_validation(&identifier.base(), problem.as_ref(), evidence)
        }
        ObtainErrorKind::OrderInvalid { problem } => match evidence.iter().find(|seen| !seen.passed) {
            Some(seen) => of_validation(&seen.host, problem.as_ref(), evidence),
            None => say(sentence(&error.kind), "Nothing: it is tried again with a new order."),
        },
        ObtainErrorKind::Solver { source, .. } => say(
            sentence(&error.kind),
            source
                .fix()
                .unwrap_or("Check that Waxwing may make the route, and that the ingress class exists."),
        ),
        ObtainErrorKind::Journal(_) => {
            say(sentence(&error.kind), "Check that the storage can be written. Nothing was lost.")
        }
        ObtainErrorKind::Key(_) => {
            say(sentence(&error.kind), "Choose another key algorithm, or delete the stored key.")
        }
        ObtainErrorKind::Request(_) => say(sentence(&error.kind), "Change the request."),
        ObtainErrorKind::Deadline { .. } => {
            say(sentence(&error.kind), "Nothing: the order is saved, and the next attempt goes on with it.")
        }
        ObtainErrorKind::Certificate(PairError::NotYet { .. }) => say(
            sentence(&error.kind),
            "Check the clock of this machine. The certificate is kept, and taken when its time has come.",
        ),
        ObtainErrorKind::Certificate(_) => {
            say(sentence(&error.kind), "Tell the CA. It is tried again with a new order.")
        }
        ObtainErrorKind::ForeignOrder => say(
            sentence(&error.kind),
            "Use an account key of its own for each cluster, so that no other client shares its orders.",
        ),
    }
}

fn of_request(error: &RequestError) -> Diagnosis {
    let url = &error.url;
    match &error.failure {
        Failure::Status { problem: Some(problem), .. } => of_problem(problem),
        Failure::Status { status, problem: None, .. } if *status < 500 => say(
            format!("{url} answered with status {status} and without an ACME problem."),
            "Check the issuer's server URL: it must be the CA's directory.",
        ),
        Failure::Status { status, .. } => {
            say(format!("The CA is in trouble (status {status} from {url})."), "Nothing: it is tried again.")
        }
        Failure::Timeout { .. } | Failure::Busy { .. } => say(
            format!("The CA doesn't answer: {error}."),
            "Nothing if the CA is down; else check that a firewall or proxy lets requests through to it.",
        ),
        Failure::Connect(why) => say(
            format!("No connection to {url}: {why}."),
            "Check the server URL, DNS, and that egress to it is allowed (NetworkPolicy, firewall, proxy).",
        ),
        Failure::UnknownAuthority => say(
            format!("{url} presents a certificate that is signed by an authority unknown here."),
            "For a private CA, put its root certificate (PEM) into the issuer's caBundle.",
        ),
        Failure::Tls(why) => say(
            format!("TLS with {url} failed: {why}."),
            "Check the server URL's host name, and the clock of this machine.",
        ),
        Failure::Interrupted(why) => {
            say(format!("The connection to {url} broke: {why}."), "Nothing: it is tried again.")
        }
        Failure::Redirect { status, to, .. } => say(
            format!("{url} points to {to} (status {status})."),
            "Write that URL as the issuer's server URL, if it is the CA's directory.",
        ),
        Failure::Unexpected(why) | Failure::Maintenance { why, .. } => say(
            format!("{url} doesn't answer as an ACME server does: {why}."),
            "Nothing if it did before: it is tried again. Else check the issuer's server URL: it must be the CA's directory, such as https://acme-v02.api.letsencrypt.org/directory.",
        ),
    }
}

fn of_problem(problem: &Problem) -> Diagnosis {
    let cause = format!("The CA answered: {problem}.");
    say(
        cause,
        match problem.acme_type() {
            "rateLimited" => {
                "Wait: it is tried again at the time that the CA named. If that is too late, ask the CA for a higher limit."
            }
            "rejectedIdentifier" | "unsupportedIdentifier" => {
                "Remove or change the name: this CA doesn't issue for it."
            }
            "invalidContact" | "unsupportedContact" => "Change the issuer's e-mail address.",
            "externalAccountRequired" => {
                "Set externalAccountBinding on the issuer with the key that the CA gave you."
            }
            "badPublicKey" | "badCSR" | "badSignatureAlgorithm" => {
                "Choose another private key algorithm or size."
            }
            "invalidProfile" => "Choose a profile that the CA's directory lists, or none.",
            "caa" => "Add a CAA record that allows this CA, or remove those that forbid it.",
            "accountDoesNotExist" => "Nothing: the account is registered again.",
            "userActionRequired" => "Follow the link that the CA gives, such as to agree to new terms.",
            _ => match problem.class().actor {
                Actor::User => "Correct what the CA names.",
                _ => "Nothing: it is tried again.",
            },
        },
    )
}

/// A validation that the CA gave up: what was seen from here tells more than what the CA says.
fn of_validation(host: &str, problem: Option<&Problem>, evidence: &[Evidence]) -> Diagnosis {
    if problem.is_some_and(|problem| problem.acme_type() == "caa") {
        return of_problem(problem.unwrap_or(&Problem::default()));
    }
    let Some(seen) = evidence.iter().find(|seen| seen.host == host) else {
        return match problem {
            Some(problem) => say(
                format!("The CA could not validate {host}: {problem}."),
                format!("Check that http://{host}/ reaches this edge from the Internet on port 80."),
            ),
            None => say(
                format!("The CA could not validate {host}, and gave no reason."),
                format!("Check that http://{host}/ reaches this edge from the Internet on port 80."),
            ),
        };
    };
    if seen.passed {
        let said = problem.map(|problem| format!(" ({problem})")).unwrap_or_default();
        return say(
            format!("{host} answers as expected from here, but not from where the CA looks{said}."),
            "Check that its public DNS and the firewall lead the Internet to the same edge on port 80.",
        );
    }
    let addresses = seen.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let Some(failure) = seen.failures().next() else {
        return say(
            format!("{host} was not seen to answer."),
            format!("Check that http://{host}/ reaches this edge on port 80."),
        );
    };
    let dns_fix = format!("Point the A or AAAA record of {host} to this edge, or use DNS-01.");
    let address = failure.address.map_or_else(|| addresses.clone(), |address| address.to_string());
    let https = failure.url.starts_with("https:");
    let port = if https { 443 } else { 80 };
    match &failure.outcome {
        Outcome::NoAddress | Outcome::Dns(_) => say(format!("{host}: {}.", failure.outcome), dns_fix),
        Outcome::Refused => say(
            format!("{host} resolves to {addresses}; port {port} of {address} refused."),
            format!("{dns_fix} The edge must listen on port {port}."),
        ),
        Outcome::TimedOut if seen.addresses.is_empty() => say(
            format!("{host} could not be resolved and looked at in time."),
            format!("Check that the name servers of {host} answer, and its edge on port {port}."),
        ),
        Outcome::TimedOut | Outcome::Unreachable => say(
            format!("{host} resolves to {addresses}; {address} did not answer on port {port}."),
            format!("{dns_fix} A firewall must let port {port} through."),
        ),
        Outcome::Status(status) if https && seen.redirected_to_https => say(
            format!(
                "The edge redirects {host} to HTTPS, where the challenge's path answers with status {status}."
            ),
            "Leave /.well-known/acme-challenge/ out of the redirect, or route it on the TLS side too.",
        ),
        Outcome::Status(status @ (401 | 403)) => say(
            format!("{host} resolves to {addresses}; the challenge's path answers with status {status}."),
            "Leave /.well-known/acme-challenge/ out of the edge's authentication.",
        ),
        Outcome::Status(404) => say(
            format!("{host} resolves to {addresses}, where the challenge's path is not found (status 404)."),
            format!("Check that the ingress class is the one that serves {host}. {dns_fix}"),
        ),
        Outcome::Status(status) => say(
            format!("{host} resolves to {addresses}; the challenge's path answers with status {status}."),
            "Look at the ingress controller's log for this path.",
        ),
        Outcome::WrongBody => say(
            format!("{host} resolves to {addresses}, where something else answers the challenge's path."),
            format!(
                "Send /.well-known/acme-challenge/ of {host} to Waxwing: another route for it wins. {dns_fix}"
            ),
        ),
        Outcome::RedirectRefused(to) => say(
            format!("{host} redirects to {to}, where no CA follows."),
            "Redirect to http on port 80 or https on port 443 alone.",
        ),
        Outcome::TooManyRedirects => say(
            format!("{host} redirects in a circle."),
            "Leave /.well-known/acme-challenge/ out of the redirect.",
        ),
        Outcome::Ok | Outcome::RedirectedTo(_) | Outcome::Tls(_) | Outcome::Broken(_) => say(
            format!("{host} resolves to {addresses}; {failure}."),
            format!("Check what answers on port {port} there. {dns_fix}"),
        ),
    }
}

fn say(cause: impl Into<String>, fix: impl Into<String>) -> Diagnosis {
    Diagnosis { cause: cause.into(), fix: fix.into() }
}

/// An error as a sentence.
fn sentence(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::Observation;

    fn validation(kind: &str) -> ObtainError {
        ObtainErrorKind::Validation {
            identifier: "a.example".parse().unwrap(),
            challenge_type: None,
            problem: Some(Problem {
                kind: Some(format!("urn:ietf:params:acme:error:{kind}")),
                ..Problem::default()
            }),
        }
        .into()
    }

    fn evidence(outcome: Outcome) -> Evidence {
        let address = "203.0.113.7".parse().unwrap();
        Evidence {
            host: "a.example".into(),
            addresses: vec![address],
            observations: vec![Observation {
                address: Some(address),
                url: "http://a.example/".into(),
                outcome,
            }],
            ..Evidence::default()
        }
    }

    #[test]
    fn each_sight_has_its_own_cause() {
        for (outcome, expected) in [
            (Outcome::Refused, "a.example resolves to 203.0.113.7; port 80 of 203.0.113.7 refused."),
            (Outcome::NoAddress, "a.example: the name has no A or AAAA record."),
            (
                Outcome::Status(404),
                "a.example resolves to 203.0.113.7, where the challenge's path is not found (status 404).",
            ),
            (
                Outcome::WrongBody,
                "a.example resolves to 203.0.113.7, where something else answers the challenge's path.",
            ),
        ] {
            assert_eq!(diagnose(&validation("unauthorized"), &[evidence(outcome)]).cause, expected);
        }
    }

    #[test]
    fn a_look_that_was_cut_short_names_no_address() {
        let seen = Evidence { addresses: Vec::new(), ..evidence(Outcome::TimedOut) };
        let cause = diagnose(&validation("connection"), &[seen]).cause;
        assert_eq!(cause, "a.example could not be resolved and looked at in time.");
    }

    #[test]
    fn a_pass_from_here_points_outside() {
        let diagnosis = diagnose(&validation("connection"), &[Evidence::passed("a.example")]);
        assert!(diagnosis.cause.contains("but not from where the CA looks"), "{diagnosis}");
    }

    #[test]
    fn a_redirect_to_https_is_named() {
        let mut seen = evidence(Outcome::Status(404));
        seen.redirected_to_https = true;
        seen.observations[0].url = "https://a.example/".into();
        assert!(
            diagnose(&validation("unauthorized"), &[seen]).cause.contains("redirects a.example to HTTPS")
        );
    }

    #[test]
    fn caa_is_about_caa_whatever_was_seen() {
        assert!(diagnose(&validation("caa"), &[evidence(Outcome::Refused)]).fix.contains("CAA"));
    }

    fn failed(failure: Failure) -> Diagnosis {
        let failed = RequestError { method: "GET", url: "https://ca/".into(), failure };
        let error = ObtainErrorKind::Ca { doing: "ordering", source: failed.into() }.into();
        diagnose(&error, &[])
    }

    #[test]
    fn an_unknown_authority_points_to_the_bundle() {
        assert!(failed(Failure::UnknownAuthority).fix.contains("caBundle"));
    }

    #[test]
    fn an_answer_that_is_not_acme_says_whether_there_is_something_to_do() {
        let to = "https://ca/directory".to_owned();
        let said = failed(Failure::Redirect { status: 301, to, retry_after: None });
        assert_eq!(said.cause, "https://ca/ points to https://ca/directory (status 301).");
        assert!(said.fix.starts_with("Write that URL"), "{said}");
        assert!(failed(Failure::Unexpected("it is an HTML page".into())).fix.starts_with("Nothing if"));
    }
}
