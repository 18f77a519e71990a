//! Objects: commits judged slice by slice, object compaction as one swap, references.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use common::planted::{self, Bug};
use common::{NodeEpoch, NodeId, ObjectId, Offset, StreamId};

use super::{State, require_current, wals};
use crate::command::{NewObject, NewSlice, Outcome, Refusal};
use crate::image::{ObjectImage, RangeImage, SliceImage};

/// Makes objects visible. A stale slice is refused alone: it blocks neither its object's other slices nor, above
/// all, the trim of the log.
pub(super) fn commit(
    state: &mut State,
    now_ms: i64,
    owner: (NodeId, NodeEpoch),
    objects: &[NewObject],
    replaces: &[ObjectId],
) -> Result<Outcome, Refusal> {
    let current = require_current(state, owner.0, owner.1);
    if !planted::is(Bug::SkipEpochCheck) {
        current?;
    }
    require_sound(state, objects)?;
    let replaces: HashSet<ObjectId> = replaces.iter().copied().collect();
    let mut committed = Vec::new();
    for object in objects {
        match state.objects.get(&object.id) {
            Some(known) => committed.extend(known.slices.iter().map(|slice| slice.committed)),
            None => commit_one(state, now_ms, owner, object, &replaces, &mut committed),
        }
    }
    Ok(Outcome::Slices { committed })
}

fn require_sound(state: &State, objects: &[NewObject]) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for object in objects {
        if object.id.0 >= state.next.object || object.id.0 == 0 {
            return Err(Refusal::Invalid(format!("object id {} was never leased", object.id)));
        }
        if !seen.insert(object.id) {
            return Err(Refusal::Invalid(format!("object {} appears twice", object.id)));
        }
        let odd = |slice: &NewSlice| {
            slice.start.0 < 0
                || slice.start >= slice.end
                || slice.checkpoint.is_some_and(|at| at < Offset(0) || at > slice.end)
        };
        if object.slices.iter().any(odd) {
            return Err(Refusal::Invalid(format!("object {} has a slice without sense", object.id)));
        }
    }
    Ok(())
}

fn commit_one(
    state: &mut State,
    now_ms: i64,
    owner: (NodeId, NodeEpoch),
    object: &NewObject,
    replaces: &HashSet<ObjectId>,
    outcomes: &mut Vec<bool>,
) {
    let first = outcomes.len();
    let empty = ObjectImage {
        node: owner.0,
        node_epoch: owner.1,
        attempt: object.attempt,
        size: object.size,
        references: 0,
        slices: Arc::new([]),
        destroyed_at_ms: None,
    };
    state.objects.insert(object.id, empty);
    for slice in &object.slices {
        outcomes.push(commit_slice(state, now_ms, owner, object.id, slice, replaces));
    }
    let judged = object.slices.iter().zip(&outcomes[first..]);
    let slices = judged.map(|(slice, committed)| SliceImage { stream: slice.stream, committed: *committed }).collect();
    let image = state.objects.get_mut(&object.id).expect("was inserted above");
    image.slices = slices;
    if image.references > 0 {
        if image.is_stream_set() {
            state.stream_sets.insert(object.id);
        }
    } else if image.destroyed_at_ms.is_none() {
        image.destroyed_at_ms = Some(now_ms);
        state.destroyed.insert(object.id);
    }
}

