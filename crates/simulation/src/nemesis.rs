//! What goes wrong, and when: drawn from the seed before the run begins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::store::{FaultPlan, Operation};
use common::{NodeId, Random, SeededRandom};
use turmoil::Sim;

use crate::machine::TRUE_PACE;
use crate::node::host;
use crate::world::{Order, World, sound_store};

/// Something that is done to the cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// kill -9: the process is gone, what it wrote is there.
    Kill(NodeId),
    /// The host is gone without a word, and of what was not synced anything may be lost.
    CutPower(NodeId),
    /// The process is asked to stop, as by SIGTERM.
    Stop(NodeId),
    /// The process is started again.
    Start(NodeId),
    /// Nothing on the host goes on, as by SIGSTOP.
    Freeze(NodeId),
    /// It goes on.
    Thaw(NodeId),
    /// Messages from the first to the second host are dropped.
    Cut(String, String),
    /// They are delivered again.
    Mend(String, String),
    /// Messages between two hosts are held back.
    Hold(String, String),
    /// What was held back is delivered.
    Release(String, String),
    /// So many messages in a thousand between two hosts are lost.
    Lose(String, String, u32),
    /// The wall clock of a node jumps by so many milliseconds.
    Jump(NodeId, i64),
    /// The clock by which a node counts its leases, and those of others, runs at so many percent of its pace.
    Pace(NodeId, u32),
    /// A disk takes so many times as long.
    SlowDisk(NodeId, u32),
    /// A disk has no room for growth, or has again.
    FullDisk(NodeId, bool),
    /// The next sync of a disk fails.
    FailSync(NodeId),
    /// The object store gets into trouble.
    Store(StoreTrouble),
    /// An operator wants something.
    Order(Order),
}

/// What may be wrong with the object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreTrouble {
    /// Nothing.
    None,
    /// It cannot be reached.
    Down,
    /// Operations fail, some after they were done; some hang.
    Failing,
    /// Operations take long.
    Slow,
}

impl StoreTrouble {
    /// What is trouble.
    const ALL: [Self; 3] = [Self::Down, Self::Failing, Self::Slow];

    fn plan(self) -> FaultPlan {
        let sound = sound_store();
        let all =
            [Operation::Put, Operation::Multipart, Operation::Get, Operation::Head, Operation::Delete, Operation::List];
        match self {
            Self::None => sound,
            Self::Down => FaultPlan { unreachable: true, ..sound },
            Self::Failing => FaultPlan {
                fail: all.iter().map(|operation| (*operation, 200)).collect(),
                fail_after: all.iter().map(|operation| (*operation, 150)).collect(),
                hanging: 50,
                hang: Duration::from_secs(3),
                ..sound
            },
            Self::Slow => FaultPlan { jitter: Duration::from_millis(1500), ..sound },
        }
    }
}

/// Actions by the time from the beginning of the faults, in order.
pub struct Nemesis {
    actions: VecDeque<(Duration, Action)>,
    /// Actions that wait for a move to be under way, not before some time; their times count from then.
    ambushes: VecDeque<(Duration, Vec<(Duration, Action)>)>,
    /// How long faults strike.
    pub length: Duration,
    /// How many there are.
    pub faults: u64,
    /// Processes that are to run.
    wanted: BTreeSet<NodeId>,
    /// Since when those of them do not.
    down: BTreeMap<NodeId, Duration>,
    /// Hosts on which nothing goes on: what else is done to the network must not let them be heard.
    frozen: BTreeSet<String>,
}

/// A process that ended is started again so much later.
const RESTART: Duration = Duration::from_millis(100);

/// Hosts from which clients work.
pub const CLIENT_HOSTS: [&str; 2] = ["c1", "c2"];

/// Most milliseconds a fault lasts: longer than a lease.
const FAULT_MS: u64 = 12_000;

/// Draws a plan.
struct Draw {
    random: SeededRandom,
    nodes: i32,
    partitions: u32,
    actions: Vec<(Duration, Action)>,
    ambushes: Vec<(Duration, Vec<(Duration, Action)>)>,
}

