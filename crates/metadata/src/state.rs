//! The state machine of cluster metadata: pure and deterministic. No clock, no randomness, no I/O; the time of
//! a command is the time its submitter stamped on it.
//!
//! The state *is* the image that brokers answer from: maps that share structure, so that publishing an image is
//! a clone of a few pointers.

mod cluster;
mod moves;
mod nodes;
mod objects;
mod streams;
mod topics;
pub mod validate;
mod wals;

#[cfg(test)]
mod cluster_model;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use common::{LogIndex, NodeEpoch, NodeId};

use crate::command::{Command, Outcome, Refusal};
pub use crate::image::MetadataImage as State;
pub(crate) use moves::{VOID_MAX, partition_mut};

/// Most ids one lease gives out.
const LEASE_MAX: u32 = 1 << 20;

/// Applies the committed command at `index`, stamped `now_ms` (wall time, milliseconds) by its submitter.
/// A command that does not fit the state is refused and changes nothing but [`State::applied`].
pub fn apply(state: &mut State, index: LogIndex, now_ms: i64, command: &Command) -> Outcome {
    debug_assert!(index > state.applied, "entry {index} applied after {}", state.applied);
    let outcome = judge(state, now_ms, command).unwrap_or_else(Outcome::Refused);
    state.applied = index;
    #[cfg(debug_assertions)]
    validate::check_applied(state);
    outcome
}

fn judge(state: &mut State, now_ms: i64, command: &Command) -> Result<Outcome, Refusal> {
    match command {
        Command::Bootstrap { cluster_id } => cluster::bootstrap(state, cluster_id),
        Command::RegisterNode(from) => nodes::register(state, from),
        Command::SealWal { .. } => Err(Refusal::Invalid("a log is sealed when its node is failed over".into())),
        Command::RetireWal { wal } => wals::retire(state, *wal),
        Command::ClaimStore { store } => cluster::claim_store(state, store),
        Command::FinalizeFeatures { levels } => cluster::finalize_features(state, levels),
        Command::AlterConfigs { resource, changes } => cluster::alter_configs(state, resource, changes),
        Command::CreateTopic { id, name, partitions, configs } => topics::create(state, *id, name, partitions, configs),
        Command::DeleteTopic { id } => topics::delete(state, now_ms, *id),
        Command::CreatePartitions { topic, added } => topics::add_partitions(state, *topic, added),
        Command::OpenStreams { node, node_epoch, streams } => streams::open(state, *node, *node_epoch, streams),
        Command::TrimStream { stream, epoch, start } => streams::trim(state, now_ms, *stream, *epoch, *start),
        Command::LeaseObjectIds { node, node_epoch, count } => {
            require_current(state, *node, *node_epoch)?;
            lease(&mut state.next.object, *count, u64::MAX)
        }
        Command::LeaseProducerIds { node, node_epoch, count } => {
            require_current(state, *node, *node_epoch)?;
            // Producer ids are signed in Kafka's protocol.
            lease(&mut state.next.producer, *count, i64::MAX.unsigned_abs())
        }
        Command::CommitObjects { node, node_epoch, objects, replaces } => {
            objects::commit(state, now_ms, (*node, *node_epoch), objects, replaces)
        }
        Command::ForgetObjects { objects } => objects::forget(state, objects),
        Command::FailOver(command) => nodes::fail_over(state, command),
        Command::ReserveMove { source, target, streams } => moves::reserve(state, *source, *target, streams),
        Command::CommitMove { source, target, streams } => moves::commit(state, *source, *target, streams),
        Command::CancelMove { source, streams } => moves::cancel(state, *source, streams),
        Command::SetDraining { node, draining } => nodes::set_draining(state, *node, *draining),
        Command::StopNode { node, node_epoch } => nodes::stop(state, *node, *node_epoch),
        Command::UnregisterNode { node } => nodes::unregister(state, *node),
        Command::AbandonWal { wal, leaders } => nodes::abandon_wal(state, *wal, leaders),
        Command::AlterReplicas { changes } => Ok(moves::alter_replicas(state, changes)),
    }
}

fn lease(next: &mut u64, count: u32, limit: u64) -> Result<Outcome, Refusal> {
    if count == 0 || count > LEASE_MAX {
        return Err(Refusal::Invalid(format!("{count} ids cannot be leased at once, only 1 to {LEASE_MAX}")));
    }
    let first = *next;
    let end = first.checked_add(u64::from(count)).filter(|end| *end <= limit);
    *next = end.ok_or_else(|| Refusal::Invalid("no ids are left".into()))?;
    Ok(Outcome::Leased { first })
}

/// Only the newest life of a node may change what belongs to it.
fn require_current(state: &State, node: NodeId, epoch: NodeEpoch) -> Result<(), Refusal> {
    match state.nodes.get(&node) {
        Some(current) if current.epoch == epoch => Ok(()),
        Some(current) => Err(Refusal::Fenced(format!("node {node} is in epoch {}, not {epoch}", current.epoch))),
        None => Err(Refusal::Fenced(format!("node {node} is not registered"))),
    }
}
