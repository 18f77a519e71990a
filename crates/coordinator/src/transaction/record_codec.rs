//! Records to and from the bytes that Kafka stores, by `protocol::transaction_records`.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::StoredRecordError;
use protocol::transaction_records::{
    TopicPartitionsValue, TransactionLogRecord, TransactionValue, encode_transaction_key,
};

use crate::transaction::metadata::{TransactionMetadata, TransactionState};
use crate::transaction::partitions::PartitionSet;

/// A record of `__transaction_state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRecord {
    /// Transactional id.
    pub transactional_id: Arc<str>,
    /// Its state; `None`, a tombstone, when the id has expired.
    pub value: Option<TransactionMetadata>,
}

impl TransactionRecord {
    /// Key and value (`None`: a tombstone) as they are stored.
    ///
    /// # Errors
    /// When a string exceeds what its length field holds. Requests with such strings are refused before.
    pub fn encode(&self) -> Result<(Vec<u8>, Option<Vec<u8>>), StoredRecordError> {
        let value = self.value.as_ref().map(|metadata| transaction_value(metadata).encode()).transpose()?;
        Ok((encode_transaction_key(&self.transactional_id)?, value))
    }

    /// Reads a stored record; `None` if it is of a kind that is not known.
    ///
    /// # Errors
    /// When the bytes are damaged, of a later version, or of a state that is never recorded.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, StoredRecordError> {
        Ok(match TransactionLogRecord::decode(key, value)? {
            TransactionLogRecord::Transaction(id, value) => {
                Some(Self { transactional_id: id.into(), value: value.map(metadata).transpose()? })
            }
            TransactionLogRecord::Other(_) => None,
        })
    }
}

fn transaction_value(metadata: &TransactionMetadata) -> TransactionValue {
    let topic = |(topic, partitions): (&Arc<str>, &BTreeSet<i32>)| TopicPartitionsValue {
        topic: topic.to_string(),
        partitions: partitions.iter().copied().collect(),
    };
    TransactionValue {
        producer_id: metadata.producer_id,
        previous_producer_id: metadata.previous_producer_id,
        next_producer_id: metadata.next_producer_id,
        producer_epoch: metadata.producer_epoch,
        next_producer_epoch: -1,
        last_producer_epoch: metadata.last_producer_epoch,
        timeout_ms: metadata.timeout_ms,
        state: metadata.state.id(),
        // Null where Kafka writes null.
        partitions: (metadata.state != TransactionState::Empty)
            .then(|| metadata.partitions.topics().map(topic).collect()),
        last_update_timestamp: metadata.last_update_timestamp_ms,
        start_timestamp: metadata.start_timestamp_ms,
        client_transaction_version: metadata.client_transaction_version.into(),
    }
}

fn metadata(value: TransactionValue) -> Result<TransactionMetadata, StoredRecordError> {
    let state = TransactionState::from_recorded_id(value.state).ok_or(StoredRecordError::Value(value.state.into()))?;
    let version = value.client_transaction_version;
    let client_transaction_version = i8::try_from(version).map_err(|_| StoredRecordError::Value(version.into()))?;
    let topics = if state == TransactionState::Empty { Vec::new() } else { value.partitions.unwrap_or_default() };
    let mut partitions = PartitionSet::default();
    for topic in topics {
        let name: Arc<str> = topic.topic.into();
        topic.partitions.into_iter().for_each(|partition| partitions.insert(&name, partition));
    }
    Ok(TransactionMetadata {
        producer_id: value.producer_id,
        previous_producer_id: value.previous_producer_id,
        next_producer_id: value.next_producer_id,
        producer_epoch: value.producer_epoch,
        last_producer_epoch: value.last_producer_epoch,
        timeout_ms: value.timeout_ms,
        state,
        partitions,
        start_timestamp_ms: value.start_timestamp,
        last_update_timestamp_ms: value.last_update_timestamp,
        client_transaction_version,
    })
}
