//! A node's part in the metadata quorum: its peer listener, Raft, the way into a cluster.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use common::supervisor::Supervisor;
use common::{LogIndex, NodeId};
use futures::FutureExt as _;
use metadata::log::RaftLogStore;
use metadata::raft::{LeaderInfo, NoPeers, RaftTransport};
use metadata::{MetadataClient, Node, NodeConfig, QuorumState};

use super::backup::Backup;
use super::balancing::Balancing;
use super::controller::Controller;
use super::doubt::{Doubts, PeerWatch};
use super::loads::Loads;
use super::peer::messages::{
    AppliedRequest, JoinAnswer, JoinRequest, Peer, QuorumAnswer, QuorumChange, QuorumRequest, decode, encode,
};
use super::peer::{Identity, Kind, Lane, PeerListener, PeerService, Peers, serve};
use super::service::Service;
use crate::config::BrokerConfig;
use crate::machine::Machine;
use crate::start::StartError;

/// How long one question to a peer may take on the way into the cluster.
const JOIN_DEADLINE: Duration = Duration::from_secs(3);
/// How long the answer to a change of metadata waits for brokers that have not heard of it.
const KNOWN_WAIT: Duration = Duration::from_secs(1);
/// How long an election may take that a leader calls before it stops.
const STEP_DOWN_WAIT: Duration = Duration::from_secs(1);
/// Pause between rounds of questions.
const JOIN_PAUSE: Duration = Duration::from_millis(200);
/// A node of several waits so long for the others, telling so now and then.
const QUORUM_PATIENCE: Duration = Duration::from_secs(24 * 3600);
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Voters stand for election one after the other when the leader's connections break.
const STAND_STEP: Duration = Duration::from_millis(150);

/// Why a change of the quorum is not known to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuorumChangeError {
    /// It makes no sense. Nothing was changed.
    Refused(String),
    /// Nobody who leads has answered.
    Unanswered(String),
}

/// See the module.
pub struct Member {
    /// This node.
    pub node: NodeId,
    /// Raft.
    pub raft: Arc<Node>,
    /// Image and commands.
    pub metadata: MetadataClient,
    /// The way to the other nodes.
    pub peers: Peers,
    /// What they are answered.
    pub service: Arc<Service>,
    /// The controller, which is active while this node leads.
    pub controller: Arc<Controller>,
    /// Spreads leaders, while this node is the active controller.
    pub balancing: Arc<Balancing>,
    /// Which of its peers may be gone.
    pub doubts: Arc<Doubts>,
    /// What this broker's partitions carry, to be told.
    pub loads: Arc<Loads>,
    /// Copies metadata to the object store, while this node is the active controller.
    pub backup: Arc<Backup>,
    /// Who this node is to its peers.
    pub identity: Identity,
    /// Where peers reach it; empty if nowhere.
    pub address: Arc<str>,
}

impl Member {
    /// Starts Raft, joins the cluster if this node founds none, and returns when the image is current.
    pub async fn start(
        config: &BrokerConfig,
        cluster_id: &str,
        machine: &dyn Machine,
        supervisor: &Supervisor,
    ) -> Result<Self, StartError> {
        let (node, clock) = (config.node_id, machine.clock());
        let identity = Identity { node, cluster_id: Arc::new(ArcSwap::from_pointee(cluster_id.to_owned())) };
        let doubts = Arc::new(Doubts::new(Arc::clone(&clock), config.quorum.session_timeout));
        let service = Arc::new(Service::new(identity.clone(), Arc::clone(&doubts)));
        let answers: Arc<dyn PeerService> = Arc::clone(&service) as _;
        let peers = Peers::new(identity.clone(), &answers, Arc::clone(&clock), machine.random());
        let address = listen(config, &identity, answers, supervisor).await?;
        let metadata_error = |error: &dyn std::fmt::Display| StartError::Metadata(format!("metadata: {error}"));
        let directory = config.data_dir.join(crate::restore::RAFT);
        let log = machine.raft_log(directory).await.map_err(|error| metadata_error(&error))?;
        let founds = config.quorum.founds(node) && !lost_its_log(config, cluster_id, &*log)?;
        let transport: Arc<dyn RaftTransport> = match config.quorum.peer {
            Some(_) => Arc::new(peers.clone()),
            None => Arc::new(NoPeers),
        };
        let announce = {
            let service = Arc::clone(&service);
            move |raft| service.raft_started(raft)
        };
        let raft = raft_config(config, founds);
        let started = Node::start_announced(raft, log, transport, Arc::clone(&clock), announce);
        let joining = join(config, founds, &address, &peers, &identity);
        let (raft, metadata) = tokio::select! {
            started = started => started.map_err(|error| metadata_error(&error))?,
            never = joining => match never {},
        };
        let controller = Controller::new(config, &raft, &metadata, &peers, &clock);
        let backup = Backup::new(&raft, &metadata, &controller, &clock, config.quorum.backup_interval);
        service.joined(metadata.clone(), Arc::clone(&controller));
        let losses = follow_losses(Arc::clone(&service), Arc::clone(&raft), Arc::clone(&controller), node);
        supervisor.spawn_until_stopped("lost peers", losses);
        let watch = PeerWatch {
            node,
            metadata: metadata.clone(),
            peers: peers.clone(),
            doubts: Arc::clone(&doubts),
            interval: config.quorum.heartbeat_interval,
        };
        supervisor.spawn_until_stopped("peer watch", watch.run());
        let control = Arc::clone(&controller);
        let balancing = Balancing::new(config.quorum.balance, control, metadata.clone(), peers.clone(), clock);
        let balancing = Arc::new(balancing);
        supervisor.spawn_until_stopped("balancer", Arc::clone(&balancing).run());
        supervisor.spawn_until_stopped("controller", Arc::clone(&controller).run());
        Ok(Self {
            node,
            raft,
            metadata,
            peers,
            service,
            controller,
            balancing,
            loads: Arc::default(),
            backup,
            doubts,
            identity,
            address,
        })
    }

