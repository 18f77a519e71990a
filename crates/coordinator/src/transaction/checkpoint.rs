//! The checkpoint of a transaction shard: its persisted state at one offset, so that opening it replays only what
//! follows.
//!
//! Layout, version 1 (integers little-endian; `str` is u32 length + UTF-8):
//!
//! ```text
//! u8  version = 1
//! u32 transactional ids, each: str id · i64 producer id · i64 previous producer id · i64 next producer id
//!     · i16 producer epoch · i16 last producer epoch · i32 timeout ms · u8 state · i64 start timestamp ms
//!     · i64 last update timestamp ms · u8 client transaction version
//!     · u32 topics, each: str name · u32 partitions, each: i32 index
//! ```
//!
//! Ids, topics and indexes are strictly ascending, and no topic is without partitions. Integrity is the storage's concern
//! (it checks a CRC of whatever enters memory); any bytes nevertheless decode to a value or an error, in memory
//! proportional to their length.

use std::collections::BTreeMap;

use crate::checkpoint::{CheckpointError, Reader, Writer};
use crate::transaction::metadata::{TransactionMetadata, TransactionState};
use crate::transaction::partitions::PartitionSet;
use crate::transaction::persisted::PersistedTransactions;

const VERSION: u8 = 1;

impl PersistedTransactions {
    /// This state as bytes.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        let mut out = Writer(vec![VERSION]);
        out.count(self.transactions.len());
        for (id, transaction) in &self.transactions {
            out.str(id);
            write_transaction(&mut out, transaction);
        }
        out.0
    }

    /// Reads what [`Self::checkpoint`] wrote.
    ///
    /// # Errors
    /// When the bytes are of another version, or not what the layout says.
    pub fn restore(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let mut input = Reader(bytes);
        let [version] = input.array()?;
        if version != VERSION {
            return Err(CheckpointError::Version(version));
        }
        let transactions = input.map(Reader::str, read_transaction)?;
        if input.0.is_empty() { Ok(Self { transactions }) } else { Err(input.damaged("bytes follow")) }
    }
}

fn write_transaction(out: &mut Writer, transaction: &TransactionMetadata) {
    out.i64(transaction.producer_id);
    out.i64(transaction.previous_producer_id);
    out.i64(transaction.next_producer_id);
    out.i16(transaction.producer_epoch);
    out.i16(transaction.last_producer_epoch);
    out.i32(transaction.timeout_ms);
    out.i8(transaction.state.id());
    out.i64(transaction.start_timestamp_ms);
    out.i64(transaction.last_update_timestamp_ms);
    out.i8(transaction.client_transaction_version);
    let topics = transaction.partitions.topics();
    out.count(topics.len());
    for (topic, partitions) in topics {
        out.str(topic);
        out.count(partitions.len());
        partitions.iter().for_each(|partition| out.i32(*partition));
    }
}

fn read_transaction(input: &mut Reader<'_>) -> Result<TransactionMetadata, CheckpointError> {
    Ok(TransactionMetadata {
        producer_id: input.i64()?,
        previous_producer_id: input.i64()?,
        next_producer_id: input.i64()?,
        producer_epoch: input.i16()?,
        last_producer_epoch: input.i16()?,
        timeout_ms: input.i32()?,
        state: TransactionState::from_recorded_id(input.i8()?).ok_or_else(|| input.damaged("an unknown state"))?,
        start_timestamp_ms: input.i64()?,
        last_update_timestamp_ms: input.i64()?,
        client_transaction_version: input.i8()?,
        partitions: read_partitions(input)?,
    })
}

fn read_partitions(input: &mut Reader<'_>) -> Result<PartitionSet, CheckpointError> {
    let topics = input.map(Reader::str, |input| input.map(Reader::i32, |_| Ok(())))?;
    if topics.values().any(BTreeMap::is_empty) {
        return Err(input.damaged("a topic without partitions"));
    }
    let mut set = PartitionSet::default();
    for (topic, partitions) in &topics {
        partitions.keys().for_each(|partition| set.insert(topic, *partition));
    }
    Ok(set)
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
