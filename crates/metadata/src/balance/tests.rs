//! Simulated clusters whose moves are carried out: they come to balance, stay there, and never move more than allowed.

use common::{LogIndex, Random, SeededRandom};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::command::{Command, FailOver, Outcome, Registration};
use crate::placement::Placer;
use crate::state::apply;

const TICK: Duration = Duration::from_secs(5);
const MEGABYTE: u64 = 1_000_000;

struct Simulation {
    image: MetadataImage,
    balancer: Balancer,
    now: Duration,
    /// Bytes a second of each partition.
    traffic: BTreeMap<StreamId, u64>,
    random: SeededRandom,
    /// How far a sample may be off, in percent.
    noise: u64,
}

impl Simulation {
    fn new(racks: &[Option<&str>], settings: Settings) -> Self {
        let mut simulation = Self {
            image: MetadataImage::default(),
            balancer: Balancer::new(settings),
            now: Duration::from_secs(1_000),
            traffic: BTreeMap::new(),
            random: SeededRandom::new(7),
            noise: 20,
        };
        racks.iter().for_each(|rack| simulation.join(*rack));
        simulation
    }

    fn submit(&mut self, command: &Command) {
        let index = LogIndex(self.image.applied.0 + 1);
        let outcome = apply(&mut self.image, index, 0, command);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }

    /// One more node.
    fn join(&mut self, rack: Option<&str>) {
        let id = i32::try_from(self.image.nodes.len()).expect("small");
        let incarnation = Uuid::from_u128(u128::from(id.unsigned_abs()) + 1);
        let rack = rack.map(Into::into);
        self.submit(&Command::RegisterNode(Registration { rack, ..Registration::new(NodeId(id), incarnation) }));
    }

    fn create(&mut self, partitions: usize, factor: usize, traffic: impl Fn(usize) -> u64) {
        let placed = Placer::new(&self.image, 0).place(partitions, factor).expect("placed");
        let id = Uuid::from_u128(self.image.topics.len() as u128 + 1);
        let first = self.image.next.stream;
        self.submit(&Command::CreateTopic { id, name: id.to_string().into(), partitions: placed, configs: Vec::new() });
        self.traffic.extend((0..partitions).map(|at| (StreamId(first + at as u64), traffic(at))));
    }

    /// Five seconds pass. The moves that were planned are carried out at once.
    fn tick(&mut self) -> Vec<Move> {
        self.now += TICK;
        let noisy = |bytes: u64| {
            let percent = 100 - self.noise + self.random.below(2 * self.noise + 1);
            Traffic { bytes_in: bytes * percent / 100, bytes_out: 0, requests: 0 }
        };
        let samples = self.traffic.iter().map(|(stream, bytes)| (*stream, noisy(*bytes))).collect();
        self.balancer.observe(self.now, &self.image, &samples);
        let moves = self.balancer.plan(self.now, &self.image);
        for planned in &moves {
            let (topic, index) = {
                let stream = &self.image.streams[&planned.stream];
                (stream.topic, usize::try_from(stream.partition).expect("small"))
            };
            let topic = Arc::make_mut(self.image.topics.get_mut(&topic).expect("there"));
            let partition = &mut topic.partitions[index];
            assert_eq!(partition.leader, planned.from);
            assert_eq!(planned.replicas.len(), partition.replicas.len());
            assert_eq!(planned.replicas[0], planned.to);
            (partition.leader, partition.replicas) = (planned.to, Arc::clone(&planned.replicas));
        }
        moves
    }

