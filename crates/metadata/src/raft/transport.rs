//! The port to other nodes: one request, one answer, both opaque bytes.

use bytes::Bytes;
use common::NodeId;

/// Carries requests to [`Node::handle`](super::Node::handle) of other nodes.
#[async_trait::async_trait]
pub trait RaftTransport: Send + Sync + 'static {
    /// Sends `request` to `target`, whose peer listener is at `address`, and waits for its answer. The caller sets a
    /// deadline by dropping the future.
    async fn call(&self, target: NodeId, address: &str, request: Bytes) -> Result<Bytes, TransportError>;
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// The request certainly did not reach the target.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The target may have seen and processed the request.
    #[error("no answer: {0}")]
    Lost(String),
}

/// The transport of a node that has no peers.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoPeers;

#[async_trait::async_trait]
impl RaftTransport for NoPeers {
    async fn call(&self, target: NodeId, _address: &str, _request: Bytes) -> Result<Bytes, TransportError> {
        Err(TransportError::Unreachable(format!("node {target} is not known here")))
    }
}
