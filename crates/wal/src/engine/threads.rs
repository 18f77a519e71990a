//! A log that threads of its own work on.

use std::io;
use std::sync::Arc;
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use common::Lsn;
use parking_lot::Condvar;

use super::grower::{Grower, Growth};
use super::{Driver, Shared};
use crate::core::writer::{FlushError, Writer};
use crate::core::{Flush, Next};
use crate::reads::Readers;
use crate::{Block, BoxFuture, ReadError};

/// How often a shut gate is looked at, for a close in the meantime.
const GATE_LOOK: Duration = Duration::from_millis(50);

/// Enough to keep a disk busy beside the writer.
const READ_THREADS: usize = 2;

pub(super) struct Threads {
    readers: Readers,
    grower: Option<Grower>,
    work: Arc<Condvar>,
    writer: Option<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start(writer: Writer, shared: &Arc<Shared>, growth: Option<Growth>) -> io::Result<Self> {
        let readers = Readers::start(shared, READ_THREADS)?;
        let grower = growth.map(Grower::start).transpose()?;
        let work = Arc::new(Condvar::new());
        let grow = grower.as_ref().map(Grower::handle);
        let write = Write { shared: Arc::clone(shared), work: Arc::clone(&work), writer, grow };
        // From here on, when the thread cannot be started, dropping this ends those that were.
        let mut threads = Self { readers, grower, work, writer: None };
        threads.writer = Some(std::thread::Builder::new().name("wal-io".to_owned()).spawn(move || write.run())?);
        Ok(threads)
    }
}

impl Driver for Threads {
    fn wake_writer(&self) {
        self.work.notify_one();
    }

    fn wake_grower(&self) {
        if let Some(grower) = &self.grower {
            grower.handle().unpark();
        }
    }

    fn read(&self, lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
        Box::pin(self.readers.read(lsn))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(grower) = self.grower.take() {
            grower.stop();
        }
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the I/O thread of the write-ahead log panicked");
        }
    }
}

/// The I/O thread.
struct Write {
    shared: Arc<Shared>,
    /// Waited for when there is nothing to write.
    work: Arc<Condvar>,
    writer: Writer,
    grow: Option<Thread>,
}

impl Write {
    fn run(mut self) {
        while let Some(mut flush) = self.next_flush() {
            let flushed = self.writer.run(&*self.shared.device, &mut flush).and_then(|()| self.pass_gate());
            if let Err(error) = flushed {
                self.shared.fail(&error);
                break;
            }
            if self.shared.publish(flush)
                && let Some(grow) = &self.grow
            {
                grow.unpark();
            }
        }
        self.shared.ended();
    }

    fn next_flush(&self) -> Option<Flush> {
        let mut state = self.shared.state.lock();
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

    /// Waits until what was flushed may be published. The seal is read once more after any wait: whoever has the log
    /// sealed may have given its streams to others meanwhile.
    fn pass_gate(&mut self) -> Result<(), FlushError> {
        while !self.shared.gate_is_open()? {
            while !self.shared.gate_is_open()? {
                if let Some(gate) = &self.shared.gate {
                    gate.wait(GATE_LOOK);
                }
            }
            self.writer.check_seal(&*self.shared.device)?;
        }
        Ok(())
    }
}