    /// Until nothing was moved for ten minutes: all moves.
    fn settle(&mut self) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut quiet = 0;
        for _ in 0..2_000 {
            let planned = self.tick();
            quiet = if planned.is_empty() { quiet + 1 } else { 0 };
            moves.extend(planned);
            if quiet == 120 {
                return moves;
            }
        }
        panic!("no rest after {} moves", moves.len());
    }

    /// Leaders and bytes of each node that may lead.
    fn loads(&self) -> Vec<(u64, u64)> {
        let may_lead = |node: &&Arc<crate::NodeImage>| node.draining == crate::NodeDraining::No && !node.fenced;
        let load = |node: &Arc<crate::NodeImage>| {
            let streams: Vec<StreamId> = self.image.streams_led_by(node.id).collect();
            (streams.len() as u64, streams.iter().map(|stream| self.traffic[stream]).sum())
        };
        self.image.nodes.values().filter(may_lead).map(load).collect()
    }

    /// Within the given percentage of the fair share, or one partition.
    fn assert_even(&self, percent: u64) {
        let loads = self.loads();
        let nodes = loads.len() as u64;
        let largest = self.traffic.values().max().copied().unwrap_or(0);
        for (what, share, slack) in [
            ("leaders", loads.iter().map(|load| load.0).collect::<Vec<_>>(), 1),
            ("traffic", loads.iter().map(|load| load.1).collect(), largest),
        ] {
            let fair = share.iter().sum::<u64>() / nodes;
            let off = (fair * percent / 100).max(slack);
            assert!(share.iter().all(|share| share.abs_diff(fair) <= off), "{what}: {share:?}, fair is {fair}");
        }
    }
}

/// Hot and cold partitions, the hottest some twenty times the coldest.
fn skewed(at: usize) -> u64 {
    MEGABYTE * 20 / (1 + (at as u64 * 7) % 20)
}

#[test]
fn a_balanced_cluster_moves_nothing() {
    let mut simulation = Simulation::new(&[None; 4], Settings::default());
    simulation.create(120, 3, |_| MEGABYTE);
    for _ in 0..720 {
        assert_eq!(simulation.tick(), [], "an hour of noise");
    }
}

#[test]
fn a_new_node_takes_its_share_and_no_more() {
    let mut simulation = Simulation::new(&[None; 4], Settings::default());
    simulation.create(400, 3, |_| MEGABYTE);
    assert_eq!(simulation.settle(), []);
    simulation.join(None);
    let moves = simulation.settle();
    simulation.assert_even(15);
    assert!(moves.iter().all(|planned| planned.to == NodeId(4)), "all to the new one");
    assert!((60..=80).contains(&moves.len()), "{} moves of 80 that a perfect share takes", moves.len());
}

#[test]
fn hot_partitions_are_spread_and_rest_where_they_are() {
    let mut simulation = Simulation::new(&[None; 5], Settings::default());
    // Dealt out by number, so that the first nodes get the hot ones.
    simulation.create(300, 3, |at| if at % 5 == 0 { MEGABYTE * 4 } else { MEGABYTE });
    let moves = simulation.settle();
    simulation.assert_even(15);
    assert!(!moves.is_empty() && moves.len() <= 96, "{} moves; 48 exchanges would do", moves.len());
    assert!(moves.iter().any(|planned| matches!(planned.reason, Reason::Traffic { .. })));
    let text = moves[0].reason.to_string();
    assert!(text.contains("fair share of traffic"), "{text}");
    for _ in 0..720 {
        assert_eq!(simulation.tick(), []);
    }
}

#[test]
fn a_short_burst_moves_nothing() {
    let mut simulation = Simulation::new(&[None; 3], Settings::default());
    simulation.create(60, 3, |_| MEGABYTE);
    for _ in 0..60 {
        assert_eq!(simulation.tick(), []);
    }
    let calm = simulation.traffic.clone();
    let burst = simulation.image.streams_led_by(NodeId(0)).collect::<Vec<_>>();
    simulation.traffic.extend(burst.iter().map(|stream| (*stream, MEGABYTE * 2)));
    for _ in 0..3 {
        assert_eq!(simulation.tick(), []);
    }
    simulation.traffic = calm;
    for _ in 0..120 {
        assert_eq!(simulation.tick(), []);
    }
}

