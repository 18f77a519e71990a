//! What the stream layer needs from metadata, declared here and implemented by whoever composes.

use std::sync::Arc;

use common::{NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};

/// What metadata knows of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamMetadata {
    /// Epoch of the newest opening.
    pub epoch: StreamEpoch,
    /// Whose that opening is: node, and in which life.
    pub owner: Option<(NodeId, NodeEpoch)>,
    /// First offset that still exists (inclusive).
    pub start: Offset,
    /// Committed end (exclusive): offsets below it are in objects.
    pub end: Offset,
    /// Newest committed checkpoint.
    pub checkpoint: Option<CheckpointRef>,
    /// Epochs that were reserved for a move and never granted: what a log holds of them is void.
    pub void: Arc<[StreamEpoch]>,
    /// Sealed logs hold acknowledged records of the stream up to here (exclusive). Not above `end` where none does.
    pub sealed_end: Offset,
}

impl StreamMetadata {
    /// Whether records of `epoch` are part of the stream.
    pub(crate) fn is_granted(&self, epoch: StreamEpoch) -> bool {
        epoch <= self.epoch && !self.void.contains(&epoch)
    }

    /// Records from here on must be in some log: below, objects hold them, or they were trimmed.
    pub(crate) fn needed_from(&self) -> Offset {
        self.end.max(self.start)
    }

    /// Whether another node than `node` holds the stream.
    pub(crate) fn is_elsewhere(&self, node: NodeId) -> bool {
        self.owner.is_some_and(|(owner, _)| owner != node)
    }
}

/// Where a stream's newest committed checkpoint lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRef {
    /// The object that holds it.
    pub object: ObjectDescriptor,
    /// The offset it describes: state from all records below it.
    pub offset: Offset,
}

/// An object, as metadata records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectDescriptor {
    /// Its id.
    pub id: ObjectId,
    /// Epoch of the node that wrote it, and the attempt: with the id they make the unique key.
    pub node_epoch: NodeEpoch,
    /// Attempt within that epoch.
    pub attempt: u32,
    /// Size in bytes.
    pub size: u64,
}

/// One stream's contiguous offsets within one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedRange {
    /// The object.
    pub object: ObjectDescriptor,
    /// First offset (inclusive).
    pub start: Offset,
    /// End (exclusive).
    pub end: Offset,
    /// Payload bytes of this stream in the object.
    pub bytes: u64,
    /// Largest record timestamp, -1 when none.
    pub max_timestamp_ms: i64,
}

/// One stream's part of an object to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceCommit {
    /// The stream.
    pub stream: StreamId,
    /// The epoch under which its writer holds it open.
    pub epoch: StreamEpoch,
    /// First offset; must be the stream's committed end for new data.
    pub start: Offset,
    /// End (exclusive).
    pub end: Offset,
    /// Payload bytes.
    pub bytes: u64,
    /// Largest record timestamp.
    pub max_timestamp_ms: i64,
    /// Offset of the checkpoint that the object carries for this stream, if any.
    pub checkpoint: Option<Offset>,
}

/// Objects to be made visible by one metadata record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectCommit {
    /// Who commits.
    pub node: NodeId,
    /// In which life.
    pub node_epoch: NodeEpoch,
    /// New objects with their slices.
    pub objects: Vec<(ObjectDescriptor, Vec<SliceCommit>)>,
    /// Object compaction: objects whose ranges of the streams above the new ones take over. Empty for an
    /// upload of new data.
    pub replaces: Vec<ObjectId>,
}

/// What became of one slice: slices are judged one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SliceOutcome {
    /// Now part of the stream.
    Committed,
    /// Refused for good: stale epoch, deleted stream, or offsets that are already committed.
    Stale,
}

/// A metadata call that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PortError {
    /// Certainly had no effect; retrying may help.
    #[error("metadata is unavailable: {0}")]
    Unavailable(String),
    /// This node, or its stream epoch, is no longer current: stop.
    #[error("fenced: {0}")]
    Fenced(String),
}

/// Why a commit gave no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Certainly not committed.
    #[error(transparent)]
    Refused(#[from] PortError),
    /// May or may not be committed: ask again with the same objects (a commit is idempotent by object id).
    #[error("the commit's outcome is unknown: {0}")]
    Indeterminate(String),
}

/// Streams in metadata.
#[async_trait::async_trait]
pub trait StreamManager: Send + Sync + 'static {
    /// The stream as the local image knows it; `None` when it does not exist (any more).
    fn stream(&self, stream: StreamId) -> Option<StreamMetadata>;

    /// Moves the stream's start up. Idempotent; never moves back.
    async fn trim(&self, stream: StreamId, epoch: StreamEpoch, start: Offset) -> Result<(), PortError>;
}

/// Objects in metadata.
#[async_trait::async_trait]
pub trait ObjectManager: Send + Sync + 'static {
    /// Leases `count` object ids that nobody else ever gets; returns the first.
    async fn lease_object_ids(&self, count: u32) -> Result<ObjectId, PortError>;

    /// Makes objects visible, slice by slice in the order given.
    async fn commit(&self, commit: ObjectCommit) -> Result<Vec<SliceOutcome>, CommitError>;

    /// Committed ranges of `stream` that overlap `from..until`, in offset order, at most `limit`.
    fn ranges(&self, stream: StreamId, from: Offset, until: Offset, limit: usize) -> Vec<CommittedRange>;

    /// Every stream with its ranges in `object`; for object compaction.
    fn slices(&self, object: ObjectId) -> Vec<(StreamId, CommittedRange)>;

    /// Stream-set objects that hold slices of streams which this node has open, oldest first, whoever wrote them; for object
    /// compaction.
    fn stream_set_objects(&self) -> Vec<ObjectDescriptor>;

    /// Objects that nothing references any more and that may be deleted from the store now: they lost their last
    /// reference longer ago than any read takes.
    fn destroyed(&self, limit: usize) -> Vec<ObjectDescriptor>;

    /// Whether an object that lies in the store can never become visible: the life that wrote it has ended, so that a
    /// commit of it would be refused, and nothing of this id, epoch and attempt is committed.
    fn is_orphan(&self, node_epoch: NodeEpoch, id: ObjectId, attempt: u32) -> bool;

    /// Forgets objects that were deleted from the store.
    async fn forget(&self, objects: Vec<ObjectId>) -> Result<(), PortError>;
}
