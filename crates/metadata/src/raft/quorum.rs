//! Who takes part in Raft, who leads, and what hastens an election.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::{LogIndex, NodeId};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::TransferLeaderRequest;
use openraft::{ChangeMembers, ReadPolicy};

use super::network::node_id;
use super::node::{Node, raft_id};
use super::types::{self, PeerAddress, TypeConfig};
use crate::wire::Request;

/// A successor that has not been elected in this time, perhaps as its log was behind after all, is asked again, or another one.
const SUCCESSION_RETRY: Duration = Duration::from_millis(200);

/// A leader and where its peer listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderInfo {
    /// The node.
    pub node: NodeId,
    /// `host:port`.
    pub address: Arc<str>,
}

/// Why the quorum did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QuorumError {
    /// Another node leads, or none that is known here. Nothing was changed.
    #[error("this node does not lead the metadata quorum")]
    NotLeader(Option<LeaderInfo>),
    /// It makes no sense. Nothing was changed.
    #[error("{0}")]
    Invalid(String),
    /// It may have happened.
    #[error("the metadata quorum: {0}")]
    Indeterminate(String),
}

impl Node {
    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<LeaderInfo> {
        // What `leader_changed` watches: Raft publishes its other metrics at another moment, and a change that is looked up
        // there too early would be missed.
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let logged = metrics.membership_config.membership().get_node(&leader).map(|node| Arc::clone(&node.0));
        let node = node_id(leader);
        Some(LeaderInfo { node, address: self.addresses.of(node, &logged.unwrap_or_default()) })
    }

