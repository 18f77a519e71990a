//! Rebuilds metadata from a copy that may be older than the last commit, and from what proves the rest: objects in the store,
//! which say what they hold, and write-ahead logs. Pure.
//!
//! What was done after the copy is unknown, so everything that must never be given out twice jumps far ahead: node, stream and
//! leader epochs, ids, the index of the Raft log. Nodes are fenced, under epochs that nobody has. What is in the store and
//! in no stream is not deleted: see [`MetadataImage::collect_from`].
//!
//! Nothing that may be missing goes untold: [`Restored::losses`].

mod logs;
mod objects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use common::{LogIndex, Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use uuid::Uuid;

use crate::image::{MetadataImage, NodeDraining, NodeImage, StreamImage, WalClass};

/// How far counters jump: more than any cluster gives out between two copies.
const NODE_EPOCHS: u64 = 1_000_000;
const STREAM_EPOCHS: u64 = 1 << 20;
const LEADER_EPOCHS: i32 = 1 << 20;
const STREAMS: u64 = 1 << 20;
const IDS: u64 = 1 << 32;
const INDEXES: u64 = 1 << 32;

/// A slice of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundSlice {
    /// The stream.
    pub stream: StreamId,
    /// The epoch of its writer.
    pub epoch: StreamEpoch,
    /// First offset.
    pub start: Offset,
    /// End (exclusive).
    pub end: Offset,
    /// Payload bytes.
    pub bytes: u64,
    /// Largest timestamp.
    pub max_timestamp_ms: i64,
}

/// An object that lies in the store, and that the copy does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundObject {
    /// Its id.
    pub id: ObjectId,
    /// Who wrote it.
    pub node: NodeId,
    /// In which life.
    pub node_epoch: NodeEpoch,
    /// Attempt, part of the key.
    pub attempt: u32,
    /// Bytes.
    pub size: u64,
    /// What it holds.
    pub slices: Vec<FoundSlice>,
    /// Checkpoints in it: stream, and the offset it describes.
    pub checkpoints: Vec<(StreamId, Offset)>,
}

/// What a log holds of one stream under one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRun {
    /// The stream.
    pub stream: StreamId,
    /// The epoch.
    pub epoch: StreamEpoch,
    /// First offset.
    pub base: Offset,
    /// End (exclusive).
    pub end: Offset,
}

/// A write-ahead log that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLog {
    /// Its identity.
    pub uuid: Uuid,
    /// Its owner.
    pub node: NodeId,
    /// Who can reach it.
    pub class: WalClass,
    /// Where it is, as its owner names the place.
    pub location: Arc<str>,
    /// Where it ends, if it was sealed.
    pub sealed: Option<Lsn>,
    /// Its records.
    pub runs: Vec<FoundRun>,
}

/// What was found beside the copy.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Objects that the copy knows and that are in the store.
    pub present: BTreeSet<ObjectId>,
    /// Objects that it does not know.
    pub objects: Vec<FoundObject>,
    /// Logs.
    pub logs: Vec<FoundLog>,
}

/// One partition, before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredPartition {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its index.
    pub index: i32,
    /// Who leads it.
    pub leader: NodeId,
    /// Its start.
    pub start: Offset,
    /// Up to where the copy knew it.
    pub copied_end: Offset,
    /// Up to where objects hold it.
    pub committed_end: Offset,
    /// Up to where the logs that were read hold it.
    pub log_end: Option<Offset>,
}

impl fmt::Display for RestoredPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, index, leader, start, copied_end, committed_end, log_end } = self;
        write!(f, "{topic}-{index}: offsets {start}..{committed_end} in objects")?;
        if committed_end > copied_end {
            write!(f, " (from {copied_end} on found again)")?;
        }
        if let Some(end) = log_end.filter(|end| end > committed_end) {
            write!(f, ", up to {end} in write-ahead logs")?;
        }
        write!(f, "; led by node {leader}")
    }
}

