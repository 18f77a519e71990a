//! The immutable image of metadata that every broker answers from. Cloning is cheap: persistent maps.

use std::sync::Arc;

use common::{LogIndex, Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use imbl::{OrdMap, OrdSet};
use uuid::Uuid;

use crate::command::Registration;

/// All metadata at one Raft log index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetadataImage {
    /// Index of the last applied entry.
    pub applied: LogIndex,
    /// Kafka's cluster id: 22 characters of URL-safe base64.
    pub cluster_id: Arc<str>,
    /// Registered nodes.
    pub nodes: OrdMap<NodeId, Arc<NodeImage>>,
    /// Topics by id.
    pub topics: OrdMap<Uuid, Arc<TopicImage>>,
    /// Topic ids by name.
    pub topic_ids: OrdMap<Arc<str>, Uuid>,
    /// Dynamic configuration: only what was set explicitly.
    pub configs: OrdMap<ConfigResource, OrdMap<Arc<str>, Arc<str>>>,
    /// Streams.
    pub streams: OrdMap<StreamId, Arc<StreamImage>>,
    /// Committed ranges of all streams by stream and first offset. One map for all streams: a stream without
    /// data costs nothing here, and one commit of many streams shares its path copies.
    pub ranges: OrdMap<(StreamId, Offset), RangeImage>,
    /// Objects.
    pub objects: OrdMap<ObjectId, ObjectImage>,
    /// Objects without references, which may be deleted from the store.
    pub destroyed: OrdSet<ObjectId>,
    /// Referenced objects that hold slices of more than one stream, for object compaction.
    pub stream_sets: OrdSet<ObjectId>,
    /// Lives of write-ahead logs by uuid.
    pub wals: OrdMap<Uuid, WalImage>,
    /// Those of them that are sealed: few, and mostly none.
    pub sealed_wals: OrdSet<Uuid>,
    /// Finalized feature levels.
    pub features: OrdMap<Arc<str>, i16>,
    /// The object store prefix this cluster has claimed, empty before it did.
    pub store: Arc<str>,
    /// The next ids and epochs to be given out.
    pub next: Counters,
    /// Objects of earlier epochs are no orphans although nothing references them: this metadata was restored from a copy
    /// that may not know of them. 0 where nothing was restored.
    pub collect_from: NodeEpoch,
}

/// Ids and epochs only grow; each field is the next value to be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Next [`NodeEpoch`].
    pub node_epoch: u64,
    /// Next [`StreamId`].
    pub stream: u64,
    /// Next [`ObjectId`].
    pub object: u64,
    /// Next producer id.
    pub producer: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { node_epoch: 1, stream: 1, object: 1, producer: 0 }
    }
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeImage {
    /// Its id.
    pub id: NodeId,
    /// Its current life.
    pub epoch: NodeEpoch,
    /// Unique id of the process start, to tell a retry from a second process.
    pub incarnation: Uuid,
    /// Client endpoints: listener name, security protocol, host, port.
    pub endpoints: Vec<Endpoint>,
    /// `broker.rack`.
    pub rack: Option<Arc<str>>,
    /// `host:port` of its peer listener; empty when it has none.
    pub peer: Arc<str>,
    /// The newest version of formats and commands that it reads and writes.
    pub version: u32,
    /// Fenced: taken for dead until it registers again. Clients are not sent to it.
    pub fenced: bool,
    /// Whether it wishes, or is wished, to lead nothing.
    pub draining: NodeDraining,
    /// The write-ahead log it registered with.
    pub wal: Option<Uuid>,
}

impl NodeImage {
    /// A life that just began.
    #[must_use]
    pub fn new(from: &Registration, epoch: NodeEpoch) -> Self {
        Self {
            id: from.id,
            epoch,
            incarnation: from.incarnation,
            endpoints: from.endpoints.clone(),
            rack: from.rack.clone(),
            peer: Arc::clone(&from.peer),
            version: from.version,
            fenced: false,
            draining: NodeDraining::No,
            wal: from.wal.as_ref().map(|wal| wal.uuid),
        }
    }
}

/// Whether a node is to give away what it leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeDraining {
    /// It leads what it is given.
    #[default]
    No,
    /// It is stopping. Ends with its next registration.
    Stopping,
    /// An operator drains it. Lasts until an operator ends it.
    ByOperator,
}

/// Who can reach a write-ahead log when its node is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalClass {
    /// Nobody: a disk that dies with its node.
    #[default]
    Private,
    /// Other nodes: a path they share, or a volume that can be attached to them.
    Shared,
}

