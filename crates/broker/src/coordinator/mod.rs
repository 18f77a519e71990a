//! Hosts the coordinators: one shard, of groups or of transactions, on each partition of their topic that this broker leads.
//!
//! A request is handled under its shard's lock, in arrival order: the shard decides, the records are appended, the
//! shard takes them over, and responses carry the log position that must be durable before they are sent. So
//! nobody ever learns of state that a crash could undo. An append that fails is answered with an error; if the shard has
//! acted on it already, it is dropped and loaded again from what is durable.

mod answer;
mod follow;
mod groups;
mod hosted;
mod load;
mod shard;
mod timer;
mod topics;
mod transactions;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use common::supervisor::Supervisor;
use common::{Clock, Lsn};
use coordinator::{Now, Token, shard_of};
use metadata::{MetadataClient, MetadataImage};
use parking_lot::RwLock;
use protocol::ErrorCode;
use tokio::sync::{Notify, watch};
use wal::DurableLsn;

use crate::partition::{LookupError, Partition, Partitions, VerificationGuard};

pub(crate) use answer::{Submitted, reply, reply_all};
pub(crate) use groups::{GROUP_METADATA_TOPIC, GroupCoordinator, consumer_groups_enabled, group_config};
use hosted::{Called, HostedShard};
use shard::Shard;
use topics::{ImageTopics, TopicVersions};
pub(crate) use transactions::{TRANSACTION_STATE_TOPIC, TransactionCoordinator, transaction_config};

/// What coordinators are built on. Cheap to clone.
#[derive(Clone)]
pub struct CoordinatorParts {
    /// Image.
    pub metadata: MetadataClient,
    /// Where the records go.
    pub partitions: Partitions,
    /// The log's durable position.
    pub durable: Arc<DurableLsn>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Runs the background tasks.
    pub supervisor: Supervisor,
}

/// The coordinators of one kind on this broker. Cheap to clone.
pub(crate) struct Coordinator<S: Shard> {
    inner: Arc<Inner<S>>,
}

impl<S: Shard> Clone for Coordinator<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<S: Shard> {
    parts: CoordinatorParts,
    config: Arc<S::Config>,
    means: S::Means,
    topic_versions: TopicVersions,
    shards: RwLock<HashMap<i32, Slot<S>>>,
    /// Counts shards that became ready or were dropped.
    changes: watch::Sender<u64>,
    /// Shards to load again, because an append failed.
    reload: Notify,
    last_token: AtomicU64,
    /// Earliest deadline that the timer task knows of, milliseconds of the boot-time clock.
    armed_ms: AtomicI64,
    earlier_deadline: Notify,
}

/// A partition of the topic that this broker leads.
enum Slot<S: Shard> {
    /// Its records are being read.
    Loading(Arc<Partition>),
    /// Serves.
    Ready(Arc<HostedShard<S>>),
}

impl<S: Shard> Clone for Slot<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Loading(partition) => Self::Loading(Arc::clone(partition)),
            Self::Ready(shard) => Self::Ready(Arc::clone(shard)),
        }
    }
}

impl<S: Shard> Coordinator<S> {
    /// Starts to host: loads shards as partitions open, runs their timers.
    pub(crate) fn start(parts: CoordinatorParts, config: S::Config, means: S::Means) -> Self {
        let supervisor = parts.supervisor.clone();
        let inner = Arc::new(Inner {
            parts,
            config: Arc::new(config),
            means,
            topic_versions: TopicVersions::default(),
            shards: RwLock::default(),
            changes: watch::Sender::new(0),
            reload: Notify::new(),
            last_token: AtomicU64::new(0),
            armed_ms: AtomicI64::new(i64::MAX),
            earlier_deadline: Notify::new(),
        });
        let coordinator = Self { inner };
        supervisor.spawn_until_stopped("coordinator", follow::run(coordinator.clone()));
        supervisor.spawn_until_stopped("coordinator-timers", timer::run(coordinator.clone()));
        coordinator
    }

    /// Hands a request to the shard of its key, a group's or a transactional id. Never waits.
    pub(crate) fn submit(&self, key: &str, context: &S::Context<'_>, request: &S::Request) -> Submitted<S::Response> {
        self.submit_guarded(key, context, request, None)
    }

    /// The same for a request whose records are of a transaction, which was verified.
    pub(crate) fn submit_guarded(
        &self,
        key: &str,
        context: &S::Context<'_>,
        request: &S::Request,
        guard: Option<VerificationGuard>,
    ) -> Submitted<S::Response> {
        match self.inner.find(key) {
            Ok(shard) => self.submit_to(&shard, context, request, guard),
            Err(code) => Submitted::Refused(code),
        }
    }

    /// The shard of a partition, if it serves.
    fn shard_at(&self, index: i32) -> Option<Arc<HostedShard<S>>> {
        match self.inner.shards.read().get(&index) {
            Some(Slot::Ready(shard)) => Some(Arc::clone(shard)),
            _ => None,
        }
    }

    /// Hands a request to every shard; NOT_COORDINATOR cannot come of it.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while any shard is loading.
    pub(crate) fn submit_to_all(
        &self,
        context: &S::Context<'_>,
        request: &S::Request,
    ) -> Result<Vec<Submitted<S::Response>>, ErrorCode> {
        let slots: Vec<Slot<S>> = self.inner.shards.read().values().cloned().collect();
        let shards = slots.into_iter().map(|slot| match slot {
            Slot::Loading(_) => Err(ErrorCode::CoordinatorLoadInProgress),
            Slot::Ready(shard) => Ok(shard),
        });
        let shards = shards.collect::<Result<Vec<_>, _>>()?;
        Ok(shards.iter().map(|shard| self.submit_to(shard, context, request, None)).collect())
    }