    /// Completes when somebody else leads than `than`, or nobody; returns who. Never completes once Raft has ended, which is told
    /// by [`Node::failed`]: whoever waits again and again would turn in a circle.
    pub async fn leader_changed(&self, than: Option<&LeaderInfo>) -> Option<LeaderInfo> {
        let mut metrics = self.raft.server_metrics();
        loop {
            drop(metrics.borrow_and_update());
            let leader = self.leader();
            if leader.as_ref() != than {
                return leader;
            }
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// All nodes that take part, with the addresses of their peer listeners; voters are marked.
    #[must_use]
    pub fn members(&self) -> BTreeMap<NodeId, (Arc<str>, bool)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let member = |(id, node): (&u64, &PeerAddress)| {
            let address = self.addresses.of(node_id(*id), &node.0);
            (node_id(*id), (address, voters.contains(id)))
        };
        membership.nodes().map(member).collect()
    }

    /// Returns once a quorum has confirmed, after this call began, that this node leads; with the index up to which
    /// everything was committed by then.
    pub async fn confirm_leadership(&self) -> Result<LogIndex, QuorumError> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Ok(LogIndex(read.log_id().index)),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => Err(not_leader(to)),
            Err(error) => Err(QuorumError::Indeterminate(error.to_string())),
        }
    }

    /// Follows `node` up from now on, at `address`: it gets the log, and no vote unless it has one already. Idempotent.
    pub async fn follow_up(&self, node: NodeId, address: &Arc<str>) -> Result<(), QuorumError> {
        let id = raft_id(node).map_err(|error| QuorumError::Invalid(error.to_string()))?;
        let known = self.logged_address(id);
        if known.as_ref() == Some(address) && self.is_leader() {
            return Ok(());
        }
        let peer = PeerAddress(Arc::clone(address));
        let written = match known {
            None => self.raft.add_learner(id, peer, false).await,
            Some(_) => self.raft.change_membership(ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])), true).await,
        };
        written.map(drop).map_err(write_error)
    }

    pub(super) fn logged_address(&self, id: u64) -> Option<Arc<str>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&id).map(|node| Arc::clone(&node.0))
    }

    /// Writes down where members are now, if this node leads and the log still has them elsewhere.
    pub async fn correct_addresses(&self) -> Result<(), QuorumError> {
        for (node, (address, _)) in self.members() {
            self.follow_up(node, &address).await?;
        }
        Ok(())
    }

    /// Gives `node`, which is followed up already, a vote.
    pub async fn add_voter(&self, node: NodeId) -> Result<(), QuorumError> {
        let id = raft_id(node).map_err(|error| QuorumError::Invalid(error.to_string()))?;
        if !self.members().contains_key(&node) {
            return Err(QuorumError::Invalid(format!("node {node} has not joined this cluster")));
        }
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.raft.change_membership(change, true).await.map(drop).map_err(write_error)
    }

    /// Takes the vote of `node` away; it is still followed up.
    pub async fn remove_voter(&self, node: NodeId) -> Result<(), QuorumError> {
        let id = raft_id(node).map_err(|error| QuorumError::Invalid(error.to_string()))?;
        match self.members().get(&node) {
            Some((_, true)) => {}
            _ => return Err(QuorumError::Invalid(format!("node {node} does not vote"))),
        }
        let change = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
        self.raft.change_membership(change, true).await.map(drop).map_err(write_error)
    }

    /// Forgets a node that does not vote.
    pub async fn forget(&self, node: NodeId) -> Result<(), QuorumError> {
        let id = raft_id(node).map_err(|error| QuorumError::Invalid(error.to_string()))?;
        match self.members().get(&node) {
            None => return Ok(()),
            Some((_, true)) => {
                return Err(QuorumError::Invalid(format!("node {node} votes: take its vote away first")));
            }
            Some(_) => {}
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        self.raft.change_membership(change, true).await.map(drop).map_err(write_error)
    }

    /// Has another voter lead instead of this node, if this one leads: before it stops, so that metadata goes on meanwhile. Returns
    /// who leads when that is known here, `None` if nobody took over within `at_most`; then this node goes on leading.
    pub async fn step_down(&self, at_most: Duration) -> Option<NodeId> {
        let handed_over = async {
            let own = self.leader().filter(|_| self.is_leader());
            while own.is_some() && self.leader() == own {
                self.ask_to_succeed().await?;
                let _ = tokio::time::timeout(SUCCESSION_RETRY, self.leader_changed(own.as_ref())).await;
            }
            match self.leader() {
                Some(leader) => Some(leader.node),
                None => Some(self.leader_changed(None).await?.node),
            }
        };
        tokio::time::timeout(at_most, handed_over).await.ok().flatten()
    }

    /// Asks the voter that is furthest, for nobody votes for one whose log is behind, to stand for election; `None` if there is none.
    async fn ask_to_succeed(&self) -> Option<()> {
        let quorum = self.submitter.quorum();
        let others = quorum.voters.iter().filter(|voter| Some(voter.node) != quorum.leader);
        let next = others.max_by_key(|voter| voter.log_end)?.node;
        let (address, _) = self.members().remove(&next)?;
        let request = Request::Succeed { vote: types::vote(&self.raft.server_metrics().borrow_watched().vote) };
        let asked = tokio::time::timeout(SUCCESSION_RETRY, self.submitter.ask(next, &address, &request));
        if let Ok(Err(error)) = asked.await {
            tracing::debug!(%next, %error, "it does not take over the lead of metadata");
        }
        Some(())
    }

    /// The connection from the leader ended, so it is probably dead: its lease on this voter's vote is given up, and with
    /// `stand` this node stands for election at once. If the leader lives after all, that costs an election and no more.
    pub async fn leader_lost(&self, leader: NodeId, stand: bool) {
        let request = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            if metrics.current_leader.map(node_id) != Some(leader) || metrics.current_leader == Some(metrics.id) {
                return;
            }
            // Whoever is not the one named only gives the lease up.
            let next = if stand { metrics.id } else { u64::MAX };
            TransferLeaderRequest::new(metrics.vote, next, None)
        };
        if let Err(error) = self.raft.handle_transfer_leader(request).await {
            tracing::debug!(%error, "the loss of the metadata leader could not be followed up");
        }
    }
}

fn not_leader(to: ForwardToLeader<TypeConfig>) -> QuorumError {
    let node = to.leader_id.map(node_id).zip(to.leader_node);
    QuorumError::NotLeader(node.map(|(node, PeerAddress(address))| LeaderInfo { node, address }))
}

fn write_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> QuorumError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => not_leader(to),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => QuorumError::Invalid(error.to_string()),
        error => QuorumError::Indeterminate(error.to_string()),
    }
}
