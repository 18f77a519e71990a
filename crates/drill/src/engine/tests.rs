//! The engine on a cluster in memory, whose faults are planted: what it reports is what was done to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use common::{Clock, SystemClock};
use parking_lot::Mutex;

use super::{Drill, Victim};
use crate::client::{
    Broker, Clients, Leader, Member, Observer, Operator, Overview, Producer, Range, Refusal, Traffic, View,
};
use crate::figures::{Figures, figures};
use crate::history::Outcome;
use crate::ledger::Ledger;
use crate::plan::tests::plan;
use crate::plan::{Action, Plan, Scenario};

const FAIL_OVER: Duration = Duration::from_millis(300);

/// What is wrong with the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// A fail-over forgets the last acknowledged record.
    Loses,
    /// A fail-over writes the last record once more.
    Repeats,
    /// A dead broker goes on answering what it knew.
    Haunts,
    /// Nobody takes over, and who comes back leads nothing.
    Abandons,
}

#[derive(Debug)]
struct Log {
    leader: u32,
    epoch: i32,
    records: Vec<Vec<u8>>,
    /// Records when its last leader died.
    frozen: usize,
    dead_since: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    down: BTreeSet<u32>,
    logs: Vec<Log>,
    committed: BTreeMap<u32, u64>,
}

#[derive(Clone)]
struct Fake {
    planted: Planted,
    state: Arc<Mutex<State>>,
}

const NODES: [u32; 3] = [1, 2, 3];

impl Fake {
    fn new(planted: Planted) -> Self {
        Self { planted, state: Arc::default() }
    }

    /// Who leads, after those who are due took over.
    fn settle(&self, state: &mut State) {
        let now = SystemClock.boot();
        let State { down, logs, .. } = state;
        for log in logs.iter_mut() {
            let Some(since) = log.dead_since else { continue };
            if self.planted == Planted::Abandons || now < since + FAIL_OVER {
                continue;
            }
            let next = NODES.iter().copied().find(|node| !down.contains(node) && *node != log.leader);
            (log.leader, log.epoch, log.dead_since) = (next.expect("somebody lives"), log.epoch + 1, None);
            match self.planted {
                Planted::Loses => drop(log.records.pop()),
                Planted::Repeats => log.records.extend(log.records.last().cloned()),
                _ => {}
            }
        }
    }

    fn append(&self, partition: u32, payload: &[u8]) -> Option<u64> {
        let mut state = self.state.lock();
        self.settle(&mut state);
        let log = &mut state.logs[partition as usize];
        log.dead_since.is_none().then(|| {
            log.records.push(payload.to_vec());
            log.records.len() as u64 - 1
        })
    }
}

impl Clients for Fake {
    fn create_topic(&self, _: &str, partitions: u32, _: i16) -> Result<()> {
        let log = |partition| Log {
            leader: NODES[partition as usize % NODES.len()],
            epoch: 0,
            records: Vec::new(),
            frozen: 0,
            dead_since: None,
        };
        self.state.lock().logs = (0..partitions).map(log).collect();
        Ok(())
    }

    fn delete_topic(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn producer(&self, _: &str, ledger: Arc<Ledger>) -> Result<Box<dyn Producer>> {
        Ok(Box::new(FakeProducer { fake: self.clone(), ledger, waiting: Mutex::default() }))
    }

    fn member(&self, _: &str, _: &str, number: u32, ledger: Arc<Ledger>) -> Result<Box<dyn Member>> {
        Ok(Box::new(FakeMember { fake: self.clone(), number, ledger, positions: BTreeMap::new() }))
    }

    fn read_back(&self, _: &str, ranges: &[Range], _: Duration, take: &mut dyn FnMut(u32, u64, &[u8])) -> Result<()> {
        let state = self.state.lock();
        for range in ranges {
            for (offset, record) in state.logs[range.partition as usize].records.iter().enumerate() {
                take(range.partition, offset as u64, record);
            }
        }
        Ok(())
    }

    fn committed(&self, _: &str, _: &str, partitions: u32) -> Result<Vec<Option<u64>>> {
        let state = self.state.lock();
        Ok((0..partitions).map(|partition| state.committed.get(&partition).copied()).collect())
    }
}

struct FakeProducer {
    fake: Fake,
    ledger: Arc<Ledger>,
    waiting: Mutex<BTreeMap<u32, VecDeque<Vec<u8>>>>,
}

impl FakeProducer {
    fn push(&self) -> bool {
        let mut waiting = self.waiting.lock();
        for (&partition, queue) in waiting.iter_mut() {
            while let Some(payload) = queue.front() {
                let Some(offset) = self.fake.append(partition, payload) else { break };
                self.ledger.outcome(payload, Outcome::Acked { offset: Some(offset) });
                queue.pop_front();
            }
        }
        waiting.values().all(VecDeque::is_empty)
    }
}

impl Producer for FakeProducer {
    fn send(&self, partition: u32, payload: &[u8]) -> Result<(), Refusal> {
        self.waiting.lock().entry(partition).or_default().push_back(payload.to_vec());
        self.push();
        Ok(())
    }