/// Metadata to go on with, and what is to be told about it.
#[derive(Clone, Debug)]
pub struct Restored {
    /// It.
    pub image: MetadataImage,
    /// Partition by partition.
    pub partitions: Vec<RestoredPartition>,
    /// What is different from what it was, and loses nothing.
    pub notes: Vec<String>,
    /// What may have been acknowledged, and was not found.
    pub losses: Vec<String>,
    /// Open logs of the copy that were not read.
    pub unread: Vec<Uuid>,
}

/// What is being rebuilt.
struct Rebuild<'a> {
    image: MetadataImage,
    evidence: &'a Evidence,
    notes: Vec<String>,
    losses: Vec<String>,
    /// The first stream number that the copy had not given out.
    first_new: u64,
    /// What objects hold further away than what could be put together.
    far: BTreeMap<StreamId, Vec<objects::Piece>>,
    /// Up to where logs hold streams.
    log_ends: BTreeMap<StreamId, Offset>,
}

/// Rebuilds metadata from `copy` and `evidence`.
///
/// # Errors
/// The result breaks an invariant of metadata: nothing must be made of it.
pub fn rebuild(copy: &MetadataImage, evidence: &Evidence) -> Result<Restored, String> {
    let mut rebuild = Rebuild {
        image: copy.clone(),
        evidence,
        notes: Vec::new(),
        losses: Vec::new(),
        first_new: copy.next.stream,
        far: BTreeMap::new(),
        log_ends: BTreeMap::new(),
    };
    rebuild.jump_counters();
    rebuild.add_nodes();
    rebuild.find_ranges();
    let unread = rebuild.find_logs();
    rebuild.find_leaders();
    rebuild.recount();
    rebuild.fence();
    rebuild.settle_logs();
    rebuild.tell_strangers();
    let Rebuild { image, notes, losses, log_ends, .. } = rebuild;
    image.validate()?;
    let partitions = describe(copy, &image, &log_ends);
    Ok(Restored { image, partitions, notes, losses, unread })
}

