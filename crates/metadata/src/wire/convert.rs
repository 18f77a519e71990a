//! Messages shared by entries and snapshots, and their conversions.

use std::sync::Arc;

use bytes::Bytes;
use common::NodeId;
use uuid::Uuid;

use super::WireError;
use crate::image::{ConfigResource, Endpoint, WalClass};
use crate::log::EntryId;

pub(super) fn uuid_bytes(uuid: Uuid) -> Bytes {
    Bytes::copy_from_slice(uuid.as_bytes())
}

pub(super) fn uuid(bytes: &[u8]) -> Result<Uuid, WireError> {
    Uuid::from_slice(bytes).map_err(|_| WireError::Field("a uuid has 16 bytes"))
}

pub(super) fn optional_uuid(bytes: Option<&Bytes>) -> Result<Option<Uuid>, WireError> {
    bytes.map(|bytes| uuid(bytes)).transpose()
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EndpointMessage {
    #[prost(string, tag = "1")]
    listener: String,
    #[prost(string, tag = "2")]
    protocol: String,
    #[prost(string, tag = "3")]
    host: String,
    #[prost(uint32, tag = "4")]
    port: u32,
}

impl From<&Endpoint> for EndpointMessage {
    fn from(from: &Endpoint) -> Self {
        Self {
            listener: from.listener.clone(),
            protocol: from.protocol.clone(),
            host: from.host.clone(),
            port: u32::from(from.port),
        }
    }
}

impl TryFrom<EndpointMessage> for Endpoint {
    type Error = WireError;

    fn try_from(from: EndpointMessage) -> Result<Self, WireError> {
        let port = u16::try_from(from.port).map_err(|_| WireError::Field("a port has 16 bits"))?;
        Ok(Self { listener: from.listener, protocol: from.protocol, host: from.host, port })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Replicas {
    #[prost(int32, repeated, tag = "1")]
    nodes: Vec<i32>,
}

impl From<&Arc<[NodeId]>> for Replicas {
    fn from(from: &Arc<[NodeId]>) -> Self {
        Self { nodes: from.iter().map(|node| node.0).collect() }
    }
}

impl From<Replicas> for Arc<[NodeId]> {
    fn from(from: Replicas) -> Self {
        from.nodes.into_iter().map(NodeId).collect()
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Resource {
    #[prost(oneof = "ResourceKind", tags = "1, 2, 3, 4")]
    kind: Option<ResourceKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ResourceKind {
    #[prost(string, tag = "1")]
    Topic(String),
    #[prost(int32, tag = "2")]
    Broker(i32),
    #[prost(bool, tag = "3")]
    AllBrokers(bool),
    #[prost(string, tag = "4")]
    Group(String),
}

impl From<&ConfigResource> for Resource {
    fn from(from: &ConfigResource) -> Self {
        let kind = match from {
            ConfigResource::Topic(name) => ResourceKind::Topic(name.to_string()),
            ConfigResource::Broker(Some(node)) => ResourceKind::Broker(node.0),
            ConfigResource::Broker(None) => ResourceKind::AllBrokers(true),
            ConfigResource::Group(id) => ResourceKind::Group(id.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<Resource> for ConfigResource {
    type Error = WireError;

    fn try_from(from: Resource) -> Result<Self, WireError> {
        Ok(match from.kind.ok_or(WireError::Newer("a kind of configuration resource"))? {
            ResourceKind::Topic(name) => Self::Topic(name.into()),
            ResourceKind::Broker(node) => Self::Broker(Some(NodeId(node))),
            ResourceKind::AllBrokers(_) => Self::Broker(None),
            ResourceKind::Group(id) => Self::Group(id.into()),
        })
    }
}

/// A configuration entry; without a value it is removed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Setting {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, optional, tag = "2")]
    pub(super) value: Option<String>,
}

impl From<&(Arc<str>, Option<Arc<str>>)> for Setting {
    fn from((name, value): &(Arc<str>, Option<Arc<str>>)) -> Self {
        Self { name: name.to_string(), value: value.as_ref().map(ToString::to_string) }
    }
}

impl From<Setting> for (Arc<str>, Option<Arc<str>>) {
    fn from(from: Setting) -> Self {
        (from.name.into(), from.value.map(Into::into))
    }
}

impl From<&(Arc<str>, Arc<str>)> for Setting {
    fn from((name, value): &(Arc<str>, Arc<str>)) -> Self {
        Self { name: name.to_string(), value: Some(value.to_string()) }
    }
}

impl From<Setting> for (Arc<str>, Arc<str>) {
    fn from(from: Setting) -> Self {
        (from.name.into(), from.value.unwrap_or_default().into())
    }
}

/// A finalized feature level.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Feature {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    level: i32,
}

impl From<&(Arc<str>, i16)> for Feature {
    fn from((name, level): &(Arc<str>, i16)) -> Self {
        Self { name: name.to_string(), level: i32::from(*level) }
    }
}

impl TryFrom<Feature> for (Arc<str>, i16) {
    type Error = WireError;

    fn try_from(from: Feature) -> Result<Self, WireError> {
        let level = i16::try_from(from.level).map_err(|_| WireError::Field("a feature level has 16 bits"))?;
        Ok((from.name.into(), level))
    }
}

/// What a node tells of itself since version 2.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeFacts {
    #[prost(string, tag = "1")]
    peer: String,
    #[prost(uint32, tag = "2")]
    version: u32,
}

impl NodeFacts {
    /// `None` for what the first version had.
    pub(super) fn new(peer: &str, version: u32) -> Option<Self> {
        (!peer.is_empty() || version != 1).then(|| Self { peer: peer.to_owned(), version })
    }

    pub(super) fn parts(from: Option<Self>) -> (Arc<str>, u32) {
        from.map_or_else(|| ("".into(), 1), |from| (from.peer.into(), from.version))
    }
}

/// Where a write-ahead log is, and who reaches it, since version 2. Without it: private, and nobody needs to know where.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WalPlace {
    /// 0 private, 1 shared.
    #[prost(uint32, tag = "1")]
    class: u32,
    #[prost(string, tag = "2")]
    location: String,
}

impl WalPlace {
    /// `None` for what the first version had.
    pub(super) fn new(class: WalClass, location: &str) -> Option<Self> {
        let number = match class {
            WalClass::Private => 0,
            WalClass::Shared => 1,
        };
        (number > 0 || !location.is_empty()).then(|| Self { class: number, location: location.to_owned() })
    }

    pub(super) fn parts(from: Option<Self>) -> Result<(WalClass, Arc<str>), WireError> {
        let from = from.unwrap_or_default();
        let class = match from.class {
            0 => WalClass::Private,
            1 => WalClass::Shared,
            _ => return Err(WireError::Newer("a class of write-ahead logs")),
        };
        Ok((class, from.location.into()))
    }
}

/// Identity of a log entry.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct IdMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
}

impl From<EntryId> for IdMessage {
    fn from(from: EntryId) -> Self {
        Self { term: from.term, node: from.node, index: from.index }
    }
}

impl From<IdMessage> for EntryId {
    fn from(from: IdMessage) -> Self {
        Self { term: from.term, node: from.node, index: from.index }
    }
}
