//! Streams: openings and starts.

use std::sync::Arc;

use common::{NodeEpoch, NodeId, Offset, StreamEpoch, StreamId};

use super::{State, objects, require_current};
use crate::command::{Outcome, Refusal};

/// Opens streams whose partitions `node` leads. Every opening bumps the stream epoch, which fences whoever held
/// it before. The leader epoch follows Kafka: it stays 0 at the first opening, and while the same life of the
/// same node goes on.
pub(super) fn open(
    state: &mut State,
    node: NodeId,
    node_epoch: NodeEpoch,
    streams: &[StreamId],
) -> Result<Outcome, Refusal> {
    require_current(state, node, node_epoch)?;
    let epochs = streams.iter().map(|stream| open_one(state, (node, node_epoch), *stream)).collect();
    Ok(Outcome::Opened { epochs })
}

fn open_one(state: &mut State, owner: (NodeId, NodeEpoch), id: StreamId) -> Option<StreamEpoch> {
    let stream = state.streams.get(&id)?;
    let index = usize::try_from(stream.partition).ok()?;
    if state.partition_of(stream)?.leader != owner.0 {
        return None;
    }
    if stream.epoch.0 > 0 && stream.owner != Some(owner) {
        let topic = state.topics.get_mut(&stream.topic)?;
        let partition = Arc::make_mut(topic).partitions.get_mut(index)?;
        partition.leader_epoch = partition.leader_epoch.checked_add(1).expect("fewer than 2^31 openings");
    }
    let stream = Arc::make_mut(state.streams.get_mut(&id)?);
    stream.epoch.0 += 1;
    stream.owner = Some(owner);
    Some(stream.epoch)
}

/// Moves a stream's start up. A start at or below the current one changes nothing, as Kafka has it.
pub(super) fn trim(
    state: &mut State,
    now_ms: i64,
    id: StreamId,
    epoch: StreamEpoch,
    start: Offset,
) -> Result<Outcome, Refusal> {
    let stream = state.streams.get_mut(&id).ok_or_else(|| Refusal::Fenced(format!("stream {id} is gone")))?;
    if stream.epoch != epoch {
        return Err(Refusal::Fenced(format!("stream {id} is in epoch {}, not {epoch}", stream.epoch)));
    }
    if start > stream.start {
        Arc::make_mut(stream).start = start;
        objects::drop_ranges(state, now_ms, id, start);
    }
    Ok(Outcome::Done)
}
