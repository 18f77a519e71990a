//! Messages shared by entries and snapshots, and their conversions.

use std::sync::Arc;

use bytes::Bytes;
use common::NodeId;
use uuid::Uuid;

use super::WireError;
use crate::image::{ConfigResource, Endpoint};
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

pub(super) fn text(value: &str) -> Arc<str> {
    Arc::from(value)
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
