use std::sync::Arc;

use metadata::ConfigResource;

use super::super::Properties;
use super::*;

fn effective(entries: &[(&str, &str)], properties: &str) -> TopicConfig {
    let mut image = MetadataImage::default();
    let entries = entries.iter().map(|&(name, value)| (Arc::from(name), Arc::from(value))).collect();
    image.configs.insert(ConfigResource::Topic(Arc::from("t")), entries);
    let properties = Properties::parse(properties).expect("properties");
    let (config, _) = BrokerConfig::load(properties, false).expect("valid");
    TopicConfig::effective(&image, "t", &config)
}

#[test]
fn defaults_are_kafkas() {
    let expected = TopicConfig {
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
    };
    assert_eq!(effective(&[], ""), expected);
}

#[test]
fn topic_entries_win() {
    let entries = [
        ("compression.type", "zstd"),
        ("compression.zstd.level", "7"),
        ("cleanup.policy", "compact, delete"),
        ("message.timestamp.type", "LogAppendTime"),
        ("retention.ms", "-1"),
    ];
    let config = effective(&entries, "compression.type=gzip\nlog.retention.hours=1");
    assert_eq!(config.compression, Some(Codec::Zstd(7)));
    assert!(config.compact && config.delete && config.log_append_time);
    assert_eq!(config.retention_ms, -1);
    assert_eq!(effective(&[], "compression.type=gzip").compression, Some(Codec::Gzip(-1)));
    assert!(!effective(&[("cleanup.policy", "")], "").delete);
}

#[test]
fn entries_are_checked_together_too() {
    let check = |entries: &[(&str, &str)]| check_topic_configs(entries.iter().copied());
    assert_eq!(check(&[("nope", "1")]), Err("Unknown topic config name: nope".to_owned()));
    assert_eq!(
        check(&[("max.compaction.lag.ms", "1"), ("min.compaction.lag.ms", "5")]),
        Err("conflict topic config setting min.compaction.lag.ms (5) > max.compaction.lag.ms (1)".to_owned())
    );
    assert!(check(&[("remote.storage.enable", "true")]).is_err());
    assert_eq!(check(&[("remote.storage.enable", "false"), ("retention.ms", "5")]), Ok(()));
}
