//! A store in memory, for tests and simulation. Survives as long as the value does: a node restarted on the same
//! store finds what it wrote.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{AppendDone, EntryId, LogBounds, LogRecord, RaftLogStore, SnapshotChunks, SnapshotSource, Vote};

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryLogStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<u64, LogRecord>,
    vote: Option<Vote>,
    purged: Option<EntryId>,
    committed: Option<EntryId>,
    snapshot: Option<Vec<Bytes>>,
    bytes: u64,
}

#[async_trait::async_trait]
impl RaftLogStore for MemoryLogStore {
    fn bounds(&self) -> LogBounds {
        let inner = self.inner.lock();
        LogBounds {
            vote: inner.vote,
            purged: inner.purged,
            last: inner.records.last_key_value().map(|(_, record)| record.id).or(inner.purged),
            committed: inner.committed,
        }
    }

    fn append(&self, records: Vec<LogRecord>, done: AppendDone) {
        {
            let mut inner = self.inner.lock();
            for record in records {
                inner.bytes += record.payload.len() as u64;
                inner.records.insert(record.id.index, record);
            }
        }
        done(Ok(()));
    }

    async fn truncate_after(&self, last: Option<EntryId>) -> io::Result<()> {
        let first = last.map_or(0, |last| last.index + 1);
        self.inner.lock().records.split_off(&first);
        Ok(())
    }

    async fn purge(&self, upto: EntryId) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.records = inner.records.split_off(&(upto.index + 1));
        inner.purged = inner.purged.max(Some(upto));
        inner.bytes = inner.records.values().map(|record| record.payload.len() as u64).sum();
        Ok(())
    }

    async fn read(&self, range: Range<u64>) -> io::Result<Vec<LogRecord>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.inner.lock().records.range(range).map(|(_, record)| record.clone()).collect())
    }

    async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        self.inner.lock().vote = Some(vote);
        Ok(())
    }

    fn note_committed(&self, committed: Option<EntryId>) {
        self.inner.lock().committed = committed;
    }

    async fn save_snapshot(&self, _covers: Option<EntryId>, source: SnapshotSource) -> io::Result<()> {
        let mut chunks = Vec::new();
        source(&mut |chunk| {
            chunks.push(Bytes::copy_from_slice(chunk));
            Ok(())
        })?;
        self.inner.lock().snapshot = Some(chunks);
        Ok(())
    }

    async fn load_snapshot(&self) -> io::Result<Option<SnapshotChunks>> {
        let chunks = self.inner.lock().snapshot.clone();
        Ok(chunks.map(|chunks| Box::new(chunks.into_iter().map(Ok)) as SnapshotChunks))
    }

    fn is_stalled(&self) -> bool {
        false
    }

    fn log_bytes(&self) -> u64 {
        self.inner.lock().bytes
    }

    fn snapshot_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        inner.snapshot.iter().flatten().map(|chunk| chunk.len() as u64).sum()
    }
}
