//! Reads: whole batches below the high watermark or the last stable offset, from memory if they are there.

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
    /// Exclusive end of what belongs to no transaction that is open, or ended without that being durable.
    pub last_stable_offset: Offset,
    /// First offset that exists.
    pub log_start: Offset,
    /// Whole batches in offset order; none if there is nothing to read yet.
    pub slices: Vec<RecordSlice>,
    /// Their bytes.
    pub bytes: usize,
    /// Producer id and first offset of each aborted transaction that the batches may hold records of, by ascending first
    /// offset. Readers of uncommitted records are told of none.
    pub aborted: Vec<(i64, i64)>,
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
    /// Whether aborted transactions may have to be told.
    has_aborted: bool,
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
        let Bounds { mut read, until, has_aborted } = self.bounds(from, isolation)?;
        if from >= until || (max_bytes == 0 && !min_one) {
            read.truncated = from < until;
            return Ok(Some(read));
        }
        let Some(fetched) = self.stream.fetch_cached(from, until, max_bytes) else { return Ok(None) };
        let read = read.filled(fetched, until, max_bytes, min_one);
        let read = if has_aborted { self.with_aborted(read, from)? } else { read };
        Ok(Some(self.metered(read)))
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
        let Bounds { mut read, until, has_aborted } = self.bounds(from, isolation)?;
        if from >= until || (max_bytes == 0 && !min_one) {
            read.truncated = from < until;
            return Ok(read);
        }
        match self.stream.fetch(from, until, max_bytes, class).await {
            // A lease that ran out meanwhile makes the answer one that nobody should hear.
            Ok(_) if !self.environment.lease.is_valid() => Err(ReadError::NotLeader),
            Ok(fetched) => {
                let read = read.filled(fetched, until, max_bytes, min_one);
                let read = if has_aborted { self.with_aborted(read, from)? } else { read };
                Ok(self.metered(read))
            }
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
        let (high_watermark, last_stable_offset) = state.follow_stable(durable);
        let (high_watermark, last_stable_offset) = (Offset(high_watermark), Offset(last_stable_offset));
        let (until, has_aborted) = match isolation {
            Isolation::ReadUncommitted => (high_watermark, false),
            Isolation::ReadCommitted => (last_stable_offset, !state.transactions.aborted().is_empty()),
        };
        let read = PartitionRead { high_watermark, last_stable_offset, log_start, ..PartitionRead::default() };
        Ok(Bounds { read, until, has_aborted })
    }

    /// Adds the aborted transactions that overlap what was read. They are looked up afterwards, when it is known how far
    /// that reaches: transactions that have ended since began above it. Where the log start has moved over `from`, those
    /// that were aborted below it may be forgotten, and what was read must not be taken for committed.
    fn with_aborted(&self, mut read: PartitionRead, from: Offset) -> Result<PartitionRead, ReadError> {
        let Some(end) = read.slices.last().map(|slice| slice.next_offset) else { return Ok(read) };
        let state = self.state.lock();
        if from.0 < state.log_start {
            let (log_start, log_end) = (Offset(state.log_start), Offset(state.log_end));
            return Err(ReadError::OutOfRange { offset: from, log_start, log_end });
        }
        read.aborted = state.transactions.aborted_within(from.0, end.0);
        Ok(read)
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
