//! Hosts the group coordinators: one [`coordinator::GroupShard`] on each partition of `__consumer_offsets` that
//! this broker leads.
//!
//! A request is handled under its shard's lock, in arrival order: the shard decides, the records are appended, the
//! shard takes them over, and responses carry the log position that must be durable before they are sent. So
//! nobody ever learns of state that a crash could undo. An append that fails is answered with an error; if it held
//! more than offsets, the shard is dropped and loaded again from what is durable.

mod answer;
mod follow;
mod hosted;
mod load;
mod timer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use common::Clock;
use common::supervisor::Supervisor;
use coordinator::{Context, GroupConfig, Now, Request, Token, shard_of};
use metadata::{MetadataClient, MetadataImage};
use parking_lot::RwLock;
use protocol::ErrorCode;
use tokio::sync::{Notify, watch};
use wal::DurableLsn;

use crate::config::BrokerConfig;
use crate::partition::{LookupError, Partition, Partitions};

pub(crate) use answer::{Submitted, reply, reply_all};
use hosted::HostedShard;

/// The topic whose partitions hold groups and committed offsets.
pub(crate) const GROUP_METADATA_TOPIC: &str = "__consumer_offsets";

/// What the coordinators are built on.
pub struct GroupCoordinatorParts {
    /// Static configuration.
    pub config: Arc<BrokerConfig>,
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

/// The coordinators of this broker. Cheap to clone.
#[derive(Clone)]
pub struct GroupCoordinator {
    inner: Arc<Inner>,
}

struct Inner {
    parts: GroupCoordinatorParts,
    config: Arc<GroupConfig>,
    shards: RwLock<HashMap<i32, Slot>>,
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
#[derive(Clone)]
enum Slot {
    /// Its records are being read.
    Loading(Arc<Partition>),
    /// Serves.
    Ready(Arc<HostedShard>),
}

impl GroupCoordinator {
    /// Starts to host: loads shards as partitions open, runs their timers.
    #[must_use]
    pub fn start(parts: GroupCoordinatorParts) -> Self {
        let supervisor = parts.supervisor.clone();
        let config = Arc::new(group_config(&parts.config));
        let inner = Arc::new(Inner {
            parts,
            config,
            shards: RwLock::default(),
            changes: watch::Sender::new(0),
            reload: Notify::new(),
            last_token: AtomicU64::new(0),
            armed_ms: AtomicI64::new(i64::MAX),
            earlier_deadline: Notify::new(),
        });
        supervisor.spawn_until_stopped("group-coordinator", follow::run(Arc::clone(&inner)));
        supervisor.spawn_until_stopped("group-timers", timer::run(Arc::clone(&inner)));
        Self { inner }
    }

    /// Hands a request to the shard of its group. Never waits.
    pub(crate) fn submit(&self, group: &str, context: &Context<'_>, request: &Request) -> Submitted {
        match self.inner.find(group) {
            Ok(shard) => self.inner.submit(&shard, context, request),
            Err(code) => Submitted::Refused(code),
        }
    }

    /// Hands a request to every shard; NOT_COORDINATOR cannot come of it.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while any shard is loading.
    pub(crate) fn submit_to_all(&self, context: &Context<'_>, request: &Request) -> Result<Vec<Submitted>, ErrorCode> {
        let slots: Vec<Slot> = self.inner.shards.read().values().cloned().collect();
        let shards = slots.into_iter().map(|slot| match slot {
            Slot::Loading(_) => Err(ErrorCode::CoordinatorLoadInProgress),
            Slot::Ready(shard) => Ok(shard),
        });
        let shards = shards.collect::<Result<Vec<_>, _>>()?;
        Ok(shards.iter().map(|shard| self.inner.submit(shard, context, request)).collect())
    }

    /// The log's durable position, which every response waits for.
    pub(crate) fn durable(&self) -> &Arc<DurableLsn> {
        &self.inner.parts.durable
    }

    /// Index of the partition that holds a group, if the topic exists.
    #[must_use]
    pub(crate) fn partition_of(image: &MetadataImage, group: &str) -> Option<i32> {
        let count = i32::try_from(image.topic(GROUP_METADATA_TOPIC)?.partitions.len()).ok()?;
        Some(shard_of(group, count))
    }

    /// Waits, at most `longest`, until the shard of a group serves here; a client that comes too early is told to
    /// retry.
    pub async fn wait_ready(&self, group: &str, longest: Duration) {
        let mut changes = self.inner.changes.subscribe();
        let ready = async {
            while matches!(
                self.inner.find(group),
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
    pub fn append_final_checkpoints(&self) {
        for shard in self.inner.ready() {
            shard.append_final_checkpoint();
        }
    }
}

impl GroupCoordinator {
    /// The same for one partition, which is about to move.
    pub(crate) fn append_final_checkpoint_of(&self, partition: &Arc<Partition>) {
        for shard in self.inner.ready().iter().filter(|shard| Arc::ptr_eq(shard.partition(), partition)) {
            shard.append_final_checkpoint();
        }
    }
}

impl Inner {
    fn find(&self, group: &str) -> Result<Arc<HostedShard>, ErrorCode> {
        let image = self.parts.metadata.image();
        let topic = image.topic(GROUP_METADATA_TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let count = i32::try_from(topic.partitions.len()).map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
        let index = shard_of(group, count);
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

    fn submit(&self, shard: &HostedShard, context: &Context<'_>, request: &Request) -> Submitted {
        let token = Token(self.last_token.fetch_add(1, Ordering::Relaxed));
        let (submitted, deadline) = shard.submit(token, context, request, self.now());
        self.after(shard, deadline);
        submitted
    }

    /// Follows up on a call to a shard: its deadline may be the earliest, or it may have to be loaded again.
    fn after(&self, shard: &HostedShard, deadline_ms: Option<i64>) {
        match deadline_ms {
            Some(deadline_ms) if self.armed_ms.fetch_min(deadline_ms, Ordering::AcqRel) > deadline_ms => {
                self.earlier_deadline.notify_one();
            }
            Some(_) => {}
            None if shard.is_dropped() => self.reload.notify_one(),
            None => {}
        }
    }

    fn ready(&self) -> Vec<Arc<HostedShard>> {
        let shards = self.shards.read();
        let ready = shards.values().filter_map(|slot| if let Slot::Ready(shard) = slot { Some(shard) } else { None });
        ready.cloned().collect()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn now(&self) -> Now {
        let boot_ms = i64::try_from(self.parts.clock.boot().as_millis()).unwrap_or(i64::MAX);
        Now { wall_ms: self.parts.clock.wall_ms(), boot_ms }
    }
}

fn group_config(config: &BrokerConfig) -> GroupConfig {
    GroupConfig {
        min_session_timeout_ms: config.group_min_session_timeout_ms,
        max_session_timeout_ms: config.group_max_session_timeout_ms,
        initial_rebalance_delay_ms: config.group_initial_rebalance_delay_ms,
        max_size: config.group_max_size,
        offset_metadata_max_bytes: config.offset_metadata_max_bytes,
        offsets_retention_ms: config.offsets_retention_minutes.saturating_mul(60_000),
        offsets_retention_check_interval_ms: config.offsets_retention_check_interval_ms,
        ..GroupConfig::default()
    }
}

#[cfg(test)]
mod tests;
