//! What this node does with its peers' requests. It exists before Raft does, for Raft starts by talking.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use common::{LogIndex, NodeEpoch, NodeId, StreamId};
use metadata::raft::QuorumError;
use metadata::{MetadataClient, Node};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::controller::Controller;
use super::doubt::Doubts;
use super::mover::Mover;
use super::peer::messages::{
    AppliedRequest, HandOverRequest, HeartbeatRequest, JoinAnswer, JoinRequest, MarkersRequest, MoveAnswer,
    MoveRequest, Peer, QuorumAnswer, QuorumChange, QuorumRequest, SealRequest, VerifyRequest, decode, encode,
};
use super::peer::{Identity, Kind, PeerService};
use super::receiver::Receiver;
use super::sealer::Sealer;
use crate::transactions::Transactions;

/// How long a peer that asks about an index of metadata is kept waiting.
const APPLIED_WAIT: Duration = Duration::from_secs(5);

/// Answers peers with whatever parts of this node have started.
pub struct Service {
    identity: Identity,
    raft: OnceLock<Arc<Node>>,
    metadata: OnceLock<MetadataClient>,
    controller: OnceLock<Arc<Controller>>,
    sealer: OnceLock<Arc<Sealer>>,
    receiver: OnceLock<Receiver>,
    /// Holds the member, which holds this.
    mover: OnceLock<Weak<Mover>>,
    transactions: OnceLock<Weak<Transactions>>,
    doubts: Arc<Doubts>,
    lost: Mutex<Vec<NodeId>>,
    /// Somebody was lost.
    pub(super) loss: Notify,
}

impl Service {
    /// Nothing has started yet.
    pub(super) fn new(identity: Identity, doubts: Arc<Doubts>) -> Self {
        Self {
            identity,
            doubts,
            raft: OnceLock::new(),
            metadata: OnceLock::new(),
            controller: OnceLock::new(),
            sealer: OnceLock::new(),
            receiver: OnceLock::new(),
            mover: OnceLock::new(),
            transactions: OnceLock::new(),
            lost: Mutex::default(),
            loss: Notify::new(),
        }
    }

    pub(super) fn raft_started(&self, raft: Arc<Node>) {
        // Set once: a node starts once.
        let _ = self.raft.set(raft);
    }

    pub(super) fn joined(&self, metadata: MetadataClient, controller: Arc<Controller>) {
        let _ = self.metadata.set(metadata);
        let _ = self.controller.set(controller);
    }

    /// From now on this node can seal the logs of others.
    pub(crate) fn can_seal(&self, sealer: Sealer) {
        let _ = self.sealer.set(Arc::new(sealer));
    }

    /// From now on this node can take partitions.
    pub(crate) fn broker_started(&self, receiver: Receiver) {
        let _ = self.receiver.set(receiver);
    }

    /// From now on this node can give partitions away.
    pub(crate) fn mover_started(&self, mover: &Arc<Mover>) {
        let _ = self.mover.set(Arc::downgrade(mover));
    }

    /// From now on this node can be asked about transactions.
    pub(crate) fn transactions_started(&self, transactions: &Arc<Transactions>) {
        let _ = self.transactions.set(Arc::downgrade(transactions));
    }

    fn transactions(&self) -> Result<Arc<Transactions>, String> {
        let started = self.transactions.get().and_then(Weak::upgrade);
        started.ok_or_else(|| "this node is no broker, or has not started".to_owned())
    }

    async fn give_away(&self, request: MoveRequest) -> Result<MoveAnswer, String> {
        let mover = self.mover.get().and_then(Weak::upgrade).ok_or("this node is no broker, or has not started")?;
        if NodeEpoch(request.node_epoch) != mover.life().1 {
            return Err(format!("this is life {} of the node, not {}", mover.life().1, request.node_epoch));
        }
        let plan = request.moves.iter().map(|one| (StreamId(one.stream), NodeId(one.target))).collect();
        Ok(MoveAnswer { moved: mover.give_away(plan).await as u64 })
    }

    /// Nodes whose connections ended since the last call.
    pub(super) fn take_lost(&self) -> Vec<NodeId> {
        std::mem::take(&mut *self.lost.lock())
    }

    fn raft(&self) -> Result<&Arc<Node>, String> {
        self.raft.get().ok_or_else(|| "metadata has not started here yet".to_owned())
    }

