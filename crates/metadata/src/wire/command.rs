//! A log entry: nothing (a new leader's first entry), a membership, or a command with its time stamp.

use std::sync::Arc;

use bytes::Bytes;
use common::{Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use prost::Message as _;

use super::WireError;
use super::convert::{
    EndpointMessage, Feature, NodeFacts, Replicas, Resource, Setting, WalPlace, optional_uuid, uuid, uuid_bytes,
};
use super::moves::{
    AbandonMessage, AlterReplicasMessage, DrainingMessage, FailOverMessage, LifeMessage, MoveMessage, life,
};
use crate::command::{Command, NewObject, NewSlice, Registration};
use crate::image::WalDescriptor;
use crate::raft::{EntryBody, Membership};

#[derive(Clone, PartialEq, prost::Message)]
struct EntryMessage {
    #[prost(oneof = "Body", tags = "1, 2, 3")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Body {
    #[prost(bool, tag = "1")]
    Blank(bool),
    #[prost(message, tag = "2")]
    Membership(MembershipMessage),
    #[prost(message, tag = "3")]
    Proposal(Box<ProposalMessage>),
}

/// Voter sets (two while they change) and all nodes, learners among them.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MembershipMessage {
    #[prost(message, repeated, tag = "1")]
    voters: Vec<VoterSet>,
    #[prost(uint64, repeated, tag = "2")]
    nodes: Vec<u64>,
    /// Of the nodes, in the same order; none in logs of the first version.
    #[prost(string, repeated, tag = "3")]
    addresses: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VoterSet {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProposalMessage {
    /// Wall time at the submitter, milliseconds.
    #[prost(sint64, tag = "1")]
    now_ms: i64,
    #[prost(
        oneof = "Kind",
        tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26"
    )]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(string, tag = "2")]
    Bootstrap(String),
    #[prost(message, tag = "3")]
    RegisterNode(RegisterNode),
    #[prost(message, tag = "4")]
    CreateTopic(CreateTopic),
    #[prost(bytes = "bytes", tag = "5")]
    DeleteTopic(Bytes),
    #[prost(message, tag = "6")]
    CreatePartitions(CreatePartitions),
    #[prost(message, tag = "7")]
    AlterConfigs(AlterConfigs),
    #[prost(message, tag = "8")]
    OpenStreams(OpenStreams),
    #[prost(message, tag = "9")]
    TrimStream(TrimStream),
    #[prost(message, tag = "10")]
    LeaseObjectIds(Lease),
    #[prost(message, tag = "11")]
    LeaseProducerIds(Lease),
    #[prost(message, tag = "12")]
    CommitObjects(CommitObjects),
    #[prost(message, tag = "13")]
    ForgetObjects(ObjectIds),
    #[prost(message, tag = "14")]
    SealWal(SealWal),
    #[prost(bytes = "bytes", tag = "15")]
    RetireWal(Bytes),
    #[prost(string, tag = "16")]
    ClaimStore(String),
    #[prost(message, tag = "17")]
    FinalizeFeatures(FinalizeFeatures),
    #[prost(message, tag = "18")]
    FailOver(FailOverMessage),
    #[prost(message, tag = "19")]
    ReserveMove(MoveMessage),
    #[prost(message, tag = "20")]
    CommitMove(MoveMessage),
    #[prost(message, tag = "21")]
    CancelMove(MoveMessage),
    #[prost(message, tag = "22")]
    SetDraining(DrainingMessage),
    #[prost(message, tag = "23")]
    StopNode(LifeMessage),
    #[prost(int32, tag = "24")]
    UnregisterNode(i32),
    #[prost(message, tag = "25")]
    AbandonWal(AbandonMessage),
    #[prost(message, tag = "26")]
    AlterReplicas(AlterReplicasMessage),
}

