//! Commands: what may be asked of the metadata state machine. Every one is judged when it is applied.

use std::sync::Arc;

use common::{Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use uuid::Uuid;

use crate::image::{ConfigResource, Endpoint, WalDescriptor};

/// A change to metadata.
#[allow(missing_docs, reason = "the fields are ids and values whose types say what they are")]
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// First command of a cluster: fixes its id.
    Bootstrap { cluster_id: Arc<str> },
    /// A node starts a new life; answers [`Outcome::Registered`].
    RegisterNode(Registration),
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
    /// In logs of version 1 only, and of no meaning since: [`Command::FailOver`] seals.
    SealWal { wal: Uuid, end: Lsn },
    /// Declares that an open write-ahead log holds nothing that is needed, after a clean stop that uploaded everything.
    RetireWal { wal: Uuid },
    /// Claims an object store prefix for this cluster; refused when another one was claimed.
    ClaimStore { store: Arc<str> },
    /// Finalizes feature levels; a level of 0 removes the feature.
    FinalizeFeatures { levels: Vec<(Arc<str>, i16)> },
    /// Fences a node that is lost, seals its log, and gives what it led to others; answers [`Outcome::Moved`] for
    /// `leaders`. Asking again is harmless, and later ones may move further streams.
    FailOver(FailOver),
    /// Sets an epoch aside for each stream that `source` is to hand over to `target`; answers [`Outcome::Opened`],
    /// `None` where the stream is not the source's, or too many moves of it have failed.
    ReserveMove { source: Life, target: Life, streams: Vec<StreamId> },
    /// Grants reserved epochs: the target, which has the tails durable in its log, leads from now on. Answers
    /// [`Outcome::Moved`].
    CommitMove { source: Life, target: Life, streams: Vec<(StreamId, StreamEpoch)> },
    /// Makes reservations void, so that no commit of theirs that is still under way can be granted. A source resumes only
    /// after this. Answers [`Outcome::Moved`]: `false` where the stream is still the source's.
    CancelMove { source: Life, streams: Vec<(StreamId, StreamEpoch)> },
    /// An operator drains a node, or ends that.
    SetDraining { node: NodeId, draining: bool },
    /// A node is about to stop and wishes to lead nothing, until it registers again.
    StopNode { node: NodeId, node_epoch: NodeEpoch },
    /// Forgets a fenced node that leads nothing and whose logs are needed by nobody.
    UnregisterNode { node: NodeId },
    /// An operator gives up what the log of a fenced node holds and nobody can reach; what the node still leads goes to
    /// `leaders`. Answers [`Outcome::Moved`] for these.
    AbandonWal { wal: Uuid, leaders: Vec<(StreamId, NodeId)> },
    /// Gives partitions other virtual replicas, preferred leader first; leaders stay. Answers [`Outcome::Moved`].
    AlterReplicas { changes: Vec<(StreamId, Arc<[NodeId]>)> },
}

/// A node in one of its lives.
pub type Life = (NodeId, NodeEpoch);

impl Command {
    /// The least version of metadata whose nodes know this command.
    #[must_use]
    pub fn version(&self) -> u32 {
        match self {
            Self::FailOver(_)
            | Self::ReserveMove { .. }
            | Self::CommitMove { .. }
            | Self::CancelMove { .. }
            | Self::SetDraining { .. }
            | Self::StopNode { .. }
            | Self::UnregisterNode { .. }
            | Self::AbandonWal { .. }
            | Self::AlterReplicas { .. } => 2,
            _ => 1,
        }
    }
}

/// What a node tells of itself when it starts a new life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its id.
    pub id: NodeId,
    /// Unique id of the process start.
    pub incarnation: Uuid,
    /// Client endpoints.
    pub endpoints: Vec<Endpoint>,
    /// `broker.rack`.
    pub rack: Option<Arc<str>>,
    /// `host:port` of its peer listener; empty when it has none.
    pub peer: Arc<str>,
    /// The newest version of formats and commands that it reads and writes.
    pub version: u32,
    /// Its write-ahead log.
    pub wal: Option<WalDescriptor>,
}

impl Registration {
    /// A node of this build, without endpoints or log.
    #[must_use]
    pub fn new(id: NodeId, incarnation: Uuid) -> Self {
        let (peer, version) = (Arc::from(""), crate::VERSION);
        Self { id, incarnation, endpoints: Vec::new(), rack: None, peer, version, wal: None }
    }
}

/// See [`Command::FailOver`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailOver {
    /// The lost node.
    pub node: NodeId,
    /// The life that ends.
    pub node_epoch: NodeEpoch,
    /// Its log, sealed. Without it no stream moves while the log is open, for it may hold acknowledged records.
    pub seal: Option<Seal>,
    /// New leaders.
    pub leaders: Vec<(StreamId, NodeId)>,
}

/// A log that was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The log.
    pub wal: Uuid,
    /// Where it ends.
    pub end: Lsn,
    /// Every stream that has records in it above its committed end, with the end of these records, of whatever epoch that
    /// is not void: one that is merely reserved when the log is read may be granted before this is applied, and a tail that
    /// is missing here lets the log go while it is needed. One too many only keeps it until the stream has come as far.
    pub tails: Vec<(StreamId, Offset)>,
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
    /// Stream by stream, in the order asked: moved or left alone.
    Moved { committed: Vec<bool> },
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
    /// No such node.
    #[error("node {0} is not registered")]
    UnknownNode(NodeId),
    /// Does not fit the state.
    #[error("{0}")]
    Invalid(String),
}
