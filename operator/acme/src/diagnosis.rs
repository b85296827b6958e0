//! From an error and what self-checks saw to a cause and a next step. Pure.

use std::fmt;

use url::Url;

use crate::{
    Actor, Error, Evidence, Failure, Observation, ObtainError, ObtainErrorKind, Outcome, PairError, Problem,
    RequestError,
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
        ObtainErrorKind::Ca { source, .. } => of_ca(source),
        ObtainErrorKind::NoSolver { identifier, source } => {
            say(format!("No solver takes {identifier}."), sentence(source))
        }
        ObtainErrorKind::Validation { identifier, problem, .. } => {
            of_validation(&identifier.base(), problem.as_ref(), evidence)
        }
        // All its names were validated by then: what was seen of them explains nothing.
        ObtainErrorKind::OrderInvalid { problem: Some(problem) } => of_problem(problem),
        ObtainErrorKind::OrderInvalid { problem: None } => say(
            "The CA gave up the order, and gave no reason.",
            "There is nothing to do: it is tried again with a new order.",
        ),
        ObtainErrorKind::Solver { source, .. } => say(
            sentence(&error.kind),
            source
                .fix()
                .unwrap_or("Check that Waxwing may make the route, and that the ingress class exists."),
        ),
        ObtainErrorKind::Journal(_) => say(
            sentence(&error.kind),
            "Check that the order's journal can be written: in a cluster, that Waxwing may write Secrets in its \
             own namespace, and that namespace's quotas and policies. Nothing was lost.",
        ),
        ObtainErrorKind::Key(_) => {
            say(sentence(&error.kind), "Choose another key algorithm, or delete the stored key.")
        }
        ObtainErrorKind::Request(_) => say(sentence(&error.kind), "Change the request."),
        ObtainErrorKind::Deadline { .. } => say(
            sentence(&error.kind),
            "There is nothing to do: the order is saved, and the next attempt goes on with it.",
        ),
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

fn of_ca(error: &Error) -> Diagnosis {
    match error {
        Error::Request(request) => of_request(request),
        Error::Answer { .. } => say(
            sentence(error),
            "If this CA has worked before, tell it; it is tried again. Else check the issuer's server URL.",
        ),
        Error::Crypto(_) => say(sentence(error), "This is a bug in Waxwing: report it. It is tried again."),
        Error::AccountKey(_) | Error::Roots(_) | Error::Unsupported { .. } => {
            say(sentence(error), "Check the issuer's server URL and account.")
        }
    }
}

const IN_BETWEEN: &str = "If this issuer has worked before, look for a proxy or firewall in between. \
     Else check its server URL: it must be the CA's directory.";

fn of_request(error: &RequestError) -> Diagnosis {
    let url = &error.url;
    match &error.failure {
        Failure::Status { problem: Some(problem), .. } => of_problem(problem),
        Failure::Status { status, problem: None, .. } => of_status(url, *status),
        Failure::Timeout { .. } | Failure::Busy { .. } => say(
            format!("The CA doesn't answer: {error}"),
            "If the CA is down, wait: it is tried again. \
             Else check that a firewall or proxy lets requests through to it.",
        ),
        Failure::Connect(why) => say(
            format!("No connection to {url}: {why}"),
            "If the CA is down, wait: it is tried again. \
             Else check the issuer's server URL, DNS and egress (NetworkPolicy, firewall, proxy).",
        ),
        Failure::UnknownAuthority => say(
            format!("{url} presents a certificate that is signed by an authority unknown here."),
            "For a private CA, put its root certificate (PEM) into the issuer's caBundle.",
        ),
        Failure::Tls(why) => say(
            format!("TLS with {url} failed: {why}"),
            "Check the host name in the issuer's server URL, and the clock of this machine.",
        ),
        Failure::Interrupted(why) => {
            say(format!("The connection to {url} broke: {why}"), "There is nothing to do: it is tried again.")
        }
        Failure::Redirect { status, to: None, .. } => {
            say(format!("{url} redirects without saying where (status {status})."), IN_BETWEEN)
        }
        Failure::Redirect { status, to: Some(to), .. } => say(
            format!("{url} points to {to} (status {status})."),
            "Write that URL as the issuer's server URL, if it is the CA's directory.",
        ),
        Failure::Unexpected(why) | Failure::Maintenance { why, .. } => say(
            format!("{url} doesn't answer as an ACME server does: {why}"),
            "If this URL has worked before, wait: it is tried again. If not, check the issuer's server URL: \
             it must be the CA's directory, such as https://acme-v02.api.letsencrypt.org/directory.",
        ),
    }
}

/// An error without an ACME problem: of the CA, or of what is in between.
fn of_status(url: &str, status: u16) -> Diagnosis {
    match status {
        408 => say(
            format!("{url} waited in vain for the whole request (status 408)."),
            "There is nothing to do: it is tried again. \
             If it stays, look for a proxy or firewall that holds requests up.",
        ),
        429 => say(
            format!("{url} asks for fewer requests (status 429)."),
            "There is nothing to do: it is tried again. \
             If it stays, lower the issuer's limits.concurrentRequests.",
        ),
        500.. => say(
            format!("The CA is in trouble (status {status} from {url})."),
            "There is nothing to do: it is tried again.",
        ),
        _ => say(format!("{url} answered with status {status}, and not as an ACME server does."), IN_BETWEEN),
    }
}

fn of_problem(problem: &Problem) -> Diagnosis {
    say(
        format!("The CA answered: {problem}"),
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
            "accountDoesNotExist" => "There is nothing to do: the account is registered again.",
            "userActionRequired" => "Follow the link that the CA gives, such as to agree to new terms.",
            _ => match problem.class().actor {
                Actor::User => "Correct what the CA names.",
                _ => "There is nothing to do: it is tried again.",
            },
        },
    )
}

