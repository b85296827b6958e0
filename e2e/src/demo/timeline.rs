//! What happened to Certificates, from Waxwing's log and from watches. Pure.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

/// One thing that happened to a Certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When, by the clock of this machine.
    pub at: Timestamp,
    /// `namespace/name` of the Certificate.
    pub certificate: String,
    /// What.
    pub what: What,
}

/// A step in the life of a Certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The API server has it.
    Applied,
    /// The CA made an order; key and order are in the cluster.
    OrderSaved,
    /// An order that was open goes on.
    OrderResumed,
    /// The edge gives the right answer for this host.
    SelfCheckPassed {
        /// The host.
        host: String,
    },
    /// It does not, in Waxwing's words; the CA is asked all the same.
    SelfCheckFailed {
        /// The words.
        message: String,
    },
    /// Every name is proved: the CSR is sent.
    Authorized,
    /// The pair is in its Secret.
    Stored {
        /// The Secret.
        secret: String,
    },
    /// The condition Ready is True.
    Ready {
        /// When the certificate expires.
        until: String,
    },
    /// The attempt failed.
    Failed {
        /// What most likely caused it, and what to do.
        message: String,
    },
}

/// Reads a line of Waxwing's JSON log; most of them tell nothing of a Certificate. What containerd writes in front of a
/// pod's line (the time and the stream) is passed over.
pub fn from_log(line: &str) -> Option<Moment> {
    let value: Value = serde_json::from_str(line.get(line.find('{')?..)?).ok()?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let certificate = value.pointer("/span/certificate").and_then(Value::as_str)?.to_owned();
    let at = text("timestamp").parse().ok()?;
    let message = text("message");
    let what = match message.as_str() {
        "stored" => What::Stored { secret: text("secret") },
        "finalizing the order" => What::Authorized,
        "the attempt failed" => What::Failed { message: format!("{}. {}.", text("cause"), text("fix")) },
        "no certificate may be ordered" => What::Failed { message: text("message") },
        _ if message.ends_with("created and saved") => What::OrderSaved,
        _ if message.starts_with("resuming order") => What::OrderResumed,
        _ if message.starts_with("self-check") && message.ends_with("passed") => {
            What::SelfCheckPassed { host: text("authorization") }
        }
        _ if message.starts_with("self-check") => What::SelfCheckFailed { message },
        _ => return None,
    };
    Some(Moment { at, certificate, what })
}

/// Moments in the order in which they happened, as lines with the time since the first Certificate was applied.
#[derive(Debug, Default)]
pub struct Timeline {
    waiting: Vec<Moment>,
    applied: BTreeMap<String, Timestamp>,
    routes: BTreeMap<String, Timestamp>,
}

/// A line to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The time since the first Certificate was applied.
    pub time: Duration,
    /// The Certificate's name without its namespace.
    pub name: String,
    /// What happened.
    pub text: String,
    /// What kind of news it is.
    pub news: News,
}

/// What kind of news a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// One more step.
    Step,
    /// The Certificate is Ready.
    Ready,
    /// Something is wrong.
    Bad,
}

impl Timeline {
    /// Takes a moment. What happens to a Certificate that was never seen applied is not told.
    pub fn add(&mut self, mut moment: Moment) {
        if moment.what == What::Applied {
            // The watch tells it later than it was: what followed may be known already.
            let known = self.waiting.iter().filter(|known| known.certificate == moment.certificate);
            moment.at = known.map(|known| known.at).chain([moment.at]).min().unwrap_or(moment.at);
            self.applied.entry(moment.certificate.clone()).or_insert(moment.at);
        }
        self.waiting.push(moment);
    }

    /// Notes that a route for `host` was made.
    pub fn route(&mut self, host: &str, at: Timestamp) {
        self.routes.entry(host.to_owned()).or_insert(at);
    }

    /// The lines of what happened before `until`. Sources differ in speed: a few milliseconds of patience keep
    /// the lines in order.
    pub fn take(&mut self, until: Timestamp) -> Vec<Line> {
        let waiting = std::mem::take(&mut self.waiting);
        let (mut due, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|moment| moment.at <= until);
        self.waiting = rest;
        due.sort_by_key(|moment| (moment.at, moment.what != What::Applied));
        due.iter().filter_map(|moment| self.line(moment)).collect()
    }

