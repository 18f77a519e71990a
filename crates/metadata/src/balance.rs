//! Keeps nodes evenly loaded: who leads too much gives to who leads too little. Pure: an image, what partitions carried and
//! the time go in, moves come out. Whether they are carried out is the caller's affair.
//!
//! A move changes a partition's list of replicas, whose first is who should lead; the cluster then moves the leader. So what
//! counts here is who *should* lead, and nothing is planned twice while moves are under way.
//!
//! First the number of leaders, then their traffic, which where needed is evened by exchanges that leave the numbers alone. It
//! begins when a node is off by the tolerance and ends at half of it, or when no move gains enough. Traffic is smoothed, and
//! must be off for a while; a partition that was moved rests.

mod board;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::{NodeEpoch, NodeId, StreamId};

use crate::image::MetadataImage;
use board::Board;

/// What a partition carried, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes produced.
    pub bytes_in: u64,
    /// Bytes fetched.
    pub bytes_out: u64,
    /// Requests that touched it.
    pub requests: u64,
}

impl Traffic {
    /// As bytes produced that cost as much CPU, by our own benchmarks: a fetched byte costs half of a produced one, a
    /// small request some 12 us, in which 16 KiB are produced.
    fn cost(self) -> f64 {
        self.bytes_in as f64 + self.bytes_out as f64 / 2.0 + self.requests as f64 * 16_384.0
    }
}

/// How to balance.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Moves a second, over the whole cluster.
    pub moves_per_second: f64,
    /// How far a node may be off its fair share before anything is moved, as a fraction of it.
    pub tolerance: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { moves_per_second: 50.0, tolerance: 0.12 }
    }
}

/// A partition that another node should lead.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Its stream.
    pub stream: StreamId,
    /// Who should lead it so far.
    pub from: NodeId,
    /// Who is to lead it.
    pub to: NodeId,
    /// Its replicas from now on, `to` first.
    pub replicas: Arc<[NodeId]>,
    /// Why.
    pub reason: Reason,
}

/// Why a partition is moved: shares of the two nodes before the move, 1.0 being fair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// An operator drains the node that leads it.
    Draining,
    /// By the number of partitions that nodes lead.
    #[allow(missing_docs, reason = "the nodes' shares")]
    Leaders { from: f64, to: f64 },
    /// By what these carry.
    #[allow(missing_docs, reason = "the nodes' shares")]
    Traffic { from: f64, to: f64 },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| share * 100.0;
        match self {
            Self::Draining => write!(f, "draining"),
            Self::Leaders { from, to } => {
                write!(f, "{:.0} % of a fair share of leaders against {:.0} %", percent(from), percent(to))
            }
            Self::Traffic { from, to } => {
                write!(f, "{:.0} % of a fair share of traffic against {:.0} %", percent(from), percent(to))
            }
        }
    }
}

/// Time in which the weight of an older sample halves.
const HALF_LIFE: Duration = Duration::from_secs(30);
/// For how long traffic must be off before it moves anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a partition stays where it was moved to.
const REST: Duration = Duration::from_secs(300);
/// How long a node must live before it is given anything.
const SETTLE: Duration = Duration::from_secs(5);
/// Below this fair share of traffic per node (a thousandth of what a core carries) only leaders are balanced.
const TRAFFIC_FLOOR: f64 = 1e6;
/// What a move by traffic must gain at least, relative to the share it carries: twice by how much the nodes are still apart
/// afterwards, so that nothing moves between nodes that are about equal.
const GAIN_MIN: f64 = 0.1;
/// Share that an exchange must carry at least, for it costs two moves. A node of 100 partitions whose traffic hardly differs has
/// nothing larger to offer, and would otherwise rest out of balance.
const EXCHANGE_MIN: f64 = 0.0025;
/// Moves planned and not yet carried out, above which nothing is added.
const UNDER_WAY_MAX: usize = 1_000;

