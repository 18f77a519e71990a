//! The stream store of one broker: owns caches, uploads and object compaction of all its streams.

use std::sync::Arc;

use common::{Clock, NodeEpoch, NodeId, Offset, Random, StreamEpoch, StreamId};
use object_store::ObjectStore;
use uuid::Uuid;
use wal::{SealedLog, WriteAheadLog};

use crate::block_cache::BlockCache;
use crate::collector::Collector;
use crate::compaction::Compactor;
use crate::core::{Anchors, Backlog, Core};
use crate::log_cache::LogCache;
use crate::object::reader::ReadBudgets;
use crate::ports::{ObjectManager, StreamManager};
use crate::read::run_readahead;
use crate::registry::Registry;
use crate::stream::Stream;
use crate::upload::Uploader;

/// Read-aheads that wait for their turn; when there are more, readers go without.
const READAHEAD_QUEUE: usize = 64;
/// What reads of one class may have in flight at least, however small the block cache is.
const READ_BUDGET_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Settings of the stream layer.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who writes.
    pub node: NodeId,
    /// In which life.
    pub node_epoch: NodeEpoch,
    /// Prefix of object keys within the store.
    pub prefix: String,
    /// Un-uploaded payload bytes that start an upload.
    pub upload_bytes: u64,
    /// Age in ms of the oldest un-uploaded record that starts an upload.
    pub upload_age_ms: u64,
    /// Block memory the log cache may keep, bytes.
    pub log_cache_bytes: u64,
    /// Memory of the cache of blocks read back, bytes.
    pub block_cache_bytes: u64,
    /// Memory for the in-memory index of un-uploaded records, bytes.
    pub tail_index_bytes: u64,
}

/// Why the stream layer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The prefix belongs to somebody else, or holds data that metadata does not know.
    #[error("{0}")]
    Prefix(String),
    /// The store failed.
    #[error("object store: {0}")]
    Store(#[from] object_store::Error),
}

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Metadata knows no such stream.
    #[error("stream {0} does not exist")]
    Unknown(StreamId),
    /// Metadata has a newer epoch than the one given, or this node opened it under a newer one.
    #[error("stream {stream} is open under epoch {current}, not {given}")]
    Fenced {
        /// The stream.
        stream: StreamId,
        /// The epoch asked for.
        given: StreamEpoch,
        /// The newer one.
        current: StreamEpoch,
    },
    /// This node's metadata is older than the epoch given, so it does not know yet which records were granted, and
    /// which are void. Retry.
    #[error("epoch {given} of stream {stream} is newer than what is known of it here ({current}): try again")]
    Behind {
        /// The stream.
        stream: StreamId,
        /// The epoch asked for.
        given: StreamEpoch,
        /// The newest known.
        current: StreamEpoch,
    },
    /// Records are missing between the committed end and the tail in the log, or within the tail. Opening past
    /// that would lose acknowledged data silently, so nothing is opened.
    #[error("the log lacks records of stream {stream}: offset {expected} was expected, {found} was found")]
    Gap {
        /// The stream.
        stream: StreamId,
        /// The first missing offset.
        expected: Offset,
        /// What comes instead.
        found: Offset,
    },
}

/// Why a sealed log was not taken over. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It cannot be read.
    #[error(transparent)]
    Log(#[from] wal::OpenError),
    /// As far as is known here, another node holds one of the streams that were picked: metadata is behind, or the stream
    /// has moved on. Look again which streams are this node's.
    #[error("stream {0} is not granted to this node")]
    Elsewhere(StreamId),
}

/// All streams of one broker.
pub struct StreamStore {
    pub(crate) core: Arc<Core>,
    pub(crate) registry: Arc<Registry>,
}

/// What a stream store is built on.
pub struct Parts {
    /// The log.
    pub wal: Arc<dyn WriteAheadLog>,
    /// What the log held at start.
    pub recovered: wal::Recovered,
    /// Object store.
    pub objects: Arc<dyn ObjectStore>,
    /// Port.
    pub stream_manager: Arc<dyn StreamManager>,
    /// Port.
    pub object_manager: Arc<dyn ObjectManager>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for jitter.
    pub random: Arc<dyn Random>,
    /// Runs the background tasks.
    pub supervisor: common::supervisor::Supervisor,
}

