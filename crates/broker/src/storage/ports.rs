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
        let image = self.client.image();
        let of_this_node = |id: &ObjectId| {
            let object = image.objects.get(id).filter(|object| object.node == self.node)?;
            Some(descriptor(*id, object))
        };
        image.stream_sets.iter().filter_map(of_this_node).collect()
    }

    fn destroyed(&self, limit: usize) -> Vec<ObjectDescriptor> {
        let image = self.client.image();
        let before = self.clock.wall_ms().saturating_sub(DELETE_DELAY_MS);
        // Of those written by nodes that are gone, whoever is left takes care.
        let mine = |object: &ObjectImage| object.node == self.node || !image.nodes.contains_key(&object.node);
        let due = |id: &ObjectId| {
            let object = image.objects.get(id).filter(|object| mine(object))?;
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
