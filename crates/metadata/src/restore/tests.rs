//! A small cluster goes on after its metadata was copied, then all of it is lost but the copy, the store and the logs.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::command::{Command, FailOver, Life, NewObject, NewSlice, Outcome, Registration, Seal};
use crate::image::{WalDescriptor, WalState};
use crate::state::apply;

/// Two nodes with logs 1 and 2, and a topic whose partitions node 1 leads.
struct Cluster {
    image: MetadataImage,
    now_ms: i64,
    lives: BTreeMap<i32, Life>,
    objects: u64,
    store: BTreeMap<ObjectId, FoundObject>,
}

impl Cluster {
    fn new(partitions: usize) -> Self {
        let (image, lives) = (MetadataImage::default(), BTreeMap::new());
        let mut cluster = Self { image, now_ms: 0, lives, objects: 0, store: BTreeMap::new() };
        cluster.apply(&Command::Bootstrap { cluster_id: "c".into() });
        cluster.register(1, 1);
        cluster.register(2, 2);
        let replicas: Arc<[NodeId]> = Arc::from([NodeId(1), NodeId(2)].as_slice());
        cluster.apply(&Command::CreateTopic {
            id: Uuid::from_u128(1),
            name: "t".into(),
            partitions: vec![replicas; partitions],
            configs: Vec::new(),
        });
        let (node, node_epoch) = cluster.lives[&1];
        let streams = cluster.image.streams.keys().copied().collect();
        cluster.apply(&Command::OpenStreams { node, node_epoch, streams });
        cluster
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.now_ms += 1;
        let index = LogIndex(self.image.applied.0 + 1);
        let outcome = apply(&mut self.image, index, self.now_ms, command);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{command:?}: {outcome:?}");
        outcome
    }

    fn register(&mut self, node: i32, wal: u128) {
        let wal = WalDescriptor {
            uuid: Uuid::from_u128(wal),
            class: WalClass::Shared,
            location: format!("file:///wal/{wal}").into(),
        };
        let incarnation = Uuid::from_u128(u128::from(self.image.applied.0) + 100);
        let registration = Registration { wal: Some(wal), ..Registration::new(NodeId(node), incarnation) };
        let Outcome::Registered { epoch } = self.apply(&Command::RegisterNode(registration)) else { panic!() };
        self.lives.insert(node, (NodeId(node), epoch));
    }

    fn stream(&self, id: u64) -> &StreamImage {
        &self.image.streams[&StreamId(id)]
    }

    /// Puts an object with these slices, and commits it if so wished.
    fn upload(&mut self, slices: &[(u64, i64, i64)], replaces: &[u64], commits: bool) -> ObjectId {
        let owner = self.stream(slices[0].0).owner.expect("open");
        if self.objects == 0 {
            self.apply(&Command::LeaseObjectIds { node: owner.0, node_epoch: owner.1, count: 1 << 20 });
        }
        self.objects += 1;
        let id = ObjectId(self.objects);
        let slice = |(stream, start, end): &(u64, i64, i64)| NewSlice {
            stream: StreamId(*stream),
            epoch: self.stream(*stream).epoch,
            start: Offset(*start),
            end: Offset(*end),
            bytes: 10,
            max_timestamp_ms: 5,
            checkpoint: Some(Offset(*end)),
        };
        let new: Vec<NewSlice> = slices.iter().map(slice).collect();
        let found = FoundObject {
            id,
            node: owner.0,
            node_epoch: owner.1,
            attempt: 0,
            size: 100,
            checkpoints: new.iter().map(|slice| (slice.stream, slice.end)).collect(),
            slices: new.iter().map(found_slice).collect(),
        };
        self.store.insert(id, found);
        if commits {
            let objects = vec![NewObject { id, attempt: 0, size: 100, slices: new }];
            let replaces = replaces.iter().map(|id| ObjectId(*id)).collect();
            self.apply(&Command::CommitObjects { node: owner.0, node_epoch: owner.1, objects, replaces });
        }
        id
    }

    fn uploaded_first(mut self) -> FoundObject {
        let id = self.upload(&[(1, 0, 10)], &[], true);
        self.store[&id].clone()
    }