/// A write-ahead log as its node describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalDescriptor {
    /// Its identity.
    pub uuid: Uuid,
    /// Who can reach it.
    pub class: WalClass,
    /// Where it is: a URL like `ottla.wal.url`.
    pub location: Arc<str>,
}

/// The life of one write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalImage {
    /// The node it belongs to.
    pub node: NodeId,
    /// Who can reach it.
    pub class: WalClass,
    /// Where it is: a URL like `ottla.wal.url`.
    pub location: Arc<str>,
    /// Where it stands in its life.
    pub state: WalState,
}

/// A write-ahead log is open, then sealed (its owner is gone; nobody appends any more), then retired (nothing
/// in it is needed). One that a clean stop has retired may be opened again; one that was given up never is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalState {
    /// Its node appends to it, or will recover it.
    Open,
    /// Ended for good.
    Sealed {
        /// Where it ends.
        end: Lsn,
        /// Streams whose records reach above their committed end, and up to where. Whoever leads them now
        /// commits these records; the commit that covers the last of them retires the log.
        pending: OrdMap<StreamId, Offset>,
    },
    /// Holds nothing that is not committed.
    Retired,
    /// An operator gave up what was not committed.
    Abandoned,
}

impl WalState {
    /// Whether nothing in it is needed (any more).
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Retired | Self::Abandoned)
    }
}

/// Where clients reach a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Listener name, such as `PLAINTEXT`.
    pub listener: String,
    /// Security protocol, such as `PLAINTEXT`.
    pub protocol: String,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicImage {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// Partitions by index.
    pub partitions: Vec<PartitionImage>,
}

impl TopicImage {
    /// The partition of that index, if there is one.
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<&PartitionImage> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// Its leader.
    pub leader: NodeId,
    /// Kafka's leader epoch.
    pub leader_epoch: i32,
    /// Virtual replicas, preferred leader first.
    pub replicas: Arc<[NodeId]>,
    /// Its data stream.
    pub stream: StreamId,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamImage {
    /// Epoch of the newest opening, 0 before the first.
    pub epoch: StreamEpoch,
    /// Who holds it open.
    pub owner: Option<(NodeId, NodeEpoch)>,
    /// First offset that exists. May lie above `end`: what was trimmed need not be committed yet.
    pub start: Offset,
    /// Committed end (exclusive).
    pub end: Offset,
    /// Newest checkpoint: object and the offset it describes.
    pub checkpoint: Option<(ObjectId, Offset)>,
    /// The topic whose data this is.
    pub topic: Uuid,
    /// Index of the partition within the topic.
    pub partition: i32,
    /// An epoch set aside for a move that is under way.
    pub reserved: Option<Reservation>,
    /// Epochs that were reserved and never granted. A log may hold records of them, which no recovery takes.
    pub void: Arc<[VoidEpoch]>,
}

impl StreamImage {
    /// The epoch that comes next: above every epoch that any log may hold records of.
    #[must_use]
    pub fn next_epoch(&self) -> StreamEpoch {
        let reserved = self.reserved.map_or(StreamEpoch(0), |reservation| reservation.epoch);
        let void = self.void.iter().map(|void| void.epoch).max().unwrap_or_default();
        StreamEpoch(self.epoch.max(reserved).max(void).0 + 1)
    }
}

/// A stream epoch that was set aside, not granted: the target of a move writes the handed-over tail under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The epoch.
    pub epoch: StreamEpoch,
    /// The target.
    pub node: NodeId,
    /// Its life.
    pub node_epoch: NodeEpoch,
    /// The log it writes to.
    pub wal: Option<Uuid>,
}

/// An epoch that was never granted, with the log that may hold records of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoidEpoch {
    /// The epoch.
    pub epoch: StreamEpoch,
    /// The log.
    pub wal: Uuid,
}

/// A stream's offsets within one object, filed under their first offset in [`MetadataImage::ranges`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeImage {
    /// The object.
    pub object: ObjectId,
    /// End (exclusive).
    pub end: Offset,
    /// Payload bytes.
    pub bytes: u64,
    /// Largest timestamp.
    pub max_timestamp_ms: i64,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectImage {
    /// Epoch of the node that wrote it.
    pub node_epoch: NodeEpoch,
    /// Attempt, part of the key.
    pub attempt: u32,
    /// The node that wrote it.
    pub node: NodeId,
    /// Bytes.
    pub size: u64,
    /// Ranges and checkpoints that reference it.
    pub references: u32,
    /// Its slices in the order of the commit, and what became of them: a commit asked for again answers the same.
    pub slices: Arc<[SliceImage]>,
    /// Wall time at which it lost its last reference.
    pub destroyed_at_ms: Option<i64>,
}

