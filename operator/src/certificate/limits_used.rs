//! What attempts have used of a CA's limits, as a Certificate's status keeps it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use waxwing_acme::limits::{Scope, Spent};
use waxwing_api::{CertificateStatus, LimitUse, RateScope};

/// As many are kept: more than any known limit for the same names or the same name's failures.
const KEPT: usize = 10;
/// The longest period that a rate can have.
const MEMORY: SignedDuration = SignedDuration::from_hours(366 * 24);

/// What an order of this account has used.
pub fn of(account: &str, spent: &Spent) -> LimitUse {
    let scopes = spent.scopes.iter().map(|scope| match scope {
        Scope::Account => RateScope::Account,
        Scope::RegisteredDomain => RateScope::RegisteredDomain,
        Scope::IdenticalNames => RateScope::IdenticalNames,
        Scope::FailedValidations => RateScope::FailedValidations,
    });
    LimitUse { time: Time(spent.at), account: account.to_owned(), scopes: scopes.collect() }
}

/// The same as the ledger takes it.
pub fn spent(used: &LimitUse) -> Spent {
    let scopes = used.scopes.iter().map(|scope| match scope {
        RateScope::Account => Scope::Account,
        RateScope::RegisteredDomain => Scope::RegisteredDomain,
        RateScope::IdenticalNames => Scope::IdenticalNames,
        RateScope::FailedValidations => Scope::FailedValidations,
    });
    Spent { at: used.time.0, scopes: scopes.collect() }
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
        assert_eq!(spent(&kept[0]), used(60, &both));
        let later = NOW + SignedDuration::from_hours(8760);
        remember(&mut status, &[of("account", &used(-8760, &[Scope::Account]))], later);
        assert_eq!(
            in_certificate(Some(&status)).len(),
            7,
            "what is older than any rate's period is forgotten"
        );
    }
}
