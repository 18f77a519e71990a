//! The active controller's care for who leads what: spreads leaders evenly, sends them home, and finds new ones for what a
//! fail-over left behind. It decides by metadata and by what brokers tell of their traffic; every decision is a record there before anything moves: a new
//! controller goes on where the last one was.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Clock, NodeEpoch, NodeId, StreamId};
use futures::future::join_all;
use metadata::balance::{Balancer, Move, Settings};
use metadata::placement::{plan_preferred, stranded};
use metadata::{Command, MetadataClient, MetadataImage, NodeDraining};
use parking_lot::Mutex;

use super::controller::Controller;
use super::peer::messages::{Move as MoveMessage, MoveRequest, encode};
use super::peer::{Kind, Lane, Peers};
use super::sessions::Suspicion;

/// How often it looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long one broker may take to give away what it is asked to.
const MOVE_DEADLINE: Duration = Duration::from_secs(30);
/// How long no broker must have come or gone before leaders are sent anywhere: one that comes and goes gets nothing, and the brokers
/// that are restarted one after the other do not pass each other's partitions to and fro.
const SETTLE: Duration = Duration::from_secs(5);
/// A broker that has lived for so long gets what it should lead even if others still come and go.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How long a fenced node whose process is there may take to come back, before its log is sealed all the same: its lease is over.
const RETURN_TIME: Duration = Duration::from_secs(10);
/// Decisions that are remembered for operators.
const DECISIONS_MAX: usize = 256;

/// `ottla.balance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceMode {
    /// Leaders stay where they are.
    Off,
    /// What would be done is told, not done.
    Observe,
    /// It is done.
    On,
}

/// See the module.
pub struct Balancing {
    mode: BalanceMode,
    controller: Arc<Controller>,
    metadata: MetadataClient,
    peers: Peers,
    clock: Arc<dyn Clock>,
    /// Knows nothing while this node is not the active controller.
    balancer: Mutex<Balancer>,
    decisions: Mutex<VecDeque<String>>,
    decided: AtomicU64,
}

/// The lives of nodes that are known here, on the boot-time clock.
#[derive(Default)]
struct Lives {
    since: BTreeMap<NodeId, (NodeEpoch, NodeDraining, Duration)>,
    /// When one began or ended, or began to give away what it leads.
    changed: Duration,
}

impl Lives {
    fn follow(&mut self, image: &MetadataImage, now: Duration) {
        let known = self.since.len();
        self.since.retain(|id, (epoch, draining, _)| {
            let node = image.nodes.get(id).filter(|node| !node.fenced);
            node.is_some_and(|node| (node.epoch, node.draining) == (*epoch, *draining))
        });
        let mut has_changed = self.since.len() < known;
        for node in image.nodes.values().filter(|node| !node.fenced) {
            self.since.entry(node.id).or_insert_with(|| {
                has_changed = true;
                (node.epoch, node.draining, now)
            });
        }
        if has_changed {
            self.changed = now;
        }
    }

    /// Whether `node` may be given what it should lead.
    fn is_settled(&self, node: NodeId, now: Duration) -> bool {
        let is_calm = now.saturating_sub(self.changed) >= SETTLE;
        self.since.get(&node).is_some_and(|(.., since)| is_calm || now.saturating_sub(*since) >= SETTLE_MAX)
    }
}

