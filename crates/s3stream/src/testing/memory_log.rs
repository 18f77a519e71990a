//! A write-ahead log in memory whose crashes and flushes a test decides.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use common::{Lsn, NodeEpoch, Random, SystemRandom};
use parking_lot::Mutex;
use uuid::Uuid;
use wal::{
    AppendError, Appended, Block, BoxFuture, DurableLsn, OpenError, ReadError, RecordMeta, RecordRef, Recovered,
    SealedLog, SealedSource, WalFailed, WriteAheadLog,
};

/// Bytes before each payload, so that payloads are apart as in a real block.
const HEADER_BYTES: usize = 64;

/// See the module.
pub struct MemoryLog {
    durable: Arc<DurableLsn>,
    capacity: u64,
    block_bytes: usize,
    auto_flush: bool,
    uuid: Uuid,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    end: u64,
    trimmed: u64,
    open: Option<(Arc<Block>, BytesMut)>,
    /// What is "on disk".
    disk: BTreeMap<u64, Bytes>,
    records: Vec<RecordRef>,
    reads: u64,
}

fn own(block: &Block) -> u64 {
    block.own_lsn().expect("a log's own blocks").0
}

impl MemoryLog {
    /// A log of `capacity` bytes with blocks of up to `block_bytes`. With `auto_flush` each record is durable
    /// before its append returns.
    #[must_use]
    pub fn new(capacity: u64, block_bytes: usize, auto_flush: bool) -> Self {
        Self {
            durable: Arc::default(),
            capacity,
            block_bytes,
            auto_flush,
            uuid: SystemRandom.uuid(),
            state: Mutex::default(),
        }
    }

    /// Makes everything durable.
    pub fn flush(&self) {
        let durable = Self::seal(&mut self.state.lock());
        self.durable.advance(durable);
    }

    /// The log after a crash, and what recovery finds in it: what was not durable is lost.
    #[must_use]
    pub fn crash(&self) -> (Self, Recovered) {
        let state = self.state.lock();
        let end = self.durable.get();
        let records: Vec<RecordRef> = state
            .records
            .iter()
            .filter(|record| own(&record.block) >= state.trimmed && own(&record.block) < end.0)
            .map(|record| RecordRef { block: Arc::new(Block::new(Lsn(own(&record.block)))), ..record.clone() })
            .collect();
        let after = State {
            end: end.0,
            trimmed: state.trimmed,
            open: None,
            // Their positions are given again: what is left there would be read as the new block.
            disk: state.disk.range(..end.0).map(|(lsn, bytes)| (*lsn, bytes.clone())).collect(),
            records: records.clone(),
            reads: 0,
        };
        let log = Self {
            durable: Arc::new(DurableLsn::at(end)),
            capacity: self.capacity,
            block_bytes: self.block_bytes,
            auto_flush: self.auto_flush,
            uuid: self.uuid,
            state: Mutex::new(after),
        };
        (log, Recovered { records, end })
    }

    /// The log after its owner is gone, for those who take over, as long as it is `present`. What was not durable is
    /// lost.
    #[must_use]
    pub fn sealed(&self, present: Arc<AtomicBool>) -> Arc<SealedLog> {
        let (log, recovered) = self.crash();
        let source = MemorySealed { log, records: recovered.records, present };
        SealedLog::over(self.uuid, recovered.end, Box::new(source))
    }

    /// Its identity.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Blocks read back so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    fn seal(state: &mut State) -> Lsn {
        if let Some((block, bytes)) = state.open.take() {
            let bytes = bytes.freeze();
            state.disk.insert(own(&block), bytes.clone());
            block.publish(bytes);
        }
        Lsn(state.end)
    }
}

struct MemorySealed {
    log: MemoryLog,
    records: Vec<RecordRef>,
    present: Arc<AtomicBool>,
}

impl MemorySealed {
    fn reach(&self) -> io::Result<()> {
        if self.present.load(Ordering::SeqCst) { Ok(()) } else { Err(io::Error::other("the log is gone")) }
    }
}

impl SealedSource for MemorySealed {
    fn records(&self) -> Result<Vec<RecordRef>, OpenError> {
        self.reach().map_err(|error| OpenError::Io { path: self.log.uuid.to_string().into(), error })?;
        Ok(self.records.clone())
    }

