//! Random commands against a model so simple that it is plainly right: one map from offset to object a stream.

use std::collections::{BTreeMap, BTreeSet};

use common::{NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use proptest::prelude::*;
use uuid::Uuid;

use super::State;
use super::tests::{Machine, create};
use crate::command::{Command, NewObject, NewSlice, Outcome};

const NODE: NodeId = NodeId(1);

#[derive(Clone, Debug, Default, PartialEq)]
struct StreamModel {
    epoch: u64,
    start: i64,
    end: i64,
    /// Object of every committed offset at or above the start.
    offsets: BTreeMap<i64, u64>,
    checkpoint: Option<(u64, i64)>,
}

#[derive(Default)]
struct Model {
    machine: Machine,
    node_epoch: NodeEpoch,
    streams: BTreeMap<u64, StreamModel>,
    committed: BTreeMap<u64, (Command, Vec<bool>)>,
    next_object: u64,
    next_topic: u128,
}

/// What to do next; numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    a: u16,
    b: u16,
    c: u16,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..12_u8, any::<u16>(), any::<u16>(), any::<u16>()).prop_map(|(kind, a, b, c)| Step { kind, a, b, c });
    proptest::collection::vec(step, 1..120)
}

impl Model {
    fn new() -> Self {
        let mut model = Self { next_object: 1, ..Self::default() };
        model.register();
        model.create(2);
        model
    }

    fn register(&mut self) {
        self.node_epoch = self.machine.register(NODE);
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for (stream, epoch) in streams.iter().zip(self.machine.open(self.node_epoch, &streams)) {
            self.opened(*stream, epoch);
        }
        let lease = Command::LeaseObjectIds { node: NODE, node_epoch: self.node_epoch, count: 1000 };
        match self.machine.apply(&lease) {
            Outcome::Leased { first } => self.next_object = first,
            other => panic!("{other:?}"),
        }
    }

    fn opened(&mut self, stream: u64, epoch: Option<u64>) {
        let model = self.streams.get_mut(&stream).expect("modelled");
        let epoch = epoch.expect("its leader opens it");
        assert!(epoch > model.epoch, "epochs only grow");
        model.epoch = epoch;
    }

    fn create(&mut self, partitions: u16) {
        self.next_topic += 1;
        let name = format!("t{}", self.next_topic);
        let first = self.machine.state.next.stream;
        assert_eq!(self.machine.apply(&create(self.next_topic, &name, usize::from(partitions))), Outcome::Done);
        for stream in first..first + u64::from(partitions) {
            self.streams.insert(stream, StreamModel::default());
            let epoch = self.machine.open(self.node_epoch, &[stream])[0];
            self.opened(stream, epoch);
        }
    }

    fn delete(&mut self, which: u16) {
        let topics: Vec<Uuid> = self.machine.state.topics.keys().copied().collect();
        let Some(id) = pick(&topics, which) else { return };
        for partition in &self.machine.state.topics[&id].partitions.clone() {
            self.streams.remove(&partition.stream.0);
        }
        assert_eq!(self.machine.apply(&Command::DeleteTopic { id }), Outcome::Done);
    }

    fn stream(&self, which: u16) -> Option<u64> {
        pick(&self.streams.keys().copied().collect::<Vec<_>>(), which)
    }

    fn trim(&mut self, step: Step) {
        let Some(stream) = self.stream(step.a) else { return };
        let model = self.streams.get_mut(&stream).expect("modelled");
        let start = i64::from(step.b) % (model.end + 10);
        let command =
            Command::TrimStream { stream: StreamId(stream), epoch: StreamEpoch(model.epoch), start: Offset(start) };
        model.start = model.start.max(start);
        model.offsets = model.offsets.split_off(&model.start);
        assert_eq!(self.machine.apply(&command), Outcome::Done);
    }

    /// An upload of one or two streams; some slices begin elsewhere than at the end.
    fn upload(&mut self, step: Step) {
        let mut slices = Vec::new();
        let mut expected = Vec::new();
        let object = self.next_object;
        self.next_object += 1;
        for which in [step.a, step.b].into_iter().take(1 + usize::from(step.c) % 2) {
            let Some(stream) = self.stream(which) else { return };
            let model = self.streams.get_mut(&stream).expect("modelled");
            let off_by = [0, 0, 0, -1, 3][usize::from(step.c / 2) % 5];
            let start = (model.end + off_by).max(0);
            let end = start + 1 + i64::from(step.c) % 7;
            let checkpoint = (step.c.is_multiple_of(3)).then_some(end);
            let stale_epoch = step.c.is_multiple_of(11);
            let continues = start == model.end || (start > model.end && start <= model.start);
            let committed = continues && !stale_epoch;
            if committed {
                model.end = end;
                model.offsets.extend((start.max(model.start)..end).map(|offset| (offset, object)));
                model.pin(object, checkpoint);
            }
            expected.push(committed);
            let epoch = StreamEpoch(if stale_epoch { 0 } else { model.epoch });
            slices.push(slice(stream, epoch, start, end, checkpoint));
        }
        self.commit(object, slices, &[], &expected);
    }

