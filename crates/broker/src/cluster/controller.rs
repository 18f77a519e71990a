//! The active controller: grants leases, and ends the lives of brokers that are lost. Every voter runs one; it is active while
//! the node leads metadata, and knows nothing that its successor could not find out again.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::planted::{self, Bug};
use common::{Clock, LogIndex, NodeEpoch, NodeId, StreamId};
use metadata::balance::Traffic;
use metadata::{MetadataClient, MetadataImage, Node};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::fail_over::{Ended, FailOvers};
use super::one_each::OneEach;
use super::peer::Peers;
use super::peer::messages::{HeartbeatAnswer, HeartbeatRequest, Load, Verdict};
use super::sessions::{Sessions, Suspicion};
use crate::config::BrokerConfig;

/// How often sessions are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// See the module.
pub struct Controller {
    raft: Arc<Node>,
    metadata: MetadataClient,
    clock: Arc<dyn Clock>,
    lease: Duration,
    patience: Duration,
    /// `None` while this node does not lead.
    sessions: Mutex<Option<Sessions>>,
    /// What partitions carry, told since the balancer looked last. Bounded by the number of partitions.
    loads: Mutex<BTreeMap<StreamId, Traffic>>,
    /// Whose connections ended while this node did not lead: a node that dies with the controller on it is missed at once
    /// by the next one. Bounded by the number of nodes.
    missed: Mutex<BTreeSet<NodeId>>,
    confirmations: Confirmations,
    fail_overs: FailOvers,
    /// Somebody is suspected.
    look: Notify,
}

