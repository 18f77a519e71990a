//! Offsets by timestamp: the stream finds the batch by its index, the record is found within the batch.

use std::ops::ControlFlow;

use bytes::Bytes;
use common::Offset;
use protocol::batch::validate::DECODED_MAX;
use protocol::batch::{BatchView, batches, for_each_record};
use s3stream::{FetchError, ReadClass};

use super::Partition;
use super::read::{Isolation, ReadError};

/// Bytes read at a time where the index cannot tell.
const SCAN_BYTES: usize = 1 << 20;

/// A record's place, as ListOffsets tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// Offset of the record, -1 if there is none.
    pub offset: i64,
    /// Its timestamp, -1 if there is none or nobody asked for one.
    pub timestamp_ms: i64,
    /// Leader epoch it was appended under, -1 if unknown.
    pub leader_epoch: i32,
}

impl FoundOffset {
    /// Nothing was found.
    pub const NONE: Self = Self { offset: -1, timestamp_ms: -1, leader_epoch: -1 };
}

impl Partition {
    /// Exclusive end of what a consumer of this isolation may read.
    #[must_use]
    pub fn readable_end(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::ReadUncommitted => self.high_watermark(),
            Isolation::ReadCommitted => self.last_stable_offset(),
        }
    }

    /// The first readable record whose timestamp is at least `timestamp_ms`. As in Kafka this may be a transaction's
    /// marker, or a record that was aborted: consumers that seek there go on with what follows it.
    pub async fn find_timestamp(&self, timestamp_ms: i64, isolation: Isolation) -> Result<FoundOffset, ReadError> {
        let (start, until) = (self.log_start(), self.readable_end(isolation));
        let batch = self.stream.find_timestamp(timestamp_ms, until).await.map_err(ReadError::Storage)?;
        let Some(slice) = batch else { return Ok(FoundOffset::NONE) };
        let mut next = slice.next_offset;
        let mut found = self.first_at(&slice.bytes, timestamp_ms, start)?;
        // The log may start within that batch, above the record that put the batch's maximum up: go on by hand.
        while found.is_none() && next < until {
            let fetched = self.stream.fetch(next, until, SCAN_BYTES, ReadClass::CatchUp).await;
            let slices = fetched.map_err(ReadError::Storage)?.slices;
            let Some(last) = slices.last() else { break };
            next = last.next_offset;
            for slice in &slices {
                found = self.first_at(&slice.bytes, timestamp_ms, start)?;
                if found.is_some() {
                    break;
                }
            }
        }
        Ok(found.unwrap_or(FoundOffset::NONE))
    }

    /// The first readable record with the largest timestamp of all.
    pub async fn find_max_timestamp(&self, isolation: Isolation) -> Result<FoundOffset, ReadError> {
        let until = self.readable_end(isolation);
        let batch = self.stream.find_max_timestamp(until).await.map_err(ReadError::Storage)?;
        let Some(slice) = batch else { return Ok(FoundOffset::NONE) };
        let Some(largest) = views(&slice.bytes)?.iter().map(BatchView::max_timestamp).max() else {
            return Ok(FoundOffset::NONE);
        };
        let found = self.first_at(&slice.bytes, largest, Offset(0))?;
        Ok(found.unwrap_or(FoundOffset::NONE))
    }

    /// The first record in `bytes` at or above `start` whose timestamp is at least `timestamp_ms`.
    fn first_at(&self, bytes: &Bytes, timestamp_ms: i64, start: Offset) -> Result<Option<FoundOffset>, ReadError> {
        for batch in views(bytes)? {
            if batch.max_timestamp() < timestamp_ms || batch.last_offset() < start.0 {
                continue;
            }
            let walked = for_each_record(&batch, DECODED_MAX, |record| {
                if record.offset >= start.0 && record.timestamp >= timestamp_ms {
                    ControlFlow::Break((record.offset, record.timestamp))
                } else {
                    ControlFlow::Continue(())
                }
            });
            if let ControlFlow::Break((offset, timestamp_ms)) = walked.map_err(|error| corrupt(&error))? {
                let leader_epoch = self.epoch_at(Offset(offset));
                return Ok(Some(FoundOffset { offset, timestamp_ms, leader_epoch }));
            }
        }
        Ok(None)
    }
}

fn views(bytes: &Bytes) -> Result<Vec<BatchView<'_>>, ReadError> {
    batches(bytes).collect::<Result<_, _>>().map_err(|error| corrupt(&error))
}

fn corrupt(error: &dyn std::fmt::Display) -> ReadError {
    ReadError::Storage(FetchError::Corrupt(error.to_string()))
}