/// A node of an earlier version: what it carries is not known, and not nothing.
#[test]
fn a_node_that_tells_nothing_is_not_taken_for_idle() {
    let mut simulation = Simulation::new(&[None, None], Settings::default());
    simulation.create(8, 1, |_| MEGABYTE * 10);
    let silent = simulation.image.streams_led_by(NodeId(1)).collect::<Vec<_>>();
    let traffic = simulation.traffic.clone();
    simulation.traffic.retain(|stream, _| !silent.contains(stream));
    for _ in 0..120 {
        assert_eq!(simulation.tick(), [], "both lead as many");
    }
    assert_eq!(simulation.balancer.preview(&simulation.image), []);
    // Once it tells, it shows that it carries more.
    simulation.traffic = traffic;
    simulation.traffic.extend(silent.iter().map(|stream| (*stream, MEGABYTE * 100 * stream.0)));
    assert!(!simulation.settle().is_empty());
}

/// Portions come when they come: what is told half as often changes what is known by as much.
#[test]
fn what_is_known_depends_on_time_and_not_on_how_often_it_is_told() {
    let mut simulation = Simulation::new(&[None, None], Settings::default());
    simulation.create(2, 1, |_| MEGABYTE);
    let (often, seldom) = (StreamId(1), StreamId(2));
    let carries = |megabytes: u64| Traffic { bytes_in: megabytes * MEGABYTE, ..Traffic::default() };
    for second in (0..=120).step_by(5) {
        let now = Duration::from_secs(second);
        let traffic = carries(if second == 0 { 1 } else { 9 });
        let mut told: BTreeMap<StreamId, Traffic> = std::iter::once((often, traffic)).collect();
        if second % 20 == 0 {
            told.insert(seldom, traffic);
        }
        simulation.balancer.observe(now, &simulation.image, &told);
    }
    let cost = |stream| simulation.balancer.costs[&stream];
    assert!((cost(often) / cost(seldom) - 1.0).abs() < 0.01, "{} {}", cost(often), cost(seldom));
    let nodes = simulation.balancer.describe(&simulation.image);
    assert!(nodes[0].contains("leads 1 partitions (100 % of a fair share), which carry 9.00 MB/s in"), "{nodes:?}");
}

#[test]
fn what_hardly_carries_anything_is_balanced_by_number_alone() {
    let mut simulation = Simulation::new(&[None; 3], Settings::default());
    simulation.create(60, 3, |at| if at % 3 == 0 { 5_000 } else { 10 });
    assert_eq!(simulation.settle(), []);
}

#[test]
fn a_drained_node_gives_everything_away_first() {
    let mut simulation = Simulation::new(&[None; 4], Settings::default());
    simulation.create(200, 3, skewed);
    simulation.settle();
    simulation.submit(&Command::SetDraining { node: NodeId(1), draining: true });
    let moves = simulation.settle();
    assert_eq!(simulation.image.streams_led_by(NodeId(1)).count(), 0);
    let first_other = moves.iter().position(|planned| planned.reason != Reason::Draining).unwrap_or(moves.len());
    assert!(moves[..first_other].iter().all(|planned| planned.from == NodeId(1) && planned.to != NodeId(1)));
    assert!(first_other >= 40, "{first_other} moves");
    simulation.assert_even(15);
    simulation.submit(&Command::SetDraining { node: NodeId(1), draining: false });
    simulation.settle();
    simulation.assert_even(15);
    assert!(simulation.image.streams_led_by(NodeId(1)).count() > 30);
}

#[test]
fn moves_are_capped_and_a_slow_cap_adds_up() {
    let rates = [(2.0, 10, 200), (0.1, 1, 200)];
    for (moves_per_second, most, ticks) in rates {
        let settings = Settings { moves_per_second, ..Settings::default() };
        let mut simulation = Simulation::new(&[None; 2], settings);
        simulation.create(200, 2, |_| MEGABYTE);
        simulation.tick();
        simulation.join(None);
        let planned: Vec<usize> = (0..ticks).map(|_| simulation.tick().len()).collect();
        assert!(planned.iter().all(|moves| *moves <= most), "{planned:?}");
        let expected = (TICK.as_secs_f64() * f64::from(ticks) * moves_per_second) as usize;
        let (total, enough) = (planned.iter().sum::<usize>(), expected.min(55));
        assert!(total >= enough, "{total} moves of {enough}");
    }
}

