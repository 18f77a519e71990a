//! The port to whatever keeps the Raft log and its snapshots. The broker implements it on files; here is the
//! contract, one in memory and one on a simulated disk, and the suite that all must pass.

pub mod conformance;
mod memory;
mod simulated;

use std::io;
use std::ops::Range;

use bytes::Bytes;

pub use memory::MemoryLogStore;
pub use simulated::{SimulatedLogDisk, SimulatedLogStore};

/// Identity of a log entry: who led, in which term, and where in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// The leader.
    pub node: u64,
    /// Position in the log.
    pub index: u64,
}

/// A log entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its identity.
    pub id: EntryId,
    /// Opaque to the store.
    pub payload: Bytes,
}

/// What a node last voted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Term.
    pub term: u64,
    /// Candidate or leader.
    pub node: u64,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// What a store held when it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// The vote saved last.
    pub vote: Option<Vote>,
    /// The last entry that was purged.
    pub purged: Option<EntryId>,
    /// The last entry, or the last purged one if there is none.
    pub last: Option<EntryId>,
    /// The newest known commit; may lag behind the true one.
    pub committed: Option<EntryId>,
}

/// Receives the chunks of a snapshot in order.
pub type ChunkSink<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Writes a whole snapshot into a [`ChunkSink`]; the same one each time it is called, so that a store which ran
/// out of space can try again.
pub type SnapshotSource = Box<dyn Fn(&mut ChunkSink<'_>) -> io::Result<()> + Send>;

/// The chunks of a snapshot in order, each verified.
pub type SnapshotChunks = Box<dyn Iterator<Item = io::Result<Bytes>> + Send>;

/// Called once when a batch of entries is durable, or certainly never will be.
pub type AppendDone = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Durable storage of one node's Raft log, vote and newest snapshot.
///
/// * **Order.** Writes take effect in the order of the calls; entries become durable in that order.
/// * **Durability.** `append` tells through its callback, every other writer by returning. Nothing that was
///   durable is lost by any crash.
/// * **Errors are final.** An error poisons the store: every later write fails too, because what reached the
///   disk is unknown. A full disk is *not* an error: the store waits, tells so through
///   [`is_stalled`](Self::is_stalled), and goes on when there is room.
#[async_trait::async_trait]
pub trait RaftLogStore: Send + Sync + 'static {
    /// What the store held when it was opened.
    fn bounds(&self) -> LogBounds;

    /// Appends entries that follow the last one. Never waits for I/O: `done` is called when they are durable.
    /// They are readable when this returns.
    fn append(&self, records: Vec<LogRecord>, done: AppendDone);

    /// Removes every entry above `last`; all of them for `None`.
    async fn truncate_after(&self, last: Option<EntryId>) -> io::Result<()>;

    /// Gives up every entry up to and with `upto`.
    async fn purge(&self, upto: EntryId) -> io::Result<()>;

    /// Entries of `range` in order; those that were purged, or do not exist yet, are left out.
    async fn read(&self, range: Range<u64>) -> io::Result<Vec<LogRecord>>;

    /// Saves the vote.
    async fn save_vote(&self, vote: Vote) -> io::Result<()>;

    /// Notes the newest commit, to be written with the next batch; not durable on return.
    fn note_committed(&self, committed: Option<EntryId>);

    /// Writes a snapshot that covers the log up to `covers`, and makes it the current one when it is whole and
    /// durable. The one before it is kept until then.
    async fn save_snapshot(&self, covers: Option<EntryId>, source: SnapshotSource) -> io::Result<()>;

    /// The current snapshot. A damaged one is an error, never `None`.
    async fn load_snapshot(&self) -> io::Result<Option<SnapshotChunks>>;

    /// The node has caught up: entries kept in memory since recovery may be let go.
    fn settle(&self) {}

    /// Writes what was appended and lets go of everything outside the process, so that the log can be opened
    /// again. Later writes fail.
    async fn close(&self) {}

    /// Whether writes wait for room on the disk right now.
    fn is_stalled(&self) -> bool;

    /// Bytes of log that a snapshot would let go, about.
    fn log_bytes(&self) -> u64;

    /// Bytes of the current snapshot, 0 without one.
    fn snapshot_bytes(&self) -> u64;
}
