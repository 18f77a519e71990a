//! One open stream.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use common::{Lsn, Offset, StreamEpoch, StreamId};
use parking_lot::Mutex;
use wal::{AppendError, Appended, RecordKind, RecordMeta, TAG_BYTES};

use crate::anchors::CheckpointSource;
use crate::core::Core;
use crate::readahead::Readers;
use crate::registry::commit;
use crate::tail::{CheckpointEntry, TAIL_ENTRY_BYTES, Tail, TailEntry};

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
pub struct Stream {
    id: StreamId,
    epoch: StreamEpoch,
    pub(crate) core: Arc<Core>,
    pub(crate) state: Mutex<State>,
}

/// What changes in a stream. Its lock is held for copies within memory, never for I/O.
pub(crate) struct State {
    pub(crate) tail: Tail,
    pub(crate) start: Offset,
    /// No more appends: another opening took over, or metadata knows the stream no more.
    pub(crate) closed: bool,
    /// No appends for now: the stream is about to move.
    pub(crate) parked: bool,
    pub(crate) readers: Readers,
    pub(crate) checkpoint_source: Option<Weak<dyn CheckpointSource>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) fn new(id: StreamId, epoch: StreamEpoch, core: Arc<Core>, start: Offset, tail: Tail) -> Self {
        let state =
            State { tail, start, closed: false, parked: false, readers: Readers::default(), checkpoint_source: None };
        Self { id, epoch, core, state: Mutex::new(state) }
    }

    /// The next opening of this stream, with its tail. This one takes no more appends.
    pub(crate) fn supersede(&self, epoch: StreamEpoch, committed: Offset) -> Self {
        let mut state = self.state.lock();
        state.closed = true;
        let next = state.tail.next();
        let mut tail = std::mem::replace(&mut state.tail, Tail::new(next, VecDeque::new(), Vec::new()));
        commit(&self.core, &mut tail, committed, None);
        Self::new(self.id, epoch, Arc::clone(&self.core), state.start, tail)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// The epoch it was opened under.
    #[must_use]
    pub fn epoch(&self) -> StreamEpoch {
        self.epoch
    }

    /// First offset that exists.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.state.lock().start
    }

    /// The next offset to be written. At opening: the end of what was recovered.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.state.lock().tail.next()
    }

    /// The committed end: everything below is in objects. What SIGTERM and retention look at.
    #[must_use]
    pub fn committed_offset(&self) -> Offset {
        self.state.lock().tail.committed()
    }

    /// Where the newest record that no object holds ends in the log; `None` when objects hold everything.
    #[must_use]
    pub fn newest_lsn(&self) -> Option<Lsn> {
        self.state.lock().tail.newest_lsn()
    }

    /// Payload bytes between start and next offset. Where the start lies within an object, that object's
    /// bytes of this stream count whole.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let (start, committed, pending) = {
            let state = self.state.lock();
            (state.start, state.tail.committed(), state.tail.pending_bytes())
        };
        let ranges = self.core.object_manager.ranges(self.id, start, committed, usize::MAX);
        ranges.iter().map(|range| range.bytes).sum::<u64>() + pending
    }

    /// Appends a record; it is durable when the log's durable position reaches the returned LSN.
    ///
    /// Errors: as the log's; [`AppendError::Full`] also when the index of un-uploaded records is full, and
    /// [`AppendError::Closed`] when this opening of the stream was superseded, or is parked. Never waits.
    ///
    /// # Panics
    /// When `request.base_offset` is not the next offset: gaps in the log are how recovery sees damage.
    pub fn append(
        &self,
        request: &AppendRequest,
        payload: &[u8],
        patch: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Lsn, AppendError> {
        let meta = RecordMeta {
            stream: self.id,
            stream_epoch: self.epoch,
            kind: RecordKind::Data,
            base_offset: request.base_offset,
            next_offset: request.next_offset,
            max_timestamp_ms: request.max_timestamp_ms,
            tag: request.tag,
        };
        let (end, block) = {
            let mut state = self.state.lock();
            assert!(request.base_offset == state.tail.next(), "an append must start at the next offset");
            let appended = self.append_to_log(&state, &meta, payload, patch)?;
            self.core.backlog.add_index(TAIL_ENTRY_BYTES);
            state.tail.push(TailEntry {
                base: meta.base_offset,
                next: meta.next_offset,
                max_timestamp_ms: meta.max_timestamp_ms,
                tag: meta.tag,
                block: Arc::clone(&appended.block),
                position: appended.position,
                len: appended.len,
            });
            // Counted under the lock, so that an upload never takes off what was not added yet.
            self.core.appended(u64::from(appended.len));
            (appended.end, appended.block)
        };
        self.core.log_cache.note(&block);
        Ok(end)
    }

    /// Appends a checkpoint of the state that follows from all records below `at`, which must be the next
    /// offset. The newest one replaces older ones; it travels with the data into objects.
    ///
    /// # Panics
    /// When `at` is not the next offset.
    pub fn append_checkpoint(&self, at: Offset, payload: &[u8]) -> Result<Lsn, AppendError> {
        let meta = RecordMeta {
            stream: self.id,
            stream_epoch: self.epoch,
            kind: RecordKind::Checkpoint,
            base_offset: at,
            next_offset: at,
            max_timestamp_ms: -1,
            tag: [0; TAG_BYTES],
        };
        let (end, block) = {
            let mut state = self.state.lock();
            assert!(at == state.tail.next(), "a checkpoint describes the state at the next offset");
            let appended = self.append_to_log(&state, &meta, payload, &mut |_| ())?;
            state.tail.push_checkpoint(CheckpointEntry {
                offset: at,
                block: Arc::clone(&appended.block),
                position: appended.position,
                len: appended.len,
            });
            (appended.end, appended.block)
        };
        self.core.log_cache.note(&block);
        Ok(end)
    }

    /// Whom to ask for a checkpoint when the newest in the log has fallen back, or only the store has one.
    pub fn set_checkpoint_source(&self, source: Weak<dyn CheckpointSource>) {
        let mut state = self.state.lock();
        state.checkpoint_source = Some(source);
        if state.tail.is_adrift() {
            self.core.anchors.wanted.notify_one();
        }
    }

    /// Whether the log alone says what an opening needs, so that it needs no store.
    #[must_use]
    pub fn opens_from_log(&self) -> bool {
        self.state.lock().tail.is_anchored()
    }

    /// The opener has read what it needs: gives up what the log recovered of records that objects hold.
    pub fn opened(&self) {
        let dropped = self.state.lock().tail.drop_recovered();
        self.core.backlog.sub_index(dropped as u64 * TAIL_ENTRY_BYTES);
    }

    /// Whether it waits for the end of a move: between [`Self::park`] and [`Self::resume`].
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.state.lock().parked
    }

    /// Where the records lie that it reads from logs: the block, and the first byte of the payload in that.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn held_in_logs(&self) -> Vec<(wal::BlockAddress, u32)> {
        let state = self.state.lock();
        state.tail.from(state.tail.covered_from()).map(|entry| (entry.block.address(), entry.position)).collect()
    }

    fn append_to_log(
        &self,
        state: &State,
        meta: &RecordMeta,
        payload: &[u8],
        patch: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Appended, AppendError> {
        if state.closed || state.parked {
            return Err(AppendError::Closed);
        }
        if self.core.backlog.index_bytes() >= self.core.settings.tail_index_bytes {
            self.core.backlog.wanted.notify_one();
            return Err(AppendError::Full);
        }
        self.core.append_to_log(meta, payload, patch)
    }

    /// As [`Self::fetch`], if it can be answered from memory without waiting.
    #[must_use]
    pub fn fetch_cached(&self, from: Offset, until: Offset, max_bytes: usize) -> Option<Fetched> {
        let state = self.state.lock();
        if from < state.tail.covered_from() || from > state.tail.next() || from < state.start {
            return None;
        }
        let mut fetched = Fetched::default();
        state.tail.collect(from, until, max_bytes, &mut fetched).then_some(fetched)
    }

    /// Whole records from the one that contains `from` (or the first after it, where there is a hole) up to
    /// `until` (exclusive; records that end above it are left out). Stops before exceeding `max_bytes`, but
    /// always returns at least one record if there is one. Only durable records below `until` are asked for:
    /// the caller passes the high watermark.
    ///
    /// May return fewer bytes than there are, where data lies in several places; empty means that there is
    /// nothing between `from` and `until`.
    pub async fn fetch(
        self: &Arc<Self>,
        from: Offset,
        until: Offset,
        max_bytes: usize,
        class: ReadClass,
    ) -> Result<Fetched, FetchError> {
        match self.fetch_cached(from, until, max_bytes) {
            Some(fetched) => Ok(fetched),
            None => crate::read::fetch(self, from, until, max_bytes, class).await,
        }
    }

    /// The newest checkpoint: from the log if it holds one, else from the store.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, FetchError> {
        crate::read::checkpoint(self).await
    }

    /// Heads of all records from `from` to the end, in order; payloads are not read where an index has them.
    pub async fn heads(self: &Arc<Self>, from: Offset) -> Result<Vec<RecordHead>, FetchError> {
        crate::search::heads(self, from).await
    }

    /// The first record below `until` whose maximum timestamp is at least `timestamp_ms`, found by indexes.
    pub async fn find_timestamp(
        self: &Arc<Self>,
        timestamp_ms: i64,
        until: Offset,
    ) -> Result<Option<RecordSlice>, FetchError> {
        crate::search::find_timestamp(self, timestamp_ms, until).await
    }

    /// The first record below `until` with the largest maximum timestamp of all.
    pub async fn find_max_timestamp(self: &Arc<Self>, until: Offset) -> Result<Option<RecordSlice>, FetchError> {
        crate::search::find_max_timestamp(self, until).await
    }

    /// Forgets everything below `start`, which may lie above the committed end. Returns once metadata has it.
    pub async fn trim(&self, start: Offset) -> Result<(), crate::PortError> {
        let next = self.next_offset();
        if start > next {
            return Err(crate::PortError::Unavailable(format!("offset {start} is above the end {next}")));
        }
        self.core.stream_manager.trim(self.id, self.epoch, start).await?;
        let mut state = self.state.lock();
        state.start = state.start.max(start);
        let before = state.tail.pending_bytes();
        let dropped = state.tail.trim(start);
        self.core.backlog.sub_index(dropped as u64 * TAIL_ENTRY_BYTES);
        self.core.backlog.sub(before - state.tail.pending_bytes());
        drop(state);
        // Whoever waits for the upload of what is gone now waits no longer.
        self.core.backlog.committed.notify_waiters();
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.core.backlog.sub_index(state.tail.len() as u64 * TAIL_ENTRY_BYTES);
        self.core.backlog.sub(state.tail.pending_bytes());
    }
}