    fn submit_to(
        &self,
        shard: &Arc<HostedShard<S>>,
        context: &S::Context<'_>,
        request: &S::Request,
        guard: Option<VerificationGuard>,
    ) -> Submitted<S::Response> {
        let token = Token(self.inner.last_token.fetch_add(1, Ordering::Relaxed));
        let called = shard.submit(token, context, request, guard, self.inner.now());
        self.after(shard, called).unwrap_or(Submitted::Refused(ErrorCode::UnknownServerError))
    }

    /// Follows up on a call to a shard.
    fn after(&self, shard: &Arc<HostedShard<S>>, called: Called<S>) -> Option<Submitted<S::Response>> {
        self.inner.follow_up(shard, called.deadline_ms);
        self.carry_out(shard, called.after, called.effects);
        called.submitted
    }

    fn carry_out(&self, shard: &Arc<HostedShard<S>>, after: Lsn, effects: Vec<S::Effect>) {
        if !effects.is_empty() {
            S::carry_out(self, shard, after, effects);
        }
    }

    /// Topics as of now.
    pub(crate) fn topics(&self) -> ImageTopics {
        self.inner.topics()
    }

    fn parts(&self) -> &CoordinatorParts {
        &self.inner.parts
    }

    fn means(&self) -> &S::Means {
        &self.inner.means
    }

    fn now(&self) -> Now {
        self.inner.now()
    }

    /// The log's durable position, which every response waits for.
    pub(crate) fn durable(&self) -> &Arc<DurableLsn> {
        &self.inner.parts.durable
    }

    /// Index of the partition that holds a key, if the topic exists.
    #[must_use]
    pub(crate) fn partition_of(image: &MetadataImage, key: &str) -> Option<i32> {
        let count = i32::try_from(image.topic(S::TOPIC)?.partitions.len()).ok()?;
        Some(shard_of(key, count))
    }

    /// Waits, at most `longest`, until the shard of a key serves here; a client that comes too early is told to
    /// retry.
    pub(crate) async fn wait_ready(&self, key: &str, longest: Duration) {
        let mut changes = self.inner.changes.subscribe();
        let ready = async {
            while matches!(
                self.inner.find(key),
                Err(ErrorCode::CoordinatorLoadInProgress | ErrorCode::CoordinatorNotAvailable)
            ) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(longest, ready).await;
    }

    /// Appends a checkpoint to every partition whose newest one is not current. For a graceful stop, before the
    /// last upload.
    pub(crate) fn append_final_checkpoints(&self) {
        for shard in self.inner.ready() {
            shard.append_final_checkpoint();
        }
    }

    /// The same for one partition, which is about to move.
    pub(crate) fn append_final_checkpoint_of(&self, partition: &Arc<Partition>) {
        for shard in self.inner.ready().iter().filter(|shard| Arc::ptr_eq(shard.partition(), partition)) {
            shard.append_final_checkpoint();
        }
    }
}

impl<S: Shard> Inner<S> {
    fn find(&self, key: &str) -> Result<Arc<HostedShard<S>>, ErrorCode> {
        let image = self.parts.metadata.image();
        let topic = image.topic(S::TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let count = i32::try_from(topic.partitions.len()).map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
        let index = shard_of(key, count);
        match self.shards.read().get(&index) {
            Some(Slot::Ready(shard)) if shard.partition().is_serving() => return Ok(Arc::clone(shard)),
            // Without a lease: clients ask elsewhere, where somebody else may be by now.
            Some(Slot::Ready(shard)) if !shard.partition().is_closed() => return Err(ErrorCode::NotCoordinator),
            Some(Slot::Loading(partition)) if !partition.is_closed() => {
                return Err(ErrorCode::CoordinatorLoadInProgress);
            }
            Some(_) | None => {}
        }
        match self.parts.partitions.lookup(topic, index) {
            Err(LookupError::NotLeader { .. }) => Err(ErrorCode::NotCoordinator),
            // It is open, or will be in a moment, and then loaded.
            Ok(_) | Err(_) => Err(ErrorCode::CoordinatorLoadInProgress),
        }
    }

    /// A shard's deadline may be the earliest, or it must be loaded again.
    fn follow_up(&self, shard: &HostedShard<S>, deadline_ms: Option<i64>) {
        match deadline_ms {
            Some(deadline_ms) if self.armed_ms.fetch_min(deadline_ms, Ordering::AcqRel) > deadline_ms => {
                self.earlier_deadline.notify_one();
            }
            Some(_) => {}
            None if shard.is_dropped() => self.reload.notify_one(),
            None => {}
        }
    }

    fn ready(&self) -> Vec<Arc<HostedShard<S>>> {
        let shards = self.shards.read();
        let ready = shards.values().filter_map(|slot| if let Slot::Ready(shard) = slot { Some(shard) } else { None });
        ready.cloned().collect()
    }

    fn topics(&self) -> ImageTopics {
        self.topic_versions.of(self.parts.metadata.image())
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn now(&self) -> Now {
        let boot_ms = i64::try_from(self.parts.clock.boot().as_millis()).unwrap_or(i64::MAX);
        Now { wall_ms: self.parts.clock.wall_ms(), boot_ms }
    }
}

#[cfg(test)]
mod tests;
