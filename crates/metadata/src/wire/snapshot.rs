//! A snapshot: a sequence of chunks, each one message. The first carries the head, the last the totals, so that
//! a snapshot cut short between chunks is noticed whatever stores it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use common::{LogIndex, Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use imbl::OrdMap;
use prost::Message as _;

use super::WireError;
use super::command::MembershipMessage;
use super::convert::{
    EndpointMessage, Feature, IdMessage, NodeFacts, Replicas, Resource, Setting, WalPlace, optional_uuid, uuid,
    uuid_bytes,
};
use super::moves::{ReservedMessage, TailMessage, reservation, reserved_messages, void_epochs};
use crate::VERSION;
use crate::image::{
    Counters, MetadataImage, NodeDraining, NodeImage, ObjectImage, PartitionImage, RangeImage, SliceImage, StreamImage,
    TopicImage, WalImage, WalState,
};
use crate::log::EntryId;
use crate::raft::Membership;

/// Items of one chunk, whatever their kind: bounds what encoding holds at once to about a megabyte.
const CHUNK_ITEMS: usize = 8192;

/// What a snapshot covers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SnapshotHead {
    /// The last entry in it.
    pub(crate) last: Option<EntryId>,
    /// The entry that brought the membership.
    pub(crate) membership_at: Option<EntryId>,
    /// The last membership in it.
    pub(crate) membership: Membership,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Chunk {
    #[prost(message, optional, tag = "1")]
    head: Option<Head>,
    #[prost(message, repeated, tag = "2")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "3")]
    topics: Vec<Topic>,
    #[prost(message, repeated, tag = "4")]
    configs: Vec<Config>,
    #[prost(message, repeated, tag = "5")]
    streams: Vec<Stream>,
    #[prost(message, repeated, tag = "6")]
    ranges: Vec<Range>,
    #[prost(message, repeated, tag = "7")]
    objects: Vec<Object>,
    #[prost(message, repeated, tag = "8")]
    wals: Vec<Wal>,
    #[prost(message, repeated, tag = "9")]
    features: Vec<Feature>,
    /// Chunks before this one; only the last chunk has it.
    #[prost(uint64, optional, tag = "15")]
    chunks: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Head {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    last: Option<IdMessage>,
    #[prost(message, optional, tag = "3")]
    membership_at: Option<IdMessage>,
    #[prost(message, optional, tag = "4")]
    membership: Option<MembershipMessage>,
    #[prost(string, tag = "5")]
    cluster_id: String,
    #[prost(string, tag = "6")]
    store: String,
    #[prost(uint64, tag = "7")]
    next_node_epoch: u64,
    #[prost(uint64, tag = "8")]
    next_stream: u64,
    #[prost(uint64, tag = "9")]
    next_object: u64,
    #[prost(uint64, tag = "10")]
    next_producer: u64,
    #[prost(uint64, tag = "11")]
    applied: u64,
    #[prost(uint64, tag = "12")]
    collect_from: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Node {
    #[prost(int32, tag = "1")]
    id: i32,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(bytes = "bytes", tag = "3")]
    incarnation: Bytes,
    #[prost(message, repeated, tag = "4")]
    endpoints: Vec<EndpointMessage>,
    #[prost(string, optional, tag = "5")]
    rack: Option<String>,
    #[prost(bool, tag = "6")]
    fenced: bool,
    #[prost(bytes = "bytes", optional, tag = "7")]
    wal: Option<Bytes>,
    #[prost(message, optional, tag = "8")]
    facts: Option<NodeFacts>,
    /// 0 no, 1 stopping, 2 by an operator.
    #[prost(uint32, tag = "9")]
    draining: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Topic {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    partitions: Vec<Partition>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Partition {
    #[prost(int32, tag = "1")]
    leader: i32,
    #[prost(int32, tag = "2")]
    leader_epoch: i32,
    #[prost(message, optional, tag = "3")]
    replicas: Option<Replicas>,
    #[prost(uint64, tag = "4")]
    stream: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Config {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Setting>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stream {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(int32, optional, tag = "3")]
    owner: Option<i32>,
    #[prost(uint64, tag = "4")]
    owner_epoch: u64,
    #[prost(int64, tag = "5")]
    start: i64,
    #[prost(int64, tag = "6")]
    end: i64,
    #[prost(uint64, optional, tag = "7")]
    checkpoint: Option<u64>,
    #[prost(int64, tag = "8")]
    checkpoint_at: i64,
    #[prost(bytes = "bytes", tag = "9")]
    topic: Bytes,
    #[prost(int32, tag = "10")]
    partition: i32,
    #[prost(message, optional, tag = "11")]
    reserved: Option<ReservedMessage>,
    #[prost(message, repeated, tag = "12")]
    void: Vec<ReservedMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Range {
    #[prost(uint64, tag = "1")]
    stream: u64,
    #[prost(int64, tag = "2")]
    start: i64,
    #[prost(int64, tag = "3")]
    end: i64,
    #[prost(uint64, tag = "4")]
    object: u64,
    #[prost(uint64, tag = "5")]
    bytes: u64,
    #[prost(sint64, tag = "6")]
    max_timestamp_ms: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Object {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int32, tag = "2")]
    node: i32,
    #[prost(uint64, tag = "3")]
    node_epoch: u64,
    #[prost(uint32, tag = "4")]
    attempt: u32,
    #[prost(uint64, tag = "5")]
    size: u64,
    #[prost(uint32, tag = "6")]
    references: u32,
    #[prost(uint64, repeated, tag = "7")]
    streams: Vec<u64>,
    /// Positions in `streams` of the slices that were refused.
    #[prost(uint32, repeated, tag = "8")]
    stale: Vec<u32>,
    #[prost(sint64, optional, tag = "9")]
    destroyed_at_ms: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wal {
    #[prost(bytes = "bytes", tag = "1")]
    uuid: Bytes,
    #[prost(int32, tag = "2")]
    node: i32,
    #[prost(uint64, optional, tag = "3")]
    sealed: Option<u64>,
    #[prost(bool, tag = "4")]
    retired: bool,
    #[prost(message, optional, tag = "5")]
    place: Option<WalPlace>,
    /// What a sealed log is pending for.
    #[prost(message, repeated, tag = "6")]
    pending: Vec<TailMessage>,
    #[prost(bool, tag = "7")]
    abandoned: bool,
}

/// Encodes `image` chunk by chunk into `sink`, in the order that [`SnapshotDecoder`] wants them.
pub(crate) fn encode_snapshot(
    head: &SnapshotHead,
    image: &MetadataImage,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut chunks = 0_u64;
    let mut put = |chunk: Chunk| {
        chunks += 1;
        sink(&chunk.encode_to_vec())
    };
    put(Chunk { head: Some(encode_head(head, image)), ..Chunk::default() })?;
    encode_items(image.nodes.values(), encode_node, |nodes| put(Chunk { nodes, ..Chunk::default() }))?;
    encode_items(image.topics.values(), encode_topic, |topics| put(Chunk { topics, ..Chunk::default() }))?;
    encode_items(image.configs.iter(), encode_config, |configs| put(Chunk { configs, ..Chunk::default() }))?;
    encode_items(image.streams.iter(), encode_stream, |streams| put(Chunk { streams, ..Chunk::default() }))?;
    encode_items(image.ranges.iter(), encode_range, |ranges| put(Chunk { ranges, ..Chunk::default() }))?;
    encode_items(image.objects.iter(), encode_object, |objects| put(Chunk { objects, ..Chunk::default() }))?;
    encode_items(image.wals.iter(), encode_wal, |wals| put(Chunk { wals, ..Chunk::default() }))?;
    let feature = |(name, level): (&Arc<str>, &i16)| Feature::from(&(Arc::clone(name), *level));
    encode_items(image.features.iter(), feature, |features| put(Chunk { features, ..Chunk::default() }))?;
    sink(&Chunk { chunks: Some(chunks), ..Chunk::default() }.encode_to_vec())
}

fn encode_items<T, M>(
    items: impl Iterator<Item = T>,
    encode: impl Fn(T) -> M,
    mut put: impl FnMut(Vec<M>) -> io::Result<()>,
) -> io::Result<()> {
    let mut batch = Vec::new();
    for item in items {
        batch.push(encode(item));
        if batch.len() >= CHUNK_ITEMS {
            put(std::mem::take(&mut batch))?;
        }
    }
    if batch.is_empty() { Ok(()) } else { put(batch) }
}

fn encode_head(head: &SnapshotHead, image: &MetadataImage) -> Head {
    Head {
        version: image.least_version().min(VERSION),
        last: head.last.map(Into::into),
        membership_at: head.membership_at.map(Into::into),
        membership: Some((&head.membership).into()),
        cluster_id: image.cluster_id.to_string(),
        store: image.store.to_string(),
        next_node_epoch: image.next.node_epoch,
        next_stream: image.next.stream,
        next_object: image.next.object,
        next_producer: image.next.producer,
        applied: image.applied.0,
        collect_from: image.collect_from.0,
    }
}

fn encode_node(node: &Arc<NodeImage>) -> Node {
    Node {
        id: node.id.0,
        epoch: node.epoch.0,
        incarnation: uuid_bytes(node.incarnation),
        endpoints: node.endpoints.iter().map(Into::into).collect(),
        rack: node.rack.as_ref().map(ToString::to_string),
        fenced: node.fenced,
        wal: node.wal.map(uuid_bytes),
        facts: NodeFacts::new(&node.peer, node.version),
        draining: match node.draining {
            NodeDraining::No => 0,
            NodeDraining::Stopping => 1,
            NodeDraining::ByOperator => 2,
        },
    }
}

fn encode_topic(topic: &Arc<TopicImage>) -> Topic {
    let partition = |from: &PartitionImage| Partition {
        leader: from.leader.0,
        leader_epoch: from.leader_epoch,
        replicas: Some((&from.replicas).into()),
        stream: from.stream.0,
    };
    Topic {
        id: uuid_bytes(topic.id),
        name: topic.name.to_string(),
        partitions: topic.partitions.iter().map(partition).collect(),
    }
}

fn encode_config((resource, entries): (&crate::image::ConfigResource, &OrdMap<Arc<str>, Arc<str>>)) -> Config {
    let setting = |(name, value): (&Arc<str>, &Arc<str>)| Setting::from(&(Arc::clone(name), Arc::clone(value)));
    Config { resource: Some(resource.into()), entries: entries.iter().map(setting).collect() }
}

fn encode_stream((id, stream): (&StreamId, &Arc<StreamImage>)) -> Stream {
    let (reserved, void) = reserved_messages(stream);
    Stream {
        id: id.0,
        epoch: stream.epoch.0,
        owner: stream.owner.map(|(node, _)| node.0),
        owner_epoch: stream.owner.map_or(0, |(_, epoch)| epoch.0),
        start: stream.start.0,
        end: stream.end.0,
        checkpoint: stream.checkpoint.map(|(object, _)| object.0),
        checkpoint_at: stream.checkpoint.map_or(0, |(_, offset)| offset.0),
        topic: uuid_bytes(stream.topic),
        partition: stream.partition,
        reserved,
        void,
    }
}

fn encode_range(((stream, start), range): (&(StreamId, Offset), &RangeImage)) -> Range {
    Range {
        stream: stream.0,
        start: start.0,
        end: range.end.0,
        object: range.object.0,
        bytes: range.bytes,
        max_timestamp_ms: range.max_timestamp_ms,
    }
}

fn encode_object((id, object): (&ObjectId, &ObjectImage)) -> Object {
    let stale = (0_u32..).zip(object.slices.iter()).filter(|(_, slice)| !slice.committed);
    Object {
        id: id.0,
        node: object.node.0,
        node_epoch: object.node_epoch.0,
        attempt: object.attempt,
        size: object.size,
        references: object.references,
        streams: object.slices.iter().map(|slice| slice.stream.0).collect(),
        stale: stale.map(|(position, _)| position).collect(),
        destroyed_at_ms: object.destroyed_at_ms,
    }
}

fn encode_wal((uuid, wal): (&uuid::Uuid, &WalImage)) -> Wal {
    let mut message = Wal {
        uuid: uuid_bytes(*uuid),
        node: wal.node.0,
        place: WalPlace::new(wal.class, &wal.location),
        ..Wal::default()
    };
    match &wal.state {
        WalState::Open => {}
        WalState::Sealed { end, pending } => {
            message.sealed = Some(end.0);
            message.pending = pending.iter().map(Into::into).collect();
        }
        WalState::Retired => message.retired = true,
        WalState::Abandoned => message.abandoned = true,
    }
    message
}

/// Rebuilds an image from the chunks of a snapshot.
#[derive(Default)]
pub(crate) struct SnapshotDecoder {
    image: MetadataImage,
    head: Option<SnapshotHead>,
    chunks: u64,
    complete: bool,
}

impl SnapshotDecoder {
    /// Takes the next chunk.
    pub(crate) fn push(&mut self, bytes: Bytes) -> Result<(), WireError> {
        let chunk = Chunk::decode(bytes)?;
        if self.complete {
            return Err(WireError::Field("nothing follows the last chunk of a snapshot"));
        }
        if let Some(chunks) = chunk.chunks {
            self.complete = chunks == self.chunks;
            return if self.complete { Ok(()) } else { Err(WireError::Field("a snapshot lacks chunks")) };
        }
        self.chunks += 1;
        if let Some(head) = &chunk.head {
            self.take_head(head.clone())?;
        }
        self.take_topics(&chunk)?;
        self.take_objects(chunk)
    }

    /// The image, once every chunk was taken. Its invariants are checked: wrong metadata is never served.
    pub(crate) fn finish(self) -> Result<(SnapshotHead, MetadataImage), WireError> {
        if !self.complete {
            return Err(WireError::Field("a snapshot ends with its totals"));
        }
        self.image.validate().map_err(|reason| {
            tracing::error!(reason, "the snapshot breaks an invariant of metadata");
            WireError::Field("a snapshot keeps the invariants of metadata")
        })?;
        Ok((self.head.ok_or(WireError::Field("a snapshot has a head"))?, self.image))
    }

    fn take_head(&mut self, head: Head) -> Result<(), WireError> {
        if head.version > VERSION {
            return Err(WireError::Newer("snapshot"));
        }
        self.image.cluster_id = head.cluster_id.into();
        self.image.store = head.store.into();
        self.image.applied = LogIndex(head.applied);
        self.image.collect_from = NodeEpoch(head.collect_from);
        self.image.next = Counters {
            node_epoch: head.next_node_epoch,
            stream: head.next_stream,
            object: head.next_object,
            producer: head.next_producer,
        };
        self.head = Some(SnapshotHead {
            last: head.last.map(Into::into),
            membership_at: head.membership_at.map(Into::into),
            membership: head.membership.ok_or(WireError::Field("a snapshot has a membership"))?.into(),
        });
        Ok(())
    }

    fn take_topics(&mut self, chunk: &Chunk) -> Result<(), WireError> {
        for from in &chunk.nodes {
            let endpoints = from.endpoints.iter().cloned().map(TryInto::try_into).collect::<Result<_, _>>()?;
            let (peer, version) = NodeFacts::parts(from.facts.clone());
            let node = NodeImage {
                id: NodeId(from.id),
                epoch: NodeEpoch(from.epoch),
                incarnation: uuid(&from.incarnation)?,
                endpoints,
                rack: from.rack.as_deref().map(Into::into),
                peer,
                version,
                fenced: from.fenced,
                draining: decode_draining(from.draining)?,
                wal: optional_uuid(from.wal.as_ref())?,
            };
            self.image.nodes.insert(node.id, Arc::new(node));
        }
        for from in &chunk.topics {
            let partition = |from: &Partition| PartitionImage {
                leader: NodeId(from.leader),
                leader_epoch: from.leader_epoch,
                replicas: from.replicas.clone().unwrap_or_default().into(),
                stream: StreamId(from.stream),
            };
            let partitions = from.partitions.iter().map(partition).collect();
            let topic = TopicImage { id: uuid(&from.id)?, name: from.name.as_str().into(), partitions };
            self.image.topic_ids.insert(Arc::clone(&topic.name), topic.id);
            self.image.topics.insert(topic.id, Arc::new(topic));
        }
        for from in &chunk.configs {
            let resource = from.resource.clone().ok_or(WireError::Field("a configuration names its resource"))?;
            let entries = from.entries.iter().cloned().map(<(Arc<str>, Arc<str>)>::from).collect();
            self.image.configs.insert(resource.try_into()?, entries);
        }
        for from in &chunk.features {
            let (name, level) = from.clone().try_into()?;
            self.image.features.insert(name, level);
        }
        Ok(())
    }

    fn take_objects(&mut self, chunk: Chunk) -> Result<(), WireError> {
        for from in chunk.streams {
            let stream = StreamImage {
                epoch: StreamEpoch(from.epoch),
                owner: from.owner.map(|node| (NodeId(node), NodeEpoch(from.owner_epoch))),
                start: Offset(from.start),
                end: Offset(from.end),
                checkpoint: from.checkpoint.map(|object| (ObjectId(object), Offset(from.checkpoint_at))),
                topic: uuid(&from.topic)?,
                partition: from.partition,
                reserved: reservation(from.reserved)?,
                void: void_epochs(from.void)?,
            };
            self.image.streams.insert(StreamId(from.id), Arc::new(stream));
        }
        for from in chunk.ranges {
            let range = RangeImage {
                object: ObjectId(from.object),
                end: Offset(from.end),
                bytes: from.bytes,
                max_timestamp_ms: from.max_timestamp_ms,
            };
            self.image.ranges.insert((StreamId(from.stream), Offset(from.start)), range);
        }
        for from in chunk.objects {
            let id = ObjectId(from.id);
            let object = decode_object(from)?;
            if object.destroyed_at_ms.is_some() {
                self.image.destroyed.insert(id);
            } else if object.is_stream_set() {
                self.image.stream_sets.insert(id);
            }
            self.image.objects.insert(id, object);
        }
        for from in chunk.wals {
            let uuid = uuid(&from.uuid)?;
            let wal = decode_wal(from)?;
            if matches!(wal.state, WalState::Sealed { .. }) {
                self.image.sealed_wals.insert(uuid);
            }
            self.image.wals.insert(uuid, wal);
        }
        Ok(())
    }
}

fn decode_draining(from: u32) -> Result<NodeDraining, WireError> {
    match from {
        0 => Ok(NodeDraining::No),
        1 => Ok(NodeDraining::Stopping),
        2 => Ok(NodeDraining::ByOperator),
        _ => Err(WireError::Newer("a state of a node")),
    }
}

fn decode_wal(from: Wal) -> Result<WalImage, WireError> {
    let state = match (from.abandoned, from.retired, from.sealed) {
        (true, _, _) => WalState::Abandoned,
        (_, true, _) => WalState::Retired,
        (_, _, Some(end)) => {
            WalState::Sealed { end: Lsn(end), pending: from.pending.into_iter().map(Into::into).collect() }
        }
        _ => WalState::Open,
    };
    let (class, location) = WalPlace::parts(from.place)?;
    Ok(WalImage { node: NodeId(from.node), class, location, state })
}

fn decode_object(from: Object) -> Result<ObjectImage, WireError> {
    let slice = |stream: u64| SliceImage { stream: StreamId(stream), committed: true };
    let mut slices: Vec<SliceImage> = from.streams.into_iter().map(slice).collect();
    for position in from.stale {
        let slice = slices.get_mut(position as usize).ok_or(WireError::Field("a refused slice exists"))?;
        slice.committed = false;
    }
    Ok(ObjectImage {
        node: NodeId(from.node),
        node_epoch: NodeEpoch(from.node_epoch),
        attempt: from.attempt,
        size: from.size,
        references: from.references,
        slices: slices.into(),
        destroyed_at_ms: from.destroyed_at_ms,
    })
}
