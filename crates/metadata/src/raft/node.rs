//! One node's Raft: start, stop, requests of other nodes, and the way of a command to the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Clock, LogIndex, NodeId};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::{Config, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::addresses::{Addressed, Addresses};
use super::log_storage::LogStorage;
use super::machine::{Machine, snapshot_of};
use super::network::{Network, node_id};
use super::transport::{RaftTransport, TransportError};
use super::types::{self, PeerAddress, Proposal, TypeConfig};
use crate::client::{Images, MetadataClient, SubmitError};
use crate::command::{Command, Outcome};
use crate::log::{RaftLogStore, Vote};
use crate::wire::{AppendOutcome, Request, Response, SnapshotDecoder, WireError};

pub(crate) type RaftHandle = Raft<TypeConfig, Machine>;

/// Pause before a command is offered again while no leader is known.
const NO_LEADER_RETRY: Duration = Duration::from_millis(20);

/// How often the size of the log is looked at.
const SNAPSHOT_CHECK: Duration = Duration::from_secs(2);

/// Settings of a node's Raft.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub node: NodeId,
    /// The first voters of a cluster with the addresses of their peer listeners. Once the log says who votes, only the
    /// addresses count: they are taken for newer than those in the log, because voters that all have moved would never find
    /// each other to write that down. A node that is not among them makes no cluster: it waits until a leader follows it up.
    pub voters: Vec<(NodeId, Arc<str>)>,
    /// A follower that hears nothing for a time between this and twice this stands for election.
    pub election_timeout: Duration,
    /// Between the heartbeats of a leader; at most a third of the election timeout.
    pub heartbeat: Duration,
    /// How long a command may take before its outcome is declared unknown.
    pub submit_timeout: Duration,
    /// How long the start may wait for a leader and for the committed image, before it gives up.
    pub start_timeout: Duration,
    /// Bytes of log after which a snapshot is written and the log let go (later, if the last one was larger).
    pub snapshot_log_bytes: u64,
}

impl NodeConfig {
    /// Settings of a cluster of one, with Kafka's `controller.quorum.*` defaults where they exist.
    #[must_use]
    pub fn single(node: NodeId) -> Self {
        Self {
            node,
            voters: vec![(node, Arc::default())],
            election_timeout: Duration::from_millis(1000),
            heartbeat: Duration::from_millis(250),
            submit_timeout: Duration::from_secs(10),
            start_timeout: Duration::from_secs(30),
            snapshot_log_bytes: 8 << 20,
        }
    }
}

/// Why a node's Raft does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("metadata settings: {0}")]
    Config(String),
    /// The log or the snapshot cannot be used.
    #[error("metadata storage: {0}")]
    Storage(String),
    /// No leader was found, or its log not caught up with, in time.
    #[error("no metadata quorum: {0}")]
    NoQuorum(String),
}

/// One node's part in Raft. Ends with [`Node::stop`].
pub struct Node {
    pub(super) raft: RaftHandle,
    pub(super) submitter: Submitter,
    incoming: Mutex<Option<Incoming>>,
    snapshots: JoinHandle<()>,
    pub(super) addresses: Arc<Addresses>,
}

/// A snapshot that the leader is sending.
struct Incoming {
    transfer: u64,
    vote: Vote,
    next: u64,
    decoder: SnapshotDecoder,
}

impl Node {
    /// Starts Raft on `store` and returns when this node's image holds everything that was committed. A cluster
    /// of one elects itself at once.
    pub async fn start(
        config: NodeConfig,
        store: Arc<dyn RaftLogStore>,
        transport: Arc<dyn RaftTransport>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, MetadataClient), StartError> {
        Self::start_announced(config, store, transport, clock, |_| {}).await
    }