    async fn join(&self, request: JoinRequest) -> Result<JoinAnswer, String> {
        let raft = self.raft()?;
        let peer = request.peer.ok_or("nobody wants to join")?;
        let address: Arc<str> = peer.address.into();
        let cluster_id = self.identity.cluster_id.load().as_ref().clone();
        let (joined, leader) = match raft.follow_up(NodeId(peer.node), &address).await {
            Ok(()) => (true, None),
            Err(QuorumError::NotLeader(leader)) => (false, leader.or_else(|| raft.leader())),
            Err(error) => return Err(error.to_string()),
        };
        Ok(JoinAnswer { joined, leader: leader.map(Peer::from), cluster_id })
    }

    /// Changes who takes part in Raft, or tells who does, if this node leads.
    pub(super) async fn change_quorum(&self, request: QuorumRequest) -> Result<QuorumAnswer, String> {
        let raft = self.raft()?;
        let node = NodeId(request.node);
        let changed = match request.change() {
            QuorumChange::AddVoter => raft.add_voter(node).await,
            QuorumChange::RemoveVoter => raft.remove_voter(node).await,
            QuorumChange::Forget => raft.forget(node).await,
            QuorumChange::None => {
                let quorum = self.metadata.get().ok_or("this node has not joined yet")?.quorum();
                let state = quorum.is_leader.then(|| quorum.into());
                let leader = raft.leader().filter(|_| state.is_none()).map(Peer::from);
                return Ok(QuorumAnswer { done: state.is_some(), leader, reason: String::new(), state });
            }
        };
        Ok(match changed {
            Ok(()) => QuorumAnswer { done: true, ..QuorumAnswer::default() },
            Err(QuorumError::NotLeader(leader)) => {
                let leader = leader.or_else(|| raft.leader()).map(Peer::from);
                QuorumAnswer { leader, reason: "this node does not lead".to_owned(), ..QuorumAnswer::default() }
            }
            Err(error) => QuorumAnswer { reason: error.to_string(), ..QuorumAnswer::default() },
        })
    }

    async fn applied(&self, index: LogIndex) -> Result<(), String> {
        let metadata = self.metadata.get().ok_or("this node has not joined yet")?;
        match tokio::time::timeout(APPLIED_WAIT, metadata.wait_applied(index)).await {
            Ok(true) => Ok(()),
            _ => Err(format!("metadata is not applied up to {index} here")),
        }
    }
}

#[async_trait::async_trait]
impl PeerService for Service {
    async fn answer(&self, _from: NodeId, kind: Kind, body: Bytes) -> Result<Bytes, String> {
        match kind {
            Kind::Raft => Ok(self.raft()?.handle(body).await),
            Kind::Join => Ok(encode(&self.join(decode::<JoinRequest>(body)?).await?)),
            Kind::Heartbeat => {
                let controller = self.controller.get().ok_or("this node has not joined yet")?;
                Ok(encode(&controller.heartbeat(decode::<HeartbeatRequest>(body)?).await))
            }
            Kind::Seal => {
                let request: SealRequest = decode(body)?;
                self.applied(LogIndex(request.applied)).await?;
                let sealer = self.sealer.get().ok_or("this node is no broker, or has not started")?;
                Ok(encode(&sealer.seal(request).await))
            }
            Kind::Applied => {
                self.applied(LogIndex(decode::<AppliedRequest>(body)?.index)).await?;
                Ok(Bytes::new())
            }
            Kind::ReadIndex => {
                let index = self.raft()?.confirm_leadership().await.map_err(|error| error.to_string())?;
                Ok(encode(&AppliedRequest { index: index.0 }))
            }
            Kind::Quorum => Ok(encode(&self.change_quorum(decode::<QuorumRequest>(body)?).await?)),
            Kind::HandOver => {
                let receiver = self.receiver.get().ok_or("this node is no broker, or has not started")?;
                Ok(encode(&receiver.take(decode::<HandOverRequest>(body)?).await?))
            }
            Kind::Markers => {
                let request = decode::<MarkersRequest>(body)?;
                Ok(encode(&self.transactions()?.markers.answer(request).await?))
            }
            Kind::VerifyTransaction => {
                let request = decode::<VerifyRequest>(body)?;
                Ok(encode(&self.transactions()?.answer_verify(request).await?))
            }
            Kind::Move => Ok(encode(&self.give_away(decode::<MoveRequest>(body)?).await?)),
        }
    }

    fn lost(&self, node: NodeId) {
        if let Some(metadata) = self.metadata.get() {
            self.doubts.raise(node, &metadata.image());
        }
        let mut lost = self.lost.lock();
        if !lost.contains(&node) {
            lost.push(node);
        }
        drop(lost);
        self.loss.notify_one();
    }
}