/// A validation that the CA gave up: what was seen from here tells more than what the CA says.
fn of_validation(host: &str, problem: Option<&Problem>, evidence: &[Evidence]) -> Diagnosis {
    if let Some(problem) = problem.filter(|problem| is_elsewhere(problem)) {
        return of_problem(problem);
    }
    let Some(seen) = evidence.iter().find(|seen| seen.host == host) else {
        let cause = match problem {
            Some(problem) => format!("The CA could not validate {host}: {problem}"),
            None => format!("The CA could not validate {host}, and gave no reason."),
        };
        return say(
            cause,
            format!("Check that http://{host}/ reaches this edge from the Internet on port 80."),
        );
    };
    if seen.passed {
        let said = problem.map(|problem| format!(" ({problem})")).unwrap_or_default();
        return say(
            format!("{host} answers as expected from here, but not from where the CA looks{said}."),
            "Check that its public DNS and the firewall lead the Internet to the same edge on port 80.",
        );
    }
    let Some(failure) = seen.failures().next() else {
        return say(
            format!("{host} was not seen to answer."),
            format!("Check that http://{host}/ reaches this edge on port 80."),
        );
    };
    of_redirect(host, failure).unwrap_or_else(|| of_failure(seen, failure))
}

/// Whether the matter is the CA itself, its policy or the account, wherever the name leads.
fn is_elsewhere(problem: &Problem) -> bool {
    matches!(problem.acme_type(), "caa" | "rateLimited" | "serverInternal" | "userActionRequired")
}

/// What was seen where a redirect leads. `None`: there is none, or it leads nowhere.
fn of_redirect(host: &str, failure: &Observation) -> Option<Diagnosis> {
    let url = Url::parse(&failure.url).ok()?;
    let (scheme, other) = (url.scheme(), url.host_str()?);
    let same_host = other.trim_start_matches('[').trim_end_matches(']').eq_ignore_ascii_case(host);
    if same_host && scheme == "http" {
        return None;
    }
    let port = if scheme == "https" { 443 } else { 80 };
    let address = failure.address.map_or_else(|| other.to_owned(), |address| address.to_string());
    let seen = match &failure.outcome {
        Outcome::Status(status) if same_host => {
            return Some(say(
                format!(
                    "The edge redirects {host} to HTTPS, where the challenge's path answers with status {status}."
                ),
                "Leave /.well-known/acme-challenge/ out of the redirect, or route it on the TLS side too.",
            ));
        }
        Outcome::Status(status) => format!("the challenge's path answers with status {status}"),
        Outcome::Refused => format!("port {port} of {address} refused"),
        Outcome::TimedOut | Outcome::Unreachable => format!("{address} did not answer on port {port}"),
        Outcome::WrongBody => "something else answers the challenge's path".to_owned(),
        Outcome::Broken(why) => format!("the request failed: {why}"),
        Outcome::Tls(_) | Outcome::NoAddress | Outcome::Dns(_) => failure.outcome.to_string(),
        Outcome::Ok | Outcome::RedirectedTo(_) | Outcome::RedirectRefused(_) | Outcome::TooManyRedirects => {
            return None;
        }
    };
    Some(say(
        format!("{host} redirects to {scheme}://{other}, where {seen}"),
        format!(
            "Leave /.well-known/acme-challenge/ out of the redirect, or make {scheme}://{other} answer there."
        ),
    ))
}