    fn line(&self, moment: &Moment) -> Option<Line> {
        let applied = *self.applied.get(&moment.certificate)?;
        let first = *self.applied.values().min()?;
        let (namespace, name) = moment.certificate.split_once('/')?;
        let text = match &moment.what {
            What::Applied => "applied".to_owned(),
            What::OrderSaved => "order created and saved".to_owned(),
            What::OrderResumed => "order resumed".to_owned(),
            What::SelfCheckPassed { host } => {
                // A route from before is no news.
                let route = self.routes.get(host).filter(|route| **route >= applied);
                let took = route.map(|route| between(*route, moment.at).as_secs_f64());
                took.map_or_else(
                    || "self-check passed".to_owned(),
                    |took| format!("self-check passed (Traefik took {took:.1} s to learn the route)"),
                )
            }
            What::SelfCheckFailed { message } | What::Failed { message } => message.clone(),
            What::Authorized => "authorization valid".to_owned(),
            What::Stored { secret } => format!("stored in {namespace}/{secret}"),
            What::Ready { until } => {
                format!("Ready after {:.2} s, until {until}", between(applied, moment.at).as_secs_f64())
            }
        };
        let news = match moment.what {
            What::Failed { .. } | What::SelfCheckFailed { .. } => News::Bad,
            What::Ready { .. } => News::Ready,
            _ => News::Step,
        };
        Some(Line { time: between(first, moment.at), name: name.to_owned(), text, news })
    }
}

/// The time from one to the other; none where the sources' clocks disagree.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + milliseconds).unwrap()
    }

    fn moment(milliseconds: i64, what: What) -> Moment {
        Moment { at: at(milliseconds), certificate: "web/shop".to_owned(), what }
    }

    #[test]
    fn the_log_tells_the_steps() {
        let line = |message: &str, rest: &str| {
            format!(
                r#"{{"timestamp":"2027-01-15T08:00:00.5Z","level":"INFO","message":"{message}"{rest},"target":"waxwing","span":{{"certificate":"web/shop","name":"issue"}}}}"#
            )
        };
        let what = |message: &str, rest: &str| from_log(&line(message, rest)).map(|moment| moment.what);
        assert_eq!(
            from_log(&line("order https://ca/1 created and saved", r#","order":"https://ca/1""#)),
            Some(moment(500, What::OrderSaved))
        );
        assert_eq!(
            what("self-check of a.example passed", r#","authorization":"a.example""#),
            Some(What::SelfCheckPassed { host: "a.example".to_owned() })
        );
        assert!(matches!(
            what("self-check of a.example did not pass (404); asking", ""),
            Some(What::SelfCheckFailed { .. })
        ));
        assert_eq!(what("stored", r#","secret":"s""#), Some(What::Stored { secret: "s".to_owned() }));
        assert_eq!(what("something else", ""), None);
        let of_a_pod = format!("2027-01-15T08:00:00.5Z stderr F {}", line("resuming order 1", ""));
        assert_eq!(from_log(&of_a_pod), Some(moment(500, What::OrderResumed)));
        assert_eq!(from_log("not JSON"), None);
        assert_eq!(from_log(r#"{"timestamp":"2027-01-15T08:00:00Z","message":"stored"}"#), None);
    }

    #[test]
    fn lines_come_in_the_order_of_time_and_count_from_the_application() {
        let mut timeline = Timeline::default();
        timeline.add(moment(30, What::OrderSaved));
        timeline.route("shop.example.com", at(10));
        timeline.add(moment(0, What::Applied));
        timeline.add(moment(1010, What::SelfCheckPassed { host: "shop.example.com".to_owned() }));
        let lines = timeline.take(at(500));
        let shown: Vec<_> = lines.iter().map(|line| (line.time.as_millis(), line.text.as_str())).collect();
        assert_eq!(shown, [(0, "applied"), (30, "order created and saved")]);
        timeline.add(moment(1100, What::Ready { until: "2027-04-15".to_owned() }));
        let rest = timeline.take(at(2000));
        assert_eq!(rest[0].text, "self-check passed (Traefik took 1.0 s to learn the route)");
        assert_eq!(
            (rest[1].news, rest[1].text.as_str()),
            (News::Ready, "Ready after 1.10 s, until 2027-04-15")
        );
        assert_eq!(timeline.take(at(9000)), []);
    }

    #[test]
    fn a_certificate_is_applied_before_its_first_step() {
        let mut timeline = Timeline::default();
        timeline.add(moment(10, What::OrderSaved));
        timeline.add(moment(15, What::Applied));
        let texts: Vec<_> = timeline.take(at(100)).into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["applied", "order created and saved"]);
    }

    #[test]
    fn a_route_from_before_is_not_traefiks_delay() {
        let mut timeline = Timeline::default();
        timeline.route("shop.example.com", at(-5000));
        timeline.add(moment(0, What::Applied));
        timeline.add(moment(50, What::SelfCheckPassed { host: "shop.example.com".to_owned() }));
        assert_eq!(timeline.take(at(100))[1].text, "self-check passed");
    }
}
