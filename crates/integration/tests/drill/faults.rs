//! Faults that are worse than a death: brokers that stop between two steps of their log, that are cut off in one direction,
//! whose clocks jump. `OTTLA_FAULTS=20` does each so many times.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};
use drill::client::{Operator, Traffic};
use drill::commands::Commands;
use drill::engine::Victim;
use drill::plan::{Action, Scenario};
use drill::report::Report;
use drill::wire::{Connection, frame};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, MetadataRequest};
use kafka_protocol::protocol::Decodable as _;
use ottla_integration::process::cluster::{Cluster, Options};
use ottla_integration::process::stop_at::{Step, stop_at};
use ottla_integration::process::wires::Wires;

use super::{commands, judge, run, turn};

pub(crate) const BROKERS: u32 = 3;
const METADATA_VERSION: i16 = 8;
const FETCH_VERSION: i16 = 4;

/// An operator who does things in another way.
pub(crate) struct Saboteur<'a> {
    pub(crate) commands: Commands,
    pub(crate) act: &'a (dyn Fn(&Commands, Action) -> Result<()> + Sync),
}

impl Operator for Saboteur<'_> {
    fn act(&self, action: Action) -> Result<()> {
        (self.act)(&self.commands, action)
    }

    fn can(&self, action: Action) -> bool {
        self.commands.can(action)
    }

    fn traffic(&self) -> Traffic {
        self.commands.traffic()
    }
}

/// How often each fault is tried.
pub(crate) fn times() -> usize {
    std::env::var("OTTLA_FAULTS").map_or(1, |text| text.parse().expect("OTTLA_FAULTS is a number"))
}

fn pid(cluster: &Cluster, node: u32) -> Result<u32> {
    Ok(std::fs::read_to_string(cluster.dir().join(node.to_string()).join("pid"))?.trim().parse()?)
}

/// A question to a broker that was asked while it was stopped: what it answers when it goes on is what a zombie serves.
struct Zombie {
    connection: Connection,
    question: FetchRequest,
}

impl Zombie {
    /// Asks for the records of all that the broker leads now.
    fn prepare(address: &str, node: u32) -> Result<Self> {
        let mut connection = Connection::open(address)?;
        let metadata = connection.ask(&MetadataRequest::default().with_topics(None), METADATA_VERSION)?;
        let mut topics = Vec::new();
        for topic in metadata.topics.into_iter().filter(|topic| !topic.is_internal) {
            let led = topic.partitions.iter().filter(|partition| partition.leader_id == BrokerId(node as i32));
            let wanted = |index| FetchPartition::default().with_partition(index).with_partition_max_bytes(1 << 20);
            let partitions = led.map(|partition| wanted(partition.partition_index)).collect();
            let name = topic.name.context("a name")?;
            topics.push(FetchTopic::default().with_topic(name).with_partitions(partitions));
        }
        let question = FetchRequest::default().with_replica_id(BrokerId(-1)).with_max_wait_ms(0).with_topics(topics);
        let question = question.with_max_bytes(1 << 20);
        ensure!(question.topics.iter().any(|topic| !topic.partitions.is_empty()), "broker {node} leads nothing");
        Ok(Self { connection, question })
    }

    fn ask(&mut self) -> Result<()> {
        Ok(self.connection.send(&frame(&self.question, FETCH_VERSION, 7)?)?)
    }

    /// The answer has no records. No answer is as good.
    fn judge(mut self) -> Result<()> {
        let Some(mut answer) = self.connection.receive()? else { return Ok(()) };
        answer = answer.slice(4..);
        let answer = FetchResponse::decode(&mut answer, FETCH_VERSION)?;
        for partition in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            let bytes = partition.records.as_ref().map_or(0, bytes::Bytes::len);
            ensure!(partition.error_code != 0 && bytes == 0, "a zombie has served {bytes} bytes: {partition:?}");
        }
        Ok(())
    }
}

/// A broker is stopped after this step of its log for longer than its lease, and goes on.
fn stopped_after(step: Step) {
    let _turn = turn();
    for _ in 0..times() {
        let cluster = Cluster::start(&Options { brokers: BROKERS, ..Options::default() }).expect("the brokers start");
        let zombie = Mutex::new(None);
        let pause = |node: u32| {
            let address = cluster.bootstrap.split(',').nth(node as usize - 1).context("its address")?;
            let mut question = Zombie::prepare(address, node)?;
            stop_at(pid(&cluster, node)?, step)?;
            question.ask()?;
            *zombie.lock().expect("whole") = Some(question);
            Ok(())
        };
        let act = |commands: &Commands, action: Action| match action {
            Action::Pause(node) => pause(node),
            Action::Resume(_) => {
                commands.act(action)?;
                let asked = zombie.lock().expect("whole").take();
                asked.context("it was paused")?.judge()
            }
            other => commands.act(other),
        };
        let operator = Saboteur { commands: commands(&cluster, BROKERS), act: &act };
        let report = run(&cluster, &cluster.bootstrap, BROKERS, Scenario::Pause, Victim::Rotate, &operator);
        judge(&report);
        was_replaced(&report);
    }
}