    /// Before this node stops: another one leads the quorum, if one can, and every live broker knows what this one knows. The end of
    /// this one is then no reason for anybody to tell clients of leaders that were.
    pub async fn bow_out(&self) {
        let leader = self.raft.step_down(STEP_DOWN_WAIT).await;
        self.wait_known_everywhere().await;
        tracing::debug!(leader = ?leader, "nobody needs this node to know who leads");
    }

    /// Waits, at most a second, until every live broker has applied what this one has.
    pub async fn wait_known_everywhere(&self) {
        let image = self.metadata.image();
        let body = encode(&AppliedRequest { index: image.applied.0 });
        let others = image.nodes.values().filter(|node| node.id != self.node && !node.fenced);
        let asked = others.map(|other| {
            let body = body.clone();
            async move { self.peers.call(&other.peer, Lane::Control, Kind::Applied, body, KNOWN_WAIT).await.is_ok() }
        });
        // One that is just being lost does not hold up the answer for longer.
        let _ = futures::future::join_all(asked).await;
    }

    /// The quorum as its leader sees it, whoever that is; as this node does where no leader answers in time.
    pub async fn quorum(&self, deadline: Duration) -> QuorumState {
        let own = self.metadata.quorum();
        if own.is_leader {
            return own;
        }
        let request = encode(&QuorumRequest { change: QuorumChange::None as i32, node: -1 });
        let answer = self.ask_leader(Kind::Quorum, request, deadline).await.and_then(decode::<QuorumAnswer>);
        answer.ok().and_then(|answer| answer.state).map_or(own, Into::into)
    }

    /// Changes who takes part in Raft.
    ///
    /// # Errors
    /// No leader answers in time, or the reason why it was not done.
    pub async fn change_quorum(
        &self,
        change: QuorumChange,
        node: NodeId,
        deadline: Duration,
    ) -> Result<(), QuorumChangeError> {
        let request = encode(&QuorumRequest { change: change as i32, node: node.0 });
        let answer = self.ask_leader(Kind::Quorum, request, deadline).await.and_then(decode::<QuorumAnswer>);
        match answer {
            Ok(QuorumAnswer { done: true, .. }) => Ok(()),
            Ok(QuorumAnswer { leader: None, reason, .. }) => Err(QuorumChangeError::Refused(reason)),
            Ok(QuorumAnswer { reason, .. }) | Err(reason) => Err(QuorumChangeError::Unanswered(reason)),
        }
    }

    /// The index up to which everything was committed at a moment after this call.
    pub(super) async fn read_index(&self, deadline: Duration) -> Result<LogIndex, String> {
        let answer = self.ask_leader(Kind::ReadIndex, bytes::Bytes::new(), deadline).await?;
        Ok(LogIndex(decode::<AppliedRequest>(answer)?.index))
    }

    /// Asks who leads, there, until it is done or refused.
    pub async fn ask_leader(&self, kind: Kind, body: bytes::Bytes, deadline: Duration) -> Result<bytes::Bytes, String> {
        let leader = self.raft.leader().ok_or("no controller is active")?;
        if leader.node == self.node {
            let asked = tokio::time::timeout(deadline, self.service.answer(self.node, kind, body)).await;
            return asked.map_err(|_| "no answer in time".to_owned())?;
        }
        let asked = self.peers.call(&leader.address, Lane::Control, kind, body, deadline).await;
        asked.map_err(|error| error.to_string())?
    }
}

/// Whether this node was a member before and its log is gone, be it that the disk was lost or that metadata was restored
/// elsewhere. Such a one must not found a cluster: others of its kind would make a new and empty quorum with it, beside the one
/// that has the data. It waits until a leader follows it up.
fn lost_its_log(config: &BrokerConfig, cluster_id: &str, log: &dyn RaftLogStore) -> Result<bool, StartError> {
    let bounds = log.bounds();
    if cluster_id.is_empty() || bounds.vote.is_some() || bounds.last.is_some() {
        return Ok(false);
    }
    let place = config.data_dir.join(crate::restore::RAFT);
    let reason = format!("this node belongs to cluster {cluster_id}, and its metadata log {} is gone", place.display());
    if config.quorum.contacts(config.node_id).is_empty() {
        let advice = "put it back, or make it from a copy in the object store with `ottla metadata restore`";
        return Err(StartError::Metadata(format!("{reason}: {advice}")));
    }
    tracing::warn!("{reason}: it waits for the quorum, and gets it from there");
    Ok(true)
}

