//! What all streams of one broker share: log, store, caches, and the count of what waits for upload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Clock, NodeEpoch, NodeId};
use object_store::ObjectStore;
use tokio::sync::Notify;
use wal::{AppendError, Appended, RecordMeta, WriteAheadLog};

use crate::block_cache::BlockCache;
use crate::log_cache::LogCache;
use crate::object::reader::ReadBudgets;
use crate::ports::{ObjectManager, StreamManager};
use crate::read::ReadaheadJob;
use crate::store::Settings;

/// See the module.
pub(crate) struct Core {
    /// To the task that reads ahead.
    pub(crate) readahead: tokio::sync::mpsc::Sender<ReadaheadJob>,
    pub(crate) settings: Settings,
    pub(crate) wal: Arc<dyn WriteAheadLog>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) stream_manager: Arc<dyn StreamManager>,
    pub(crate) object_manager: Arc<dyn ObjectManager>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log_cache: LogCache,
    pub(crate) block_cache: BlockCache,
    pub(crate) backlog: Backlog,
    pub(crate) read_budgets: ReadBudgets,
    pub(crate) anchors: Anchors,
}

/// When to look for streams whose anchor has fallen back: see [`crate::anchors`].
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    /// Payload bytes appended so far.
    written: AtomicU64,
    /// The log was full for an append since the last look.
    pub(crate) log_was_full: AtomicBool,
    pub(crate) wanted: Notify,
}

/// What waits for upload, counted over all streams.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Payload bytes that no object holds.
    bytes: AtomicU64,
    /// Memory of all tail entries.
    index_bytes: AtomicU64,
    /// Boot time in ms (plus one) at which the backlog was last empty; 0 while it is empty.
    since_ms: AtomicU64,
    /// Somebody wants everything uploaded, whatever size and age say.
    requested: AtomicBool,
    /// Look whether an upload is due.
    pub(crate) wanted: Notify,
    /// Something was committed, or abandoned.
    pub(crate) committed: Notify,
}

impl Backlog {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub(crate) fn index_bytes(&self) -> u64 {
        self.index_bytes.load(Ordering::Acquire)
    }

    pub(crate) fn add_index(&self, bytes: u64) {
        self.index_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(crate) fn sub_index(&self, bytes: u64) {
        self.index_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Adds payload bytes; true when the backlog was empty before.
    pub(crate) fn add(&self, bytes: u64) -> bool {
        self.bytes.fetch_add(bytes, Ordering::AcqRel) == 0
    }

    /// Takes payload bytes off.
    pub(crate) fn sub(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Asks for everything to be uploaded.
    pub(crate) fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.wanted.notify_one();
    }

    /// Whether somebody asked.
    pub(crate) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Whether somebody asked; forgets it.
    pub(crate) fn take_request(&self) -> bool {
        self.requested.swap(false, Ordering::AcqRel)
    }

    /// Age in ms of the backlog, `None` when nobody has started the count.
    pub(crate) fn age_ms(&self, clock: &dyn Clock) -> Option<u64> {
        let since = self.since_ms.load(Ordering::Acquire).checked_sub(1)?;
        Some(boot_ms(clock).saturating_sub(since))
    }

    /// Starts the count of the age anew, or ends it when nothing is left.
    pub(crate) fn restart_age(&self, clock: &dyn Clock) {
        self.since_ms.store(0, Ordering::Release);
        // Looked at after the store: an append in between has counted its bytes before.
        if self.bytes() > 0 {
            self.since_ms.store(boot_ms(clock) + 1, Ordering::Release);
        }
    }
}

pub(crate) fn boot_ms(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.boot().as_millis()).unwrap_or(u64::MAX)
}

impl Core {
    /// Who this is, as metadata names the owner of a stream.
    pub(crate) fn owner(&self) -> (NodeId, NodeEpoch) {
        (self.settings.node, self.settings.node_epoch)
    }

    /// Appends to the log, with room made where memory is what lacks. Asks for uploads and trims when it is full.
    pub(crate) fn append_to_log(
        &self,
        meta: &RecordMeta,
        payload: &[u8],
        patch: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Appended, AppendError> {
        let appended = match self.wal.append(meta, payload, patch) {
            Err(AppendError::NoMemory) => {
                self.log_cache.release_half();
                self.wal.append(meta, payload, patch)
            }
            other => other,
        };
        if matches!(appended, Err(AppendError::Full)) {
            self.backlog.wanted.notify_one();
            self.anchors.log_was_full.store(true, Ordering::Release);
            self.anchors.wanted.notify_one();
        }
        appended
    }

    /// Counts an appended record and asks for an upload when a bound is reached.
    pub(crate) fn appended(&self, payload: u64) {
        if payload == 0 {
            return;
        }
        let (written, step) =
            (self.anchors.written.fetch_add(payload, Ordering::Relaxed), self.wal.capacity() / 16 + 1);
        if written / step != (written + payload) / step {
            self.anchors.wanted.notify_one();
        }
        let before = self.backlog.bytes();
        if self.backlog.add(payload) {
            self.backlog.restart_age(self.clock.as_ref());
            self.backlog.wanted.notify_one();
        } else if before / self.settings.upload_bytes.max(1) != (before + payload) / self.settings.upload_bytes.max(1) {
            self.backlog.wanted.notify_one();
        }
    }

    /// Whether log or index are so full that waiting for size or age would soon refuse appends.
    pub(crate) fn under_pressure(&self) -> bool {
        self.wal.used() > self.wal.capacity() / 2 || self.backlog.index_bytes() > self.settings.tail_index_bytes / 2
    }
}
