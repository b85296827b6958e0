//! An issuer's status from what came of the last attempt. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use waxwing_acme::{Account, retry::is_to_be_waited_for};
use waxwing_api::{IssuerAcmeStatus, IssuerStatus, reason};

use super::account::Problem;

/// An attempt that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure<'a> {
    pub(super) problem: &'a Problem,
    /// How many have failed in a row.
    pub(super) attempts: u32,
    /// When the next begins.
    pub(super) next: Timestamp,
    /// The CA doesn't know the account that the status names.
    pub(super) account_lost: bool,
}

/// The status to write, which is `old` if nothing has changed.
pub(super) fn status(
    old: Option<&IssuerStatus>,
    outcome: Result<(&Account, Option<&str>), Failure<'_>>,
    generation: Option<i64>,
    now: Timestamp,
) -> IssuerStatus {
    let old_ready = ready(old);
    let (holds, reason, message) = match outcome {
        Ok(_) => ("True", reason::ACCOUNT_REGISTERED, "the ACME account is registered".to_owned()),
        Err(Failure { problem, .. }) => ("False", &*problem.reason, problem.message.clone()),
    };
    // The time of the last change between True and False, as the API conventions have it.
    let since = old_ready
        .filter(|condition| condition.status == holds)
        .map_or(Time(now), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        last_transition_time: since,
        message,
        observed_generation: generation,
        reason: reason.to_owned(),
        status: holds.to_owned(),
        type_: reason::READY.to_owned(),
    };
    let acme = match outcome {
        Ok((account, email)) => Some(IssuerAcmeStatus {
            uri: Some(account.url().to_owned()),
            last_registered_email: email.map(str::to_owned),
            last_private_key_hash: Some(account.thumbprint().to_owned()),
        }),
        Err(failure) => known(old, generation).filter(|_| !failure.account_lost).cloned(),
    };
    let failure = outcome.err();
    IssuerStatus {
        conditions: vec![condition],
        acme,
        failed_attempts: failure.map(|failure| i32::try_from(failure.attempts).unwrap_or(i32::MAX)),
        next_attempt_time: failure.map(|failure| Time(failure.next)),
    }
}