impl Balancing {
    pub(super) fn new(
        mode: BalanceMode,
        controller: Arc<Controller>,
        metadata: MetadataClient,
        peers: Peers,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            mode,
            controller,
            metadata,
            peers,
            clock,
            balancer: Mutex::new(fresh()),
            decisions: Mutex::default(),
            decided: AtomicU64::new(0),
        }
    }

    /// Whether it acts.
    #[must_use]
    pub fn mode(&self) -> BalanceMode {
        self.mode
    }

    /// What nodes lead and carry, as far as this node was told, and what it would move by and by.
    #[must_use]
    pub fn plan(&self) -> (Vec<String>, Vec<String>) {
        let image = self.metadata.image();
        let balancer = self.balancer.lock();
        let planned = balancer.preview(&image);
        let moves = planned.iter().map(|one| describe(&image, one, "would move")).collect();
        (balancer.describe(&image), moves)
    }

    /// The newest decisions of this controller with their reasons, oldest first.
    #[must_use]
    pub fn decisions(&self) -> Vec<String> {
        self.decisions.lock().iter().cloned().collect()
    }

    /// How many decisions there have been in this process.
    pub(crate) fn decided(&self) -> u64 {
        self.decided.load(Ordering::Relaxed)
    }

    /// Works while this node is the active controller.
    pub(super) async fn run(self: Arc<Self>) -> Infallible {
        let (mut lives, mut since) = (Lives::default(), BTreeMap::new());
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if !self.controller.is_active() {
                (*self.balancer.lock(), lives, since) = (fresh(), Lives::default(), BTreeMap::new());
                drop(self.controller.take_loads());
                continue;
            }
            let image = self.metadata.image();
            self.balancer.lock().observe(self.clock.boot(), &image, &self.controller.take_loads());
            lives.follow(&image, self.clock.boot());
            self.end_again(&mut since, &image).await;
            if self.mode != BalanceMode::Off {
                self.balance(&image).await;
            }
            if self.mode == BalanceMode::On {
                self.send_home(&lives).await;
            }
        }
    }

    /// Ends lives once more that were not ended wholly. A node that is just coming back holds its log's lock, and gets time to
    /// register with that log.
    async fn end_again(&self, since: &mut BTreeMap<(NodeId, NodeEpoch), Duration>, image: &MetadataImage) {
        let (stranded, now) = (stranded(image), self.clock.boot());
        since.retain(|life, _| stranded.contains(life));
        for (node, epoch) in stranded {
            let waited = now.saturating_sub(*since.entry((node, epoch)).or_insert(now));
            let suspicion = if waited >= RETURN_TIME { Suspicion::Expired } else { Suspicion::Probe };
            self.controller.end(node, epoch, suspicion).await;
        }
    }

    /// Decides who should lead, and has metadata say so.
    async fn balance(&self, image: &MetadataImage) {
        let planned = self.balancer.lock().plan(self.clock.boot(), image);
        if planned.is_empty() {
            return;
        }
        for one in &planned {
            self.note(image, one);
        }
        if self.mode == BalanceMode::On {
            let changes = planned.into_iter().map(|one| (one.stream, one.replicas)).collect();
            if let Err(error) = self.metadata.submit(Command::AlterReplicas { changes }).await {
                tracing::warn!(%error, "the balancer's plan was not taken; it plans again");
            }
        }
    }

    fn note(&self, image: &MetadataImage, one: &Move) {
        let verb = if self.mode == BalanceMode::On { "moves" } else { "would move" };
        let told = describe(image, one, verb);
        tracing::debug!("{told}");
        self.decided.fetch_add(1, Ordering::Relaxed);
        let mut decisions = self.decisions.lock();
        if decisions.len() == DECISIONS_MAX {
            decisions.pop_front();
        }
        decisions.push_back(told);
    }

    /// Asks leaders to give away what others should lead.
    async fn send_home(&self, lives: &Lives) {
        let (image, now) = (self.metadata.image(), self.clock.boot());
        let mut by_leader: BTreeMap<NodeId, Vec<(StreamId, NodeId)>> = BTreeMap::new();
        for (stream, target) in plan_preferred(&image).into_iter().filter(|(_, target)| lives.is_settled(*target, now))
        {
            if let Some(leader) = image.leader_of(stream) {
                by_leader.entry(leader).or_default().push((stream, target));
            }
        }
        join_all(by_leader.into_iter().map(|(leader, moves)| self.ask(&image, leader, moves))).await;
    }

    async fn ask(&self, image: &MetadataImage, leader: NodeId, moves: Vec<(StreamId, NodeId)>) {
        let Some(node) = image.nodes.get(&leader) else { return };
        let count = moves.len();
        let moves = moves.into_iter().map(|(stream, target)| MoveMessage { stream: stream.0, target: target.0 });
        let body = encode(&MoveRequest { node_epoch: node.epoch.0, moves: moves.collect() });
        match self.peers.call(&node.peer, Lane::Control, Kind::Move, body, MOVE_DEADLINE).await {
            Ok(Ok(_)) => tracing::info!(%leader, partitions = count, "leaders were sent where they belong"),
            Ok(Err(reason)) => tracing::warn!(%leader, partitions = count, reason, "partitions were not moved"),
            Err(error) => tracing::warn!(%leader, partitions = count, %error, "partitions were not moved"),
        }
    }
}

fn describe(image: &MetadataImage, one: &Move, verb: &str) -> String {
    let partition = image.streams.get(&one.stream).and_then(|stream| {
        let topic = image.topics.get(&stream.topic)?;
        Some(format!("{}-{}", topic.name, stream.partition))
    });
    format!("{} {verb} from {} to {}: {}", partition.unwrap_or_default(), one.from, one.to, one.reason)
}

fn fresh() -> Balancer {
    Balancer::new(Settings::default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metadata::NodeImage;
    use metadata::command::Registration;
    use uuid::Uuid;

    use super::*;

    const ONE: NodeId = NodeId(1);

    fn image(nodes: &[(i32, u64, NodeDraining)]) -> MetadataImage {
        let mut image = MetadataImage::default();
        for (id, epoch, draining) in nodes {
            let registration = Registration::new(NodeId(*id), Uuid::from_u128(1));
            let node = NodeImage { draining: *draining, ..NodeImage::new(&registration, NodeEpoch(*epoch)) };
            image.nodes.insert(NodeId(*id), Arc::new(node));
        }
        image
    }

    #[test]
    fn leaders_go_where_they_belong_when_nobody_has_come_or_gone_for_a_while() {
        let at = Duration::from_secs;
        let mut lives = Lives::default();
        let both = image(&[(1, 1, NodeDraining::No), (2, 1, NodeDraining::No)]);
        lives.follow(&both, at(0));
        assert!(!lives.is_settled(ONE, at(4)));
        assert!(lives.is_settled(ONE, at(5)));

        let stopping = image(&[(1, 1, NodeDraining::No), (2, 1, NodeDraining::Stopping)]);
        lives.follow(&stopping, at(10));
        assert!(!lives.is_settled(ONE, at(14)), "the next one of a rolling restart");
        lives.follow(&image(&[(1, 1, NodeDraining::No)]), at(11));
        lives.follow(&image(&[(1, 1, NodeDraining::No), (2, 2, NodeDraining::No)]), at(12));
        assert!(!lives.is_settled(ONE, at(16)));
        assert!(lives.is_settled(ONE, at(17)));
        assert!(lives.is_settled(NodeId(2), at(17)));
        assert!(!lives.is_settled(NodeId(3), at(17)), "nobody knows it");
    }

    #[test]
    fn a_broker_that_comes_and_goes_does_not_keep_the_others_waiting_for_ever() {
        let mut lives = Lives::default();
        for second in 0..=60 {
            let image = image(&[(1, 1, NodeDraining::No), (2, second, NodeDraining::No)]);
            lives.follow(&image, Duration::from_secs(second));
        }
        assert!(lives.is_settled(ONE, Duration::from_secs(60)));
        assert!(!lives.is_settled(NodeId(2), Duration::from_secs(60)));
    }
}