fn raft_config(config: &BrokerConfig, founds: bool) -> NodeConfig {
    let voters = if founds { config.quorum.first_voters(config.node_id) } else { Vec::new() };
    let alone = config.quorum.peer.is_none();
    let single = NodeConfig::single(config.node_id);
    NodeConfig {
        voters,
        election_timeout: config.quorum.election_timeout,
        heartbeat: config.quorum.election_timeout / 5,
        start_timeout: if alone { single.start_timeout } else { QUORUM_PATIENCE },
        ..single
    }
}

/// Binds the peer listener, if there is one, and serves it; returns its address.
async fn listen(
    config: &BrokerConfig,
    identity: &Identity,
    service: Arc<dyn PeerService>,
    supervisor: &Supervisor,
) -> Result<Arc<str>, StartError> {
    let Some(peer) = &config.quorum.peer else { return Ok(Arc::default()) };
    let bound = PeerListener::bind(&peer.host, peer.port, Some(&peer.told_host)).await;
    let address = format!("{}:{}", peer.host, peer.port);
    let listener = bound.map_err(|source| StartError::Listen { address, source })?;
    let told = if peer.port == 0 { listener.address().to_owned() } else { peer.told.clone() };
    supervisor.spawn("peer listener", serve(listener, identity.clone(), service, supervisor.stop_signal()));
    Ok(told.into())
}

/// Asks until somebody follows this node up; then only waits. A founder is followed up by the membership it made.
async fn join(
    config: &BrokerConfig,
    founds: bool,
    address: &Arc<str>,
    peers: &Peers,
    identity: &Identity,
) -> std::convert::Infallible {
    let contacts = config.quorum.contacts(config.node_id);
    let body = encode(&JoinRequest { peer: Some(Peer { node: config.node_id.0, address: address.to_string() }) });
    let mut told = tokio::time::interval(TELL_EVERY);
    told.tick().await;
    let mut joined = founds;
    loop {
        if !joined {
            joined = ask_around(&contacts, &body, peers, identity).await;
        }
        if !config.quorum.contacts(config.node_id).is_empty() && told.tick().now_or_never().is_some() {
            let asked: Vec<&str> = contacts.iter().map(AsRef::as_ref).collect();
            tracing::info!(joined, contacts = asked.join(", "), "waiting for the metadata quorum");
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

async fn ask_around(contacts: &[Arc<str>], body: &bytes::Bytes, peers: &Peers, identity: &Identity) -> bool {
    let mut queue: Vec<Arc<str>> = contacts.iter().rev().cloned().collect();
    // A contact may name the leader, which is asked next; nobody is asked more than twice.
    for _ in 0..2 * contacts.len() + 1 {
        let Some(contact) = queue.pop() else { return false };
        let asked = peers.call(&contact, Lane::Control, Kind::Join, body.clone(), JOIN_DEADLINE).await;
        let answer = match asked {
            Ok(Ok(answer)) => decode::<JoinAnswer>(answer),
            Ok(Err(reason)) => Err(reason),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(answer) => {
                if !answer.cluster_id.is_empty() && identity.cluster_id.load().is_empty() {
                    identity.cluster_id.store(Arc::new(answer.cluster_id));
                }
                if answer.joined {
                    return true;
                }
                queue.extend(answer.leader.map(|leader| Arc::from(leader.address)));
            }
            Err(reason) => tracing::debug!(%contact, reason, "not joined there"),
        }
    }
    false
}

/// Hastens what the loss of a peer calls for: an election, a look after a broker.
async fn follow_losses(
    service: Arc<Service>,
    raft: Arc<Node>,
    controller: Arc<Controller>,
    node: NodeId,
) -> std::convert::Infallible {
    loop {
        service.loss.notified().await;
        for lost in service.take_lost() {
            controller.suspect(lost);
            if let Some(leader) = raft.leader().filter(|leader| leader.node == lost && lost != node) {
                stand_in_turn(&raft, &leader, node).await;
            }
        }
    }
}

/// Every voter gives the lost leader up; they stand for election one after the other, so that votes are not split.
async fn stand_in_turn(raft: &Node, lost: &LeaderInfo, node: NodeId) {
    let voters: Vec<NodeId> = raft.members().into_iter().filter(|(_, (_, votes))| *votes).map(|(id, _)| id).collect();
    let Some(rank) = voters.iter().filter(|voter| **voter != lost.node).position(|voter| *voter == node) else {
        return;
    };
    if rank > 0 {
        raft.leader_lost(lost.node, false).await;
        let turn = STAND_STEP * u32::try_from(rank).unwrap_or(u32::MAX);
        if tokio::time::timeout(turn, raft.leader_changed(Some(lost))).await.is_ok() {
            return;
        }
    }
    raft.leader_lost(lost.node, true).await;
}