    fn trim(&mut self, stream: u64, start: i64) {
        let epoch = self.stream(stream).epoch;
        self.apply(&Command::TrimStream { stream: StreamId(stream), epoch, start: Offset(start) });
    }

    /// Deletes what nothing references.
    fn collect(&mut self) {
        let destroyed: Vec<ObjectId> = self.image.destroyed.iter().copied().collect();
        let (known, destroyed_now) = (&self.image.objects, &destroyed);
        self.store.retain(|id, _| known.contains_key(id) && !destroyed_now.contains(id));
        self.apply(&Command::ForgetObjects { objects: destroyed });
    }

    /// What is left when metadata is lost. Logs hold nothing but what is given.
    fn evidence(&self, copy: &MetadataImage, logs: Vec<FoundLog>) -> Evidence {
        let is_known = |id: &ObjectId| copy.objects.contains_key(id);
        let present = self.store.keys().copied().filter(is_known).collect();
        let objects = self.store.values().filter(|object| !is_known(&object.id)).cloned().collect();
        Evidence { present, objects, logs }
    }
}

fn found_slice(from: &NewSlice) -> FoundSlice {
    let NewSlice { stream, epoch, start, end, bytes, max_timestamp_ms, .. } = *from;
    FoundSlice { stream, epoch, start, end, bytes, max_timestamp_ms }
}

fn log(node: i32, uuid: u128, sealed: Option<u64>, runs: &[(u64, u64, i64, i64)]) -> FoundLog {
    let run = |(stream, epoch, base, end): &(u64, u64, i64, i64)| FoundRun {
        stream: StreamId(*stream),
        epoch: StreamEpoch(*epoch),
        base: Offset(*base),
        end: Offset(*end),
    };
    FoundLog {
        uuid: Uuid::from_u128(uuid),
        node: NodeId(node),
        class: WalClass::Shared,
        location: format!("file:///found/{uuid}").into(),
        sealed: sealed.map(Lsn),
        runs: runs.iter().map(run).collect(),
    }
}

fn both_logs(runs: &[(u64, u64, i64, i64)]) -> Vec<FoundLog> {
    vec![log(1, 1, None, runs), log(2, 2, None, &[])]
}

fn ends(restored: &Restored) -> Vec<(i64, i64)> {
    restored.image.streams.values().map(|stream| (stream.start.0, stream.end.0)).collect()
}

#[test]
fn a_copy_that_is_current_loses_nothing_and_lets_nobody_go_on() {
    let mut cluster = Cluster::new(2);
    cluster.upload(&[(1, 0, 10), (2, 0, 5)], &[], true);
    let copy = cluster.image.clone();
    let evidence = cluster.evidence(&copy, both_logs(&[(1, 1, 0, 20)]));
    let restored = rebuild(&copy, &evidence).expect("valid");
    assert_eq!((&restored.losses, &restored.notes), (&Vec::new(), &Vec::new()));
    assert_eq!(ends(&restored), [(0, 10), (0, 5)]);
    let told: Vec<String> = restored.partitions.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "t-0: offsets 0..10 in objects, up to 20 in write-ahead logs; led by node 1",
            "t-1: offsets 0..5 in objects; led by node 1"
        ]
    );
    let mut image = restored.image;
    assert_eq!(image.objects, copy.objects);
    assert!(image.nodes.values().all(|node| node.fenced && node.epoch.0 > copy.next.node_epoch + 1000));
    assert!(image.next.object > copy.next.object && image.next.producer > copy.next.producer);
    // The old life is over, also for whoever is still running.
    let (node, node_epoch) = cluster.lives[&1];
    let index = |image: &MetadataImage| LogIndex(image.applied.0 + 1);
    let late = Command::LeaseObjectIds { node, node_epoch, count: 1 };
    assert!(matches!(apply(&mut image.clone(), index(&image), 0, &late), Outcome::Refused(_)));
    // The node is back with its log, and opens what it leads above everything that its log can hold.
    let wal = WalDescriptor { uuid: Uuid::from_u128(1), class: WalClass::Shared, location: "file:///wal/1".into() };
    let registration = Registration { wal: Some(wal), ..Registration::new(NodeId(1), Uuid::from_u128(9)) };
    let at = index(&image);
    let Outcome::Registered { epoch } = apply(&mut image, at, 0, &Command::RegisterNode(registration)) else {
        panic!()
    };
    assert!(epoch >= image.collect_from, "what it puts and does not commit may be collected");
    let at = index(&image);
    let open = Command::OpenStreams { node, node_epoch: epoch, streams: vec![StreamId(1)] };
    let Outcome::Opened { epochs } = apply(&mut image, at, 0, &open) else { panic!() };
    assert!(epochs[0].expect("opened").0 > STREAM_EPOCHS);
}