#[test]
fn racks_stay_apart() {
    let mut simulation = Simulation::new(&[Some("a"), Some("b"), Some("c")], Settings::default());
    simulation.create(90, 3, |_| MEGABYTE);
    ["a", "b"].iter().for_each(|rack| simulation.join(Some(rack)));
    assert!(!simulation.settle().is_empty());
    simulation.assert_even(15);
    let rack = |id: &NodeId| simulation.image.nodes[id].rack.clone();
    for partition in simulation.image.topics.values().flat_map(|topic| &topic.partitions) {
        let racks: std::collections::BTreeSet<_> = partition.replicas.iter().map(rack).collect();
        assert_eq!(racks.len(), 3, "{partition:?}");
    }
}

#[test]
fn a_failover_comes_first_and_a_young_node_waits() {
    let mut simulation = Simulation::new(&[None; 3], Settings::default());
    simulation.create(30, 1, |_| MEGABYTE);
    simulation.tick();
    let (node, node_epoch) = (NodeId(0), simulation.image.nodes[&NodeId(0)].epoch);
    simulation.submit(&Command::FailOver(FailOver { node, node_epoch, seal: None, leaders: Vec::new() }));
    simulation.join(None);
    (0..20).for_each(|_| assert_eq!(simulation.tick(), []));
    let mut simulation = Simulation::new(&[None; 3], Settings::default());
    simulation.create(30, 1, |_| MEGABYTE);
    simulation.tick();
    simulation.join(None);
    assert_eq!(simulation.tick(), [], "seen for the first time");
    assert!(!simulation.tick().is_empty());
}

#[test]
fn what_is_planned_and_not_carried_out_is_not_planned_again() {
    let mut simulation = Simulation::new(&[None; 2], Settings::default());
    simulation.create(100, 2, |_| MEGABYTE);
    simulation.tick();
    simulation.join(None);
    simulation.tick();
    simulation.now += TICK;
    let planned = simulation.balancer.plan(simulation.now, &simulation.image);
    let replicas = planned.iter().map(|planned| (planned.stream, Arc::clone(&planned.replicas))).collect();
    simulation.submit(&Command::AlterReplicas { changes: replicas });
    assert!(planned.len() > 20, "{}", planned.len());
    // Leaders have not moved, but who should lead is known.
    assert_eq!(simulation.tick(), []);
}

/// Partitions of 6 MB/s and of 8 MB/s: no exchange carries more than 0.6 % of a node's share, and only many of them bring balance.
#[test]
fn traffic_that_hardly_differs_is_exchanged_too() {
    let mut simulation = Simulation::new(&[None; 4], Settings::default());
    simulation.noise = 10;
    let is_hot = |at: usize| matches!((at * at) % 16, 1 | 4 | 9);
    simulation.create(4 * 46, 3, |at| MEGABYTE * if is_hot(at) { 8 } else { 6 });
    simulation.join(None);
    simulation.submit(&Command::SetDraining { node: NodeId(0), draining: true });
    simulation.settle();
    simulation.assert_even(15);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cluster_comes_to_rest_in_balance(
        nodes in 2..7_usize,
        per_node in 30..60_usize,
        weights in proptest::collection::vec(1..12_u64, 16),
        joins in 0..3_usize,
        drain in any::<bool>(),
    ) {
        let mut simulation = Simulation::new(&vec![None; nodes], Settings::default());
        simulation.noise = 10;
        simulation.create(nodes * per_node, 3.min(nodes), |at| MEGABYTE * weights[(at * at) % 16]);
        (0..joins).for_each(|_| simulation.join(None));
        if drain {
            simulation.submit(&Command::SetDraining { node: NodeId(0), draining: true });
        }
        let moves = simulation.settle();
        simulation.assert_even(15);
        // Nothing goes round in circles.
        let mut times: BTreeMap<StreamId, usize> = BTreeMap::new();
        moves.iter().for_each(|planned| *times.entry(planned.stream).or_default() += 1);
        prop_assert!(times.values().all(|times| *times <= 2), "{:?}", times.values().max());
    }
}
