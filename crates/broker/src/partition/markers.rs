//! Markers: the control batches that end transactions, on behalf of their coordinators (WriteTxnMarkers, KIP-98).

use std::borrow::Cow;

use common::Offset;
use protocol::ErrorCode;
use protocol::batch::{BatchView, EndTransactionMarker, Invalid};

use super::Partition;
use super::append::{AppendRefused, AppendedBatch};
use super::producer_state::{LastTransaction, NO_COORDINATOR_EPOCH, ProducerStates};

/// First transaction version (KIP-890) in which a marker's epoch is above that of its transaction's records.
const EPOCH_BUMPS: i8 = 2;

/// The end of a producer's transaction, as its coordinator decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionMarker {
    /// The producer, not negative.
    pub producer_id: i64,
    /// In transaction versions up to 1 that of the transaction's records, or a later one that fences them; from version
    /// 2 on always a later one.
    pub producer_epoch: i16,
    /// Committed, or else aborted.
    pub commit: bool,
    /// Leader epoch of the coordinator's partition.
    pub coordinator_epoch: i32,
    /// The transaction's version, `transaction.version` of KIP-890.
    pub transaction_version: i8,
}

/// What is to be done with a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MarkerJudgement {
    Append,
    /// It was appended before, there.
    Repeated {
        marker_offset: i64,
    },
}

/// Why a marker is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum MarkerError {
    /// INVALID_PRODUCER_EPOCH.
    #[error("the marker of producer {producer_id} has epoch {sent}, the last known is {known}")]
    StaleEpoch { producer_id: i64, sent: i16, known: i16 },
    /// TRANSACTION_COORDINATOR_FENCED.
    #[error("a coordinator of epoch {sent} sent the marker of producer {producer_id}, one of epoch {known} did before")]
    Fenced { producer_id: i64, sent: i32, known: i32 },
}

impl From<MarkerError> for AppendRefused {
    fn from(error: MarkerError) -> Self {
        let code = match error {
            MarkerError::StaleEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            MarkerError::Fenced { .. } => ErrorCode::TransactionCoordinatorFenced,
        };
        Self::new(code, error.to_string())
    }
}

/// Whether `marker` may be appended. Kafka's order: first the producer's epoch, then the coordinator's.
///
/// Rule **one-marker-an-epoch**, from transaction version 2 on: every transaction has an epoch of its own and its marker
/// the next one, so a marker that is not above the producer's epoch is one of an earlier transaction, and must not end
/// the one that is open. Where none is open, and the last one ended in the same way under this epoch, the coordinator
/// only did not hear of it: it is told so, and nothing is written (Kafka writes another marker).
fn judge(producers: &ProducerStates, marker: &TransactionMarker) -> Result<MarkerJudgement, MarkerError> {
    let TransactionMarker { producer_id, producer_epoch: sent, commit, coordinator_epoch, transaction_version } =
        *marker;
    let Some(entry) = producers.get(producer_id) else { return Ok(MarkerJudgement::Append) };
    let bumps = transaction_version >= EPOCH_BUMPS;
    let is_late = bumps && sent == entry.epoch && entry.open_since().is_some();
    if sent < entry.epoch || is_late {
        return Err(MarkerError::StaleEpoch { producer_id, sent, known: entry.epoch });
    }
    if coordinator_epoch < entry.coordinator_epoch {
        return Err(MarkerError::Fenced { producer_id, sent: coordinator_epoch, known: entry.coordinator_epoch });
    }
    match entry.transaction {
        LastTransaction::Ended { commit: ended, marker_offset } if bumps && sent == entry.epoch && ended == commit => {
            debug_assert_ne!(entry.coordinator_epoch, NO_COORDINATOR_EPOCH, "one-marker-an-epoch");
            Ok(MarkerJudgement::Repeated { marker_offset })
        }
        _ => Ok(MarkerJudgement::Append),
    }
}