    /// Object compaction of neighbouring ranges, sometimes without naming one of their objects.
    fn compact(&mut self, step: Step) {
        let Some(stream) = self.stream(step.a) else { return };
        let ranges: Vec<(i64, i64, u64)> = self
            .machine
            .state
            .ranges_of(StreamId(stream))
            .map(|(start, range)| (start.0, range.end.0, range.object.0))
            .collect();
        if ranges.is_empty() {
            return;
        }
        let first = usize::from(step.b) % ranges.len();
        let count = 1 + usize::from(step.c) % (ranges.len() - first);
        let chosen = &ranges[first..first + count];
        let mut replaces: BTreeSet<u64> = chosen.iter().map(|(_, _, object)| *object).collect();
        let forgets_one = step.c.is_multiple_of(5) && replaces.pop_first().is_some();
        if replaces.is_empty() {
            return;
        }
        let object = self.next_object;
        self.next_object += 1;
        let model = self.streams.get_mut(&stream).expect("modelled");
        let (start, end) = (chosen[0].0, chosen[count - 1].1);
        if !forgets_one {
            model.offsets.extend((start.max(model.start)..end).map(|offset| (offset, object)));
        }
        let slices = vec![slice(stream, StreamEpoch(model.epoch), start, end, None)];
        let replaces: Vec<ObjectId> = replaces.into_iter().map(ObjectId).collect();
        self.commit(object, slices, &replaces, &[!forgets_one]);
    }

    fn commit(&mut self, object: u64, slices: Vec<NewSlice>, replaces: &[ObjectId], expected: &[bool]) {
        let command = Command::CommitObjects {
            node: NODE,
            node_epoch: self.node_epoch,
            objects: vec![NewObject { id: ObjectId(object), attempt: 0, size: 1, slices }],
            replaces: replaces.to_vec(),
        };
        assert_eq!(self.machine.apply(&command), Outcome::Slices { committed: expected.to_vec() });
        self.committed.insert(object, (command, expected.to_vec()));
    }

    fn commit_again(&mut self, which: u16) {
        let known = self.committed.iter().filter(|(object, (command, _))| {
            let current =
                matches!(command, Command::CommitObjects { node_epoch, .. } if *node_epoch == self.node_epoch);
            current && self.machine.state.objects.contains_key(&ObjectId(**object))
        });
        let known: Vec<(Command, Vec<bool>)> = known.map(|(_, commit)| commit.clone()).collect();
        if let Some((command, committed)) = pick(&known, which) {
            assert_eq!(self.machine.apply(&command), Outcome::Slices { committed });
        }
    }

    fn forget(&mut self, which: u16) {
        let objects: Vec<ObjectId> = self.machine.state.objects.keys().copied().collect();
        if let Some(object) = pick(&objects, which) {
            let live = self.live_objects().contains(&object.0);
            self.machine.apply(&Command::ForgetObjects { objects: vec![object] });
            assert_eq!(self.machine.state.objects.contains_key(&object), live);
        }
    }

    /// Objects that a reader or a checkpoint needs.
    fn live_objects(&self) -> BTreeSet<u64> {
        let data = self.streams.values().flat_map(|stream| stream.offsets.values().copied());
        data.chain(self.streams.values().filter_map(|stream| stream.checkpoint.map(|(object, _)| object))).collect()
    }

    fn step(&mut self, step: Step) {
        match step.kind {
            0..=4 => self.upload(step),
            5 | 6 => self.compact(step),
            7 => self.trim(step),
            8 => self.commit_again(step.a),
            9 => self.forget(step.a),
            10 if step.a.is_multiple_of(4) => self.register(),
            10 => self.create(1 + step.b % 3),
            _ if step.a.is_multiple_of(3) => self.delete(step.b),
            _ => {}
        }
    }

    fn check(&self) {
        let state: &State = &self.machine.state;
        assert_eq!(state.streams.len(), self.streams.len());
        for (id, model) in &self.streams {
            let stream = &state.streams[&StreamId(*id)];
            let mut offsets = BTreeMap::new();
            for (start, range) in state.ranges_of(StreamId(*id)) {
                for offset in start.0.max(stream.start.0)..range.end.0 {
                    assert!(offsets.insert(offset, range.object.0).is_none(), "offset {offset} is covered twice");
                }
            }
            let checkpoint = stream.checkpoint.map(|(object, offset)| (object.0, offset.0));
            let actual =
                StreamModel { epoch: stream.epoch.0, start: stream.start.0, end: stream.end.0, offsets, checkpoint };
            assert_eq!(&actual, model, "stream {id}");
        }
        let live: BTreeSet<u64> =
            state.objects.iter().filter(|(_, object)| object.references > 0).map(|(id, _)| id.0).collect();
        assert_eq!(live, self.live_objects(), "exactly what is needed is kept");
    }
}

impl StreamModel {
    fn pin(&mut self, object: u64, checkpoint: Option<i64>) {
        if let Some(at) = checkpoint.filter(|at| self.checkpoint.is_none_or(|(_, newest)| newest <= *at)) {
            self.checkpoint = Some((object, at));
        }
    }
}

fn slice(stream: u64, epoch: StreamEpoch, start: i64, end: i64, checkpoint: Option<i64>) -> NewSlice {
    NewSlice {
        stream: StreamId(stream),
        epoch,
        start: Offset(start),
        end: Offset(end),
        bytes: 1,
        max_timestamp_ms: 0,
        checkpoint: checkpoint.map(Offset),
    }
}

fn pick<T: Clone>(of: &[T], which: u16) -> Option<T> {
    (!of.is_empty()).then(|| of[usize::from(which) % of.len()].clone())
}

/// How many histories a model test runs: `default` unless the environment says otherwise.
pub(super) fn cases(default: u32) -> u32 {
    std::env::var("OTTLA_METADATA_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(96), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_agree_with_the_model(steps in steps()) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            model.check();
        }
        let snapshot = crate::wire::round_trip(&model.machine.state);
        prop_assert_eq!(snapshot, model.machine.state);
    }
}
