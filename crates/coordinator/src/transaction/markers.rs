//! Markers: a decided transaction is complete when each of its partitions has the control batch that says so.

use std::sync::Arc;

use crate::shard::Now;
use crate::transaction::metadata::{TransactionMetadata, TransactionState};
use crate::transaction::partitions::PartitionSet;
use crate::transaction::shard::{TransactionOutput, TransactionShard};

/// Markers to write, to be repeated until each partition has accepted its own or its topic is gone
/// ([`TransactionShard::markers_written`]). The coordinator's epoch is the leader epoch of the shard's partition.
/// The task is kept as long as markers are sent for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerTask {
    /// Transactional id.
    pub transactional_id: Arc<str>,
    /// Which decision it makes known: another number for each one, and for each load of the shard.
    pub decision: u64,
    /// Producer id of the transaction.
    pub producer_id: i64,
    /// Epoch that the markers carry: in TV2, or when the coordinator aborts, one above the epoch of the transaction's
    /// batches.
    pub producer_epoch: i16,
    /// Commit, else abort.
    pub commit: bool,
    /// Topics and partition indexes.
    pub partitions: Vec<(Arc<str>, i32)>,
    /// `transaction.version` that the decision was made by (WriteTxnMarkers 2).
    pub transaction_version: i8,
}

impl MarkerTask {
    pub(crate) fn of(id: &Arc<str>, decision: u64, decided: &TransactionMetadata, unmarked: &PartitionSet) -> Self {
        debug_assert!(decided.state.is_prepared(), "a marker makes a decision known");
        Self {
            transactional_id: Arc::clone(id),
            decision,
            producer_id: decided.producer_id,
            producer_epoch: decided.producer_epoch,
            commit: decided.state == TransactionState::PrepareCommit,
            partitions: unmarked.to_list(),
            transaction_version: decided.client_transaction_version,
        }
    }
}

/// What a decided transaction lacks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unmarked {
    /// [`MarkerTask::decision`].
    pub(crate) decision: u64,
    /// Partitions without their marker, as far as the shard was told.
    pub(crate) partitions: PartitionSet,
}

/// The number of the first decision of a shard that is loaded now. Acceptances that a shard was told before it was
/// loaded again are of lower numbers, as long as it made less than a million decisions each millisecond.
pub(crate) fn first_decision(now: Now) -> u64 {
    now.boot_ms.unsigned_abs() << 20
}

impl TransactionShard {
    /// Markers that no partition is known to have accepted yet: after [`TransactionShard::load`], those of every decided
    /// transaction.
    #[must_use]
    pub fn pending_markers(&self) -> Vec<MarkerTask> {
        let task = |(id, unmarked): (&Arc<str>, &Unmarked)| {
            let decided = self.persisted.transaction(id).filter(|_| !unmarked.partitions.is_empty())?;
            Some(MarkerTask::of(id, unmarked.decision, decided, &unmarked.partitions))
        };
        self.unmarked.iter().filter_map(task).collect()
    }

    /// Partitions have accepted their marker of `task`, or are gone. In any order, and as often as it may be; news of
    /// another decision than the present one changes nothing. (Producer id and epoch would not tell: below TV2 the next
    /// transaction has the same, and would go without the marker that the last one's second acceptance is taken for.)
    /// When none is left, the output completes the transaction.
    pub fn markers_written(
        &mut self,
        task: &MarkerTask,
        partitions: &[(Arc<str>, i32)],
        now: Now,
    ) -> TransactionOutput {
        let mut out = TransactionOutput::default();
        let id = &task.transactional_id;
        let unmarked = self.unmarked.get_mut(id).filter(|unmarked| unmarked.decision == task.decision);
        if let (Some(decided), Some(unmarked)) = (self.persisted.transaction(id), unmarked) {
            partitions.iter().for_each(|(topic, partition)| unmarked.partitions.remove(topic, *partition));
            if unmarked.partitions.is_empty() {
                out.record(id, Some(decided.completed(now)));
            }
        }
        out
    }
}
