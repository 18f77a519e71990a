//! Who is to lead what: placement of new partitions, and plans for what a node leaves behind. Pure: an image in, a plan
//! out. Replicas are virtual, for data has no copies on brokers: they say who may lead, the first of them who should.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{NodeEpoch, NodeId, StreamId};

use crate::image::{MetadataImage, NodeDraining, NodeImage, PartitionImage, TopicImage, WalClass, WalState};

/// Why partitions cannot be placed: Kafka's INVALID_REPLICATION_FACTOR.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplaceable {
    /// More replicas than nodes.
    #[error("only {registered} broker(s) are registered")]
    TooFewNodes {
        /// Nodes there are, fenced ones included.
        registered: usize,
    },
    /// Nobody could lead.
    #[error("all brokers are fenced")]
    AllFenced,
}

/// A node with what it leads.
struct Candidate {
    id: NodeId,
    /// Nodes without a rack are each other's strangers.
    rack: Option<Arc<str>>,
    is_live: bool,
    is_draining: bool,
    leaders: usize,
}

impl Candidate {
    fn may_lead(&self) -> bool {
        self.is_live && !self.is_draining
    }
}

/// All registered nodes by id, with what they lead. Counting walks all partitions.
struct Candidates {
    nodes: Vec<Candidate>,
    positions: BTreeMap<NodeId, usize>,
}

impl Candidates {
    fn new(image: &MetadataImage) -> Self {
        let candidate = |node: &Arc<NodeImage>| Candidate {
            id: node.id,
            rack: node.rack.clone(),
            is_live: !node.fenced,
            is_draining: node.draining != NodeDraining::No,
            leaders: 0,
        };
        let nodes: Vec<Candidate> = image.nodes.values().map(candidate).collect();
        let positions = nodes.iter().enumerate().map(|(at, node)| (node.id, at)).collect();
        let mut candidates = Self { nodes, positions };
        for partition in image.topics.values().flat_map(|topic| &topic.partitions) {
            if let Some(at) = candidates.position(partition.leader) {
                candidates.nodes[at].leaders += 1;
            }
        }
        candidates
    }

    fn position(&self, id: NodeId) -> Option<usize> {
        self.positions.get(&id).copied()
    }
}

/// Places new partitions. One for all topics of a request, so that each sees what those before it were given.
pub struct Placer {
    candidates: Candidates,
    start: usize,
}

impl Placer {
    /// Ties are resolved from the node at `start` on (modulo their number): a random one, or small topics would all
    /// begin at the same node.
    #[must_use]
    pub fn new(image: &MetadataImage, start: u64) -> Self {
        let candidates = Candidates::new(image);
        let count = candidates.nodes.len().max(1) as u64;
        Self { candidates, start: usize::try_from(start % count).unwrap_or(0) }
    }

    /// Replicas for `count` partitions of a topic, leader first. Leaders are even over the topic, then over all that nodes
    /// lead already, then over racks; fenced nodes never lead, draining ones only where there is nobody else.
    /// Followers prefer racks that the partition is not on, live nodes above all.
    ///
    /// # Errors
    /// [`Unplaceable`].
    pub fn place(&mut self, count: usize, replication_factor: usize) -> Result<Vec<Arc<[NodeId]>>, Unplaceable> {
        let nodes = &mut self.candidates.nodes;
        if replication_factor > nodes.len() {
            return Err(Unplaceable::TooFewNodes { registered: nodes.len() });
        }
        let has_leaders = nodes.iter().any(Candidate::may_lead);
        if !has_leaders && !nodes.iter().any(|node| node.is_live) {
            return Err(Unplaceable::AllFenced);
        }
        let mut led = vec![0_usize; nodes.len()];
        let mut led_by_rack: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut followed = vec![0_usize; nodes.len()];
        let mut placed = Vec::with_capacity(count);
        for _ in 0..count {
            let turn = |at: usize| (at + nodes.len() - self.start) % nodes.len();
            let eligible = (0..nodes.len()).filter(|at| nodes[*at].may_lead() || (!has_leaders && nodes[*at].is_live));
            let rank = |at: &usize| {
                let on_rack = nodes[*at].rack.as_ref().and_then(|rack| led_by_rack.get(rack)).copied().unwrap_or(0);
                (led[*at], nodes[*at].leaders, on_rack, turn(*at))
            };
            let leader = eligible.min_by_key(rank).ok_or(Unplaceable::AllFenced)?;
            led[leader] += 1;
            nodes[leader].leaders += 1;
            if let Some(rack) = &nodes[leader].rack {
                *led_by_rack.entry(Arc::clone(rack)).or_default() += 1;
            }
            placed.push(follow(nodes, &mut followed, leader, replication_factor));
        }
        Ok(placed)
    }
}

/// A leader's list of replicas, itself first.
fn follow(nodes: &[Candidate], followed: &mut [usize], leader: usize, replication_factor: usize) -> Arc<[NodeId]> {
    let mut replicas = vec![leader];
    let mut racks: BTreeSet<&Arc<str>> = nodes[leader].rack.iter().collect();
    while replicas.len() < replication_factor {
        let rank = |at: &usize| {
            let node = &nodes[*at];
            let shares_rack = node.rack.as_ref().is_some_and(|rack| racks.contains(rack));
            let turn = (at + nodes.len() - leader) % nodes.len();
            (!node.is_live, node.is_draining, shares_rack, followed[*at], turn)
        };
        let Some(next) = (0..nodes.len()).filter(|at| !replicas.contains(at)).min_by_key(rank) else { break };
        followed[next] += 1;
        racks.extend(&nodes[next].rack);
        replicas.push(next);
    }
    replicas.into_iter().map(|at| nodes[at].id).collect()
}

