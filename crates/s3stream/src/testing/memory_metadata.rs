//! Metadata without Raft: judges commits by the rules that real metadata has, and checks its own invariants.

use std::collections::{BTreeMap, BTreeSet};

use common::{NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use parking_lot::Mutex;

use crate::ports::{
    CheckpointRef, CommitError, CommittedRange, ObjectCommit, ObjectDescriptor, ObjectManager, PortError, SliceCommit,
    SliceOutcome, StreamManager, StreamMetadata,
};

/// See the module. Survives the "crash" of a stream store that was built on it.
#[derive(Debug, Default)]
pub struct MemoryMetadata {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    streams: BTreeMap<StreamId, StreamState>,
    objects: BTreeMap<ObjectId, ObjectDescriptor>,
    /// Objects that were committed with slices of several streams.
    stream_sets: BTreeSet<ObjectId>,
    /// Outcomes by the first object of a commit, so that asking again is idempotent.
    outcomes: BTreeMap<ObjectId, Vec<SliceOutcome>>,
    next_object: u64,
    /// Each node's current life.
    nodes: BTreeMap<NodeId, NodeEpoch>,
    commits: u64,
    unavailable: bool,
    /// How many of the next commits take effect without their outcome being told.
    lose_outcomes: u32,
}

#[derive(Debug, Default, Clone)]
struct StreamState {
    epoch: StreamEpoch,
    owner: Option<(NodeId, NodeEpoch)>,
    start: Offset,
    end: Offset,
    ranges: Vec<CommittedRange>,
    checkpoint: Option<(ObjectId, Offset)>,
    reserved: Option<StreamEpoch>,
    void: Vec<StreamEpoch>,
    sealed_end: Offset,
}

impl MemoryMetadata {
    /// Creates a stream that starts at offset 0 and is not open.
    pub fn create_stream(&self, stream: StreamId) {
        self.state.lock().streams.entry(stream).or_default();
    }

    /// Gives the stream its next epoch, as an opening by somebody else does.
    pub fn open_stream(&self, stream: StreamId) -> StreamEpoch {
        self.open_stream_by(stream, None)
    }

    /// Gives the stream its next epoch, as an opening by `owner` does.
    pub fn open_stream_by(&self, stream: StreamId, owner: Option<(NodeId, NodeEpoch)>) -> StreamEpoch {
        let mut state = self.state.lock();
        let known = state.streams.entry(stream).or_default();
        known.epoch = known.next_epoch();
        known.void.extend(known.reserved.take());
        known.owner = owner;
        known.epoch
    }

    /// Deletes a stream; its objects lose their references.
    pub fn delete_stream(&self, stream: StreamId) {
        self.state.lock().streams.remove(&stream);
    }

    /// The node starts another life: commits of earlier ones are refused.
    pub fn register(&self, node: NodeId, node_epoch: NodeEpoch) {
        self.state.lock().nodes.insert(node, node_epoch);
    }

    /// Sets aside the epoch of a move. One that was set aside before is void.
    pub fn reserve(&self, stream: StreamId) -> StreamEpoch {
        let mut state = self.state.lock();
        let known = state.streams.entry(stream).or_default();
        let next = known.next_epoch();
        known.void.extend(known.reserved.replace(next));
        next
    }

    /// Completes a move: the epoch that was reserved is granted to `owner`. Whether it was still reserved.
    pub fn grant(&self, stream: StreamId, epoch: StreamEpoch, owner: (NodeId, NodeEpoch)) -> bool {
        let mut state = self.state.lock();
        let Some(known) = state.streams.get_mut(&stream).filter(|known| known.reserved == Some(epoch)) else {
            return false;
        };
        (known.epoch, known.owner, known.reserved) = (epoch, Some(owner), None);
        true
    }

    /// Takes note of what a sealed log holds.
    pub fn seal(&self, tails: &[(StreamId, Offset)]) {
        let mut state = self.state.lock();
        for (stream, end) in tails {
            let known = state.streams.entry(*stream).or_default();
            known.sealed_end = known.sealed_end.max(*end);
        }
    }

    /// While set, calls that change metadata fail certainly.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.state.lock().unavailable = unavailable;
    }

    /// The next `commits` commits take effect, but their callers are told that the outcome is unknown.
    pub fn lose_outcomes(&self, commits: u32) {
        self.state.lock().lose_outcomes = commits;
    }

    /// Commits that took effect.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.state.lock().commits
    }

    /// Objects that are referenced.
    #[must_use]
    pub fn live_objects(&self) -> BTreeSet<ObjectId> {
        self.state.lock().referenced()
    }

    /// All ranges of a stream.
    #[must_use]
    pub fn all_ranges(&self, stream: StreamId) -> Vec<CommittedRange> {
        self.state.lock().streams.get(&stream).map(|stream| stream.ranges.clone()).unwrap_or_default()
    }
}