/// What was seen of the name itself.
fn of_failure(seen: &Evidence, failure: &Observation) -> Diagnosis {
    let host = &seen.host;
    let addresses = seen.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let address = failure.address.map_or_else(|| addresses.clone(), |address| address.to_string());
    let dns_fix = format!("Point the A or AAAA record of {host} to this edge.");
    match &failure.outcome {
        Outcome::NoAddress | Outcome::Dns(_) => say(format!("{host}: {}", failure.outcome), dns_fix),
        Outcome::Refused => say(
            format!("{host} resolves to {addresses}; port 80 of {address} refused."),
            format!("{dns_fix} The edge must listen on port 80."),
        ),
        Outcome::TimedOut if seen.addresses.is_empty() => say(
            format!("{host} could not be resolved and looked at in time."),
            format!("Check that the name servers of {host} answer, and its edge on port 80."),
        ),
        Outcome::TimedOut | Outcome::Unreachable => say(
            format!("{host} resolves to {addresses}; {address} did not answer on port 80."),
            format!("{dns_fix} A firewall must let port 80 through."),
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
            format!("{host} redirects to {}, where no CA follows.", without_token(to, seen)),
            "Redirect to http on port 80 or https on port 443 alone.",
        ),
        Outcome::TooManyRedirects => say(
            format!("{host} redirects in a circle."),
            "Leave /.well-known/acme-challenge/ out of the redirect.",
        ),
        Outcome::Ok | Outcome::RedirectedTo(_) | Outcome::Tls(_) | Outcome::Broken(_) => say(
            format!("{host} resolves to {addresses}; {}", without_token(&failure.to_string(), seen)),
            format!("Check what answers on port 80 there. {dns_fix}"),
        ),
    }
}

const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// Text of a self-check without the challenge's token, which differs each time: equal Events are joined.
fn without_token(text: &str, seen: &Evidence) -> String {
    // What is asked first is the challenge's own URL, which ends with the token.
    let asked = seen.observations.iter().find_map(|one| one.url.split_once(CHALLENGE_PATH));
    match asked {
        Some((_, token)) if !token.is_empty() => text.replace(token, "…"),
        _ => text.to_owned(),
    }
}

fn say(cause: impl Into<String>, fix: impl Into<String>) -> Diagnosis {
    Diagnosis { cause: ended(cause.into()), fix: ended(fix.into()) }
}

/// With a full stop, unless it has an end: what a CA or an error says may bring its own.
fn ended(mut text: String) -> String {
    if !text.ends_with(['.', '…', '!', '?']) {
        text.push('.');
    }
    text
}

