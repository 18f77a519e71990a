//! Where voters are. The log says so, and a voter's configuration, which an operator may have changed since: it counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::NodeId;

use super::transport::{RaftTransport, TransportError};

/// Addresses that are configured. Those that are not are as the log has them.
pub(crate) struct Addresses(BTreeMap<NodeId, Arc<str>>);

impl Addresses {
    pub(crate) fn new(voters: &[(NodeId, Arc<str>)]) -> Self {
        Self(voters.iter().filter(|(_, address)| !address.is_empty()).cloned().collect())
    }

    /// Where `node` is, which the log says is at `logged`.
    pub(crate) fn of(&self, node: NodeId, logged: &Arc<str>) -> Arc<str> {
        Arc::clone(self.0.get(&node).unwrap_or(logged))
    }
}

/// The way to where nodes really are.
pub(crate) struct Addressed {
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) transport: Arc<dyn RaftTransport>,
}

#[async_trait::async_trait]
impl RaftTransport for Addressed {
    async fn call(&self, target: NodeId, logged: &str, request: Bytes) -> Result<Bytes, TransportError> {
        let address = self.addresses.0.get(&target).map_or(logged, |address| address);
        self.transport.call(target, address, request).await
    }
}
