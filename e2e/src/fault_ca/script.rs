//! What a test lets the CA play: for a kind of request, an account, a name; so many times, or until told otherwise.

use std::time::Duration;

use super::{
    behaviour::{Suggestion, Validation},
    problem::Problem,
    request::{Kind, number},
};

/// Something that the CA does instead of what it should, or in a way that it may.
#[derive(Clone, Debug)]
pub enum Play {
    /// The connection ends before the request is acted on.
    CutBefore,
    /// The request is acted on, and the connection ends without an answer.
    CutAfter,
    /// Nothing is done, and no answer comes.
    Hang,
    /// The request is acted on, and no answer comes.
    ActAndHang,
    /// The request is acted on at once, and answered this much later.
    Slow(Duration),
    /// Nothing is done; the answer is an HTML page with this status.
    Html(u16),
    /// Nothing is done; the answer is this problem.
    Refuse(Problem),
    /// Finalize: the order stays in `processing` for so many polls; `None`: until
    /// [`release_orders`](super::FaultCa::release_orders).
    Processing(Option<u32>),
    /// Challenge: how it is validated.
    Validate(Validation),
    /// Renewal information: what it says.
    Suggest(Suggestion),
}

/// When something is played. The first rule that fits a request is played, and no other.
#[derive(Clone, Debug)]
pub struct Rule {
    kind: Kind,
    account: Option<usize>,
    name: Option<String>,
    after: u32,
    times: Option<u32>,
    play: Play,
}

/// A rule that is played, to stop it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RuleId(u64);

/// The rules, in the order in which they were given.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Vec<(RuleId, Rule)>,
    given: u64,
}

impl Rule {
    /// `play` for every request of this kind.
    pub fn new(kind: Kind, play: Play) -> Self {
        Self { kind, account: None, name: None, after: 0, times: None, play }
    }

    /// For the next so many requests that it fits, and then no more.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Lets so many requests pass before.
    #[must_use]
    pub fn after(self, requests: u32) -> Self {
        Self { after: requests, ..self }
    }

    /// For requests about this DNS name alone.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// For requests of this account alone, by its URL. Renewal information is asked for without an account: it counts
    /// as asked for by the account that the certificate was issued to.
    #[must_use]
    pub fn account(self, url: &str) -> Self {
        // One that isn't an account's fits no request.
        Self { account: Some(number(url).unwrap_or(usize::MAX)), ..self }
    }

    fn fits(&self, kind: Kind, account: Option<usize>, names: &[String]) -> bool {
        self.kind == kind
            && self.account.is_none_or(|wanted| account == Some(wanted))
            && self.name.as_ref().is_none_or(|wanted| names.contains(wanted))
    }
}

impl Script {
    pub(super) fn add(&mut self, rule: Rule) -> RuleId {
        self.given += 1;
        let id = RuleId(self.given);
        self.rules.push((id, rule));
        id
    }

    pub(super) fn stop(&mut self, id: RuleId) {
        self.rules.retain(|(other, _)| *other != id);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What is played for a request. It counts as one of the rule's times.
    pub(super) fn next(&mut self, kind: Kind, account: Option<usize>, names: &[String]) -> Option<Play> {
        let index = self.rules.iter().position(|(_, rule)| rule.fits(kind, account, names))?;
        let (_, rule) = self.rules.get_mut(index)?;
        if rule.after > 0 {
            rule.after -= 1;
            return None;
        }
        let play = rule.play.clone();
        if let Some(left) = &mut rule.times {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.rules.remove(index);
            }
        }
        Some(play)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(script: &mut Script, kind: Kind, account: usize, name: &str) -> Option<u16> {
        match script.next(kind, Some(account), &[name.to_owned()]) {
            Some(Play::Html(status)) => Some(status),
            _ => None,
        }
    }

    #[test]
    fn the_first_rule_that_fits_is_played_so_often() {
        let mut script = Script::default();
        script.add(Rule::new(Kind::NewOrder, Play::Html(1)).name("a.test").times(2));
        script.add(Rule::new(Kind::NewOrder, Play::Html(2)).account("https://ca.test/account/7"));
        let last = script.add(Rule::new(Kind::Finalize, Play::Html(3)).after(1));
        let mut at = |kind, account, name| html(&mut script, kind, account, name);
        assert_eq!(at(Kind::NewOrder, 1, "a.test"), Some(1));
        assert_eq!(at(Kind::NewOrder, 1, "b.test"), None);
        assert_eq!(at(Kind::NewOrder, 7, "a.test"), Some(1));
        assert_eq!(at(Kind::NewOrder, 7, "a.test"), Some(2), "its times are over");
        assert_eq!(at(Kind::Finalize, 1, "a.test"), None, "one passes");
        assert_eq!(at(Kind::Finalize, 1, "a.test"), Some(3));
        script.stop(last);
        assert_eq!(html(&mut script, Kind::Finalize, 1, "a.test"), None);
    }
}
