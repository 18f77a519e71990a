//! Configuration: Kafka's own property names wherever they exist, `ottla.*` for the rest.

pub mod alter;
mod describe;
mod honoured;
mod layers;
mod listeners;
mod load;
mod properties;
mod quorum;
pub mod registry;
mod topic;

use std::path::PathBuf;

use common::NodeId;
use coordinator::Assignor;

pub use describe::{Described, describe};
pub use layers::{Layers, Source, Synonym};
pub use listeners::PeerEndpoint;
pub use load::Notices;
pub use properties::{Properties, PropertiesError};
pub use quorum::QuorumConfig;
pub use topic::{check_topic_configs, is_internal_topic};

/// A property that cannot be accepted. Its text is what an operator reads, so it says which and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ConfigError {
    text: String,
}

impl ConfigError {
    pub(crate) fn new(key: &str, problem: impl std::fmt::Display) -> Self {
        Self { text: format!("{key}: {problem}") }
    }

    /// From a sentence that may name key and value already.
    pub(crate) fn invalid(key: &str, sentence: String) -> Self {
        if sentence.contains(key) { Self { text: sentence } } else { Self::new(key, sentence) }
    }
}

/// Static configuration of one broker, checked.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `node.id`.
    pub node_id: NodeId,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `log.dirs` (the first one) or `--data-dir`: WAL, Raft log, and the default object store live below it.
    pub data_dir: PathBuf,
    /// `listeners` of security protocol PLAINTEXT: name, host and port to bind. None where this node is no broker.
    pub listeners: Vec<Listener>,
    /// Roles, voters, peers.
    pub quorum: QuorumConfig,
    /// `ottla.wal.class`: what survives the loss of this node.
    pub wal_class: wal::WalClass,
    /// Address of the admin HTTP port; `None` switches it off.
    pub admin_address: Option<String>,
    /// `ottla.object.store.url`; default `file://<data_dir>/store`.
    pub object_store_url: String,
    /// `ottla.wal.url`; default `file://<data_dir>/wal`.
    pub wal_url: String,
    /// `ottla.wal.capacity.bytes`.
    pub wal_capacity_bytes: u64,
    /// `ottla.wal.upload.bytes`: un-uploaded bytes that start an upload.
    pub upload_bytes: u64,
    /// `ottla.wal.upload.interval.ms`.
    pub upload_interval_ms: u64,
    /// `ottla.log.cache.bytes`.
    pub log_cache_bytes: u64,
    /// `ottla.block.cache.bytes`.
    pub block_cache_bytes: u64,
    /// `ottla.tail.index.bytes`.
    pub tail_index_bytes: u64,
    /// `queued.max.request.bytes`: request bytes in flight over all connections.
    pub request_bytes_in_flight: u64,
    /// `ottla.response.bytes.in.flight`: response bytes waiting to be sent over all connections.
    pub response_bytes_in_flight: u64,
    /// `socket.request.max.bytes`.
    pub socket_request_max_bytes: u32,
    /// `connections.max.idle.ms`.
    pub connections_max_idle_ms: u64,
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: u32,
    /// `max.incremental.fetch.session.cache.slots`.
    pub fetch_session_slots: usize,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `delete.topic.enable`.
    pub delete_topics: bool,
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_partitions: i32,
    /// `offsets.topic.replication.factor`.
    pub offsets_topic_replication_factor: i16,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`.
    pub offsets_retention_minutes: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
    /// `group.initial.rebalance.delay.ms`.
    pub group_initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`.
    pub group_min_session_timeout_ms: i64,
    /// `group.max.session.timeout.ms`.
    pub group_max_session_timeout_ms: i64,
    /// `group.max.size`.
    pub group_max_size: usize,
    /// `transaction.state.log.num.partitions`.
    pub transaction_topic_partitions: i32,
    /// `transaction.state.log.replication.factor`.
    pub transaction_topic_replication_factor: i16,
    /// `transaction.max.timeout.ms`.
    pub transaction_max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`.
    pub transactional_id_expiration_ms: i64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`.
    pub transaction_abort_interval_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub transaction_remove_interval_ms: i64,
    /// `group.consumer.session.timeout.ms`.
    pub group_consumer_session_timeout_ms: i64,
    /// `group.consumer.heartbeat.interval.ms`.
    pub group_consumer_heartbeat_interval_ms: i64,
    /// `group.consumer.max.size`.
    pub group_consumer_max_size: usize,
    /// First of `group.consumer.assignors`.
    pub group_consumer_default_assignor: Assignor,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval_ms: u64,
    /// Every property as given, in order: what DescribeConfigs reports as static broker configuration and
    /// topic defaults derive from (`log.retention.ms`, `message.max.bytes`, …).
    pub properties: Vec<(String, String)>,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Name, such as `PLAINTEXT`.
    pub name: String,
    /// Host to bind.
    pub host: String,
    /// Port to bind; 0 for any.
    pub port: u16,
    /// Host that clients are told.
    pub advertised_host: String,
    /// Port that clients are told; 0 for the bound one.
    pub advertised_port: u16,
}

/// Effective configuration of one topic, typed, for the hot path. Built from the image (topic entries over
/// dynamic broker entries over static properties over Kafka's defaults) whenever one of them changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `max.message.bytes`: of a whole batch as stored.
    pub max_message_bytes: u32,
    /// `compression.type`: `None` is `producer`.
    pub compression: Option<Codec>,
    /// `message.timestamp.type` is LogAppendTime.
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `cleanup.policy` contains `compact`.
    pub compact: bool,
    /// `cleanup.policy` contains `delete`.
    pub delete: bool,
    /// `retention.ms`, -1 for ever.
    pub retention_ms: i64,
    /// `retention.bytes`, -1 without bound.
    pub retention_bytes: i64,
    /// `segment.bytes`.
    pub segment_bytes: u32,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `min.insync.replicas`: accepted, never a cause of failure.
    pub min_insync_replicas: i32,
}

/// `compression.type` other than `producer`, with its level where the topic sets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// `uncompressed`.
    Uncompressed,
    /// `gzip`.
    Gzip(i32),
    /// `snappy`.
    Snappy,
    /// `lz4`.
    Lz4(i32),
    /// `zstd`.
    Zstd(i32),
}