    /// As [`Self::start`]; `announce` gets the node as soon as it can answer other nodes, which is before it has
    /// caught up: with several voters nobody would find a leader otherwise.
    pub async fn start_announced(
        config: NodeConfig,
        store: Arc<dyn RaftLogStore>,
        transport: Arc<dyn RaftTransport>,
        clock: Arc<dyn Clock>,
        announce: impl FnOnce(Arc<Self>),
    ) -> Result<(Arc<Self>, MetadataClient), StartError> {
        let raft_config = raft_config(&config)?;
        let addresses = Arc::new(Addresses::new(&config.voters));
        let transport: Arc<dyn RaftTransport> = Arc::new(Addressed { addresses: Arc::clone(&addresses), transport });
        let images = Arc::new(Images::default());
        let log = LogStorage::new(Arc::clone(&store));
        let pristine = log.is_pristine();
        let machine = Machine::new(Arc::clone(&store), Arc::clone(&images));
        let id = raft_id(config.node)?;
        let network = Network { transport: Arc::clone(&transport) };
        let raft = RaftHandle::new(id, raft_config, network, log, machine)
            .await
            .map_err(|error| StartError::Storage(error.to_string()))?;
        let submitter = Submitter { raft: raft.clone(), store: Arc::clone(&store), transport };
        // Ended by the node, which holds it.
        #[allow(clippy::disallowed_methods)]
        let snapshots = tokio::spawn(snapshot_when_large(raft.clone(), Arc::clone(&store), config.snapshot_log_bytes));
        let node = Self { raft, submitter: submitter.clone(), incoming: Mutex::new(None), snapshots, addresses };
        let node = Arc::new(node);
        announce(Arc::clone(&node));
        if let Err(error) = node.join(&config, id, pristine).await {
            node.stop().await;
            return Err(error);
        }
        store.settle();
        let client = MetadataClient::new(images, submitter, clock, config.submit_timeout);
        Ok((node, client))
    }

    /// Returns when this node has applied all that was committed.
    async fn join(&self, config: &NodeConfig, id: u64, pristine: bool) -> Result<(), StartError> {
        if pristine && config.voters.iter().any(|(voter, _)| *voter == config.node) {
            initialize(&self.raft, config).await?;
        }
        elect_alone(&self.raft, id).await?;
        let recovered = self.raft.wait_for_recovery(Some(config.start_timeout)).await;
        recovered.map(drop).map_err(|error| StartError::NoQuorum(error.to_string()))
    }