/// An error as a sentence, whose end [`say`] sees to.
fn sentence(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    // Names of hosts, and URLs, stay as they are.
    let first_word = text.split_whitespace().next().unwrap_or_default();
    let is_word = first_word.chars().all(|letter| letter.is_ascii_lowercase() || "'-,:".contains(letter));
    match letters.next() {
        Some(first) if is_word => first.to_uppercase().chain(letters).collect(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn problem(kind: &str) -> Problem {
        Problem { kind: Some(format!("urn:ietf:params:acme:error:{kind}")), ..Problem::default() }
    }

    fn validation(kind: &str) -> ObtainError {
        ObtainErrorKind::Validation {
            identifier: "a.example".parse().unwrap(),
            challenge_type: None,
            problem: Some(problem(kind)),
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

    /// What is said where the challenge's URL redirects to `url`.
    fn redirected(url: &str, outcome: Outcome) -> Diagnosis {
        let asked = "http://a.example/.well-known/acme-challenge/dG9rZW4".to_owned();
        let mut seen = evidence(outcome);
        seen.observations[0].url = url.to_owned();
        let outcome = Outcome::RedirectedTo(url.to_owned());
        seen.observations.insert(0, Observation { address: None, url: asked, outcome });
        diagnose(&validation("unauthorized"), &[seen])
    }

    #[test]
    fn a_redirect_to_https_is_named() {
        let said = redirected("https://a.example/", Outcome::Status(404));
        assert!(said.cause.contains("redirects a.example to HTTPS"), "{said}");
        let said = redirected("https://a.example/", Outcome::Tls("bad record".into()));
        assert_eq!(said.cause, "a.example redirects to https://a.example, where TLS failed: bad record.");
    }

    #[test]
    fn what_fails_where_a_redirect_leads_is_not_laid_on_the_name() {
        for (outcome, expected) in [
            (Outcome::NoAddress, "the name has no A or AAAA record."),
            (Outcome::Refused, "port 443 of 203.0.113.7 refused."),
            (Outcome::TimedOut, "203.0.113.7 did not answer on port 443."),
            (Outcome::Status(404), "the challenge's path answers with status 404."),
            (Outcome::WrongBody, "something else answers the challenge's path."),
        ] {
            let said = redirected("https://b.example/", outcome);
            assert_eq!(said.cause, format!("a.example redirects to https://b.example, where {expected}"));
            assert!(said.fix.ends_with("or make https://b.example answer there."), "{said}");
        }
        let said = redirected("http://b.example/", Outcome::Refused);
        assert!(said.cause.contains("http://b.example, where port 80 of 203.0.113.7 refused."), "{said}");
        let said = redirected("http://a.example/login", Outcome::Status(403));
        assert!(said.cause.starts_with("a.example resolves to"), "it stays where it is: {said}");
    }

    #[test]
    fn a_redirect_of_an_address_stays_with_it() {
        let observation = Observation {
            address: None,
            url: "http://[2001:db8::1]/.well-known/acme-challenge/dG9rZW4".into(),
            outcome: Outcome::Refused,
        };
        assert_eq!(of_redirect("2001:db8::1", &observation), None);
    }

    #[test]
    fn what_is_said_holds_no_token() {
        let url = "http://a.example/.well-known/acme-challenge/dG9rZW4";
        let refused = Outcome::RedirectRefused("https://b.example:8443/?to=%2Facme%2FdG9rZW4".into());
        let mut seen = evidence(refused);
        seen.observations[0].url = url.into();
        let said = diagnose(&validation("unauthorized"), &[seen]);
        assert_eq!(
            said.cause,
            "a.example redirects to https://b.example:8443/?to=%2Facme%2F…, where no CA follows."
        );
        let mut seen = evidence(Outcome::Broken("no HTTP answer".into()));
        seen.observations[0].url = url.into();
        let said = diagnose(&validation("unauthorized"), &[seen]);
        assert!(said.cause.contains("acme-challenge/… at 203.0.113.7: no HTTP answer."), "{said}");
    }

    #[test]
    fn what_the_ca_says_of_itself_counts_whatever_was_seen() {
        let said = |kind| diagnose(&validation(kind), &[evidence(Outcome::Refused)]);
        assert!(said("caa").fix.contains("CAA"));
        for kind in ["rateLimited", "serverInternal", "userActionRequired"] {
            assert!(said(kind).cause.starts_with("The CA answered"), "{kind}");
        }
    }

    #[test]
    fn an_order_that_was_given_up_is_not_laid_on_its_names() {
        let said = |problem| {
            diagnose(&ObtainErrorKind::OrderInvalid { problem }.into(), &[evidence(Outcome::Refused)])
        };
        assert_eq!(said(Some(problem("caa"))).cause, "The CA answered: urn:ietf:params:acme:error:caa.");
        assert_eq!(said(None).cause, "The CA gave up the order, and gave no reason.");
    }

    #[test]
    fn who_says_that_no_solver_fits_says_what_to_do() {
        let source = crate::NoSolver::new("the issuer has no solver: add one");
        let error = ObtainErrorKind::NoSolver { identifier: "a.example".parse().unwrap(), source }.into();
        assert_eq!(
            diagnose(&error, &[]).to_string(),
            "No solver takes a.example. The issuer has no solver: add one."
        );
    }

    #[test]
    fn sentences_have_one_end_and_leave_host_names_alone() {
        assert_eq!(say("It ends…", "Does it? Yes").to_string(), "It ends… Does it? Yes.");
        assert_eq!(sentence(&"a.example is no name"), "a.example is no name");
        assert_eq!(sentence(&"the CA's words"), "The CA's words");
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
        let redirect = |to: Option<&str>| Failure::Redirect {
            status: 301,
            to: to.map(str::to_owned),
            retry_after: None,
        };
        let said = failed(redirect(Some("https://ca/directory")));
        assert_eq!(said.cause, "https://ca/ points to https://ca/directory (status 301).");
        assert!(said.fix.starts_with("Write that URL"), "{said}");
        let said = failed(redirect(None));
        assert_eq!(said.cause, "https://ca/ redirects without saying where (status 301).");
        assert!(said.fix.starts_with("If this issuer has worked before"), "{said}");
        let said = failed(Failure::Unexpected("it is an HTML page".into()));
        assert!(said.fix.starts_with("If this URL has worked before, wait"), "{said}");
    }

    #[test]
    fn an_error_page_is_told_by_its_status() {
        for (status, cause, fix) in [
            (403, "https://ca/ answered with status 403, and", "If this issuer has worked before"),
            (408, "https://ca/ waited in vain", "There is nothing to do"),
            (429, "https://ca/ asks for fewer requests (status 429).", "There is nothing to do"),
            (503, "The CA is in trouble (status 503 from https://ca/).", "There is nothing to do"),
        ] {
            let said = failed(Failure::Status { status, problem: None, retry_after: None });
            assert!(said.cause.starts_with(cause) && said.fix.starts_with(fix), "{said}");
        }
    }
}