#[test]
fn a_broker_stopped_before_it_writes_serves_nothing_that_others_have_not() {
    stopped_after(Step::Woken);
}

#[test]
fn a_broker_stopped_after_it_wrote_serves_nothing_that_others_have_not() {
    stopped_after(Step::Written);
}

#[test]
fn a_broker_stopped_after_it_synced_serves_nothing_that_others_have_not() {
    stopped_after(Step::Synced);
}

#[test]
fn a_broker_stopped_after_it_looked_for_a_seal_serves_nothing_that_others_have_not() {
    stopped_after(Step::SealRead);
}

/// Something is done to the cables of a broker for longer than its lease, and undone.
fn cut_off(victim: Victim, cut: impl Fn(&Wires, u32) + Sync) {
    let _turn = turn();
    for _ in 0..times() {
        let wires = Wires::lay(BROKERS).expect("cables");
        let cluster = Cluster::start(&wires.options()).expect("the brokers start");
        let act = |commands: &Commands, action: Action| {
            match action {
                Action::Pause(node) => cut(&wires, node),
                Action::Resume(_) => wires.heal(),
                other => commands.act(other)?,
            }
            Ok(())
        };
        let operator = Saboteur { commands: commands(&cluster, BROKERS), act: &act };
        let report = run(&cluster, &wires.bootstrap(), BROKERS, Scenario::Pause, victim, &operator);
        judge(&report);
        was_replaced(&report);
    }
}

/// Its partitions went to others, though not before its lease had run out.
pub(crate) fn was_replaced(report: &Report) {
    let replaced = report.runs[0].replaced_ms.expect("somebody else leads");
    assert!(replaced > 2_500.0 && replaced < 15_000.0, "{replaced}");
}

#[test]
fn a_broker_whom_its_peers_do_not_hear_is_replaced_and_stops_serving() {
    cut_off(Victim::Node(3), Wires::mute);
}

#[test]
fn a_broker_that_does_not_hear_its_peers_stops_serving() {
    cut_off(Victim::Node(1), Wires::deafen);
}

#[test]
fn a_controller_whom_its_peers_do_not_hear_is_replaced() {
    cut_off(Victim::Controller, Wires::mute);
}

/// A library that shifts the wall clock of the processes it is loaded into.
fn clock_library(directory: &std::path::Path) -> PathBuf {
    let library = directory.join("clock.so");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/drill/clock.c");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.expect("cc runs").success(), "cc builds the clock");
    library
}

#[test]
fn a_wall_clock_that_jumps_moves_no_leader_and_loses_nothing() {
    let _turn = turn();
    let built = tempfile::tempdir().expect("a directory");
    let library = clock_library(built.path());
    for round in 0..times() {
        let clocks = tempfile::tempdir().expect("a directory");
        let text = |path: &std::path::Path| path.to_str().expect("text").to_owned();
        let env = vec![("LD_PRELOAD".to_owned(), text(&library)), ("OTTLA_CLOCKS".to_owned(), text(clocks.path()))];
        let options = Options { brokers: BROKERS, env, ..Options::default() };
        let cluster = Cluster::start(&options).expect("the brokers start");
        let set = |node: u32, seconds: i64| -> Result<()> {
            Ok(std::fs::write(clocks.path().join(pid(&cluster, node)?.to_string()), seconds.to_string())?)
        };
        // Half an hour ahead or behind, then as far the other way. A broker refuses what comes from an hour ahead of it.
        let ahead = if round % 2 == 0 { 1_800 } else { -1_800 };
        let act = |commands: &Commands, action: Action| match action {
            Action::Pause(node) => set(node, ahead),
            Action::Resume(node) => set(node, -ahead),
            other => commands.act(other),
        };
        let operator = Saboteur { commands: commands(&cluster, BROKERS), act: &act };
        let report = run(&cluster, &cluster.bootstrap, BROKERS, Scenario::Pause, Victim::Controller, &operator);
        judge(&report);
        let run = &report.runs[0];
        assert!(run.unavailable_all.max_ms < 2_500.0, "nobody was taken for dead: {:?}", run.unavailable_all);
    }
}
