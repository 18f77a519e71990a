//! openraft's types for this state machine, and conversions to ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::vote::RaftLeaderId as _;

use crate::command::{Command, Outcome};
use crate::log::{EntryId, Vote};
use crate::wire::{self, WireError};

openraft::declare_raft_types!(
    /// Raft of cluster metadata.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = PeerAddress,
        AsyncRuntime = openraft::impls::TokioRuntime,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type RaftEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type RaftVote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type RaftMembership = openraft::Membership<u64, PeerAddress>;

/// Where a node's peer listener is: `host:port`; empty where the log was written before it said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerAddress(pub(crate) Arc<str>);

/// A command on its way through Raft, encoded once by its submitter.
#[derive(Clone)]
pub(crate) struct Proposal {
    pub(crate) now_ms: i64,
    pub(crate) command: Arc<Command>,
    /// The whole entry body, as the log stores it.
    pub(crate) encoded: Bytes,
}

impl Proposal {
    pub(crate) fn new(now_ms: i64, command: Command) -> Self {
        let command = Arc::new(command);
        let encoded = wire::encode_entry(&EntryBody::Command { now_ms, command: Arc::clone(&command) });
        Self { now_ms, command, encoded }
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.command)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {} ms", self.encoded.len(), self.now_ms)
    }
}

/// What an applied entry brought about; nothing for entries that are not commands.
#[derive(Clone, Debug)]
pub(crate) struct Applied(pub(crate) Option<Outcome>);

/// The body of a log entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EntryBody {
    /// A new leader's first entry.
    Blank,
    /// Who votes.
    Membership(Membership),
    /// A command, with the wall time its submitter stamped on it.
    Command { now_ms: i64, command: Arc<Command> },
}

/// Who takes part in Raft.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Voter sets; two while they change.
    pub(crate) voters: Vec<BTreeSet<u64>>,
    /// All nodes, learners among them, with the addresses of their peer listeners.
    pub(crate) nodes: BTreeMap<u64, Arc<str>>,
}

impl From<&RaftMembership> for Membership {
    fn from(from: &RaftMembership) -> Self {
        Self {
            voters: from.get_joint_config().clone(),
            nodes: from.nodes().map(|(id, node)| (*id, Arc::clone(&node.0))).collect(),
        }
    }
}

impl From<Membership> for RaftMembership {
    fn from(from: Membership) -> Self {
        let Membership { voters, mut nodes } = from;
        // A voter without an address, or no voter at all, is what logs of the first version hold.
        for voter in voters.iter().flatten() {
            nodes.entry(*voter).or_default();
        }
        let ids: Vec<u64> = nodes.keys().copied().collect();
        let nodes: BTreeMap<u64, PeerAddress> =
            nodes.into_iter().map(|(id, address)| (id, PeerAddress(address))).collect();
        Self::new(voters.clone(), nodes).unwrap_or_else(|_| Self::new_with_defaults(voters, ids))
    }
}

pub(crate) fn entry_id(from: &LogId) -> EntryId {
    EntryId { term: from.leader_id.term, node: from.leader_id.node_id, index: from.index }
}

pub(crate) fn log_id(from: EntryId) -> LogId {
    LogId::new(LeaderId::new(from.term, from.node), from.index)
}

pub(crate) fn vote(from: &RaftVote) -> Vote {
    Vote { term: from.leader_id.term, node: from.leader_id.node_id, committed: from.committed }
}

pub(crate) fn raft_vote(from: Vote) -> RaftVote {
    RaftVote { leader_id: LeaderId::new(from.term, from.node), committed: from.committed }
}

/// The stored form of an entry's body.
pub(crate) fn encode_payload(entry: &RaftEntry) -> Bytes {
    match &entry.payload {
        openraft::EntryPayload::Blank => wire::encode_entry(&EntryBody::Blank),
        openraft::EntryPayload::Normal(proposal) => proposal.encoded.clone(),
        openraft::EntryPayload::Membership(membership) => wire::encode_entry(&EntryBody::Membership(membership.into())),
    }
}

/// An entry from its stored form.
pub(crate) fn decode_record(id: EntryId, payload: Bytes) -> Result<RaftEntry, WireError> {
    let payload = match wire::decode_entry(payload.clone())? {
        EntryBody::Blank => openraft::EntryPayload::Blank,
        EntryBody::Membership(membership) => openraft::EntryPayload::Membership(membership.into()),
        EntryBody::Command { now_ms, command } => {
            openraft::EntryPayload::Normal(Proposal { now_ms, command, encoded: payload })
        }
    };
    Ok(RaftEntry { log_id: log_id(id), payload })
}
