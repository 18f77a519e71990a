//! What peers ask and answer beside Raft's own messages. Fields are only ever added; an absent one has the meaning it had
//! before there was one.

use std::sync::Arc;

use bytes::Bytes;
use common::{LogIndex, NodeId};
use metadata::raft::LeaderInfo;
use metadata::{QuorumReplica, QuorumState};
use prost::Message;

/// A message from its bytes, for whoever asked or was asked.
pub fn decode<M: Message + Default>(body: Bytes) -> Result<M, String> {
    M::decode(body).map_err(|error| format!("a message of a peer makes no sense: {error}"))
}

/// The bytes of a message.
pub fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// A node and its peer listener.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Peer {
    /// The node.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// `host:port`.
    #[prost(string, tag = "2")]
    pub address: String,
}

impl From<LeaderInfo> for Peer {
    fn from(leader: LeaderInfo) -> Self {
        Self { node: leader.node.0, address: leader.address.to_string() }
    }
}

/// [`Kind::Join`](super::Kind::Join): the sender wants to be followed up at this address.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct JoinRequest {
    /// The node that joins.
    #[prost(message, optional, tag = "1")]
    pub peer: Option<Peer>,
}

/// Its answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct JoinAnswer {
    /// Whether the log comes from now on; else ask the leader.
    #[prost(bool, tag = "1")]
    pub joined: bool,
    /// Who leads, if the answering node knows.
    #[prost(message, optional, tag = "2")]
    pub leader: Option<Peer>,
    /// The cluster's id, if it has one yet.
    #[prost(string, tag = "3")]
    pub cluster_id: String,
}

/// [`Kind::Heartbeat`](super::Kind::Heartbeat): a broker wants to serve on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HeartbeatRequest {
    /// The broker.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// Its life.
    #[prost(uint64, tag = "2")]
    pub node_epoch: u64,
    /// Index of metadata up to which it has applied.
    #[prost(uint64, tag = "3")]
    pub applied: u64,
    /// What partitions that it leads carry: those whose turn it is. Others stay as they were told.
    #[prost(message, repeated, tag = "4")]
    pub loads: Vec<Load>,
}

/// What a partition carries, per second.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Load {
    /// Its stream.
    #[prost(uint64, tag = "1")]
    pub stream: u64,
    /// Bytes produced.
    #[prost(uint64, tag = "2")]
    pub bytes_in: u64,
    /// Bytes fetched.
    #[prost(uint64, tag = "3")]
    pub bytes_out: u64,
    /// Requests that touched it.
    #[prost(uint64, tag = "4")]
    pub requests: u64,
}

/// What becomes of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Verdict {
    /// The answering node does not lead, or is not sure: ask again.
    NotLeader = 0,
    /// A lease from the sending of the heartbeat on.
    Granted = 1,
    /// This life of the node is over: it must start a new one.
    Fenced = 2,
    /// No lease for now: the node is being taken for lost.
    Suspected = 3,
}

/// Its answer.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct HeartbeatAnswer {
    /// See [`Verdict`].
    #[prost(enumeration = "Verdict", tag = "1")]
    pub verdict: i32,
    /// Length of the lease, ms.
    #[prost(uint64, tag = "2")]
    pub lease_ms: u64,
}

/// [`Kind::Seal`](super::Kind::Seal): end the log of a node that is taken for lost.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SealRequest {
    /// Identity of the log, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub wal: Bytes,
    /// Where it lies, as a URL.
    #[prost(string, tag = "2")]
    pub location: String,
    /// The owner's lease has run out: seal although it may live.
    #[prost(bool, tag = "3")]
    pub lease_expired: bool,
    /// Index of metadata that the sealer must have applied first.
    #[prost(uint64, tag = "4")]
    pub applied: u64,
}

/// What a sealed log holds of a stream above its committed end.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Tail {
    /// The stream.
    #[prost(uint64, tag = "1")]
    pub stream: u64,
    /// End (exclusive) of its records.
    #[prost(int64, tag = "2")]
    pub end: i64,
}

