//! Lists that were fetched, kept for a while: many certificates name the same one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use url::Url;

use super::crl::List;
use super::fetch::Fetch;
use super::{RevocationError, RevocationSources, Unusable, unusable};
use crate::retry::after;

/// Fetched lists. Bounded: the one that wasn't used for the longest time goes first.
#[derive(Debug)]
pub(super) struct Lists {
    fetch: Arc<Fetch>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<Key, Slot>,
    uses: u64,
}

/// A URL, and the issuer whose signature is on what it gives.
type Key = (String, Vec<u8>);

#[derive(Debug, Default)]
struct Slot {
    /// Locked while the list is being fetched, so that it is fetched once.
    cell: Arc<tokio::sync::Mutex<Option<Kept>>>,
    entries: usize,
    used: u64,
}

#[derive(Debug)]
struct Kept {
    outcome: Result<Arc<List>, RevocationError>,
    from: Timestamp,
    until: Timestamp,
}

impl Kept {
    /// Whoever waited for it may have begun before it was fetched. Only a clock that was set back is no such one.
    fn serves(&self, now: Timestamp) -> bool {
        self.from <= after(now, SELDOMER) && now < self.until
    }
}

/// How long a list serves for all that name it.
const KEPT: Duration = Duration::from_hours(6);
/// Nothing is fetched more often, whatever became of it.
const SELDOMER: Duration = Duration::from_hours(1);
/// So many lists are kept, …
const MOST_LISTS: usize = 256;
/// … of so many entries altogether (4 MiB), or a single one of any size that is read.
const MOST_ENTRIES: usize = 1 << 18;

impl Lists {
    pub(super) fn new(fetch: Arc<Fetch>) -> Self {
        Self { fetch, slots: Mutex::default() }
    }

    /// The list at `url`, fetched unless it is known already. So is a failure.
    pub(super) async fn get(
        &self,
        url: &Url,
        sources: &RevocationSources,
        now: Timestamp,
    ) -> Result<Arc<List>, RevocationError> {
        let key = (url.to_string(), digest(&SHA256, &sources.issuer).as_ref().to_vec());
        let cell = self.slot(&key);
        let mut cell = cell.lock().await;
        if let Some(kept) = cell.as_ref().filter(|kept| kept.serves(now)) {
            return kept.outcome.clone();
        }
        let outcome = self.fetch(url, sources, now).await;
        let soonest = after(now, SELDOMER);
        let (until, entries) = match &outcome {
            Ok(list) => (after(now, KEPT).min(list.next_update).max(soonest), list.len()),
            Err(_) => (soonest, 0),
        };
        *cell = Some(Kept { outcome: outcome.clone(), from: now, until });
        drop(cell);
        self.make_room(&key, entries);
        outcome
    }

    async fn fetch(
        &self,
        url: &Url,
        sources: &RevocationSources,
        now: Timestamp,
    ) -> Result<Arc<List>, RevocationError> {
        let der = self.fetch.get(url).await?;
        let owned = sources.clone();
        // A long list takes a tenth of a second to read.
        let read = tokio::task::spawn_blocking(move || {
            let issuer = owned.issuer().ok_or(Unusable::OtherIssuer)?;
            List::read(&der, &issuer, now)
        });
        let list = read.await.unwrap_or(Err(Unusable::Malformed)).map_err(|source| unusable(url, source));
        if let Err(error) = &list {
            tracing::info!(%error, "a list of revoked certificates can't be used");
        }
        list.map(Arc::new)
    }

    fn slot(&self, key: &Key) -> Arc<tokio::sync::Mutex<Option<Kept>>> {
        let mut slots = self.lock();
        slots.uses += 1;
        let used = slots.uses;
        let slot = slots.by_key.entry(key.clone()).or_default();
        slot.used = used;
        Arc::clone(&slot.cell)
    }

    /// Drops others until what is kept is within its bounds.
    fn make_room(&self, key: &Key, entries: usize) {
        let mut slots = self.lock();
        if let Some(slot) = slots.by_key.get_mut(key) {
            slot.entries = entries;
        }
        loop {
            let all: usize = slots.by_key.values().map(|slot| slot.entries).sum();
            if slots.by_key.len() <= MOST_LISTS && all <= MOST_ENTRIES {
                return;
            }
            let others = slots.by_key.iter().filter(|(other, _)| *other != key);
            let Some(oldest) = others.min_by_key(|(_, slot)| slot.used).map(|(oldest, _)| oldest.clone())
            else {
                return;
            };
            slots.by_key.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::RevocationConfig;
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_the_least_used_goes_first() {
        let lists = Lists::new(Arc::new(Fetch::new(&RevocationConfig::default()).unwrap()));
        let key = |number: usize| (format!("http://ca.example/{number}.crl"), Vec::new());
        let kept = |number| lists.lock().by_key.contains_key(&key(number));
        for number in 0..MOST_LISTS + 10 {
            lists.slot(&key(number));
        }
        lists.slot(&key(0));
        let last = MOST_LISTS + 9;
        lists.make_room(&key(last), 10);
        assert_eq!(lists.lock().by_key.len(), MOST_LISTS);
        assert!(kept(0) && kept(last) && !kept(1));
        lists.make_room(&key(5_000), 0);
        assert_eq!(lists.lock().by_key.len(), MOST_LISTS);
        // One that is larger than all that is kept otherwise stays alone.
        lists.make_room(&key(last), MOST_ENTRIES + 1);
        assert!(kept(last) && lists.lock().by_key.len() == 1);
    }
}
