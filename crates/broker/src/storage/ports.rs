//! The stream layer's ports on metadata. Reads come from this node's image and never wait; changes are commands.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use common::{Clock, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use metadata::command::{NewObject, NewSlice, Refusal};
use metadata::image::{ObjectImage, RangeImage, WalState};
use metadata::{Command, MetadataClient, MetadataImage, Outcome, SubmitError};
use s3stream::{
    CheckpointRef, CommitError, CommittedRange, ObjectCommit, ObjectDescriptor, ObjectManager, PortError, SliceCommit,
    SliceOutcome, StreamManager, StreamMetadata,
};
use tokio::sync::Mutex;

/// Object ids leased at once, so that an upload needs one metadata record: its commit.
const LEASE: u32 = 1024;

/// How long an object without references stays in the store: longer than any read that found it in an image.
const DELETE_DELAY_MS: i64 = 60_000;

/// Stream-set objects that are looked at for streams of this node. Compaction keeps their number small.
const SETS_LOOKED_AT: usize = 256;

/// How often a trim of unknown outcome is asked for again.
const TRIM_ATTEMPTS: u32 = 3;

/// Both ports of one life of one node.
pub struct MetadataPorts {
    client: MetadataClient,
    node: NodeId,
    node_epoch: NodeEpoch,
    clock: Arc<dyn Clock>,
    leased: Mutex<Range<u64>>,
}

impl MetadataPorts {
    /// Ports for `node` in the life that its registration answered.
    #[must_use]
    pub fn new(client: MetadataClient, node: NodeId, node_epoch: NodeEpoch, clock: Arc<dyn Clock>) -> Self {
        Self { client, node, node_epoch, clock, leased: Mutex::new(0..0) }
    }

    /// A command whose repetition is harmless.
    async fn submit_idempotent(&self, command: Command) -> Result<Outcome, PortError> {
        let mut last = String::new();
        for _ in 0..TRIM_ATTEMPTS {
            match self.client.submit(command.clone()).await {
                Ok(Outcome::Refused(refusal)) => return Err(refused(&refusal)),
                Ok(outcome) => return Ok(outcome),
                Err(SubmitError::Unavailable(reason)) => return Err(PortError::Unavailable(reason)),
                Err(SubmitError::Indeterminate(reason)) => last = reason,
            }
        }
        Err(PortError::Unavailable(last))
    }
}

/// A refusal is final: whoever hears it no longer owns what it wanted to change.
fn refused(refusal: &Refusal) -> PortError {
    PortError::Fenced(refusal.to_string())
}

fn unexpected(outcome: &Outcome) -> PortError {
    PortError::Unavailable(format!("metadata answered {outcome:?}"))
}

fn descriptor(id: ObjectId, object: &ObjectImage) -> ObjectDescriptor {
    ObjectDescriptor { id, node_epoch: object.node_epoch, attempt: object.attempt, size: object.size }
}

fn committed_range(image: &MetadataImage, start: Offset, range: &RangeImage) -> Option<CommittedRange> {
    let object = descriptor(range.object, image.objects.get(&range.object)?);
    let RangeImage { end, bytes, max_timestamp_ms, .. } = *range;
    Some(CommittedRange { object, start, end, bytes, max_timestamp_ms })
}

/// The newest stream-set objects with slices of streams that this life of a node has open, oldest first, whoever wrote them: where
/// streams have moved, those who wrote their objects can rewrite nothing of them.
fn stream_sets_of(image: &MetadataImage, life: (NodeId, NodeEpoch)) -> Vec<ObjectDescriptor> {
    let owns = |stream: StreamId| image.streams.get(&stream).is_some_and(|known| known.owner == Some(life));
    let wanted = |id: &ObjectId| {
        let object = image.objects.get(id)?;
        object.slices.iter().any(|slice| slice.committed && owns(slice.stream)).then(|| descriptor(*id, object))
    };
    let mut sets: Vec<_> = image.stream_sets.iter().rev().take(SETS_LOOKED_AT).filter_map(wanted).collect();
    sets.reverse();
    sets
}

/// Who deletes what `writer` wrote: itself, or whoever is left while it is away.
fn keeper(image: &MetadataImage, writer: NodeId) -> Option<NodeId> {
    let is_live = |id: &NodeId| image.is_live(*id);
    std::iter::once(writer).chain(image.nodes.keys().copied()).find(is_live)
}

