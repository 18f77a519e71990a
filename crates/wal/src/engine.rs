//! The log at work: appenders fill blocks under one short lock, one thread of its own does the I/O.

mod grower;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Lsn, NodeEpoch};
use futures::channel::oneshot;
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use crate::core::writer::{FlushError, Writer};
use crate::core::{Core, Flush, Next};
use crate::device::WalDevice;
use crate::reader::{Place, read_block};
use crate::reads::{ReadBlocks, Readers};
use crate::{
    AppendError, Appended, Block, BoxFuture, DurableLsn, PublicationGate, ReadError, RecordMeta, WalFailed,
    WriteAheadLog,
};
use grower::Grower;

/// How often a shut gate is looked at, for a close in the meantime.
const GATE_LOOK: Duration = Duration::from_millis(50);

/// Enough to keep a disk busy beside the writer.
const READ_THREADS: usize = 2;

/// Keeps other processes out as long as it lives.
pub(crate) type Lock = Vec<std::fs::File>;

/// What all threads of a log share.
struct Shared {
    state: Mutex<State>,
    /// Wakes the I/O thread.
    work: Condvar,
    device: Arc<dyn WalDevice>,
    durable: Arc<DurableLsn>,
    gate: Option<Arc<dyn PublicationGate>>,
    uuid: Uuid,
    /// The last growth failed: what is there is all there is for now.
    growth_failed: AtomicBool,
}

struct State {
    core: Core,
    /// The I/O thread sleeps.
    idle: bool,
    ended: bool,
    /// Those who wait for the end of the I/O thread.
    closers: Vec<oneshot::Sender<()>>,
}

/// A log on a device.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    readers: Readers,
    grower: Option<Grower>,
    thread: Option<JoinHandle<()>>,
    capacity: u64,
    /// Dropped last, after the threads ended.
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
    /// Starts the threads.
    pub(crate) fn start(parts: Parts) -> std::io::Result<Self> {
        let durable = Arc::new(DurableLsn::at(parts.core.durable()));
        let state = State { core: parts.core, idle: false, ended: false, closers: Vec::new() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            device: parts.device,
            durable,
            gate: parts.gate,
            uuid: parts.uuid,
            growth_failed: AtomicBool::new(false),
        });
        // From here on, when a thread cannot be started, dropping this ends those that were.
        let mut engine = Self {
            readers: Readers::start(&shared, READ_THREADS)?,
            shared: Arc::clone(&shared),
            grower: None,
            thread: None,
            capacity: u64::from(parts.slots) * parts.segment_bytes,
            _lock: parts.lock,
        };
        engine.grower = Grower::start(&shared, parts.slots, parts.segment_bytes)?;
        let grow = engine.grower.as_ref().map(Grower::handle);
        let writer = parts.writer;
        let thread = std::thread::Builder::new().name("wal-io".to_owned());
        engine.thread = Some(thread.spawn(move || shared.work(writer, grow))?);
        Ok(engine)
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
        self.shared.work.notify_one();
        ended
    }
}

impl Shared {
    /// The I/O thread.
    fn work(&self, mut writer: Writer, grow: Option<std::thread::Thread>) {
        while let Some(mut flush) = self.next_flush() {
            let flushed = writer.run(&*self.device, &mut flush).and_then(|()| self.pass_gate(&mut writer));
            if let Err(error) = flushed {
                tracing::error!(%error, "the write-ahead log failed: nothing more is acknowledged");
                self.state.lock().core.fail();
                match error {
                    FlushError::Sealed(by) => self.durable.fail_sealed(by),
                    _ => self.durable.fail(),
                }
                break;
            }
            self.publish(flush, grow.as_ref());
        }
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

    /// Waits until what was flushed may be published. The seal is read once more after any wait: whoever has the log
    /// sealed may have given its streams to others meanwhile.
    fn pass_gate(&self, writer: &mut Writer) -> Result<(), FlushError> {
        let Some(gate) = &self.gate else { return Ok(()) };
        while !gate.is_open() {
            while !gate.is_open() {
                if self.state.lock().core.is_closing() {
                    return Err(FlushError::NoLease);
                }
                gate.wait(GATE_LOOK);
            }
            writer.check_seal(&*self.device)?;
        }
        Ok(())
    }

    fn next_flush(&self) -> Option<Flush> {
        let mut state = self.state.lock();
        loop {
            match state.core.next() {
                Next::Flush(flush) => return Some(flush),
                Next::Finished => return None,
                Next::Idle => {
                    state.idle = true;
                    self.work.wait(&mut state);
                    state.idle = false;
                }
            }
        }
    }

    fn publish(&self, flush: Flush, grow: Option<&std::thread::Thread>) {
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
        if rolled && let Some(grow) = grow {
            grow.unpark();
        }
    }

    fn wake(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if idle {
            self.work.notify_one();
        }
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
        self.shared.wake(state);
        if let (Err(AppendError::Full), Some(grower)) = (&appended, &self.grower) {
            grower.handle().unpark();
        }
        appended
    }

    fn durable(&self) -> &Arc<DurableLsn> {
        &self.shared.durable
    }

    fn read_block(&self, block_lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
        Box::pin(self.readers.read(block_lsn))
    }

    fn trim(&self, before: Lsn) {
        let mut state = self.shared.state.lock();
        if state.core.trim(before) {
            self.shared.wake(state);
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
        if let Some(grower) = self.grower.take() {
            grower.stop();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the I/O thread of the write-ahead log panicked");
        }
    }
}