#[derive(Clone, PartialEq, prost::Message)]
struct RegisterNode {
    #[prost(int32, tag = "1")]
    id: i32,
    #[prost(bytes = "bytes", tag = "2")]
    incarnation: Bytes,
    #[prost(message, repeated, tag = "3")]
    endpoints: Vec<EndpointMessage>,
    #[prost(string, optional, tag = "4")]
    rack: Option<String>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    wal: Option<Bytes>,
    #[prost(message, optional, tag = "6")]
    facts: Option<NodeFacts>,
    #[prost(message, optional, tag = "7")]
    place: Option<WalPlace>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateTopic {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    partitions: Vec<Replicas>,
    #[prost(message, repeated, tag = "4")]
    configs: Vec<Setting>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreatePartitions {
    #[prost(bytes = "bytes", tag = "1")]
    topic: Bytes,
    #[prost(message, repeated, tag = "2")]
    added: Vec<Replicas>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AlterConfigs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<Setting>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OpenStreams {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(uint64, tag = "2")]
    node_epoch: u64,
    #[prost(uint64, repeated, tag = "3")]
    streams: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TrimStream {
    #[prost(uint64, tag = "1")]
    stream: u64,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(int64, tag = "3")]
    start: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Lease {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(uint64, tag = "2")]
    node_epoch: u64,
    #[prost(uint32, tag = "3")]
    count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CommitObjects {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(uint64, tag = "2")]
    node_epoch: u64,
    #[prost(message, repeated, tag = "3")]
    objects: Vec<ObjectMessage>,
    #[prost(uint64, repeated, tag = "4")]
    replaces: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ObjectMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(uint64, tag = "3")]
    size: u64,
    #[prost(message, repeated, tag = "4")]
    slices: Vec<SliceMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SliceMessage {
    #[prost(uint64, tag = "1")]
    stream: u64,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(int64, tag = "3")]
    start: i64,
    #[prost(int64, tag = "4")]
    end: i64,
    #[prost(uint64, tag = "5")]
    bytes: u64,
    #[prost(sint64, tag = "6")]
    max_timestamp_ms: i64,
    #[prost(int64, optional, tag = "7")]
    checkpoint: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ObjectIds {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SealWal {
    #[prost(bytes = "bytes", tag = "1")]
    wal: Bytes,
    #[prost(uint64, tag = "2")]
    end: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FinalizeFeatures {
    #[prost(message, repeated, tag = "1")]
    levels: Vec<Feature>,
}

/// Encodes the body of a log entry.
pub(crate) fn encode_entry(body: &EntryBody) -> Bytes {
    let body = match body {
        EntryBody::Blank => Body::Blank(true),
        EntryBody::Membership(membership) => Body::Membership(membership.into()),
        EntryBody::Command { now_ms, command } => {
            Body::Proposal(Box::new(ProposalMessage { now_ms: *now_ms, kind: Some(kind_of(command)) }))
        }
    };
    EntryMessage { body: Some(body) }.encode_to_vec().into()
}

/// Decodes what [`encode_entry`] wrote.
pub(crate) fn decode_entry(bytes: Bytes) -> Result<EntryBody, WireError> {
    Ok(match EntryMessage::decode(bytes)?.body.ok_or(WireError::Newer("a kind of entry"))? {
        Body::Blank(_) => EntryBody::Blank,
        Body::Membership(membership) => EntryBody::Membership(membership.into()),
        Body::Proposal(proposal) => {
            let kind = proposal.kind.ok_or(WireError::Newer("a command"))?;
            EntryBody::Command { now_ms: proposal.now_ms, command: Arc::new(command_of(kind)?) }
        }
    })
}

impl From<&Membership> for MembershipMessage {
    fn from(from: &Membership) -> Self {
        let voters = from.voters.iter().map(|ids| VoterSet { ids: ids.iter().copied().collect() }).collect();
        let told = from.nodes.values().any(|address| !address.is_empty());
        let addresses = if told { from.nodes.values().map(ToString::to_string).collect() } else { Vec::new() };
        Self { voters, nodes: from.nodes.keys().copied().collect(), addresses }
    }
}

impl From<MembershipMessage> for Membership {
    fn from(from: MembershipMessage) -> Self {
        let voters = from.voters.into_iter().map(|set| set.ids.into_iter().collect()).collect();
        let addresses = from.addresses.into_iter().map(Arc::from).chain(std::iter::repeat_with(Arc::default));
        Self { voters, nodes: from.nodes.into_iter().zip(addresses).collect() }
    }
}

fn kind_of(command: &Command) -> Kind {
    match command {
        Command::Bootstrap { cluster_id } => Kind::Bootstrap(cluster_id.to_string()),
        Command::RegisterNode(from) => Kind::RegisterNode(from.into()),
        Command::CreateTopic { id, name, partitions, configs } => Kind::CreateTopic(CreateTopic {
            id: uuid_bytes(*id),
            name: name.to_string(),
            partitions: partitions.iter().map(Into::into).collect(),
            configs: configs.iter().map(Into::into).collect(),
        }),
        Command::DeleteTopic { id } => Kind::DeleteTopic(uuid_bytes(*id)),
        Command::CreatePartitions { topic, added } => Kind::CreatePartitions(CreatePartitions {
            topic: uuid_bytes(*topic),
            added: added.iter().map(Into::into).collect(),
        }),
        Command::AlterConfigs { resource, changes } => Kind::AlterConfigs(AlterConfigs {
            resource: Some(resource.into()),
            changes: changes.iter().map(Into::into).collect(),
        }),
        Command::OpenStreams { node, node_epoch, streams } => Kind::OpenStreams(OpenStreams {
            node: node.0,
            node_epoch: node_epoch.0,
            streams: streams.iter().map(|stream| stream.0).collect(),
        }),
        Command::TrimStream { stream, epoch, start } => {
            Kind::TrimStream(TrimStream { stream: stream.0, epoch: epoch.0, start: start.0 })
        }
        Command::LeaseObjectIds { node, node_epoch, count } => {
            Kind::LeaseObjectIds(Lease { node: node.0, node_epoch: node_epoch.0, count: *count })
        }
        Command::LeaseProducerIds { node, node_epoch, count } => {
            Kind::LeaseProducerIds(Lease { node: node.0, node_epoch: node_epoch.0, count: *count })
        }
        Command::CommitObjects { node, node_epoch, objects, replaces } => Kind::CommitObjects(CommitObjects {
            node: node.0,
            node_epoch: node_epoch.0,
            objects: objects.iter().map(Into::into).collect(),
            replaces: replaces.iter().map(|id| id.0).collect(),
        }),
        Command::ForgetObjects { objects } => {
            Kind::ForgetObjects(ObjectIds { ids: objects.iter().map(|id| id.0).collect() })
        }
        Command::SealWal { wal, end } => Kind::SealWal(SealWal { wal: uuid_bytes(*wal), end: end.0 }),
        Command::RetireWal { wal } => Kind::RetireWal(uuid_bytes(*wal)),
        Command::ClaimStore { store } => Kind::ClaimStore(store.to_string()),
        Command::FinalizeFeatures { levels } => {
            Kind::FinalizeFeatures(FinalizeFeatures { levels: levels.iter().map(Into::into).collect() })
        }
        Command::FailOver(from) => Kind::FailOver(from.into()),
        Command::ReserveMove { source, target, streams } => {
            Kind::ReserveMove(MoveMessage::reserve(*source, *target, streams))
        }
        Command::CommitMove { source, target, streams } => {
            Kind::CommitMove(MoveMessage::granted(*source, Some(*target), streams))
        }
        Command::CancelMove { source, streams } => Kind::CancelMove(MoveMessage::granted(*source, None, streams)),
        Command::SetDraining { node, draining } => {
            Kind::SetDraining(DrainingMessage { node: node.0, draining: *draining })
        }
        Command::StopNode { node, node_epoch } => Kind::StopNode((*node, *node_epoch).into()),
        Command::UnregisterNode { node } => Kind::UnregisterNode(node.0),
        Command::AbandonWal { wal, leaders } => Kind::AbandonWal(AbandonMessage::new(*wal, leaders)),
        Command::AlterReplicas { changes } => Kind::AlterReplicas(changes.as_slice().into()),
    }
}

fn command_of(kind: Kind) -> Result<Command, WireError> {
    Ok(match kind {
        Kind::Bootstrap(cluster_id) => Command::Bootstrap { cluster_id: cluster_id.into() },
        Kind::RegisterNode(from) => Command::RegisterNode(from.try_into()?),
        Kind::CreateTopic(from) => Command::CreateTopic {
            id: uuid(&from.id)?,
            name: from.name.into(),
            partitions: from.partitions.into_iter().map(Into::into).collect(),
            configs: from.configs.into_iter().map(Into::into).collect(),
        },
        Kind::DeleteTopic(id) => Command::DeleteTopic { id: uuid(&id)? },
        Kind::CreatePartitions(from) => Command::CreatePartitions {
            topic: uuid(&from.topic)?,
            added: from.added.into_iter().map(Into::into).collect(),
        },
        Kind::AlterConfigs(from) => Command::AlterConfigs {
            resource: from.resource.ok_or(WireError::Field("a configuration change names its resource"))?.try_into()?,
            changes: from.changes.into_iter().map(Into::into).collect(),
        },
        Kind::OpenStreams(from) => Command::OpenStreams {
            node: NodeId(from.node),
            node_epoch: NodeEpoch(from.node_epoch),
            streams: from.streams.into_iter().map(StreamId).collect(),
        },
        Kind::TrimStream(from) => Command::TrimStream {
            stream: StreamId(from.stream),
            epoch: StreamEpoch(from.epoch),
            start: Offset(from.start),
        },
        Kind::LeaseObjectIds(from) => Command::LeaseObjectIds {
            node: NodeId(from.node),
            node_epoch: NodeEpoch(from.node_epoch),
            count: from.count,
        },
        Kind::LeaseProducerIds(from) => Command::LeaseProducerIds {
            node: NodeId(from.node),
            node_epoch: NodeEpoch(from.node_epoch),
            count: from.count,
        },
        Kind::CommitObjects(from) => Command::CommitObjects {
            node: NodeId(from.node),
            node_epoch: NodeEpoch(from.node_epoch),
            objects: from.objects.into_iter().map(Into::into).collect(),
            replaces: from.replaces.into_iter().map(ObjectId).collect(),
        },
        Kind::ForgetObjects(from) => Command::ForgetObjects { objects: from.ids.into_iter().map(ObjectId).collect() },
        Kind::SealWal(from) => Command::SealWal { wal: uuid(&from.wal)?, end: Lsn(from.end) },
        Kind::RetireWal(wal) => Command::RetireWal { wal: uuid(&wal)? },
        Kind::ClaimStore(store) => Command::ClaimStore { store: store.into() },
        Kind::FinalizeFeatures(from) => Command::FinalizeFeatures {
            levels: from.levels.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        },
        Kind::FailOver(from) => Command::FailOver(from.try_into()?),
        Kind::ReserveMove(from) => from.into_reserve()?,
        Kind::CommitMove(from) => from.into_commit()?,
        Kind::CancelMove(from) => from.into_cancel()?,
        Kind::SetDraining(from) => Command::SetDraining { node: NodeId(from.node), draining: from.draining },
        Kind::StopNode(from) => {
            let (node, node_epoch) = life(Some(from))?;
            Command::StopNode { node, node_epoch }
        }
        Kind::UnregisterNode(node) => Command::UnregisterNode { node: NodeId(node) },
        Kind::AbandonWal(from) => from.into_command()?,
        Kind::AlterReplicas(from) => from.into(),
    })
}

impl From<&Registration> for RegisterNode {
    fn from(from: &Registration) -> Self {
        Self {
            id: from.id.0,
            incarnation: uuid_bytes(from.incarnation),
            endpoints: from.endpoints.iter().map(Into::into).collect(),
            rack: from.rack.as_ref().map(ToString::to_string),
            wal: from.wal.as_ref().map(|wal| uuid_bytes(wal.uuid)),
            facts: NodeFacts::new(&from.peer, from.version),
            place: from.wal.as_ref().and_then(|wal| WalPlace::new(wal.class, &wal.location)),
        }
    }
}

impl TryFrom<RegisterNode> for Registration {
    type Error = WireError;

    fn try_from(from: RegisterNode) -> Result<Self, WireError> {
        let (peer, version) = NodeFacts::parts(from.facts);
        let (class, location) = WalPlace::parts(from.place)?;
        Ok(Self {
            id: NodeId(from.id),
            incarnation: uuid(&from.incarnation)?,
            endpoints: from.endpoints.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            rack: from.rack.map(Into::into),
            peer,
            version,
            wal: optional_uuid(from.wal.as_ref())?.map(|uuid| WalDescriptor { uuid, class, location }),
        })
    }
}

impl From<&NewObject> for ObjectMessage {
    fn from(from: &NewObject) -> Self {
        Self {
            id: from.id.0,
            attempt: from.attempt,
            size: from.size,
            slices: from.slices.iter().map(Into::into).collect(),
        }
    }
}

impl From<ObjectMessage> for NewObject {
    fn from(from: ObjectMessage) -> Self {
        let slices = from.slices.into_iter().map(Into::into).collect();
        Self { id: ObjectId(from.id), attempt: from.attempt, size: from.size, slices }
    }
}

impl From<&NewSlice> for SliceMessage {
    fn from(from: &NewSlice) -> Self {
        Self {
            stream: from.stream.0,
            epoch: from.epoch.0,
            start: from.start.0,
            end: from.end.0,
            bytes: from.bytes,
            max_timestamp_ms: from.max_timestamp_ms,
            checkpoint: from.checkpoint.map(|offset| offset.0),
        }
    }
}

impl From<SliceMessage> for NewSlice {
    fn from(from: SliceMessage) -> Self {
        Self {
            stream: StreamId(from.stream),
            epoch: StreamEpoch(from.epoch),
            start: Offset(from.start),
            end: Offset(from.end),
            bytes: from.bytes,
            max_timestamp_ms: from.max_timestamp_ms,
            checkpoint: from.checkpoint.map(Offset),
        }
    }
}
