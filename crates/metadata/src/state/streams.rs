//! Streams: openings and starts.

use std::sync::Arc;

use common::{NodeEpoch, NodeId, Offset, StreamEpoch, StreamId};

use super::{State, moves, objects, wals};
use crate::command::{Life, Outcome, Refusal};

/// Opens streams whose partitions `node` leads. Every opening bumps the stream epoch, which fences whoever held
/// it before. The leader epoch follows Kafka: it stays 0 at the first opening, and while the same life of the
/// same node goes on.
pub(super) fn open(
    state: &mut State,
    node: NodeId,
    node_epoch: NodeEpoch,
    streams: &[StreamId],
) -> Result<Outcome, Refusal> {
    moves::require_live(state, (node, node_epoch))?;
    let epochs = streams.iter().map(|stream| open_one(state, (node, node_epoch), *stream)).collect();
    Ok(Outcome::Opened { epochs })
}

fn open_one(state: &mut State, owner: Life, id: StreamId) -> Option<StreamEpoch> {
    if state.leader_of(id)? != owner.0 {
        return None;
    }
    let State { streams, wals, .. } = &mut *state;
    let stream = Arc::make_mut(streams.get_mut(&id)?);
    let is_new_life = stream.epoch.0 > 0 && stream.owner != Some(owner);
    moves::void_reservation(wals, stream);
    let epoch = stream.next_epoch();
    moves::grant(stream, epoch, owner);
    if is_new_life && let Some(partition) = moves::partition_mut(state, id) {
        moves::bump_leader_epoch(partition);
    }
    Some(epoch)
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
        wals::settle(state, id);
    }
    Ok(Outcome::Done)
}
