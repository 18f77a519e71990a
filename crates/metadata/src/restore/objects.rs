//! Which offsets of each stream are in the store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{ObjectId, Offset, StreamEpoch, StreamId};

use super::{Evidence, FoundObject, Rebuild};
use crate::image::{ObjectImage, RangeImage, SliceImage};

/// A slice that could be part of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    start: Offset,
    /// Of the writer; of the stream for what the copy knows, so that nothing from before that was never committed counts for more.
    epoch: StreamEpoch,
    range: RangeImage,
}

impl Rebuild<'_> {
    /// Gives every stream the ranges that objects of the store hold: those of the copy, and what follows them without a gap.
    /// Where objects of the copy are gone, because they were merged into others or what they held was deleted, the ranges are
    /// put together anew.
    pub(super) fn find_ranges(&mut self) {
        let found = newest_attempts(self.evidence);
        let mut pieces: BTreeMap<StreamId, Vec<Piece>> = BTreeMap::new();
        for object in found.values() {
            for slice in &object.slices {
                let (bytes, max_timestamp_ms) = (slice.bytes, slice.max_timestamp_ms);
                let range = RangeImage { object: object.id, end: slice.end, bytes, max_timestamp_ms };
                pieces.entry(slice.stream).or_default().push(Piece { start: slice.start, epoch: slice.epoch, range });
            }
        }
        for id in self.image.streams.keys().copied().collect::<Vec<_>>() {
            let chain = self.chain(id, pieces.remove(&id).unwrap_or_default());
            self.take_chain(id, &chain);
        }
    }

    /// The pieces that the stream consists of, without a gap: as far as possible from what the copy knows on. Pieces that lie
    /// further away may follow what logs hold, and are remembered.
    fn chain(&mut self, id: StreamId, mut pieces: Vec<Piece>) -> Vec<Piece> {
        let Some(stream) = self.image.streams.get(&id).cloned() else { return Vec::new() };
        let is_present = |(_, range): &(Offset, &RangeImage)| self.evidence.present.contains(&range.object);
        let known = self.image.ranges_of(id).filter(is_present);
        pieces.extend(known.map(|(start, range)| Piece { start, epoch: stream.epoch, range: *range }));
        let (reach, known_to) = (Reach::of(&pieces), stream.end.max(stream.start));
        let mut chain = reach.covering(stream.start, known_to, stream.end);
        let far = reach.furthest();
        if chain.is_empty() {
            chain = far;
        } else if end_of(&far) > end_of(&chain) {
            self.far.insert(id, far);
        }
        let (name, start) = (self.name(&stream), stream.start);
        let end = end_of(&chain).unwrap_or(stream.end);
        if end < stream.end {
            // What was given out is not given out again, and below a hole nothing can be part of the stream.
            let next = stream.end;
            self.losses.push(format!(
                "{name}: offsets {end}..{next} were committed and are in no object: deleted or lost; the partition begins at {next}"
            ));
            return Vec::new();
        }
        // Nobody deletes an object that any stream needs: what is missing at the front was trimmed, though some of it may still
        // lie in objects that hold other streams.
        let first = chain.first().map_or(known_to, |piece| piece.start);
        if first > start {
            self.notes.push(format!("{name}: offsets {start}..{first} were deleted after the copy was taken"));
        }
        chain
    }

    /// Goes on where objects prove offsets above everything else that was found: what was given out is not given out again.
    /// Returns whether there is such a place above `reached`.
    pub(super) fn jump_to_far(&mut self, id: StreamId, reached: Offset) -> bool {
        let Some(far) = self.far.remove(&id) else { return false };
        let (Some(last), Some(stream)) = (end_of(&far).filter(|end| *end > reached), self.image.streams.get(&id))
        else {
            return false;
        };
        let (name, first) = (self.name(stream), far[0].start);
        if first < stream.end {
            // Put and not committed, and it begins in the middle of what was: to take it would give up what lies below.
            self.losses.push(format!(
                "{name}: offsets {reached}..{last} are in an object that was never part of the partition, and in no log that was \
                 read: deleted or lost"
            ));
            return false;
        }
        self.losses.push(format!(
            "{name}: offsets {reached}..{first} were deleted or lost: they are in no object and in no log that was read; the \
             partition begins at {first}"
        ));
        self.take_chain(id, &far);
        true
    }

    /// Drops all that the stream holds below `start`, where nothing of it is in the store.
    pub(super) fn begin_at(&mut self, id: StreamId, start: Offset) {
        self.drop_ranges(id);
        if let Some(stream) = self.image.streams.get_mut(&id).map(Arc::make_mut) {
            (stream.start, stream.end) = (start, start);
        }
    }

    fn drop_ranges(&mut self, id: StreamId) {
        let known = self.image.ranges_of(id).map(|(start, _)| start).collect::<Vec<_>>();
        for start in known {
            self.image.ranges.remove(&(id, start));
        }
    }

    fn take_chain(&mut self, id: StreamId, chain: &[Piece]) {
        let found = newest_attempts(self.evidence);
        self.drop_ranges(id);
        let present = &self.evidence.present;
        let Some(stream) = self.image.streams.get_mut(&id).map(Arc::make_mut) else { return };
        match (chain.first(), chain.last()) {
            (Some(first), Some(last)) => {
                stream.start = stream.start.max(first.start);
                stream.end = last.range.end;
            }
            // Nothing of it is in the store: the offsets that were given out stay so.
            _ => stream.start = stream.start.max(stream.end),
        }
        let copied = stream.checkpoint.filter(|(object, _)| present.contains(object));
        let checkpoints = chain.iter().filter_map(|piece| found.get(&piece.range.object)).flat_map(|object| {
            let own = object.checkpoints.iter().filter(|(stream, _)| *stream == id);
            own.map(|(_, offset)| (object.id, *offset))
        });
        let checkpoints = copied.into_iter().chain(checkpoints).filter(|(_, offset)| *offset <= stream.end);
        stream.checkpoint = checkpoints.max_by_key(|(object, offset)| (*offset, *object));
        let start = stream.start;
        for piece in chain.iter().filter(|piece| piece.range.end > start) {
            self.image.ranges.insert((id, piece.start), piece.range);
        }
    }

    /// Objects are what ranges and checkpoints name, and those that the copy was about to delete.
    pub(super) fn recount(&mut self) {
        let found = newest_attempts(self.evidence);
        let image = &mut self.image;
        let used: BTreeSet<(StreamId, ObjectId)> =
            image.ranges.iter().map(|((stream, _), range)| (*stream, range.object)).collect();
        let mut references: BTreeMap<ObjectId, u32> = BTreeMap::new();
        let pinned = image.streams.values().filter_map(|stream| stream.checkpoint).map(|(object, _)| object);
        for object in image.ranges.values().map(|range| range.object).chain(pinned) {
            *references.entry(object).or_default() += 1;
        }
        let known = std::mem::take(&mut image.objects);
        image.stream_sets.clear();
        for (id, object) in known {
            if image.destroyed.contains(&id) && !references.contains_key(&id) {
                image.objects.insert(id, object);
            } else if references.contains_key(&id) && self.evidence.present.contains(&id) {
                image.objects.insert(id, ObjectImage { destroyed_at_ms: None, ..object });
            }
        }
        for (id, count) in references {
            image.destroyed.remove(&id);
            if let Some(object) = found.get(&id).filter(|_| !image.objects.contains_key(&id)) {
                image.objects.insert(id, object_image(object, &used));
            }
            let Some(object) = image.objects.get_mut(&id) else { continue };
            object.references = count;
            if object.is_stream_set() {
                image.stream_sets.insert(id);
            }
        }
    }
}

