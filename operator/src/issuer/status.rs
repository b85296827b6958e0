//! An issuer's status from what came of the last attempt. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use waxwing_acme::Account;
use waxwing_api::{IssuerAcmeStatus, IssuerStatus, reason};

use super::account::Problem;

/// The status to write, which is `old` if nothing has changed.
pub(super) fn status(
    old: Option<&IssuerStatus>,
    outcome: Result<(&Account, Option<&str>), &Problem>,
    generation: Option<i64>,
    now: Timestamp,
) -> IssuerStatus {
    let old_ready = ready(old);
    let (holds, reason, message) = match outcome {
        Ok(_) => ("True", reason::ACCOUNT_REGISTERED, "the ACME account is registered".to_owned()),
        Err(problem) => ("False", problem.reason, problem.message.clone()),
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
        Err(_) => known(old, generation).cloned(),
    };
    IssuerStatus { conditions: vec![condition], acme }
}

/// The account in the status, if it was written for this very spec: another one may name another CA.
pub(super) fn known(status: Option<&IssuerStatus>, generation: Option<i64>) -> Option<&IssuerAcmeStatus> {
    let current = ready(status).is_some_and(|condition| condition.observed_generation == generation);
    status.filter(|_| current && generation.is_some())?.acme.as_ref()
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

    #[test]
    fn nothing_changes_when_nothing_happened() {
        let problem = Problem::new(reason::KEY_MISSING, "create it");
        let first = status(None, Err(&problem), Some(1), at(10));
        assert_eq!(status(Some(&first), Err(&problem), Some(1), at(99)), first);
        assert_eq!(news(Some(&first), &first), None);
        let other = Problem::new(reason::INVALID_KEY, "use another");
        let second = status(Some(&first), Err(&other), Some(2), at(99));
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
            IssuerStatus { acme: Some(acme), ..status(None, Err(&problem), Some(1), at(10)) }
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
        let mut registered = status(None, Err(&problem), Some(1), at(10));
        registered.acme =
            Some(IssuerAcmeStatus { uri: Some("https://ca/1".to_owned()), ..IssuerAcmeStatus::default() });
        assert!(known(Some(&registered), Some(1)).is_some());
        assert!(known(Some(&registered), Some(2)).is_none());
        assert!(known(Some(&registered), None).is_none());
        assert_eq!(status(Some(&registered), Err(&problem), Some(1), at(20)).acme, registered.acme);
        assert_eq!(status(Some(&registered), Err(&problem), Some(2), at(20)).acme, None);
    }
}