#[test]
fn objects_that_came_later_are_found_again_as_far_as_they_follow() {
    let mut cluster = Cluster::new(2);
    cluster.upload(&[(1, 0, 10)], &[], true);
    let copy = cluster.image.clone();
    cluster.upload(&[(1, 10, 20), (2, 0, 7)], &[], true);
    cluster.upload(&[(1, 20, 25)], &[], true);
    cluster.upload(&[(2, 7, 9)], &[], false);
    // Put beside another one that did not arrive: its records are in the log.
    let orphan = cluster.upload(&[(2, 12, 15)], &[], false);
    let restored = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[(2, 1, 9, 15)]))).expect("valid");
    assert_eq!(restored.losses, Vec::<String>::new());
    assert_eq!(ends(&restored), [(0, 25), (0, 9)]);
    assert_eq!(restored.image.streams[&StreamId(1)].checkpoint, Some((ObjectId(3), Offset(25))));
    assert!(
        !restored.image.objects.contains_key(&orphan),
        "and it is nobody's to delete: {:?}",
        restored.image.objects
    );
    let without_log = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[]))).expect("valid");
    assert!(without_log.losses.iter().any(|loss| loss.contains("t-1") && loss.contains("9..12")), "{without_log:?}");
}

#[test]
fn what_was_put_and_never_committed_does_not_take_the_place_of_what_was() {
    let mut cluster = Cluster::new(1);
    cluster.upload(&[(1, 0, 1)], &[], false);
    cluster.upload(&[(1, 0, 5)], &[], true);
    let copy = cluster.image.clone();
    cluster.upload(&[(1, 5, 9)], &[], true);
    let restored = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[]))).expect("valid");
    assert_eq!((restored.losses.len(), ends(&restored)), (0, vec![(0, 9)]));
    assert!(!restored.image.objects.contains_key(&ObjectId(1)));
    // Nor one that goes further and begins in the middle of what was merged.
    let mut cluster = Cluster::new(1);
    cluster.upload(&[(1, 0, 1)], &[], true);
    cluster.upload(&[(1, 1, 3)], &[], false);
    cluster.upload(&[(1, 1, 2)], &[], true);
    cluster.upload(&[(1, 0, 2)], &[1, 3], true);
    let copy = cluster.image.clone();
    let restored = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[(1, 1, 2, 9)]))).expect("valid");
    assert_eq!((restored.losses.len(), ends(&restored)), (0, vec![(0, 2)]));
}

#[test]
fn merged_and_deleted_objects_are_made_up_for() {
    let mut cluster = Cluster::new(1);
    for start in [0, 10, 20, 30] {
        cluster.upload(&[(1, start, start + 10)], &[], true);
    }
    let copy = cluster.image.clone();
    cluster.upload(&[(1, 10, 30)], &[2, 3], true);
    cluster.trim(1, 12);
    cluster.upload(&[(1, 40, 50)], &[], true);
    cluster.collect();
    assert!(!cluster.store.contains_key(&ObjectId(1)) && !cluster.store.contains_key(&ObjectId(2)));
    let restored = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[]))).expect("valid");
    assert_eq!(restored.losses, Vec::<String>::new());
    assert_eq!(restored.notes, ["t-0: offsets 0..10 were deleted after the copy was taken"]);
    assert_eq!(ends(&restored), [(10, 50)]);
    // What is missing at the end was not deleted by anybody.
    cluster.store.remove(&ObjectId(6));
    cluster.store.remove(&ObjectId(4));
    let restored = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[]))).expect("valid");
    let told = "t-0: offsets 30..40 were committed and are in no object: deleted or lost; the partition begins at 40";
    assert_eq!((restored.losses.as_slice(), ends(&restored)), ([told.to_owned()].as_slice(), vec![(40, 40)]));
}