/// How sealing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SealOutcome {
    /// It failed, for a reason that is told.
    Failed = 0,
    /// It is sealed.
    Sealed = 1,
    /// Its owner lives.
    Alive = 2,
    /// It cannot be reached from the answering node.
    NotReachable = 3,
}

/// Its answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SealAnswer {
    /// See [`SealOutcome`].
    #[prost(enumeration = "SealOutcome", tag = "1")]
    pub outcome: i32,
    /// Where the log ends, if sealed.
    #[prost(uint64, tag = "2")]
    pub end: u64,
    /// What it holds that no object does.
    #[prost(message, repeated, tag = "3")]
    pub tails: Vec<Tail>,
    /// For the operator, if not sealed.
    #[prost(string, tag = "4")]
    pub reason: String,
}

/// [`Kind::Applied`](super::Kind::Applied): answer when metadata is applied up to an index. The answer is empty.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AppliedRequest {
    /// The index.
    #[prost(uint64, tag = "1")]
    pub index: u64,
}

/// One stream's tail.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HandOverEntry {
    /// The epoch that is reserved for it.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// An encoded [`s3stream::HandOver`].
    #[prost(bytes = "bytes", tag = "2")]
    pub tail: Bytes,
}

/// [`Kind::HandOver`](super::Kind::HandOver): have these tails durable.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HandOverRequest {
    /// The life of the node that is asked.
    #[prost(uint64, tag = "1")]
    pub node_epoch: u64,
    /// The tails.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<HandOverEntry>,
    /// Whoever asks reads which tails were refused. Without this, as brokers of the first version ask, all are taken or none.
    #[prost(bool, tag = "3")]
    pub reads_refusals: bool,
}

/// Its answer: all other tails are durable. Brokers of the first version answer nothing: they have taken all.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HandOverAnswer {
    /// Streams whose tails were not taken.
    #[prost(uint64, repeated, tag = "1")]
    pub refused: Vec<u64>,
}

/// One partition that is to move.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Move {
    /// Its stream.
    #[prost(uint64, tag = "1")]
    pub stream: u64,
    /// Its new leader.
    #[prost(int32, tag = "2")]
    pub target: i32,
}

/// [`Kind::Move`](super::Kind::Move): give these partitions away.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MoveRequest {
    /// The life of the node that is asked.
    #[prost(uint64, tag = "1")]
    pub node_epoch: u64,
    /// The partitions.
    #[prost(message, repeated, tag = "2")]
    pub moves: Vec<Move>,
}

/// Its answer.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MoveAnswer {
    /// How many went.
    #[prost(uint64, tag = "1")]
    pub moved: u64,
}

/// What is asked of the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum QuorumChange {
    /// Nothing: only tell how it is.
    None = 0,
    /// Give a node a vote.
    AddVoter = 1,
    /// Take its vote away.
    RemoveVoter = 2,
    /// Forget a node that does not vote.
    Forget = 3,
}

/// [`Kind::Quorum`](super::Kind::Quorum): change who takes part in Raft.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct QuorumRequest {
    /// See [`QuorumChange`].
    #[prost(enumeration = "QuorumChange", tag = "1")]
    pub change: i32,
    /// Whom.
    #[prost(int32, tag = "2")]
    pub node: i32,
}

/// Its answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct QuorumAnswer {
    /// Whether it was done.
    #[prost(bool, tag = "1")]
    pub done: bool,
    /// Who leads, where that is somebody else.
    #[prost(message, optional, tag = "2")]
    pub leader: Option<Peer>,
    /// Why not.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// The quorum as the leader sees it, where that was asked for.
    #[prost(message, optional, tag = "4")]
    pub state: Option<QuorumView>,
}

