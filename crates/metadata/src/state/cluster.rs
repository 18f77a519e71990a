//! The cluster itself: identity, nodes, lives of write-ahead logs, configuration, features.

use std::sync::Arc;

use common::{Lsn, NodeEpoch, NodeId};
use uuid::Uuid;

use super::State;
use crate::command::{Outcome, Refusal};
use crate::image::{ConfigResource, Endpoint, NodeImage, WalImage, WalState};

/// Fixes the cluster's id, once. Asking again with the same id is harmless.
pub(super) fn bootstrap(state: &mut State, cluster_id: &Arc<str>) -> Result<Outcome, Refusal> {
    if state.cluster_id.is_empty() {
        state.cluster_id = Arc::clone(cluster_id);
    } else if state.cluster_id != *cluster_id {
        return Err(Refusal::Invalid(format!("this is cluster {} already", state.cluster_id)));
    }
    Ok(Outcome::Done)
}

/// Starts a new life of a node; the same process start asked for again keeps its epoch.
pub(super) fn register(
    state: &mut State,
    id: NodeId,
    incarnation: Uuid,
    endpoints: &[Endpoint],
    rack: Option<&Arc<str>>,
    wal: Option<Uuid>,
) -> Result<Outcome, Refusal> {
    if id.0 < 0 {
        return Err(Refusal::Invalid(format!("a node id cannot be negative: {id}")));
    }
    if let Some(node) = state.nodes.get(&id)
        && node.incarnation == incarnation
    {
        return Ok(Outcome::Registered { epoch: node.epoch });
    }
    if let Some(wal) = wal {
        claim_wal(state, id, wal)?;
    }
    let epoch = NodeEpoch(state.next.node_epoch);
    state.next.node_epoch += 1;
    let node =
        NodeImage { id, epoch, incarnation, endpoints: endpoints.to_vec(), rack: rack.cloned(), fenced: false, wal };
    state.nodes.insert(id, Arc::new(node));
    Ok(Outcome::Registered { epoch })
}

/// A node must come with the log it has open, for that may hold what nobody else has.
fn claim_wal(state: &mut State, node: NodeId, wal: Uuid) -> Result<(), Refusal> {
    match state.wals.get(&wal) {
        Some(known) if known.node != node => {
            return Err(Refusal::Invalid(format!("the write-ahead log {wal} belongs to node {}", known.node)));
        }
        Some(WalImage { state: WalState::Sealed(_), .. }) => {
            return Err(Refusal::Fenced(format!("the write-ahead log {wal} is sealed: a fresh one is needed")));
        }
        _ => {}
    }
    let open =
        |(other, image): &(&Uuid, &WalImage)| image.node == node && **other != wal && image.state == WalState::Open;
    if let Some((missing, _)) = state.wals.iter().find(open) {
        return Err(Refusal::WalMissing(*missing));
    }
    // What is retired is known to be needed by nobody: it goes with the next registration.
    let retired: Vec<Uuid> = state
        .wals
        .iter()
        .filter(|(_, image)| image.node == node && image.state == WalState::Retired)
        .map(|(uuid, _)| *uuid)
        .collect();
    for uuid in retired {
        state.wals.remove(&uuid);
    }
    state.wals.insert(wal, WalImage { node, state: WalState::Open });
    Ok(())
}

/// Ends a log for good. The first end stands: every later reader stops there.
pub(super) fn seal_wal(state: &mut State, wal: Uuid, end: Lsn) -> Result<Outcome, Refusal> {
    let image = state.wals.get_mut(&wal).ok_or_else(|| unknown_wal(wal))?;
    match image.state {
        WalState::Open => image.state = WalState::Sealed(end),
        WalState::Sealed(sealed) if sealed == end => {}
        WalState::Sealed(sealed) => {
            return Err(Refusal::Invalid(format!("the write-ahead log {wal} is sealed at {sealed} already")));
        }
        WalState::Retired => return Err(Refusal::Invalid(format!("the write-ahead log {wal} is retired"))),
    }
    Ok(Outcome::Done)
}

pub(super) fn retire_wal(state: &mut State, wal: Uuid) -> Result<Outcome, Refusal> {
    state.wals.get_mut(&wal).ok_or_else(|| unknown_wal(wal))?.state = WalState::Retired;
    Ok(Outcome::Done)
}

fn unknown_wal(wal: Uuid) -> Refusal {
    Refusal::Invalid(format!("unknown write-ahead log {wal}"))
}

pub(super) fn claim_store(state: &mut State, store: &Arc<str>) -> Result<Outcome, Refusal> {
    if state.store.is_empty() {
        state.store = Arc::clone(store);
    } else if state.store != *store {
        return Err(Refusal::Invalid(format!("this cluster keeps its objects in {}, not in {store}", state.store)));
    }
    Ok(Outcome::Done)
}

pub(super) fn finalize_features(state: &mut State, levels: &[(Arc<str>, i16)]) -> Result<Outcome, Refusal> {
    if let Some((name, level)) = levels.iter().find(|(_, level)| *level < 0) {
        return Err(Refusal::Invalid(format!("feature {name} cannot have level {level}")));
    }
    for (name, level) in levels {
        match level {
            0 => state.features.remove(name),
            level => state.features.insert(Arc::clone(name), *level),
        };
    }
    Ok(Outcome::Done)
}

/// Sets and removes entries; a topic's configuration exists only with its topic.
pub(super) fn alter_configs(
    state: &mut State,
    resource: &ConfigResource,
    changes: &[(Arc<str>, Option<Arc<str>>)],
) -> Result<Outcome, Refusal> {
    if let ConfigResource::Topic(name) = resource
        && !state.topic_ids.contains_key(name)
    {
        return Err(Refusal::UnknownTopic);
    }
    let mut entries = state.configs.get(resource).cloned().unwrap_or_default();
    for (name, value) in changes {
        match value {
            Some(value) => entries.insert(Arc::clone(name), Arc::clone(value)),
            None => entries.remove(name),
        };
    }
    if entries.is_empty() {
        state.configs.remove(resource);
    } else {
        state.configs.insert(resource.clone(), entries);
    }
    Ok(Outcome::Done)
}
