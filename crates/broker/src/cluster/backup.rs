//! Copies metadata to the object store while this node is the active controller: soon after it became that, after each snapshot
//! of the Raft log, and while there are changes at least every `ottla.metadata.backup.interval.ms` (for a large image less often,
//! so that copies stay below a megabyte a second).
//!
//! A copy has a key of its own and is never written over; a bounded number is kept. A store that is slow or down delays copies
//! and nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::{Clock, LogIndex, Random};
use futures::TryStreamExt as _;
use metadata::{MetadataClient, MetadataImage, Node};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use parking_lot::Mutex;

use super::controller::Controller;
use crate::storage::metadata_copy::{self, CopyHead};

/// How often it looks whether a copy is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Copies that are kept.
const COPIES_MAX: usize = 16;
/// Bytes a second that copies may cost on average.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// Wait after a failure, at first and at most, before jitter.
const RETRY_MS: u64 = 1_000;
const RETRY_MS_MAX: u64 = 60_000;

/// See the module.
pub struct Backup {
    raft: Arc<Node>,
    metadata: MetadataClient,
    controller: Arc<Controller>,
    clock: Arc<dyn Clock>,
    interval: Duration,
    /// `None` while this node is not the active controller.
    known: Mutex<Option<Known>>,
}

/// What this controller knows of its copies.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The store last held all of metadata at this time, or that is when this controller began.
    current_at: Duration,
    /// Up to where the newest copy reaches.
    copied: Option<LogIndex>,
    /// When it was begun, and its bytes.
    begun: Duration,
    bytes: u64,
    /// The snapshot of the Raft log at that time.
    snapshot: Option<LogIndex>,
    failures: u32,
    /// Nothing is tried before.
    not_before: Duration,
}

impl Known {
    fn nothing(now: Duration) -> Self {
        Self { current_at: now, copied: None, begun: now, bytes: 0, snapshot: None, failures: 0, not_before: now }
    }

    /// Whether a copy is due at `now`, metadata having been applied up to `applied`.
    fn is_due(&self, now: Duration, applied: LogIndex, snapshot: Option<LogIndex>, interval: Duration) -> bool {
        let Some(copied) = self.copied else { return now >= self.not_before };
        let pace = interval.max(Duration::from_secs(self.bytes / BYTES_PER_SECOND));
        applied > copied && now >= self.not_before && (now >= self.begun + pace || snapshot > self.snapshot)
    }

    fn failed(&mut self, now: Duration, random: &dyn Random) {
        let step = RETRY_MS.saturating_mul(1 << self.failures.min(16)).min(RETRY_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + Duration::from_millis(step / 2 + random.below(step / 2 + 1));
    }
}

impl Backup {
    pub(super) fn new(
        raft: &Arc<Node>,
        metadata: &MetadataClient,
        controller: &Arc<Controller>,
        clock: &Arc<dyn Clock>,
        interval: Duration,
    ) -> Arc<Self> {
        let (raft, metadata, controller) = (Arc::clone(raft), metadata.clone(), Arc::clone(controller));
        Arc::new(Self { raft, metadata, controller, clock: Arc::clone(clock), interval, known: Mutex::new(None) })
    }

    /// For how long the object store has not held all of metadata; `None` where this node is not the active controller.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.known.lock().map(|known| self.clock.boot().saturating_sub(known.current_at))
    }

    /// Works while this node is the active controller. `url` names the store, as metadata knows the cluster's.
    pub(crate) async fn run(
        self: Arc<Self>,
        store: Arc<dyn ObjectStore>,
        url: String,
        random: Arc<dyn Random>,
    ) -> Infallible {
        let mut told = false;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let image = self.metadata.image();
            // Before the first broker has claimed the store, no data is in it either.
            if !self.controller.is_active() || image.store.is_empty() {
                *self.known.lock() = None;
                continue;
            }
            let now = self.clock.boot();
            let mut known = *self.known.lock().get_or_insert_with(|| Known::nothing(now));
            if *image.store != url && !std::mem::replace(&mut told, true) {
                let store = &image.store;
                tracing::error!(%store, "this controller's ottla.object.store.url is not the cluster's: metadata is not backed up");
            }
            if *image.store == url && known.is_due(now, image.applied, self.raft.snapshot_index(), self.interval) {
                match self.copy(&*store, &image).await {
                    Ok(bytes) => {
                        let snapshot = self.raft.snapshot_index();
                        known =
                            Known { copied: Some(image.applied), begun: now, bytes, snapshot, ..Known::nothing(now) };
                    }
                    Err(error) => {
                        known.failed(self.clock.boot(), &*random);
                        tracing::warn!(error, "metadata was not copied to the object store; it is tried again");
                    }
                }
            }
            if known.copied == Some(image.applied) {
                known.current_at = now;
            }
            *self.known.lock() = Some(known);
        }
    }

    /// Puts one copy, and deletes those that are too many. Returns its bytes.
    async fn copy(&self, store: &dyn ObjectStore, image: &Arc<MetadataImage>) -> Result<u64, String> {
        let (term, index) = (self.metadata.quorum().term, image.applied.0);
        let head = CopyHead { term, index, taken_ms: self.clock.wall_ms() };
        let encoded = {
            let image = Arc::clone(image);
            common::blocking(move || metadata_copy::encode(head, &image)).await
        };
        let pieces = encoded.map_err(|error| error.to_string())?;
        let payload: PutPayload = pieces.into_iter().collect();
        let bytes = payload.content_length() as u64;
        let key = metadata_copy::key(&image.cluster_id, term, index);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match store.put_opts(&key, payload, options).await {
            Ok(_) => {}
            // An earlier attempt that was thought to have failed: a leader writes one state of metadata under this key.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        tracing::debug!(%key, bytes, "metadata was copied to the object store");
        if let Err(error) = forget_old(store, &image.cluster_id).await {
            tracing::warn!(%error, "old copies of metadata were not deleted; it is tried again after the next one");
        }
        Ok(bytes)
    }
}

