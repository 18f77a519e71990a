//! One open stream.

use bytes::Bytes;
use common::{Lsn, Offset, StreamEpoch, StreamId};
use wal::{AppendError, TAG_BYTES};

/// Description of a record to append.
#[derive(Clone, Copy, Debug)]
pub struct AppendRequest {
    /// First offset; must be the stream's next offset.
    pub base_offset: Offset,
    /// Exclusive end.
    pub next_offset: Offset,
    /// Largest timestamp in the record, ms, -1 when none.
    pub max_timestamp_ms: i64,
    /// Opaque; comes back from [`Stream::heads`].
    pub tag: [u8; TAG_BYTES],
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// First offset.
    pub base_offset: Offset,
    /// Exclusive end.
    pub next_offset: Offset,
    /// Largest timestamp.
    pub max_timestamp_ms: i64,
    /// Payload bytes.
    pub len: u32,
    /// As appended.
    pub tag: [u8; TAG_BYTES],
}

/// Contiguous payloads of one or more consecutive records.
#[derive(Clone, Debug)]
pub struct RecordSlice {
    /// First offset of the first record.
    pub base_offset: Offset,
    /// Exclusive end of the last record.
    pub next_offset: Offset,
    /// The payloads back to back, sharing cache memory.
    pub bytes: Bytes,
}

/// Result of a fetch.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// Slices in offset order without gaps between records that exist.
    pub slices: Vec<RecordSlice>,
    /// Sum of their bytes.
    pub bytes: usize,
}

/// Which budget a read is charged to, so that replays never delay tail reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadClass {
    /// Near the end of the stream.
    Tail,
    /// Catching up or replaying.
    CatchUp,
}

/// State that follows from all records below an offset.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Exclusive end of what it covers.
    pub offset: Offset,
    /// As given to [`Stream::append_checkpoint`].
    pub payload: Bytes,
}

/// Why a fetch failed. Never "empty": an unreadable range is always an error.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// `from` is below the stream's start or above its next offset.
    #[error("offset is outside {start}..={next}")]
    OutOfRange {
        /// First offset that exists.
        start: Offset,
        /// Next offset to be written.
        next: Offset,
    },
    /// The store or log cannot be read now; retry.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Every copy is damaged.
    #[error("corrupt: {0}")]
    Corrupt(String),
}

/// One open stream. Appends must come from one caller at a time, in offset order.
pub struct Stream {}

impl Stream {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        unimplemented!()
    }

    /// The epoch it was opened under.
    #[must_use]
    pub fn epoch(&self) -> StreamEpoch {
        unimplemented!()
    }

    /// First offset that exists.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        unimplemented!()
    }

    /// The next offset to be written. At opening: the end of what was recovered.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        unimplemented!()
    }

    /// Payload bytes between start and next offset.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// Appends a record; it is durable when the log's durable position reaches the returned LSN.
    pub fn append(
        &self,
        _request: &AppendRequest,
        _payload: &[u8],
        _patch: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Lsn, AppendError> {
        unimplemented!()
    }

    /// Appends a checkpoint of the state that follows from all records below `at`, which must be the next
    /// offset. The newest one replaces older ones; it travels with the data into objects.
    pub fn append_checkpoint(&self, _at: Offset, _payload: &[u8]) -> Result<Lsn, AppendError> {
        unimplemented!()
    }

    /// The newest checkpoint: from the log if it holds one, else from the store.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, FetchError> {
        unimplemented!()
    }

    /// Heads of all records from `from` to the end, in order; payloads are not read where an index has them.
    pub async fn heads(&self, _from: Offset) -> Result<Vec<RecordHead>, FetchError> {
        unimplemented!()
    }

    /// As [`Self::fetch`], if it can be answered from memory without waiting.
    #[must_use]
    pub fn fetch_cached(&self, _from: Offset, _until: Offset, _max_bytes: usize) -> Option<Fetched> {
        unimplemented!()
    }

    /// Whole records from the one that contains `from` (or the first after it, where there is a hole) up to
    /// `until` (exclusive; records that end above it are left out). Stops before exceeding `max_bytes`, but
    /// always returns at least one record if there is one. Only durable records below `until` are asked for:
    /// the caller passes the high watermark.
    pub async fn fetch(
        &self,
        _from: Offset,
        _until: Offset,
        _max_bytes: usize,
        _class: ReadClass,
    ) -> Result<Fetched, FetchError> {
        unimplemented!()
    }

    /// The first record below `until` whose maximum timestamp is at least `timestamp_ms`, found by indexes.
    pub async fn find_timestamp(&self, _timestamp_ms: i64, _until: Offset) -> Result<Option<RecordSlice>, FetchError> {
        unimplemented!()
    }

    /// The first record below `until` with the largest maximum timestamp of all.
    pub async fn find_max_timestamp(&self, _until: Offset) -> Result<Option<RecordSlice>, FetchError> {
        unimplemented!()
    }

    /// Forgets everything below `start`. Returns once metadata has it.
    pub async fn trim(&self, _start: Offset) -> Result<(), crate::PortError> {
        unimplemented!()
    }
}
