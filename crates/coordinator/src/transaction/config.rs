//! Settings of transaction coordination, named as Kafka's properties.

/// What a [`crate::transaction::TransactionShard`] is configured with. Times are milliseconds.
#[derive(Clone, Debug)]
pub struct TransactionConfig {
    /// `transactional.id.expiration.ms`: how long a transactional id without an open transaction is kept.
    pub transactional_id_expiration_ms: i64,
    /// `transaction.max.timeout.ms`: a longer timeout is refused with INVALID_TRANSACTION_TIMEOUT.
    pub max_timeout_ms: i32,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`.
    pub abort_timed_out_interval_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub remove_expired_interval_ms: i64,
    /// The finalized `transaction.version`, by which the coordinator itself aborts (fencing, timeouts). When it
    /// changes, load the shard anew.
    pub transaction_version: i8,
    /// Transactional ids one shard may hold; an InitProducerId that would create one more is answered with
    /// COORDINATOR_NOT_AVAILABLE.
    pub max_transactional_ids: usize,
    /// Partitions of one transaction; one more is answered with UNKNOWN_SERVER_ERROR, which is what Kafka says where
    /// the record becomes too large.
    pub max_partitions: usize,
    /// Bytes that the partitions of one transaction may take in its record, which must fit a batch of
    /// `__transaction_state` (`max.message.bytes`); more are answered likewise.
    pub max_record_bytes: usize,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            transactional_id_expiration_ms: 7 * 24 * 60 * 60 * 1_000,
            max_timeout_ms: 900_000,
            abort_timed_out_interval_ms: 10_000,
            remove_expired_interval_ms: 3_600_000,
            transaction_version: 2,
            max_transactional_ids: 1_000_000,
            max_partitions: 100_000,
            max_record_bytes: 900_000,
        }
    }
}
