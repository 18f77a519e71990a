//! What must hold of transactions, by name; checked in debug builds, on each record that is taken over and after each
//! call.
//!
//! - *decided-once*: a transaction's outcome follows from its one Prepare record. Only Ongoing (or, to abort what may not
//!   have begun, an idle state) leads there, and only the Complete state of the same outcome leads on.
//! - *epochs-never-regress*: an epoch of a producer id grows by at most one with each record; a new producer id begins at
//!   epoch 0, and only where no transaction is open.
//! - *partitions-until-complete*: an open transaction's partitions only grow, a decided one has those it was decided
//!   with, an idle id has none. So each of them gets the marker.
//! - *next-id-iff-exhausted*: a next producer id stands in a record exactly if the epoch that fences the decided
//!   transaction is the last there is (TV2).
//! - *unmarked-iff-decided*: the shard knows which markers are missing of all decided transactions and of no others.
//! - *idle-before-removal*: a transactional id goes only while no transaction is open or decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::transaction::markers::Unmarked;
use crate::transaction::metadata::{NO_PRODUCER_ID, TransactionMetadata, TransactionState, bumps_epoch};
use crate::transaction::persisted::PersistedTransactions;

/// A record that this coordinator wrote, after what was there. Not for replay: a compacted topic skips states, and
/// Kafka may have written it.
pub(crate) fn check_transition(id: &str, before: Option<&TransactionMetadata>, after: Option<&TransactionMetadata>) {
    let Some(after) = after else {
        debug_assert!(before.is_none_or(|before| before.state.is_idle()), "idle-before-removal: {id}");
        return;
    };
    let state = before.map(|before| before.state);
    debug_assert!(after.state.may_follow(state), "decided-once: {id} from {state:?} to {:?}", after.state);
    debug_assert!(after.producer_id >= 0 && after.producer_epoch >= 0, "a producer: {id}");
    let rotates =
        after.state.is_prepared() && bumps_epoch(after.client_transaction_version) && after.producer_epoch == i16::MAX;
    debug_assert_eq!(after.next_producer_id != NO_PRODUCER_ID, rotates, "next-id-iff-exhausted: {id}");
    let Some(before) = before else {
        debug_assert_eq!(after.producer_epoch, 0, "epochs-never-regress: {id}");
        return;
    };
    if before.producer_id == after.producer_id {
        let grown = i32::from(after.producer_epoch) - i32::from(before.producer_epoch);
        debug_assert!((0..=1).contains(&grown), "epochs-never-regress: {id} by {grown}");
    } else {
        debug_assert!(after.producer_epoch == 0 && after.state.is_idle(), "epochs-never-regress: {id}");
    }
    match after.state {
        TransactionState::Ongoing => {
            debug_assert!(after.partitions.contains_all(&before.partitions), "partitions-until-complete: {id}");
        }
        state if state.is_prepared() => {
            debug_assert_eq!(after.partitions, before.partitions, "partitions-until-complete: {id}");
        }
        _ => debug_assert!(after.partitions.is_empty(), "partitions-until-complete: {id}"),
    }
}

/// The soft state, against what is persisted.
pub(crate) fn check_unmarked(persisted: &PersistedTransactions, unmarked: &BTreeMap<Arc<str>, Unmarked>) {
    let decided = persisted.transactions.iter().filter(|(_, transaction)| transaction.state.is_prepared());
    debug_assert_eq!(decided.clone().count(), unmarked.len(), "unmarked-iff-decided");
    for (id, transaction) in decided {
        let missing = unmarked.get(id).is_some_and(|missing| transaction.partitions.contains_all(&missing.partitions));
        debug_assert!(missing, "unmarked-iff-decided: {id}");
    }
}
