//! The log at work: appenders fill blocks under one short lock, and what its [`Driver`] runs beside them does the I/O:
//! threads, or the tasks of a simulation.

pub(crate) mod grower;
mod threads;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::planted::{self, Bug};
use common::{Lsn, NodeEpoch};
use futures::channel::oneshot;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::core::writer::{FlushError, Writer};
use crate::core::{Core, Flush};
use crate::device::WalDevice;
use crate::reader::{Place, read_block};
use crate::reads::ReadBlocks;
use crate::{
    AppendError, Appended, Block, BoxFuture, DurableLsn, PublicationGate, ReadError, RecordMeta, WalFailed,
    WriteAheadLog,
};
use grower::Growth;
use threads::Threads;

/// Keeps other processes out as long as it lives.
pub(crate) type Lock = Box<dyn Any + Send + Sync>;

/// What runs a log's work beside its appenders: one that writes, one that makes segments ahead of it, some that read.
/// They end when it is dropped.
pub(crate) trait Driver: Send + Sync {
    /// The writer said that it is idle, and there is work.
    fn wake_writer(&self);

    /// There may be need of another segment.
    fn wake_grower(&self);

    /// Reads the block back that starts at `lsn`.
    fn read(&self, lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>>;
}

/// What all who work on a log share.
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    pub(crate) device: Arc<dyn WalDevice>,
    pub(crate) durable: Arc<DurableLsn>,
    pub(crate) gate: Option<Arc<dyn PublicationGate>>,
    uuid: Uuid,
    /// The last growth failed: what is there is all there is for now.
    growth_failed: AtomicBool,
}

pub(crate) struct State {
    pub(crate) core: Core,
    /// The writer sleeps.
    pub(crate) idle: bool,
    ended: bool,
    /// Those who wait for the end of the writer.
    closers: Vec<oneshot::Sender<()>>,
}

/// A log on a device.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    driver: Box<dyn Driver>,
    capacity: u64,
    /// Dropped last, after those who work on the log ended.
    _lock: Lock,
}

/// What an engine is made of.
pub(crate) struct Parts {
    pub(crate) core: Core,
    pub(crate) writer: Writer,
    pub(crate) device: Arc<dyn WalDevice>,
    pub(crate) uuid: Uuid,
    /// Slots the ring may grow to, and bytes of each.
    pub(crate) slots: u32,
    pub(crate) segment_bytes: u64,
    pub(crate) gate: Option<Arc<dyn PublicationGate>>,
    pub(crate) lock: Lock,
}

impl Engine {
    /// Starts a log that threads of its own work on.
    pub(crate) fn start(parts: Parts) -> std::io::Result<Self> {
        Self::driven(parts, |writer, shared, growth| Ok(Box::new(Threads::start(writer, shared, growth)?)))
    }

    /// Starts a log that the driver made by `drive` works on. There is no growth where all segments exist.
    pub(crate) fn driven(
        parts: Parts,
        drive: impl FnOnce(Writer, &Arc<Shared>, Option<Growth>) -> std::io::Result<Box<dyn Driver>>,
    ) -> std::io::Result<Self> {
        let durable = Arc::new(DurableLsn::at(parts.core.durable()));
        let state = State { core: parts.core, idle: false, ended: false, closers: Vec::new() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            device: parts.device,
            durable,
            gate: parts.gate,
            uuid: parts.uuid,
            growth_failed: AtomicBool::new(false),
        });
        let driver = drive(parts.writer, &shared, Growth::of(&shared, parts.slots, parts.segment_bytes))?;
        let capacity = u64::from(parts.slots) * parts.segment_bytes;
        Ok(Self { shared, driver, capacity, _lock: parts.lock })
    }

    fn begin_close(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.shared.state.lock();
        state.core.close();
        let ended = (!state.ended).then(|| {
            let (sender, receiver) = oneshot::channel();
            state.closers.push(sender);
            receiver
        });
        drop(state);
        self.driver.wake_writer();
        ended
    }

    fn wake(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if idle {
            self.driver.wake_writer();
        }
    }
}

