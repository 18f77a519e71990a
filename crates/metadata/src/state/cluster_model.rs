//! A cluster in miniature: nodes that append, upload, hand over, die, pause and come back, at random, with commits that
//! arrive late. Their logs are lists of records. The state machine alone decides who may do what; the model checks that
//! no two nodes ever acknowledge at the same offset, and that whoever opens a stream finds all that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use proptest::prelude::*;
use uuid::Uuid;

use super::State;
use super::tests::{Machine, register};
use crate::command::{Command, FailOver, Life, NewObject, NewSlice, Outcome, Refusal, Seal};
use crate::image::{StreamImage, WalState};
use crate::placement::plan_fail_over;

const NODES: i32 = 3;
const STREAMS: usize = 4;

/// A record of a log.
#[derive(Clone, Copy, Debug)]
struct Record {
    stream: StreamId,
    epoch: StreamEpoch,
    start: i64,
    end: i64,
}

#[derive(Clone, Debug, Default)]
struct Log {
    records: Vec<Record>,
    /// The seal sector is written: nothing is acknowledged any more, whatever the node believes.
    is_sealed: bool,
}

/// What a node believes of a stream it leads.
#[derive(Clone, Copy, Debug)]
struct Led {
    epoch: StreamEpoch,
    end: i64,
    /// Its tail is being handed over: nothing is appended.
    is_parked: bool,
}

#[derive(Clone, Debug)]
struct NodeModel {
    life: Life,
    wal: Uuid,
    led: BTreeMap<StreamId, Led>,
    objects: u64,
}

/// A hand-over that has been reserved and written to the target's log.
#[derive(Clone, Debug)]
struct Move {
    source: Life,
    target: Life,
    streams: Vec<(StreamId, StreamEpoch)>,
}

#[derive(Default)]
struct Cluster {
    machine: Machine,
    nodes: BTreeMap<i32, NodeModel>,
    logs: BTreeMap<Uuid, Log>,
    acknowledged: BTreeMap<StreamId, i64>,
    /// Seals that were read and not yet told to Raft, by log.
    read: BTreeMap<Uuid, FailOver>,
    /// Commits that were sent: any of them may arrive once more, much later.
    sent: Vec<Command>,
    uuids: u128,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    a: u16,
    b: u16,
    c: u16,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..16_u8, any::<u16>(), any::<u16>(), any::<u16>()).prop_map(|(kind, a, b, c)| Step { kind, a, b, c });
    proptest::collection::vec(step, 1..150)
}

fn node_of(number: u16) -> i32 {
    1 + i32::from(number) % NODES
}