impl Draw {
    fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.random.below(to - from))
    }

    fn node(&self) -> NodeId {
        NodeId(1 + i32::try_from(self.random.below(u64::from(self.nodes.unsigned_abs()))).unwrap_or(0))
    }

    fn hosts_but(&self, node: NodeId) -> Vec<String> {
        let others = (1..=self.nodes).map(NodeId).filter(|other| *other != node).map(host);
        others.chain(CLIENT_HOSTS.map(str::to_owned)).collect()
    }

    fn one_of<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.random.below(all.len() as u64)).unwrap_or(0)]
    }

    fn slowness(&self) -> u32 {
        2 + u32::try_from(self.random.below(20)).unwrap_or(0)
    }

    /// The end of a process, at times of one whose disk does not keep up: then much is not written, or not synced.
    fn death(&self, node: NodeId, how: Action, at: Duration, until: Duration) -> Vec<(Duration, Action)> {
        if self.random.below(2) == 0 {
            return vec![(at, how), (until, Action::Start(node))];
        }
        let dies = at + self.millis(20, 600);
        let slow = [(at, Action::SlowDisk(node, self.slowness())), (dies, how), (dies, Action::SlowDisk(node, 1))];
        slow.into_iter().chain([(dies + (until - at), Action::Start(node))]).collect()
    }

    /// A node is off the network, wholly or one way, from brokers alone or from everybody; or together with a host of clients,
    /// who go on talking to a broker that others believe to be lost.
    fn cut_off(&self, node: NodeId, at: Duration, until: Duration) -> Vec<(Duration, Action)> {
        let (mut side, mut others) = (vec![host(node)], self.hosts_but(node));
        match self.random.below(4) {
            0 => others.retain(|other| !CLIENT_HOSTS.contains(&other.as_str())),
            1 => {}
            _ => {
                let beside = (*self.one_of(&CLIENT_HOSTS)).to_owned();
                others.retain(|other| *other != beside);
                side.push(beside);
            }
        }
        let (speaks, hears) = (cut(&side, &others, at, until), cut(&others, &side, at, until));
        match self.random.below(4) {
            0 => speaks,
            1 => hears,
            _ => speaks.into_iter().chain(hears).collect(),
        }
    }

    /// Some partition is to be led by `node`.
    fn shift(&self, node: NodeId) -> Action {
        let partition = u32::try_from(self.random.below(u64::from(self.partitions))).unwrap_or(0);
        Action::Order(Order::Move(partition, node))
    }

    /// Something strikes in the midst of the next move, so that somebody does not hear what became of it, or does not live to.
    fn ambush(&mut self, node: NodeId, at: Duration, length: Duration) {
        let since = self.millis(0, 100);
        let until = since + length;
        let strike = match self.random.below(6) {
            0..=2 => vec![(since, Action::Kill(node)), (until, Action::Start(node))],
            3 => vec![(since, Action::Freeze(node)), (until, Action::Thaw(node))],
            4 => self.cut_off(node, since, until),
            _ => {
                let others: Vec<NodeId> = (1..=self.nodes).map(NodeId).filter(|other| *other != node).collect();
                cut(&[host(node)], &[host(*self.one_of(&others))], since, until)
            }
        };
        self.ambushes.push((at, strike));
        let target = self.node();
        self.actions.push((at, self.shift(target)));
    }

    /// One fault, from `at` until it is over.
    fn fault(&mut self, at: Duration) {
        let node = self.node();
        // Most faults are short beside a lease, some outlast it.
        let until = at + if self.random.below(3) == 0 { self.millis(1_000, FAULT_MS) } else { self.millis(20, 2_000) };
        let hosts = self.hosts_but(node);
        let other = self.one_of(&hosts).clone();
        let name = host(node);
        let both = |first: Action, then: Action| vec![(at, first), (until, then)];
        let actions = match self.random.below(27) {
            0..=2 => self.death(node, Action::Kill(node), at, until),
            3 | 4 => self.death(node, Action::CutPower(node), at, until),
            5 => both(Action::Stop(node), Action::Start(node)),
            6 | 7 => both(Action::Freeze(node), Action::Thaw(node)),
            8 => cut(&[name], &[other], at, until),
            9 => cut(&[other], &[name], at, until),
            10..=12 => self.cut_off(node, at, until),
            13 => both(Action::Hold(name.clone(), other.clone()), Action::Release(name, other)),
            14 => {
                let hour = 3_600_000;
                let by = i64::try_from(self.random.below(2 * hour)).unwrap_or(0) - i64::try_from(hour).unwrap_or(0);
                vec![(at, Action::Jump(node, by))]
            }
            15 => both(Action::SlowDisk(node, self.slowness()), Action::SlowDisk(node, 1)),
            16 => match self.random.below(2) {
                0 => both(Action::FullDisk(node, true), Action::FullDisk(node, false)),
                _ => vec![(at, Action::FailSync(node))],
            },
            17 => {
                let kind = *self.one_of(&StoreTrouble::ALL);
                both(Action::Store(kind), Action::Store(StoreTrouble::None))
            }
            18 => {
                let permille = 1 + u32::try_from(self.random.below(50)).unwrap_or(0);
                let lose = |permille| Action::Lose(name.clone(), other.clone(), permille);
                both(lose(permille), lose(0))
            }
            19 | 20 => both(Action::Order(Order::Drain(node)), Action::Order(Order::Resume(node))),
            21 | 22 => vec![(at, self.shift(node))],
            _ => return self.ambush(node, at, until - at),
        };
        self.actions.extend(actions);
    }
}