impl State {
    fn available(&self) -> Result<(), PortError> {
        if self.unavailable { Err(PortError::Unavailable("switched off".to_owned())) } else { Ok(()) }
    }

    fn referenced(&self) -> BTreeSet<ObjectId> {
        let of_stream = |stream: &StreamState| {
            let ranges = stream.ranges.iter().map(|range| range.object.id);
            ranges.chain(stream.checkpoint.map(|(object, _)| object)).collect::<Vec<_>>()
        };
        self.streams.values().flat_map(of_stream).collect()
    }

    fn judge(&mut self, object: &ObjectDescriptor, slice: &SliceCommit, replaces: &[ObjectId]) -> SliceOutcome {
        let Some(stream) = self.streams.get_mut(&slice.stream) else {
            return SliceOutcome::Stale;
        };
        let range = CommittedRange {
            object: *object,
            start: slice.start,
            end: slice.end,
            bytes: slice.bytes,
            max_timestamp_ms: slice.max_timestamp_ms,
        };
        let committed = if replaces.is_empty() { stream.append(slice, range) } else { stream.swap(range, replaces) };
        if committed {
            let newer = |offset: &Offset| stream.checkpoint.is_none_or(|(_, known)| *offset >= known);
            if let Some(offset) = slice.checkpoint.filter(newer) {
                stream.checkpoint = Some((object.id, offset));
            }
            stream.assert_contiguous();
        }
        if committed { SliceOutcome::Committed } else { SliceOutcome::Stale }
    }
}

impl StreamState {
    fn next_epoch(&self) -> StreamEpoch {
        let void = self.void.last().copied().unwrap_or_default();
        StreamEpoch(self.epoch.max(void).max(self.reserved.unwrap_or_default()).0 + 1)
    }

    fn append(&mut self, slice: &SliceCommit, range: CommittedRange) -> bool {
        // Below the stream's start nothing has to be there, so a trimmed gap may be skipped.
        let continues = slice.start == self.end || (slice.start > self.end && slice.start <= self.start);
        let fits = slice.epoch == self.epoch && continues && slice.end > slice.start;
        if fits {
            if range.end > self.start {
                self.ranges.push(range);
            }
            self.end = range.end;
        }
        fits
    }

    /// The new range takes the place of consecutive ranges in replaced objects that cover exactly the same.
    fn swap(&mut self, mut range: CommittedRange, replaces: &[ObjectId]) -> bool {
        range.start = range.start.max(self.start);
        let covered = |known: &CommittedRange| known.start < range.end && known.end > range.start;
        let Some(first) = self.ranges.iter().position(covered) else {
            return false;
        };
        let count = self.ranges[first..].iter().take_while(|known| covered(known)).count();
        let old = &self.ranges[first..first + count];
        let same = old[0].start.max(self.start) == range.start && old[count - 1].end == range.end;
        let all_replaced = old.iter().all(|known| replaces.contains(&known.object.id));
        if same && all_replaced {
            range.start = old[0].start;
            self.ranges.splice(first..first + count, [range]);
        }
        same && all_replaced
    }

    fn assert_contiguous(&self) {
        let mut expected = None;
        for range in &self.ranges {
            assert!(expected.is_none_or(|expected| expected == range.start), "ranges of a stream are contiguous");
            assert!(range.end > range.start, "ranges are not empty");
            expected = Some(range.end);
        }
        assert_eq!(expected.unwrap_or(self.end), self.end, "ranges end at the committed end");
        assert!(self.ranges.first().is_none_or(|range| range.start <= self.start), "ranges cover the start");
    }
}

#[async_trait::async_trait]
impl StreamManager for MemoryMetadata {
    fn stream(&self, stream: StreamId) -> Option<StreamMetadata> {
        let state = self.state.lock();
        let known = state.streams.get(&stream)?;
        let checkpoint =
            known.checkpoint.map(|(object, offset)| CheckpointRef { object: state.objects[&object], offset });
        Some(StreamMetadata {
            epoch: known.epoch,
            owner: known.owner,
            start: known.start,
            end: known.end,
            checkpoint,
            void: known.void.iter().copied().collect(),
            sealed_end: known.sealed_end,
        })
    }

