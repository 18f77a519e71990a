//! The records of `__transaction_state`, byte for byte as Kafka 4.3 writes them: the state of each transactional id.
//!
//! Key: record type i16, then fields. Value: version i16, then fields; a null value is a tombstone.
//! - type 0, transaction: transactional id string. Value, version 0 or 1: producer id i64 · producer epoch i16 ·
//!   timeout ms i32 · state i8 · partitions nullable array {topic string · partition ids array i32 · tagged
//!   fields (1+)} · last update timestamp ms i64 · start timestamp ms i64 · tagged fields (1+), each left out when it
//!   has its default: 0: previous producer id i64 (-1), 1: next producer id i64 (-1), 2: client transaction version
//!   i16 (0), 3: next producer epoch i16 (-1).
//!
//! Version 1 is flexible: lengths are unsigned varints of length + 1. Numbers are big-endian.
//!
//! One tagged field is Ottla's own, 20340: last producer epoch i16 (-1). Kafka keeps that epoch in memory, so a producer
//! that repeats an InitProducerId whose answer was lost is fenced if the coordinator moved in between. Kafka's readers
//! skip tags they do not know.

#[cfg(test)]
mod tests;

use crate::stored_record::{Reader, StoredRecordError, Writer};

const TRANSACTION: i16 = 0;
/// Version in which values are written, as Kafka 4.3 does; also the newest that can be read, and the first flexible one.
const VALUE_VERSION: i16 = 1;

const PREVIOUS_PRODUCER_ID: u32 = 0;
const NEXT_PRODUCER_ID: u32 = 1;
const CLIENT_TRANSACTION_VERSION: u32 = 2;
const NEXT_PRODUCER_EPOCH: u32 = 3;
/// Far from the tags that Kafka numbers upwards.
const LAST_PRODUCER_EPOCH: u32 = 20_340;

/// Bytes of the smallest topic in version 1: an empty name, an empty array and the tags in a byte each.
const TOPIC_LEN_MIN: usize = 3;
const PARTITION_LEN: usize = 4;

/// Key of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TransactionRecordKey {
    /// A transactional id.
    Transaction(String),
    /// A record type of a newer Kafka.
    Other(i16),
}

/// Partitions of one topic in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPartitionsValue {
    /// Topic name.
    pub topic: String,
    /// Partition indexes.
    pub partitions: Vec<i32>,
}

/// State of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionValue {
    /// Producer id in use.
    pub producer_id: i64,
    /// Producer id before the last change of state, -1 if not known.
    pub previous_producer_id: i64,
    /// Producer id that follows when the transaction completes, because this one's epochs are used up (KIP-890); else
    /// -1.
    pub next_producer_id: i64,
    /// Epoch in use.
    pub producer_epoch: i16,
    /// Epoch that follows (KIP-939), else -1. Kafka 4.3 knows the field and does not write it.
    pub next_producer_epoch: i16,
    /// Epoch which the producer had before this one, -1 if that must not be accepted. Kafka does not store it.
    pub last_producer_epoch: i16,
    /// Transaction timeout, milliseconds.
    pub timeout_ms: i32,
    /// State, by Kafka's number.
    pub state: i8,
    /// Partitions of the transaction; `None`, as Kafka writes it in state Empty, or an empty list: none.
    pub partitions: Option<Vec<TopicPartitionsValue>>,
    /// Wall time of the last change, milliseconds.
    pub last_update_timestamp: i64,
    /// Wall time at which the transaction began, milliseconds, -1 if none has.
    pub start_timestamp: i64,
    /// `transaction.version` that the client worked by at the last change.
    pub client_transaction_version: i16,
}

/// A record of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionLogRecord {
    /// A transactional id's state was stored, or the id removed (`None`).
    Transaction(String, Option<TransactionValue>),
    /// A record type that is not known here; to be kept, not interpreted.
    Other(i16),
}

impl TransactionLogRecord {
    /// Reads a record's key and value.
    ///
    /// # Errors
    /// When the bytes are damaged, or the value is of a later version.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, StoredRecordError> {
        Ok(match TransactionRecordKey::decode(key)? {
            TransactionRecordKey::Transaction(id) => {
                Self::Transaction(id, value.map(TransactionValue::decode).transpose()?)
            }
            TransactionRecordKey::Other(record_type) => Self::Other(record_type),
        })
    }
}

impl TransactionRecordKey {
    /// Reads a key.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn decode(key: &[u8]) -> Result<Self, StoredRecordError> {
        let mut reader = Reader::new(key, false);
        let key = match reader.i16()? {
            TRANSACTION => Self::Transaction(reader.string()?),
            other => return Ok(Self::Other(other)),
        };
        reader.finish()?;
        Ok(key)
    }
}

/// The key of a transactional id as it is written.
///
/// # Errors
/// [`StoredRecordError::TooLong`] above 32767 bytes.
pub fn encode_transaction_key(transactional_id: &str) -> Result<Vec<u8>, StoredRecordError> {
    let mut writer = Writer::new(TRANSACTION, false);
    writer.string(transactional_id)?;
    Ok(writer.finish())
}

