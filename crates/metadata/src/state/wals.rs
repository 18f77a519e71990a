//! Lives of write-ahead logs: open, sealed, retired (or given up).

use common::{NodeId, Offset, StreamId};
use imbl::OrdMap;
use uuid::Uuid;

use super::State;
use crate::command::{Outcome, Refusal, Seal};
use crate::image::{WalDescriptor, WalImage, WalState};

/// The log that `node` has open.
pub(super) fn open_wal(state: &State, node: NodeId) -> Option<Uuid> {
    state.wals.iter().find(|(_, image)| image.node == node && image.state == WalState::Open).map(|(uuid, _)| *uuid)
}

/// Opens the log a node registers with. It must come with the one it has open, for that may hold what nobody else has.
pub(super) fn claim(state: &mut State, node: NodeId, wal: Option<&WalDescriptor>) -> Result<(), Refusal> {
    if let Some(known) = wal.and_then(|wal| state.wals.get(&wal.uuid)) {
        if known.node != node {
            return Err(Refusal::Invalid(format!("this write-ahead log belongs to node {}", known.node)));
        }
        if matches!(known.state, WalState::Sealed { .. } | WalState::Abandoned) {
            return Err(Refusal::Fenced("this write-ahead log is sealed or given up: a fresh one is needed".into()));
        }
    }
    if let Some(missing) = open_wal(state, node).filter(|open| wal.is_none_or(|wal| wal.uuid != *open)) {
        return Err(Refusal::WalMissing(missing));
    }
    let Some(wal) = wal else { return Ok(()) };
    // What is retired is known to be needed by nobody: it goes with the next registration.
    forget_over(state, node);
    let (class, location) = (wal.class, wal.location.clone());
    state.wals.insert(wal.uuid, WalImage { node, class, location, state: WalState::Open });
    Ok(())
}

/// Forgets the logs of `node` that nobody needs.
pub(super) fn forget_over(state: &mut State, node: NodeId) {
    let over = state.wals.iter().filter(|(_, image)| image.node == node && image.state.is_over());
    for uuid in over.map(|(uuid, _)| *uuid).collect::<Vec<_>>() {
        state.wals.remove(&uuid);
    }
}

/// Whether `seal` is of a log of `node`, and of the end that was found before, if any: every reader stops there.
pub(super) fn require_sealable(state: &State, node: NodeId, seal: &Seal) -> Result<(), Refusal> {
    let wal = seal.wal;
    let image = state.wals.get(&wal).ok_or_else(|| unknown(wal))?;
    match image.state {
        _ if image.node != node => Err(Refusal::Invalid(format!("the write-ahead log {wal} is not node {node}'s"))),
        WalState::Sealed { end, .. } if end != seal.end => {
            Err(Refusal::Invalid(format!("the write-ahead log {wal} is sealed at {end}, not at {}", seal.end)))
        }
        _ => Ok(()),
    }
}

/// Ends an open log for good. What it holds above the committed ends is left to the streams' new leaders.
pub(super) fn seal(state: &mut State, seal: &Seal) {
    let needed = |(stream, tail): &&(StreamId, Offset)| committed(state, *stream).is_some_and(|below| *tail > below);
    let pending: OrdMap<StreamId, Offset> = seal.tails.iter().filter(needed).copied().collect();
    let Some(image) = state.wals.get_mut(&seal.wal).filter(|image| image.state == WalState::Open) else { return };
    if pending.is_empty() {
        image.state = WalState::Retired;
    } else {
        image.state = WalState::Sealed { end: seal.end, pending };
        state.sealed_wals.insert(seal.wal);
    }
}

/// Below this offset a stream needs no log: it is committed or trimmed. `None` when the stream is gone.
fn committed(state: &State, stream: StreamId) -> Option<Offset> {
    state.streams.get(&stream).map(|stream| stream.end.max(stream.start))
}

/// Called when a stream's end or start moved up, or it is gone: sealed logs may not be needed for it any more. Costs
/// nothing while no log is sealed.
pub(super) fn settle(state: &mut State, stream: StreamId) {
    if state.sealed_wals.is_empty() {
        return;
    }
    let below = committed(state, stream);
    for uuid in state.sealed_wals.clone() {
        let Some(image) = state.wals.get_mut(&uuid) else { continue };
        let WalState::Sealed { pending, .. } = &mut image.state else { continue };
        let is_settled = |tail: &Offset| below.is_none_or(|below| *tail <= below);
        if pending.get(&stream).is_some_and(is_settled) {
            pending.remove(&stream);
            if pending.is_empty() {
                image.state = WalState::Retired;
                state.sealed_wals.remove(&uuid);
            }
        }
    }
}

/// Its owner stops, and has uploaded everything.
pub(super) fn retire(state: &mut State, wal: Uuid) -> Result<Outcome, Refusal> {
    let image = state.wals.get_mut(&wal).ok_or_else(|| unknown(wal))?;
    match image.state {
        WalState::Open | WalState::Retired => image.state = WalState::Retired,
        WalState::Sealed { .. } | WalState::Abandoned => {
            return Err(Refusal::Fenced(format!("the write-ahead log {wal} was sealed or given up")));
        }
    }
    Ok(Outcome::Done)
}

/// An operator gives up what a log holds and nobody can reach. Its node must be fenced while the log is open.
pub(super) fn abandon(state: &mut State, wal: Uuid) -> Result<NodeId, Refusal> {
    let image = state.wals.get(&wal).ok_or_else(|| unknown(wal))?;
    let node = image.node;
    match image.state {
        WalState::Open if state.is_live(node) => {
            return Err(Refusal::Invalid(format!("node {node} is alive and has the write-ahead log {wal} open")));
        }
        WalState::Retired => {
            return Err(Refusal::Invalid(format!("the write-ahead log {wal} holds nothing that could be lost")));
        }
        WalState::Open | WalState::Sealed { .. } | WalState::Abandoned => {}
    }
    if let Some(image) = state.wals.get_mut(&wal) {
        image.state = WalState::Abandoned;
    }
    state.sealed_wals.remove(&wal);
    Ok(node)
}

fn unknown(wal: Uuid) -> Refusal {
    Refusal::Invalid(format!("unknown write-ahead log {wal}"))
}
