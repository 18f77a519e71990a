//! What operators are told of a partition's producers (KIP-664): who writes, and whose transaction hangs.

use super::Partition;

/// One producer, as DescribeProducers tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub producer_id: i64,
    /// Its newest epoch.
    pub producer_epoch: i16,
    /// Sequence of the last record, -1 for none.
    pub last_sequence: i32,
    /// Largest timestamp of the newest batch, ms; where no batch is remembered the wall time of the last append.
    pub last_timestamp_ms: i64,
    /// Epoch of the coordinator that last ended a transaction, -1 for none.
    pub coordinator_epoch: i32,
    /// First offset of the open transaction.
    pub transaction_start: Option<i64>,
}

impl Partition {
    /// All producers that are remembered, by ascending id; `None` if there are more than `limit`.
    #[must_use]
    pub fn active_producers(&self, limit: usize) -> Option<Vec<ActiveProducer>> {
        let state = self.state.lock();
        if state.producers.len() > limit {
            return None;
        }
        let producers = state.producers.iter().map(|(producer_id, entry)| {
            let last = entry.batches.last();
            ActiveProducer {
                producer_id,
                producer_epoch: entry.epoch,
                last_sequence: last.map_or(-1, |batch| batch.last_sequence),
                last_timestamp_ms: last.map_or(entry.last_write_ms, |batch| batch.timestamp_ms),
                coordinator_epoch: entry.coordinator_epoch,
                transaction_start: entry.open_since(),
            }
        });
        Some(producers.collect())
    }

    /// Whether the producer of the earliest open transaction has not written for longer than `age_ms`. An opening of the
    /// partition counts as a write: what came before it is not remembered.
    #[must_use]
    pub fn has_late_transaction(&self, age_ms: i64) -> bool {
        let now_ms = self.environment.clock.wall_ms();
        let state = self.state.lock();
        let first = state.transactions.first_open_producer().and_then(|producer_id| state.producers.get(producer_id));
        first.is_some_and(|entry| now_ms.saturating_sub(entry.last_write_ms) > age_ms)
    }
}