    async fn trim(&self, stream: StreamId, epoch: StreamEpoch, start: Offset) -> Result<(), PortError> {
        let mut state = self.state.lock();
        state.available()?;
        let Some(known) = state.streams.get_mut(&stream).filter(|known| known.epoch == epoch) else {
            return Err(PortError::Fenced(format!("stream {stream}")));
        };
        known.start = known.start.max(start);
        known.ranges.retain(|range| range.end > known.start);
        known.assert_contiguous();
        Ok(())
    }
}

#[async_trait::async_trait]
impl ObjectManager for MemoryMetadata {
    async fn lease_object_ids(&self, count: u32) -> Result<ObjectId, PortError> {
        let mut state = self.state.lock();
        state.available()?;
        let first = state.next_object + 1;
        state.next_object += u64::from(count);
        Ok(ObjectId(first))
    }

    async fn commit(&self, commit: ObjectCommit) -> Result<Vec<SliceOutcome>, CommitError> {
        let mut state = self.state.lock();
        state.available()?;
        if state.nodes.get(&commit.node).is_some_and(|current| commit.node_epoch < *current) {
            return Err(PortError::Fenced(format!("epoch {} has ended", commit.node_epoch)).into());
        }
        let Some(key) = commit.objects.first().map(|(object, _)| object.id) else {
            return Ok(Vec::new());
        };
        let outcomes = match state.outcomes.get(&key) {
            Some(outcomes) => outcomes.clone(),
            None => {
                let mut outcomes = Vec::new();
                for (object, slices) in &commit.objects {
                    state.objects.insert(object.id, *object);
                    if slices.iter().any(|slice| slice.stream != slices[0].stream) {
                        state.stream_sets.insert(object.id);
                    }
                    for slice in slices {
                        outcomes.push(state.judge(object, slice, &commit.replaces));
                    }
                }
                state.commits += 1;
                state.outcomes.insert(key, outcomes.clone());
                outcomes
            }
        };
        if state.lose_outcomes > 0 {
            state.lose_outcomes -= 1;
            return Err(CommitError::Indeterminate("the answer was lost".to_owned()));
        }
        Ok(outcomes)
    }

    fn ranges(&self, stream: StreamId, from: Offset, until: Offset, limit: usize) -> Vec<CommittedRange> {
        let state = self.state.lock();
        let Some(known) = state.streams.get(&stream) else {
            return Vec::new();
        };
        let overlaps = |range: &&CommittedRange| range.end > from && range.start < until;
        known.ranges.iter().filter(overlaps).take(limit).copied().collect()
    }

    fn slices(&self, object: ObjectId) -> Vec<(StreamId, CommittedRange)> {
        let state = self.state.lock();
        let of = |(id, stream): (&StreamId, &StreamState)| {
            let here = stream.ranges.iter().filter(|range| range.object.id == object).copied();
            here.map(|range| (*id, range)).collect::<Vec<_>>()
        };
        state.streams.iter().flat_map(of).collect()
    }

    fn stream_set_objects(&self) -> Vec<ObjectDescriptor> {
        let state = self.state.lock();
        let referenced = state.referenced();
        state.stream_sets.intersection(&referenced).map(|object| state.objects[object]).collect()
    }

    fn destroyed(&self, limit: usize) -> Vec<ObjectDescriptor> {
        let state = self.state.lock();
        let referenced = state.referenced();
        state.objects.values().filter(|object| !referenced.contains(&object.id)).take(limit).copied().collect()
    }

    fn is_orphan(&self, node_epoch: NodeEpoch, id: ObjectId, attempt: u32) -> bool {
        let state = self.state.lock();
        let same = |object: &ObjectDescriptor| object.node_epoch == node_epoch && object.attempt == attempt;
        let has_ended = state.nodes.values().all(|current| node_epoch < *current);
        has_ended && !state.objects.get(&id).is_some_and(same)
    }

    async fn forget(&self, objects: Vec<ObjectId>) -> Result<(), PortError> {
        let mut state = self.state.lock();
        state.available()?;
        let referenced = state.referenced();
        for object in objects {
            assert!(!referenced.contains(&object), "a referenced object was deleted");
            state.objects.remove(&object);
        }
        Ok(())
    }
}
