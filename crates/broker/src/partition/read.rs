//! Reads: whole batches below the high watermark, from memory if they are there.

use common::Offset;
use protocol::ErrorCode;
use s3stream::{FetchError, ReadClass, RecordSlice};

use super::Partition;
use super::state::Leadership;

/// How far a consumer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

/// What a read found, with the offsets of that moment.
#[derive(Clone, Debug, Default)]
pub struct PartitionRead {
    /// Exclusive end of what is durable.
    pub high_watermark: Offset,
    /// Exclusive end of what belongs to no open transaction.
    pub last_stable_offset: Offset,
    /// First offset that exists.
    pub log_start: Offset,
    /// Whole batches in offset order; none if there is nothing to read yet.
    pub slices: Vec<RecordSlice>,
    /// Their bytes.
    pub bytes: usize,
    /// Whether more could be read above them, had the limit let it.
    pub truncated: bool,
}

/// A read that gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the log end.
    #[error("offset {offset} is outside {log_start}..={log_end}")]
    OutOfRange {
        /// As asked.
        offset: Offset,
        /// First offset that exists.
        log_start: Offset,
        /// Next offset to be given out.
        log_end: Offset,
    },
    /// This broker ceased to lead the partition, or has no lease.
    #[error("not the leader of this partition any more")]
    NotLeader,
    /// The log or the object store cannot be read now.
    #[error(transparent)]
    Storage(FetchError),
}

impl ReadError {
    /// Kafka's code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::NotLeader => ErrorCode::NotLeaderOrFollower,
            Self::Storage(FetchError::Corrupt(_)) => ErrorCode::CorruptMessage,
            Self::Storage(_) => ErrorCode::KafkaStorageError,
        }
    }
}

/// Where a read begins and where it must end.
struct Bounds {
    read: PartitionRead,
    until: Offset,
}

impl Partition {
    /// Reads from `from` on without waiting: `None` if that takes I/O, see [`Self::read`]. Never more than
    /// `max_bytes`, except for one batch that is larger if `min_one` is set.
    pub fn read_cached(
        &self,
        from: Offset,
        max_bytes: usize,
        isolation: Isolation,
        min_one: bool,
    ) -> Result<Option<PartitionRead>, ReadError> {
        let Bounds { mut read, until } = self.bounds(from, isolation)?;
        if from >= until || (max_bytes == 0 && !min_one) {
            read.truncated = from < until;
            return Ok(Some(read));
        }
        let fetched = self.stream.fetch_cached(from, until, max_bytes);
        Ok(fetched.map(|fetched| self.metered(read.filled(fetched, until, max_bytes, min_one))))
    }

    /// As [`Self::read_cached`], reading from log or store what memory does not hold.
    pub async fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        isolation: Isolation,
        min_one: bool,
        class: ReadClass,
    ) -> Result<PartitionRead, ReadError> {
        let Bounds { mut read, until } = self.bounds(from, isolation)?;
        if from >= until || (max_bytes == 0 && !min_one) {
            read.truncated = from < until;
            return Ok(read);
        }
        match self.stream.fetch(from, until, max_bytes, class).await {
            // A lease that ran out meanwhile makes the answer one that nobody should hear.
            Ok(_) if !self.environment.lease.is_valid() => Err(ReadError::NotLeader),
            Ok(fetched) => Ok(self.metered(read.filled(fetched, until, max_bytes, min_one))),
            // The log start may have moved up since the check.
            Err(FetchError::OutOfRange { start, next }) => {
                Err(ReadError::OutOfRange { offset: from, log_start: start, log_end: next })
            }
            Err(error) => Err(ReadError::Storage(error)),
        }
    }

    fn metered(&self, read: PartitionRead) -> PartitionRead {
        self.meter.read(read.bytes as u64);
        read
    }

    fn bounds(&self, from: Offset, isolation: Isolation) -> Result<Bounds, ReadError> {
        let durable = self.environment.durable.get();
        let mut state = self.state.lock();
        let is_led = state.leadership < Leadership::Leaving && self.environment.lease.is_valid();
        // Behind a log that failed nothing will ever be readable: whoever waited for more would ask again at once, and so on.
        if !is_led || self.environment.durable.is_failed() {
            return Err(ReadError::NotLeader);
        }
        let (log_start, log_end) = (Offset(state.log_start), Offset(state.log_end));
        if from < log_start || from > log_end {
            return Err(ReadError::OutOfRange { offset: from, log_start, log_end });
        }
        let high_watermark = Offset(state.watermark.follow(durable));
        let last_stable_offset = high_watermark;
        let until = match isolation {
            Isolation::ReadUncommitted => high_watermark,
            Isolation::ReadCommitted => last_stable_offset,
        };
        let read = PartitionRead { high_watermark, last_stable_offset, log_start, ..PartitionRead::default() };
        Ok(Bounds { read, until })
    }
}

impl PartitionRead {
    fn filled(mut self, fetched: s3stream::Fetched, until: Offset, max_bytes: usize, min_one: bool) -> Self {
        let fits = min_one || fetched.bytes <= max_bytes;
        self.truncated = !fits || fetched.slices.last().is_some_and(|slice| slice.next_offset < until);
        // The stream always returns a first record, even one above the limit.
        if fits {
            self.bytes = fetched.bytes;
            self.slices = fetched.slices;
        }
        self
    }
}