#[async_trait::async_trait]
impl StreamManager for MetadataPorts {
    fn stream(&self, stream: StreamId) -> Option<StreamMetadata> {
        let image = self.client.image();
        let found = image.streams.get(&stream)?;
        let checkpoint = found.checkpoint.and_then(|(object, offset)| {
            Some(CheckpointRef { object: descriptor(object, image.objects.get(&object)?), offset })
        });
        // Mostly there is no sealed log, and never many.
        let sealed = image.wals.values().filter_map(|log| match &log.state {
            WalState::Sealed { pending, .. } => pending.get(&stream).copied(),
            _ => None,
        });
        Some(StreamMetadata {
            epoch: found.epoch,
            owner: found.owner,
            start: found.start,
            end: found.end,
            checkpoint,
            void: found.void.iter().map(|void| void.epoch).collect(),
            sealed_end: sealed.max().unwrap_or(found.end),
        })
    }

    async fn trim(&self, stream: StreamId, epoch: StreamEpoch, start: Offset) -> Result<(), PortError> {
        match self.submit_idempotent(Command::TrimStream { stream, epoch, start }).await? {
            Outcome::Done => Ok(()),
            outcome => Err(unexpected(&outcome)),
        }
    }
}

#[async_trait::async_trait]
impl ObjectManager for MetadataPorts {
    async fn lease_object_ids(&self, count: u32) -> Result<ObjectId, PortError> {
        let mut leased = self.leased.lock().await;
        let wanted = u64::from(count);
        if leased.end - leased.start < wanted {
            let count = count.max(LEASE);
            // Ids of a lease whose answer was lost are never used: repeating it is harmless.
            let lease = Command::LeaseObjectIds { node: self.node, node_epoch: self.node_epoch, count };
            match self.submit_idempotent(lease).await? {
                Outcome::Leased { first } => *leased = first..first + u64::from(count),
                outcome => return Err(unexpected(&outcome)),
            }
        }
        let first = leased.start;
        leased.start += wanted;
        Ok(ObjectId(first))
    }

    async fn commit(&self, commit: ObjectCommit) -> Result<Vec<SliceOutcome>, CommitError> {
        let command = commit_command(commit)?;
        match self.client.submit(command).await {
            Ok(Outcome::Slices { committed }) => {
                let outcome = |committed| if committed { SliceOutcome::Committed } else { SliceOutcome::Stale };
                Ok(committed.into_iter().map(outcome).collect())
            }
            Ok(Outcome::Refused(refusal)) => Err(refused(&refusal).into()),
            Ok(outcome) => Err(unexpected(&outcome).into()),
            Err(SubmitError::Unavailable(reason)) => Err(PortError::Unavailable(reason).into()),
            Err(SubmitError::Indeterminate(reason)) => Err(CommitError::Indeterminate(reason)),
        }
    }

    fn ranges(&self, stream: StreamId, from: Offset, until: Offset, limit: usize) -> Vec<CommittedRange> {
        let image = self.client.image();
        let overlapping = image.ranges_from(stream, from).take_while(|(start, _)| *start < until).take(limit);
        overlapping.filter_map(|(start, range)| committed_range(&image, start, range)).collect()
    }

    fn slices(&self, object: ObjectId) -> Vec<(StreamId, CommittedRange)> {
        let image = self.client.image();
        let Some(found) = image.objects.get(&object) else { return Vec::new() };
        let streams: BTreeSet<StreamId> = found.slices.iter().map(|slice| slice.stream).collect();
        let mut slices = Vec::new();
        for stream in streams {
            let of_object = image.ranges_of(stream).filter(|(_, range)| range.object == object);
            let ranges = of_object.filter_map(|(start, range)| committed_range(&image, start, range));
            slices.extend(ranges.map(|range| (stream, range)));
        }
        slices
    }

    fn stream_set_objects(&self) -> Vec<ObjectDescriptor> {
        stream_sets_of(&self.client.image(), (self.node, self.node_epoch))
    }

    fn destroyed(&self, limit: usize) -> Vec<ObjectDescriptor> {
        let image = self.client.image();
        let before = self.clock.wall_ms().saturating_sub(DELETE_DELAY_MS);
        let due = |id: &ObjectId| {
            let object = image.objects.get(id).filter(|object| keeper(&image, object.node) == Some(self.node))?;
            object.destroyed_at_ms.filter(|at| *at <= before).map(|_| descriptor(*id, object))
        };
        image.destroyed.iter().filter_map(due).take(limit).collect()
    }

    fn is_orphan(&self, node_epoch: NodeEpoch, id: ObjectId, attempt: u32) -> bool {
        // One image answers both questions: if it holds the end of that life, it holds all its commits.
        let image = self.client.image();
        let is_known = node_epoch >= image.collect_from;
        let has_ended =
            is_known && node_epoch < self.node_epoch && image.nodes.values().all(|node| node.epoch != node_epoch);
        let same = |object: &ObjectImage| object.node_epoch == node_epoch && object.attempt == attempt;
        has_ended && !image.objects.get(&id).is_some_and(same)
    }

