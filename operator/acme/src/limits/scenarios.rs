//! The ledger as its users see it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::{Applicant, Ledger, Limits, Past, Purpose, Rate, Refused, Scope, Settled, Spent, Standing, Wait};
use crate::retry::after;

const START: Timestamp = Timestamp::constant(1_800_000_000, 0);
const HOUR: u64 = 3600;

fn at(seconds: u64) -> Timestamp {
    after(START, Duration::from_secs(seconds))
}

fn rate(scope: Scope, count: u32, seconds: u64) -> Rate {
    Rate::new(scope, count, Duration::from_secs(seconds)).unwrap()
}

fn limits(rates: &[Rate]) -> Limits {
    Limits::of("ca.example", rates)
}

fn applicant(id: &str, namespace: &str, names: &[&str]) -> Applicant {
    Applicant {
        id: id.into(),
        namespace: namespace.into(),
        ca: "ca.example".into(),
        account: "https://ca.example/account/1".into(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        purpose: Purpose::FirstIssue,
        standing: Standing { urgent: false, failing: false, since: START },
    }
}

fn urgent(id: &str, names: &[&str]) -> Applicant {
    let standing = Standing { urgent: true, failing: false, since: at(9) };
    Applicant { purpose: Purpose::Renewal, standing, ..applicant(id, "late", names) }
}

fn until(result: Result<(), Wait>) -> Timestamp {
    result.unwrap_err().until
}

#[test]
fn what_is_short_is_said_with_the_time() {
    let limits = limits(&[rate(Scope::RegisteredDomain, 2, 100), rate(Scope::Account, 100, 10)]);
    let mut ledger = Ledger::default();
    for name in ["a.example.com", "*.b.example.com"] {
        assert_eq!(ledger.admit(&limits, &applicant(name, "web", &[name]), START), Ok(()));
    }
    let wait = ledger.admit(&limits, &applicant("c", "web", &["c.example.com"]), at(1)).unwrap_err();
    assert_eq!((wait.until, wait.ahead), (at(50), 0));
    assert_eq!(
        wait.to_string(),
        "the limit of 2 certificates in 100 seconds for the registered domain example.com is used up"
    );
    assert_eq!(ledger.waiting()[&Scope::RegisteredDomain], 1);
    let other = applicant("d", "web", &["d.example.org"]);
    assert_eq!(ledger.admit(&limits, &other, at(1)), Ok(()), "another domain isn't concerned");
    assert_eq!(ledger.admit(&limits, &applicant("c", "web", &["c.example.com"]), at(50)), Ok(()));
    assert_eq!(ledger.waiting()[&Scope::RegisteredDomain], 0);
}

#[test]
fn another_account_shares_the_domain_and_not_the_orders() {
    let limits = limits(&[rate(Scope::RegisteredDomain, 1, 100), rate(Scope::Account, 1, 1000)]);
    let mut ledger = Ledger::default();
    ledger.admit(&limits, &applicant("a", "web", &["a.example.com"]), START).unwrap();
    let other = Applicant { account: "2".into(), ..applicant("b", "web", &["b.example.com"]) };
    assert_eq!(until(ledger.admit(&limits, &other, START)), at(100));
    let elsewhere = Applicant { ca: "other.example".into(), ..other };
    assert_eq!(ledger.admit(&limits, &elsewhere, START), Ok(()));
}

#[test]
fn a_renewal_that_is_near_goes_before_a_first_issue_that_waits_longer() {
    let limits = limits(&[rate(Scope::Account, 1, 100)]);
    let mut ledger = Ledger::default();
    ledger.admit(&limits, &applicant("a", "web", &["a.example"]), START).unwrap();
    let first = applicant("b", "web", &["b.example"]);
    assert_eq!(until(ledger.admit(&limits, &first, at(1))), at(100));
    let near = urgent("c", &["c.example"]);
    assert_eq!(until(ledger.admit(&limits, &near, at(2))), at(100));
    // Its turn would have come, but another one needs it more.
    let wait = ledger.admit(&limits, &first, at(100)).unwrap_err();
    assert_eq!((wait.until, wait.ahead), (at(200), 1));
    assert_eq!(ledger.admit(&limits, &near, at(100)), Ok(()));
    assert_eq!(ledger.admit(&limits, &first, at(200)), Ok(()));
}

#[test]
fn who_doesnt_come_when_called_is_forgotten() {
    let limits = limits(&[rate(Scope::Account, 1, 100)]);
    let mut ledger = Ledger::default();
    ledger.admit(&limits, &applicant("a", "web", &["a.example"]), START).unwrap();
    ledger.admit(&limits, &urgent("c", &["c.example"]), START).unwrap_err();
    let first = applicant("b", "web", &["b.example"]);
    assert_eq!(until(ledger.admit(&limits, &first, at(159))), at(259));
    assert_eq!(ledger.admit(&limits, &first, at(161)), Ok(()));
    assert_eq!(ledger.forget("a", at(161)).len(), 0);
}

#[test]
fn who_fails_comes_after_who_doesnt() {
    let limits = limits(&[rate(Scope::Account, 1, 100)]);
    let mut ledger = Ledger::default();
    ledger.admit(&limits, &applicant("a", "web", &["a.example"]), START).unwrap();
    let mut failing = applicant("bad", "web", &["bad.example"]);
    failing.standing.failing = true;
    assert_eq!(until(ledger.admit(&limits, &failing, at(1))), at(100));
    assert_eq!(until(ledger.admit(&limits, &applicant("good", "web", &["b.example"]), at(50))), at(100));
    assert_eq!(until(ledger.admit(&limits, &failing, at(100))), at(200));
}

#[test]
fn an_order_takes_its_tokens_once_and_gives_back_what_it_didnt_use() {
    let limits = limits(&[
        rate(Scope::Account, 3, 3000),
        rate(Scope::RegisteredDomain, 1, 1000),
        rate(Scope::FailedValidations, 1, HOUR),
    ]);
    let mut ledger = Ledger::default();
    let a = applicant("a", "web", &["a.example.com"]);
    let b = applicant("b", "web", &["b.example.com"]);
    for _ in 0..3 {
        assert_eq!(ledger.admit(&limits, &a, START), Ok(()), "it goes on with the same order");
    }
    assert_eq!(until(ledger.admit(&limits, &b, START)), at(1000));

    // Its validation fails: no certificate of the domain, but an order of the account, and a failure.
    let settled = ledger.settle("a", &Settled::Failed(vec!["a.example.com".into()]), at(10));
    assert_eq!(settled.freed.into_iter().collect::<Vec<_>>(), ["b"]);
    let scopes = [Scope::Account, Scope::FailedValidations].into();
    assert_eq!(settled.spent, Some(Spent { at: at(10), scopes }));
    assert_eq!(ledger.admit(&limits, &b, at(10)), Ok(()));
    assert_eq!(ledger.settle("b", &Settled::Refused, at(11)).spent, None);
    let wait = ledger.admit(&limits, &a, at(12)).unwrap_err();
    assert_eq!((wait.until, wait.scope), (at(10 + HOUR), Scope::FailedValidations));
    assert_eq!(wait.to_string(), "the limit of 1 failed validation in an hour of a.example.com is used up");

    assert_eq!(ledger.admit(&limits, &b, at(12)), Ok(()));
    let issued = ledger.settle("b", &Settled::Issued, at(20)).spent.unwrap();
    assert_eq!(issued, Spent { at: at(12), scopes: [Scope::Account, Scope::RegisteredDomain].into() });
    assert_eq!(ledger.settle("b", &Settled::Issued, at(20)).spent, None, "it is settled");
}

#[test]
fn renewals_count_as_lets_encrypt_says() {
    let limits = Limits::of("acme-v02.api.letsencrypt.org", &[]);
    let mut ledger = Ledger::default();
    let renewal = |number: u32, purpose| Applicant {
        purpose,
        ..applicant(&number.to_string(), "web", &["www.example.com"])
    };
    for number in 0..1000 {
        assert_eq!(ledger.admit(&limits, &renewal(number, Purpose::RenewalByAri), START), Ok(()));
    }
    for number in 1000..1005 {
        assert_eq!(ledger.admit(&limits, &renewal(number, Purpose::Renewal), START), Ok(()));
    }
    let wait = ledger.admit(&limits, &renewal(1005, Purpose::Renewal), START).unwrap_err();
    assert_eq!(wait.scope, Scope::IdenticalNames);
    // Fifty first ones of the domain still go: no renewal counted against it.
    for number in 0..50 {
        let name = format!("{number}.example.com");
        assert_eq!(ledger.admit(&limits, &applicant(&name, "web", &[&name]), START), Ok(()));
    }
    let wait = ledger.admit(&limits, &applicant("x", "web", &["x.example.com"]), START).unwrap_err();
    assert_eq!((wait.scope, wait.until), (Scope::RegisteredDomain, at(7 * 24 * HOUR / 50)));
}

#[test]
fn a_refusal_of_the_ca_keeps_others_from_asking() {
    let known = limits(&[rate(Scope::RegisteredDomain, 50, 5000)]);
    let mut ledger = Ledger::default();
    let a = applicant("a", "web", &["a.example.com"]);
    ledger.admit(&known, &a, START).unwrap();
    ledger.settle("a", &Settled::Refused, START);
    let refused = Refused { scope: Some(Scope::RegisteredDomain), subject: Some("example.com".into()) };
    ledger.refused(&known, &a, &refused, at(500));
    // Somebody else used the domain. The first to wait asks then, the next when there is another token.
    let wait = ledger.admit(&known, &applicant("b", "web", &["b.example.com"]), at(1)).unwrap_err();
    assert_eq!((wait.until, wait.rate), (at(500), Some(known.rates[0])));
    assert_eq!(until(ledger.admit(&known, &applicant("c", "web", &["c.example.com"]), at(1))), at(600));
    assert_eq!(ledger.admit(&known, &applicant("d", "web", &["d.example.org"]), at(1)), Ok(()));

    // Where no rate is known, and not even which limit it is: nobody of the account asks, then one a second.
    let unknown = limits(&[]);
    ledger.refused(&unknown, &a, &Refused { scope: None, subject: None }, at(500));
    let wait = ledger.admit(&unknown, &applicant("e", "web", &["e.example.net"]), at(1)).unwrap_err();
    assert_eq!((wait.until, wait.rate), (at(500), None));
    assert_eq!(wait.to_string(), "the CA refuses new orders of this account for now");
    assert_eq!(until(ledger.admit(&unknown, &applicant("f", "web", &["f.example.net"]), at(1))), at(501));
    assert_eq!(ledger.admit(&unknown, &applicant("f", "web", &["f.example.net"]), at(501)), Ok(()));
}

#[test]
fn those_who_wait_are_expected_after_a_restart() {
    let limits = limits(&[rate(Scope::Account, 1, 100)]);
    let mut ledger = Ledger::default();
    ledger.expect(&limits, &urgent("c", &["c.example"]), START);
    let first = applicant("b", "web", &["b.example"]);
    assert_eq!(until(ledger.admit(&limits, &first, START)), at(100), "the one token is another's");
    assert_eq!(ledger.admit(&limits, &urgent("c", &["c.example"]), START), Ok(()));
}

#[test]
fn namespaces_share_what_there_is() {
    let limits = limits(&[rate(Scope::Account, 10, 1000)]);
    let mut ledger = Ledger::default();
    // One namespace takes all, and has many more.
    for number in 0..60 {
        let _ = ledger.admit(&limits, &applicant(&format!("a{number:02}"), "a", &["a.example"]), START);
    }
    let wait = ledger.admit(&limits, &applicant("b", "b", &["b.example"]), at(1)).unwrap_err();
    assert_eq!((wait.until, wait.ahead), (at(100), 0), "it has used nothing, so it is next");
}

#[test]
fn a_thousand_who_wait_are_a_thousand_turns() {
    let limits = limits(&[rate(Scope::Account, 1, 10)]);
    let mut ledger = Ledger::default();
    ledger.admit(&limits, &applicant("first", "web", &["a.example"]), START).unwrap();
    let mut untils: Vec<_> = (0..1000)
        .map(|number| applicant(&format!("{number:04}"), "web", &["b.example"]))
        .map(|one| until(ledger.admit(&limits, &one, START)))
        .collect();
    assert_eq!(untils.last(), Some(&at(10_000)));
    untils.dedup();
    assert_eq!(untils.len(), 1000);
}

/// After how many seconds, which of a few names, and what becomes of it.
fn attempts() -> impl Strategy<Value = Vec<(u64, u8, u8)>> {
    prop::collection::vec((0_u64..200, 0_u8..6, 0_u8..4), 1..80)
}

fn rates() -> impl Strategy<Value = Vec<Rate>> {
    let one = (0_usize..4, 1_u32..6, 10_u64..2000)
        .prop_map(|(scope, count, seconds)| rate(Scope::ALL[scope], count, seconds));
    prop::collection::vec(one, 1..5)
}

proptest! {
    /// What is kept of each order is enough: a ledger made from it lets nobody go sooner than the one that was lost.
    #[test]
    fn a_rebuilt_ledger_admits_no_more(rates in rates(), attempts in attempts()) {
        let limits = limits(&rates);
        let (mut ledger, mut past, mut clock) = (Ledger::default(), Vec::new(), 0);
        let one = |name: u8| applicant(&name.to_string(), "web", &[&format!("{name}.example.com")]);
        for (pause, name, outcome) in attempts {
            clock += pause;
            let by = one(name);
            if ledger.admit(&limits, &by, at(clock)).is_err() {
                continue;
            }
            let settled = match outcome {
                0 => Settled::Refused,
                1 => Settled::Failed(vec![format!("{name}.example.com")]),
                _ => Settled::Issued,
            };
            past.extend(ledger.settle(&by.id, &settled, at(clock)).spent.map(|spent| Past { by, spent }));
        }
        let mut rebuilt = Ledger::default();
        rebuilt.replay(&limits, past.into_iter().rev().collect());
        for name in 0..7 {
            // Alone: those who wait have no part in it.
            let when = |ledger: &Ledger| {
                let mut ledger = ledger.clone();
                for other in 0..7 {
                    ledger.forget(&other.to_string(), at(clock));
                }
                ledger.admit(&limits, &one(name), at(clock)).err().map_or(at(clock), |wait| wait.until)
            };
            prop_assert!(when(&rebuilt) >= when(&ledger), "{name}: {:?} {:?}", when(&rebuilt), when(&ledger));
        }
    }

    /// Whoever comes when called is let go in the end, whoever else there is.
    #[test]
    fn everybody_gets_a_turn(rates in rates(), who in prop::collection::vec((0_u8..4, any::<bool>(), any::<bool>()), 1..20)) {
        let limits = limits(&rates);
        let mut ledger = Ledger::default();
        let mut waiting: Vec<(Applicant, u64)> = who
            .into_iter()
            .enumerate()
            .map(|(number, (namespace, urgent, failing))| {
                let mut one = applicant(&number.to_string(), &namespace.to_string(), &["a.example.com"]);
                one.standing = Standing { urgent, failing, since: START };
                (one, 0)
            })
            .collect();
        let mut looks = 0;
        while let Some(next) = waiting.iter().map(|(_, when)| *when).min() {
            for (one, when) in waiting.iter_mut().filter(|(_, when)| *when == next) {
                looks += 1;
                match ledger.admit(&limits, one, at(next)) {
                    Ok(()) => {
                        ledger.settle(&one.id, &Settled::Issued, at(next));
                        *when = u64::MAX;
                    }
                    Err(wait) => {
                        let pause = wait.until.duration_since(START).as_nanos();
                        prop_assert!(pause > i128::from(next) * 1_000_000_000);
                        *when = u64::try_from((pause + 999_999_999) / 1_000_000_000).unwrap();
                    }
                }
            }
            waiting.retain(|(_, when)| *when != u64::MAX);
            prop_assert!(looks < 2000, "somebody waits for ever");
        }
    }
}