impl Controller {
    /// An inactive one.
    pub(super) fn new(
        config: &BrokerConfig,
        raft: &Arc<Node>,
        metadata: &MetadataClient,
        peers: &Peers,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            raft: Arc::clone(raft),
            metadata: metadata.clone(),
            clock: Arc::clone(clock),
            lease: config.quorum.session_timeout,
            patience: config.quorum.suspicion,
            sessions: Mutex::new(None),
            loads: Mutex::default(),
            missed: Mutex::default(),
            confirmations: Confirmations::default(),
            fail_overs: FailOvers::new(metadata.clone(), peers.clone(), Arc::clone(clock)),
            look: Notify::new(),
        })
    }

    /// Whether this node is the active controller.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.sessions.lock().is_some()
    }

    /// Brokers with a lease, where this node is the active controller.
    #[must_use]
    pub fn leases(&self) -> Option<usize> {
        self.sessions.lock().as_ref().map(|sessions| sessions.leased(self.clock.boot()))
    }

    /// Fail-overs: under way now, and done by this process.
    #[must_use]
    pub fn fail_overs(&self) -> (usize, u64) {
        self.fail_overs.counts()
    }

    /// Judges a heartbeat. The lease that is granted counts from before this was asked, and the quorum's confirmation from
    /// after: whoever leads next does so later than the lease began.
    pub(super) async fn heartbeat(&self, request: HeartbeatRequest) -> HeartbeatAnswer {
        let answer = |verdict: Verdict| HeartbeatAnswer {
            verdict: verdict as i32,
            lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
        };
        if !self.is_active() {
            return answer(Verdict::NotLeader);
        }
        let Some(committed) = self.confirmations.confirm(&self.raft).await else {
            return answer(Verdict::NotLeader);
        };
        if !self.metadata.wait_applied(committed).await {
            return answer(Verdict::NotLeader);
        }
        let (node, epoch) = (NodeId(request.node), NodeEpoch(request.node_epoch));
        let image = self.metadata.image();
        if !image.nodes.get(&node).is_some_and(|known| known.epoch == epoch && !known.fenced) {
            return answer(Verdict::Fenced);
        }
        self.hear(&image, node, &request.loads);
        match self.sessions.lock().as_mut().map(|sessions| sessions.heartbeat(node, epoch, self.clock.boot())) {
            None => answer(Verdict::NotLeader),
            Some(false) => answer(Verdict::Suspected),
            Some(true) => answer(Verdict::Granted),
        }
    }

    /// Whoever leads a partition knows what it carries.
    fn hear(&self, image: &MetadataImage, node: NodeId, told: &[Load]) {
        let mut loads = self.loads.lock();
        for load in told {
            let stream = StreamId(load.stream);
            if image.leader_of(stream) == Some(node) {
                let Load { bytes_in, bytes_out, requests, .. } = *load;
                loads.insert(stream, Traffic { bytes_in, bytes_out, requests });
            }
        }
    }

    /// What partitions carry, as far as it was told since the last call.
    pub(super) fn take_loads(&self) -> BTreeMap<StreamId, Traffic> {
        std::mem::take(&mut *self.loads.lock())
    }

    /// Ends a life, or does for a fenced node what was left undone when it was fenced; not before the quorum has confirmed that
    /// this node leads. A controller that was cut off believes everybody else to be lost, and could seal logs of brokers that live.
    pub(super) async fn end(&self, node: NodeId, epoch: NodeEpoch, suspicion: Suspicion) -> Ended {
        let leads = planted::is(Bug::SealUnconfirmed) || self.confirmations.confirm(&self.raft).await.is_some();
        if leads { self.fail_overs.end(node, epoch, suspicion).await } else { Ended::NotNow }
    }

    /// A connection of `node` ended.
    pub(super) fn suspect(&self, node: NodeId) {
        match self.sessions.lock().as_mut() {
            Some(sessions) => sessions.suspect(node),
            None => drop(self.missed.lock().insert(node)),
        }
        self.look.notify_one();
    }

    /// Looks after the brokers while this node leads.
    pub(super) async fn run(self: Arc<Self>) -> Infallible {
        let mut leader = self.raft.leader();
        loop {
            if self.raft.is_leader() {
                self.lead().await;
            }
            *self.sessions.lock() = None;
            leader = self.raft.leader_changed(leader.as_ref()).await;
        }
    }

    /// Up to where metadata was committed when this node began to lead, once the quorum has confirmed it and it is applied here. A
    /// quorum that does not answer now may do so later, and until another one leads nobody else grants leases.
    async fn confirmed(&self) -> Option<LogIndex> {
        while self.raft.is_leader() {
            match self.confirmations.confirm(&self.raft).await {
                Some(committed) if self.metadata.wait_applied(committed).await => return Some(committed),
                _ => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
        None
    }

    /// Returns when this node does not lead any more.
    async fn lead(&self) {
        let Some(committed) = self.confirmed().await else { return };
        let mut sessions = Sessions::new(self.lease, self.patience);
        sessions.sync(self.live(), self.clock.boot());
        std::mem::take(&mut *self.missed.lock()).into_iter().for_each(|node| sessions.suspect(node));
        *self.sessions.lock() = Some(sessions);
        tracing::info!(committed = committed.0, "this node is the active controller");
        if let Err(error) = self.raft.correct_addresses().await {
            tracing::warn!(%error, "the log of metadata still has old addresses of voters");
        }
        let mut fail_overs = OneEach::none();
        while self.raft.is_leader() {
            for (node, epoch, suspicion) in self.due() {
                fail_overs.begin(node, self.look_after(node, epoch, suspicion));
            }
            tokio::select! {
                () = fail_overs.ended() => {}
                () = self.look.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
        tracing::info!("this node is not the active controller any more");
    }

    fn due(&self) -> Vec<(NodeId, NodeEpoch, Suspicion)> {
        let (live, now) = (self.live(), self.clock.boot());
        let mut sessions = self.sessions.lock();
        let Some(sessions) = sessions.as_mut() else { return Vec::new() };
        if self.raft.members().len() == 1 {
            // Nobody could take over from the only node there is, and it asks for no lease. When others join, all begin anew.
            *sessions = Sessions::new(self.lease, self.patience);
            return Vec::new();
        }
        sessions.sync(live, now);
        sessions.due(now)
    }

    fn live(&self) -> Vec<(NodeId, NodeEpoch)> {
        let image = self.metadata.image();
        image.nodes.values().filter(|node| !node.fenced).map(|node| (node.id, node.epoch)).collect()
    }

    async fn look_after(&self, node: NodeId, epoch: NodeEpoch, suspicion: Suspicion) -> NodeId {
        if self.end(node, epoch, suspicion).await == Ended::NotNow {
            // Asked again while it is silent, at the pace of the looks.
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        node
    }
}

/// One confirmation by the quorum serves all who asked before it began.
#[derive(Default)]
struct Confirmations {
    begun: AtomicU64,
    /// Number of the last round that succeeded, and what it confirmed.
    last: tokio::sync::Mutex<(u64, LogIndex)>,
}

impl Confirmations {
    /// The index up to which everything was committed at a moment after this call; `None` if this node does not lead.
    async fn confirm(&self, raft: &Node) -> Option<LogIndex> {
        let arrived = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if last.0 > arrived {
            return Some(last.1);
        }
        let round = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let committed = raft.confirm_leadership().await.ok()?;
        *last = (round, committed);
        Some(committed)
    }
}

#[cfg(test)]
mod tests;