/// The metadata quorum.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct QuorumView {
    /// Who leads.
    #[prost(int32, tag = "1")]
    pub leader: i32,
    /// Raft's term.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// End (exclusive) of what is committed.
    #[prost(uint64, tag = "3")]
    pub committed_end: u64,
    /// Nodes that vote.
    #[prost(message, repeated, tag = "4")]
    pub voters: Vec<ReplicaView>,
    /// Nodes that do not.
    #[prost(message, repeated, tag = "5")]
    pub observers: Vec<ReplicaView>,
}

/// One node's copy of the metadata log.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ReplicaView {
    /// The node.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// End (exclusive) of its log, 0 where that is not known.
    #[prost(uint64, tag = "2")]
    pub log_end: u64,
}

impl From<QuorumState> for QuorumView {
    fn from(from: QuorumState) -> Self {
        let view = |replica: &QuorumReplica| ReplicaView { node: replica.node.0, log_end: replica.log_end.0 };
        Self {
            leader: from.leader.map_or(-1, |leader| leader.0),
            term: from.term,
            committed_end: from.committed_end.0,
            voters: from.voters.iter().map(view).collect(),
            observers: from.observers.iter().map(view).collect(),
        }
    }
}

impl From<QuorumView> for QuorumState {
    /// What a leader has told.
    fn from(from: QuorumView) -> Self {
        let replica = |view: ReplicaView| QuorumReplica { node: NodeId(view.node), log_end: LogIndex(view.log_end) };
        Self {
            leader: Some(NodeId(from.leader)),
            is_leader: true,
            term: from.term,
            committed_end: LogIndex(from.committed_end),
            voters: from.voters.into_iter().map(replica).collect(),
            observers: from.observers.into_iter().map(replica).collect(),
        }
    }
}

/// A partition of a topic.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TopicPartition {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// The partition's index.
    #[prost(int32, tag = "2")]
    pub index: i32,
}

impl From<&(Arc<str>, i32)> for TopicPartition {
    fn from((topic, index): &(Arc<str>, i32)) -> Self {
        Self { topic: topic.to_string(), index: *index }
    }
}

impl From<TopicPartition> for (Arc<str>, i32) {
    fn from(from: TopicPartition) -> Self {
        (from.topic.into(), from.index)
    }
}

/// [`Kind::Markers`](super::Kind::Markers): end a producer's transaction on these partitions.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MarkersRequest {
    /// The producer.
    #[prost(int64, tag = "1")]
    pub producer_id: i64,
    /// The markers' epoch.
    #[prost(int32, tag = "2")]
    pub producer_epoch: i32,
    /// Commit, else abort.
    #[prost(bool, tag = "3")]
    pub commit: bool,
    /// Leader epoch of the coordinator's partition.
    #[prost(int32, tag = "4")]
    pub coordinator_epoch: i32,
    /// The `transaction.version` of the decision.
    #[prost(int32, tag = "5")]
    pub transaction_version: i32,
    /// Where.
    #[prost(message, repeated, tag = "6")]
    pub partitions: Vec<TopicPartition>,
}

/// Its answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MarkersAnswer {
    /// Kafka's code for each partition; 0 where the marker is durable.
    #[prost(int32, repeated, tag = "1")]
    pub codes: Vec<i32>,
}

/// [`Kind::VerifyTransaction`](super::Kind::VerifyTransaction): are partitions in a producer's open transaction?
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VerifyRequest {
    /// Whose transaction.
    #[prost(string, tag = "1")]
    pub transactional_id: String,
    /// Its producer.
    #[prost(int64, tag = "2")]
    pub producer_id: i64,
    /// The producer's epoch.
    #[prost(int32, tag = "3")]
    pub producer_epoch: i32,
    /// Which.
    #[prost(message, repeated, tag = "4")]
    pub partitions: Vec<TopicPartition>,
}

/// Its answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VerifyAnswer {
    /// Kafka's code for each partition; 0 where it is.
    #[prost(int32, repeated, tag = "1")]
    pub codes: Vec<i32>,
}
