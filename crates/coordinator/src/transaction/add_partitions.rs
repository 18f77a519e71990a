//! AddPartitionsToTxn and AddOffsetsToTxn: partitions become part of a transaction before anything is written to them;
//! or a partition's leader asks whether they are.
//!
//! Clients below `transaction.version` 2 add partitions themselves, and leaders verify them at the first write. Newer
//! clients just write, and leaders add the partition for them (KIP-890).

use std::sync::Arc;

use protocol::ErrorCode;

use crate::shard::Now;
use crate::transaction::metadata::{CLIENT_EPOCH_MAX, TransactionMetadata, TransactionState};
use crate::transaction::partitions::PartitionSet;
use crate::transaction::shard::{ProducerRequest, TransactionOutput, TransactionShard};

/// Bytes of a topic's name, as Kafka limits them.
const TOPIC_BYTES_MAX: usize = 249;

impl TransactionShard {
    pub(crate) fn add_partitions(
        &self,
        request: &ProducerRequest,
        partitions: &[(Arc<str>, i32)],
        client_transaction_version: i8,
        now: Now,
        out: &mut TransactionOutput,
    ) -> Result<(), ErrorCode> {
        let transaction = self.transaction_of(request)?;
        // First, as in Kafka: the client may know the producer id already that takes over at completion.
        if transaction.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        transaction.validate_producer(request)?;
        if partitions.iter().any(|(topic, _)| topic.is_empty() || topic.len() > TOPIC_BYTES_MAX) {
            return Err(ErrorCode::InvalidTopicException);
        }
        let added: PartitionSet = partitions.iter().cloned().collect();
        if transaction.state == TransactionState::Ongoing && transaction.partitions.contains_all(&added) {
            return Ok(());
        }
        let next = transaction.with_partitions(&added, client_transaction_version, now);
        let fits = next.partitions.len() <= self.config.max_partitions
            && next.partitions.record_bytes_max() <= self.config.max_record_bytes;
        if !fits {
            return Err(ErrorCode::UnknownServerError);
        }
        out.record(&request.transactional_id, Some(next));
        Ok(())
    }

    /// Whether partitions are in the transaction: TRANSACTION_ABORTABLE where they are not.
    pub(crate) fn verify_partitions(
        &self,
        request: &ProducerRequest,
        partitions: &[(Arc<str>, i32)],
    ) -> Vec<(Arc<str>, i32, ErrorCode)> {
        let transaction = self.transaction_of(request).and_then(|transaction| {
            transaction.validate_producer(request)?;
            let is_prepared = transaction.state.is_prepared();
            if is_prepared { Err(ErrorCode::ConcurrentTransactions) } else { Ok(transaction) }
        });
        let verdict = |topic: &str, partition| match transaction {
            Err(error) => error,
            Ok(transaction) if transaction.partitions.contains(topic, partition) => ErrorCode::None,
            Ok(_) => ErrorCode::TransactionAbortable,
        };
        let verified =
            |(topic, partition): &(Arc<str>, i32)| (Arc::clone(topic), *partition, verdict(topic, *partition));
        partitions.iter().map(verified).collect()
    }

    /// The transaction that a producer's request is about.
    pub(crate) fn transaction_of(&self, request: &ProducerRequest) -> Result<&TransactionMetadata, ErrorCode> {
        if request.transactional_id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        self.persisted.transaction(&request.transactional_id).ok_or(ErrorCode::InvalidProducerIdMapping)
    }
}

impl TransactionMetadata {
    /// Whether the request is of the producer in use. The epoch above [`CLIENT_EPOCH_MAX`] is no client's, even where it is
    /// the one in use.
    pub(crate) fn validate_producer(&self, request: &ProducerRequest) -> Result<(), ErrorCode> {
        if request.producer.producer_id != self.producer_id {
            Err(ErrorCode::InvalidProducerIdMapping)
        } else if request.producer.epoch != self.producer_epoch || self.producer_epoch > CLIENT_EPOCH_MAX {
            Err(ErrorCode::ProducerFenced)
        } else {
            Ok(())
        }
    }
}
