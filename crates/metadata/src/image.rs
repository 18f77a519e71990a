//! The immutable image of metadata that every broker answers from. Cloning is cheap: persistent maps.

use std::sync::Arc;

use common::{LogIndex, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use imbl::OrdMap;
use uuid::Uuid;

/// All metadata at one Raft log index.
#[derive(Clone, Debug, Default)]
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
    /// Objects.
    pub objects: OrdMap<ObjectId, ObjectImage>,
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
    /// Fenced nodes lead nothing.
    pub fenced: bool,
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
    /// Epoch of the newest opening.
    pub epoch: StreamEpoch,
    /// Who holds it open.
    pub owner: Option<(NodeId, NodeEpoch)>,
    /// First offset that exists.
    pub start: Offset,
    /// Committed end (exclusive).
    pub end: Offset,
    /// Contiguous ranges that cover `start..end`.
    pub ranges: imbl::Vector<RangeImage>,
    /// Newest checkpoint: object and the offset it describes.
    pub checkpoint: Option<(ObjectId, Offset)>,
}

/// A stream's offsets within one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeImage {
    /// The object.
    pub object: ObjectId,
    /// First offset.
    pub start: Offset,
    /// End (exclusive).
    pub end: Offset,
    /// Payload bytes.
    pub bytes: u64,
    /// Largest timestamp.
    pub max_timestamp_ms: i64,
}

/// An object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Whether it holds slices of more than one stream.
    pub stream_set: bool,
    /// Wall time at which it lost its last reference.
    pub destroyed_at_ms: Option<i64>,
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
}
