//! A Certificate's state on one page, from what the cluster says of it: pure. What isn't known is left out.

mod standing;
mod times;

use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::ResourceExt;
use serde::Serialize;
use waxwing_api::{Certificate, labels, reason};

use standing::{find, has_failed, summary};
use times::{due, has_come, moment, span};

/// What the page is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The Certificate.
    pub certificate: &'a Certificate,
    /// Its issuer's conditions.
    pub issuer: Found<Vec<Condition>>,
    /// Its Secret's metadata; never its data.
    pub secret: Found<ObjectMeta>,
    /// Events about it, in any order.
    pub events: &'a [Event],
    /// The clock.
    pub now: Timestamp,
}

/// What asking for an object brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found<T> {
    /// It may not be read, or couldn't be.
    Unknown,
    /// There is none.
    Absent,
    /// It is there.
    Present(T),
}

impl<T> Found<T> {
    /// The part of it that is wanted.
    pub fn map<U>(self, part: impl FnOnce(T) -> U) -> Found<U> {
        match self {
            Self::Unknown => Found::Unknown,
            Self::Absent => Found::Absent,
            Self::Present(object) => Found::Present(part(object)),
        }
    }
}

/// The page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    namespace: String,
    name: String,
    ready: bool,
    /// Where it is, in a few words.
    summary: String,
    /// Why the last attempt stopped, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// The command that tries again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<String>,
    /// What the CA, or whoever else failed, answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    /// What the Secret holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pair: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renews: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suggestion: Option<String>,
    issuer: String,
    secret: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<Line>,
    #[serde(skip)]
    now: Timestamp,
}

/// An Event on the page.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Timestamp>,
    count: i32,
    kind: String,
    reason: String,
    note: String,
}

impl Page {
    /// Builds it.
    pub fn of(facts: &Facts<'_>) -> Self {
        let certificate = facts.certificate;
        let (namespace, name) = (certificate.namespace().unwrap_or_default(), certificate.name_any());
        let status = certificate.status.clone().unwrap_or_default();
        let (ready, issuing) =
            (find(&status.conditions, reason::READY), find(&status.conditions, reason::ISSUING));
        let expires = status.not_after.as_ref().map(|time| time.0);
        let stopped = issuing.filter(|issuing| issuing.status != "True" && issuing.reason != reason::ISSUED);
        let (cause, answer) = stopped.map(|issuing| parts(&issuing.message)).unwrap_or_default();
        // Where no attempt could be made, asking for another one changes nothing.
        let retry =
            stopped.is_some_and(has_failed).then(|| format!("kubectl waxwing renew {name} -n {namespace}"));
        let acme = status.acme.as_ref();
        let suggestion = acme.and_then(|acme| acme.ari.as_ref()).map(|ari| {
            let why = ari.explanation_url.as_ref().map(|url| format!(", see {url}")).unwrap_or_default();
            format!("renew between {} and {}{why}", ari.suggested_window.start.0, ari.suggested_window.end.0)
        });
        Self {
            // The condition is as old as Waxwing's last look.
            ready: ready.is_some_and(|ready| ready.status == "True") && !has_come(expires, facts.now),
            summary: summary(certificate, facts.now),
            cause,
            retry,
            answer,
            pair: ready.map(|ready| ready.message.clone()),
            serial_number: status.serial_number.clone(),
            expires,
            renews: status.renewal_time.as_ref().map(|time| time.0),
            next_attempt: status.next_attempt_time.as_ref().map(|time| time.0),
            suggestion,
            issuer: issuer(facts),
            secret: secret(facts, &name),
            order: acme.and_then(|acme| acme.order_url.clone()),
            events: events(facts.events),
            now: facts.now,
            namespace,
            name,
        }
    }