    fn read_block(&self, lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
        Box::pin(async move {
            self.reach()?;
            self.log.read_block(lsn).await
        })
    }
}

impl WriteAheadLog for MemoryLog {
    fn set_node_epoch(&self, _epoch: NodeEpoch) {
        // There are no block headers to carry it.
    }

    fn append(
        &self,
        meta: &RecordMeta,
        payload: &[u8],
        patch: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Appended, AppendError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let needed = (HEADER_BYTES + payload.len()) as u64;
        if state.end - state.trimmed + needed > self.capacity {
            return Err(AppendError::Full);
        }
        if state.open.as_ref().is_some_and(|(_, bytes)| bytes.len() + payload.len() > self.block_bytes) {
            Self::seal(state);
        }
        let end = state.end;
        let (block, bytes) = state.open.get_or_insert_with(|| (Arc::new(Block::new(Lsn(end))), BytesMut::new()));
        bytes.extend_from_slice(&[0; HEADER_BYTES]);
        let position = bytes.len();
        bytes.extend_from_slice(payload);
        patch(&mut bytes[position..]);
        let block = Arc::clone(block);
        let (position, len) = (position as u32, payload.len() as u32);
        state.end += needed;
        state.records.push(RecordRef { meta: *meta, block: Arc::clone(&block), position, len });
        let end = Lsn(state.end);
        if self.auto_flush {
            Self::seal(state);
        }
        drop(guard);
        if self.auto_flush {
            self.durable.advance(end);
        }
        Ok(Appended { end, block, position, len })
    }

    fn durable(&self) -> &Arc<DurableLsn> {
        &self.durable
    }

    fn read_block(&self, block_lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
        let mut state = self.state.lock();
        state.reads += 1;
        let found = state.disk.get(&block_lsn.0).cloned().ok_or(ReadError::NotFound(block_lsn));
        Box::pin(std::future::ready(found.map(|bytes| {
            let block = Block::new(block_lsn);
            block.publish(bytes);
            Arc::new(block)
        })))
    }

    fn trim(&self, before: Lsn) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        assert!(before <= self.durable.get(), "only what is durable is trimmed");
        let next = state.disk.range(before.0..).next().map_or(before.0, |(lsn, _)| before.0.min(*lsn));
        state.trimmed = state.trimmed.max(next);
        let trimmed = state.trimmed;
        state.disk.retain(|lsn, bytes| lsn + bytes.len() as u64 > trimmed);
        state.records.retain(|record| own(&record.block) >= trimmed || state.disk.contains_key(&own(&record.block)));
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn used(&self) -> u64 {
        let state = self.state.lock();
        state.end - state.trimmed
    }

    fn uuid(&self) -> uuid::Uuid {
        self.uuid
    }

    fn close(&self) -> BoxFuture<'_, Result<(), WalFailed>> {
        self.flush();
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use common::{Offset, StreamEpoch, StreamId};
    use wal::{RecordKind, TAG_BYTES};

    use super::*;

    fn append(log: &MemoryLog) -> Appended {
        let meta = RecordMeta {
            stream: StreamId(1),
            stream_epoch: StreamEpoch(1),
            kind: RecordKind::Data,
            base_offset: Offset(0),
            next_offset: Offset(1),
            max_timestamp_ms: 0,
            tag: [0; TAG_BYTES],
        };
        log.append(&meta, &[7; 100], &mut |_| ()).expect("room")
    }

    /// Found by the model test: blocks that a crash cut off were read in place of those that took their positions.
    #[tokio::test]
    async fn a_crash_loses_whole_blocks_that_were_not_durable() {
        let log = MemoryLog::new(1 << 20, 100, false);
        append(&log);
        log.flush();
        (0..3).for_each(|_| drop(append(&log)));
        let (log, recovered) = log.crash();
        assert_eq!(recovered.records.len(), 1);
        let again = append(&log);
        assert!(matches!(
            log.read_block(again.block.own_lsn().expect("of this log")).await,
            Err(ReadError::NotFound(_))
        ));
        log.flush();
        log.read_block(again.block.own_lsn().expect("of this log")).await.expect("durable");
    }
}