/// See the module. One lives where the active controller is; a new one begins without a memory, and is cautious.
pub struct Balancer {
    settings: Settings,
    /// Smoothed cost of each partition that carries anything.
    costs: BTreeMap<StreamId, f64>,
    /// What each carried last, and when that was told.
    newest: BTreeMap<StreamId, (Traffic, Duration)>,
    /// Since when a node's life is known.
    lives: BTreeMap<NodeId, (NodeEpoch, Duration)>,
    /// Where and when partitions were moved.
    moved: BTreeMap<StreamId, (NodeId, Duration)>,
    traffic_off_since: Option<Duration>,
    is_active: bool,
    tokens: f64,
    refilled: Option<Duration>,
}

impl Balancer {
    /// A balancer that has seen nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            costs: BTreeMap::new(),
            newest: BTreeMap::new(),
            lives: BTreeMap::new(),
            moved: BTreeMap::new(),
            traffic_off_since: None,
            is_active: false,
            tokens: 0.0,
            refilled: None,
        }
    }

    /// Takes what partitions carried since they were named last; those not named keep what is known of them. `now` is boot
    /// time.
    pub fn observe(&mut self, now: Duration, image: &MetadataImage, samples: &BTreeMap<StreamId, Traffic>) {
        for (stream, traffic) in samples {
            let since = self.newest.insert(*stream, (*traffic, now)).map(|(_, since)| since);
            let cost = self.costs.entry(*stream).or_insert(traffic.cost());
            if let Some(since) = since {
                let kept = 0.5_f64.powf(now.saturating_sub(since).as_secs_f64() / HALF_LIFE.as_secs_f64());
                *cost = *cost * kept + traffic.cost() * (1.0 - kept);
            }
        }
        self.costs.retain(|stream, _| image.streams.contains_key(stream));
        self.newest.retain(|stream, _| image.streams.contains_key(stream));
    }

    /// What would be moved by and by if everything stayed as it is. Changes nothing.
    #[must_use]
    pub fn preview(&self, image: &MetadataImage) -> Vec<Move> {
        let mut later = Self::new(Settings { moves_per_second: 1000.0, ..self.settings });
        later.costs.clone_from(&self.costs);
        later.newest.clone_from(&self.newest);
        // Twice: a node must be known for a while before it is given anything, and traffic be off for a while.
        later.plan(Duration::ZERO, image);
        later.plan(Duration::from_secs(3600), image)
    }

    /// What each live node leads, and carries where that was told, in words.
    #[must_use]
    pub fn describe(&self, image: &MetadataImage) -> Vec<String> {
        let mut nodes: BTreeMap<NodeId, (usize, Traffic, f64)> = BTreeMap::new();
        for id in image.nodes.values().filter(|node| !node.fenced).map(|node| node.id) {
            nodes.insert(id, (0, Traffic::default(), 0.0));
        }
        for partition in image.topics.values().flat_map(|topic| &topic.partitions) {
            let Some((leads, traffic, cost)) = nodes.get_mut(&partition.leader) else { continue };
            *leads += 1;
            *cost += self.costs.get(&partition.stream).copied().unwrap_or(0.0);
            let newest = self.newest.get(&partition.stream).map(|(traffic, _)| *traffic).unwrap_or_default();
            traffic.bytes_in += newest.bytes_in;
            traffic.bytes_out += newest.bytes_out;
            traffic.requests += newest.requests;
        }
        let count = nodes.len().max(1) as f64;
        let leaders = nodes.values().map(|(leads, ..)| *leads as f64).sum::<f64>() / count;
        let cost = nodes.values().map(|(.., cost)| *cost).sum::<f64>() / count;
        let percent = |of: f64, fair: f64| if fair > 0.0 { of * 100.0 / fair } else { 100.0 };
        let line = |(id, (leads, traffic, carries)): (&NodeId, &(usize, Traffic, f64))| {
            let leads = format!(
                "node {id} leads {leads} partitions ({:.0} % of a fair share)",
                percent(*leads as f64, leaders)
            );
            if self.newest.is_empty() {
                return leads;
            }
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            let (bytes_in, bytes_out) = (megabytes(traffic.bytes_in), megabytes(traffic.bytes_out));
            let (requests, share) = (traffic.requests, percent(*carries, cost));
            format!(
                "{leads}, which carry {bytes_in:.2} MB/s in, {bytes_out:.2} MB/s out and {requests} requests/s ({share:.0} % of \
                 a fair share)"
            )
        };
        nodes.iter().map(line).collect()
    }

    /// What to move now: no more than the settings allow since the last call, most useful first. Nothing while a partition's
    /// leader is lost, for then its failover comes first.
    pub fn plan(&mut self, now: Duration, image: &MetadataImage) -> Vec<Move> {
        self.refill(now);
        self.remember(now, image);
        let settled = |id: NodeId| self.lives.get(&id).is_some_and(|(_, since)| now.saturating_sub(*since) >= SETTLE);
        let unknown = BTreeMap::new();
        let costs = if self.is_told(image) { &self.costs } else { &unknown };
        let Some(mut board) = Board::new(image, costs, settled) else { return Vec::new() };
        let under_way = self.moved.iter().filter(|(stream, (to, _))| board.is_under_way(**stream, *to)).count();
        let allowed = (self.tokens.max(0.0) as usize).min(UNDER_WAY_MAX.saturating_sub(under_way));
        self.wake(now, &board);
        let mut moves: Vec<Move> = Vec::new();
        while moves.len() < allowed {
            let is_free = |stream: StreamId| !self.moved.contains_key(&stream);
            let mut next: Vec<Move> = board.drain(&is_free).into_iter().collect();
            if next.is_empty() && self.is_active {
                next = board.step(self.settings.tolerance / 2.0, GAIN_MIN, &is_free);
            }
            if next.is_empty() {
                self.is_active = false;
                break;
            }
            self.moved.extend(next.iter().map(|planned| (planned.stream, (planned.to, now))));
            self.tokens -= next.len() as f64;
            moves.extend(next);
        }
        moves
    }

    /// Whether every node that leads anything has told what it carries. One of an earlier version never does, and must not be
    /// taken for idle; a new controller hears of all of them by and by.
    fn is_told(&self, image: &MetadataImage) -> bool {
        let (mut silent, mut told) = (BTreeSet::new(), BTreeSet::new());
        for partition in image.topics.values().flat_map(|topic| &topic.partitions) {
            let known = self.newest.contains_key(&partition.stream);
            if known {
                told.insert(partition.leader)
            } else {
                silent.insert(partition.leader)
            };
        }
        silent.is_subset(&told)
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = self.refilled.map_or(Duration::from_secs(1), |last| now.saturating_sub(last)).as_secs_f64();
        self.refilled = Some(now);
        let rate = self.settings.moves_per_second;
        // Never more than a second's worth at once, yet slow rates must add up to a move. An exchange may overdraw.
        self.tokens = (self.tokens + elapsed * rate).min(rate.max(1.0));
    }

    fn remember(&mut self, now: Duration, image: &MetadataImage) {
        self.moved.retain(|stream, (_, at)| now.saturating_sub(*at) < REST && image.streams.contains_key(stream));
        self.lives.retain(|id, _| image.is_live(*id));
        for node in image.nodes.values().filter(|node| !node.fenced) {
            let life = self.lives.entry(node.id).or_insert((node.epoch, now));
            if life.0 != node.epoch {
                *life = (node.epoch, now);
            }
        }
    }

    /// Leaders that are off are a fact; traffic that is off may pass.
    fn wake(&mut self, now: Duration, board: &Board<'_>) {
        let tolerance = self.settings.tolerance;
        if !board.is_traffic_off(tolerance) {
            self.traffic_off_since = None;
        } else if self.traffic_off_since.is_none() {
            self.traffic_off_since = Some(now);
        }
        let lasts = self.traffic_off_since.is_some_and(|since| now.saturating_sub(since) >= PATIENCE);
        self.is_active |= lasts || board.are_leaders_off(tolerance);
    }
}