impl Partition {
    /// Ends a producer's transaction in this partition. Never waits. A marker of a producer without an open transaction
    /// is appended as well: it fences what the producer may still have sent under an earlier epoch.
    ///
    /// Errors: `INVALID_PRODUCER_EPOCH`, the producer has a later epoch, or the marker is late; `TRANSACTION_COORDINATOR_FENCED`,
    /// a later coordinator wrote already; `INVALID_REQUEST`, no producer id; `NOT_LEADER_OR_FOLLOWER`, and
    /// `NOT_ENOUGH_REPLICAS` while the log is full or the partition moves: try again. The transaction has ended for good
    /// when the log is durable up to the answer's LSN.
    pub fn append_marker(&self, marker: &TransactionMarker) -> Result<AppendedBatch, AppendRefused> {
        let TransactionMarker { producer_id, producer_epoch, commit, coordinator_epoch, .. } = *marker;
        if producer_id < 0 || producer_epoch < 0 {
            return Err(AppendRefused::new(ErrorCode::InvalidRequest, "a marker names its producer and epoch"));
        }
        let now_ms = self.environment.clock.wall_ms();
        let batch = EndTransactionMarker { commit, coordinator_epoch }.batch(producer_id, producer_epoch, now_ms);
        let view = BatchView::exactly_one(&batch).map_err(Invalid::from)?;
        let prepared = self.prepared(&view, Cow::Borrowed(&batch), now_ms, -1, now_ms)?;
        let state = self.lock_to_append()?;
        match judge(&state.producers, marker)? {
            MarkerJudgement::Append => self.append_prepared(state, &prepared),
            MarkerJudgement::Repeated { marker_offset } => Ok(AppendedBatch {
                base_offset: Offset(marker_offset),
                log_append_time_ms: -1,
                log_start: Offset(state.log_start),
                lsn: state.durable_at(marker_offset),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: i64 = 10;

    /// A producer of epoch 5 with an open transaction, whose last one a coordinator of epoch 3 ended.
    fn open() -> ProducerStates {
        let mut producers = ended(4, false);
        let batch = crate::partition::producer_state::Sequenced {
            producer_id: 7,
            producer_epoch: 5,
            base_sequence: 0,
            last_offset_delta: 0,
            transactional: true,
        };
        producers.record(&batch, OPEN, 0, 0);
        assert!(producers.begin_transaction(7, OPEN));
        producers
    }

    fn ended(epoch: i16, commit: bool) -> ProducerStates {
        let mut producers = ProducerStates::default();
        producers.record_marker(7, epoch, EndTransactionMarker { commit, coordinator_epoch: 3 }, 9, 0);
        producers
    }

    fn marker(producer_epoch: i16, coordinator_epoch: i32, transaction_version: i8) -> TransactionMarker {
        TransactionMarker { producer_id: 7, producer_epoch, commit: true, coordinator_epoch, transaction_version }
    }

    #[test]
    fn epochs_of_producer_and_coordinator_fence() {
        let stale = |sent| Err(MarkerError::StaleEpoch { producer_id: 7, sent, known: 5 });
        for version in [0, 1, 2] {
            assert_eq!(judge(&open(), &marker(4, 9, version)), stale(4));
            assert_eq!(judge(&open(), &marker(4, 2, version)), stale(4), "the producer's epoch comes first");
            let fenced = Err(MarkerError::Fenced { producer_id: 7, sent: 2, known: 3 });
            assert_eq!(judge(&open(), &marker(6, 2, version)), fenced);
            assert_eq!(judge(&open(), &marker(6, 3, version)), Ok(MarkerJudgement::Append));
            assert_eq!(judge(&ProducerStates::default(), &marker(0, 0, version)), Ok(MarkerJudgement::Append));
        }
        assert_eq!(judge(&open(), &marker(5, 3, 1)), Ok(MarkerJudgement::Append), "the epoch of its records");
    }

    #[test]
    fn one_marker_an_epoch() {
        let late = Err(MarkerError::StaleEpoch { producer_id: 7, sent: 5, known: 5 });
        assert_eq!(judge(&open(), &marker(5, 3, 2)), late);
        let repeated = Ok(MarkerJudgement::Repeated { marker_offset: 9 });
        assert_eq!(judge(&ended(5, true), &marker(5, 3, 2)), repeated);
        assert_eq!(judge(&ended(5, true), &marker(5, 4, 2)), repeated, "the coordinator moved");
        assert_eq!(judge(&ended(5, false), &marker(5, 3, 2)), Ok(MarkerJudgement::Append), "it ended otherwise");
        assert_eq!(judge(&ended(5, true), &marker(5, 3, 1)), Ok(MarkerJudgement::Append), "as in Kafka");
        assert_eq!(judge(&ended(5, true), &marker(6, 3, 2)), Ok(MarkerJudgement::Append));
    }
}