/// Messages from any of `these` to any of `those` are dropped for a while.
fn cut(these: &[String], those: &[String], at: Duration, until: Duration) -> Vec<(Duration, Action)> {
    let pairs = these.iter().flat_map(|from| those.iter().map(move |to| (from.clone(), to.clone())));
    let both =
        |(from, to): (String, String)| [(at, Action::Cut(from.clone(), to.clone())), (until, Action::Mend(from, to))];
    pairs.flat_map(both).collect()
}

impl Nemesis {
    /// Draws what will happen.
    #[must_use]
    pub fn new(seed: u64, nodes: i32, partitions: u32) -> Self {
        let random = SeededRandom::new(seed ^ 0x006e_656d_6573_6973);
        let mut draw = Draw { random, nodes, partitions, actions: Vec::new(), ambushes: Vec::new() };
        let length_ms = 4_000 + draw.random.below(12_000);
        let faults = 1 + draw.random.below(12);
        let mut at = Duration::ZERO;
        for turn in 0..faults {
            // Misfortunes come together: one strikes what another one began.
            let together = turn > 0 && draw.random.below(3) == 0;
            at = if together { at + draw.millis(0, 300) } else { draw.millis(100, length_ms) };
            draw.fault(at);
        }
        if draw.random.below(5) == 0 {
            let (node, percent) = (draw.node(), *draw.one_of(&[20, 400, 600, 1000]));
            let at = draw.millis(100, length_ms / 2);
            draw.actions.extend([(at, Action::Pace(node, percent))]);
        }
        if draw.random.below(5) == 0 {
            // The object store is in trouble for long, so that much lies in logs alone.
            let trouble = *draw.one_of(&StoreTrouble::ALL);
            let at = draw.millis(100, length_ms / 2);
            let until = at + draw.millis(length_ms / 4, length_ms);
            draw.actions.extend([(at, Action::Store(trouble)), (until, Action::Store(StoreTrouble::None))]);
        }
        if draw.random.below(4) == 0 {
            // A rolling restart.
            for (turn, node) in (0..).zip(1..=nodes) {
                let at = Duration::from_millis(length_ms / 8 + turn * length_ms / 4);
                let stop = (at, Action::Stop(NodeId(node)));
                draw.actions.extend([stop, (at + Duration::from_millis(500), Action::Start(NodeId(node)))]);
            }
        }
        draw.actions.sort_by_key(|(at, _)| *at);
        draw.ambushes.sort_by_key(|(at, _)| *at);
        Self {
            actions: draw.actions.into(),
            ambushes: draw.ambushes.into(),
            length: Duration::from_millis(length_ms),
            faults,
            wanted: (1..=nodes).map(NodeId).collect(),
            down: BTreeMap::new(),
            frozen: BTreeSet::new(),
        }
    }

    /// Does everything that is due `since` the beginning.
    pub fn strike(&mut self, sim: &mut Sim<'_>, world: &World, since: Duration) {
        if let Some((_, strike)) = self.ambushes.pop_front_if(|(at, _)| *at <= since && is_moving(world)) {
            self.actions.extend(strike.into_iter().map(|(after, action)| (since + after, action)));
            self.actions.make_contiguous().sort_by_key(|(at, _)| *at);
        }
        while let Some((_, action)) = self.actions.pop_front_if(|(at, _)| *at <= since) {
            self.apply(&action, sim, world);
        }
        self.revive(sim, world);
    }

    /// Mends everything, and gives up what was still to come.
    pub fn heal(&mut self, sim: &mut Sim<'_>, world: &World) {
        self.actions.clear();
        self.ambushes.clear();
        self.frozen.clear();
        let hosts: Vec<String> = world.node_ids().map(host).chain(CLIENT_HOSTS.map(str::to_owned)).collect();
        for (index, a) in hosts.iter().enumerate() {
            for b in &hosts[..index] {
                sim.set_link_fail_rate(a.as_str(), b.as_str(), 0.0);
                sim.repair(a.as_str(), b.as_str());
                sim.release(a.as_str(), b.as_str());
            }
        }
        for node in world.node_ids() {
            let machine = world.node(node);
            machine.disk.set_slowness(1);
            machine.disk.set_full(false);
            machine.disk.fail_syncs(0);
            machine.disk.set_frozen(false);
            machine.clocks.thaw();
            machine.clocks.set_pace(TRUE_PACE);
            machine.faults.set(sound_store());
            world.orders.lock().push_back(Order::Resume(node));
            self.wanted.insert(node);
        }
        self.revive(sim, world);
    }