    /// Completes when metadata has stopped by itself, with the reason: its log failed. The process should end,
    /// for nothing it knows of the cluster will be true for long.
    pub async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(error) = &metrics.borrow_and_update().running_state {
                return error.to_string();
            }
            if metrics.changed().await.is_err() {
                return "metadata has stopped".into();
            }
        }
    }

    /// Whether this node leads, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        // The same look at Raft as `leader`'s.
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.current_leader == Some(metrics.id)
    }

    /// Writes a snapshot now and lets the log go that it covers.
    pub async fn snapshot(&self) -> Result<(), StartError> {
        self.raft.trigger().snapshot().await.map_err(|error| StartError::Storage(error.to_string()))
    }

    /// Up to where the log is covered by a snapshot on this node's disk.
    #[must_use]
    pub fn snapshot_index(&self) -> Option<LogIndex> {
        self.raft.metrics().borrow_watched().snapshot.as_ref().map(|last| LogIndex(last.index))
    }

    /// Stops Raft and closes its log. What was submitted and has no outcome stays unknown.
    pub async fn stop(&self) {
        self.snapshots.abort();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "metadata did not stop cleanly");
        }
        self.submitter.store.close().await;
    }

    /// Answers a request that another node sent through its transport. Bytes that make no sense get an answer
    /// that says so.
    pub async fn handle(&self, request: Bytes) -> Bytes {
        let response = match Request::decode(request) {
            Ok(request) => self.respond(request).await.unwrap_or_else(Response::Failed),
            Err(error) => Response::Failed(error.to_string()),
        };
        response.encode()
    }

    async fn respond(&self, request: Request) -> Result<Response, String> {
        match request {
            Request::Append { vote, previous, committed, entries } => {
                let decode = |record: crate::log::LogRecord| types::decode_record(record.id, record.payload);
                let entries = entries.into_iter().map(decode).collect::<Result<_, WireError>>().map_err(text)?;
                let rpc = AppendEntriesRequest {
                    vote: types::raft_vote(vote),
                    prev_log_id: previous.map(types::log_id),
                    entries,
                    leader_commit: committed.map(types::log_id),
                };
                let outcome = self.raft.append_entries(rpc).await.map_err(text)?;
                Ok(Response::Appended(append_outcome(&outcome)))
            }
            Request::Vote { vote, last, pre, transfer } => {
                let mut rpc = VoteRequest::new(types::raft_vote(vote), last.map(types::log_id));
                rpc.leadership_transfer = transfer;
                let answer = if pre { self.raft.pre_vote(rpc).await } else { self.raft.vote(rpc).await };
                let answer = answer.map_err(text)?;
                Ok(Response::Voted {
                    vote: types::vote(&answer.vote),
                    granted: answer.vote_granted,
                    last: answer.last_log_id.as_ref().map(types::entry_id),
                })
            }
            Request::Snapshot { vote, transfer, sequence, chunk } => {
                self.take_snapshot(vote, transfer, sequence, chunk).await
            }
            Request::Submit { entry } => self.submit_forwarded(entry).await,
            Request::Succeed { vote } => {
                self.leader_lost(NodeId(i32::try_from(vote.node).map_err(text)?), true).await;
                Ok(Response::Stands)
            }
        }
    }

    /// Takes parts in order; one transfer at a time, a new one ends the one before.
    async fn take_snapshot(
        &self,
        vote: Vote,
        transfer: u64,
        sequence: u64,
        chunk: Option<Bytes>,
    ) -> Result<Response, String> {
        let complete = {
            let mut slot = self.incoming.lock();
            if sequence == 0 {
                *slot = Some(Incoming { transfer, vote, next: 0, decoder: SnapshotDecoder::default() });
            }
            let part = (transfer, vote, sequence);
            let fits = |incoming: &Incoming| (incoming.transfer, incoming.vote, incoming.next) == part;
            let mut incoming = slot.take().filter(fits).ok_or("this part of a snapshot was not expected")?;
            match chunk {
                Some(chunk) => {
                    incoming.decoder.push(chunk).map_err(text)?;
                    incoming.next += 1;
                    *slot = Some(incoming);
                    None
                }
                None => Some(incoming.decoder),
            }
        };
        let Some(decoder) = complete else { return Ok(Response::Snapshot { installed: None }) };
        let (head, image) = decoder.finish().map_err(text)?;
        let installed = self.raft.install_full_snapshot(types::raft_vote(vote), snapshot_of(head, image)).await;
        let vote = types::vote(&installed.map_err(text)?.vote);
        Ok(Response::Snapshot { installed: Some(vote) })
    }

    /// A command of another node: applied here if this node leads, never passed on again.
    async fn submit_forwarded(&self, entry: Bytes) -> Result<Response, String> {
        let body = crate::wire::decode_entry(entry.clone()).map_err(text)?;
        let types::EntryBody::Command { now_ms, command } = body else {
            return Ok(Response::Unavailable("only commands can be submitted".into()));
        };
        let proposal = Proposal { now_ms, command, encoded: entry };
        Ok(match self.submitter.write(proposal).await {
            Ok(Written::Applied(index, outcome)) => Response::Submitted { index: index.0, outcome },
            Ok(Written::NotLeader(_)) => Response::Unavailable("this node does not lead".into()),
            Err(SubmitError::Unavailable(reason)) => Response::Unavailable(reason),
            Err(SubmitError::Indeterminate(reason)) => Response::Failed(reason),
        })
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn append_outcome(from: &AppendEntriesResponse<TypeConfig>) -> AppendOutcome {
    match from {
        AppendEntriesResponse::Success => AppendOutcome::Success,
        AppendEntriesResponse::PartialSuccess(id) => AppendOutcome::Partial(id.as_ref().map(types::entry_id)),
        AppendEntriesResponse::Conflict => AppendOutcome::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendOutcome::HigherVote(types::vote(vote)),
    }
}

pub(crate) fn raft_id(node: NodeId) -> Result<u64, StartError> {
    u64::try_from(node.0).map_err(|_| StartError::Config(format!("a node id cannot be negative: {node}")))
}

fn raft_config(config: &NodeConfig) -> Result<Arc<Config>, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election = millis(config.election_timeout);
    let raft = Config {
        cluster_name: "metadata".into(),
        election_timeout_min: election,
        election_timeout_max: election.saturating_mul(2),
        heartbeat_interval: millis(config.heartbeat),
        // By bytes of log, not by entries: see `snapshot_when_large`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        enable_pre_vote: Some(true),
        // Other nodes may have entries of its term that it sent before it had them durable itself, and lost when it died. Back in the
        // same term it would give their ids to other entries, and nobody would ever see that logs differ.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    raft.validate().map(Arc::new).map_err(|error| StartError::Config(error.to_string()))
}

/// Every first voter does this; whoever comes second finds it done.
async fn initialize(raft: &RaftHandle, config: &NodeConfig) -> Result<(), StartError> {
    let voters = config.voters.iter().map(|(node, address)| Ok((raft_id(*node)?, PeerAddress(Arc::clone(address)))));
    let voters: BTreeMap<u64, PeerAddress> = voters.collect::<Result<_, StartError>>()?;
    match raft.initialize(voters).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(StartError::Config(error.to_string())),
    }
}