#[test]
fn who_has_the_newest_records_leads() {
    let mut cluster = Cluster::new(2);
    cluster.upload(&[(1, 0, 10)], &[], true);
    let copy = cluster.image.clone();
    // Handed over at 15 under epoch 2, from 10 on.
    let logs = vec![log(1, 1, None, &[(1, 1, 0, 15)]), log(2, 2, None, &[(1, 2, 10, 40)])];
    let restored = rebuild(&copy, &cluster.evidence(&copy, logs)).expect("valid");
    assert_eq!(restored.losses, Vec::<String>::new());
    assert_eq!((restored.partitions[0].leader, restored.partitions[0].log_end), (NodeId(2), Some(Offset(40))));
    assert_eq!(restored.notes, ["t-0: moved from node 1 to node 2 after the copy was taken"]);
    // A hand-over that was not granted, after which the source went on.
    let logs = vec![log(1, 1, None, &[(1, 1, 0, 60)]), log(2, 2, None, &[(1, 2, 10, 40)])];
    let restored = rebuild(&copy, &cluster.evidence(&copy, logs)).expect("valid");
    assert_eq!((restored.partitions[0].leader, restored.partitions[0].log_end), (NodeId(1), Some(Offset(60))));
    assert!(restored.losses[0].contains("a move that failed"), "{:?}", restored.losses);
    assert_eq!(restored.image.streams[&StreamId(1)].void[0].epoch, StreamEpoch(2));
}

#[test]
fn an_offset_that_was_given_out_is_not_given_out_again() {
    let mut cluster = Cluster::new(1);
    cluster.upload(&[(1, 0, 10)], &[], true);
    let copy = cluster.image.clone();
    // All that was written after the copy was uploaded and deleted: a checkpoint in the log, or its next records, prove it.
    let later = cluster.upload(&[(1, 10, 20)], &[], true);
    cluster.trim(1, 20);
    cluster.collect();
    assert!(cluster.store.remove(&later).is_some(), "its checkpoint keeps it");
    for (run, end) in [((1, 1, 20, 20), 20), ((1, 1, 20, 40), 40)] {
        let restored = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[run]))).expect("valid");
        assert!(restored.losses[0].contains("offsets 10..20 were deleted or lost"), "{:?}", restored.losses);
        assert_eq!((ends(&restored)[0], restored.partitions[0].log_end), ((20, 20), Some(Offset(end))));
        assert!(restored.image.objects.is_empty(), "what lies below is not part of the stream any more");
    }
    // Or later objects do.
    cluster.upload(&[(1, 20, 30)], &[], true);
    cluster.store.extend(std::iter::once((ObjectId(1), Cluster::new(1).uploaded_first())));
    let restored = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[]))).expect("valid");
    assert!(restored.losses[0].contains("offsets 10..20 were deleted or lost"), "{:?}", restored.losses);
    assert_eq!(ends(&restored)[0], (20, 30));
}

#[test]
fn logs_are_in_the_state_they_are_in_now() {
    let mut cluster = Cluster::new(2);
    let copy = cluster.image.clone();
    // Node 1 was failed over after the copy, and began anew.
    let (node, node_epoch) = cluster.lives[&1];
    let seal = Seal { wal: Uuid::from_u128(1), end: Lsn(4096), tails: vec![(StreamId(1), Offset(5))] };
    let leaders = vec![(StreamId(1), NodeId(2))];
    cluster.apply(&Command::FailOver(FailOver { node, node_epoch, seal: Some(seal), leaders }));
    cluster.register(1, 3);
    let logs = vec![
        log(1, 1, Some(4096), &[(1, 1, 0, 5)]),
        log(2, 2, None, &[(1, 2, 5, 9)]),
        log(1, 3, None, &[]),
        log(7, 7, None, &[]),
    ];
    let restored = rebuild(&copy, &cluster.evidence(&copy, logs)).expect("valid");
    assert_eq!(restored.losses, Vec::<String>::new());
    let state = |uuid: u128| restored.image.wals[&Uuid::from_u128(uuid)].state.clone();
    let pending = std::iter::once((StreamId(1), Offset(5))).collect();
    assert_eq!(state(1), WalState::Sealed { end: Lsn(4096), pending });
    assert_eq!((state(2), state(3)), (WalState::Open, WalState::Open));
    assert_eq!((restored.partitions[0].leader, restored.partitions[0].log_end), (NodeId(2), Some(Offset(9))));
    assert!(restored.image.nodes.contains_key(&NodeId(7)) && restored.notes[0].contains("node 7 joined"));
    let unread = rebuild(&copy, &cluster.evidence(&copy, Vec::new())).expect("valid");
    assert_eq!(unread.unread.len(), 2);
    assert!(unread.losses[0].contains("was not read"), "{:?}", unread.losses);
}