/// The failed attempt in the status, if it was made at this very spec: what was wrong, how many have failed in a row,
/// and when the next begins.
pub(super) fn failure(
    status: Option<&IssuerStatus>,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<(Problem, u32, Timestamp)> {
    let condition = current(status, generation).filter(|condition| condition.status == "False")?;
    let attempts = u32::try_from(status?.failed_attempts?).ok().filter(|attempts| *attempts > 0)?;
    let next = status?.next_attempt_time.as_ref()?.0;
    let is_over = next <= now;
    (is_over || is_to_be_waited_for(next, now))
        .then(|| (Problem::new(condition.reason.clone(), condition.message.clone()), attempts, next))
}

/// The account in the status, if it was written for this very spec: another one may name another CA.
pub(super) fn known(status: Option<&IssuerStatus>, generation: Option<i64>) -> Option<&IssuerAcmeStatus> {
    current(status, generation)?;
    status?.acme.as_ref()
}

/// What an Event should tell, if the condition says something new, or the CA knows the same key by another account.
pub(super) fn news(old: Option<&IssuerStatus>, new: &IssuerStatus) -> Option<Condition> {
    let condition = ready(Some(new))?;
    let same = ready(old).is_some_and(|old| old.status == condition.status && old.reason == condition.reason);
    if !same {
        return Some(condition.clone());
    }
    let (before, now) = (known(old, condition.observed_generation)?, new.acme.as_ref()?);
    let forgotten = before.last_private_key_hash == now.last_private_key_hash && before.uri != now.uri;
    forgotten.then(|| Condition {
        message: "the CA no longer knew the ACME account; it is registered again, with the same key"
            .to_owned(),
        ..condition.clone()
    })
}

/// The condition Ready, if it was written for this very spec.
fn current(status: Option<&IssuerStatus>, generation: Option<i64>) -> Option<&Condition> {
    ready(status).filter(|condition| generation.is_some() && condition.observed_generation == generation)
}

fn ready(status: Option<&IssuerStatus>) -> Option<&Condition> {
    status?.conditions.iter().find(|condition| condition.type_ == reason::READY)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn failed(problem: &Problem) -> Failure<'_> {
        Failure { problem, attempts: 1, next: at(60), account_lost: false }
    }

    #[test]
    fn nothing_changes_when_nothing_happened() {
        let problem = Problem::new(reason::KEY_MISSING, "create it");
        let first = status(None, Err(failed(&problem)), Some(1), at(10));
        assert_eq!(status(Some(&first), Err(failed(&problem)), Some(1), at(99)), first);
        assert_eq!(news(Some(&first), &first), None);
        let other = Problem::new(reason::INVALID_KEY, "use another");
        let second = status(Some(&first), Err(failed(&other)), Some(2), at(99));
        assert_eq!(second.conditions[0].last_transition_time, Time(at(10)));
        assert_eq!(news(Some(&first), &second).unwrap().reason, reason::INVALID_KEY);
    }

    #[test]
    fn an_account_that_the_ca_forgot_is_told() {
        let account = |uri: &str, key: &str| {
            let problem = Problem::new(reason::ACCOUNT_REGISTERED, "");
            let acme = IssuerAcmeStatus {
                uri: Some(uri.to_owned()),
                last_private_key_hash: Some(key.to_owned()),
                ..IssuerAcmeStatus::default()
            };
            IssuerStatus { acme: Some(acme), ..status(None, Err(failed(&problem)), Some(1), at(10)) }
        };
        let first = account("https://ca/1", "a");
        let told = news(Some(&first), &account("https://ca/2", "a")).unwrap();
        assert!(told.message.contains("registered again"), "{}", told.message);
        assert_eq!(
            news(Some(&first), &account("https://ca/2", "b")),
            None,
            "another key is the user's doing"
        );
        assert_eq!(news(Some(&first), &first), None);
    }

    #[test]
    fn a_failure_keeps_the_account_of_the_same_spec_alone() {
        let problem = Problem::new(reason::DIRECTORY_UNREACHABLE, "the CA is down");
        let mut registered = status(None, Err(failed(&problem)), Some(1), at(10));
        registered.acme =
            Some(IssuerAcmeStatus { uri: Some("https://ca/1".to_owned()), ..IssuerAcmeStatus::default() });
        assert!(known(Some(&registered), Some(1)).is_some());
        assert!(known(Some(&registered), Some(2)).is_none());
        assert!(known(Some(&registered), None).is_none());
        assert_eq!(status(Some(&registered), Err(failed(&problem)), Some(1), at(20)).acme, registered.acme);
        assert_eq!(status(Some(&registered), Err(failed(&problem)), Some(2), at(20)).acme, None);
    }

    #[test]
    fn a_failure_is_remembered_for_this_spec_alone() {
        let problem = Problem::new(reason::ACCOUNT_REFUSED, "too many accounts");
        let refused = Failure { attempts: 3, ..failed(&problem) };
        let mut written = status(None, Err(refused), Some(1), at(10));
        let known = |status: &IssuerStatus, generation, now| failure(Some(status), generation, now);
        assert_eq!(known(&written, Some(1), at(20)), Some((problem.clone(), 3, at(60))));
        assert_eq!(known(&written, Some(1), at(70)).unwrap().2, at(60), "over, and still the third");
        assert_eq!(known(&written, Some(2), at(20)), None, "another spec may fare better");
        assert_eq!(known(&written, None, at(20)), None);
        written.next_attempt_time = Some(Time(at(60 + 30 * 86_400)));
        assert_eq!(known(&written, Some(1), at(20)), None, "no CA asks for a month");
        written.next_attempt_time = None;
        assert_eq!(known(&written, Some(1), at(20)), None);
        let edited =
            IssuerStatus { failed_attempts: Some(-1), ..status(None, Err(refused), Some(1), at(10)) };
        assert_eq!(known(&edited, Some(1), at(20)), None);
    }

    #[test]
    fn an_account_that_the_ca_lost_is_not_restored_later() {
        let problem = Problem::new(reason::ACCOUNT_REFUSED, "too many accounts");
        let mut registered = status(None, Err(failed(&problem)), Some(1), at(10));
        registered.acme =
            Some(IssuerAcmeStatus { uri: Some("https://ca/1".to_owned()), ..IssuerAcmeStatus::default() });
        let lost = Failure { account_lost: true, ..failed(&problem) };
        assert_eq!(status(Some(&registered), Err(lost), Some(1), at(20)).acme, None);
    }
}