/// One slice of an object, as it was judged when the object was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceImage {
    /// The stream.
    pub stream: StreamId,
    /// Whether it became part of the stream.
    pub committed: bool,
}

impl ObjectImage {
    /// Whether it holds slices of more than one stream.
    #[must_use]
    pub fn is_stream_set(&self) -> bool {
        self.slices.first().is_some_and(|first| self.slices.iter().any(|slice| slice.stream != first.stream))
    }
}

/// What a dynamic configuration applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigResource {
    /// A topic by name.
    Topic(Arc<str>),
    /// One broker, or all of them (`None`).
    Broker(Option<NodeId>),
    /// A group by id.
    Group(Arc<str>),
}

impl MetadataImage {
    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.topic_ids.get(name)?)
    }

    /// Committed ranges of `stream` with their first offsets, in order, beginning with the one that contains
    /// `from` (or the first above it).
    pub fn ranges_from(&self, stream: StreamId, from: Offset) -> impl Iterator<Item = (Offset, &RangeImage)> + '_ {
        let containing =
            self.ranges.get_prev(&(stream, from)).filter(|((of, _), range)| *of == stream && range.end > from);
        let first = containing.map_or(from, |((_, start), _)| *start);
        self.ranges.range((stream, first)..=(stream, Offset(i64::MAX))).map(|((_, start), range)| (*start, range))
    }

    /// All committed ranges of `stream` with their first offsets, in order.
    pub fn ranges_of(&self, stream: StreamId) -> impl Iterator<Item = (Offset, &RangeImage)> + '_ {
        self.ranges
            .range((stream, Offset(i64::MIN))..=(stream, Offset(i64::MAX)))
            .map(|((_, start), range)| (*start, range))
    }

    /// The partition whose data `stream` is.
    #[must_use]
    pub fn partition_of(&self, stream: StreamId) -> Option<&PartitionImage> {
        let stream = self.streams.get(&stream)?;
        self.topics.get(&stream.topic)?.partition(stream.partition)
    }

    /// Who leads the partition whose data `stream` is.
    #[must_use]
    pub fn leader_of(&self, stream: StreamId) -> Option<NodeId> {
        self.partition_of(stream).map(|partition| partition.leader)
    }

    /// Whether a node is registered and not fenced.
    #[must_use]
    pub fn is_live(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| !node.fenced)
    }

    /// Streams of the partitions that `node` leads, its dead lives included. Walks all partitions: some
    /// milliseconds for 100,000, paid when a node is lost, drained or unregistered.
    pub fn streams_led_by(&self, node: NodeId) -> impl Iterator<Item = StreamId> + '_ {
        let partitions = self.topics.values().flat_map(|topic| &topic.partitions);
        partitions.filter(move |partition| partition.leader == node).map(|partition| partition.stream)
    }

    /// Tails in sealed logs that `node` leads and that are not in objects yet.
    #[must_use]
    pub fn unretired_tails(&self, node: NodeId) -> usize {
        let leads = |stream: &&StreamId| self.leader_of(**stream) == Some(node);
        let sealed = self.wals.values().filter_map(|wal| match &wal.state {
            WalState::Sealed { pending, .. } => Some(pending),
            _ => None,
        });
        sealed.map(|pending| pending.keys().filter(leads).count()).sum()
    }

    /// The newest version that every registered node reads: what may be written, in logs and on wires.
    #[must_use]
    pub fn least_version(&self) -> u32 {
        self.nodes.values().map(|node| node.version).min().unwrap_or(crate::VERSION)
    }

    /// A partition's leader, unless that node is fenced: then clients have nobody to turn to.
    #[must_use]
    pub fn leader_or_none(&self, partition: &PartitionImage) -> Option<NodeId> {
        self.is_live(partition.leader).then_some(partition.leader)
    }

    /// A partition's replicas as clients are told them: those assigned, and its leader where a failover put it elsewhere.
    /// Those that live are in sync, for none holds data of its own that could lag.
    pub fn replicas_of<'a>(&self, partition: &'a PartitionImage) -> impl Iterator<Item = NodeId> + use<'a> {
        let stray = (!partition.replicas.contains(&partition.leader)).then_some(partition.leader);
        partition.replicas.iter().copied().chain(stray)
    }
}