    /// Starts the processes that do not run and should, as whoever looks after services does.
    pub fn revive(&mut self, sim: &mut Sim<'_>, world: &World) {
        let now = sim.elapsed();
        for node in &self.wanted {
            if sim.is_host_running(host(*node)) {
                self.down.remove(node);
            } else if now.saturating_sub(*self.down.entry(*node).or_insert(now)) >= RESTART {
                let machine = world.node(*node);
                machine.stop.store(false, Ordering::SeqCst);
                sim.bounce(host(*node));
            }
        }
    }

    fn apply(&mut self, action: &Action, sim: &mut Sim<'_>, world: &World) {
        world.trace.line("nemesis", &format!("{action:?}"));
        match action {
            Action::Kill(node) => self.kill(sim, world, *node),
            Action::CutPower(node) => {
                let others: Vec<String> = world.node_ids().map(host).chain(CLIENT_HOSTS.map(str::to_owned)).collect();
                let others: Vec<String> = others.into_iter().filter(|other| *other != host(*node)).collect();
                // Nobody is told, as a process that is killed has its kernel tell.
                others.iter().for_each(|other| sim.partition_oneway(host(*node), other.as_str()));
                self.kill(sim, world, *node);
                others.iter().for_each(|other| sim.repair_oneway(host(*node), other.as_str()));
                world.disks.cut_power(*node);
                world.node(*node).raft.cut_power(&world.random);
            }
            Action::Stop(node) => {
                self.wanted.remove(node);
                world.node(*node).stop.store(true, Ordering::SeqCst);
            }
            Action::Start(node) => drop(self.wanted.insert(*node)),
            Action::Freeze(node) => {
                world.let_be_late();
                self.frozen.insert(host(*node));
                world.node(*node).disk.set_frozen(true);
                world.node(*node).clocks.freeze();
                each_other(world, *node, |other| sim.hold(host(*node), other));
            }
            Action::Thaw(node) => {
                self.frozen.remove(&host(*node));
                world.node(*node).clocks.thaw();
                world.node(*node).disk.set_frozen(false);
                each_other(world, *node, |other| sim.release(host(*node), other));
            }
            Action::Cut(from, to) => sim.partition_oneway(from.as_str(), to.as_str()),
            // The thaw does it.
            Action::Mend(a, b) | Action::Release(a, b) if self.frozen.contains(a) || self.frozen.contains(b) => {}
            Action::Mend(from, to) => sim.repair_oneway(from.as_str(), to.as_str()),
            Action::Hold(a, b) => {
                world.let_be_late();
                sim.hold(a.as_str(), b.as_str());
            }
            Action::Release(a, b) => sim.release(a.as_str(), b.as_str()),
            Action::Lose(a, b, permille) => {
                sim.set_link_fail_rate(a.as_str(), b.as_str(), f64::from(*permille) / 1000.0);
            }
            Action::Jump(node, by) => world.node(*node).clocks.jump(*by),
            Action::Pace(node, percent) => {
                world.judge.allow_stale();
                world.node(*node).clocks.set_pace(*percent);
            }
            Action::SlowDisk(node, times) => world.node(*node).disk.set_slowness(*times),
            Action::FullDisk(node, full) => world.node(*node).disk.set_full(*full),
            Action::FailSync(node) => {
                world.node(*node).may_fail.store(true, Ordering::SeqCst);
                world.node(*node).disk.fail_syncs(1);
            }
            Action::Store(trouble) => world.node_ids().for_each(|node| world.node(node).faults.set(trouble.plan())),
            Action::Order(order) => world.orders.lock().push_back(*order),
        }
    }

    fn kill(&mut self, sim: &mut Sim<'_>, world: &World, node: NodeId) {
        self.wanted.remove(&node);
        world.node(node).ready.store(false, Ordering::SeqCst);
        // First the disk: what is dropped with the process must not write.
        world.node(node).disk.kill();
        if sim.is_host_running(host(node)) {
            sim.crash(host(node));
        }
    }
}

/// Whether partitions are being given away, and so far that somebody may have taken them.
fn is_moving(world: &World) -> bool {
    world.brokers().any(|(_, broker)| {
        let is_reserved = || broker.metadata.image().streams.values().any(|stream| stream.reserved.is_some());
        broker.mover.counters.under_way.load(Ordering::Relaxed) > 0 && is_reserved()
    })
}

fn each_other(world: &World, node: NodeId, mut act: impl FnMut(String)) {
    let others = world.node_ids().filter(|other| *other != node).map(host);
    others.chain(CLIENT_HOSTS.map(str::to_owned)).for_each(&mut act);
}
