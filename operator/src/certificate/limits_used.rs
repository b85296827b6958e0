//! What attempts have used of a CA's limits, as a Certificate's status keeps it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use waxwing_acme::limits::{Refused, Scope, Spent};
use waxwing_api::{CertificateStatus, LimitRefusal, LimitUse, RateScope};

/// As many are kept: more than any known limit for the same names or the same name's failures.
const KEPT: usize = 10;
/// The longest period that a rate can have.
const MEMORY: SignedDuration = SignedDuration::from_hours(366 * 24);

/// What an order of this account has used.
pub fn of(account: &str, spent: &Spent) -> LimitUse {
    let scopes = spent.scopes.iter().copied().map(kept).collect();
    LimitUse { time: Time(spent.at), account: account.to_owned(), scopes }
}

/// The same as the ledger takes it. What was used was used by now, whatever a clock or an editor has written.
pub fn spent(used: &LimitUse, now: Timestamp) -> Spent {
    Spent { at: used.time.0.min(now), scopes: used.scopes.iter().copied().map(counted).collect() }
}

/// What a CA refused an order of this account for; nothing where it names no limit.
pub fn refusal(account: &str, refused: &Refused, until: Timestamp) -> Option<LimitRefusal> {
    Some(LimitRefusal {
        account: account.to_owned(),
        scope: kept(refused.scope?),
        subject: refused.subject.clone(),
        until: Time(until),
    })
}

/// The same as the ledger takes it.
pub fn refused(refusal: &LimitRefusal) -> Refused {
    Refused { scope: Some(counted(refusal.scope)), subject: refusal.subject.clone() }
}

/// Adds what was used to a status.
pub fn remember(status: &mut CertificateStatus, used: &[LimitUse], now: Timestamp) {
    if used.is_empty() {
        return;
    }
    let kept = &mut status.acme.get_or_insert_default().limits_used;
    kept.extend(used.iter().cloned());
    kept.retain(|one| now.duration_since(one.time.0) < MEMORY);
    kept.sort_by_key(|one| one.time.0);
    kept.drain(..kept.len().saturating_sub(KEPT));
}

/// What a status says was used.
pub fn in_certificate(status: Option<&CertificateStatus>) -> &[LimitUse] {
    status.and_then(|status| status.acme.as_ref()).map(|acme| acme.limits_used.as_slice()).unwrap_or_default()
}

fn kept(scope: Scope) -> RateScope {
    match scope {
        Scope::Account => RateScope::Account,
        Scope::RegisteredDomain => RateScope::RegisteredDomain,
        Scope::IdenticalNames => RateScope::IdenticalNames,
        Scope::FailedValidations => RateScope::FailedValidations,
    }
}

fn counted(scope: RateScope) -> Scope {
    match scope {
        RateScope::Account => Scope::Account,
        RateScope::RegisteredDomain => Scope::RegisteredDomain,
        RateScope::IdenticalNames => Scope::IdenticalNames,
        RateScope::FailedValidations => Scope::FailedValidations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn used(hours_ago: i64, scopes: &[Scope]) -> Spent {
        Spent { at: NOW - SignedDuration::from_hours(hours_ago), scopes: scopes.iter().copied().collect() }
    }

    #[test]
    fn the_newest_are_kept_and_come_back_as_they_were() {
        let mut status = CertificateStatus::default();
        remember(&mut status, &[], NOW);
        assert_eq!(status, CertificateStatus::default());
        let both = [Scope::Account, Scope::IdenticalNames];
        for hours_ago in [9000, 8000, 700, 60, 50, 40, 30, 20, 10, 9, 8, 7, 0] {
            remember(&mut status, &[of("account", &used(hours_ago, &both))], NOW);
        }
        let kept = in_certificate(Some(&status));
        assert_eq!(kept.len(), 10);
        assert_eq!(spent(&kept[0], NOW), used(60, &both));
        assert_eq!(spent(&of("account", &used(-1, &both)), NOW), used(0, &both), "nothing is used tomorrow");
        let later = NOW + SignedDuration::from_hours(8760);
        remember(&mut status, &[of("account", &used(-8760, &[Scope::Account]))], later);
        assert_eq!(
            in_certificate(Some(&status)).len(),
            7,
            "what is older than any rate's period is forgotten"
        );
    }
}
