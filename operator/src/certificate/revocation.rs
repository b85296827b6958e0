//! Whether stored certificates were revoked (CRL, OCSP): asked now and then, remembered between looks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use waxwing_acme::{
    Journal, JournalError, Leaf, RevocationSources, RevocationStatus, Revocations, Secret, SuggestedWindow,
};
use waxwing_api::{Certificate, reason};

use super::decide::{Decision, Reason, later};
use super::target_secret::{Ours, Stored};
use super::wanted::Wanted;

/// Asks whether stored certificates were revoked, and remembers the answers. Clones share what is remembered.
///
/// Nothing of it needs to survive a restart: a revocation stands in the status until the certificate is replaced, and
/// asking again is spread.
#[derive(Clone, Debug)]
pub struct RevocationWatch {
    revocations: Revocations,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Clone, Debug)]
struct Known {
    serial: String,
    /// What is to be said of its revocation.
    finding: Option<String>,
    failures: u32,
    ask_at: Timestamp,
}

impl RevocationWatch {
    /// Nothing known yet.
    pub fn new(revocations: Revocations) -> Self {
        Self { revocations, known: Arc::default() }
    }

    /// Tells `stored` what is known of its certificate, without asking. Gives the time to ask, if that can be asked.
    pub fn recall(
        &self,
        certificate: &Certificate,
        stored: &mut Stored,
        seed: u64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let (ours, leaf) = pair(stored)?;
        let known = self.known_or_first(certificate, ours, leaf, seed, now);
        ours.revoked = known.finding;
        Some(known.ask_at).filter(|at| *at < Timestamp::MAX)
    }

    /// Asks, and tells `stored` what came of it. Gives the time to ask again, and the answer in a word.
    pub async fn ask(
        &self,
        certificate: &Certificate,
        stored: &mut Stored,
        seed: u64,
        now: Timestamp,
    ) -> Option<(Timestamp, &'static str)> {
        let (ours, leaf) = pair(stored)?;
        let sources = ours.chain_pem.as_deref().and_then(RevocationSources::of)?;
        let answer = self.revocations.ask(&sources, now).await;
        let uid = certificate.metadata.uid.clone().unwrap_or_default();
        let mut known = self.lock();
        let failures =
            known.get(&uid).filter(|known| known.serial == leaf.serial).map_or(0, |known| known.failures);
        let (finding, failures, word) = match &answer.status {
            RevocationStatus::Good => (None, 0, "good"),
            RevocationStatus::Revoked(revoked) => {
                let finding = format!("the CA has revoked the stored certificate ({revoked})");
                tracing::warn!(serial = leaf.serial, %revoked, "the CA has revoked the stored certificate");
                (Some(finding), 0, "revoked")
            }
            RevocationStatus::Unknown(error) => {
                tracing::info!(%error, "it can't be known now whether the certificate was revoked");
                (None, failures.saturating_add(1), "unknown")
            }
        };
        let ask_at = next_ask(failures, answer.holds_until, seed, now);
        ours.revoked.clone_from(&finding);
        known.insert(uid, Known { serial: leaf.serial, finding, failures, ask_at });
        Some((ask_at, word))
    }