    fn flush(&self, patience: Duration) {
        let end = SystemClock.boot() + patience;
        while !self.push() && SystemClock.boot() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

struct FakeMember {
    fake: Fake,
    number: u32,
    ledger: Arc<Ledger>,
    positions: BTreeMap<u32, u64>,
}

impl Member for FakeMember {
    fn poll(&mut self, _: Duration) {
        std::thread::sleep(Duration::from_millis(5));
        let state = self.fake.state.lock();
        for (partition, log) in state.logs.iter().enumerate().filter(|(p, _)| *p as u32 % 2 == self.number) {
            let partition = partition as u32;
            let next = self.positions.entry(partition).or_insert_with(|| {
                self.ledger.assigned(self.number, partition);
                0
            });
            while *next < log.records.len() as u64 {
                self.ledger.polled(self.number, partition, *next);
                *next += 1;
            }
        }
    }

    fn commit(&mut self) {
        for (&partition, &next) in &self.positions {
            self.fake.state.lock().committed.insert(partition, next);
            self.ledger.committed(self.number, partition, next);
        }
    }

    fn leave(mut self: Box<Self>) {
        self.commit();
    }
}

impl View for Fake {
    fn bootstrap(&self) -> Vec<String> {
        NODES.map(|node| node.to_string()).to_vec()
    }

    fn observe(&self, address: &str) -> Result<Box<dyn Observer>> {
        Ok(Box::new(FakeObserver { fake: self.clone(), node: address.parse()? }))
    }
}

struct FakeObserver {
    fake: Fake,
    node: u32,
}

impl FakeObserver {
    fn haunts(&self, state: &State) -> Result<bool> {
        let down = state.down.contains(&self.node);
        ensure!(!down || self.fake.planted == Planted::Haunts, "nobody listens");
        Ok(down)
    }
}

impl Observer for FakeObserver {
    fn overview(&mut self, _: &str) -> Result<Overview> {
        let mut state = self.fake.state.lock();
        self.haunts(&state)?;
        self.fake.settle(&mut state);
        let live = NODES.iter().filter(|node| !state.down.contains(node));
        let brokers = live.map(|&id| Broker { id, address: id.to_string() }).collect();
        let leader = |log: &Log| Leader { node: log.dead_since.is_none().then_some(log.leader), epoch: log.epoch };
        Ok(Overview { brokers, leaders: state.logs.iter().map(leader).collect() })
    }

    fn offsets(&mut self, _: &str, partitions: &[u32]) -> Result<Vec<Range>> {
        let state = self.fake.state.lock();
        let haunts = self.haunts(&state)?;
        let told = partitions.iter().filter_map(|&partition| {
            let log = &state.logs[partition as usize];
            let end = if haunts { log.frozen } else { log.records.len() };
            let leads = haunts || log.leader == self.node && log.dead_since.is_none();
            leads.then_some(Range { partition, start: 0, end: end as u64 })
        });
        Ok(told.collect())
    }

    fn controller(&mut self) -> Result<Option<u32>> {
        Ok((self.node == 2).then_some(2))
    }
}

impl Operator for Fake {
    fn act(&self, action: Action) -> Result<()> {
        let mut state = self.state.lock();
        match action {
            Action::Kill(node) => {
                let now = SystemClock.boot();
                state.down.insert(node);
                for log in state.logs.iter_mut().filter(|log| log.leader == node) {
                    (log.dead_since, log.frozen) = (Some(now), log.records.len());
                }
            }
            Action::Start(node) => drop(state.down.remove(&node)),
            other => panic!("{other} is not tried here"),
        }
        Ok(())
    }

    fn can(&self, _: Action) -> bool {
        true
    }

    fn traffic(&self) -> Traffic {
        let records: usize = self.state.lock().logs.iter().map(|log| log.records.len()).sum();
        Traffic { kernel_bytes: Some(records as u64 * 10), tail_bytes: None }
    }
}

fn drill<'a>(fake: &'a Fake, interrupted: &'a AtomicBool) -> Drill<'a> {
    let clock = Arc::new(SystemClock);
    Drill { clients: fake, view: fake, operator: fake, clock, tell: &|_: &str| (), interrupted }
}

fn short() -> Plan {
    Plan {
        seconds: Duration::from_millis(2400),
        quiet: Duration::from_millis(900),
        patience: Duration::from_secs(10),
        partitions: 9,
        ..plan(Scenario::Kill)
    }
}

/// A drill of a second or two, aimed at the controller, node 2.
fn kill(planted: Planted, adjust: impl FnOnce(&mut Plan)) -> Result<Figures> {
    let fake = Fake::new(planted);
    let interrupted = AtomicBool::new(false);
    let drill = drill(&fake, &interrupted);
    let mut plan = short();
    adjust(&mut plan);
    let record = drill.run(&plan, Victim::Controller, 0, 77, 90_000.0)?;
    Ok(figures(&plan, &record))
}

#[test]
fn a_fail_over_is_seen_where_it_is_and_nowhere_else() {
    let figures = kill(Planted::Nothing, |_| ()).expect("it runs");
    assert!(figures.is_clean(), "{}", figures.verdict);
    assert_eq!((figures.victim, figures.affected_partitions), (2, 3));
    assert!(figures.acked > 1200 && figures.acked == figures.sent && figures.unknown == 0, "{}", figures.verdict);
    assert!(figures.polled == figures.acked && figures.commits > 0, "{}", figures.verdict);
    for one in &figures.partitions {
        assert_eq!(one.affected, one.leader == Some(2), "{one:?}");
        let out = Duration::from_micros(one.unavailable_us);
        match one.affected {
            true => assert!(out > FAIL_OVER / 2 && out < FAIL_OVER * 3, "{one:?}"),
            false => assert!(out < FAIL_OVER / 2, "{one:?}"),
        }
    }
    let first = figures.first_ack;
    assert!(first.p50_ms >= 300.0 && first.max_ms < 900.0, "{first:?}");
    assert!(figures.unavailable_before.max_ms < 150.0, "{:?}", figures.unavailable_before);
    // Every one of 2's partitions went to 1, which then has twice its share.
    assert_eq!(figures.balanced_ms, None);
    assert!(figures.moved.during_bytes.is_some_and(|bytes| bytes > 0));
    let asked = figures.rate_asked;
    assert!((figures.rate_before - asked).abs() < asked * 0.2, "{} of {asked}", figures.rate_before);
}

#[test]
fn planted_faults_are_found() {
    let lossy = kill(Planted::Loses, |_| ()).expect("it runs");
    assert!(lossy.lost > 0 && !lossy.is_clean(), "{}", lossy.verdict);
    let repeating = kill(Planted::Repeats, |_| ()).expect("it runs");
    assert!(repeating.duplicated > 0 && !repeating.is_clean(), "{}", repeating.verdict);
    let haunted = kill(Planted::Haunts, |_| ()).expect("it runs");
    assert!(haunted.defects.contains_key("EndWentBack"), "{}", haunted.verdict);
    assert_eq!((haunted.lost, haunted.duplicated), (0, 0), "{}", haunted.verdict);
}

#[test]
fn a_cluster_that_does_not_come_back_is_an_error_in_time() {
    let error =
        kill(Planted::Abandons, |plan| plan.patience = Duration::from_secs(1)).expect_err("partitions are gone");
    assert!(error.to_string().contains("every partition tells its end"), "{error:#}");
}

#[test]
fn an_interrupted_drill_leaves_a_whole_cluster() {
    let (fake, interrupted) = (Fake::new(Planted::Nothing), AtomicBool::new(false));
    let tell = |line: &str| interrupted.store(line == "kill 2", Relaxed);
    let drill = Drill { tell: &tell, ..drill(&fake, &interrupted) };
    let outcome = drill.run(&short(), Victim::Node(2), 0, 77, 90_000.0);
    assert!(outcome.is_err_and(|error| error.to_string() == "interrupted"));
    assert!(fake.state.lock().down.is_empty(), "what was killed runs again");
}
