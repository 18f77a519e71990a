//! Partitions this broker leads: appends with producer state, high watermark, reads, retention.

use std::sync::Arc;

use bytes::Bytes;
use common::{Lsn, Offset};
use uuid::Uuid;

/// All partitions this broker leads.
#[derive(Default)]
pub struct Partitions {}

/// One partition.
pub struct Partition {}

/// Where an append comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A client's Produce request, of that version.
    Client {
        /// Version of the request.
        produce_version: i16,
    },
    /// A coordinator of this broker.
    Coordinator,
}

/// A successful append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendedBatch {
    /// Offset of the first record: the original one when the batch was a duplicate.
    pub base_offset: Offset,
    /// Time the broker gave the batch, or -1 under CreateTime.
    pub log_append_time_ms: i64,
    /// First offset of the partition.
    pub log_start: Offset,
    /// Durable once the WAL is durable up to here (for a duplicate: the original's position).
    pub lsn: Lsn,
}

/// A refused append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendRefused {
    /// Kafka's code.
    pub code: i16,
    /// For the client.
    pub message: Option<String>,
    /// Index in the batch and message of each bad record.
    pub record_errors: Vec<(i32, String)>,
}

impl Partitions {
    /// The open partition, if this broker leads it.
    #[must_use]
    pub fn get(&self, _topic: Uuid, _index: i32) -> Option<Arc<Partition>> {
        unimplemented!()
    }
}

impl Partition {
    /// Validates one record batch, checks its sequence, assigns offsets and appends it.
    pub fn append(&self, _batch: &Bytes, _origin: AppendOrigin) -> Result<AppendedBatch, AppendRefused> {
        unimplemented!()
    }

    /// Kafka's leader epoch under which this broker leads.
    #[must_use]
    pub fn leader_epoch(&self) -> i32 {
        unimplemented!()
    }

    /// First offset (inclusive).
    #[must_use]
    pub fn log_start(&self) -> Offset {
        unimplemented!()
    }

    /// End of what consumers may read (exclusive): everything below it is durable.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        unimplemented!()
    }

    /// Last stable offset: the high watermark, or the first open transaction below it.
    #[must_use]
    pub fn last_stable_offset(&self) -> Offset {
        unimplemented!()
    }

    /// Next offset to be given out.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        unimplemented!()
    }

    /// Appends a checkpoint on behalf of the coordinator that owns this partition's state.
    pub fn append_checkpoint(&self, _payload: &[u8]) -> Result<Lsn, AppendRefused> {
        unimplemented!()
    }
}