/// Deletes all copies but the newest.
async fn forget_old(store: &dyn ObjectStore, cluster_id: &str) -> Result<(), Error> {
    let mut copies = list(store, cluster_id).await?;
    copies.truncate(copies.len().saturating_sub(COPIES_MAX));
    for (_, key) in copies {
        match store.delete(&key).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A cluster's copies by term and index, the newest last.
pub(crate) async fn list(store: &dyn ObjectStore, cluster_id: &str) -> Result<Vec<((u64, u64), Path)>, Error> {
    let listed: Vec<_> = store.list(Some(&metadata_copy::folder(cluster_id))).try_collect().await?;
    let copies = listed.into_iter().map(|object| object.location);
    let mut copies: Vec<_> =
        copies.filter_map(|key| Some((metadata_copy::parse_key(cluster_id, &key)?, key))).collect();
    copies.sort();
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use common::SeededRandom;
    use object_store::memory::InMemory;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_copy_is_due_at_once_then_while_there_are_changes_and_after_a_snapshot() {
        let fresh = Known::nothing(at(10));
        assert!(fresh.is_due(at(10), LogIndex(5), None, INTERVAL));
        let copied = Known { copied: Some(LogIndex(5)), ..fresh };
        assert!(!copied.is_due(at(1_000), LogIndex(5), None, INTERVAL), "nothing has changed");
        assert!(!copied.is_due(at(69), LogIndex(6), None, INTERVAL));
        assert!(copied.is_due(at(70), LogIndex(6), None, INTERVAL));
        assert!(copied.is_due(at(11), LogIndex(6), Some(LogIndex(6)), INTERVAL), "the log was cut");
        let large = Known { bytes: 200 << 20, ..copied };
        assert!(!large.is_due(at(209), LogIndex(6), None, INTERVAL), "large copies are rarer");
        assert!(large.is_due(at(210), LogIndex(6), None, INTERVAL));
    }

    #[test]
    fn failures_are_followed_by_longer_and_longer_pauses() {
        let (mut known, random) = (Known::nothing(at(0)), SeededRandom::new(1));
        let mut now = at(0);
        for failure in 0..12 {
            known.failed(now, &random);
            let pause = known.not_before - now;
            assert!(!known.is_due(known.not_before - Duration::from_millis(1), LogIndex(1), None, INTERVAL));
            assert!(known.is_due(known.not_before, LogIndex(1), None, INTERVAL));
            let step = Duration::from_millis((RETRY_MS << failure).min(RETRY_MS_MAX));
            assert!(pause >= step / 2 && pause <= step, "{pause:?} after {failure} failures");
            now = known.not_before;
        }
    }

    #[tokio::test]
    async fn a_bounded_number_of_copies_of_this_cluster_is_kept() {
        let store = InMemory::new();
        let others = [metadata_copy::key("other", 1, 1), Path::from("metadata/c/notes.txt")];
        let ours = (1..=20).map(|index| metadata_copy::key("c", if index < 18 { 1 } else { 2 }, index));
        for key in ours.chain(others.clone()) {
            store.put(&key, PutPayload::from(Bytes::new())).await.expect("puts");
        }
        forget_old(&store, "c").await.expect("deletes");
        let kept: Vec<u64> = list(&store, "c").await.expect("lists").into_iter().map(|((_, index), _)| index).collect();
        assert_eq!(kept, (5..=20).collect::<Vec<_>>());
        for key in others {
            store.head(&key).await.expect("is nobody's to delete");
        }
    }
}
