//! How the rest of a broker reads and changes metadata.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use common::{Clock, LogIndex};
use tokio::sync::{Semaphore, watch};

use crate::command::{Command, Outcome, Refusal};
use crate::delta::Subscription;
use crate::image::MetadataImage;
use crate::raft::{QuorumState, Submitter};

/// Commands under way at once, of one node.
const PENDING_MAX: usize = 4096;

/// Bytes of one encoded command. Larger ones are refused: an entry is replicated and applied in one piece.
const COMMAND_BYTES_MAX: usize = 32 << 20;

/// Encoded bytes of all commands under way.
const PENDING_BYTES_MAX: u64 = 64 << 20;

/// The image this node has applied, and who waits for newer ones.
#[derive(Debug)]
pub(crate) struct Images {
    newest: ArcSwap<MetadataImage>,
    applied: watch::Sender<LogIndex>,
}

impl Default for Images {
    fn default() -> Self {
        Self { newest: ArcSwap::default(), applied: watch::Sender::new(LogIndex(0)) }
    }
}

impl Images {
    pub(crate) fn publish(&self, image: Arc<MetadataImage>) {
        let applied = image.applied;
        self.newest.store(image);
        self.applied.send_replace(applied);
    }
}

/// Handle on this node's image and on the quorum. Cheap to clone.
#[derive(Clone)]
pub struct MetadataClient {
    inner: Arc<Inner>,
}

struct Inner {
    images: Arc<Images>,
    submitter: Submitter,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    pending: Semaphore,
    bytes: common::budget::ByteBudget,
}

/// Why a command has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// Certainly not applied: no leader, or the queue is full. Retry.
    #[error("metadata is unavailable: {0}")]
    Unavailable(String),
    /// May be applied.
    #[error("the command's outcome is unknown: {0}")]
    Indeterminate(String),
}

impl MetadataClient {
    pub(crate) fn new(images: Arc<Images>, submitter: Submitter, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        let pending = Semaphore::new(PENDING_MAX);
        let bytes = common::budget::ByteBudget::new(PENDING_BYTES_MAX);
        Self { inner: Arc::new(Inner { images, submitter, clock, timeout, pending, bytes }) }
    }

    /// The newest image this node has applied.
    #[must_use]
    pub fn image(&self) -> Arc<MetadataImage> {
        self.inner.images.newest.load_full()
    }

    /// The quorum as this node sees it now.
    #[must_use]
    pub fn quorum(&self) -> QuorumState {
        self.inner.submitter.quorum()
    }

    /// Tells of every newer image by the index it has applied.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<LogIndex> {
        self.inner.images.applied.subscribe()
    }

    /// Follows the image from now on; see [`Subscription`].
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(self.clone())
    }

    /// Sends a command to the active controller and waits until it is committed *and* in this node's image.
    /// A command that the state machine refuses is an [`Outcome::Refused`], not an error. Asking again after
    /// [`SubmitError::Indeterminate`] is safe for commands that carry an identity (registrations, topics by id,
    /// object commits, trims); others may happen twice.
    pub async fn submit(&self, command: Command) -> Result<Outcome, SubmitError> {
        let inner = &*self.inner;
        let unavailable = |reason: &str| SubmitError::Unavailable(reason.to_owned());
        let (needed, least) = (command.version(), self.image().least_version());
        if needed > least {
            // A node that cannot read an entry of the log has to stop.
            let reason = format!("needs version {needed}, and a registered node has version {least}: upgrade it first");
            return Ok(Outcome::Refused(Refusal::Invalid(reason)));
        }
        let _slot = inner.pending.try_acquire().map_err(|_| unavailable("too many commands are under way"))?;
        let proposal = Submitter::propose(inner.clock.wall_ms(), command);
        let size = proposal.encoded.len();
        if size > COMMAND_BYTES_MAX {
            let reason = format!("a command of {size} bytes exceeds the limit of {COMMAND_BYTES_MAX} bytes");
            return Ok(Outcome::Refused(Refusal::Invalid(reason)));
        }
        let _lease = inner.bytes.try_take(size as u64).ok_or_else(|| unavailable("too many bytes are under way"))?;
        let (index, outcome) = inner.submitter.submit(proposal, inner.timeout).await?;
        match tokio::time::timeout(inner.timeout, self.wait_applied(index)).await {
            Ok(true) => Ok(outcome),
            _ => Err(SubmitError::Indeterminate("applied, but not known here yet".into())),
        }
    }

    /// Waits until this node's image has applied `index`, as long as that takes; `false` if metadata has ended before.
    pub async fn wait_applied(&self, index: LogIndex) -> bool {
        self.watch().wait_for(|applied| *applied >= index).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use common::{ManualClock, NodeId};
    use uuid::Uuid;

    use super::*;
    use crate::command::Registration;
    use crate::log::MemoryLogStore;
    use crate::raft::{NoPeers, Node, NodeConfig};

    #[tokio::test]
    async fn commands_wait_until_every_node_knows_them() {
        let (clock, store) = (Arc::new(ManualClock::at(1_000)), Arc::new(MemoryLogStore::default()));
        let started = Node::start(NodeConfig::single(NodeId(1)), store, Arc::new(NoPeers), clock).await;
        let (node, client) = started.expect("starts");
        let register = |life, version| {
            Command::RegisterNode(Registration { version, ..Registration::new(NodeId(1), Uuid::from_u128(life)) })
        };
        let drain = || client.submit(Command::SetDraining { node: NodeId(1), draining: true });
        client.submit(register(1, 1)).await.expect("registered");
        assert!(matches!(drain().await, Ok(Outcome::Refused(Refusal::Invalid(_)))));
        client.submit(register(2, 2)).await.expect("registered");
        assert!(matches!(drain().await, Ok(Outcome::Done)));
        node.stop().await;
    }
}