    async fn forget(&self, objects: Vec<ObjectId>) -> Result<(), PortError> {
        match self.submit_idempotent(Command::ForgetObjects { objects }).await? {
            Outcome::Done => Ok(()),
            outcome => Err(unexpected(&outcome)),
        }
    }
}

fn commit_command(commit: ObjectCommit) -> Result<Command, PortError> {
    let ObjectCommit { node, node_epoch, objects, replaces } = commit;
    // The epoch is part of the key: under another one the object would not be found again.
    if let Some((object, _)) = objects.iter().find(|(object, _)| object.node_epoch != node_epoch) {
        return Err(PortError::Fenced(format!("object {} was written in epoch {}", object.id, object.node_epoch)));
    }
    let slice = |from: SliceCommit| NewSlice {
        stream: from.stream,
        epoch: from.epoch,
        start: from.start,
        end: from.end,
        bytes: from.bytes,
        max_timestamp_ms: from.max_timestamp_ms,
        checkpoint: from.checkpoint,
    };
    let object = |(object, slices): (ObjectDescriptor, Vec<SliceCommit>)| NewObject {
        id: object.id,
        attempt: object.attempt,
        size: object.size,
        slices: slices.into_iter().map(slice).collect(),
    };
    Ok(Command::CommitObjects { node, node_epoch, objects: objects.into_iter().map(object).collect(), replaces })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::cluster_image::{apply, fence, image};

    fn life(image: &MetadataImage, node: i32) -> (NodeId, NodeEpoch) {
        (NodeId(node), image.nodes[&NodeId(node)].epoch)
    }

    fn open(image: &mut MetadataImage, node: i32, streams: &[u64]) {
        let (node, node_epoch) = life(image, node);
        let streams = streams.iter().copied().map(StreamId).collect();
        apply(image, &Command::OpenStreams { node, node_epoch, streams });
    }

    /// An object with one record of each stream, from `start`.
    fn put(image: &mut MetadataImage, node: i32, streams: &[u64], start: i64) -> ObjectId {
        let (node, node_epoch) = life(image, node);
        let id = ObjectId(image.next.object);
        apply(image, &Command::LeaseObjectIds { node, node_epoch, count: 1 });
        let slice = |stream: &u64| NewSlice {
            stream: StreamId(*stream),
            epoch: image.streams[&StreamId(*stream)].epoch,
            start: Offset(start),
            end: Offset(start + 1),
            bytes: 1,
            max_timestamp_ms: 0,
            checkpoint: None,
        };
        let object = NewObject { id, attempt: 0, size: 100, slices: streams.iter().map(slice).collect() };
        apply(image, &Command::CommitObjects { node, node_epoch, objects: vec![object], replaces: Vec::new() });
        id
    }

    fn sets(image: &MetadataImage, node: i32) -> Vec<ObjectId> {
        stream_sets_of(image, life(image, node)).iter().map(|object| object.id).collect()
    }

    #[test]
    fn objects_of_streams_that_moved_are_their_owners() {
        let mut image = image(&[&[1, 2], &[1, 2], &[1, 2]]);
        open(&mut image, 1, &[1, 2, 3]);
        let both = put(&mut image, 1, &[1, 2], 0);
        let other = put(&mut image, 1, &[2, 3], 1);
        put(&mut image, 1, &[1], 1);
        assert_eq!((sets(&image, 1), sets(&image, 2)), (vec![both, other], Vec::new()));
        let (source, target) = (life(&image, 1), life(&image, 2));
        apply(&mut image, &Command::ReserveMove { source, target, streams: vec![StreamId(1)] });
        let epoch = StreamEpoch(image.streams[&StreamId(1)].epoch.0 + 1);
        apply(&mut image, &Command::CommitMove { source, target, streams: vec![(StreamId(1), epoch)] });
        assert_eq!((sets(&image, 1), sets(&image, 2)), (vec![both, other], vec![both]));
    }

    #[test]
    fn objects_of_a_node_that_is_away_are_kept_by_one_that_is_there() {
        let mut image = image(&[&[1]]);
        assert_eq!(keeper(&image, NodeId(2)), Some(NodeId(2)));
        assert_eq!(keeper(&image, NodeId(77)), Some(NodeId(1)), "it was unregistered");
        fence(&mut image, 2);
        assert_eq!(keeper(&image, NodeId(2)), Some(NodeId(1)));
        fence(&mut image, 1);
        assert_eq!(keeper(&image, NodeId(2)), Some(NodeId(3)));
    }
}