fn commit_slice(
    state: &mut State,
    now_ms: i64,
    owner: (NodeId, NodeEpoch),
    object: ObjectId,
    slice: &NewSlice,
    replaces: &HashSet<ObjectId>,
) -> bool {
    let Some(stream) = state.streams.get(&slice.stream) else { return false };
    let is_owners = stream.epoch == slice.epoch && stream.owner == Some(owner);
    if !is_owners && !planted::is(Bug::SkipEpochCheck) {
        return false;
    }
    let stream_start = stream.start;
    if replaces.is_empty() {
        // Below the stream's start nothing has to be there, so a trimmed gap may be skipped.
        let continues = slice.start == stream.end || (slice.start > stream.end && slice.start <= stream.start);
        if !continues {
            return false;
        }
        if let Some(stream) = state.streams.get_mut(&slice.stream) {
            Arc::make_mut(stream).end = slice.end;
        }
        wals::settle(state, slice.stream);
    } else if !take_over(state, now_ms, slice, replaces) {
        return false;
    }
    if slice.end > stream_start {
        let range = RangeImage { object, end: slice.end, bytes: slice.bytes, max_timestamp_ms: slice.max_timestamp_ms };
        state.ranges.insert((slice.stream, slice.start), range);
        reference(state, object);
    }
    pin_checkpoint(state, now_ms, object, slice);
    true
}

/// Removes the ranges between the slice's offsets if the replaced objects hold exactly these. What was trimmed
/// meanwhile may be missing at the front.
fn take_over(state: &mut State, now_ms: i64, slice: &NewSlice, replaces: &HashSet<ObjectId>) -> bool {
    let mut next = None;
    let mut covered = Vec::new();
    for (start, range) in state.ranges_from(slice.stream, slice.start) {
        if start >= slice.end {
            break;
        }
        let follows = next.is_none_or(|next| next == start);
        if start < slice.start || range.end > slice.end || !follows || !replaces.contains(&range.object) {
            return false;
        }
        next = Some(range.end);
        covered.push((start, range.object));
    }
    let stream_start = state.streams.get(&slice.stream).map_or(Offset(0), |stream| stream.start);
    let whole_front = covered.first().is_some_and(|(start, _)| *start == slice.start || *start <= stream_start);
    if next != Some(slice.end) || !whole_front {
        return false;
    }
    for (start, object) in covered {
        state.ranges.remove(&(slice.stream, start));
        dereference(state, now_ms, object);
    }
    true
}

/// The newest checkpoint pins its object until the next one commits.
fn pin_checkpoint(state: &mut State, now_ms: i64, object: ObjectId, slice: &NewSlice) {
    let Some(offset) = slice.checkpoint else { return };
    let Some(stream) = state.streams.get_mut(&slice.stream) else { return };
    let previous = stream.checkpoint;
    if previous.is_some_and(|(_, newest)| newest > offset) {
        return;
    }
    Arc::make_mut(stream).checkpoint = Some((object, offset));
    reference(state, object);
    if let Some((previous, _)) = previous {
        dereference(state, now_ms, previous);
    }
}

/// Drops the ranges of `stream` that end at or below `start`.
pub(super) fn drop_ranges(state: &mut State, now_ms: i64, stream: StreamId, start: Offset) {
    let below: Vec<(Offset, ObjectId)> = state
        .ranges_of(stream)
        .take_while(|(_, range)| range.end <= start)
        .map(|(first, range)| (first, range.object))
        .collect();
    for (first, object) in below {
        state.ranges.remove(&(stream, first));
        dereference(state, now_ms, object);
    }
}

fn reference(state: &mut State, object: ObjectId) {
    if let Some(image) = state.objects.get_mut(&object) {
        image.references += 1;
    }
}

/// Takes one reference away; without any, the object may be deleted from the store.
pub(super) fn dereference(state: &mut State, now_ms: i64, object: ObjectId) {
    let Some(image) = state.objects.get_mut(&object) else { return };
    image.references -= 1;
    if image.references == 0 {
        image.destroyed_at_ms = Some(now_ms);
        state.destroyed.insert(object);
        state.stream_sets.remove(&object);
    }
}

/// Forgets objects that are gone from the store; those still referenced, or unknown, are left alone.
pub(super) fn forget(state: &mut State, objects: &[ObjectId]) -> Result<Outcome, Refusal> {
    for object in objects {
        if state.destroyed.remove(object).is_some() {
            state.objects.remove(object);
        }
    }
    Ok(Outcome::Done)
}