/// Objects that the copy does not know, each in its newest attempt: attempts hold the same.
fn newest_attempts(evidence: &Evidence) -> BTreeMap<ObjectId, &FoundObject> {
    let mut found: BTreeMap<ObjectId, &FoundObject> = BTreeMap::new();
    for object in evidence.objects.iter().filter(|object| !evidence.present.contains(&object.id)) {
        let known = found.entry(object.id).or_insert(object);
        if known.attempt < object.attempt {
            *known = object;
        }
    }
    found
}

fn object_image(object: &FoundObject, used: &BTreeSet<(StreamId, ObjectId)>) -> ObjectImage {
    let slice = |stream: StreamId| SliceImage { stream, committed: used.contains(&(stream, object.id)) };
    ObjectImage {
        node_epoch: object.node_epoch,
        attempt: object.attempt,
        node: object.node,
        size: object.size,
        references: 0,
        slices: object.slices.iter().map(|found| slice(found.stream)).collect(),
        destroyed_at_ms: None,
    }
}

/// How far pieces reach, from each offset where one begins.
///
/// Pieces that overlap hold the same records, for only what was acknowledged is uploaded. Where an operator gave records up
/// and others took their offsets, those of the later epoch are the stream's.
struct Reach<'a> {
    pieces: &'a [Piece],
    /// The piece to take at an offset, and under which epoch and where the chain from there ends.
    best: BTreeMap<Offset, (usize, StreamEpoch, Offset)>,
}

impl<'a> Reach<'a> {
    fn of(pieces: &'a [Piece]) -> Self {
        let mut order: Vec<usize> = (0..pieces.len()).filter(|at| pieces[*at].range.end > pieces[*at].start).collect();
        order.sort_by_key(|at| Reverse(pieces[*at].start));
        let mut best: BTreeMap<Offset, (usize, StreamEpoch, Offset)> = BTreeMap::new();
        for at in order {
            let Piece { start, epoch, range } = pieces[at];
            let (epoch, end) = best.get(&range.end).map_or((epoch, range.end), |(_, epoch, end)| (*epoch, *end));
            if best.get(&start).is_none_or(|(_, known, reached)| (*known, *reached) < (epoch, end)) {
                best.insert(start, (at, epoch, end));
            }
        }
        Self { pieces, best }
    }

    fn from(&self, start: Offset) -> Vec<Piece> {
        let mut chain = Vec::new();
        let mut next = self.best.get(&start);
        while let Some((at, ..)) = next {
            chain.push(self.pieces[*at]);
            next = self.best.get(&self.pieces[*at].range.end);
        }
        chain
    }

    /// Of the chains that begin at or below `known_to` and reach `end`: one that holds as much as possible from `start` on, and
    /// of these the one that ends last.
    fn covering(&self, start: Offset, known_to: Offset, end: Offset) -> Vec<Piece> {
        let covers =
            |(first, (_, _, last)): &(&Offset, &(usize, StreamEpoch, Offset))| **first <= known_to && *last >= end;
        let best = self.best.iter().filter(covers);
        let best = best.max_by_key(|(first, (_, epoch, last))| (Reverse(start.max(**first)), *epoch, *last));
        best.map(|(first, _)| self.from(*first)).unwrap_or_default()
    }

    /// The chain that ends last, from as early as possible.
    fn furthest(&self) -> Vec<Piece> {
        let best = self.best.iter().max_by_key(|(first, (_, epoch, last))| (*epoch, *last, Reverse(**first)));
        best.map(|(first, _)| self.from(*first)).unwrap_or_default()
    }
}

fn end_of(chain: &[Piece]) -> Option<Offset> {
    chain.last().map(|piece| piece.range.end)
}