impl Rebuild<'_> {
    fn jump_counters(&mut self) {
        let Evidence { objects, logs, .. } = self.evidence;
        let seen_epoch = objects.iter().map(|object| object.node_epoch.0).max().unwrap_or(0);
        let seen_object = objects.iter().map(|object| object.id.0).max().unwrap_or(0);
        let slices = objects.iter().flat_map(|object| &object.slices).map(|slice| slice.stream.0);
        let seen_stream = slices.chain(logs.iter().flat_map(|log| &log.runs).map(|run| run.stream.0)).max();
        let image = &mut self.image;
        let next = &mut image.next;
        next.node_epoch = next.node_epoch.max(seen_epoch.saturating_add(1)).saturating_add(NODE_EPOCHS);
        next.object = next.object.max(seen_object.saturating_add(1)).saturating_add(IDS);
        next.stream = next.stream.max(seen_stream.unwrap_or(0).saturating_add(1)).saturating_add(STREAMS);
        next.producer = next.producer.saturating_add(IDS);
        image.collect_from = NodeEpoch(next.node_epoch);
        image.applied = LogIndex(image.applied.0.saturating_add(INDEXES));
    }

    /// Nodes that joined after the copy, and whose logs were read.
    fn add_nodes(&mut self) {
        for log in &self.evidence.logs {
            if !self.image.nodes.contains_key(&log.node) {
                self.notes.push(format!("node {} joined after the copy was taken", log.node));
                let registration = crate::Registration::new(log.node, Uuid::nil());
                let node = NodeImage::new(&registration, NodeEpoch(0));
                self.image.nodes.insert(log.node, Arc::new(node));
            }
        }
    }

    /// Ends every life, and every hold on a stream. Whoever is still running finds that it was fenced.
    fn fence(&mut self) {
        for id in self.image.nodes.keys().copied().collect::<Vec<_>>() {
            let epoch = NodeEpoch(self.image.next.node_epoch);
            self.image.next.node_epoch += 1;
            let Some(node) = self.image.nodes.get_mut(&id).map(Arc::make_mut) else { continue };
            (node.epoch, node.incarnation, node.fenced) = (epoch, Uuid::nil(), true);
            if node.draining == NodeDraining::Stopping {
                node.draining = NodeDraining::No;
            }
        }
        let seen = self.seen_epochs();
        let MetadataImage { nodes, topics, streams, .. } = &mut self.image;
        for id in topics.keys().copied().collect::<Vec<_>>() {
            let Some(topic) = topics.get_mut(&id).map(Arc::make_mut) else { continue };
            for partition in &mut topic.partitions {
                partition.leader_epoch = partition.leader_epoch.saturating_add(LEADER_EPOCHS);
                let Some(stream) = streams.get_mut(&partition.stream).map(Arc::make_mut) else { continue };
                let newest = seen.get(&partition.stream).copied().unwrap_or_default().max(stream.next_epoch());
                stream.epoch = StreamEpoch(newest.0.saturating_add(STREAM_EPOCHS));
                stream.owner = nodes.get(&partition.leader).map(|node| (node.id, node.epoch));
                stream.reserved = None;
            }
        }
    }

    /// The newest epoch of each stream that anything was written under.
    fn seen_epochs(&self) -> BTreeMap<StreamId, StreamEpoch> {
        let slices = self.evidence.objects.iter().flat_map(|object| &object.slices);
        let runs = self.evidence.logs.iter().flat_map(|log| &log.runs);
        let written = slices.map(|slice| (slice.stream, slice.epoch)).chain(runs.map(|run| (run.stream, run.epoch)));
        let mut seen: BTreeMap<StreamId, StreamEpoch> = BTreeMap::new();
        for (stream, epoch) in written {
            let newest = seen.entry(stream).or_default();
            *newest = epoch.max(*newest);
        }
        seen
    }

    /// Streams that the copy does not know: those of topics that were made after it hold data that nobody will find.
    fn tell_strangers(&mut self) {
        let slices = self.evidence.objects.iter().flat_map(|object| &object.slices);
        let runs = self.evidence.logs.iter().flat_map(|log| &log.runs);
        let held = slices.map(|slice| (slice.stream, slice.end)).chain(runs.map(|run| (run.stream, run.end)));
        let mut strangers: BTreeMap<StreamId, Offset> = BTreeMap::new();
        for (stream, end) in held.filter(|(stream, _)| !self.image.streams.contains_key(stream)) {
            let newest = strangers.entry(stream).or_default();
            *newest = end.max(*newest);
        }
        // Lower numbers belong to topics that were deleted before.
        for (stream, end) in strangers.into_iter().filter(|(stream, _)| stream.0 >= self.first_new) {
            self.losses.push(format!(
                "stream {stream} with offsets up to {end} belongs to a topic that was created after the copy was taken: the \
                 topic is gone; objects of it stay in the store"
            ));
        }
    }

    /// What people call the partition whose data `stream` is.
    fn name(&self, stream: &StreamImage) -> String {
        let topic = self.image.topics.get(&stream.topic).map_or("?", |topic| &topic.name);
        format!("{topic}-{}", stream.partition)
    }
}

fn describe(
    copy: &MetadataImage,
    image: &MetadataImage,
    log_ends: &BTreeMap<StreamId, Offset>,
) -> Vec<RestoredPartition> {
    let mut told = Vec::new();
    for topic in image.topic_ids.values().filter_map(|id| image.topics.get(id)) {
        for (index, partition) in (0..).zip(&topic.partitions) {
            let end =
                |image: &MetadataImage| image.streams.get(&partition.stream).map_or(Offset(0), |stream| stream.end);
            told.push(RestoredPartition {
                topic: Arc::clone(&topic.name),
                index,
                leader: partition.leader,
                start: image.streams.get(&partition.stream).map_or(Offset(0), |stream| stream.start),
                copied_end: end(copy),
                committed_end: end(image),
                log_end: log_ends.get(&partition.stream).copied(),
            });
        }
    }
    told
}
