use crate::config::TopicConfig;

/// Kafka's defaults.
pub(crate) fn config() -> TopicConfig {
    TopicConfig {
        max_message_bytes: 1_048_588,
        compression: None,
        log_append_time: false,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        compact: false,
        delete: true,
        retention_ms: 604_800_000,
        retention_bytes: -1,
        segment_bytes: 1 << 30,
        segment_ms: 604_800_000,
        min_insync_replicas: 1,
    }
}
