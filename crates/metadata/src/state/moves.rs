//! Who leads: planned moves, granted in two steps, and virtual replicas.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{NodeId, StreamEpoch, StreamId};
use imbl::OrdMap;
use uuid::Uuid;

use super::{State, require_current};
use crate::command::{Life, Outcome, Refusal};
use crate::image::{NodeImage, PartitionImage, Reservation, StreamImage, VoidEpoch, WalImage, WalState};

/// Void epochs of one stream, above which no move of it is begun: a bound on what failed moves leave behind.
pub(crate) const VOID_MAX: usize = 32;

/// Most virtual replicas of a partition.
const REPLICAS_MAX: usize = 1 << 10;

pub(super) fn reserve(state: &mut State, source: Life, target: Life, streams: &[StreamId]) -> Result<Outcome, Refusal> {
    require_live(state, source)?;
    require_live(state, target)?;
    if source.0 == target.0 {
        return Err(Refusal::Invalid(format!("node {} cannot hand over to itself", source.0)));
    }
    let wal = state.nodes.get(&target.0).and_then(|node| node.wal);
    let reserve_one = |stream: &StreamId| {
        if !is_held(state, *stream, source) {
            return None;
        }
        let State { streams, wals, .. } = &mut *state;
        let stream = Arc::make_mut(streams.get_mut(stream)?);
        void_reservation(wals, stream);
        if stream.void.len() >= VOID_MAX {
            return None;
        }
        let epoch = stream.next_epoch();
        stream.reserved = Some(Reservation { epoch, node: target.0, node_epoch: target.1, wal });
        Some(epoch)
    };
    Ok(Outcome::Opened { epochs: streams.iter().map(reserve_one).collect() })
}

/// Both lives must still go on: the target's log is the one that holds the tails, and only this life of the source has
/// parked. That the source was fenced meanwhile does no harm: it hands over nothing but what is durable.
pub(super) fn commit(
    state: &mut State,
    source: Life,
    target: Life,
    streams: &[(StreamId, StreamEpoch)],
) -> Result<Outcome, Refusal> {
    require_current(state, source.0, source.1)?;
    require_live(state, target)?;
    let committed = streams.iter().map(|(stream, epoch)| commit_one(state, source, target, *stream, *epoch));
    Ok(Outcome::Moved { committed: committed.collect() })
}

fn commit_one(state: &mut State, source: Life, target: Life, id: StreamId, epoch: StreamEpoch) -> bool {
    let Some(stream) = state.streams.get(&id) else { return false };
    if stream.epoch == epoch && stream.owner == Some(target) {
        return true;
    }
    let reserved = stream.reserved.map(|reserved| (reserved.epoch, (reserved.node, reserved.node_epoch)));
    if reserved != Some((epoch, target)) || !is_held(state, id, source) {
        return false;
    }
    if let Some(stream) = state.streams.get_mut(&id).map(Arc::make_mut) {
        stream.reserved = None;
        grant(stream, epoch, target);
    }
    set_leader(state, id, target.0);
    true
}

pub(super) fn cancel(state: &mut State, source: Life, streams: &[(StreamId, StreamEpoch)]) -> Result<Outcome, Refusal> {
    require_current(state, source.0, source.1)?;
    let cancel_one = |(id, epoch): &(StreamId, StreamEpoch)| {
        let is_held = is_held(state, *id, source);
        let State { streams, wals, .. } = &mut *state;
        if let Some(stream) = streams.get_mut(id)
            && stream.reserved.is_some_and(|reserved| reserved.epoch == *epoch)
        {
            void_reservation(wals, Arc::make_mut(stream));
        }
        !is_held
    };
    Ok(Outcome::Moved { committed: streams.iter().map(cancel_one).collect() })
}

/// Only a node that serves takes part in moves and openings.
pub(super) fn require_live(state: &State, life: Life) -> Result<(), Refusal> {
    require_current(state, life.0, life.1)?;
    if state.is_live(life.0) {
        Ok(())
    } else {
        Err(Refusal::Fenced(format!("epoch {} of node {} was ended", life.1, life.0)))
    }
}

/// Whether `life` leads the stream's partition and holds the stream open.
fn is_held(state: &State, id: StreamId, life: Life) -> bool {
    let stream = state.streams.get(&id);
    stream.is_some_and(|stream| stream.owner == Some(life)) && state.leader_of(id) == Some(life.0)
}

/// Makes `life` the stream's leader and grants it the next epoch, in one step: it opens without asking.
pub(super) fn lead(state: &mut State, id: StreamId, life: Life) -> bool {
    let State { streams, wals, .. } = &mut *state;
    let Some(stream) = streams.get_mut(&id).map(Arc::make_mut) else { return false };
    void_reservation(wals, stream);
    grant(stream, stream.next_epoch(), life);
    set_leader(state, id, life.0);
    true
}

