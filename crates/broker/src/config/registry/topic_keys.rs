//! Every topic configuration key of Kafka 4.3, by name, with the broker keys that its default comes from.

use super::Kind::{Boolean, Double, Int, List, Long, String};
use super::Update::ClusterWide;
use super::Valid::{Any, AtLeast, Between, Fraction, GzipLevel, OneOf, ThrottledReplicas};
use super::{ConfigKey, key};

/// One topic key.
#[derive(Debug)]
pub struct TopicKey {
    /// Name, type, default and validity. Topic keys can always change.
    pub key: ConfigKey,
    /// Broker keys that give its default, strongest first, each with the factor to the topic key's unit.
    pub synonyms: &'static [(&'static str, i64)],
    /// What it does here.
    pub documentation: &'static str,
}

/// All of them, ascending by name.
#[rustfmt::skip]
pub static TOPIC_KEYS: &[TopicKey] = &[
    TopicKey {
        key: key("cleanup.policy", List, Some("delete"), OneOf(&["compact", "delete"]), ClusterWide),
        synonyms: &[("log.cleanup.policy", 1)],
        documentation: "What becomes of old records: delete removes them by age and size, compact keeps the newest one of each key, both may be combined.",
    },
    TopicKey {
        key: key("compression.gzip.level", Int, Some("-1"), GzipLevel, ClusterWide),
        synonyms: &[("compression.gzip.level", 1)],
        documentation: "Level used when batches are recompressed with gzip.",
    },
    TopicKey {
        key: key("compression.lz4.level", Int, Some("9"), Between(1, 17), ClusterWide),
        synonyms: &[("compression.lz4.level", 1)],
        documentation: "Level used when batches are recompressed with lz4.",
    },
    TopicKey {
        key: key("compression.type", String, Some("producer"), OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), ClusterWide),
        synonyms: &[("compression.type", 1)],
        documentation: "Codec batches are stored with; producer keeps what the client chose.",
    },
    TopicKey {
        key: key("compression.zstd.level", Int, Some("3"), Between(-131072, 22), ClusterWide),
        synonyms: &[("compression.zstd.level", 1)],
        documentation: "Level used when batches are recompressed with zstd.",
    },
    TopicKey {
        key: key("delete.retention.ms", Long, Some("86400000"), AtLeast(0), ClusterWide),
        synonyms: &[("log.cleaner.delete.retention.ms", 1)],
        documentation: "How long tombstones stay readable in a compacted topic.",
    },
    TopicKey {
        key: key("file.delete.delay.ms", Long, Some("60000"), AtLeast(0), ClusterWide),
        synonyms: &[("log.segment.delete.delay.ms", 1)],
        documentation: "Accepted for compatibility: deleted ranges vanish from reads at once and from the store in the background.",
    },
    TopicKey {
        key: key("flush.messages", Long, Some("9223372036854775807"), AtLeast(1), ClusterWide),
        synonyms: &[("log.flush.interval.messages", 1)],
        documentation: "Accepted for compatibility: every acknowledged record is already on stable storage.",
    },
    TopicKey {
        key: key("flush.ms", Long, Some("9223372036854775807"), AtLeast(0), ClusterWide),
        synonyms: &[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)],
        documentation: "Accepted for compatibility: every acknowledged record is already on stable storage.",
    },
    TopicKey {
        key: key("follower.replication.throttled.replicas", List, Some(""), ThrottledReplicas, ClusterWide),
        synonyms: &[],
        documentation: "Accepted for compatibility: no bytes are replicated between brokers.",
    },
    TopicKey {
        key: key("index.interval.bytes", Int, Some("4096"), AtLeast(0), ClusterWide),
        synonyms: &[("log.index.interval.bytes", 1)],
        documentation: "Accepted for compatibility: objects carry their own index.",
    },
    TopicKey {
        key: key("leader.replication.throttled.replicas", List, Some(""), ThrottledReplicas, ClusterWide),
        synonyms: &[],
        documentation: "Accepted for compatibility: no bytes are replicated between brokers.",
    },
    TopicKey {
        key: key("local.retention.bytes", Long, Some("-2"), AtLeast(-2), ClusterWide),
        synonyms: &[("log.local.retention.bytes", 1)],
        documentation: "Accepted for compatibility: there is no local tier.",
    },
    TopicKey {
        key: key("local.retention.ms", Long, Some("-2"), AtLeast(-2), ClusterWide),
        synonyms: &[("log.local.retention.ms", 1)],
        documentation: "Accepted for compatibility: there is no local tier.",
    },
    TopicKey {
        key: key("max.compaction.lag.ms", Long, Some("9223372036854775807"), AtLeast(1), ClusterWide),
        synonyms: &[("log.cleaner.max.compaction.lag.ms", 1)],
        documentation: "Longest time a superseded record may escape the log cleaner.",
    },
    TopicKey {
        key: key("max.message.bytes", Int, Some("1048588"), AtLeast(0), ClusterWide),
        synonyms: &[("message.max.bytes", 1)],
        documentation: "Largest record batch, in bytes as stored, after compression.",
    },
    TopicKey {
        key: key("message.timestamp.after.max.ms", Long, Some("3600000"), AtLeast(0), ClusterWide),
        synonyms: &[("log.message.timestamp.after.max.ms", 1)],
        documentation: "How far a record's timestamp may lie ahead of the broker's clock.",
    },
    TopicKey {
        key: key("message.timestamp.before.max.ms", Long, Some("9223372036854775807"), AtLeast(0), ClusterWide),
        synonyms: &[("log.message.timestamp.before.max.ms", 1)],
        documentation: "How far a record's timestamp may lie behind the broker's clock.",
    },
    TopicKey {
        key: key("message.timestamp.type", String, Some("CreateTime"), OneOf(&["CreateTime", "LogAppendTime"]), ClusterWide),
        synonyms: &[("log.message.timestamp.type", 1)],
        documentation: "Whether records carry the producer's time or that of the append.",
    },
    TopicKey {
        key: key("min.cleanable.dirty.ratio", Double, Some("0.5"), Fraction(0.0, 1.0), ClusterWide),
        synonyms: &[("log.cleaner.min.cleanable.ratio", 1)],
        documentation: "Share of uncleaned bytes from which the log cleaner starts on a partition.",
    },
    TopicKey {
        key: key("min.compaction.lag.ms", Long, Some("0"), AtLeast(0), ClusterWide),
        synonyms: &[("log.cleaner.min.compaction.lag.ms", 1)],
        documentation: "Shortest time a record stays untouched by the log cleaner.",
    },
    TopicKey {
        key: key("min.insync.replicas", Int, Some("1"), AtLeast(1), ClusterWide),
        synonyms: &[("min.insync.replicas", 1)],
        documentation: "Accepted for compatibility: durability comes from the log and the object store, and never fails a produce.",
    },
    TopicKey {
        key: key("preallocate", Boolean, Some("false"), Any, ClusterWide),
        synonyms: &[("log.preallocate", 1)],
        documentation: "Accepted for compatibility: partitions have no files.",
    },
    TopicKey {
        key: key("remote.log.copy.disable", Boolean, Some("false"), Any, ClusterWide),
        synonyms: &[],
        documentation: "Accepted for compatibility: Ottla always stores in objects.",
    },
    TopicKey {
        key: key("remote.log.delete.on.disable", Boolean, Some("false"), Any, ClusterWide),
        synonyms: &[],
        documentation: "Accepted for compatibility: Ottla always stores in objects.",
    },
    TopicKey {
        key: key("remote.storage.enable", Boolean, Some("false"), Any, ClusterWide),
        synonyms: &[],
        documentation: "Must stay false: Ottla always stores in objects and has no second tier.",
    },
    TopicKey {
        key: key("retention.bytes", Long, Some("-1"), Any, ClusterWide),
        synonyms: &[("log.retention.bytes", 1)],
        documentation: "Bytes a partition keeps; -1 sets no bound.",
    },
    TopicKey {
        key: key("retention.ms", Long, Some("604800000"), AtLeast(-1), ClusterWide),
        synonyms: &[("log.retention.ms", 1), ("log.retention.minutes", 60000), ("log.retention.hours", 3600000)],
        documentation: "How long records are kept; -1 keeps them for ever.",
    },
    TopicKey {
        key: key("segment.bytes", Int, Some("1073741824"), AtLeast(1048576), ClusterWide),
        synonyms: &[("log.segment.bytes", 1)],
        documentation: "Bytes after which the active range of a partition is closed; only closed ranges expire.",
    },
    TopicKey {
        key: key("segment.index.bytes", Int, Some("10485760"), AtLeast(4), ClusterWide),
        synonyms: &[("log.index.size.max.bytes", 1)],
        documentation: "Accepted for compatibility: objects carry their own index.",
    },
    TopicKey {
        key: key("segment.jitter.ms", Long, Some("0"), AtLeast(0), ClusterWide),
        synonyms: &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", 3600000)],
        documentation: "Accepted for compatibility: closing a range costs no burst of I/O.",
    },
    TopicKey {
        key: key("segment.ms", Long, Some("604800000"), AtLeast(1), ClusterWide),
        synonyms: &[("log.roll.ms", 1), ("log.roll.hours", 3600000)],
        documentation: "Age after which the active range of a partition is closed; only closed ranges expire.",
    },
    TopicKey {
        key: key("unclean.leader.election.enable", Boolean, Some("false"), Any, ClusterWide),
        synonyms: &[("unclean.leader.election.enable", 1)],
        documentation: "Accepted for compatibility: a new leader always continues from the same log.",
    },
];
