//! Runs a drill: load, disturbance, healing, reading back. It decides what happens when; what the clients see is in
//! the ledger, and what it means is for `figures`.

mod group;
mod load;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use common::Clock;

use crate::client::{Clients, Operator, Range, View};
use crate::ledger::{Closed, Ledger};
use crate::plan::{Action, Plan};
pub use watch::{Sample, Sighting};
use watch::{Seen, Watch};

/// How often something that is waited for is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long the measurement of the highest rate takes, and how much of its beginning does not count.
const MEASURE: Duration = Duration::from_secs(10);
const MEASURE_SKIP: Duration = Duration::from_secs(4);

/// A cluster, its clients, and who has power over it.
pub struct Drill<'a> {
    /// The client library.
    pub clients: &'a dyn Clients,
    /// The cluster's answers about itself.
    pub view: &'a dyn View,
    /// Who does things to it.
    pub operator: &'a dyn Operator,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Told what is going on, a line at a time.
    pub tell: &'a (dyn Fn(&str) + Sync),
    /// Set when the drill shall end at once: what was done to the cluster is undone first.
    pub interrupted: &'a AtomicBool,
}

/// Which broker a run is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// Another one each run.
    Rotate,
    /// This one.
    Node(u32),
    /// The leader of the metadata quorum.
    Controller,
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What.
    pub action: Action,
    /// When it was begun, in microseconds of the run.
    pub from_us: u64,
    /// When the operator's command had ended.
    pub to_us: u64,
    /// It was done after the load, to make the cluster whole.
    pub healing: bool,
}

/// One run, as it was.
pub struct Record {
    /// The broker aimed at.
    pub victim: u32,
    /// The brokers there were at the beginning.
    pub nodes: Vec<u32>,
    /// What was done, in order.
    pub done: Vec<Done>,
    /// When the load had gone on undisturbed for long enough to compare with.
    pub steady_us: u64,
    /// When the load was ended.
    pub load_end_us: u64,
    /// When the producers had settled what was under way.
    pub settled_us: u64,
    /// Who led what, at each change.
    pub sightings: Vec<Sighting>,
    /// What went between brokers, by time.
    pub samples: Vec<Sample>,
    /// Payload bytes that the topic held when the first action was taken.
    pub retained_bytes: u64,
    /// Whether the group read to the end in time.
    pub group_drained: bool,
    /// What the clients saw.
    pub closed: Closed,
    /// Payload bytes a second that were asked for.
    pub rate: f64,
}

/// What the threads of a run share.
struct Stage<'a> {
    drill: &'a Drill<'a>,
    plan: &'a Plan,
    topic: String,
    group: String,
    ledger: Arc<Ledger>,
    rate: f64,
    load_over: AtomicBool,
    group_over: AtomicBool,
    watch_over: AtomicBool,
}

