//! Raft's view of the log: the store behind the port, with the newest entries kept decoded, because what was
//! appended is read back once to be replicated and once to be applied.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;

use super::types::{self, LogId, RaftEntry, RaftVote, TypeConfig};
use crate::log::{LogRecord, RaftLogStore};

/// Encoded bytes of the entries kept decoded; older ones are read from the store.
const CACHE_BYTES: usize = 4 << 20;

/// Encoded bytes of one answer to replication.
const READ_BYTES: usize = 1 << 20;

/// See the module. Clones share one log.
#[derive(Clone)]
pub(crate) struct LogStorage {
    store: Arc<dyn RaftLogStore>,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    /// The newest entries, contiguous up to the last.
    cache: VecDeque<(RaftEntry, usize)>,
    cache_bytes: usize,
    vote: Option<RaftVote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
}

impl LogStorage {
    pub(crate) fn new(store: Arc<dyn RaftLogStore>) -> Self {
        let bounds = store.bounds();
        let shared = Shared {
            cache: VecDeque::new(),
            cache_bytes: 0,
            vote: bounds.vote.map(types::raft_vote),
            purged: bounds.purged.map(types::log_id),
            last: bounds.last.map(types::log_id),
            committed: bounds.committed.map(types::log_id),
        };
        Self { store, shared: Arc::new(Mutex::new(shared)) }
    }

    /// Whether the log holds anything at all.
    pub(crate) fn is_pristine(&self) -> bool {
        let shared = self.shared.lock();
        shared.vote.is_none() && shared.last.is_none()
    }

    async fn read(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<RaftEntry>> {
        let cached = self.shared.lock().read(start, end, limit);
        let (entries, cache_start) = match cached {
            Cached::All(entries) => return Ok(entries),
            Cached::From(entries, cache_start) => (entries, cache_start),
        };
        let mut found = Vec::new();
        let mut bytes = 0;
        for record in self.store.read(start..end.min(cache_start)).await? {
            bytes += record.payload.len();
            found.push(types::decode_record(record.id, record.payload)?);
            if bytes >= limit {
                return Ok(found);
            }
        }
        found.extend(entries);
        Ok(found)
    }
}

enum Cached {
    All(Vec<RaftEntry>),
    /// Entries of the cache, and its first index: what lies below is in the store.
    From(Vec<RaftEntry>, u64),
}

impl Shared {
    fn read(&self, start: u64, end: u64, limit: usize) -> Cached {
        let next = self.last.map_or(0, |last| last.index + 1);
        let cache_start = self.cache.front().map_or(next, |(entry, _)| entry.log_id.index);
        let skip = usize::try_from(start.saturating_sub(cache_start)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (entry, size) in self.cache.iter().skip(skip) {
            if entry.log_id.index >= end || bytes >= limit {
                break;
            }
            bytes += size;
            entries.push(entry.clone());
        }
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        if start.max(first) >= cache_start.min(end) { Cached::All(entries) } else { Cached::From(entries, cache_start) }
    }

    fn push(&mut self, entry: RaftEntry, size: usize) {
        self.last = Some(entry.log_id);
        self.cache.push_back((entry, size));
        self.cache_bytes += size;
        while self.cache_bytes > CACHE_BYTES && self.cache.len() > 1 {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, size)) = self.cache.pop_front() {
            self.cache_bytes -= size;
        }
    }
}

/// Inclusive start and exclusive end.
fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (start, end) = half_open(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.shared.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, READ_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let shared = self.shared.lock();
        Ok(LogState { last_purged_log_id: shared.purged, last_log_id: shared.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        self.store.save_vote(types::vote(vote)).await?;
        self.shared.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.lock().committed = committed;
        self.store.note_committed(committed.as_ref().map(types::entry_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut shared = self.shared.lock();
            for entry in entries {
                let payload = types::encode_payload(&entry);
                records.push(LogRecord { id: types::entry_id(&entry.log_id), payload: payload.clone() });
                shared.push(entry, payload.len());
            }
        }
        self.store.append(records, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.store.truncate_after(last.as_ref().map(types::entry_id)).await?;
        let mut shared = self.shared.lock();
        let first = last.map_or(0, |last| last.index + 1);
        while shared.cache.back().is_some_and(|(entry, _)| entry.log_id.index >= first) {
            if let Some((_, size)) = shared.cache.pop_back() {
                shared.cache_bytes -= size;
            }
        }
        shared.last = shared.last.min(last.max(shared.purged));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut shared = self.shared.lock();
            shared.purged = shared.purged.max(Some(upto));
            shared.last = shared.last.max(Some(upto));
            while shared.cache.front().is_some_and(|(entry, _)| entry.log_id.index <= upto.index) {
                shared.pop_front();
            }
        }
        self.store.purge(types::entry_id(&upto)).await
    }
}
