//! What CAs suggest for renewals (ARI, RFC 9773), remembered between looks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use waxwing_acme::{Account, Leaf, Retry, SuggestedWindow};
use waxwing_api::{Certificate, RenewalInformation};

use super::decide::later;

/// A CA's suggestion.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Advice {
    /// When to renew.
    pub window: SuggestedWindow,
    /// A page that says why.
    pub explanation_url: Option<String>,
}

/// Asks CAs and remembers what they said. Clones share what is remembered.
///
/// Nothing of it needs to survive a restart: a suggestion stands in the status, and asking again is spread.
#[derive(Clone, Debug, Default)]
pub struct Advisor {
    known: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Clone, Debug)]
struct Known {
    ari_id: String,
    advice: Option<Advice>,
    ask_at: Timestamp,
}

impl Advisor {
    /// The suggestion for a stored leaf, and when the CA is to be asked again; asks it where that is due.
    /// A CA that can't be asked changes nothing: what was known stays.
    pub async fn consult(
        &self,
        certificate: &Certificate,
        leaf: &Leaf,
        account: &Account,
        seed: u64,
        now: Timestamp,
    ) -> Option<(Option<Advice>, Timestamp)> {
        let ari_id = leaf.ari_id.clone().filter(|_| account.directory().renewal_info().is_some())?;
        let uid = certificate.metadata.uid.clone().unwrap_or_default();
        let mut known = self.known(&uid, ari_id, certificate, leaf, seed, now);
        if known.ask_at <= now {
            match account.renewal_info(&known.ari_id).await {
                Ok(Some(info)) => {
                    known.ask_at = info.ask_again;
                    known.advice =
                        Some(Advice { window: info.window, explanation_url: info.explanation_url });
                }
                Ok(None) => known.ask_at = later(now, AFTER_FAILURE),
                Err(error) => {
                    tracing::info!(%error, "the CA could not be asked when to renew; what it said before holds");
                    known.ask_at = match error.class().retry {
                        Retry::NotBefore(floor) => floor.max(later(now, AFTER_FAILURE)),
                        Retry::Backoff | Retry::AfterChange => later(now, AFTER_FAILURE),
                    };
                }
            }
            self.lock().insert(uid, known.clone());
        }
        Some((sensible(known.advice, leaf), known.ask_at))
    }

    /// The suggestion that is remembered of a stored leaf. Asks nobody.
    pub fn recall(
        &self,
        certificate: &Certificate,
        leaf: &Leaf,
        seed: u64,
        now: Timestamp,
    ) -> Option<Advice> {
        let uid = certificate.metadata.uid.clone().unwrap_or_default();
        let known = self.known(&uid, leaf.ari_id.clone()?, certificate, leaf, seed, now);
        sensible(known.advice, leaf)
    }

    /// Forgets a Certificate that is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// What is remembered of this leaf, or else what the status says of it.
    fn known(
        &self,
        uid: &str,
        ari_id: String,
        certificate: &Certificate,
        leaf: &Leaf,
        seed: u64,
        now: Timestamp,
    ) -> Known {
        let mut known = self.lock();
        if let Some(known) = known.get(uid).filter(|known| known.ari_id == ari_id) {
            return known.clone();
        }
        let first = Known { advice: reported(certificate, leaf), ask_at: first_ask(leaf, seed, now), ari_id };
        known.insert(uid.to_owned(), first.clone());
        first
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The CA is asked again after this if it could not be asked (RFC 9773 §4.3.3 leaves it to the client).
const AFTER_FAILURE: Duration = Duration::from_hours(1);
/// After an issue or a restart the first questions are spread over this time, or over a fiftieth of the lifetime.
const FIRST: Duration = Duration::from_hours(1);

fn sensible(advice: Option<Advice>, leaf: &Leaf) -> Option<Advice> {
    advice.filter(|advice| advice.window.is_sensible(leaf.not_before, leaf.not_after))
}

/// What the status says of this very leaf.
fn reported(certificate: &Certificate, leaf: &Leaf) -> Option<Advice> {
    let status = certificate.status.as_ref()?;
    if status.serial_number.as_ref() != Some(&leaf.serial) {
        return None;
    }
    let RenewalInformation { suggested_window, explanation_url } = status.acme.as_ref()?.ari.clone()?;
    let window = SuggestedWindow { start: suggested_window.start.0, end: suggested_window.end.0 };
    Some(Advice { window, explanation_url })
}

fn first_ask(leaf: &Leaf, seed: u64, now: Timestamp) -> Timestamp {
    let lifetime = Duration::try_from(leaf.not_after.duration_since(leaf.not_before)).unwrap_or_default();
    let within = FIRST.min(lifetime / 50);
    SuggestedWindow { start: now, end: later(now, within) }.select(seed)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use waxwing_api::{CertificateAcmeStatus, CertificateStatus};

    use super::super::wanted::tests::certificate;
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn leaf(serial: &str, hours: u64) -> Leaf {
        Leaf {
            not_before: NOW,
            not_after: later(NOW, Duration::from_hours(hours)),
            serial: serial.into(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            common_name: None,
            issuer: "test".into(),
            ari_id: Some("aki.serial".into()),
            key_algorithm: None,
        }
    }

    #[test]
    fn the_first_question_is_spread_and_soon_for_short_lives() {
        let asks: Vec<_> = (0..50).map(|seed| first_ask(&leaf("01", 2160), seed, NOW)).collect();
        assert!(asks.iter().all(|ask| *ask >= NOW && *ask <= later(NOW, FIRST)));
        assert!(asks.iter().max() > asks.iter().min());
        assert!(first_ask(&leaf("01", 1), 7, NOW) <= later(NOW, Duration::from_secs(72)));
    }

    #[test]
    fn after_a_restart_the_status_says_what_the_ca_said_of_this_leaf_alone() {
        let mut certificate = certificate(&["a.example"]);
        let window = waxwing_api::SuggestedWindow { start: Time(NOW), end: Time(later(NOW, FIRST)) };
        certificate.status = Some(CertificateStatus {
            serial_number: Some("01".into()),
            acme: Some(CertificateAcmeStatus {
                ari: Some(RenewalInformation { suggested_window: window, explanation_url: None }),
                ..CertificateAcmeStatus::default()
            }),
            ..CertificateStatus::default()
        });
        assert_eq!(reported(&certificate, &leaf("01", 2160)).map(|advice| advice.window.start), Some(NOW));
        assert_eq!(reported(&certificate, &leaf("02", 2160)), None);
    }

    #[test]
    fn a_new_leaf_forgets_what_was_said_of_the_old_one() {
        let (advisor, certificate) = (Advisor::default(), certificate(&["a.example"]));
        let recall = |id: &str| advisor.known("uid", id.into(), &certificate, &leaf("01", 2160), 1, NOW);
        recall("one");
        advisor.lock().get_mut("uid").unwrap().ask_at = Timestamp::MAX;
        assert_eq!(recall("one").ask_at, Timestamp::MAX);
        assert!(recall("two").ask_at < Timestamp::MAX);
        advisor.forget("uid");
        assert!(advisor.lock().is_empty());
    }
}
