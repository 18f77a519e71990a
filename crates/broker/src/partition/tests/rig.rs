//! One partition on a real stream store, whose log, metadata and objects survive crashes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use common::supervisor::Supervisor;
use common::{Clock, Lsn, ManualClock, NodeEpoch, NodeId, SeededRandom, StreamId};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use protocol::batch::{Attributes, BatchBuilder};
use s3stream::testing::{MemoryLog, MemoryMetadata};
use s3stream::{Parts, Settings, StreamStore};
use uuid::Uuid;
use wal::{Recovered, WriteAheadLog};

use crate::cluster::Lease;
use crate::config::TopicConfig;
use crate::partition::verification::GuardNumbers;
use crate::partition::{AppendOrigin, AppendRefused, AppendedBatch, Environment, Partition, Topic, TransactionMarker};

pub(super) const NOW: i64 = 1_700_000_000_000;
pub(super) const CLIENT: AppendOrigin =
    AppendOrigin::Client { produce_version: 11, behind_refusal: false, guard: None };
pub(crate) const STREAM: StreamId = StreamId(7);

pub(crate) struct Rig {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) metadata: Arc<MemoryMetadata>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) store: Arc<StreamStore>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) topic: Arc<Topic>,
    pub(crate) leader_epoch: i32,
    pub(crate) supervisor: Supervisor,
}

pub(crate) fn topic(name: &str, config: TopicConfig) -> Arc<Topic> {
    Arc::new(Topic { id: Uuid::from_u128(1), name: name.into(), config: ArcSwap::from_pointee(config) })
}

impl Rig {
    /// A log that is flushed when the test says so.
    pub(super) fn manual() -> Self {
        Self::new(MemoryLog::new(64 << 20, 1 << 20, false), super::config())
    }

    /// A log that makes every append durable at once.
    pub(crate) fn durable() -> Self {
        Self::new(MemoryLog::new(64 << 20, 1 << 20, true), super::config())
    }

    pub(crate) fn new(log: MemoryLog, config: TopicConfig) -> Self {
        let metadata = Arc::new(MemoryMetadata::default());
        metadata.create_stream(STREAM);
        let clock = Arc::new(ManualClock::at(NOW));
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        Self::start(Arc::new(log), Recovered::default(), metadata, objects, clock, topic("t", config), 0)
    }

    fn start(
        log: Arc<MemoryLog>,
        recovered: Recovered,
        metadata: Arc<MemoryMetadata>,
        objects: Arc<dyn ObjectStore>,
        clock: Arc<ManualClock>,
        topic: Arc<Topic>,
        leader_epoch: i32,
    ) -> Self {
        let supervisor = Supervisor::default();
        let parts = Parts {
            wal: log.clone(),
            recovered,
            objects: Arc::clone(&objects),
            stream_manager: metadata.clone(),
            object_manager: metadata.clone(),
            clock: clock.clone(),
            random: Arc::new(SeededRandom::new(7)),
            supervisor: supervisor.clone(),
        };
        let settings = Settings {
            node: NodeId(1),
            node_epoch: NodeEpoch(1 + leader_epoch as u64),
            prefix: "test".to_owned(),
            upload_bytes: u64::MAX / 4,
            upload_age_ms: u64::MAX / 4,
            log_cache_bytes: 1 << 20,
            block_cache_bytes: 16 << 20,
            tail_index_bytes: 1 << 20,
        };
        let store = StreamStore::start(settings, parts).expect("starts");
        Self { log, metadata, objects, store, clock, topic, leader_epoch, supervisor }
    }

    /// Kills the broker; another life starts on what the log kept.
    pub(crate) async fn crash(self) -> Self {
        self.supervisor.stop(Duration::ZERO).await;
        let (log, recovered) = self.log.crash();
        let Self { metadata, objects, clock, topic, leader_epoch, .. } = self;
        Self::start(Arc::new(log), recovered, metadata, objects, clock, topic, leader_epoch + 1)
    }

    pub(crate) async fn open(&self) -> Arc<Partition> {
        let epoch = self.metadata.open_stream(STREAM);
        let stream = self.store.open(STREAM, epoch).expect("opens");
        let clock: Arc<dyn Clock> = self.clock.clone();
        let environment = Arc::new(Environment {
            lease: Arc::new(Lease::for_good(Arc::clone(&clock))),
            clock,
            durable: Arc::clone(self.log.durable()),
            guards: GuardNumbers::default(),
        });
        Partition::open(environment, Arc::clone(&self.topic), 0, self.leader_epoch, stream).await.expect("opens")
    }
}

/// A batch of `records` records from an idempotent producer, timestamps counting up from [`NOW`].
pub(super) fn idempotent(producer_id: i64, epoch: i16, base_sequence: i32, records: i32) -> Bytes {
    fill(BatchBuilder::new().with_producer(producer_id, epoch, base_sequence), records)
}

/// The same as part of a transaction.
pub(super) fn transactional(producer_id: i64, epoch: i16, base_sequence: i32, records: i32) -> Bytes {
    let attributes = Attributes::default().with_transactional(true);
    fill(BatchBuilder::new().with_producer(producer_id, epoch, base_sequence).with_attributes(attributes), records)
}

/// A marker of transaction version 1 from a coordinator of epoch 3.
pub(super) fn marker(producer_id: i64, producer_epoch: i16, commit: bool) -> TransactionMarker {
    TransactionMarker { producer_id, producer_epoch, commit, coordinator_epoch: 3, transaction_version: 1 }
}

pub(crate) fn plain(records: i32) -> Bytes {
    fill(BatchBuilder::new(), records)
}

pub(super) fn fill(mut builder: BatchBuilder, records: i32) -> Bytes {
    for index in 0..records {
        builder.push(NOW + i64::from(index), Some(b"key"), Some(format!("value {index}").as_bytes()));
    }
    builder.build(0, -1)
}

pub(super) fn append(partition: &Partition, batch: &Bytes) -> Result<AppendedBatch, AppendRefused> {
    partition.append(batch, CLIENT)
}

/// Appends a batch that must be taken; its base offset and log position.
pub(crate) fn accepted(partition: &Partition, batch: &Bytes) -> (i64, Lsn) {
    let appended = append(partition, batch).expect("accepted");
    (appended.base_offset.0, appended.lsn)
}

pub(super) fn code(result: Result<AppendedBatch, AppendRefused>) -> i16 {
    result.expect_err("refused").code
}
