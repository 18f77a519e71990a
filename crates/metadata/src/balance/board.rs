//! One look at the cluster: who should lead what, what that weighs, and what a move would change.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{NodeId, StreamId};

use super::{EXCHANGE_MIN, Move, Reason, TRAFFIC_FLOOR};
use crate::image::{MetadataImage, NodeDraining, PartitionImage};
use crate::placement::preferred_leader;

/// A live node.
struct Node {
    id: NodeId,
    rack: Option<Arc<str>>,
    /// Takes part: neither drained nor new. Others keep what they have, and a drained one gives it away.
    is_eligible: bool,
    is_drained: bool,
    leaders: f64,
    traffic: f64,
    partitions: BTreeSet<usize>,
}

struct Partition<'a> {
    image: &'a PartitionImage,
    node: usize,
    traffic: f64,
    /// A move of it is reserved already.
    is_busy: bool,
}

pub(super) struct Board<'a> {
    nodes: Vec<Node>,
    positions: BTreeMap<NodeId, usize>,
    partitions: Vec<Partition<'a>>,
    streams: BTreeMap<StreamId, usize>,
    fair_leaders: f64,
    fair_traffic: f64,
}

impl<'a> Board<'a> {
    /// `None` while a partition has no live leader, or there is nobody to give anything to.
    pub(super) fn new(
        image: &'a MetadataImage,
        costs: &BTreeMap<StreamId, f64>,
        is_settled: impl Fn(NodeId) -> bool,
    ) -> Option<Self> {
        let mut nodes: Vec<Node> = Vec::new();
        for node in image.nodes.values().filter(|node| !node.fenced) {
            nodes.push(Node {
                id: node.id,
                rack: node.rack.clone(),
                is_eligible: node.draining == NodeDraining::No && is_settled(node.id),
                is_drained: node.draining == NodeDraining::ByOperator,
                leaders: 0.0,
                traffic: 0.0,
                partitions: BTreeSet::new(),
            });
        }
        let positions: BTreeMap<NodeId, usize> = nodes.iter().enumerate().map(|(at, node)| (node.id, at)).collect();
        let mut board = Self {
            nodes,
            positions,
            partitions: Vec::new(),
            streams: BTreeMap::new(),
            fair_leaders: 0.0,
            fair_traffic: 0.0,
        };
        for partition in image.topics.values().flat_map(|topic| &topic.partitions) {
            let leader = preferred_leader(image, partition).unwrap_or(partition.leader);
            let node = *board.positions.get(&leader).filter(|_| image.is_live(partition.leader))?;
            let is_busy = image.streams.get(&partition.stream).is_some_and(|stream| stream.reserved.is_some());
            let traffic = costs.get(&partition.stream).copied().unwrap_or(0.0);
            board.streams.insert(partition.stream, board.partitions.len());
            board.put(node, traffic);
            board.nodes[node].partitions.insert(board.partitions.len());
            board.partitions.push(Partition { image: partition, node, traffic, is_busy });
        }
        board.find_fair_shares()?;
        Some(board)
    }

    fn put(&mut self, node: usize, traffic: f64) {
        self.nodes[node].leaders += 1.0;
        self.nodes[node].traffic += traffic;
    }

    /// What drained nodes have belongs to the others already; what new ones have they keep.
    fn find_fair_shares(&mut self) -> Option<()> {
        let eligible = self.nodes.iter().filter(|node| node.is_eligible).count();
        if eligible == 0 {
            return None;
        }
        let shared = || self.nodes.iter().filter(|node| node.is_eligible || node.is_drained);
        let leaders: f64 = shared().map(|node| node.leaders).sum();
        let traffic: f64 = shared().map(|node| node.traffic).sum();
        self.fair_leaders = leaders / eligible as f64;
        self.fair_traffic = traffic / eligible as f64;
        Some(())
    }

    /// Whether a move to `to` has been planned and not been carried out.
    pub(super) fn is_under_way(&self, stream: StreamId, to: NodeId) -> bool {
        self.streams.get(&stream).is_some_and(|at| self.partitions[*at].image.leader != to)
    }