    /// As text, with colours for a terminal or without.
    pub fn text(&self, colours: bool) -> String {
        let mut text = String::new();
        let expired = has_come(self.expires, self.now);
        let (state, colour) = match (expired, self.ready) {
            (true, _) => ("EXPIRED", "31"),
            (false, true) => ("READY", "32"),
            (false, false) => ("NOT READY", "31"),
        };
        let state = if colours { format!("\x1b[1;{colour}m{state}\x1b[0m") } else { state.to_owned() };
        let _ = writeln!(text, "{}/{}  {state}  {}", self.namespace, self.name, plain(&self.summary));
        let groups = [
            vec![("Cause", self.cause.clone()), ("Retry", self.retry.clone())],
            vec![
                ("Answer", self.answer.clone()),
                ("Pair", self.pair.clone()),
                ("Serial", self.serial_number.clone()),
                (if expired { "Expired" } else { "Expires" }, self.expires.map(|at| moment(at, self.now))),
                ("Renews", self.renews.map(|at| due(at, self.now))),
                ("CA", self.suggestion.clone()),
                ("Issuer", Some(self.issuer.clone())),
                ("Secret", Some(self.secret.clone())),
                ("Order", self.order.clone()),
            ],
            self.events.iter().map(|line| ("Event", Some(line.text(self.now)))).collect(),
        ];
        for group in groups {
            let mut first = true;
            for (label, value) in group {
                let Some(value) = value else { continue };
                if std::mem::take(&mut first) {
                    text.push('\n');
                }
                let label = format!("{label:<WIDTH$}");
                let label = if colours { format!("\x1b[2m{label}\x1b[0m") } else { label };
                let _ = writeln!(text, "{label}{}", wrapped(&plain(&value)));
            }
        }
        text
    }
}

impl Line {
    fn text(&self, now: Timestamp) -> String {
        let last = self.last.map(|last| format!("{} ago ", span(last, now))).unwrap_or_default();
        let times = if self.count > 1 { format!(" ({} times)", self.count) } else { String::new() };
        format!("{last}{}{times}: {}", self.reason, self.note)
    }
}

/// What a failure's message says of its cause, and what it quotes in the `(asking …)` at its end. A long message is cut,
/// and then has no end.
fn parts(message: &str) -> (Option<String>, Option<String>) {
    let Some((cause, quoted)) = message.rsplit_once(" (asking ") else {
        return (Some(message.to_owned()), None);
    };
    let quoted = quoted.strip_suffix(").").unwrap_or(quoted);
    (Some(cause.to_owned()), Some(quoted.to_owned()))
}

fn issuer(facts: &Facts<'_>) -> String {
    let reference = &facts.certificate.spec.issuer_ref;
    let name = format!("{}/{}", reference.kind, reference.name);
    let state = match &facts.issuer {
        Found::Unknown => return name,
        Found::Absent => "doesn't exist".to_owned(),
        Found::Present(conditions) => match find(conditions, reason::READY) {
            None => "not looked at yet".into(),
            Some(ready) if ready.status == "True" => "Ready".into(),
            Some(ready) => format!("not Ready ({}): {}", ready.reason, ready.message),
        },
    };
    format!("{name}: {state}")
}

fn secret(facts: &Facts<'_>, certificate: &str) -> String {
    let name = &facts.certificate.spec.secret_name;
    let state = match &facts.secret {
        Found::Unknown => return name.clone(),
        Found::Absent => "absent",
        Found::Present(metadata) => {
            let owner =
                metadata.annotations.iter().flatten().find(|(key, _)| *key == labels::CERTIFICATE_NAME);
            match owner {
                Some((_, owner)) if owner == certificate => "of this Certificate",
                Some((_, owner)) => return format!("{name}: of the Certificate {owner}"),
                None => "not Waxwing's",
            }
        }
    };
    format!("{name}: {state}")
}

/// As many as there is room for, the newest last.
const MOST_EVENTS: usize = 5;

fn events(all: &[Event]) -> Vec<Line> {
    let mut lines: Vec<Line> = all
        .iter()
        .map(|event| Line {
            last: event
                .series
                .as_ref()
                .map(|series| series.last_observed_time.0)
                .or_else(|| event.event_time.as_ref().map(|time| time.0))
                .or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0)),
            count: event.series.as_ref().map_or(1, |series| series.count),
            kind: event.type_.clone().unwrap_or_default(),
            reason: event.reason.clone().unwrap_or_default(),
            note: event.note.clone().unwrap_or_default(),
        })
        .collect();
    lines.sort_by_key(|line| line.last);
    lines.split_off(lines.len().saturating_sub(MOST_EVENTS))
}

/// What others wrote can't move the cursor of whoever reads it.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// Column of the values.
const WIDTH: usize = 9;
/// Where lines are broken.
const LINE: usize = 100;

