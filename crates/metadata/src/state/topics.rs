//! Topics and their partitions. Each partition gets a stream of its own, which nobody holds open yet.

use std::sync::Arc;

use common::{NodeId, Offset, StreamEpoch, StreamId};
use uuid::Uuid;

use super::{State, moves, objects, wals};
use crate::command::{Outcome, Refusal};
use crate::image::{ConfigResource, NodeDraining, PartitionImage, StreamImage, TopicImage};

/// Most partitions of one topic: a bound on what one entry makes every node allocate.
const PARTITIONS_MAX: usize = 1_000_000;

/// Creates a topic. Asked for again with the same id, it answers that it is done.
pub(super) fn create(
    state: &mut State,
    id: Uuid,
    name: &Arc<str>,
    partitions: &[Arc<[NodeId]>],
    configs: &[(Arc<str>, Arc<str>)],
) -> Result<Outcome, Refusal> {
    match state.topic_ids.get(name) {
        Some(existing) if *existing == id => return Ok(Outcome::Done),
        Some(_) => return Err(Refusal::TopicExists(name.to_string())),
        None if id.is_nil() || state.topics.contains_key(&id) => {
            return Err(Refusal::Invalid(format!("topic id {id} cannot be given to {name}")));
        }
        None => {}
    }
    if partitions.is_empty() {
        return Err(Refusal::Invalid("a topic has at least one partition".into()));
    }
    require_placeable(state, 0, partitions)?;
    let images = new_partitions(state, id, 0, partitions);
    state.topics.insert(id, Arc::new(TopicImage { id, name: Arc::clone(name), partitions: images }));
    state.topic_ids.insert(Arc::clone(name), id);
    if !configs.is_empty() {
        state.configs.insert(ConfigResource::Topic(Arc::clone(name)), configs.iter().cloned().collect());
    }
    Ok(Outcome::Done)
}

/// Deletes a topic, its configuration and its streams; their objects lose references.
pub(super) fn delete(state: &mut State, now_ms: i64, id: Uuid) -> Result<Outcome, Refusal> {
    let topic = state.topics.remove(&id).ok_or(Refusal::UnknownTopic)?;
    state.topic_ids.remove(&topic.name);
    state.configs.remove(&ConfigResource::Topic(Arc::clone(&topic.name)));
    for partition in &topic.partitions {
        if let Some(stream) = state.streams.remove(&partition.stream) {
            objects::drop_ranges(state, now_ms, partition.stream, Offset(i64::MAX));
            if let Some((object, _)) = stream.checkpoint {
                objects::dereference(state, now_ms, object);
            }
            wals::settle(state, partition.stream);
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn add_partitions(state: &mut State, topic: Uuid, added: &[Arc<[NodeId]>]) -> Result<Outcome, Refusal> {
    let existing = state.topics.get(&topic).ok_or(Refusal::UnknownTopic)?.partitions.len();
    require_placeable(state, existing, added)?;
    let images = new_partitions(state, topic, existing, added);
    let image = state.topics.get_mut(&topic).expect("was found above");
    Arc::make_mut(image).partitions.extend(images);
    Ok(Outcome::Done)
}

fn require_placeable(state: &State, existing: usize, added: &[Arc<[NodeId]>]) -> Result<(), Refusal> {
    if existing.saturating_add(added.len()) > PARTITIONS_MAX {
        return Err(Refusal::Invalid(format!("a topic has at most {PARTITIONS_MAX} partitions")));
    }
    for replicas in added {
        let first = replicas.first().ok_or_else(|| Refusal::Invalid("a partition needs a replica".into()))?;
        if !moves::are_replicas(state, replicas) {
            return Err(Refusal::Invalid(format!("replicas are registered nodes, each once: {replicas:?}")));
        }
        if !replicas.iter().any(|node| state.is_live(*node)) {
            return Err(Refusal::Invalid(format!("no replica is alive, beginning with node {first}")));
        }
    }
    Ok(())
}

fn new_partitions(state: &mut State, topic: Uuid, from: usize, added: &[Arc<[NodeId]>]) -> Vec<PartitionImage> {
    let numbered = (from..).zip(added);
    let create = |(index, replicas): (usize, &Arc<[NodeId]>)| {
        let stream = StreamId(state.next.stream);
        state.next.stream += 1;
        let image = StreamImage {
            epoch: StreamEpoch(0),
            owner: None,
            start: Offset(0),
            end: Offset(0),
            checkpoint: None,
            topic,
            partition: i32::try_from(index).expect("a topic has at most PARTITIONS_MAX partitions"),
            reserved: None,
            void: Arc::default(),
        };
        state.streams.insert(stream, Arc::new(image));
        PartitionImage {
            leader: first_leader(state, replicas),
            leader_epoch: 0,
            replicas: Arc::clone(replicas),
            stream,
        }
    };
    numbered.map(create).collect()
}

/// The preferred leader, unless it was fenced since it was chosen, or is to give away what it leads.
fn first_leader(state: &State, replicas: &[NodeId]) -> NodeId {
    let is_free =
        |node: &&NodeId| state.nodes.get(*node).is_some_and(|node| !node.fenced && node.draining == NodeDraining::No);
    let live = || replicas.iter().find(|node| state.is_live(**node));
    *replicas.iter().find(is_free).or_else(live).unwrap_or(&replicas[0])
}
