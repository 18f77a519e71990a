//! The write-ahead log: the only durable state on a broker's own disk.
//!
//! [`WriteAheadLog`] is the contract; `file`, `block` and `memory` implement it, and one conformance suite
//! runs on all of them. The log knows nothing of what its records mean.

pub mod block;
mod chunk;
pub mod config;
#[cfg(test)]
mod conformance;
mod core;
mod device;
pub mod direct;
pub mod durable;
mod engine;
mod format;
pub mod gate;
mod home;
pub mod inspect;
mod logs;
pub mod memory;
#[cfg(test)]
mod model;
mod open;
mod reader;
mod reads;
pub mod record;
mod recovery;
mod seal;
mod sealed_log;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use common::{Lsn, NodeEpoch};

pub use block::{Block, BlockAddress};
pub use config::{WalClass, WalConfig, WalLocation};
pub use durable::DurableLsn;
pub use format::seal_sector::SealedBy;
pub use gate::PublicationGate;
pub use home::{Choice, FoundLog, KnownLog, choose, fresh, logs, remove};
pub use logs::{Logs, SystemLogs};
pub use memory::{FlushMode, MemoryWal, MemoryWalSizes};
pub use open::{OpenError, Opened, open};
pub use record::{Appended, RecordKind, RecordMeta, RecordRef, TAG_BYTES};
pub use seal::{SealError, SealProof, Sealed, seal};
pub use sealed_log::{SealedLog, SealedSource};

/// A boxed future, as the object-safe contract needs it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An append-only log of records with group commit.
///
/// * **Order.** Records get sequence numbers in the order of the calls to [`append`](Self::append).
/// * **Durability.** A record is durable when [`durable`](Self::durable) has reached its
///   [`Appended::end`]; never before its bytes were written and fdatasynced, and the seal sector read as open.
/// * **Prefix.** Durability never skips: if a record is durable, so is every record before it.
/// * **Failure.** The first I/O error poisons the log: nothing becomes durable any more, every append fails,
///   and [`DurableLsn::wait`] reports [`WalFailed`]. Whether records after the last durable position are on
///   disk only recovery can tell.
/// * **Bounds.** At most [`capacity`](Self::capacity) bytes lie between the trim mark and the end;
///   at most the configured bytes of block memory are out at once.
pub trait WriteAheadLog: Send + Sync + 'static {
    /// Sets the epoch that block headers carry from now on: call it after the node's registration, before the
    /// first append.
    fn set_node_epoch(&self, epoch: NodeEpoch);

    /// Copies `payload` into the block that is being filled, lets `patch` change the copy, and returns where
    /// the record is. Never waits and never does I/O: the record becomes durable in the background.
    ///
    /// Errors: see [`AppendError`]; on an error nothing was appended and no sequence number was used.
    fn append(
        &self,
        meta: &RecordMeta,
        payload: &[u8],
        patch: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Appended, AppendError>;

    /// The durable position, and the means to wait for it.
    fn durable(&self) -> &Arc<DurableLsn>;

    /// Reads back the block that starts at `block_lsn` (a [`Block::own_lsn`]) and checks it. For blocks whose
    /// memory was given up; the block must not have been trimmed.
    fn read_block(&self, block_lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>>;

    /// Gives up every block that ends at or below `before`. Their space is reused, at once or later.
    /// Idempotent; never moves back.
    fn trim(&self, before: Lsn);

    /// Bytes the ring can hold between trim mark and end.
    fn capacity(&self) -> u64;

    /// Bytes between trim mark and end, padding included.
    fn used(&self) -> u64;

    /// This log's identity.
    fn uuid(&self) -> uuid::Uuid;

    /// Flushes what is pending, writes a last synced mark, and ends the I/O thread. Later appends fail
    /// with [`AppendError::Closed`].
    fn close(&self) -> BoxFuture<'_, Result<(), WalFailed>>;
}

/// What recovery found: every record between the trim mark and the end of the log, in order, without payloads.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Records in LSN order.
    pub records: Vec<RecordRef>,
    /// Exclusive end of the log; the next record gets a position at or above it.
    pub end: Lsn,
}

/// Why an append was refused. In every case the record is certainly not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The ring has no room until older records are uploaded and trimmed. Retry later.
    #[error("the write-ahead log is full until older records are uploaded")]
    Full,
    /// All block memory is out: flushing, or held by readers. Retry later.
    #[error("no memory is left for another block")]
    NoMemory,
    /// The record could never fit a block.
    #[error("a record of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Payload bytes asked for.
        bytes: usize,
        /// Payload bytes that would fit.
        limit: usize,
    },
    /// The log was closed.
    #[error("the write-ahead log is closed")]
    Closed,
    /// An earlier flush failed.
    #[error(transparent)]
    Failed(#[from] WalFailed),
}

/// An I/O error ended the log. Records that were not durable by then *may* be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the write-ahead log failed and takes no more records")]
pub struct WalFailed;

/// Why a block could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The block was trimmed, or never existed.
    #[error("no block starts at {0}")]
    NotFound(Lsn),
    /// The bytes on disk are not what was written.
    #[error("the block at {lsn} is damaged: {reason}")]
    Corrupt {
        /// Where the block starts.
        lsn: Lsn,
        /// What does not fit.
        reason: String,
    },
    /// The device failed.
    #[error("reading the write-ahead log: {0}")]
    Io(#[from] std::io::Error),
}