fn wrapped(text: &str) -> String {
    let (mut lines, mut column) = (String::new(), WIDTH);
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if column > WIDTH && column + 1 + length > LINE {
            let _ = write!(lines, "\n{:WIDTH$}", "");
            column = WIDTH;
        } else if column > WIDTH {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    pub(super) const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    pub(super) fn certificate(status: &Value) -> Certificate {
        serde_json::from_value(json!({
            "apiVersion": "waxwing.dev/v1", "kind": "Certificate",
            "metadata": {"name": "shop", "namespace": "web"},
            "spec": {"secretName": "shop-tls", "dnsNames": ["shop.example.com"],
                     "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}},
            "status": status,
        }))
        .unwrap()
    }

    pub(super) fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": message,
               "lastTransitionTime": "2027-01-15T07:00:00Z"})
    }

    fn page(certificate: &Certificate, issuer: Found<Vec<Condition>>, secret: Found<ObjectMeta>) -> Page {
        Page::of(&Facts { certificate, issuer, secret, events: &[], now: NOW })
    }

    #[test]
    fn a_failing_one_says_why_and_what_to_do() {
        let failing = certificate(&json!({
            "conditions": [
                condition("Ready", "False", "DoesNotExist", "No certificate is stored yet."),
                condition("Issuing", "False", "BackingOff", "Port 80 refused. Point the A or AAAA record of \
                    shop.example.com to this edge. (asking ClusterIssuer letsencrypt: connection: Connection refused)."),
            ],
            "failedIssuanceAttempts": 2,
            "nextAttemptTime": "2027-01-15T08:04:10Z",
            "acme": {"orderURL": "https://ca.example/order/1/2"},
        }));
        let ready: Condition =
            serde_json::from_value(condition("Ready", "True", "AccountRegistered", "")).unwrap();
        let text = page(&failing, Found::Present(vec![ready]), Found::Absent).text(false);
        assert_eq!(
            text,
            "web/shop  NOT READY  attempt 2 failed; next in 4m10s (2027-01-15T08:04:10Z)\n\
             \n\
             Cause    Port 80 refused. Point the A or AAAA record of shop.example.com to this edge.\n\
             Retry    kubectl waxwing renew shop -n web\n\
             \n\
             Answer   ClusterIssuer letsencrypt: connection: Connection refused\n\
             Pair     No certificate is stored yet.\n\
             Issuer   ClusterIssuer/letsencrypt: Ready\n\
             Secret   shop-tls: absent\n\
             Order    https://ca.example/order/1/2\n"
        );
    }

    #[test]
    fn a_ready_one_says_until_when_and_leaves_out_what_is_not_known() {
        let ready = certificate(&json!({
            "conditions": [
                condition("Ready", "True", "Issued", "The Secret holds a certificate for shop.example.com."),
                condition("Issuing", "False", "Issued", "The certificate was issued and stored."),
            ],
            "notAfter": "2027-04-15T08:00:00Z", "renewalTime": "2027-03-16T08:00:00Z", "serialNumber": "03ab",
        }));
        let page = page(&ready, Found::Unknown, Found::Unknown);
        assert_eq!(
            page.text(false),
            "web/shop  READY  renews in 60d (2027-03-16T08:00:00Z)\n\
             \n\
             Pair     The Secret holds a certificate for shop.example.com.\n\
             Serial   03ab\n\
             Expires  in 90d (2027-04-15T08:00:00Z)\n\
             Renews   in 60d (2027-03-16T08:00:00Z)\n\
             Issuer   ClusterIssuer/letsencrypt\n\
             Secret   shop-tls\n"
        );
        let json = serde_json::to_value(&page).unwrap();
        assert_eq!(json["ready"], true);
        assert_eq!(json["renews"], "2027-03-16T08:00:00Z");
        assert_eq!(json.get("cause"), None);
        assert!(page.text(true).contains("\x1b[1;32mREADY\x1b[0m"));
    }

    #[test]
    fn one_that_has_expired_is_not_ready_whatever_its_condition_says() {
        let dead = certificate(&json!({
            "conditions": [condition("Ready", "True", "Issued", ""), condition("Issuing", "False", "Issued", "")],
            "notAfter": "2027-01-13T09:00:00Z", "renewalTime": "2027-01-07T09:00:00Z",
        }));
        let page = page(&dead, Found::Unknown, Found::Unknown);
        let text = page.text(false);
        assert!(text.starts_with("web/shop  EXPIRED  expired 1d23h ago (2027-01-13T09:00:00Z)"), "{text}");
        assert!(text.contains("\nExpired  1d23h ago (2027-01-13T09:00:00Z)\n"), "{text}");
        assert!(text.contains("\nRenews   due for 7d23h (2027-01-07T09:00:00Z)\n"), "{text}");
        assert!(page.text(true).contains("\x1b[1;31mEXPIRED\x1b[0m"));
        assert_eq!(serde_json::to_value(&page).unwrap()["ready"], false);
    }

    #[test]
    fn another_try_is_offered_only_where_one_has_failed() {
        for (why, offered) in
            [("BackingOff", true), ("Failed", true), ("RateLimited", false), ("IssuerNotReady", false)]
        {
            let status = json!({"conditions": [condition("Issuing", "False", why, "So it is.")]});
            let page = page(&certificate(&status), Found::Unknown, Found::Unknown);
            assert_eq!(page.retry.is_some(), offered, "{why}");
            assert_eq!(page.cause.as_deref(), Some("So it is."));
        }
    }

    #[test]
    fn what_was_answered_ends_the_message_whatever_is_in_it() {
        let both = |cause: &str, answer: &str| (Some(cause.to_owned()), Some(answer.to_owned()));
        assert_eq!(
            parts(
                "The CA is in trouble. Wait. ClusterIssuer a was passed over: no connection (time-out). \
                 (asking ClusterIssuer b: too many (50) already issued (see https://ca.example/limits))."
            ),
            both(
                "The CA is in trouble. Wait. ClusterIssuer a was passed over: no connection (time-out).",
                "ClusterIssuer b: too many (50) already issued (see https://ca.example/limits)",
            )
        );
        assert_eq!(
            parts("Wait. (asking Issuer web/b: too many (50) alrea…"),
            both("Wait.", "Issuer web/b: too many (50) alrea…"),
            "a long one"
        );
        let plain = "An Ingress (of web) has it.";
        assert_eq!(parts(plain), (Some(plain.to_owned()), None));
    }

    #[test]
    fn whose_secret_it_is_and_how_the_issuer_is() {
        let plain = certificate(&Value::Null);
        let owned = |owner: &str| ObjectMeta {
            annotations: Some([(labels::CERTIFICATE_NAME.to_owned(), owner.to_owned())].into()),
            ..ObjectMeta::default()
        };
        assert_eq!(
            page(&plain, Found::Absent, Found::Present(owned("shop"))).secret,
            "shop-tls: of this Certificate"
        );
        assert_eq!(
            page(&plain, Found::Absent, Found::Present(owned("other"))).secret,
            "shop-tls: of the Certificate other"
        );
        let page = page(&plain, Found::Absent, Found::Present(ObjectMeta::default()));
        assert_eq!(page.secret, "shop-tls: not Waxwing's");
        assert_eq!(page.issuer, "ClusterIssuer/letsencrypt: doesn't exist");
    }

    #[test]
    fn the_newest_events_are_last_and_control_characters_are_gone() {
        let event = |minute: u8, note: &str| -> Event {
            serde_json::from_value(json!({
                "eventTime": format!("2027-01-15T07:{minute:02}:00.000000Z"),
                "reason": "BackingOff", "note": note, "type": "Warning",
                "metadata": {}, "series": {"count": 3, "lastObservedTime": format!("2027-01-15T07:{minute:02}:30.000000Z")},
            }))
            .unwrap()
        };
        let all: Vec<Event> =
            (0..8).rev().map(|minute| event(minute, &format!("note \x1b[2J{minute}"))).collect();
        let certificate = certificate(&Value::Null);
        let facts = Facts {
            certificate: &certificate,
            issuer: Found::Unknown,
            secret: Found::Unknown,
            events: &all,
            now: NOW,
        };
        let text = Page::of(&facts).text(false);
        assert!(!text.contains('\x1b'), "{text}");
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("Event")).collect();
        assert_eq!(lines.len(), MOST_EVENTS);
        assert_eq!(lines.last(), Some(&"Event    52m30s ago BackingOff (3 times): note [2J7"));
    }

    #[test]
    fn long_values_are_wrapped_below_each_other() {
        let text = wrapped(&"word ".repeat(40));
        assert!(text.lines().all(|line| line.chars().count() <= LINE));
        assert!(text.lines().skip(1).all(|line| line.starts_with(&" ".repeat(WIDTH))));
    }
}