/// New leaders for everything that a lost node leads: of the nodes below their fair share those that lead least of the topic,
/// of these a replica, of these the one that leads least. So the partitions of a coordinator's topic spread like any
/// other's. Without a live node the plan is empty.
#[must_use]
pub fn plan_fail_over(image: &MetadataImage, node: NodeId) -> Vec<(StreamId, NodeId)> {
    plan_leave(image, node, true)
}

/// New leaders for everything that a draining node leads, as [`plan_fail_over`]; but a node that drains itself takes nothing.
#[must_use]
pub fn plan_drain(image: &MetadataImage, node: NodeId) -> Vec<(StreamId, NodeId)> {
    plan_leave(image, node, false)
}

fn plan_leave(image: &MetadataImage, leaving: NodeId, is_lost: bool) -> Vec<(StreamId, NodeId)> {
    let mut candidates = Candidates::new(image);
    let targets = |may: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        let able = |(at, node): (usize, &Candidate)| (node.id != leaving && may(node)).then_some(at);
        candidates.nodes.iter().enumerate().filter_map(able).collect()
    };
    let mut able = targets(&Candidate::may_lead);
    if able.is_empty() && is_lost {
        able = targets(&|node| node.is_live);
    }
    if able.is_empty() {
        return Vec::new();
    }
    let partitions: usize = image.topics.values().map(|topic| topic.partitions.len()).sum();
    let fair_share = partitions.div_ceil(able.len());
    let mut plan = Vec::new();
    for topic in image.topics.values() {
        if topic.partitions.iter().any(|partition| partition.leader == leaving) {
            leave_topic(&mut candidates, &able, fair_share, topic, leaving, &mut plan);
        }
    }
    plan
}

fn leave_topic(
    candidates: &mut Candidates,
    able: &[usize],
    fair_share: usize,
    topic: &TopicImage,
    leaving: NodeId,
    plan: &mut Vec<(StreamId, NodeId)>,
) {
    let mut of_topic = vec![0_usize; candidates.nodes.len()];
    for at in topic.partitions.iter().filter_map(|partition| candidates.position(partition.leader)) {
        of_topic[at] += 1;
    }
    for partition in topic.partitions.iter().filter(|partition| partition.leader == leaving) {
        let nodes = &candidates.nodes;
        let rank = |at: &usize| {
            let Candidate { id, leaders, .. } = nodes[*at];
            (leaders >= fair_share, of_topic[*at], !partition.replicas.contains(&id), leaders, id)
        };
        let target = able.iter().copied().min_by_key(rank);
        if let Some(at) = target {
            of_topic[at] += 1;
            candidates.nodes[at].leaders += 1;
            plan.push((partition.stream, candidates.nodes[at].id));
        }
    }
}

/// Fenced nodes that need another fail-over. Either one still leads something although nothing forbids to give it to others:
/// a topic was created on it while it was being failed over, a planned target was lost itself, or nobody was alive. Or its log is
/// shared and was out of reach when it was fenced: it may have been sealed since without metadata knowing, and then the node
/// could not even return. Walks all partitions, if such a node and one to take over exist.
#[must_use]
pub fn stranded(image: &MetadataImage) -> Vec<(NodeId, NodeEpoch)> {
    let open_log = |node: &NodeImage| {
        let wal = node.wal.and_then(|wal| image.wals.get(&wal));
        wal.filter(|wal| wal.state == WalState::Open).map(|wal| wal.class)
    };
    let (fenced, live): (Vec<_>, Vec<_>) = image.nodes.values().partition(|node| node.fenced);
    if live.is_empty() {
        return Vec::new();
    }
    let fenced = fenced.into_iter().map(|node| ((node.id, node.epoch), open_log(node)));
    let (open, rest): (Vec<_>, Vec<_>) = fenced.partition(|(_, log)| log.is_some());
    let shared = open.into_iter().filter(|(_, log)| *log == Some(WalClass::Shared));
    let partitions = || image.topics.values().flat_map(|topic| &topic.partitions);
    let leading: BTreeSet<NodeId> =
        if rest.is_empty() { BTreeSet::new() } else { partitions().map(|partition| partition.leader).collect() };
    let leads = rest.into_iter().filter(|((id, _), _)| leading.contains(id));
    shared.chain(leads).map(|(life, _)| life).collect()
}

/// Who should lead a partition instead of its leader: its first replica, or where that one cannot and the leader is not
/// even among the replicas, the first that can. `None` when all is well, or nobody better is there.
#[must_use]
pub fn preferred_leader(image: &MetadataImage, partition: &PartitionImage) -> Option<NodeId> {
    let may_lead =
        |id: &&NodeId| image.nodes.get(*id).is_some_and(|node| !node.fenced && node.draining == NodeDraining::No);
    let is_replica = partition.replicas.contains(&partition.leader);
    let considered = if is_replica { 1 } else { partition.replicas.len() };
    partition.replicas.iter().take(considered).find(may_lead).copied().filter(|id| *id != partition.leader)
}

/// Moves that give every partition its preferred leader, of those whose leader is there to hand them over.
#[must_use]
pub fn plan_preferred(image: &MetadataImage) -> Vec<(StreamId, NodeId)> {
    let partitions = image.topics.values().flat_map(|topic| &topic.partitions);
    let movable = partitions.filter(|partition| image.is_live(partition.leader));
    movable.filter_map(|partition| Some((partition.stream, preferred_leader(image, partition)?))).collect()
}

#[cfg(test)]
mod tests;
