//! Follows partitions and metadata: loads a shard for each partition of the topic that opens here, drops those
//! whose partition closed, and tells shards of deleted topics.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use common::{Lsn, Offset};
use coordinator::Now;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use metadata::MetadataImage;
use tokio::sync::Semaphore;

use super::hosted::HostedShard;
use super::load::{LoadError, Loaded, load};
use super::shard::Shard;
use super::{Coordinator, Inner, Slot};
use crate::partition::Partition;

/// Shards loaded at the same time.
const LOADS_AT_ONCE: usize = 8;
/// Pause after a failed attempt to load; doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A shard to load.
struct Load {
    index: i32,
    partition: Arc<Partition>,
    /// The log must be durable up to here first: records of the shard's earlier life are part of its state.
    after: Lsn,
}

pub(super) async fn run<S: Shard>(coordinator: Coordinator<S>) {
    let inner = &coordinator.inner;
    let mut opened = inner.parts.partitions.watch();
    let mut applied = inner.parts.metadata.watch();
    let mut seen = inner.parts.metadata.image();
    let at_once = Arc::new(Semaphore::new(LOADS_AT_ONCE));
    let mut loads = FuturesUnordered::new();
    loop {
        opened.borrow_and_update();
        applied.borrow_and_update();
        let image = inner.parts.metadata.image();
        coordinator.remove_deleted(&seen, &image);
        for load in inner.follow(&image) {
            loads.push(load_until_done(coordinator.clone(), load, Arc::clone(&at_once)));
        }
        seen = image;
        tokio::select! {
            changed = opened.changed() => if changed.is_err() { return },
            changed = applied.changed() => if changed.is_err() { return },
            () = inner.reload.notified() => {}
            Some(()) = loads.next() => {}
        }
    }
}

impl<S: Shard> Inner<S> {
    /// Brings the slots in line with the partitions; returns what is to be loaded.
    fn follow(&self, image: &MetadataImage) -> Vec<Load> {
        let mut loads = Vec::new();
        let mut shards = self.shards.write();
        let before = shards.len();
        let Some(topic) = image.topic(S::TOPIC) else {
            shards.clear();
            return loads;
        };
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        shards.retain(|index, _| (0..count).contains(index));
        for index in 0..count {
            let Some(partition) = self.parts.partitions.get(topic.id, index) else {
                shards.remove(&index);
                continue;
            };
            let after = match shards.get(&index) {
                Some(Slot::Loading(loading)) if Arc::ptr_eq(loading, &partition) => continue,
                Some(Slot::Ready(shard)) if Arc::ptr_eq(shard.partition(), &partition) => {
                    if !shard.is_dropped() {
                        continue;
                    }
                    shard.lsn()
                }
                Some(_) | None => Lsn(0),
            };
            shards.insert(index, Slot::Loading(Arc::clone(&partition)));
            loads.push(Load { index, partition, after });
        }
        if !loads.is_empty() || shards.len() != before {
            self.changed();
        }
        loads
    }
}

impl<S: Shard> Coordinator<S> {
    /// Tells shards of topics that are in `old` and not in `new`.
    fn remove_deleted(&self, old: &MetadataImage, new: &MetadataImage) {
        if old.topics.ptr_eq(&new.topics) {
            return;
        }
        let mut gone = Vec::new();
        for change in old.topics.diff(&new.topics) {
            if let imbl::ordmap::DiffItem::Remove(_, topic) = change {
                gone.push(Arc::clone(&topic.name));
            }
        }
        if gone.is_empty() {
            return;
        }
        for shard in self.inner.ready() {
            let called = shard.on_topics_deleted(&gone, self.inner.now());
            self.after(&shard, called);
        }
    }

    /// Puts a loaded shard in its place, unless the partition lost that place meanwhile.
    fn loaded(&self, load: &Load, loaded: Loaded<S>) {
        let (inner, now) = (&self.inner, self.inner.now());
        let image = inner.parts.metadata.image();
        let gone = S::topics_gone(&loaded.state, &|topic| image.topic(topic).is_some());
        let (shard, effects) = S::start(Arc::clone(&inner.config), loaded.state, now);
        let shard = Arc::new(HostedShard::new(Arc::clone(&load.partition), shard, loaded.replayed_bytes));
        {
            let mut shards = inner.shards.write();
            match shards.get_mut(&load.index) {
                Some(slot @ Slot::Loading(_)) if slot.is_of(&load.partition) => *slot = Slot::Ready(Arc::clone(&shard)),
                _ => return,
            }
        }
        self.begin(&shard, &gone, effects, now);
        let source: Weak<HostedShard<S>> = Arc::downgrade(&shard);
        load.partition.opened(source);
        inner.changed();
        inner.earlier_deadline.notify_one();
    }

    /// What a shard missed while nobody hosted it.
    fn begin(&self, shard: &Arc<HostedShard<S>>, gone: &[Arc<str>], effects: Vec<S::Effect>, now: Now) {
        if !gone.is_empty() {
            let called = shard.on_topics_deleted(gone, now);
            self.after(shard, called);
        }
        self.carry_out(shard, shard.lsn(), effects);
    }
}

impl<S: Shard> Slot<S> {
    fn is_of(&self, partition: &Arc<Partition>) -> bool {
        match self {
            Self::Loading(loading) => Arc::ptr_eq(loading, partition),
            Self::Ready(shard) => Arc::ptr_eq(shard.partition(), partition),
        }
    }
}

/// Loads a shard; tries again until it succeeds or the partition is closed.
async fn load_until_done<S: Shard>(coordinator: Coordinator<S>, load: Load, at_once: Arc<Semaphore>) {
    let mut pause = PAUSE_MIN;
    while !load.partition.is_closed() {
        let checkpoint = load.partition.coordinator_checkpoint();
        match attempt::<S>(&coordinator.inner, &load, checkpoint.as_ref(), &at_once).await {
            Ok(loaded) => return coordinator.loaded(&load, loaded),
            Err(error) => {
                let what = S::NAME;
                tracing::warn!(partition = load.index, %error, "cannot load the {what} coordinator yet; trying again");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn attempt<S: Shard>(
    inner: &Inner<S>,
    of: &Load,
    checkpoint: Option<&(Offset, Bytes)>,
    at_once: &Semaphore,
) -> Result<Loaded<S>, LoadError> {
    // The semaphore is never closed; a failed log closes the partition, which ends the attempts.
    let _permit = at_once.acquire().await;
    let _ = inner.parts.durable.wait(of.after).await;
    load(&of.partition, checkpoint).await
}
