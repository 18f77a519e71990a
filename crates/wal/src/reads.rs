//! Reading blocks back: on threads of their own, so that no async worker waits for the disk.

use std::sync::Arc;
use std::thread::JoinHandle;

use common::Lsn;
use crossbeam::channel::{Receiver, Sender, unbounded};
use futures::channel::oneshot;

use crate::{Block, ReadError};

/// What the threads read from.
pub(crate) trait ReadBlocks: Send + Sync + 'static {
    fn read(&self, lsn: Lsn) -> Result<Arc<Block>, ReadError>;
}

struct Request {
    lsn: Lsn,
    answer: oneshot::Sender<Result<Arc<Block>, ReadError>>,
}

pub(crate) struct Readers {
    /// Unbounded, since each entry is a few words that belong to a caller who waits for it.
    requests: Option<Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(crate) fn start<S: ReadBlocks>(source: &Arc<S>, threads: usize) -> std::io::Result<Self> {
        let (sender, receiver) = unbounded();
        let start = |number: usize| {
            let (source, receiver) = (Arc::clone(source), receiver.clone());
            let thread = std::thread::Builder::new().name(format!("wal-read-{number}"));
            thread.spawn(move || serve(&*source, &receiver))
        };
        let threads = (0..threads).map(start).collect::<Result<_, _>>()?;
        Ok(Self { requests: Some(sender), threads })
    }

    pub(crate) async fn read(&self, lsn: Lsn) -> Result<Arc<Block>, ReadError> {
        let (answer, receiver) = oneshot::channel();
        let gone = || ReadError::Io(std::io::Error::other("the log was closed"));
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send(Request { lsn, answer }).map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }
}

fn serve(source: &impl ReadBlocks, requests: &Receiver<Request>) {
    while let Ok(Request { lsn, answer }) = requests.recv() {
        if !answer.is_canceled() {
            // The caller may have gone in the meantime.
            let _ = answer.send(source.read(lsn));
        }
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
