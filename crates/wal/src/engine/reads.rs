//! Reading blocks back: on threads of their own, so that no async worker waits for the disk.

use std::sync::Arc;
use std::thread::JoinHandle;

use common::Lsn;
use crossbeam::channel::{Receiver, Sender, unbounded};
use futures::channel::oneshot;

use super::Shared;
use crate::reader::{Place, read_block};
use crate::{Block, ReadError};

/// Enough to keep a disk busy beside the writer.
const THREADS: usize = 2;

struct Request {
    lsn: Lsn,
    answer: oneshot::Sender<Result<Arc<Block>, ReadError>>,
}

pub(super) struct Readers {
    /// Unbounded, since each entry is a few words that belong to a caller who waits for it.
    requests: Option<Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let (sender, receiver) = unbounded();
        let start = |number: usize| {
            let (shared, receiver) = (Arc::clone(shared), receiver.clone());
            let thread = std::thread::Builder::new().name(format!("wal-read-{number}"));
            thread.spawn(move || serve(&shared, &receiver))
        };
        let threads = (0..THREADS).map(start).collect::<Result<_, _>>()?;
        Ok(Self { requests: Some(sender), threads })
    }

    pub(super) async fn read(&self, lsn: Lsn) -> Result<Arc<Block>, ReadError> {
        let (answer, receiver) = oneshot::channel();
        let gone = || ReadError::Io(std::io::Error::other("the log was closed"));
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send(Request { lsn, answer }).map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }
}

fn serve(shared: &Shared, requests: &Receiver<Request>) {
    while let Ok(Request { lsn, answer }) = requests.recv() {
        if !answer.is_canceled() {
            // The caller may have gone in the meantime.
            let _ = answer.send(shared.read(lsn));
        }
    }
}

impl Shared {
    fn read(&self, lsn: Lsn) -> Result<Arc<Block>, ReadError> {
        let place_of = || self.state.lock().core.place_of(lsn);
        let (slot, offset) = place_of().ok_or(ReadError::NotFound(lsn))?;
        let block = read_block(&*self.device, Place { uuid: self.uuid, lsn, slot, offset });
        // The segment may have been given up and overwritten while it was read.
        block.map_err(|error| if place_of().is_none() { ReadError::NotFound(lsn) } else { error })
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.requests = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a read thread of the write-ahead log panicked");
            }
        }
    }
}
