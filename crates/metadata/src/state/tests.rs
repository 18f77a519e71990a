//! One test or more per command.

use std::sync::Arc;

use common::{LogIndex, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use uuid::Uuid;

use super::{State, apply};
use crate::command::{Command, NewObject, NewSlice, Outcome, Refusal, Registration};
use crate::image::{ConfigResource, WalClass, WalDescriptor};

mod leaders;

const NODE: NodeId = NodeId(1);

/// A state with the commands that tests give it.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) state: State,
}

impl Machine {
    pub(super) fn apply_at(&mut self, now_ms: i64, command: &Command) -> Outcome {
        let before = self.state.clone();
        let outcome = apply(&mut self.state, LogIndex(before.applied.0 + 1), now_ms, command);
        if matches!(outcome, Outcome::Refused(_)) {
            let expected = State { applied: self.state.applied, ..before };
            assert_eq!(self.state, expected, "a refused command changes nothing");
        }
        assert_eq!(self.state.validate(), Ok(()));
        outcome
    }

    pub(super) fn apply(&mut self, command: &Command) -> Outcome {
        self.apply_at(0, command)
    }

    pub(super) fn register(&mut self, node: NodeId) -> NodeEpoch {
        let incarnation = Uuid::from_u128(u128::from(self.state.applied.0) + 1000);
        match self.apply(&register(node, incarnation, None)) {
            Outcome::Registered { epoch } => epoch,
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, id: u128, name: &str, partitions: usize) -> Outcome {
        self.apply(&create(id, name, partitions))
    }

    pub(super) fn open(&mut self, epoch: NodeEpoch, streams: &[u64]) -> Vec<Option<u64>> {
        let streams = streams.iter().copied().map(StreamId).collect();
        match self.apply(&Command::OpenStreams { node: NODE, node_epoch: epoch, streams }) {
            Outcome::Opened { epochs } => epochs.into_iter().map(|epoch| epoch.map(|epoch| epoch.0)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, now_ms: i64, epoch: NodeEpoch, objects: Vec<NewObject>, replaces: &[u64]) -> Vec<bool> {
        let replaces = replaces.iter().copied().map(ObjectId).collect();
        match self.apply_at(now_ms, &Command::CommitObjects { node: NODE, node_epoch: epoch, objects, replaces }) {
            Outcome::Slices { committed } => committed,
            other => panic!("{other:?}"),
        }
    }

    fn ranges(&self, stream: u64) -> Vec<(i64, i64, u64)> {
        let ranges = self.state.ranges_of(StreamId(stream));
        ranges.map(|(start, range)| (start.0, range.end.0, range.object.0)).collect()
    }

    fn leader_epoch(&self, topic: u128, partition: usize) -> i32 {
        self.state.topics[&Uuid::from_u128(topic)].partitions[partition].leader_epoch
    }
}

pub(super) fn register(id: NodeId, incarnation: Uuid, wal: Option<Uuid>) -> Command {
    let wal = wal.map(|uuid| WalDescriptor { uuid, class: WalClass::Shared, location: "file:///wal".into() });
    Command::RegisterNode(Registration { wal, ..Registration::new(id, incarnation) })
}

pub(super) fn create(id: u128, name: &str, partitions: usize) -> Command {
    let partitions = vec![Arc::from([NODE].as_slice()); partitions];
    Command::CreateTopic { id: Uuid::from_u128(id), name: name.into(), partitions, configs: Vec::new() }
}

fn slice(stream: u64, start: i64, end: i64) -> NewSlice {
    NewSlice {
        stream: StreamId(stream),
        epoch: StreamEpoch(1),
        start: Offset(start),
        end: Offset(end),
        bytes: 10,
        max_timestamp_ms: end,
        checkpoint: None,
    }
}

fn object(id: u64, slices: Vec<NewSlice>) -> NewObject {
    NewObject { id: ObjectId(id), attempt: 0, size: 100, slices }
}

/// One node, one topic of three partitions with streams 1 to 3, opened in epoch 1, a hundred object ids leased.
fn ready() -> (Machine, NodeEpoch) {
    let mut machine = Machine::default();
    let epoch = machine.register(NODE);
    assert_eq!(machine.create(1, "t", 3), Outcome::Done);
    assert_eq!(machine.open(epoch, &[1, 2, 3]), [Some(1); 3]);
    let lease = Command::LeaseObjectIds { node: NODE, node_epoch: epoch, count: 100 };
    assert_eq!(machine.apply(&lease), Outcome::Leased { first: 1 });
    (machine, epoch)
}

#[test]
fn a_cluster_keeps_its_first_id() {
    let mut machine = Machine::default();
    let bootstrap = |id: &str| Command::Bootstrap { cluster_id: id.into() };
    assert_eq!(machine.apply(&bootstrap("a")), Outcome::Done);
    assert_eq!(machine.apply(&bootstrap("a")), Outcome::Done);
    assert!(matches!(machine.apply(&bootstrap("b")), Outcome::Refused(Refusal::Invalid(_))));
}

#[test]
fn every_registration_gets_a_larger_epoch_and_a_retry_the_same() {
    let mut machine = Machine::default();
    let first = register(NODE, Uuid::from_u128(1), None);
    assert_eq!(machine.apply(&first), Outcome::Registered { epoch: NodeEpoch(1) });
    assert_eq!(machine.apply(&first), Outcome::Registered { epoch: NodeEpoch(1) });
    let other = register(NodeId(2), Uuid::from_u128(2), None);
    assert_eq!(machine.apply(&other), Outcome::Registered { epoch: NodeEpoch(2) });
    let again = register(NODE, Uuid::from_u128(3), None);
    assert_eq!(machine.apply(&again), Outcome::Registered { epoch: NodeEpoch(3) });
    let negative = register(NodeId(-1), Uuid::from_u128(4), None);
    assert!(matches!(machine.apply(&negative), Outcome::Refused(Refusal::Invalid(_))));
}

#[test]
fn a_node_comes_with_its_open_log_or_not_at_all() {
    let mut machine = Machine::default();
    let (wal, other) = (Uuid::from_u128(10), Uuid::from_u128(11));
    let mut life = 0;
    let mut come = |machine: &mut Machine, node, wal| {
        life += 1;
        machine.apply(&register(node, Uuid::from_u128(life), Some(wal)))
    };
    assert!(matches!(come(&mut machine, NODE, wal), Outcome::Registered { .. }));
    assert!(matches!(come(&mut machine, NODE, wal), Outcome::Registered { .. }));
    assert_eq!(come(&mut machine, NODE, other), Outcome::Refused(Refusal::WalMissing(wal)));
    assert!(matches!(come(&mut machine, NodeId(2), wal), Outcome::Refused(Refusal::Invalid(_))));
    assert_eq!(machine.apply(&Command::RetireWal { wal }), Outcome::Done);
    assert!(matches!(come(&mut machine, NODE, other), Outcome::Registered { .. }));
    assert!(!machine.state.wals.contains_key(&wal), "retired and replaced");

    let without = Command::RegisterNode(Registration::new(NODE, Uuid::from_u128(99)));
    assert_eq!(
        machine.apply(&without),
        Outcome::Refused(Refusal::WalMissing(other)),
        "what it may hold is not passed by"
    );
}

#[test]
fn topics_are_created_once_and_deleted_whole() {
    let mut machine = Machine::default();
    assert!(matches!(machine.create(1, "t", 1), Outcome::Refused(Refusal::Invalid(_))), "no such node");
    machine.register(NODE);
    assert_eq!(machine.create(1, "t", 2), Outcome::Done);
    assert_eq!(machine.create(1, "t", 2), Outcome::Done, "the same command again");
    assert_eq!(machine.create(2, "t", 2), Outcome::Refused(Refusal::TopicExists("t".into())));
    assert!(matches!(machine.create(1, "u", 2), Outcome::Refused(Refusal::Invalid(_))), "id in use");
    assert!(matches!(machine.create(3, "v", 0), Outcome::Refused(Refusal::Invalid(_))));
    assert_eq!(machine.state.streams.len(), 2);

    let more =
        |topic| Command::CreatePartitions { topic: Uuid::from_u128(topic), added: vec![Arc::from([NODE].as_slice())] };
    assert_eq!(machine.apply(&more(1)), Outcome::Done);
    assert_eq!(machine.apply(&more(9)), Outcome::Refused(Refusal::UnknownTopic));
    let partitions = &machine.state.topic("t").expect("exists").partitions;
    let streams: Vec<u64> = partitions.iter().map(|partition| partition.stream.0).collect();
    assert_eq!(streams, [1, 2, 3]);
    assert!(partitions.iter().all(|partition| partition.leader == NODE && partition.leader_epoch == 0));

    let delete = Command::DeleteTopic { id: Uuid::from_u128(1) };
    assert_eq!(machine.apply(&delete), Outcome::Done);
    assert_eq!(machine.apply(&delete), Outcome::Refused(Refusal::UnknownTopic));
    assert!(machine.state.streams.is_empty());
    assert_eq!(machine.create(4, "t", 1), Outcome::Done);
    assert!(machine.state.streams.contains_key(&StreamId(4)), "stream ids are never given out again");
}

#[test]
fn configs_live_and_die_with_their_topic() {
    let mut machine = Machine::default();
    machine.register(NODE);
    let topic = ConfigResource::Topic("t".into());
    let alter = |resource: &ConfigResource, value: Option<&str>| Command::AlterConfigs {
        resource: resource.clone(),
        changes: vec![("retention.ms".into(), value.map(Into::into))],
    };
    assert_eq!(machine.apply(&alter(&topic, Some("1"))), Outcome::Refused(Refusal::UnknownTopic));
    machine.create(1, "t", 1);
    assert_eq!(machine.apply(&alter(&topic, Some("1"))), Outcome::Done);
    assert_eq!(machine.state.configs[&topic].get("retention.ms").map(|value| &**value), Some("1"));
    assert_eq!(machine.apply(&alter(&topic, None)), Outcome::Done);
    assert!(machine.state.configs.is_empty());
    machine.apply(&alter(&topic, Some("2")));
    assert_eq!(machine.apply(&alter(&ConfigResource::Broker(None), Some("3"))), Outcome::Done);
    machine.apply(&Command::DeleteTopic { id: Uuid::from_u128(1) });
    assert_eq!(machine.state.configs.keys().cloned().collect::<Vec<_>>(), [ConfigResource::Broker(None)]);
}

#[test]
fn openings_bump_epochs_as_kafka_does() {
    let mut machine = Machine::default();
    let first = machine.register(NODE);
    machine.create(1, "t", 2);
    assert_eq!(machine.open(first, &[1, 9]), [Some(1), None]);
    assert_eq!(machine.leader_epoch(1, 0), 0, "the first opening of a new partition");
    assert_eq!(machine.open(first, &[1]), [Some(2)]);
    assert_eq!(machine.leader_epoch(1, 0), 0, "the same life goes on");
    let second = machine.register(NODE);
    assert_eq!(machine.open(second, &[1, 2]), [Some(3), Some(1)]);
    assert_eq!((machine.leader_epoch(1, 0), machine.leader_epoch(1, 1)), (1, 0));
    let late = Command::OpenStreams { node: NODE, node_epoch: first, streams: vec![StreamId(1)] };
    assert!(matches!(machine.apply(&late), Outcome::Refused(Refusal::Fenced(_))));

    let other = machine.register(NodeId(2));
    let not_leader = Command::OpenStreams { node: NodeId(2), node_epoch: other, streams: vec![StreamId(1)] };
    assert_eq!(machine.apply(&not_leader), Outcome::Opened { epochs: vec![None] });
}

#[test]
fn leases_never_overlap_and_only_the_current_life_gets_them() {
    let mut machine = Machine::default();
    let first = machine.register(NODE);
    let objects = |node_epoch, count| Command::LeaseObjectIds { node: NODE, node_epoch, count };
    let producers = |node_epoch, count| Command::LeaseProducerIds { node: NODE, node_epoch, count };
    assert_eq!(machine.apply(&objects(first, 10)), Outcome::Leased { first: 1 });
    assert_eq!(machine.apply(&objects(first, 10)), Outcome::Leased { first: 11 });
    assert_eq!(machine.apply(&producers(first, 1000)), Outcome::Leased { first: 0 });
    assert_eq!(machine.apply(&producers(first, 1000)), Outcome::Leased { first: 1000 });
    assert!(matches!(machine.apply(&objects(first, 0)), Outcome::Refused(Refusal::Invalid(_))));
    assert!(matches!(machine.apply(&objects(first, u32::MAX)), Outcome::Refused(Refusal::Invalid(_))));
    machine.register(NODE);
    assert!(matches!(machine.apply(&objects(first, 1)), Outcome::Refused(Refusal::Fenced(_))));
    assert!(matches!(machine.apply(&producers(first, 1)), Outcome::Refused(Refusal::Fenced(_))));
}

#[test]
fn slices_are_judged_one_by_one() {
    let (mut machine, epoch) = ready();
    let stale_epoch = NewSlice { epoch: StreamEpoch(9), ..slice(3, 0, 5) };
    let slices = vec![slice(1, 0, 10), slice(2, 5, 10), slice(99, 0, 5), stale_epoch, slice(1, 10, 12)];
    assert_eq!(machine.commit(5, epoch, vec![object(1, slices)], &[]), [true, false, false, false, true]);
    assert_eq!(machine.ranges(1), [(0, 10, 1), (10, 12, 1)]);
    assert_eq!(machine.ranges(2), []);
    assert_eq!(machine.state.objects[&ObjectId(1)].references, 2);
    assert!(machine.state.stream_sets.contains(&ObjectId(1)));

    assert_eq!(machine.commit(6, epoch, vec![object(2, vec![slice(1, 0, 10)])], &[]), [false]);
    assert_eq!(machine.state.objects[&ObjectId(2)].destroyed_at_ms, Some(6), "nothing of it counts");
    assert!(machine.state.destroyed.contains(&ObjectId(2)));
}

#[test]
fn a_commit_asked_for_again_answers_the_same_and_changes_nothing() {
    let (mut machine, epoch) = ready();
    let objects = vec![object(1, vec![slice(1, 0, 10), slice(2, 5, 10)])];
    let first = machine.commit(5, epoch, objects.clone(), &[]);
    machine.apply(&Command::TrimStream { stream: StreamId(1), epoch: StreamEpoch(1), start: Offset(3) });
    let before = machine.state.clone();
    assert_eq!(machine.commit(7, epoch, objects, &[]), first);
    assert_eq!(machine.state, State { applied: machine.state.applied, ..before });
}

#[test]
fn commits_without_sense_are_refused_whole() {
    let (mut machine, epoch) = ready();
    let checkpoint_above = NewSlice { checkpoint: Some(Offset(11)), ..slice(1, 0, 10) };
    for (objects, why) in [
        (vec![object(101, vec![slice(1, 0, 1)])], "never leased"),
        (vec![object(0, vec![slice(1, 0, 1)])], "no id"),
        (vec![object(1, vec![slice(1, 3, 3)])], "empty"),
        (vec![object(1, vec![slice(1, -1, 3)])], "negative"),
        (vec![object(1, vec![slice(1, 0, 1)]), object(1, vec![slice(1, 1, 2)])], "twice"),
        (vec![object(1, vec![checkpoint_above])], "checkpoint above the slice"),
    ] {
        let command = Command::CommitObjects { node: NODE, node_epoch: epoch, objects, replaces: Vec::new() };
        assert!(matches!(machine.apply(&command), Outcome::Refused(Refusal::Invalid(_))), "{why}");
    }
    machine.register(NODE);
    let late = Command::CommitObjects {
        node: NODE,
        node_epoch: epoch,
        objects: vec![object(1, vec![slice(1, 0, 1)])],
        replaces: Vec::new(),
    };
    assert!(matches!(machine.apply(&late), Outcome::Refused(Refusal::Fenced(_))));
}

#[test]
fn trims_drop_ranges_and_never_go_back() {
    let (mut machine, epoch) = ready();
    let trim = |start| Command::TrimStream { stream: StreamId(1), epoch: StreamEpoch(1), start: Offset(start) };
    for (id, start) in [(1, 0), (2, 10), (3, 20)] {
        machine.commit(1, epoch, vec![object(id, vec![slice(1, start, start + 10)])], &[]);
    }
    assert_eq!(machine.apply_at(9, &trim(15)), Outcome::Done);
    assert_eq!(machine.ranges(1), [(10, 20, 2), (20, 30, 3)]);
    assert_eq!(machine.state.objects[&ObjectId(1)].destroyed_at_ms, Some(9));
    assert_eq!(machine.apply(&trim(5)), Outcome::Done);
    assert_eq!(machine.state.streams[&StreamId(1)].start, Offset(15));
    let fenced = Command::TrimStream { stream: StreamId(1), epoch: StreamEpoch(2), start: Offset(20) };
    assert!(matches!(machine.apply(&fenced), Outcome::Refused(Refusal::Fenced(_))));

    // Above the committed end: what lies between is still to come, and partly below the start.
    assert_eq!(machine.apply(&trim(45)), Outcome::Done);
    assert_eq!(machine.ranges(1), []);
    assert_eq!(machine.commit(1, epoch, vec![object(4, vec![slice(1, 30, 40)])], &[]), [true]);
    assert_eq!(machine.ranges(1), [], "all of it is trimmed");
    assert_eq!(machine.commit(1, epoch, vec![object(5, vec![slice(1, 40, 50)])], &[]), [true]);
    assert_eq!(machine.ranges(1), [(40, 50, 5)]);
    // A gap that lies below the start altogether may be skipped; one above it may not.
    assert_eq!(machine.apply(&trim(70)), Outcome::Done);
    assert_eq!(machine.commit(1, epoch, vec![object(6, vec![slice(1, 71, 80)])], &[]), [false]);
    assert_eq!(machine.commit(1, epoch, vec![object(7, vec![slice(1, 65, 80)])], &[]), [true]);
    assert_eq!(machine.ranges(1), [(65, 80, 7)]);
}

#[test]
fn the_newest_checkpoint_pins_its_object() {
    let (mut machine, epoch) = ready();
    let with = |start, end, checkpoint| NewSlice { checkpoint: Some(Offset(checkpoint)), ..slice(1, start, end) };
    machine.commit(1, epoch, vec![object(1, vec![with(0, 10, 10)])], &[]);
    assert_eq!(machine.state.objects[&ObjectId(1)].references, 2);
    machine.apply(&Command::TrimStream { stream: StreamId(1), epoch: StreamEpoch(1), start: Offset(10) });
    assert_eq!(machine.state.objects[&ObjectId(1)].references, 1, "held by the checkpoint alone");
    machine.commit(8, epoch, vec![object(2, vec![with(10, 20, 15)])], &[]);
    assert_eq!(machine.state.objects[&ObjectId(1)].destroyed_at_ms, Some(8));
    assert_eq!(machine.state.streams[&StreamId(1)].checkpoint, Some((ObjectId(2), Offset(15))));
    machine.apply_at(9, &Command::DeleteTopic { id: Uuid::from_u128(1) });
    assert_eq!(machine.state.objects[&ObjectId(2)].destroyed_at_ms, Some(9));
}

#[test]
fn object_compaction_swaps_exactly_what_it_read() {
    let (mut machine, epoch) = ready();
    machine.commit(1, epoch, vec![object(1, vec![slice(1, 0, 10), slice(2, 0, 5)])], &[]);
    machine.commit(1, epoch, vec![object(2, vec![slice(1, 10, 20)])], &[]);
    machine.commit(1, epoch, vec![object(3, vec![slice(1, 20, 30)])], &[]);
    for (bad, replaces, why) in [
        (slice(1, 0, 20), vec![1], "a range of an object that is not replaced"),
        (slice(1, 0, 15), vec![1, 2], "cuts a range"),
        (slice(1, 5, 20), vec![1, 2], "begins within a range"),
        (slice(1, 20, 40), vec![3], "reaches above the end"),
        (slice(2, 5, 9), vec![1], "covers nothing"),
    ] {
        let id = machine.state.objects.len() as u64 + 10;
        assert_eq!(machine.commit(1, epoch, vec![object(id, vec![bad])], &replaces), [false], "{why}");
    }
    assert_eq!(machine.commit(7, epoch, vec![object(4, vec![slice(1, 0, 20)])], &[1, 2]), [true]);
    assert_eq!(machine.ranges(1), [(0, 20, 4), (20, 30, 3)]);
    assert_eq!(machine.state.objects[&ObjectId(1)].references, 1, "stream 2 still reads it");
    assert_eq!(machine.state.objects[&ObjectId(2)].destroyed_at_ms, Some(7));

    // Trimmed while it was compacted: what is gone need not be there.
    machine.apply(&Command::TrimStream { stream: StreamId(1), epoch: StreamEpoch(1), start: Offset(22) });
    assert_eq!(machine.commit(8, epoch, vec![object(5, vec![slice(1, 0, 30)])], &[4, 3]), [true]);
    assert_eq!(machine.ranges(1), [(0, 30, 5)]);
    machine.apply(&Command::TrimStream { stream: StreamId(1), epoch: StreamEpoch(1), start: Offset(30) });
    assert_eq!(machine.commit(9, epoch, vec![object(6, vec![slice(1, 0, 30)])], &[5]), [false], "all of it is gone");
}

#[test]
fn only_destroyed_objects_are_forgotten() {
    let (mut machine, epoch) = ready();
    machine.commit(1, epoch, vec![object(1, vec![slice(1, 0, 10)])], &[]);
    machine.commit(1, epoch, vec![object(2, vec![slice(1, 0, 10)])], &[]);
    let forget = Command::ForgetObjects { objects: [1, 2, 77].map(ObjectId).to_vec() };
    assert_eq!(machine.apply(&forget), Outcome::Done);
    assert_eq!(machine.state.objects.keys().copied().collect::<Vec<_>>(), [ObjectId(1)]);
    assert!(machine.state.destroyed.is_empty());
}

#[test]
fn a_store_is_claimed_once_and_features_have_levels() {
    let mut machine = Machine::default();
    let claim = |store: &str| Command::ClaimStore { store: store.into() };
    assert_eq!(machine.apply(&claim("s3://a")), Outcome::Done);
    assert_eq!(machine.apply(&claim("s3://a")), Outcome::Done);
    assert!(matches!(machine.apply(&claim("s3://b")), Outcome::Refused(Refusal::Invalid(_))));
    let finalize = |level| Command::FinalizeFeatures { levels: vec![("f".into(), level)] };
    assert_eq!(machine.apply(&finalize(3)), Outcome::Done);
    assert_eq!(machine.state.features.get("f"), Some(&3));
    assert!(matches!(machine.apply(&finalize(-1)), Outcome::Refused(Refusal::Invalid(_))));
    assert_eq!(machine.apply(&finalize(0)), Outcome::Done);
    assert!(machine.state.features.is_empty());
}

#[test]
fn a_broken_state_is_noticed() {
    let (mut machine, epoch) = ready();
    machine.commit(1, epoch, vec![object(1, vec![slice(1, 0, 10)])], &[]);
    machine.commit(1, epoch, vec![object(2, vec![slice(1, 10, 20)])], &[]);
    let good = machine.state;
    let break_it = |change: fn(&mut State)| {
        let mut state = good.clone();
        change(&mut state);
        state.validate().expect_err("noticed")
    };
    break_it(|state| {
        state.ranges.remove(&(StreamId(1), Offset(0)));
    });
    break_it(|state| {
        state.ranges.remove(&(StreamId(1), Offset(10)));
    });
    break_it(|state| state.objects.get_mut(&ObjectId(1)).expect("there").references = 2);
    break_it(|state| {
        state.objects.remove(&ObjectId(2));
    });
    break_it(|state| {
        state.streams.remove(&StreamId(2));
    });
    break_it(|state| {
        state.topic_ids.remove("t");
    });
    break_it(|state| state.next.object = 2);
    break_it(|state| state.next.node_epoch = 1);
    break_it(|state| {
        state.destroyed.insert(ObjectId(1));
    });
}
