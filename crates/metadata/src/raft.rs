//! Raft around the state machine. openraft's types end at this module's edge.

mod addresses;
mod log_storage;
mod machine;
mod network;
mod node;
mod quorum;
pub(crate) mod suite;
mod transport;
mod types;

#[cfg(test)]
mod tests;

pub(crate) use node::raft_id;
pub use node::{Node, NodeConfig, QuorumReplica, QuorumState, StartError};
pub use quorum::{LeaderInfo, QuorumError};
pub use transport::{NoPeers, RaftTransport, TransportError};
pub(crate) use types::{EntryBody, Membership};

pub(crate) use node::Submitter;
