//! A log in memory, with the same core as the others: for tests, and where nothing need survive the process.

use std::sync::Arc;

use common::{Lsn, NodeEpoch, NodeId, Random, SystemRandom};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::chunk::ChunkPool;
use crate::core::ring::Ring;
use crate::core::writer::{Author, Writer};
use crate::core::{Core, Next, Sizes, Start};
use crate::device::WalDevice;
use crate::device::memory::MemoryDevice;
use crate::format::block_header::Link;
use crate::reader::{Place, read_block};
use crate::{AppendError, Appended, Block, BoxFuture, DurableLsn, ReadError, RecordMeta, WalFailed, WriteAheadLog};

/// When records of a [`MemoryWal`] become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// Before `append` returns.
    Instant,
    /// When [`MemoryWal::flush`] is called.
    Manual,
}

/// Sizes of a [`MemoryWal`], bytes.
#[derive(Clone, Copy, Debug)]
pub struct MemoryWalSizes {
    /// The whole ring, a multiple of `segment`.
    pub capacity: u64,
    /// One segment.
    pub segment: u64,
    /// Block memory that may be mapped at once.
    pub memory: u64,
}

impl Default for MemoryWalSizes {
    fn default() -> Self {
        Self { capacity: 256 << 20, segment: 16 << 20, memory: 64 << 20 }
    }
}

/// The log.
pub struct MemoryWal {
    state: Mutex<State>,
    device: Arc<MemoryDevice>,
    durable: Arc<DurableLsn>,
    mode: FlushMode,
    uuid: Uuid,
    capacity: u64,
}

struct State {
    core: Core,
    writer: Writer,
}

impl MemoryWal {
    /// An empty log. Fails when the system has no memory left.
    pub fn new(mode: FlushMode, sizes: MemoryWalSizes) -> std::io::Result<Self> {
        let slots = sizes.capacity / sizes.segment.max(1);
        let device = Arc::new(MemoryDevice::new(slots as u32, sizes.segment));
        let uuid = SystemRandom.uuid();
        let author = Author { uuid, node: NodeId(0), incarnation: SystemRandom.next_u64(), checks_seal: false };
        let ring = Ring::new(sizes.segment, std::collections::BTreeMap::new(), device.slots().into());
        let start = Start {
            ring,
            tail: None,
            end: Lsn(0),
            trim: Lsn(0),
            durable_trim: Lsn(0),
            next_sequence: 0,
            last_unmarked: false,
        };
        let writer = Writer::new(author, sizes.segment, Link::default(), None)?;
        let core_sizes = Sizes {
            segment_bytes: sizes.segment,
            block_bytes_max: 256 << 10,
            record_bytes_max: u32::MAX,
            flush_bytes_max: u64::MAX,
        };
        let memory = usize::try_from(sizes.memory).unwrap_or(usize::MAX);
        let pool = ChunkPool::new((memory / 8).min(1 << 20), memory);
        Ok(Self {
            state: Mutex::new(State { core: Core::new(core_sizes, pool, start), writer }),
            device,
            durable: Arc::new(DurableLsn::at(Lsn(0))),
            mode,
            uuid,
            capacity: slots * sizes.segment,
        })
    }

    /// Makes everything appended so far durable.
    pub fn flush(&self) {
        self.run(&mut self.state.lock());
    }

    /// Fails the log, as the first I/O error does.
    pub fn fail(&self) {
        self.state.lock().core.fail();
        self.durable.fail();
    }

    fn run(&self, state: &mut State) {
        while let Next::Flush(mut flush) = state.core.next() {
            if let Err(error) = state.writer.run(&*self.device, &mut flush) {
                tracing::error!(%error, "the memory log failed");
                state.core.fail();
                self.durable.fail();
                return;
            }
            let durable = state.core.finish(&flush);
            for block in flush.blocks {
                block.block.publish(block.buffer.freeze());
            }
            self.durable.advance(durable);
        }
    }

    fn read(&self, lsn: Lsn) -> Result<Arc<Block>, ReadError> {
        let (slot, offset) = self.state.lock().core.place_of(lsn).ok_or(ReadError::NotFound(lsn))?;
        read_block(&*self.device, Place { uuid: self.uuid, lsn, slot, offset })
    }
}

impl WriteAheadLog for MemoryWal {
    fn set_node_epoch(&self, epoch: NodeEpoch) {
        self.state.lock().core.set_epoch(epoch);
    }

    fn append(
        &self,
        meta: &RecordMeta,
        payload: &[u8],
        patch: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Appended, AppendError> {
        let mut state = self.state.lock();
        let appended = state.core.append(meta, payload, patch);
        if self.mode == FlushMode::Instant {
            self.run(&mut state);
        }
        appended
    }

    fn durable(&self) -> &Arc<DurableLsn> {
        &self.durable
    }

    fn read_block(&self, block_lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
        Box::pin(async move { self.read(block_lsn) })
    }

    fn trim(&self, before: Lsn) {
        let mut state = self.state.lock();
        if state.core.trim(before) {
            self.run(&mut state);
        }
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn used(&self) -> u64 {
        self.state.lock().core.used()
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn close(&self) -> BoxFuture<'_, Result<(), WalFailed>> {
        Box::pin(async move {
            let mut state = self.state.lock();
            state.core.close();
            self.run(&mut state);
            if self.durable.is_failed() { Err(WalFailed) } else { Ok(()) }
        })
    }
}

#[cfg(test)]
mod tests;