    fn eligible(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_eligible)
    }

    /// Off by one leader is as good as whole partitions allow.
    pub(super) fn are_leaders_off(&self, tolerance: f64) -> bool {
        let off = (self.fair_leaders * tolerance).max(1.0);
        self.eligible().any(|node| (node.leaders - self.fair_leaders).abs() > off)
    }

    pub(super) fn is_traffic_off(&self, tolerance: f64) -> bool {
        let off = self.fair_traffic * tolerance;
        self.counts_traffic() && self.eligible().any(|node| (node.traffic - self.fair_traffic).abs() > off)
    }

    fn counts_traffic(&self) -> bool {
        self.fair_traffic >= TRAFFIC_FLOOR
    }

    /// The next partition that a drained node gives away, to where it adds least.
    pub(super) fn drain(&mut self, is_free: &impl Fn(StreamId) -> bool) -> Option<Move> {
        let drained = self.nodes.iter().filter(|node| node.is_drained).flat_map(|node| &node.partitions);
        let partition = drained.copied().find(|at| self.is_movable(*at, is_free))?;
        let rank = |board: &Self, target: usize| {
            let node = &board.nodes[target];
            let traffic = if board.counts_traffic() { node.traffic / board.fair_traffic } else { 0.0 };
            Some(-traffic - node.leaders / board.fair_leaders)
        };
        let target = self.best_target(partition, rank).or_else(|| {
            let others = (0..self.nodes.len()).filter(|at| self.nodes[*at].is_eligible);
            others
                .max_by(|a, b| rank(self, *a).partial_cmp(&rank(self, *b)).unwrap_or(Ordering::Equal))
                .map(|at| (at, 0.0))
        })?;
        Some(self.carry_out(partition, target.0, Reason::Draining))
    }

    /// The next step towards `goal`: leaders first, then what they carry, by a move or an exchange that leaves leaders within
    /// the goal. Numbers of leaders come nearer to each other with every step of the first kind, and stay within the goal
    /// with those of the second, which bring traffic nearer: so this ends. Empty when nothing gains enough.
    pub(super) fn step(&mut self, goal: f64, gain_min: f64, is_free: &impl Fn(StreamId) -> bool) -> Vec<Move> {
        if self.are_leaders_off(goal) {
            return self.even_leaders(is_free).into_iter().collect();
        }
        if !self.is_traffic_off(goal) {
            return Vec::new();
        }
        match self.even_traffic(goal, gain_min, is_free) {
            Some(single) => vec![single],
            None => self.exchange(gain_min, is_free),
        }
    }

    /// The eligible node with the largest or smallest load.
    fn extreme(&self, load: fn(&Node) -> f64, sign: f64) -> Option<usize> {
        let eligible = self.nodes.iter().enumerate().filter(|(_, node)| node.is_eligible);
        eligible.max_by(|(_, a), (_, b)| (sign * load(a)).total_cmp(&(sign * load(b)))).map(|(at, _)| at)
    }

    /// From the node that leads most to one below its share: whatever partition suits their traffic best.
    fn even_leaders(&mut self, is_free: &impl Fn(StreamId) -> bool) -> Option<Move> {
        let source = self.extreme(|node| node.leaders, 1.0)?;
        let leaders = self.nodes[source].leaders;
        let best = self.best_of(source, is_free, |board, partition, target| {
            let node = &board.nodes[target];
            let is_below = node.leaders < board.fair_leaders && node.leaders + 1.0 < leaders;
            // Of targets that suit equally well the one that leads least.
            is_below.then(|| board.traffic_gain(partition, target) - 1e-9 * node.leaders)
        });
        let (partition, target, _) = best?;
        let share = |board: &Self, node: usize| board.nodes[node].leaders / board.fair_leaders;
        let reason = Reason::Leaders { from: share(self, source), to: share(self, target) };
        Some(self.carry_out(partition, target, reason))
    }

    fn even_traffic(&mut self, goal: f64, gain_min: f64, is_free: &impl Fn(StreamId) -> bool) -> Option<Move> {
        let source = self.extreme(|node| node.traffic, 1.0)?;
        let off = (self.fair_leaders * goal).max(1.0);
        if self.nodes[source].leaders - 1.0 < self.fair_leaders - off {
            return None;
        }
        let (partition, target, _) = self.best_of(source, is_free, |board, partition, target| {
            let has_room = board.nodes[target].leaders + 1.0 <= board.fair_leaders + off;
            let gain = board.traffic_gain(partition, target);
            let is_enough = gain >= gain_min * board.partitions[partition].traffic / board.fair_traffic;
            (has_room && gain > 0.0 && is_enough).then_some(gain)
        })?;
        let reason = self.by_traffic(source, target);
        Some(self.carry_out(partition, target, reason))
    }

    /// A hot partition of the node that carries most for a colder one of the node that carries least.
    fn exchange(&mut self, gain_min: f64, is_free: &impl Fn(StreamId) -> bool) -> Vec<Move> {
        let extremes = self.extreme(|node| node.traffic, 1.0).zip(self.extreme(|node| node.traffic, -1.0));
        let Some((most, least)) = extremes else { return Vec::new() };
        let apart = (self.nodes[most].traffic - self.nodes[least].traffic) / self.fair_traffic;
        let movable = |from: usize, to: usize| -> Vec<usize> {
            let partitions = self.nodes[from].partitions.iter().copied();
            partitions.filter(|at| self.is_movable(*at, is_free) && self.keeps_racks(*at, to)).collect()
        };
        let share = |at: usize| self.partitions[at].traffic / self.fair_traffic;
        let mut colder: Vec<usize> = movable(least, most);
        colder.sort_by(|a, b| share(*a).total_cmp(&share(*b)));
        let mut best: Option<(f64, usize, usize)> = None;
        for hot in movable(most, least) {
            // The best exchange carries half of what they are apart: its neighbours in the order are tried.
            let ideal = share(hot) - apart / 2.0;
            let at = colder.partition_point(|cold| share(*cold) < ideal);
            for cold in colder[at.saturating_sub(1)..].iter().take(2) {
                let carried = share(hot) - share(*cold);
                let gain = 2.0 * carried * (apart - carried);
                let is_enough = carried >= EXCHANGE_MIN && gain >= gain_min * carried;
                if is_enough && best.is_none_or(|(most, ..)| gain > most) {
                    best = Some((gain, hot, *cold));
                }
            }
        }
        let Some((_, hot, cold)) = best else { return Vec::new() };
        let reason = self.by_traffic(most, least);
        vec![self.carry_out(hot, least, reason), self.carry_out(cold, most, reason)]
    }

    fn by_traffic(&self, source: usize, target: usize) -> Reason {
        let share = |node: usize| self.nodes[node].traffic / self.fair_traffic;
        Reason::Traffic { from: share(source), to: share(target) }
    }

    /// The best of all moves away from a node, by a rank that may rule moves out.
    fn best_of(
        &self,
        source: usize,
        is_free: &impl Fn(StreamId) -> bool,
        rank: impl Fn(&Self, usize, usize) -> Option<f64>,
    ) -> Option<(usize, usize, f64)> {
        let mut best: Option<(usize, usize, f64)> = None;
        let movable = self.nodes[source].partitions.iter().copied().filter(|at| self.is_movable(*at, is_free));
        for partition in movable {
            let target = self.best_target(partition, |board, target| {
                rank(board, partition, target).filter(|rank| best.is_none_or(|(.., most)| *rank > most))
            });
            best = target.map(|(target, rank)| (partition, target, rank)).or(best);
        }
        best
    }

    fn is_movable(&self, partition: usize, is_free: &impl Fn(StreamId) -> bool) -> bool {
        let partition = &self.partitions[partition];
        !partition.is_busy && is_free(partition.image.stream)
    }

    /// The eligible node of the highest rank that leaves the partition's replicas on as many racks as they are.
    fn best_target(&self, partition: usize, rank: impl Fn(&Self, usize) -> Option<f64>) -> Option<(usize, f64)> {
        let mut best: Option<(usize, f64)> = None;
        for (target, node) in self.nodes.iter().enumerate() {
            if !node.is_eligible || target == self.partitions[partition].node {
                continue;
            }
            let Some(rank) = rank(self, target) else { continue };
            if best.is_none_or(|(_, most)| rank > most) && self.keeps_racks(partition, target) {
                best = Some((target, rank));
            }
        }
        best
    }

    /// By how much a move lowers the squares of the two nodes' shares of traffic.
    fn traffic_gain(&self, partition: usize, target: usize) -> f64 {
        if !self.counts_traffic() {
            return 0.0;
        }
        let Partition { node, traffic, .. } = self.partitions[partition];
        let apart = self.nodes[node].traffic - self.nodes[target].traffic;
        2.0 * traffic * (apart - traffic) / self.fair_traffic.powi(2)
    }

    fn rack(&self, id: NodeId) -> Option<&Arc<str>> {
        self.nodes[*self.positions.get(&id)?].rack.as_ref()
    }

    /// Nodes without a rack count for themselves.
    fn racks(&self, replicas: &[NodeId]) -> usize {
        replicas.iter().map(|id| self.rack(*id).ok_or(*id)).collect::<BTreeSet<_>>().len()
    }

    fn keeps_racks(&self, partition: usize, target: usize) -> bool {
        let old = &self.partitions[partition].image.replicas;
        old.contains(&self.nodes[target].id) || self.racks(&self.replicas(partition, target)) >= self.racks(old)
    }

    /// The list with the target first. If it is new there, whoever shares its rack leaves, else the old leader.
    fn replicas(&self, partition: usize, target: usize) -> Vec<NodeId> {
        let to = self.nodes[target].id;
        let Partition { image, node, .. } = &self.partitions[partition];
        let mut others: Vec<NodeId> = image.replicas.iter().copied().filter(|id| *id != to).collect();
        if others.len() == image.replicas.len() {
            let shares_rack = |id: &NodeId| self.rack(to).is_some_and(|rack| self.rack(*id) == Some(rack));
            let from = self.nodes[*node].id;
            let leaving = others.iter().position(shares_rack).or_else(|| others.iter().position(|id| *id == from));
            others.remove(leaving.unwrap_or(others.len() - 1));
        }
        std::iter::once(to).chain(others).collect()
    }

    fn carry_out(&mut self, partition: usize, target: usize, reason: Reason) -> Move {
        let replicas = self.replicas(partition, target).into();
        let Partition { image, node, traffic, .. } = &mut self.partitions[partition];
        let source = std::mem::replace(node, target);
        let (stream, traffic) = (image.stream, *traffic);
        let from = &mut self.nodes[source];
        from.leaders -= 1.0;
        from.traffic -= traffic;
        from.partitions.remove(&partition);
        let from = from.id;
        self.put(target, traffic);
        self.nodes[target].partitions.insert(partition);
        Move { stream, from, to: self.nodes[target].id, replicas, reason }
    }
}