/// The one way to a new epoch of a stream: whoever held it open before is fenced.
pub(super) fn grant(stream: &mut StreamImage, epoch: StreamEpoch, owner: Life) {
    debug_assert!(epoch > stream.epoch, "epochs only grow");
    stream.epoch = epoch;
    stream.owner = Some(owner);
}

fn set_leader(state: &mut State, id: StreamId, leader: NodeId) {
    if let Some(partition) = partition_mut(state, id) {
        partition.leader = leader;
        bump_leader_epoch(partition);
    }
}

pub(super) fn bump_leader_epoch(partition: &mut PartitionImage) {
    partition.leader_epoch = partition.leader_epoch.checked_add(1).expect("fewer than 2^31 leaders");
}

pub(crate) fn partition_mut(state: &mut State, id: StreamId) -> Option<&mut PartitionImage> {
    let stream = state.streams.get(&id)?;
    let topic = state.topics.get_mut(&stream.topic)?;
    Arc::make_mut(topic).partitions.get_mut(usize::try_from(stream.partition).ok()?)
}

/// A reservation that is not committed stays known for as long as a log may hold records of it. The newest is kept in
/// any case: its epoch must never be reserved again, or a late commit would grant another move.
pub(super) fn void_reservation(wals: &OrdMap<Uuid, WalImage>, stream: &mut StreamImage) {
    let Some(reserved) = stream.reserved.take() else { return };
    let newest = VoidEpoch { epoch: reserved.epoch, wal: reserved.wal.unwrap_or_default() };
    // A retired log may be opened again by its node, blocks and all: its entries stay until it is forgotten.
    let may_hold = |void: &&VoidEpoch| wals.get(&void.wal).is_some_and(|wal| wal.state != WalState::Abandoned);
    stream.void = stream.void.iter().filter(may_hold).copied().chain([newest]).collect();
}

pub(super) fn alter_replicas(state: &mut State, changes: &[(StreamId, Arc<[NodeId]>)]) -> Outcome {
    let alter = |(id, replicas): &(StreamId, Arc<[NodeId]>)| {
        if !are_replicas(state, replicas) {
            return false;
        }
        let Some(partition) = partition_mut(state, *id) else { return false };
        partition.replicas = Arc::clone(replicas);
        true
    };
    Outcome::Moved { committed: changes.iter().map(alter).collect() }
}

/// Another node takes the place of `gone` wherever it is a replica: the leader if it is none, else a live one of another rack
/// where there is one, a different one from stream to stream. Where no node is left the list gets shorter.
pub(super) fn forget_replica(state: &mut State, gone: NodeId) {
    let listed = |partition: &PartitionImage| partition.replicas.contains(&gone);
    let affected = state.topics.values().flat_map(|topic| &topic.partitions).filter(|partition| listed(partition));
    let changes: Vec<(StreamId, Arc<[NodeId]>)> =
        affected.map(|partition| (partition.stream, without(state, partition, gone))).collect();
    for (stream, replicas) in changes {
        if let Some(partition) = partition_mut(state, stream) {
            partition.replicas = replicas;
        }
    }
}

fn without(state: &State, partition: &PartitionImage, gone: NodeId) -> Arc<[NodeId]> {
    let rest = partition.replicas.iter().filter(|id| **id != gone);
    let racks: BTreeSet<&Arc<str>> = rest.filter_map(|id| state.nodes.get(id)?.rack.as_ref()).collect();
    let rank = |node: &&Arc<NodeImage>| {
        let shares_rack = node.rack.as_ref().is_some_and(|rack| racks.contains(rack));
        let turn = (node.id.0.unsigned_abs()).wrapping_sub(partition.stream.0 as u32) % 1024;
        (node.id != partition.leader, node.fenced, shares_rack, turn, node.id)
    };
    let others = state.nodes.values().filter(|node| node.id != gone && !partition.replicas.contains(&node.id));
    let substitute = others.min_by_key(rank).map(|node| node.id);
    let replace = |id: &NodeId| if *id == gone { substitute } else { Some(*id) };
    partition.replicas.iter().filter_map(replace).collect()
}

/// Whether these are registered nodes, each once.
pub(super) fn are_replicas(state: &State, replicas: &[NodeId]) -> bool {
    let distinct: BTreeSet<&NodeId> = replicas.iter().take(REPLICAS_MAX + 1).collect();
    let count = 1..=REPLICAS_MAX;
    count.contains(&replicas.len())
        && distinct.len() == replicas.len()
        && distinct.iter().all(|id| state.nodes.contains_key(*id))
}
