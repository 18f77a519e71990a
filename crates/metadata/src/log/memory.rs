//! A store in memory, for tests. Survives as long as the value does: a node restarted on the same
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
    inner: Mutex<Content>,
}

/// What a store holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    records: BTreeMap<u64, LogRecord>,
    vote: Option<Vote>,
    purged: Option<EntryId>,
    committed: Option<EntryId>,
    snapshot: Option<Vec<Bytes>>,
    bytes: u64,
}

/// A write to a store.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Append(Vec<LogRecord>),
    TruncateAfter(Option<EntryId>),
    Purge(EntryId),
    Vote(Vote),
    Committed(Option<EntryId>),
    Snapshot(Vec<Bytes>),
}

impl Content {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Append(records) => {
                self.bytes += payload_bytes(records.iter());
                self.records.extend(records.into_iter().map(|record| (record.id.index, record)));
            }
            Change::TruncateAfter(last) => {
                let gone = self.records.split_off(&last.map_or(0, |last| last.index + 1));
                self.bytes -= payload_bytes(gone.values());
            }
            Change::Purge(upto) => {
                self.records = self.records.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(upto));
                self.bytes = payload_bytes(self.records.values());
            }
            Change::Vote(vote) => self.vote = Some(vote),
            Change::Committed(committed) => self.committed = committed,
            Change::Snapshot(chunks) => self.snapshot = Some(chunks),
        }
    }

    pub(super) fn bounds(&self) -> LogBounds {
        LogBounds {
            vote: self.vote,
            purged: self.purged,
            last: self.records.last_key_value().map(|(_, record)| record.id).or(self.purged),
            committed: self.committed,
        }
    }

    pub(super) fn read(&self, range: Range<u64>) -> Vec<LogRecord> {
        if range.is_empty() {
            return Vec::new();
        }
        self.records.range(range).map(|(_, record)| record.clone()).collect()
    }

    pub(super) fn snapshot(&self) -> Option<SnapshotChunks> {
        let chunks = self.snapshot.clone()?;
        Some(Box::new(chunks.into_iter().map(Ok)))
    }

    pub(super) fn log_bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn snapshot_bytes(&self) -> u64 {
        self.snapshot.iter().flatten().map(|chunk| chunk.len() as u64).sum()
    }
}

fn payload_bytes<'a>(records: impl Iterator<Item = &'a LogRecord>) -> u64 {
    records.map(|record| record.payload.len() as u64).sum()
}

/// The whole of a snapshot.
pub(super) fn chunks_of(source: &SnapshotSource) -> io::Result<Vec<Bytes>> {
    let mut chunks = Vec::new();
    source(&mut |chunk| {
        chunks.push(Bytes::copy_from_slice(chunk));
        Ok(())
    })?;
    Ok(chunks)
}

#[async_trait::async_trait]
impl RaftLogStore for MemoryLogStore {
    fn bounds(&self) -> LogBounds {
        self.inner.lock().bounds()
    }

    fn append(&self, records: Vec<LogRecord>, done: AppendDone) {
        self.inner.lock().apply(Change::Append(records));
        done(Ok(()));
    }

    async fn truncate_after(&self, last: Option<EntryId>) -> io::Result<()> {
        self.inner.lock().apply(Change::TruncateAfter(last));
        Ok(())
    }

    async fn purge(&self, upto: EntryId) -> io::Result<()> {
        self.inner.lock().apply(Change::Purge(upto));
        Ok(())
    }

    async fn read(&self, range: Range<u64>) -> io::Result<Vec<LogRecord>> {
        Ok(self.inner.lock().read(range))
    }

    async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        self.inner.lock().apply(Change::Vote(vote));
        Ok(())
    }

    fn note_committed(&self, committed: Option<EntryId>) {
        self.inner.lock().apply(Change::Committed(committed));
    }

    async fn save_snapshot(&self, _covers: Option<EntryId>, source: SnapshotSource) -> io::Result<()> {
        self.inner.lock().apply(Change::Snapshot(chunks_of(&source)?));
        Ok(())
    }

    async fn load_snapshot(&self) -> io::Result<Option<SnapshotChunks>> {
        Ok(self.inner.lock().snapshot())
    }

    fn is_stalled(&self) -> bool {
        false
    }

    fn log_bytes(&self) -> u64 {
        self.inner.lock().log_bytes()
    }

    fn snapshot_bytes(&self) -> u64 {
        self.inner.lock().snapshot_bytes()
    }
}
