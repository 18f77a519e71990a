//! Talk between nodes: one listener each, length-prefixed frames, many requests under way on a connection.
//!
//! The end of a connection is news for whoever watches the node at its other end: a *suspicion*, never more.

mod client;
pub mod messages;
mod server;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use common::NodeId;

pub use client::Peers;
pub use server::{PeerListener, serve};
pub use wire::{Hello, Kind, Lane, PROTOCOL_VERSION};

/// What a node does with its peers' requests.
#[async_trait::async_trait]
pub trait PeerService: Send + Sync + 'static {
    /// Answers a request of `from`. An error is told to the caller as text.
    async fn answer(&self, from: NodeId, kind: Kind, body: Bytes) -> Result<Bytes, String>;

    /// The last connection to or from `node` on a lane ended.
    fn lost(&self, node: NodeId);
}

/// Who this node is, as it says to its peers.
#[derive(Clone)]
pub struct Identity {
    /// This node.
    pub node: NodeId,
    /// The cluster, empty as long as this node belongs to none.
    pub cluster_id: Arc<arc_swap::ArcSwap<String>>,
}

impl Identity {
    fn hello(&self, lane: Lane) -> Hello {
        Hello { version: PROTOCOL_VERSION, node: self.node, lane, cluster_id: self.cluster_id.load().as_ref().clone() }
    }

    /// Whether a peer that says `theirs` may talk to this node: one of another cluster may not.
    fn refuses(&self, theirs: &Hello) -> Option<String> {
        let ours = self.cluster_id.load();
        if theirs.version == 0 {
            return Some("version 0 of the peer protocol does not exist".to_owned());
        }
        let known = !ours.is_empty() && !theirs.cluster_id.is_empty();
        (known && **ours != theirs.cluster_id)
            .then(|| format!("node {} belongs to cluster {}, not to {}", theirs.node, theirs.cluster_id, **ours))
    }
}
