//! What goes wrong, and when: drawn from the seed before the run begins.

use std::time::Duration;

use common::{NodeId, Random, SeededRandom};
use turmoil::Sim;

use crate::node::host;
use crate::world::World;

/// Something that is done to the cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// kill -9: the process is gone, what it wrote is there.
    Kill(NodeId),
    /// The process is started again.
    Start(NodeId),
    /// The process is asked to stop, as by SIGTERM.
    Stop(NodeId),
    /// Messages from the first to the second host are dropped.
    Cut(String, String),
    /// They are delivered again.
    Mend(String, String),
    /// Messages between two hosts are held back.
    Hold(String, String),
    /// What was held back is delivered.
    Release(String, String),
    /// The wall clock of a node jumps by so many milliseconds.
    Jump(NodeId, i64),
}

/// Actions by the time from the beginning of the faults, in order.
#[derive(Debug)]
pub struct Plan {
    /// What happens when.
    pub actions: Vec<(Duration, Action)>,
    /// How long faults strike.
    pub length: Duration,
}

/// Hosts from which clients work.
pub const CLIENT_HOSTS: [&str; 2] = ["c1", "c2"];

fn millis(random: &dyn Random, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + random.below(to - from))
}

/// Draws a plan.
#[must_use]
pub fn draw(seed: u64, nodes: i32) -> Plan {
    let random = SeededRandom::new(seed ^ 0x006e_656d_6573_6973);
    let length = millis(&random, 6_000, 14_000);
    let faults = 1 + random.below(6);
    let mut actions = Vec::new();
    for _ in 0..faults {
        let at = millis(&random, 200, u64::try_from(length.as_millis()).unwrap_or(1_000));
        draw_one(&random, nodes, at, &mut actions);
    }
    actions.sort_by_key(|(at, _)| *at);
    Plan { actions, length }
}

fn draw_one(random: &dyn Random, nodes: i32, at: Duration, actions: &mut Vec<(Duration, Action)>) {
    let node = NodeId(1 + i32::try_from(random.below(u64::from(nodes.unsigned_abs()))).unwrap_or(0));
    let until = at + millis(random, 50, 5_000);
    let other = another(random, nodes, node);
    let name = host(node);
    match random.below(8) {
        0 | 1 => actions.extend([(at, Action::Kill(node)), (until, Action::Start(node))]),
        2 => actions.extend([(at, Action::Stop(node)), (until, Action::Start(node))]),
        3 => {
            actions.extend([(at, Action::Cut(name.clone(), other.clone())), (until, Action::Mend(name, other))]);
        }
        4 => {
            for (from, to) in [(name.clone(), other.clone()), (other, name)] {
                let cut = Action::Cut(from.clone(), to.clone());
                actions.extend([(at, cut), (until, Action::Mend(from, to))]);
            }
        }
        5 => {
            actions.extend([(at, Action::Hold(name.clone(), other.clone())), (until, Action::Release(name, other))]);
        }
        6 => {
            for peer in (1..=nodes).map(NodeId).filter(|peer| *peer != node).map(host) {
                for (from, to) in [(name.clone(), peer.clone()), (peer, name.clone())] {
                    let cut = Action::Cut(from.clone(), to.clone());
                    actions.extend([(at, cut), (until, Action::Mend(from, to))]);
                }
            }
        }
        _ => {
            let hour = 3_600_000;
            let by = i64::try_from(random.below(2 * hour)).unwrap_or(0) - i64::try_from(hour).unwrap_or(0);
            actions.push((at, Action::Jump(node, by)));
        }
    }
}

/// Another broker's host, or a clients'.
fn another(random: &dyn Random, nodes: i32, node: NodeId) -> String {
    let mut others: Vec<String> = (1..=nodes).map(NodeId).filter(|other| *other != node).map(host).collect();
    others.extend(CLIENT_HOSTS.map(str::to_owned));
    let chosen = usize::try_from(random.below(others.len() as u64)).unwrap_or(0);
    others.swap_remove(chosen)
}

impl Action {
    /// Does it.
    pub fn apply(&self, sim: &mut Sim<'_>, world: &World) {
        world.trace.line("nemesis", &format!("{self:?}"));
        match self {
            Self::Kill(node) => sim.crash(host(*node)),
            Self::Start(node) => start(sim, world, *node),
            Self::Stop(node) => world.node(*node).stop.store(true, std::sync::atomic::Ordering::SeqCst),
            Self::Cut(from, to) => sim.partition_oneway(from.as_str(), to.as_str()),
            Self::Mend(from, to) => sim.repair_oneway(from.as_str(), to.as_str()),
            Self::Hold(a, b) => sim.hold(a.as_str(), b.as_str()),
            Self::Release(a, b) => sim.release(a.as_str(), b.as_str()),
            Self::Jump(node, by) => world.node(*node).clocks.jump(*by),
        }
    }
}

/// Starts a process that does not run. One that still stops is let finish first: see [`heal`].
fn start(sim: &mut Sim<'_>, world: &World, node: NodeId) {
    let machine = world.node(node);
    if sim.is_host_running(host(node)) {
        return;
    }
    machine.stop.store(false, std::sync::atomic::Ordering::SeqCst);
    machine.clocks.thaw();
    sim.bounce(host(node));
}

/// Mends everything that does not need the processes to run.
pub fn heal(sim: &mut Sim<'_>, world: &World) {
    let mut hosts: Vec<String> = world.node_ids().map(host).collect();
    hosts.extend(CLIENT_HOSTS.map(str::to_owned));
    for (index, a) in hosts.iter().enumerate() {
        for b in &hosts[..index] {
            sim.repair(a.as_str(), b.as_str());
            sim.release(a.as_str(), b.as_str());
        }
    }
}

/// Starts every process that does not run.
pub fn revive(sim: &mut Sim<'_>, world: &World) {
    for node in world.node_ids() {
        if !sim.is_host_running(host(node)) {
            world.trace.line("nemesis", &format!("Start({node:?})"));
            start(sim, world, node);
        }
    }
}