impl Shared {
    /// A flush failed: nothing becomes durable any more.
    pub(crate) fn fail(&self, error: &FlushError) {
        tracing::error!(%error, "the write-ahead log failed: nothing more is acknowledged");
        self.state.lock().core.fail();
        match error {
            FlushError::Sealed(by) => self.durable.fail_sealed(*by),
            _ => self.durable.fail(),
        }
    }

    /// The writer is done for good.
    pub(crate) fn ended(&self) {
        let closers = {
            let mut state = self.state.lock();
            state.ended = true;
            std::mem::take(&mut state.closers)
        };
        // Who waits for it may have gone.
        for closer in closers {
            let _ = closer.send(());
        }
    }

    /// Whether what was flushed may be published now; an error if it never will.
    pub(crate) fn gate_is_open(&self) -> Result<bool, FlushError> {
        match &self.gate {
            Some(gate) if !gate.is_open() && !planted::is(Bug::SkipPublicationGate) => {
                match self.state.lock().core.is_closing() {
                    true => Err(FlushError::NoLease),
                    false => Ok(false),
                }
            }
            _ => Ok(true),
        }
    }

    /// Says that a flush is durable. Returns whether another segment was begun.
    pub(crate) fn publish(&self, flush: Flush) -> bool {
        let (durable, rolled) = {
            let mut state = self.state.lock();
            let before = state.core.durable();
            let durable = state.core.finish(&flush);
            let segment = state.core.segment_bytes();
            (durable, before.0 / segment != durable.0 / segment)
        };
        for block in flush.blocks {
            block.block.publish(block.buffer.freeze());
        }
        self.durable.advance(durable);
        rolled
    }
}

impl ReadBlocks for Shared {
    fn read(&self, lsn: Lsn) -> Result<Arc<Block>, ReadError> {
        let place_of = || self.state.lock().core.place_of(lsn);
        let (slot, offset) = place_of().ok_or(ReadError::NotFound(lsn))?;
        let block = read_block(&*self.device, Place { uuid: self.uuid, lsn, slot, offset });
        // The segment may have been given up and overwritten while it was read.
        block.map_err(|error| if place_of().is_none() { ReadError::NotFound(lsn) } else { error })
    }
}

impl WriteAheadLog for Engine {
    fn set_node_epoch(&self, epoch: NodeEpoch) {
        self.shared.state.lock().core.set_epoch(epoch);
    }

    fn append(
        &self,
        meta: &RecordMeta,
        payload: &[u8],
        patch: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Appended, AppendError> {
        let mut state = self.shared.state.lock();
        let appended = state.core.append(meta, payload, patch);
        // Also when it was refused: a trim mark may have to be written to make room.
        self.wake(state);
        if let Err(AppendError::Full) = &appended {
            self.driver.wake_grower();
        }
        appended
    }

    fn durable(&self) -> &Arc<DurableLsn> {
        &self.shared.durable
    }

    fn read_block(&self, block_lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
        self.driver.read(block_lsn)
    }

    fn trim(&self, before: Lsn) {
        let mut state = self.shared.state.lock();
        if state.core.trim(before) {
            self.wake(state);
        }
    }

    fn capacity(&self) -> u64 {
        if self.shared.growth_failed.load(Ordering::Relaxed) {
            self.shared.state.lock().core.ring_bytes()
        } else {
            self.capacity
        }
    }

    fn used(&self) -> u64 {
        self.shared.state.lock().core.used()
    }

    fn uuid(&self) -> Uuid {
        self.shared.uuid
    }

    fn close(&self) -> BoxFuture<'_, Result<(), WalFailed>> {
        Box::pin(async move {
            if let Some(ended) = self.begin_close() {
                // An error means that the thread is gone, which is an end as well.
                let _ = ended.await;
            }
            if self.shared.durable.is_failed() { Err(WalFailed) } else { Ok(()) }
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.begin_close());
    }
}
