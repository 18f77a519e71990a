//! Commands: what may be asked of the metadata state machine. Every one is judged when it is applied.

use std::sync::Arc;

use common::{NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use uuid::Uuid;

use crate::image::{ConfigResource, Endpoint};

/// A change to metadata.
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
    /// Opens streams for a node, giving each a new epoch (and its partition a new leader epoch).
    OpenStreams { node: NodeId, node_epoch: NodeEpoch, streams: Vec<StreamId> },
    /// Moves a stream's start.
    TrimStream { stream: StreamId, epoch: StreamEpoch, start: Offset },
    /// Leases object ids.
    LeaseObjectIds { node: NodeId, node_epoch: NodeEpoch, count: u32 },
    /// Leases producer ids.
    LeaseProducerIds { node: NodeId, node_epoch: NodeEpoch, count: u32 },
    /// Commits objects.
    CommitObjects { node: NodeId, node_epoch: NodeEpoch, now_ms: i64, objects: Vec<NewObject>, replaces: Vec<ObjectId> },
    /// Forgets deleted objects.
    ForgetObjects { objects: Vec<ObjectId> },
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
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done, nothing to tell.
    Done,
    /// The node's new life.
    Registered { epoch: NodeEpoch },
    /// Epochs of the opened streams, in the order asked; `None` where the stream does not exist.
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
    /// Another process runs under this node id.
    #[error("node {0} is already registered by a live process")]
    DuplicateNode(NodeId),
    /// Does not fit the state.
    #[error("{0}")]
    Invalid(String),
}
