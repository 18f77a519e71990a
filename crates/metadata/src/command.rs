//! Commands: what may be asked of the metadata state machine. Every one is judged when it is applied.

use std::sync::Arc;

use common::{Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use uuid::Uuid;

use crate::image::{ConfigResource, Endpoint};

/// A change to metadata.
#[allow(missing_docs, reason = "the fields are ids and values whose types say what they are")]
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// First command of a cluster: fixes its id.
    Bootstrap { cluster_id: Arc<str> },
    /// A node starts a new life; answers [`Outcome::Registered`].
    RegisterNode { id: NodeId, incarnation: Uuid, endpoints: Vec<Endpoint>, rack: Option<Arc<str>>, wal: Option<Uuid> },
    /// Creates a topic; each partition is given its virtual replicas, leader first.
    CreateTopic { id: Uuid, name: Arc<str>, partitions: Vec<Arc<[NodeId]>>, configs: Vec<(Arc<str>, Arc<str>)> },
    /// Deletes a topic with its streams.
    DeleteTopic { id: Uuid },
    /// Adds partitions.
    CreatePartitions { topic: Uuid, added: Vec<Arc<[NodeId]>> },
    /// Sets (`Some`) and removes (`None`) configuration entries.
    AlterConfigs { resource: ConfigResource, changes: Vec<(Arc<str>, Option<Arc<str>>)> },
    /// Opens streams for a node, giving each a new epoch, and its partition a new leader epoch unless the same
    /// life of the node held it open before or it was never opened.
    OpenStreams { node: NodeId, node_epoch: NodeEpoch, streams: Vec<StreamId> },
    /// Moves a stream's start.
    TrimStream { stream: StreamId, epoch: StreamEpoch, start: Offset },
    /// Leases object ids.
    LeaseObjectIds { node: NodeId, node_epoch: NodeEpoch, count: u32 },
    /// Leases producer ids.
    LeaseProducerIds { node: NodeId, node_epoch: NodeEpoch, count: u32 },
    /// Commits objects.
    /// Each slice is judged alone. Asking again for a committed object answers as the first time. With `replaces`
    /// (object compaction) slices take over exactly what the replaced objects hold between their offsets.
    CommitObjects { node: NodeId, node_epoch: NodeEpoch, objects: Vec<NewObject>, replaces: Vec<ObjectId> },
    /// Forgets deleted objects.
    ForgetObjects { objects: Vec<ObjectId> },
    /// Ends a write-ahead log for good at `end`.
    SealWal { wal: Uuid, end: Lsn },
    /// Declares that a write-ahead log holds nothing that is needed: after a clean stop that uploaded
    /// everything, after adoption, or by an operator who accepts the loss.
    RetireWal { wal: Uuid },
    /// Claims an object store prefix for this cluster; refused when another one was claimed.
    ClaimStore { store: Arc<str> },
    /// Finalizes feature levels; a level of 0 removes the feature.
    FinalizeFeatures { levels: Vec<(Arc<str>, i16)> },
}

/// An object to commit.
#[derive(Clone, Debug, PartialEq)]
pub struct NewObject {
    /// Its id.
    pub id: ObjectId,
    /// Attempt, part of the key.
    pub attempt: u32,
    /// Bytes.
    pub size: u64,
    /// Slices by stream.
    pub slices: Vec<NewSlice>,
}

/// A slice to commit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewSlice {
    /// Stream.
    pub stream: StreamId,
    /// Writer's epoch.
    pub epoch: StreamEpoch,
    /// First offset.
    pub start: Offset,
    /// End (exclusive).
    pub end: Offset,
    /// Payload bytes.
    pub bytes: u64,
    /// Largest timestamp.
    pub max_timestamp_ms: i64,
    /// Offset of the checkpoint in this object.
    pub checkpoint: Option<Offset>,
}

/// What a command brought about.
#[allow(missing_docs, reason = "each variant names its one field")]
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done, nothing to tell.
    Done,
    /// The node's new life.
    Registered { epoch: NodeEpoch },
    /// Epochs of the opened streams, in the order asked; `None` where the stream does not exist
    /// or the node does not lead it.
    Opened { epochs: Vec<Option<StreamEpoch>> },
    /// First id of a leased range.
    Leased { first: u64 },
    /// Slice by slice, in order: committed or stale.
    Slices { committed: Vec<bool> },
    /// Refused; nothing changed.
    Refused(Refusal),
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A topic of that name exists.
    #[error("topic {0} already exists")]
    TopicExists(String),
    /// No such topic.
    #[error("unknown topic")]
    UnknownTopic,
    /// The node, its epoch or the stream's epoch is not current.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The node's write-ahead log is open, may hold data that was not uploaded, and the node came without it.
    #[error("the write-ahead log {0} of this node may hold data that was not uploaded, and was not found")]
    WalMissing(Uuid),
    /// Another process runs under this node id.
    #[error("node {0} is already registered by a live process")]
    DuplicateNode(NodeId),
    /// Does not fit the state.
    #[error("{0}")]
    Invalid(String),
}