    /// Forgets a Certificate that is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// What is remembered of this leaf, or else what the status says of it.
    fn known_or_first(
        &self,
        certificate: &Certificate,
        ours: &Ours,
        leaf: Leaf,
        seed: u64,
        now: Timestamp,
    ) -> Known {
        let mut known = self.lock();
        let uid = certificate.metadata.uid.clone().unwrap_or_default();
        if let Some(known) = known.get(&uid).filter(|known| known.serial == leaf.serial) {
            return known.clone();
        }
        let can_be_asked = ours.chain_pem.as_deref().and_then(RevocationSources::of).is_some();
        let first = first_ask(certificate, &leaf, seed, now);
        let first = Known {
            finding: reported(certificate, &leaf),
            failures: 0,
            ask_at: if can_be_asked { first } else { Timestamp::MAX },
            serial: leaf.serial,
        };
        known.insert(uid, first.clone());
        first
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is time to ask: what doesn't serve is replaced without it. Before a key is used again it is worth
/// knowing whether that was the reason for a revocation.
pub fn may_ask(decision: &Decision, wanted: &Wanted) -> bool {
    match decision {
        Decision::Keep { .. } => true,
        Decision::Issue(reason) | Decision::Resume(reason) | Decision::Wait { reason, .. } => {
            *reason == Reason::Renewing && wanted.keep_key
        }
    }
}

/// Leaves an open order that would use a revoked certificate's key again: that key may be why it was revoked.
pub async fn leave_order_with(journal: &dyn Journal, key: Option<&Secret>) -> Result<(), JournalError> {
    match journal.load().await? {
        Some(entry) if key == Some(&entry.private_key_pem) => journal.clear().await,
        _ => Ok(()),
    }
}

/// A CA publishes a list once in some hours or days; asking more often than this would bring nothing new.
const SOONEST: Duration = Duration::from_hours(12);
/// However long an answer holds: CAs publish earlier than they must.
const LATEST: Duration = Duration::from_hours(24);
/// What couldn't be asked is asked again after this, then after twice that, and so on to [`LATEST`].
const AFTER_FAILURE: Duration = Duration::from_hours(1);
/// After a restart the first questions are spread over this time.
const FIRST: Duration = Duration::from_hours(1);
/// Nobody has reason to revoke a certificate so soon. CAs let it begin an hour earlier than they issue it.
const YOUNG: Duration = Duration::from_hours(2);

/// The pair that can be asked about.
fn pair(stored: &mut Stored) -> Option<(&mut Ours, Leaf)> {
    let Stored::Ours(ours) = stored else { return None };
    let leaf = ours.pair.as_ref().ok()?.clone()?;
    Some((ours, leaf))
}

/// What the status says of this very leaf's revocation.
fn reported(certificate: &Certificate, leaf: &Leaf) -> Option<String> {
    let status =
        certificate.status.as_ref().filter(|status| status.serial_number.as_ref() == Some(&leaf.serial))?;
    let ready = status.conditions.iter().find(|condition| condition.type_ == reason::READY)?;
    (ready.status == "False" && ready.reason == reason::REVOKED).then(|| ready.message.clone())
}

/// One that somebody else put there is asked about at once: it may come from a backup, or from long ago.
fn first_ask(certificate: &Certificate, leaf: &Leaf, seed: u64, now: Timestamp) -> Timestamp {
    let status = certificate.status.as_ref();
    let is_known = status.is_some_and(|status| status.serial_number.as_ref() == Some(&leaf.serial));
    let begin = later(leaf.not_before, YOUNG);
    if begin <= now && !is_known { now } else { spread(begin.max(now), FIRST, seed) }
}

/// When to ask again: when the answer lapses, within bounds, or later with each failure in a row.
fn next_ask(failures: u32, holds_until: Option<Timestamp>, seed: u64, now: Timestamp) -> Timestamp {
    if failures > 0 {
        let pause = AFTER_FAILURE.saturating_mul(1 << (failures - 1).min(8)).min(LATEST);
        return spread(later(now, pause), pause / 4, seed);
    }
    let at = holds_until.unwrap_or(now).clamp(later(now, SOONEST), later(now, LATEST));
    spread(at, SOONEST / 4, seed)
}

fn spread(begin: Timestamp, over: Duration, seed: u64) -> Timestamp {
    SuggestedWindow { start: begin, end: later(begin, over) }.select(seed)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use proptest::prelude::*;
    use waxwing_acme::{Entry, RevocationConfig};
    use waxwing_api::CertificateStatus;

    use super::super::decide::Fault;
    use super::super::target_secret::tests::ours_with;
    use super::super::wanted;
    use super::super::wanted::tests::certificate;
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn hours(hours: u64) -> Timestamp {
        later(NOW, Duration::from_hours(hours))
    }

    fn leaf(serial: &str) -> Leaf {
        let leaf = wanted::tests::leaf(NOW - jiff::SignedDuration::from_hours(240), hours(2000));
        Leaf { serial: serial.into(), ..leaf }
    }

    fn stored(serial: &str) -> Stored {
        Stored::Ours(Box::new(ours_with(Ok(Some(leaf(serial))))))
    }

    fn reporting(serial: &str, ready: &str, reason: &str) -> Certificate {
        let mut certificate = certificate(&["a.example"]);
        certificate.status = Some(CertificateStatus {
            serial_number: Some(serial.into()),
            conditions: vec![Condition {
                type_: reason::READY.into(),
                status: ready.into(),
                reason: reason.into(),
                message: "The CA has revoked the stored certificate.".into(),
                observed_generation: None,
                last_transition_time: Time(NOW),
            }],
            ..CertificateStatus::default()
        });
        certificate
    }

    fn watch() -> RevocationWatch {
        RevocationWatch::new(Revocations::new(RevocationConfig::default()).unwrap())
    }

    fn revoked(stored: &Stored) -> Option<&str> {
        let Stored::Ours(ours) = stored else { panic!("not ours") };
        ours.revoked.as_deref()
    }

    #[test]
    fn a_revocation_in_the_status_is_known_after_a_restart_until_another_leaf_is_stored() {
        let (watch, certificate) = (watch(), reporting("01", "False", reason::REVOKED));
        let mut first = stored("01");
        watch.recall(&certificate, &mut first, 0, NOW);
        assert_eq!(revoked(&first), Some("The CA has revoked the stored certificate."));
        let mut second = stored("02");
        watch.recall(&certificate, &mut second, 0, NOW);
        assert_eq!(revoked(&second), None);
        for other in [reporting("01", "True", reason::REVOKED), reporting("01", "False", reason::EXPIRED)] {
            let mut stored = stored("01");
            self::watch().recall(&other, &mut stored, 0, NOW);
            assert_eq!(revoked(&stored), None);
        }
    }

    #[test]
    fn what_names_no_place_is_never_asked_about() {
        let certificate = certificate(&["a.example"]);
        assert_eq!(watch().recall(&certificate, &mut stored("01"), 0, NOW), None);
        assert_eq!(watch().recall(&certificate, &mut Stored::Absent, 0, NOW), None);
    }

    #[test]
    fn a_strangers_pair_is_asked_about_at_once_and_a_young_one_later() {
        let known = reporting("01", "True", reason::ISSUED);
        assert_eq!(first_ask(&known, &leaf("02"), 7, NOW), NOW);
        let asks: Vec<_> = (0..50).map(|seed| first_ask(&known, &leaf("01"), seed, NOW)).collect();
        assert!(asks.iter().all(|ask| *ask >= NOW && *ask <= later(NOW, FIRST)));
        assert!(asks.iter().max() > asks.iter().min());
        let young = Leaf { not_before: NOW, ..leaf("02") };
        assert!(first_ask(&known, &young, 7, NOW) >= hours(2));
    }

    #[test]
    fn what_cannot_be_asked_is_asked_less_and_less_often() {
        let pauses: Vec<_> = (1..10).map(|failures| next_ask(failures, None, 0, NOW)).collect();
        assert!(pauses.first().is_some_and(|at| (hours(1)..=hours(2)).contains(at)), "{pauses:?}");
        assert!(pauses.get(2).is_some_and(|at| (hours(4)..=hours(5)).contains(at)), "{pauses:?}");
        assert!(pauses.last().is_some_and(|at| (hours(24)..=hours(30)).contains(at)), "{pauses:?}");
        assert!(next_ask(u32::MAX, None, 0, NOW) <= hours(30));
    }

    #[test]
    fn only_what_serves_waits_for_an_answer() {
        let mut wanted = wanted::tests::wanted(&["a.example"]);
        assert!(may_ask(&Decision::Keep { renew_at: Some(NOW) }, &wanted));
        assert!(!may_ask(&Decision::Issue(Reason::Fault(Fault::Expired)), &wanted));
        assert!(!may_ask(&Decision::Issue(Reason::Renewing), &wanted));
        wanted.keep_key = true;
        assert!(may_ask(&Decision::Issue(Reason::Renewing), &wanted));
        assert!(!may_ask(&Decision::Issue(Reason::Fault(Fault::Expired)), &wanted));
    }

    struct Memory(Mutex<Option<Entry>>);

    #[async_trait]
    impl Journal for Memory {
        async fn load(&self) -> Result<Option<Entry>, JournalError> {
            Ok(self.0.lock().unwrap().clone())
        }

        async fn save(&self, entry: &Entry) -> Result<(), JournalError> {
            *self.0.lock().unwrap() = Some(entry.clone());
            Ok(())
        }

        async fn clear(&self) -> Result<(), JournalError> {
            *self.0.lock().unwrap() = None;
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_open_order_is_left_only_if_it_has_the_revoked_key() {
        let entry = Entry {
            private_key_pem: Secret::new("the key"),
            order_url: "https://ca.example/order/1".into(),
            account_url: "https://ca.example/account/1".into(),
            thumbprint: "thumbprint".into(),
            request_hash: "hash".into(),
            identifiers: vec!["a.example".into()],
            profile: None,
            replaces: None,
            presented: Vec::new(),
        };
        let journal = Memory(Mutex::new(Some(entry)));
        for (key, is_left) in [(None, false), (Some("another"), false), (Some("the key"), true)] {
            leave_order_with(&journal, key.map(Secret::new).as_ref()).await.unwrap();
            assert_eq!(journal.load().await.unwrap().is_none(), is_left, "{key:?}");
        }
        leave_order_with(&journal, None).await.unwrap();
    }

    proptest! {
        #[test]
        fn nobody_is_asked_more_than_hourly_or_less_than_daily(
            failures in 0_u32..40, holds in proptest::option::of(-1_000_000_i64..10_000_000), seed: u64,
        ) {
            let holds_until = holds.map(|seconds| NOW + jiff::SignedDuration::from_secs(seconds));
            let at = next_ask(failures, holds_until, seed, NOW);
            let soonest = if failures == 0 { hours(12) } else { hours(1) };
            prop_assert!(at >= soonest && at <= hours(30));
        }
    }
}