impl StreamStore {
    /// Starts uploads and object compaction. Does no store I/O before it returns, so that a broker starts
    /// while the store is down.
    pub fn start(settings: Settings, parts: Parts) -> Result<Arc<Self>, StartError> {
        let (readahead, jobs) = tokio::sync::mpsc::channel(READAHEAD_QUEUE);
        let core = Arc::new(Core {
            readahead,
            log_cache: LogCache::new(settings.log_cache_bytes),
            block_cache: BlockCache::new(settings.block_cache_bytes),
            read_budgets: ReadBudgets::new((settings.block_cache_bytes / 4).max(READ_BUDGET_BYTES_MIN)),
            backlog: Backlog::default(),
            anchors: Anchors::default(),
            settings,
            wal: parts.wal,
            objects: parts.objects,
            stream_manager: parts.stream_manager,
            object_manager: parts.object_manager,
            clock: parts.clock,
        });
        let registry = Arc::new(Registry::new(parts.recovered));
        let uploader = Uploader::new(Arc::clone(&core), Arc::clone(&registry), Arc::clone(&parts.random));
        parts.supervisor.spawn_until_stopped("upload", uploader.run());
        let compactor = Compactor::new(Arc::clone(&core), Arc::clone(&registry), parts.random);
        parts.supervisor.spawn_until_stopped("object compaction", compactor.run());
        let collector = Collector::new(Arc::clone(&core));
        parts.supervisor.spawn_until_stopped("object collector", collector.run());
        let anchors = crate::anchors::run(Arc::clone(&core), Arc::clone(&registry));
        parts.supervisor.spawn_until_stopped("checkpoint anchors", anchors);
        parts.supervisor.spawn_until_stopped("readahead", run_readahead(jobs));
        Ok(Arc::new(Self { core, registry }))
    }

    /// Opens a stream under `epoch`, with what the log recovered for it above the committed end. A stream that is
    /// open under an older epoch moves to the new opening with its tail, and the old one takes no more appends.
    ///
    /// Errors: see [`OpenError`]; after a [`OpenError::Gap`] what was recovered stays as it is.
    pub fn open(&self, stream: StreamId, epoch: StreamEpoch) -> Result<Arc<Stream>, OpenError> {
        let metadata = self.core.stream_manager.stream(stream).ok_or(OpenError::Unknown(stream))?;
        if metadata.epoch > epoch {
            return Err(OpenError::Fenced { stream, given: epoch, current: metadata.epoch });
        }
        if metadata.epoch < epoch {
            return Err(OpenError::Behind { stream, given: epoch, current: metadata.epoch });
        }
        self.registry.open(&self.core, stream, epoch, &metadata)
    }

    /// Takes over what a sealed log holds of the streams that `of` picks: they are opened with its records beside those of
    /// the own log, are read from it where no object holds them, and uploaded from it. Metadata must have granted them
    /// to this node already. No payload is read. Idempotent; for streams that are open already it changes nothing.
    ///
    /// Blocks on I/O: call it outside of async workers. Errors: see [`AdoptError`].
    pub fn adopt(&self, log: &Arc<SealedLog>, of: &dyn Fn(StreamId) -> bool) -> Result<(), AdoptError> {
        if log.uuid() == self.core.wal.uuid() {
            tracing::error!(log = %log.uuid(), "this node's own log was to be adopted as a sealed one");
            return Ok(());
        }
        let records = log.records()?;
        self.registry.adopt(&self.core, log.uuid(), records, of)
    }

    /// Whether [`Self::adopt`] of the sealed log `log` would add anything to the stream, if that is in it: for whoever wants to
    /// know before the log is read.
    #[must_use]
    pub fn lacks(&self, log: Uuid, stream: StreamId) -> bool {
        self.registry.lacks(&self.core, log, stream)
    }

    /// The epoch under which this node has a stream open.
    #[must_use]
    pub fn epoch_of(&self, stream: StreamId) -> Option<StreamEpoch> {
        self.registry.epoch_of(stream)
    }

    /// Metadata is loaded and newer than everything that the log held at start: recovered records of a stream that
    /// it does not know belong to a deleted one, and no longer hold up trim and [`Self::flush`].
    pub fn metadata_loaded(&self) {
        self.registry.metadata_loaded();
    }

    /// Ends this node's use of a stream: no more appends; what the log holds of it is uploaded, or dropped if
    /// metadata knows the stream no more, or has given it to another node, which has that too.
    pub fn close(&self, stream: StreamId) {
        self.registry.close(&self.core, stream);
        self.core.backlog.request();
    }

    /// Uploads and commits everything that was appended, and trims the log; returns when the log holds nothing
    /// un-uploaded. Waits as long as store or metadata are away: the caller sets a deadline, and may drop the
    /// future at any time. Call it before the supervisor stops the upload task.
    ///
    /// Errors: the log failed, so that what is not durable cannot be uploaded.
    pub async fn flush(&self) -> Result<(), crate::PortError> {
        loop {
            let committed = self.core.backlog.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            if self.registry.is_uploaded(&self.core) {
                self.registry.settle(&self.core);
                return Ok(());
            }
            if self.core.wal.durable().is_failed() {
                return Err(crate::PortError::Unavailable("the write-ahead log failed".to_owned()));
            }
            self.core.backlog.request();
            committed.await;
        }
    }

    /// Bytes of payload that only the log holds.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        self.core.backlog.bytes()
    }

    /// Gives up the log cache's durable blocks and what streams remember of uploaded records, so that reads go to
    /// log and store: for benches.
    #[cfg(any(test, feature = "testing"))]
    pub fn drop_log_cache(&self) {
        self.core.log_cache.release_half();
        self.registry.forget_committed(&self.core);
    }

    /// Bytes that the block cache holds.
    #[must_use]
    pub fn block_cache_used(&self) -> u64 {
        self.core.block_cache.used()
    }
}
