//! Retention by time and size. It looks at a partition's committed object ranges, the closed units that Kafka's
//! segments are elsewhere, and moves the log start over those that are past retention.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::Offset;
use s3stream::{CommittedRange, ObjectManager};

use super::{Partition, Partitions};
use crate::config::TopicConfig;

/// Ranges looked at in one round; what is left waits for the next.
const RANGES_PER_ROUND: usize = 4096;
/// How often producers are looked at for expiry (`producer.id.expiration.check.interval.ms`).
const PRODUCER_EXPIRY_INTERVAL: Duration = Duration::from_secs(600);

/// Where the log should start now, `None` to leave it. `ranges` are all ranges from the log start on, in order;
/// `size` counts what follows them, too.
///
/// * Time: leading ranges whose newest record is older than `retention.ms`. A range without any timestamp never is.
/// * Size: leading ranges as long as `retention.bytes` remain. Data that Kafka would hold in its active segment, the newest
///   `segment.bytes` that are not older than `segment.ms`, is not deleted for size, as there.
fn new_log_start(ranges: &[CommittedRange], size: u64, config: &TopicConfig, now_ms: i64) -> Option<Offset> {
    if !config.delete {
        return None;
    }
    let older = |range: &CommittedRange, age_ms: i64| {
        range.max_timestamp_ms >= 0 && age_ms >= 0 && now_ms.saturating_sub(range.max_timestamp_ms) > age_ms
    };
    let mut remaining = size;
    let mut start = None;
    for range in ranges {
        let after = remaining.saturating_sub(range.bytes);
        let expired = config.retention_ms >= 0 && older(range, config.retention_ms);
        let closed = after >= u64::from(config.segment_bytes) || older(range, config.segment_ms);
        let too_many = u64::try_from(config.retention_bytes).is_ok_and(|bytes| after >= bytes);
        if !(expired || (closed && too_many)) {
            break;
        }
        start = Some(range.end);
        remaining = after;
    }
    start
}

impl Partition {
    /// Deletes what is past retention; returns the new log start if it moved.
    async fn retain(&self, objects: &dyn ObjectManager) -> Result<Option<Offset>, s3stream::PortError> {
        let config = self.topic().config.load_full();
        let start = self.log_start();
        let ranges = objects.ranges(self.stream().id(), start, self.high_watermark(), RANGES_PER_ROUND);
        let now_ms = self.environment.clock.wall_ms();
        let Some(new_start) = new_log_start(&ranges, self.size_bytes(), &config, now_ms) else { return Ok(None) };
        let new_start = new_start.min(self.high_watermark());
        if new_start <= start {
            return Ok(None);
        }
        self.trim(new_start).await?;
        Ok(Some(new_start))
    }
}

/// Looks at all partitions every `interval`.
pub(crate) async fn run(
    partitions: Partitions,
    objects: Arc<dyn ObjectManager>,
    interval: Duration,
    producer_expiration_ms: impl Fn() -> i64 + Send,
) -> Infallible {
    let mut retention = tokio::time::interval(interval.max(Duration::from_millis(1)));
    let mut expiry = tokio::time::interval(PRODUCER_EXPIRY_INTERVAL);
    loop {
        tokio::select! {
            _ = retention.tick() => retain_all(&partitions, objects.as_ref()).await,
            _ = expiry.tick() => {
                let producer_expiration_ms = producer_expiration_ms();
                for partition in partitions.open() {
                    partition.expire_producers(producer_expiration_ms);
                }
            }
        }
    }
}

async fn retain_all(partitions: &Partitions, objects: &dyn ObjectManager) {
    for partition in partitions.open() {
        match partition.retain(objects).await {
            Ok(None) => {}
            Ok(Some(start)) => tracing::info!(?partition, %start, "deleted records past retention"),
            Err(error) => tracing::warn!(?partition, %error, "retention could not move the log start; it tries again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{NodeEpoch, ObjectId};
    use s3stream::ObjectDescriptor;

    const NOW: i64 = 1_000_000;

    /// Ranges of ten offsets each: bytes and newest timestamp.
    fn ranges(units: &[(u64, i64)]) -> Vec<CommittedRange> {
        let object = ObjectDescriptor { id: ObjectId(1), node_epoch: NodeEpoch(1), attempt: 0, size: 1 };
        let range = |(index, &(bytes, max_timestamp_ms)): (usize, &(u64, i64))| {
            let start = Offset(index as i64 * 10);
            CommittedRange { object, start, end: start.plus(10), bytes, max_timestamp_ms }
        };
        units.iter().enumerate().map(range).collect()
    }

    fn config(retention_ms: i64, retention_bytes: i64, segment_bytes: u32) -> TopicConfig {
        TopicConfig {
            retention_ms,
            retention_bytes,
            segment_bytes,
            segment_ms: 500_000,
            ..super::super::tests::config()
        }
    }

    fn start(units: &[(u64, i64)], tail: u64, config: &TopicConfig) -> Option<i64> {
        let ranges = ranges(units);
        let size = ranges.iter().map(|range| range.bytes).sum::<u64>() + tail;
        new_log_start(&ranges, size, config, NOW).map(|offset| offset.0)
    }

    #[test]
    fn time_deletes_leading_expired_units_only() {
        let units = [(10, NOW - 200), (10, NOW - 150), (10, NOW - 50), (10, NOW - 300)];
        assert_eq!(start(&units, 0, &config(100, -1, 1)), Some(20));
        assert_eq!(start(&units, 0, &config(-1, -1, 1)), None);
        assert_eq!(start(&units, 0, &config(0, -1, 1)), Some(40));
        assert_eq!(start(&[(10, NOW + 9_000), (10, 5)], 0, &config(100, -1, 1)), None, "the future pins");
        assert_eq!(start(&[(10, -1)], 0, &config(100, -1, 1)), None, "no timestamp, no age");
    }

    #[test]
    fn size_keeps_at_least_what_is_configured() {
        let units = [(10, NOW), (10, NOW), (10, NOW), (10, NOW)];
        assert_eq!(start(&units, 5, &config(-1, 25, 1)), Some(20));
        assert_eq!(start(&units, 5, &config(-1, 24, 1)), Some(20));
        assert_eq!(start(&units, 5, &config(-1, 45, 1)), None);
        assert_eq!(start(&units, 0, &config(-1, 0, 1)), Some(30), "the active unit stays");
    }

    #[test]
    fn size_spares_what_kafka_would_hold_in_its_active_segment() {
        let units = [(10, NOW), (10, NOW), (10, NOW)];
        assert_eq!(start(&units, 0, &config(-1, 0, 20)), Some(10));
        let aged = [(10, NOW - 600_000), (10, NOW - 600_000), (10, NOW)];
        assert_eq!(start(&aged, 0, &config(-1, 0, 20)), Some(20), "segment.ms closes a unit as well");
    }

    #[test]
    fn a_compacted_topic_is_left_alone() {
        let compacted = TopicConfig { delete: false, compact: true, ..config(1, 1, 1) };
        assert_eq!(start(&[(10, 5), (10, 5)], 0, &compacted), None);
    }
}
