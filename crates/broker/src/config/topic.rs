//! The effective configuration of a topic, and what may be set for one.

use metadata::MetadataImage;

use super::registry::{parse_list, topic_key};
use super::{BrokerConfig, Codec, Layers, TopicConfig};

/// Topics that Kafka keeps for itself.
#[must_use]
pub fn is_internal_topic(name: &str) -> bool {
    matches!(name, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}

/// Checks what is to be set for a topic, one by one and together. `lookup` gives the value a key will then
/// have.
///
/// # Errors
/// Kafka's sentence for INVALID_CONFIG.
pub fn check_topic_configs<'a>(entries: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Result<(), String> {
    for (name, value) in entries.clone() {
        let topic = topic_key(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
        topic.key.check(value)?;
    }
    let number = |name: &str| {
        let own = entries.clone().filter(|(key, _)| *key == name).last().map(|(_, value)| value);
        let default = topic_key(name).and_then(|topic| topic.key.default);
        own.or(default).and_then(|value| value.trim().parse::<i64>().ok()).unwrap_or_default()
    };
    let (min_lag, max_lag) = (number("min.compaction.lag.ms"), number("max.compaction.lag.ms"));
    if min_lag > max_lag {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({min_lag}) > max.compaction.lag.ms ({max_lag})"
        ));
    }
    let remote = entries.clone().filter(|(key, _)| *key == "remote.storage.enable").last();
    if remote.is_some_and(|(_, value)| value.trim().eq_ignore_ascii_case("true")) {
        return Err("Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote \
                    log storage."
            .to_owned());
    }
    Ok(())
}

impl TopicConfig {
    /// What holds for a topic on the broker with that static configuration.
    #[must_use]
    pub fn effective(image: &MetadataImage, topic: &str, config: &BrokerConfig) -> Self {
        let layers = Layers::new(image, config);
        let entries = layers.topic_entries(topic);
        let text = |name: &str| topic_key(name).map(|key| layers.topic_value(entries, key).0).unwrap_or_default();
        // Every value passed its key's check, so that it parses; zero is never reached.
        let long = |name: &str| text(name).parse::<i64>().unwrap_or_default();
        let int = |name: &str| i32::try_from(long(name)).unwrap_or(i32::MAX);
        let bytes = |name: &str| u32::try_from(long(name)).unwrap_or_default();
        let policy = text("cleanup.policy");
        let policies = parse_list(&policy);
        Self {
            max_message_bytes: bytes("max.message.bytes"),
            compression: match text("compression.type").as_str() {
                "uncompressed" => Some(Codec::Uncompressed),
                "gzip" => Some(Codec::Gzip(int("compression.gzip.level"))),
                "snappy" => Some(Codec::Snappy),
                "lz4" => Some(Codec::Lz4(int("compression.lz4.level"))),
                "zstd" => Some(Codec::Zstd(int("compression.zstd.level"))),
                _ => None,
            },
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            compact: policies.contains(&"compact"),
            delete: policies.contains(&"delete"),
            retention_ms: long("retention.ms"),
            retention_bytes: long("retention.bytes"),
            segment_bytes: bytes("segment.bytes"),
            segment_ms: long("segment.ms"),
            delete_retention_ms: long("delete.retention.ms"),
            min_compaction_lag_ms: long("min.compaction.lag.ms"),
            max_compaction_lag_ms: long("max.compaction.lag.ms"),
            min_insync_replicas: int("min.insync.replicas"),
        }
    }
}

#[cfg(test)]
mod tests;