/// Whoever votes alone needs nobody's silence to stand for election.
async fn elect_alone(raft: &RaftHandle, id: u64) -> Result<(), StartError> {
    if raft.voter_ids().eq([id]) && !raft.is_leader() {
        raft.trigger().elect(false).await.map_err(|error| StartError::Storage(error.to_string()))?;
    }
    Ok(())
}

async fn snapshot_when_large(raft: RaftHandle, store: Arc<dyn RaftLogStore>, limit: u64) {
    let mut ticks = tokio::time::interval(SNAPSHOT_CHECK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A snapshot is not written before as much log as it is large, or a large image would be written over and
        // over for little news.
        if store.log_bytes() >= limit.max(store.snapshot_bytes())
            && let Err(error) = raft.trigger().snapshot().await
        {
            tracing::error!(%error, "metadata has stopped");
            return;
        }
    }
}

/// The quorum as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumState {
    /// Who leads; unknown during an election.
    pub leader: Option<NodeId>,
    /// Whether that is this node: only a leader knows how far the others are.
    pub is_leader: bool,
    /// Raft's term.
    pub term: u64,
    /// End (exclusive) of what is committed.
    pub committed_end: LogIndex,
    /// Nodes that vote.
    pub voters: Vec<QuorumReplica>,
    /// Nodes that follow without a vote.
    pub observers: Vec<QuorumReplica>,
}

/// One node's copy of the metadata log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumReplica {
    /// The node.
    pub node: NodeId,
    /// End (exclusive) of its log, 0 where that is not known.
    pub log_end: LogIndex,
}

/// The way of a command to the leader.
#[derive(Clone)]
pub(crate) struct Submitter {
    raft: RaftHandle,
    store: Arc<dyn RaftLogStore>,
    transport: Arc<dyn RaftTransport>,
}

enum Written {
    Applied(LogIndex, Outcome),
    /// Certainly not written here; perhaps this node leads.
    NotLeader(Option<(NodeId, Arc<str>)>),
}

