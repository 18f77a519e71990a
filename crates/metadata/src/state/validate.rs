//! Invariants of the state, as code. Run on every apply in debug builds, and by tests and simulation.

use std::collections::{BTreeMap, BTreeSet};

use common::{ObjectId, Offset, StreamEpoch, StreamId};

use uuid::Uuid;

use super::State;
use super::moves::VOID_MAX;
use crate::image::{RangeImage, StreamImage, WalState};

/// In debug builds a large state is checked only at every so many entries, for a check walks all of it.
#[cfg(debug_assertions)]
const CHECK_EVERY: u64 = 1024;

/// Size up to which every entry is checked.
#[cfg(debug_assertions)]
const ALWAYS_CHECK: usize = 512;

/// Checks the state after an apply and stops the process when it is broken.
#[cfg(debug_assertions)]
pub(super) fn check_applied(state: &State) {
    if state.ranges.len() + state.streams.len() <= ALWAYS_CHECK || state.applied.0.is_multiple_of(CHECK_EVERY) {
        assert_eq!(state.validate(), Ok(()), "metadata is broken after entry {}", state.applied);
    }
}

impl State {
    /// Checks every invariant; tells the first that does not hold.
    ///
    /// * Ranges of a stream are contiguous and cover `start..end` exactly once; none lies below the start.
    /// * An object's references are the ranges and checkpoints that name it; one without any is destroyed.
    /// * Every partition has a stream that knows it, every stream a partition; topic ids and names match.
    /// * Leaders and replicas are registered nodes, and no node is forgotten whose log may be needed.
    /// * Ids and epochs in use lie below the counters they come from.
    /// * Reserved and void epochs were never granted, and no number is used twice.
    /// * A node has one open log at most. A sealed one is pending for existing streams, above their committed ends.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_topics()?;
        let mut references: BTreeMap<ObjectId, u32> = BTreeMap::new();
        for (id, stream) in &self.streams {
            self.validate_stream(*id, stream)?;
            for (_, range) in self.ranges_of(*id) {
                *references.entry(range.object).or_default() += 1;
            }
            if let Some((object, _)) = stream.checkpoint {
                *references.entry(object).or_default() += 1;
            }
        }
        if let Some(((stream, _), _)) = self.ranges.iter().find(|((id, _), _)| !self.streams.contains_key(id)) {
            return Err(format!("ranges of stream {stream}, which does not exist"));
        }
        self.validate_objects(&references)?;
        self.validate_nodes()?;
        self.validate_wals()
    }

    fn validate_topics(&self) -> Result<(), String> {
        if self.topics.len() != self.topic_ids.len() {
            return Err(format!("{} topics have {} names", self.topics.len(), self.topic_ids.len()));
        }
        let mut partitions = 0;
        for (id, topic) in &self.topics {
            if self.topic_ids.get(&topic.name) != Some(id) || topic.id != *id {
                return Err(format!("topic {id} is not found by its name {}", topic.name));
            }
            for (index, partition) in topic.partitions.iter().enumerate() {
                let stream = self.streams.get(&partition.stream);
                let knows = stream.is_some_and(|stream| stream.topic == *id && stream.partition as usize == index);
                let is_led = self.nodes.contains_key(&partition.leader) && partition.leader_epoch >= 0;
                let are_known = partition.replicas.iter().all(|id| self.nodes.contains_key(id));
                if !knows || !is_led || !are_known || partition.replicas.is_empty() {
                    return Err(format!("partition {}-{index} does not fit its stream, or has no leader", topic.name));
                }
            }
            partitions += topic.partitions.len();
        }
        if partitions != self.streams.len() {
            return Err(format!("{partitions} partitions have {} streams", self.streams.len()));
        }
        Ok(())
    }

    fn validate_stream(&self, id: StreamId, stream: &StreamImage) -> Result<(), String> {
        let owned = stream.owner.is_some_and(|(_, epoch)| epoch.0 < self.next.node_epoch);
        if id.0 >= self.next.stream || stream.start.0 < 0 || stream.end.0 < 0 || owned != (stream.epoch.0 > 0) {
            return Err(format!("stream {id}: an id, offset or epoch is out of place: {stream:?}"));
        }
        Self::validate_epochs(id, stream)?;
        let ranges: Vec<(Offset, &RangeImage)> = self.ranges_of(id).collect();
        let (Some((first, front)), Some((_, last))) = (ranges.first(), ranges.last()) else {
            let empty = stream.start >= stream.end;
            return if empty { Ok(()) } else { Err(format!("stream {id} has no ranges for its offsets: {stream:?}")) };
        };
        if *first > stream.start || front.end <= stream.start || last.end != stream.end {
            return Err(format!("stream {id}: ranges {first}..{} do not cover {stream:?}", last.end));
        }
        let gap = ranges.windows(2).find(|pair| pair[0].1.end != pair[1].0);
        match gap {
            Some(pair) => Err(format!("stream {id}: {} is followed by {}", pair[0].1.end, pair[1].0)),
            None => Ok(()),
        }
    }

    fn validate_objects(&self, references: &BTreeMap<ObjectId, u32>) -> Result<(), String> {
        for (id, object) in &self.objects {
            let counted = references.get(id).copied().unwrap_or(0);
            if object.references != counted {
                return Err(format!("object {id} counts {} references and has {counted}", object.references));
            }
            let destroyed = object.destroyed_at_ms.is_some();
            if destroyed != (counted == 0) || destroyed != self.destroyed.contains(id) {
                return Err(format!("object {id} with {counted} references: destroyed is {destroyed}"));
            }
            if self.stream_sets.contains(id) != (!destroyed && object.is_stream_set()) || id.0 >= self.next.object {
                return Err(format!("object {id} is listed wrongly or was never leased"));
            }
        }
        let mut unknown = references.keys().chain(&self.destroyed).chain(&self.stream_sets);
        match unknown.by_ref().copied().find(|id| !self.objects.contains_key(id)) {
            Some(id) => Err(format!("object {id} is named but does not exist")),
            None => Ok(()),
        }
    }

    fn validate_nodes(&self) -> Result<(), String> {
        let odd = self.nodes.iter().find(|(id, node)| **id != node.id || node.epoch.0 >= self.next.node_epoch);
        match odd {
            Some((id, node)) => Err(format!("node {id} is out of place: {node:?}")),
            None => Ok(()),
        }
    }

    fn validate_epochs(id: StreamId, stream: &StreamImage) -> Result<(), String> {
        let ungranted: Vec<StreamEpoch> =
            stream.void.iter().map(|void| void.epoch).chain(stream.reserved.map(|reserved| reserved.epoch)).collect();
        let rise = ungranted.windows(2).all(|pair| pair[0] < pair[1]);
        let is_above = stream.reserved.is_none_or(|reserved| reserved.epoch > stream.epoch);
        if !rise || !is_above || ungranted.contains(&stream.epoch) || stream.void.len() > VOID_MAX + 1 {
            return Err(format!("stream {id}: a reserved or void epoch is out of place: {stream:?}"));
        }
        Ok(())
    }

    fn validate_wals(&self) -> Result<(), String> {
        let mut owners = BTreeSet::new();
        for (uuid, wal) in &self.wals {
            let needs_node = !wal.state.is_over();
            if needs_node && !self.nodes.contains_key(&wal.node) {
                return Err(format!("the write-ahead log {uuid} is needed, and its node {} is unknown", wal.node));
            }
            if wal.state == WalState::Open && !owners.insert(wal.node) {
                return Err(format!("node {} has two write-ahead logs open", wal.node));
            }
            let WalState::Sealed { pending, .. } = &wal.state else { continue };
            let is_pending = |(stream, tail): (&StreamId, &Offset)| {
                self.streams.get(stream).is_some_and(|stream| *tail > stream.end.max(stream.start))
            };
            if !self.sealed_wals.contains(uuid) || !pending.iter().all(is_pending) {
                return Err(format!("the sealed write-ahead log {uuid} is pending for what is committed: {wal:?}"));
            }
        }
        let is_sealed =
            |uuid: &Uuid| self.wals.get(uuid).is_some_and(|wal| matches!(wal.state, WalState::Sealed { .. }));
        match self.sealed_wals.iter().find(|uuid| !is_sealed(uuid)) {
            Some(uuid) => Err(format!("the write-ahead log {uuid} is listed as sealed")),
            None => Ok(()),
        }
    }
}
