//! Which of Kafka's broker keys have an effect in Ottla, and Ottla's own keys.

use super::registry::{ConfigKey, Kind, Update, Valid};

/// Kafka's keys with Kafka's effect, or the nearest that shared storage has.
pub(super) static HONOURED: &[&str] = &[
    "advertised.listeners",
    "auto.create.topics.enable",
    "broker.heartbeat.interval.ms",
    "broker.id",
    "broker.rack",
    "broker.session.timeout.ms",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "connections.max.idle.ms",
    "controller.listener.names",
    "controller.quorum.bootstrap.servers",
    "controller.quorum.election.timeout.ms",
    "controller.quorum.voters",
    "default.replication.factor",
    "delete.topic.enable",
    "fetch.max.bytes",
    "group.consumer.assignors",
    "group.consumer.heartbeat.interval.ms",
    "group.consumer.max.size",
    "group.consumer.session.timeout.ms",
    "group.initial.rebalance.delay.ms",
    "group.max.session.timeout.ms",
    "group.max.size",
    "group.min.session.timeout.ms",
    "listener.security.protocol.map",
    "listeners",
    "log.cleanup.policy",
    "log.dir",
    "log.dirs",
    "log.message.timestamp.after.max.ms",
    "log.message.timestamp.before.max.ms",
    "log.message.timestamp.type",
    "log.retention.bytes",
    "log.retention.check.interval.ms",
    "log.retention.hours",
    "log.retention.minutes",
    "log.retention.ms",
    "log.roll.hours",
    "log.roll.ms",
    "log.segment.bytes",
    "max.connections",
    "max.connections.per.ip",
    "max.incremental.fetch.session.cache.slots",
    "message.max.bytes",
    "node.id",
    "num.partitions",
    "offset.metadata.max.bytes",
    "offsets.retention.check.interval.ms",
    "offsets.retention.minutes",
    "offsets.topic.num.partitions",
    "offsets.topic.replication.factor",
    "process.roles",
    "producer.id.expiration.ms",
    "queued.max.request.bytes",
    "socket.request.max.bytes",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms",
    "transaction.max.timeout.ms",
    "transaction.remove.expired.transaction.cleanup.interval.ms",
    "transaction.state.log.num.partitions",
    "transaction.state.log.replication.factor",
    "transactional.id.expiration.ms",
];

/// Keys that Kafka changes while it runs and Ottla does not: they would need Java plugins, or what is not built yet.
const FIXED: &[&str] =
    &["config.providers", "max.connection.creation.rate", "max.connections.per.ip.overrides", "metric.reporters"];

/// Whether a key may change while the broker runs. Keys of one broker alone concern its sockets and security, which
/// take effect by a restart here. Keys without any effect (thread counts and the like) change without any, as they do
/// in a properties file.
pub(super) fn is_dynamic(key: &ConfigKey) -> bool {
    key.update == Update::ClusterWide && !FIXED.contains(&key.name)
}

/// Kafka's keys that are accepted, but whose promise is not kept yet: an operator must hear of it.
pub(super) static WARNED: &[(&str, &str)] = &[
    ("authorizer.class.name", "access control comes in a later version; every client may do everything"),
    ("client.quota.callback.class", "quotas come in a later version"),
    ("create.topic.policy.class.name", "Java plugins cannot be loaded; no policy is applied"),
    ("alter.config.policy.class.name", "Java plugins cannot be loaded; no policy is applied"),
    ("principal.builder.class", "Java plugins cannot be loaded"),
];

const fn own(name: &'static str, kind: Kind, default: Option<&'static str>, valid: Valid) -> ConfigKey {
    ConfigKey { name, kind, default, valid, update: Update::ReadOnly }
}

/// `ottla.*`, and the keys of Kafka's authorizer, which its own table lacks because plugins read them.
pub(super) static OTTLA_KEYS: &[ConfigKey] = &[
    own("allow.everyone.if.no.acl.found", Kind::Boolean, Some("false"), Valid::Any),
    own("ottla.admin.listener", Kind::String, Some("127.0.0.1:9644"), Valid::Any),
    own("ottla.balance", Kind::String, Some("on"), Valid::Any),
    own("ottla.block.cache.bytes", Kind::Long, Some("-1"), Valid::AtLeast(-1)),
    own("ottla.insecure", Kind::Boolean, Some("false"), Valid::Any),
    own("ottla.log.cache.bytes", Kind::Long, Some("-1"), Valid::AtLeast(-1)),
    own("ottla.lost.after.ms", Kind::Long, Some("1000"), Valid::AtLeast(100)),
    own("ottla.memory.bytes", Kind::Long, Some("1073741824"), Valid::AtLeast(64 << 20)),
    own("ottla.metadata.backup.interval.ms", Kind::Long, Some("60000"), Valid::AtLeast(1000)),
    own("ottla.object.store.url", Kind::String, None, Valid::Any),
    own("ottla.peer.listener", Kind::String, None, Valid::Any),
    own("ottla.response.bytes.in.flight", Kind::Long, Some("-1"), Valid::AtLeast(-1)),
    own("ottla.tail.index.bytes", Kind::Long, Some("-1"), Valid::AtLeast(-1)),
    own("ottla.wal.capacity.bytes", Kind::Long, Some("1073741824"), Valid::AtLeast(128 << 20)),
    own("ottla.wal.class", Kind::String, None, Valid::Any),
    own("ottla.wal.upload.bytes", Kind::Long, Some("67108864"), Valid::AtLeast(1 << 20)),
    own("ottla.wal.upload.interval.ms", Kind::Long, Some("1000"), Valid::AtLeast(10)),
    own("ottla.wal.url", Kind::String, None, Valid::Any),
    own("super.users", Kind::String, Some(""), Valid::Any),
];

#[cfg(test)]
mod tests {
    use super::super::registry::broker_key;
    use super::*;

    #[test]
    fn every_name_is_one_of_kafkas() {
        for name in HONOURED.iter().chain(FIXED).chain(WARNED.iter().map(|(name, _)| name)) {
            assert!(broker_key(name).is_some(), "{name}");
        }
        assert!(HONOURED.is_sorted());
    }
}
