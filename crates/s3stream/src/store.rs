//! The stream store of one broker: owns caches, uploads and object compaction of all its streams.

use std::sync::Arc;

use common::{Clock, NodeEpoch, NodeId, StreamEpoch, StreamId};
use object_store::ObjectStore;
use wal::WriteAheadLog;

use crate::ports::{ObjectManager, StreamManager};
use crate::stream::Stream;

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

/// All streams of one broker.
pub struct StreamStore {}

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
    /// Runs the background tasks.
    pub supervisor: common::supervisor::Supervisor,
}

impl StreamStore {
    /// Starts uploads and object compaction. Does no store I/O before it returns, so that a broker starts
    /// while the store is down.
    pub fn start(_settings: Settings, _parts: Parts) -> Result<Arc<Self>, StartError> {
        unimplemented!()
    }

    /// Opens a stream under `epoch`, with what the log recovered for it above the committed end.
    #[must_use]
    pub fn open(&self, _stream: StreamId, _epoch: StreamEpoch) -> Option<Arc<Stream>> {
        unimplemented!()
    }

    /// Uploads and commits everything that is durable; returns when the log holds nothing un-uploaded.
    pub async fn flush(&self) -> Result<(), crate::PortError> {
        unimplemented!()
    }
}