impl Submitter {
    /// The quorum as this node sees it now.
    pub(crate) fn quorum(&self) -> QuorumState {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let replica = |id: u64| {
            let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&id)).cloned().flatten();
            let log_end = if id == metrics.id { metrics.last_log_index } else { matched.map(|id| id.index) };
            QuorumReplica { node: node_id(id), log_end: LogIndex(next(log_end)) }
        };
        let membership = metrics.membership_config.membership();
        QuorumState {
            leader: metrics.current_leader.map(node_id),
            is_leader: metrics.current_leader == Some(metrics.id),
            term: metrics.current_term,
            committed_end: LogIndex(next(metrics.local_committed.as_ref().map(|id| id.index))),
            voters: membership.voter_ids().map(replica).collect(),
            observers: membership.learner_ids().map(replica).collect(),
        }
    }

    pub(crate) fn propose(now_ms: i64, command: Command) -> Proposal {
        Proposal::new(now_ms, command)
    }

    /// Gets `proposal` committed and applied by the leader, whoever that is, within `timeout`.
    pub(crate) async fn submit(
        &self,
        proposal: Proposal,
        timeout: Duration,
    ) -> Result<(LogIndex, Outcome), SubmitError> {
        // Whether some leader may have the command: then nobody can tell that it was not applied.
        let under_way = AtomicBool::new(false);
        let until_answered = async {
            loop {
                under_way.store(true, Ordering::Relaxed);
                if let Some(applied) = self.attempt(proposal.clone()).await? {
                    return Ok(applied);
                }
                under_way.store(false, Ordering::Relaxed);
                tokio::time::sleep(NO_LEADER_RETRY).await;
            }
        };
        match tokio::time::timeout(timeout, until_answered).await {
            Ok(answer) => answer,
            Err(_) if under_way.load(Ordering::Relaxed) => Err(SubmitError::Indeterminate("no outcome in time".into())),
            Err(_) => Err(SubmitError::Unavailable("no leader was found in time".into())),
        }
    }

    /// `None`: certainly not applied, and no leader known.
    async fn attempt(&self, proposal: Proposal) -> Result<Option<(LogIndex, Outcome)>, SubmitError> {
        let entry = proposal.encoded.clone();
        match self.write(proposal).await? {
            Written::Applied(index, outcome) => Ok(Some((index, outcome))),
            Written::NotLeader(Some((leader, address))) => self.forward(leader, &address, entry).await,
            Written::NotLeader(None) => Ok(None),
        }
    }

    async fn write(&self, proposal: Proposal) -> Result<Written, SubmitError> {
        if self.store.is_stalled() {
            return Err(SubmitError::Unavailable("the disk of the metadata log is full".into()));
        }
        match self.raft.client_write(proposal).await {
            Ok(response) => {
                let index = LogIndex(response.log_id.index);
                let outcome = response.data.0.ok_or_else(|| SubmitError::Indeterminate("no outcome".into()))?;
                Ok(Written::Applied(index, outcome))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Ok(Written::NotLeader(to.leader_id.map(node_id).zip(to.leader_node.map(|node| node.0))))
            }
            Err(error) => Err(SubmitError::Indeterminate(error.to_string())),
        }
    }

    async fn forward(
        &self,
        leader: NodeId,
        address: &str,
        entry: Bytes,
    ) -> Result<Option<(LogIndex, Outcome)>, SubmitError> {
        match self.ask(leader, address, &Request::Submit { entry }).await {
            Ok(Response::Submitted { index, outcome }) => Ok(Some((LogIndex(index), outcome))),
            Ok(Response::Unavailable(_)) | Err(TransportError::Unreachable(_)) => Ok(None),
            Ok(_) => Err(SubmitError::Indeterminate("the leader's answer does not fit".into())),
            Err(TransportError::Lost(reason)) => Err(SubmitError::Indeterminate(reason)),
        }
    }

    /// Asks another node. That it failed there, and an answer that makes no sense, are as good as none.
    pub(super) async fn ask(&self, node: NodeId, address: &str, request: &Request) -> Result<Response, TransportError> {
        let answer = self.transport.call(node, address, request.encode()).await?;
        match Response::decode(answer) {
            Ok(Response::Failed(reason)) => Err(TransportError::Lost(reason)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(TransportError::Lost(error.to_string())),
        }
    }
}
