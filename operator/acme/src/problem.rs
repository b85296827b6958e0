//! Problem documents (RFC 7807), as ACME uses them (RFC 8555 §6.7).

use std::fmt;

use serde::Deserialize;

use crate::{Actor, Class, Retry};

/// What a CA says when it refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// The type, such as `urn:ietf:params:acme:error:rateLimited`.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// The explanation for people.
    #[serde(default)]
    pub detail: Option<String>,
    /// The HTTP status that the document itself names.
    #[serde(default)]
    pub status: Option<u16>,
    /// One problem for each identifier concerned (RFC 8555 §6.7.1).
    #[serde(default)]
    pub subproblems: Vec<Subproblem>,
}

/// The part of a problem that concerns one identifier (RFC 8555 §6.7.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Subproblem {
    /// The type, as in [`Problem::kind`].
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// The explanation for people.
    #[serde(default)]
    pub detail: Option<String>,
    /// The identifier.
    #[serde(default)]
    pub identifier: Option<ProblemIdentifier>,
}

/// An identifier as a problem document names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ProblemIdentifier {
    /// `dns`, `ip`, …
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The name or address.
    #[serde(default)]
    pub value: String,
}

const PREFIX: &str = "urn:ietf:params:acme:error:";

impl Problem {
    /// The last part of an ACME problem type, such as `rateLimited`; empty for other types.
    pub fn acme_type(&self) -> &str {
        self.kind.as_deref().and_then(|kind| kind.strip_prefix(PREFIX)).unwrap_or_default()
    }

    /// Who must act on it, and when to try again, where the answer said no Retry-After.
    pub fn class(&self) -> Class {
        let (actor, retry) = match self.acme_type() {
            "badCSR"
            | "badPublicKey"
            | "badSignatureAlgorithm"
            | "invalidContact"
            | "unsupportedContact"
            | "rejectedIdentifier"
            | "unsupportedIdentifier"
            | "invalidProfile"
            | "externalAccountRequired" => (Actor::User, Retry::AfterChange),
            "caa" | "connection" | "dns" | "incorrectResponse" | "tls" | "unauthorized"
            | "userActionRequired" => (Actor::User, Retry::Backoff),
            "accountDoesNotExist"
            | "malformed"
            | "orderNotReady"
            | "alreadyReplaced"
            | "badRevocationReason" => (Actor::Us, Retry::Backoff),
            // badNonce, compound, rateLimited, serverInternal, and whatever a CA invents.
            _ => (Actor::Ca, Retry::Backoff),
        };
        Class { actor, retry }
    }
}

impl From<&instant_acme::Problem> for Problem {
    fn from(problem: &instant_acme::Problem) -> Self {
        let identifier = |identifier: &instant_acme::Identifier| match identifier {
            instant_acme::Identifier::Dns(name) => {
                ProblemIdentifier { kind: "dns".into(), value: name.clone() }
            }
            instant_acme::Identifier::Ip(address) => {
                ProblemIdentifier { kind: "ip".into(), value: address.to_string() }
            }
            _ => ProblemIdentifier::default(),
        };
        Self {
            kind: problem.r#type.clone(),
            detail: problem.detail.clone(),
            status: problem.status,
            subproblems: problem
                .subproblems
                .iter()
                .map(|sub| Subproblem {
                    kind: sub.r#type.clone(),
                    detail: sub.detail.clone(),
                    identifier: sub.identifier.as_ref().map(identifier),
                })
                .collect(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.as_deref().unwrap_or("problem without a type"))?;
        if let Some(detail) = &self.detail {
            write!(f, ": {}", readable(detail))?;
        }
        // A CA may list a hundred; the first few show what it is about.
        for sub in self.subproblems.iter().take(5) {
            write!(f, "; ")?;
            if let Some(identifier) = &sub.identifier {
                write!(f, "{}: ", identifier.value)?;
            }
            f.write_str(&readable(sub.detail.as_deref().or(sub.kind.as_deref()).unwrap_or("no detail")))?;
        }
        Ok(())
    }
}

/// No problem document needs more characters to say what is wrong.
const LONGEST_DETAIL: usize = 600;
const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// A CA's words for people: on one line, of bounded length, without the challenge's token, which differs each time
/// and so would make the same failure look like another.
fn readable(detail: &str) -> String {
    let mut text = String::new();
    let mut rest = detail.trim().trim_end_matches('.');
    while let Some((before, after)) = rest.split_once(CHALLENGE_PATH) {
        text.push_str(before);
        text.push_str(CHALLENGE_PATH);
        text.push('…');
        rest = after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    }
    text.push_str(rest);
    let mut readable: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_DETAIL).collect();
    if text.chars().nth(LONGEST_DETAIL).is_some() {
        readable.push('…');
    }
    readable
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_document_is_read_with_its_subproblems() {
        let problem: Problem = serde_json::from_str(
            r#"{"type":"urn:ietf:params:acme:error:malformed","detail":"Some were refused.","subproblems":[
                {"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"no","identifier":{"type":"dns","value":"a.example"}}]}"#,
        )
        .unwrap();
        assert_eq!(problem.acme_type(), "malformed");
        assert_eq!(
            problem.to_string(),
            "urn:ietf:params:acme:error:malformed: Some were refused; a.example: no"
        );
    }

    #[test]
    fn a_cas_words_are_one_line_without_tokens() {
        assert_eq!(
            readable("Get http://a.example/.well-known/acme-challenge/dG9r-ZW4_x: \"no\"\n404."),
            "Get http://a.example/.well-known/acme-challenge/…: \"no\" 404"
        );
        assert_eq!(readable(&"ä".repeat(700)).chars().count(), LONGEST_DETAIL + 1);
    }

    #[test]
    fn classes_say_who_must_act() {
        let class =
            |kind: &str| Problem { kind: Some(format!("{PREFIX}{kind}")), ..Problem::default() }.class();
        assert_eq!(class("rejectedIdentifier"), Class { actor: Actor::User, retry: Retry::AfterChange });
        assert_eq!(class("connection"), Class { actor: Actor::User, retry: Retry::Backoff });
        assert_eq!(class("serverInternal"), Class { actor: Actor::Ca, retry: Retry::Backoff });
        assert_eq!(class("accountDoesNotExist"), Class { actor: Actor::Us, retry: Retry::Backoff });
        assert_eq!(class("madeUp"), Class { actor: Actor::Ca, retry: Retry::Backoff });
    }
}