fn stream_of(number: u16) -> StreamId {
    StreamId(1 + u64::from(number) % STREAMS as u64)
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self::default();
        (1..=NODES).for_each(|node| cluster.start(node));
        let nodes: Arc<[NodeId]> = (1..=NODES).map(NodeId).collect();
        let partitions = vec![nodes; STREAMS];
        let create = Command::CreateTopic { id: Uuid::from_u128(1), name: "t".into(), partitions, configs: Vec::new() };
        assert_eq!(cluster.machine.apply(&create), Outcome::Done);
        (1..=STREAMS as u64).for_each(|stream| assert!(cluster.acknowledged.insert(StreamId(stream), 0).is_none()));
        cluster.open_own(1);
        cluster
    }

    fn uuid(&mut self) -> Uuid {
        self.uuids += 1;
        Uuid::from_u128(self.uuids)
    }

    fn state(&self) -> &State {
        &self.machine.state
    }

    fn stream(&self, id: StreamId) -> &StreamImage {
        &self.state().streams[&id]
    }

    /// A process starts: with the log that is open, or a fresh one; then it opens what it leads.
    fn start(&mut self, node: i32) {
        let known = self.nodes.get(&node).map(|model| model.wal);
        let reusable = known.filter(|wal| !self.logs[wal].is_sealed && self.state().wals[wal].state == WalState::Open);
        // Its log is sealed and Raft does not know: whoever sealed it must ask again first.
        if known.is_some()
            && reusable.is_none()
            && known.is_some_and(|wal| self.state().wals[&wal].state == WalState::Open)
        {
            return;
        }
        let wal = match reusable {
            Some(wal) => wal,
            None => self.uuid(),
        };
        self.logs.entry(wal).or_default();
        let incarnation = self.uuid();
        let epoch = match self.machine.apply(&register(NodeId(node), incarnation, Some(wal))) {
            Outcome::Registered { epoch } => epoch,
            other => panic!("{other:?}"),
        };
        let life = (NodeId(node), epoch);
        let lease = Command::LeaseObjectIds { node: life.0, node_epoch: epoch, count: 1000 };
        let Outcome::Leased { first } = self.machine.apply(&lease) else { panic!("current") };
        self.nodes.insert(node, NodeModel { life, wal, led: BTreeMap::new(), objects: first });
        self.open_own(node);
    }

    fn open_own(&mut self, node: i32) {
        let life = self.nodes[&node].life;
        let streams: Vec<StreamId> = self.state().streams_led_by(life.0).collect();
        let open = Command::OpenStreams { node: life.0, node_epoch: life.1, streams: streams.clone() };
        let Outcome::Opened { epochs } = self.machine.apply(&open) else { panic!("current") };
        for (stream, epoch) in streams.into_iter().zip(epochs) {
            assert_eq!(epoch, Some(self.stream(stream).epoch));
            self.serve(node, stream);
        }
    }

    /// The node opens a stream that was granted to it. It must find all that was acknowledged.
    fn serve(&mut self, node: i32, id: StreamId) {
        let end = self.recover(node, id);
        assert_eq!(end, self.acknowledged[&id], "stream {id} opened by node {node}: {:?}", self.stream(id));
        let epoch = self.stream(id).epoch;
        if let Some(model) = self.nodes.get_mut(&node) {
            model.led.insert(id, Led { epoch, end, is_parked: false });
        }
    }

    /// What the node finds: records of granted epochs in its own log and in sealed ones, never in those of others that may
    /// live. A later epoch cuts an earlier one.
    fn recover(&self, node: i32, id: StreamId) -> i64 {
        let stream = self.stream(id);
        let own = self.nodes[&node].wal;
        let readable = self.logs.iter().filter(|(uuid, _)| match self.state().wals.get(*uuid).map(|wal| &wal.state) {
            Some(WalState::Sealed { .. }) => true,
            Some(WalState::Open) => **uuid == own,
            _ => false,
        });
        let mut records: Vec<Record> = readable.flat_map(|(_, log)| log.records.iter().copied()).collect();
        records.retain(|record| record.stream == id && is_granted(stream, record.epoch));
        records.sort_by_key(|record| (record.epoch, record.start));
        let mut kept: Vec<Record> = Vec::new();
        for record in records {
            kept.retain(|earlier| earlier.start < record.start);
            kept.iter_mut().for_each(|earlier| earlier.end = earlier.end.min(record.start));
            kept.push(record);
        }
        kept.iter().fold(stream.end.max(stream.start).0, |next, record| {
            assert!(record.end <= next || record.start <= next, "a gap below {record:?} of {stream:?}");
            next.max(record.end)
        })
    }

    fn append(&mut self, node: i32, id: StreamId, count: i64) {
        let Some(model) = self.nodes.get_mut(&node) else { return };
        let Some(log) = self.logs.get_mut(&model.wal).filter(|log| !log.is_sealed) else { return };
        let Some(led) = model.led.get_mut(&id).filter(|led| !led.is_parked) else { return };
        let record = Record { stream: id, epoch: led.epoch, start: led.end, end: led.end + count };
        let acknowledged = self.acknowledged.insert(id, record.end);
        assert_eq!(acknowledged, Some(record.start), "node {node} and another both acknowledge in stream {id}");
        log.records.push(record);
        led.end = record.end;
    }

    /// An upload of everything the node believes to lead, or a part of it. What is stale is refused.
    fn upload(&mut self, node: i32, keep: i64) {
        let Some(model) = self.nodes.get_mut(&node) else { return };
        model.objects += 1;
        let (life, object) = (model.life, ObjectId(model.objects - 1));
        let led = model.led.clone();
        let slice = |(id, led): (&StreamId, &Led)| {
            let stream = self.machine.state.streams.get(id)?;
            let start = if stream.end.0 < stream.start.0 { stream.start } else { stream.end };
            let end = Offset(led.end - keep);
            let slice =
                NewSlice { stream: *id, epoch: led.epoch, start, end, bytes: 1, max_timestamp_ms: 0, checkpoint: None };
            (start < end).then_some(slice)
        };
        let slices: Vec<NewSlice> = led.iter().filter_map(slice).collect();
        let expected: Vec<bool> = slices.iter().map(|slice| self.stream(slice.stream).owner == Some(life)).collect();
        let objects = vec![NewObject { id: object, attempt: 0, size: 1, slices }];
        let commit = Command::CommitObjects { node: life.0, node_epoch: life.1, objects, replaces: Vec::new() };
        match self.machine.apply(&commit) {
            Outcome::Slices { committed } => {
                let is_sound = committed.iter().zip(&expected).all(|(done, owner)| *owner || !done);
                assert!(is_sound, "only the owner commits");
            }
            Outcome::Refused(Refusal::Fenced(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Somebody seals the node's log, on a suspicion, and reads where its streams end. Much may happen until Raft knows.
    fn seal(&mut self, node: i32) -> Option<FailOver> {
        let model = self.nodes.get(&node)?;
        let (wal, (node, node_epoch)) = (model.wal, model.life);
        if let Some(read) = self.read.get(&wal).filter(|read| read.node_epoch == node_epoch) {
            return Some(read.clone());
        }
        let log = self.logs.get_mut(&wal)?;
        log.is_sealed = true;
        let mut tails: BTreeMap<StreamId, Offset> = BTreeMap::new();
        for record in &log.records {
            let stream = &self.machine.state.streams[&record.stream];
            // Epochs that are not granted *yet* count: that may happen before Raft hears of the seal.
            if !is_void(stream, record.epoch) && record.end > stream.end.0 {
                let tail = tails.entry(record.stream).or_default();
                *tail = (*tail).max(Offset(record.end));
            }
        }
        let seal = Some(Seal { wal, end: Lsn(log.records.len() as u64), tails: tails.into_iter().collect() });
        let read = FailOver { node, node_epoch, seal, leaders: Vec::new() };
        self.read.insert(wal, read.clone());
        Some(read)
    }

    /// The node is taken for dead, whether it is or not: it goes on believing what it did.
    fn fail_over(&mut self, node: i32, part: u16) {
        let Some(mut command) = self.seal(node) else { return };
        let mut leaders = plan_fail_over(self.state(), NodeId(node));
        leaders.truncate(leaders.len() - leaders.len().min(usize::from(part) % 3));
        command.leaders = leaders.clone();
        let Outcome::Moved { committed } = self.machine.apply(&Command::FailOver(command)) else { return };
        for ((stream, target), moved) in leaders.into_iter().zip(committed) {
            assert!(moved, "planned on this very state");
            self.serve(target.0, stream);
        }
    }

    /// Hands streams over, up to a random point of failure.
    fn move_streams(&mut self, step: Step) {
        let (source, target) = (node_of(step.a), node_of(step.b));
        let (Some(from), Some(to)) = (self.nodes.get(&source).cloned(), self.nodes.get(&target).cloned()) else {
            return;
        };
        let streams: Vec<StreamId> = from.led.keys().copied().filter(|id| !from.led[id].is_parked).collect();
        let reserve = Command::ReserveMove { source: from.life, target: to.life, streams: streams.clone() };
        let Outcome::Opened { epochs } = self.machine.apply(&reserve) else { return };
        let streams = streams.into_iter().zip(epochs).filter_map(|(stream, epoch)| Some((stream, epoch?))).collect();
        let planned = Move { source: from.life, target: to.life, streams };
        if step.c.is_multiple_of(5) || self.logs[&from.wal].is_sealed {
            return;
        }
        self.park(source, &planned, true);
        if step.c % 5 == 1 {
            return self.resume(source, &planned);
        }
        if !self.hand_over(&planned, from.wal, to.wal) {
            return;
        }
        let commit =
            Command::CommitMove { source: planned.source, target: planned.target, streams: planned.streams.clone() };
        self.sent.push(commit.clone());
        match step.c % 5 {
            // The commit is on its way, and the source gives up waiting for it.
            2 => self.resume(source, &planned),
            3 => {}
            _ => {
                self.apply_commit(&commit);
                self.resume(source, &planned);
            }
        }
    }

    fn park(&mut self, node: i32, of: &Move, is_parked: bool) {
        let Some(model) = self.nodes.get_mut(&node) else { return };
        for (stream, _) in &of.streams {
            if let Some(led) = model.led.get_mut(stream) {
                led.is_parked = is_parked;
            }
        }
    }

    /// The target has everything above the committed end durable under the reserved epochs. A sealed log takes nothing.
    fn hand_over(&mut self, planned: &Move, source: Uuid, target: Uuid) -> bool {
        if self.logs[&target].is_sealed || self.logs[&source].is_sealed {
            return false;
        }
        for (stream, epoch) in &planned.streams {
            let Some(led) = self.nodes[&planned.source.0.0].led.get(stream) else { continue };
            let start = self.stream(*stream).end.max(self.stream(*stream).start).0;
            let record = Record { stream: *stream, epoch: *epoch, start, end: led.end };
            if let Some(log) = self.logs.get_mut(&target).filter(|_| record.start < record.end) {
                log.records.push(record);
            }
        }
        true
    }

    /// The source asks how the move ended: what is still its own it goes on with, the rest it lets go.
    fn resume(&mut self, node: i32, planned: &Move) {
        let cancel = Command::CancelMove { source: planned.source, streams: planned.streams.clone() };
        let Outcome::Moved { committed } = self.machine.apply(&cancel) else { return };
        self.park(node, planned, false);
        let Some(model) = self.nodes.get_mut(&node) else { return };
        for ((stream, _), moved) in planned.streams.iter().zip(committed) {
            if moved {
                model.led.remove(stream);
            }
        }
    }

    /// A commit arrives, perhaps late. What it grants the target serves, for it applies what it sees.
    fn apply_commit(&mut self, commit: &Command) {
        let Command::CommitMove { target, streams, .. } = commit else { return };
        let before: Vec<Option<Life>> = streams.iter().map(|(stream, _)| self.stream(*stream).owner).collect();
        let Outcome::Moved { committed } = self.machine.apply(commit) else { return };
        for (((stream, epoch), moved), before) in streams.iter().zip(committed).zip(before) {
            if moved && before != Some(*target) {
                assert_eq!(self.stream(*stream).epoch, *epoch);
                self.serve(target.0.0, *stream);
            }
        }
    }

    fn trim(&mut self, id: StreamId, by: i64) {
        let stream = self.stream(id);
        let start = Offset((stream.start.0 + by).min(self.acknowledged[&id]));
        let command = Command::TrimStream { stream: id, epoch: stream.epoch, start };
        assert_eq!(self.machine.apply(&command), Outcome::Done);
    }

    fn step(&mut self, step: Step) {
        match step.kind {
            0..=5 => self.append(node_of(step.a), stream_of(step.b), 1 + i64::from(step.c % 5)),
            6 | 7 => self.upload(node_of(step.a), i64::from(step.c % 4)),
            8..=10 => self.move_streams(step),
            11 => {
                let late = self.sent.get(usize::from(step.a) % self.sent.len().max(1)).cloned();
                late.iter().for_each(|commit| self.apply_commit(commit));
            }
            12 => self.fail_over(node_of(step.a), step.b),
            13 => self.start(node_of(step.a)),
            14 if step.c.is_multiple_of(4) => drop(self.seal(node_of(step.a))),
            14 => self.trim(stream_of(step.a), i64::from(step.b % 6)),
            _ => {}
        }
    }

    /// Everything acknowledged can be found, at any time.
    fn check(&self) {
        for (id, acknowledged) in &self.acknowledged {
            let leader = self.state().leader_of(*id).expect("its partition");
            assert_eq!(self.recover(leader.0, *id), *acknowledged, "stream {id}: {:?}", self.stream(*id));
        }
    }

    /// All nodes come back, whatever state they are in, serve what they lead, and upload: then no log is needed any more.
    fn heal(&mut self) {
        for node in 1..=NODES {
            let stuck = self.nodes[&node].wal;
            if self.logs[&stuck].is_sealed {
                let command = self.seal(node).expect("known");
                self.machine.apply(&Command::FailOver(command));
            }
            self.start(node);
        }
        for node in 1..=NODES {
            self.upload(node, 0);
        }
        self.check();
        let state = self.state();
        assert!(state.sealed_wals.is_empty(), "a sealed log is needed for ever: {:?}", state.wals);
        let committed: BTreeSet<bool> = self
            .acknowledged
            .iter()
            .map(|(id, end)| self.stream(*id).end.max(self.stream(*id).start).0 == *end)
            .collect();
        assert_eq!(committed, BTreeSet::from([true]));
    }
}

/// What recovery takes: epochs that were granted, which are those neither void nor merely reserved.
fn is_granted(stream: &StreamImage, epoch: StreamEpoch) -> bool {
    epoch <= stream.epoch && !is_void(stream, epoch)
}

fn is_void(stream: &StreamImage, epoch: StreamEpoch) -> bool {
    stream.void.iter().any(|void| void.epoch == epoch)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::model::cases(128), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_always_found_by_one_owner(steps in steps()) {
        let mut cluster = Cluster::new();
        for step in steps {
            cluster.step(step);
            cluster.check();
        }
        prop_assert_eq!(&crate::wire::round_trip(cluster.state()), cluster.state());
        cluster.heal();
    }
}

#[test]
fn the_model_moves_and_fails_over() {
    let mut cluster = Cluster::new();
    cluster.append(1, StreamId(1), 5);
    cluster.move_streams(Step { kind: 8, a: 0, b: 1, c: 4 });
    assert_eq!(cluster.nodes[&2].led.len(), STREAMS, "all of node 1's went to node 2");
    cluster.append(2, StreamId(1), 3);
    cluster.fail_over(2, 0);
    assert_eq!(cluster.state().streams_led_by(NodeId(2)).count(), 0);
    assert_eq!(cluster.state().sealed_wals.len(), 1);
    assert_eq!(cluster.nodes[&2].life, (NodeId(2), NodeEpoch(2)), "it does not know");
    cluster.append(2, StreamId(1), 3);
    assert_eq!(cluster.acknowledged[&StreamId(1)], 8, "sealed");
    cluster.heal();
}