impl TransactionValue {
    /// Reads a value of any version.
    ///
    /// # Errors
    /// When the bytes are damaged, or of a later version.
    pub fn decode(value: &[u8]) -> Result<Self, StoredRecordError> {
        let (_, mut reader) = Reader::of_value(value, 0..=VALUE_VERSION, VALUE_VERSION)?;
        let mut decoded = Self {
            producer_id: reader.i64()?,
            previous_producer_id: -1,
            next_producer_id: -1,
            producer_epoch: reader.i16()?,
            next_producer_epoch: -1,
            last_producer_epoch: -1,
            timeout_ms: reader.i32()?,
            state: reader.i8()?,
            partitions: read_partitions(&mut reader)?,
            last_update_timestamp: reader.i64()?,
            start_timestamp: reader.i64()?,
            client_transaction_version: 0,
        };
        reader.tags(|tag, field| decoded.read_tag(tag, field))?;
        reader.finish()?;
        Ok(decoded)
    }

    fn read_tag(&mut self, tag: u64, field: &[u8]) -> Result<(), StoredRecordError> {
        let mut reader = Reader::new(field, true);
        match u32::try_from(tag) {
            Ok(PREVIOUS_PRODUCER_ID) => self.previous_producer_id = reader.i64()?,
            Ok(NEXT_PRODUCER_ID) => self.next_producer_id = reader.i64()?,
            Ok(CLIENT_TRANSACTION_VERSION) => self.client_transaction_version = reader.i16()?,
            Ok(NEXT_PRODUCER_EPOCH) => self.next_producer_epoch = reader.i16()?,
            Ok(LAST_PRODUCER_EPOCH) => self.last_producer_epoch = reader.i16()?,
            _ => return Ok(()),
        }
        reader.finish()
    }

    /// The value as Kafka writes it, in version 1.
    ///
    /// # Errors
    /// [`StoredRecordError::TooLong`] when a topic's name is longer than 32767 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, StoredRecordError> {
        self.encode_version(VALUE_VERSION)
    }

    fn encode_version(&self, version: i16) -> Result<Vec<u8>, StoredRecordError> {
        let mut writer = Writer::new(version, version >= VALUE_VERSION);
        writer.i64(self.producer_id);
        writer.i16(self.producer_epoch);
        writer.i32(self.timeout_ms);
        writer.i8(self.state);
        match &self.partitions {
            Some(topics) => write_partitions(&mut writer, topics)?,
            None => writer.null_count(),
        }
        writer.i64(self.last_update_timestamp);
        writer.i64(self.start_timestamp);
        let previous_id = self.previous_producer_id.to_be_bytes();
        let next_id = self.next_producer_id.to_be_bytes();
        let client_version = self.client_transaction_version.to_be_bytes();
        let next_epoch = self.next_producer_epoch.to_be_bytes();
        let last_epoch = self.last_producer_epoch.to_be_bytes();
        let tags: [(bool, u32, &[u8]); 5] = [
            (self.previous_producer_id != -1, PREVIOUS_PRODUCER_ID, &previous_id),
            (self.next_producer_id != -1, NEXT_PRODUCER_ID, &next_id),
            (self.client_transaction_version != 0, CLIENT_TRANSACTION_VERSION, &client_version),
            (self.next_producer_epoch != -1, NEXT_PRODUCER_EPOCH, &next_epoch),
            (self.last_producer_epoch != -1, LAST_PRODUCER_EPOCH, &last_epoch),
        ];
        let written: Vec<(u32, &[u8])> =
            tags.into_iter().filter(|(differs, ..)| *differs).map(|(_, tag, field)| (tag, field)).collect();
        writer.tags(&written)?;
        Ok(writer.finish())
    }
}

fn read_partitions(reader: &mut Reader<'_>) -> Result<Option<Vec<TopicPartitionsValue>>, StoredRecordError> {
    let Some(count) = reader.nullable_count(TOPIC_LEN_MIN)? else { return Ok(None) };
    // Not all at once: a topic takes more memory than its smallest record has bytes.
    let mut topics = Vec::new();
    for _ in 0..count {
        let topic = reader.string()?;
        let count = reader.count(PARTITION_LEN)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(reader.i32()?);
        }
        reader.tags(|_, _| Ok(()))?;
        topics.push(TopicPartitionsValue { topic, partitions });
    }
    Ok(Some(topics))
}

fn write_partitions(writer: &mut Writer, topics: &[TopicPartitionsValue]) -> Result<(), StoredRecordError> {
    writer.count(topics.len())?;
    for topic in topics {
        writer.string(&topic.topic)?;
        writer.count(topic.partitions.len())?;
        for partition in &topic.partitions {
            writer.i32(*partition);
        }
        writer.tags(&[])?;
    }
    Ok(())
}
