//! What the broker counts, under the names that dashboards for Apache Kafka expect (those the usual JMX exporter
//! makes of Kafka's MBeans). Counting is a few relaxed additions; everything else happens when somebody looks.

mod exposition;
mod growth;
mod latency;
mod lives;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use uuid::Uuid;

pub use exposition::render;
use growth::Growth;
pub use latency::Latency;

/// Topics that are counted one by one; those beyond count in the totals alone.
const TOPICS_MAX: usize = 10_000;
/// API keys below this have a slot of their own.
const KEYS_MAX: usize = 96;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// What it has come to.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Requests of one API key.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    /// Requests received.
    pub requests: Count,
    /// Requests that were not answered: malformed, or of a version that is not supported.
    pub errors: Count,
    /// From the whole request read to its response handed to the socket.
    pub total_time: Latency,
}

impl RequestMetrics {
    /// Counts an answered request.
    pub fn answered(&self, total: Duration) {
        self.total_time.record(total);
    }
}

/// Traffic of one topic, or of all.
#[derive(Debug, Default)]
pub struct TopicMetrics {
    /// Records appended.
    pub messages_in: Count,
    /// Bytes of record batches appended.
    pub bytes_in: Count,
    /// Bytes of record batches sent to consumers.
    pub bytes_out: Count,
    /// Bytes of record batches refused.
    pub bytes_rejected: Count,
    /// Partitions that produce requests wrote to.
    pub produce_requests: Count,
    /// Partitions that fetch requests read from.
    pub fetch_requests: Count,
    /// Appends refused.
    pub failed_produce_requests: Count,
    /// Reads refused.
    pub failed_fetch_requests: Count,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    requests: Box<[RequestMetrics]>,
    /// All topics together.
    pub all_topics: TopicMetrics,
    topics: RwLock<HashMap<Uuid, Arc<TopicMetrics>>>,
    /// How fast the log is written.
    log_growth: Growth,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: (0..KEYS_MAX).map(|_| RequestMetrics::default()).collect(),
            all_topics: TopicMetrics::default(),
            topics: RwLock::default(),
            log_growth: Growth::default(),
        }
    }
}

impl Metrics {
    /// The counters of an API key. Keys that no broker has share the last slot.
    #[must_use]
    pub fn request(&self, key: i16) -> &RequestMetrics {
        let slot = usize::try_from(key).unwrap_or(KEYS_MAX - 1).min(KEYS_MAX - 1);
        &self.requests[slot]
    }

    /// The counters of a topic; `None` beyond the bound.
    #[must_use]
    pub fn topic(&self, id: Uuid) -> Option<Arc<TopicMetrics>> {
        if let Some(metrics) = self.topics.read().get(&id) {
            return Some(Arc::clone(metrics));
        }
        let mut topics = self.topics.write();
        if topics.len() >= TOPICS_MAX && !topics.contains_key(&id) {
            return None;
        }
        Some(Arc::clone(topics.entry(id).or_default()))
    }

    /// Counts on a topic and on all of them together.
    pub fn count(&self, topic: Uuid, count: impl Fn(&TopicMetrics)) {
        count(&self.all_topics);
        if let Some(metrics) = self.topic(topic) {
            count(&metrics);
        }
    }

    /// Forgets topics that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&Uuid) -> bool) {
        self.topics.write().retain(|id, _| exists(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_counted_apart_and_together_up_to_the_bound() {
        let metrics = Metrics::default();
        for id in 0..=TOPICS_MAX as u128 {
            metrics.count(Uuid::from_u128(id), |topic| topic.bytes_in.add(2));
        }
        assert_eq!(metrics.all_topics.bytes_in.get(), 2 * (TOPICS_MAX as u64 + 1));
        assert!(metrics.topic(Uuid::from_u128(TOPICS_MAX as u128)).is_none());
        metrics.retain(|id| *id == Uuid::from_u128(5));
        assert_eq!(metrics.topics.read().len(), 1);
        assert_eq!(metrics.topic(Uuid::from_u128(5)).expect("kept").bytes_in.get(), 2);
    }

    #[test]
    fn strange_keys_do_no_harm() {
        let metrics = Metrics::default();
        for key in [-1, 0, 95, 96, i16::MAX, i16::MIN] {
            metrics.request(key).requests.add(1);
        }
        assert_eq!(metrics.request(0).requests.get(), 1);
        assert_eq!(metrics.request(i16::MAX).requests.get(), 5);
    }
}
