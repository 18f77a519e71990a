mod append;
mod reopen;
pub(crate) mod rig;
mod search;
mod wait;

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
        delete_retention_ms: 86_400_000,
        min_compaction_lag_ms: 0,
        max_compaction_lag_ms: i64::MAX,
        min_insync_replicas: 1,
    }
}