#[test]
fn what_belongs_to_topics_made_later_is_told() {
    let mut cluster = Cluster::new(1);
    let copy = cluster.image.clone();
    let replicas: Arc<[NodeId]> = Arc::from([NodeId(1)].as_slice());
    let create = Command::CreateTopic {
        id: Uuid::from_u128(2),
        name: "later".into(),
        partitions: vec![replicas],
        configs: Vec::new(),
    };
    cluster.apply(&create);
    let (node, node_epoch) = cluster.lives[&1];
    cluster.apply(&Command::OpenStreams { node, node_epoch, streams: vec![StreamId(2)] });
    cluster.upload(&[(2, 0, 10)], &[], true);
    let restored = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[(2, 1, 10, 30)]))).expect("valid");
    assert!(restored.losses[0].contains("stream 2 with offsets up to 30"), "{:?}", restored.losses);
    assert!(restored.image.next.stream > 3);
}

#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    stream: u64,
    amount: i64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0_u8..10, 1_u64..4, 1_i64..20).prop_map(|(kind, stream, amount)| Step { kind, stream, amount });
    proptest::collection::vec(step, 1..60)
}

impl Cluster {
    fn step(&mut self, step: Step) {
        let Step { kind, stream, amount } = step;
        let end = self.stream(stream).end.0;
        match kind {
            0..=4 => {
                let other = stream % 3 + 1;
                let second = self.stream(other).end.0;
                self.upload(&[(stream, end, end + amount), (other, second, second + 1)], &[], true);
            }
            5 => drop(self.upload(&[(stream, end, end + amount)], &[], false)),
            6 | 7 => self.merge(stream, usize::try_from(amount % 4 + 2).expect("small")),
            8 => self.trim(stream, (end - amount).max(0)),
            _ => self.collect(),
        }
    }

    /// Merges the first objects of a stream into one.
    fn merge(&mut self, stream: u64, count: usize) {
        let ranges: Vec<(Offset, crate::image::RangeImage)> =
            self.image.ranges_of(StreamId(stream)).take(count).map(|(start, range)| (start, *range)).collect();
        if let (Some((first, _)), Some((_, last))) = (ranges.first(), ranges.last()) {
            let replaces: Vec<u64> = ranges.iter().map(|(_, range)| range.object.0).collect();
            self.upload(&[(stream, first.0, last.end.0)], &replaces, true);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    /// Whatever was uploaded, merged, deleted and collected after the copy: every offset that was committed and not
    /// deleted is there again; and what is said to be lost may have been deleted.
    #[test]
    fn all_that_was_committed_is_found_again(before in steps(), after in steps()) {
        let mut cluster = Cluster::new(3);
        before.into_iter().for_each(|step| cluster.step(step));
        let copy = cluster.image.clone();
        after.into_iter().for_each(|step| cluster.step(step));
        let restored = rebuild(&copy, &cluster.evidence(&copy, both_logs(&[]))).expect("valid");
        prop_assert!(restored.losses.iter().all(|loss| loss.contains("deleted or lost")), "{:?}", restored.losses);
        for (id, stream) in &cluster.image.streams {
            let now = &restored.image.streams[id];
            let is_empty = stream.start >= stream.end;
            prop_assert!(is_empty || now.end >= stream.end && now.start <= stream.start, "{stream:?} became {now:?}");
            let mut objects = restored.image.ranges_of(*id).map(|(_, range)| range.object);
            prop_assert!(objects.all(|object| cluster.store.contains_key(&object)));
        }
    }
}