impl Drill<'_> {
    /// Payload bytes a second that the cluster takes from these clients, with the group reading along.
    ///
    /// # Errors
    /// The cluster does not work.
    pub fn measure(&self, plan: &Plan, run: u64) -> Result<f64> {
        (self.tell)("measuring what the cluster takes");
        let stage = self.stage(plan, run, f64::INFINITY)?;
        let rate = std::thread::scope(|scope| -> Result<f64> {
            let load = load::start(scope, &stage)?;
            let group = group::start(scope, &stage)?;
            let measured = stage.measure();
            stage.load_over.store(true, Relaxed);
            stage.group_over.store(true, Relaxed);
            join(load)?;
            join(group)?;
            measured
        })?;
        self.clients.delete_topic(&stage.topic)?;
        (self.tell)(&format!("it takes {:.1} MB/s", rate / 1e6));
        ensure!(rate > 0.0, "the cluster took nothing");
        Ok(rate)
    }

    /// One run; `number` counts from 0, `run` is a number that no other run has.
    ///
    /// # Errors
    /// The cluster does not work before anything was done to it, an action fails, or it does not come back.
    pub fn run(&self, plan: &Plan, victim: Victim, number: u32, run: u64, rate: f64) -> Result<Record> {
        let nodes = self.nodes(plan)?;
        let victim = match victim {
            Victim::Node(node) => node,
            Victim::Controller => self.controller().context("no broker tells who leads the metadata quorum")?,
            Victim::Rotate => nodes[number as usize % nodes.len()],
        };
        ensure!(nodes.contains(&victim), "there is no live node {victim} among {nodes:?}");
        let stage = self.stage(plan, run, rate)?;
        let record = std::thread::scope(|scope| {
            let watch = Watch::start(scope, &stage);
            let outcome = stage.disturb(scope, nodes, victim, &watch);
            // Whatever went wrong, nobody is left running.
            for over in [&stage.load_over, &stage.group_over, &stage.watch_over] {
                over.store(true, Relaxed);
            }
            outcome
        })?;
        self.clients.delete_topic(&stage.topic)?;
        Ok(record)
    }

    /// The leader of the metadata quorum; in some clusters it alone tells.
    fn controller(&self) -> Option<u32> {
        let ask = |address: &String| self.view.observe(address).ok()?.controller().ok()?;
        self.view.bootstrap().iter().find_map(ask)
    }

    /// The live brokers, once all are there.
    fn nodes(&self, plan: &Plan) -> Result<Vec<u32>> {
        let mut problem = anyhow!("no bootstrap servers");
        let end = self.clock.boot() + plan.patience;
        while self.clock.boot() < end {
            for address in self.view.bootstrap() {
                let overview = self.view.observe(&address).and_then(|mut observer| observer.overview(""));
                let nodes = overview.map(|told| told.brokers.iter().map(|broker| broker.id).collect::<Vec<_>>());
                match nodes {
                    Ok(nodes) if nodes.len() >= plan.brokers => return Ok(nodes),
                    Ok(nodes) => problem = anyhow!("of {} brokers only {nodes:?} are there", plan.brokers),
                    Err(error) => problem = error.context(address),
                }
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Err(problem)
    }

    fn stage<'s>(&'s self, plan: &'s Plan, run: u64, rate: f64) -> Result<Stage<'s>> {
        let topic = format!("drill-{run:016x}");
        self.clients.create_topic(&topic, plan.partitions, plan.replication)?;
        Ok(Stage {
            drill: self,
            plan,
            group: topic.clone(),
            topic,
            ledger: Arc::new(Ledger::new(Arc::clone(&self.clock), run, plan.partitions)),
            rate,
            load_over: AtomicBool::new(false),
            group_over: AtomicBool::new(false),
            watch_over: AtomicBool::new(false),
        })
    }
}

type Threads<'scope> = Vec<std::thread::ScopedJoinHandle<'scope, ()>>;

fn join(threads: Threads<'_>) -> Result<()> {
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a client's thread panicked")))
}

/// How it was before anything was done.
struct Quiet {
    steady_us: u64,
    retained_bytes: u64,
}

impl Stage<'_> {
    /// Payload bytes a second, once the load has got going.
    fn measure(&self) -> Result<f64> {
        self.wait("the load gets going", || self.ledger.under_way(false))?;
        self.rest(MEASURE_SKIP)?;
        let before = self.ledger.acked_bytes();
        self.rest(MEASURE - MEASURE_SKIP)?;
        Ok((self.ledger.acked_bytes() - before) as f64 / (MEASURE - MEASURE_SKIP).as_secs_f64())
    }

    /// Lets the load go on for a while.
    fn rest(&self, time: Duration) -> Result<()> {
        let end = self.drill.clock.boot() + time;
        loop {
            ensure!(!self.drill.interrupted.load(Relaxed), "interrupted");
            let left = end.saturating_sub(self.drill.clock.boot());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK_INTERVAL));
        }
    }

    fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
        let end = self.drill.clock.boot() + self.plan.patience;
        while !condition() {
            ensure!(!self.drill.interrupted.load(Relaxed), "interrupted");
            if self.drill.clock.boot() > end {
                bail!("waited {:?} in vain until {what}", self.plan.patience);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn disturb<'scope, 'env>(
        &'env self,
        scope: &'scope std::thread::Scope<'scope, 'env>,
        nodes: Vec<u32>,
        victim: u32,
        watch: &Watch,
    ) -> Result<Record> {
        let ledger = &self.ledger;
        let load = load::start(scope, self)?;
        let group = group::start(scope, self)?;
        let mut done = Vec::new();
        let quiet = self.under_load(&nodes, victim, &mut done);
        self.load_over.store(true, Relaxed);
        let load_end_us = ledger.now_us();
        // Whatever went wrong, the cluster is not left as it is.
        let actions: Vec<Action> = done.iter().map(|one| one.action).collect();
        let (possible, impossible): (Vec<_>, Vec<_>) =
            self.plan.heal(&actions).into_iter().partition(|action| self.drill.operator.can(*action));
        for action in impossible {
            (self.drill.tell)(&format!("nobody said how to {action}: it stays as it is"));
        }
        let healed = possible.into_iter().try_for_each(|action| self.act(action, true, &mut done));
        let Quiet { steady_us, retained_bytes } = quiet?;
        healed?;
        join(load)?;
        let settled_us = ledger.now_us();
        (self.drill.tell)("reading everything back");
        let ranges = self.ranges()?;
        let ends: Vec<u64> = ranges.iter().map(|range| range.end).collect();
        let group_drained =
            group.is_empty() || self.wait("the group has read all", || ledger.polled_up_to(&ends)).is_ok();
        self.group_over.store(true, Relaxed);
        join(group)?;
        self.watch_over.store(true, Relaxed);
        self.judge(&ranges)?;
        let Seen { sightings, samples } = watch.seen();
        let closed = ledger.close()?;
        let rate = self.rate;
        Ok(Record {
            victim,
            nodes,
            done,
            steady_us,
            load_end_us,
            settled_us,
            sightings,
            samples,
            retained_bytes,
            group_drained,
            closed,
            rate,
        })
    }

    /// The load in peace, then what is done to the cluster, then the load until its end.
    fn under_load(&self, nodes: &[u32], victim: u32, done: &mut Vec<Done>) -> Result<Quiet> {
        let ledger = &self.ledger;
        self.wait("every partition and the group work", || ledger.under_way(self.plan.members > 0))?;
        let steady_us = ledger.now_us();
        self.rest(self.plan.steady())?;
        let retained_bytes = ledger.acked_bytes();
        for step in self.plan.steps(nodes, victim) {
            self.rest(step.after)?;
            self.act(step.action, false, done)?;
        }
        let so_far = Duration::from_micros(ledger.now_us() - steady_us);
        self.rest(self.plan.seconds.saturating_sub(so_far).max(self.plan.quiet))?;
        Ok(Quiet { steady_us, retained_bytes })
    }

    /// An action that fails may have been half done, so it counts as done.
    fn act(&self, action: Action, healing: bool, done: &mut Vec<Done>) -> Result<()> {
        (self.drill.tell)(&format!("{action}{}", if healing { ", to heal" } else { "" }));
        let from_us = self.ledger.now_us();
        let outcome = self.drill.operator.act(action);
        done.push(Done { action, from_us, to_us: self.ledger.now_us(), healing });
        outcome
    }

    /// Start and end of every partition, once every one has a leader that tells.
    fn ranges(&self) -> Result<Vec<Range>> {
        let mut found: Vec<Option<Range>> = vec![None; self.plan.partitions as usize];
        self.wait("every partition tells its end", || {
            let missing: Vec<u32> =
                (0..self.plan.partitions).filter(|&partition| found[partition as usize].is_none()).collect();
            for range in watch::ask_everybody(self.drill.view, &self.topic, &missing) {
                found[range.partition as usize] = Some(range);
            }
            found.iter().all(Option::is_some)
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Reads everything back into the ledger.
    fn judge(&self, ranges: &[Range]) -> Result<()> {
        let (ledger, clients) = (&self.ledger, self.drill.clients);
        for range in ranges {
            ledger.read_range(range.partition, range.start, range.end);
            if self.plan.members > 0 {
                ledger.drained(range.partition, range.start, range.end);
            }
        }
        if self.plan.members > 0 {
            let floors = ledger.floors();
            let committed = clients.committed(&self.topic, &self.group, self.plan.partitions)?;
            for (partition, offset) in committed.into_iter().enumerate() {
                ledger.group_offset(partition as u32, offset, &floors);
            }
        }
        clients.read_back(&self.topic, ranges, self.plan.patience, &mut |partition, offset, payload| {
            ledger.read_back(partition, offset, payload);
        })
    }
}
