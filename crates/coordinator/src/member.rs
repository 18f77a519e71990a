//! One member of a classic group.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::JoinGroupRequest;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;

use crate::record::MemberMetadata;
use crate::shard::{Context, Token};

/// Protocols a member supports, in order of preference, with its metadata for each.
pub(crate) type Protocols = Vec<(Arc<str>, Bytes)>;

/// A member, as the coordinator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: Arc<str>,
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    pub(crate) protocols: Protocols,
    pub(crate) assignment: Bytes,
    /// The JoinGroup that waits for the join phase to end.
    pub(crate) awaiting_join: Option<Token>,
    /// The SyncGroup that waits for the leader's assignment.
    pub(crate) awaiting_sync: Option<Token>,
    /// Has not had its first JoinGroup response, so that it cannot know its id or send heartbeats.
    pub(crate) is_new: bool,
}

impl Member {
    pub(crate) fn joining(id: Arc<str>, request: &JoinGroupRequest, context: &Context<'_>) -> Self {
        Self {
            id,
            instance_id: request.group_instance_id.as_ref().map(|instance| instance.as_str().into()),
            client_id: context.client_id.into(),
            client_host: context.client_host.into(),
            rebalance_timeout_ms: rebalance_timeout_ms(request),
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols(&request.protocols),
            assignment: Bytes::new(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: true,
        }
    }

    /// A member as it was persisted, which knows only the selected protocol.
    pub(crate) fn loaded(metadata: &MemberMetadata, protocol: &Arc<str>) -> Self {
        let rebalance_timeout_ms = match metadata.rebalance_timeout_ms {
            ..0 => metadata.session_timeout_ms,
            timeout => timeout,
        };
        Self {
            id: Arc::clone(&metadata.member_id),
            instance_id: metadata.group_instance_id.clone(),
            client_id: Arc::clone(&metadata.client_id),
            client_host: Arc::clone(&metadata.client_host),
            rebalance_timeout_ms,
            session_timeout_ms: metadata.session_timeout_ms,
            protocols: vec![(Arc::clone(protocol), metadata.subscription.clone())],
            assignment: metadata.assignment.clone(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        }
    }

    pub(crate) fn is_static(&self) -> bool {
        self.instance_id.is_some()
    }

    /// Metadata for a protocol; empty if the member does not support it.
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| **name == *protocol)
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }

    /// The candidate this member likes best.
    pub(crate) fn vote(&self, candidates: &BTreeSet<Arc<str>>) -> Option<&Arc<str>> {
        self.protocols.iter().map(|(name, _)| name).find(|name| candidates.contains(*name))
    }

    /// A member that waits within a rebalance is alive without heartbeats, except a new one, whose client
    /// may be gone without the coordinator noticing.
    pub(crate) fn has_satisfied_heartbeat(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    /// Bytes its protocols and assignment hold.
    pub(crate) fn bytes(&self) -> usize {
        self.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum::<usize>() + self.assignment.len()
    }

    pub(crate) fn to_metadata(&self, protocol: &str) -> MemberMetadata {
        MemberMetadata {
            member_id: Arc::clone(&self.id),
            group_instance_id: self.instance_id.clone(),
            client_id: Arc::clone(&self.client_id),
            client_host: Arc::clone(&self.client_host),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol),
            assignment: self.assignment.clone(),
        }
    }
}

/// The request's protocols, copied out of its frame so that the frame is not kept; of two with the same name the
/// first counts.
pub(crate) fn protocols(request: &[JoinGroupRequestProtocol]) -> Protocols {
    let mut seen = BTreeSet::new();
    let distinct = request.iter().filter(|protocol| seen.insert(protocol.name.as_str()));
    distinct.map(|protocol| (protocol.name.as_str().into(), Bytes::copy_from_slice(&protocol.metadata))).collect()
}

/// Version 0 has no rebalance timeout: the session timeout stands in.
pub(crate) fn rebalance_timeout_ms(request: &JoinGroupRequest) -> i32 {
    if request.rebalance_timeout_ms < 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms }
}
