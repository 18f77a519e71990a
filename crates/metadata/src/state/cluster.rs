//! The cluster itself: identity, object store, configuration, features.

use std::sync::Arc;

use super::State;
use crate::command::{Outcome, Refusal};
use crate::image::ConfigResource;

/// Fixes the cluster's id, once. Asking again with the same id is harmless.
pub(super) fn bootstrap(state: &mut State, cluster_id: &Arc<str>) -> Result<Outcome, Refusal> {
    if state.cluster_id.is_empty() {
        state.cluster_id = Arc::clone(cluster_id);
    } else if state.cluster_id != *cluster_id {
        return Err(Refusal::Invalid(format!("this is cluster {} already", state.cluster_id)));
    }
    Ok(Outcome::Done)
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
