//! Nodes: their lives, their loss, and their leaving.

use std::sync::Arc;

use common::{NodeEpoch, NodeId, StreamId};
use uuid::Uuid;

use super::{State, moves, require_current, wals};
use crate::command::{FailOver, Outcome, Refusal, Registration};
use crate::image::{NodeDraining, NodeImage};

/// Starts a new life of a node; the same process start asked for again keeps its epoch, unless that life was ended.
pub(super) fn register(state: &mut State, from: &Registration) -> Result<Outcome, Refusal> {
    let id = from.id;
    if id.0 < 0 {
        return Err(Refusal::Invalid(format!("a node id cannot be negative: {id}")));
    }
    let known = state.nodes.get(&id);
    if let Some(node) = known.filter(|node| node.incarnation == from.incarnation) {
        return if node.fenced {
            Err(Refusal::Fenced(format!("epoch {} of node {id} was ended: a new incarnation is needed", node.epoch)))
        } else {
            Ok(Outcome::Registered { epoch: node.epoch })
        };
    }
    let is_drained = known.is_some_and(|node| node.draining == NodeDraining::ByOperator);
    wals::claim(state, id, from.wal.as_ref())?;
    let epoch = NodeEpoch(state.next.node_epoch);
    state.next.node_epoch += 1;
    let mut node = NodeImage::new(from, epoch);
    if is_drained {
        node.draining = NodeDraining::ByOperator;
    }
    state.nodes.insert(id, Arc::new(node));
    Ok(Outcome::Registered { epoch })
}

/// Ends the life of a node that is lost. Nothing it acknowledged may be passed by: streams move only when its log is
/// sealed, so that their new leaders find what it holds, or when it holds nothing.
pub(super) fn fail_over(state: &mut State, command: &FailOver) -> Result<Outcome, Refusal> {
    let node = command.node;
    require_current(state, node, command.node_epoch)?;
    match &command.seal {
        Some(seal) => wals::require_sealable(state, node, seal)?,
        None => {
            if let Some(wal) = wals::open_wal(state, node).filter(|_| !command.leaders.is_empty()) {
                return Err(Refusal::Invalid(format!("node {node} has the write-ahead log {wal} open, unsealed")));
            }
        }
    }
    if let Some(image) = state.nodes.get_mut(&node) {
        Arc::make_mut(image).fenced = true;
    }
    if let Some(seal) = &command.seal {
        wals::seal(state, seal);
    }
    Ok(reassign(state, node, &command.leaders))
}

/// Gives what a fenced node leads to others.
fn reassign(state: &mut State, node: NodeId, leaders: &[(StreamId, NodeId)]) -> Outcome {
    let take_over = |(stream, target): &(StreamId, NodeId)| {
        let life = state.nodes.get(target).filter(|target| !target.fenced).map(|target| (target.id, target.epoch));
        life.is_some_and(|life| state.leader_of(*stream) == Some(node) && moves::lead(state, *stream, life))
    };
    Outcome::Moved { committed: leaders.iter().map(take_over).collect() }
}

pub(super) fn abandon_wal(state: &mut State, wal: Uuid, leaders: &[(StreamId, NodeId)]) -> Result<Outcome, Refusal> {
    let node = wals::abandon(state, wal)?;
    // The node of a sealed log may be back with a fresh one, which it leads from.
    let leaders = if state.is_live(node) { &[] } else { leaders };
    Ok(reassign(state, node, leaders))
}

/// Of an operator's wish and a node's own the operator's stands.
pub(super) fn set_draining(state: &mut State, node: NodeId, draining: bool) -> Result<Outcome, Refusal> {
    let image = state.nodes.get_mut(&node).ok_or(Refusal::UnknownNode(node))?;
    let wanted = match (draining, image.draining) {
        (true, _) => NodeDraining::ByOperator,
        (false, NodeDraining::Stopping) => NodeDraining::Stopping,
        (false, _) => NodeDraining::No,
    };
    if image.draining != wanted {
        Arc::make_mut(image).draining = wanted;
    }
    Ok(Outcome::Done)
}

pub(super) fn stop(state: &mut State, node: NodeId, epoch: NodeEpoch) -> Result<Outcome, Refusal> {
    require_current(state, node, epoch)?;
    match state.nodes.get_mut(&node) {
        Some(image) if image.draining == NodeDraining::No => Arc::make_mut(image).draining = NodeDraining::Stopping,
        _ => {}
    }
    Ok(Outcome::Done)
}

pub(super) fn unregister(state: &mut State, node: NodeId) -> Result<Outcome, Refusal> {
    let image = state.nodes.get(&node).ok_or(Refusal::UnknownNode(node))?;
    if !image.fenced {
        return Err(Refusal::Invalid(format!("node {node} is alive: stop it first")));
    }
    let needed = state.wals.iter().find(|(_, image)| image.node == node && !image.state.is_over());
    if let Some((wal, _)) = needed {
        let reason = format!("the write-ahead log {wal} of node {node} may hold data that was not uploaded");
        return Err(Refusal::Invalid(reason));
    }
    if state.streams_led_by(node).next().is_some() {
        return Err(Refusal::Invalid(format!("node {node} still leads partitions")));
    }
    wals::forget_over(state, node);
    moves::forget_replica(state, node);
    state.nodes.remove(&node);
    Ok(Outcome::Done)
}
