//! EndTxn: a producer commits or aborts.
//!
//! The Prepare record is the decision. It is answered when that is durable; markers follow. While they do, everything is
//! answered with CONCURRENT_TRANSACTIONS.
//!
//! Below `transaction.version` 2 all transactions of a producer have the same epoch: an EndTxn that is late is not told
//! from the next one, and can decide a transaction that it knows nothing of. From 2 on (KIP-890) the epoch grows with each
//! decision, so that a request says which transaction it means: one of the current epoch the current transaction, one
//! of the epoch before the last one, whose outcome it can only learn:
//!
//! | state          | abort, repeated | abort, current | commit, repeated | commit, current |
//! |----------------|-----------------|----------------|------------------|-----------------|
//! | Empty          | fenced          | decided        | fenced           | invalid state   |
//! | Ongoing        | fenced          | decided        | fenced           | decided         |
//! | CompleteAbort  | success         | decided        | invalid state    | invalid state   |
//! | CompleteCommit | invalid state   | decided        | success          | invalid state   |
//!
//! To abort nothing is allowed, for the client may not know whether what it sent has begun a transaction.

use protocol::ErrorCode;

use crate::shard::Now;
use crate::transaction::metadata::{
    CLIENT_EPOCH_MAX, NO_PRODUCER_ID, Outcome, ProducerIdAndEpoch, TransactionMetadata, TransactionState, bumps_epoch,
};
use crate::transaction::shard::{ProducerRequest, Refusal, TransactionOutput, TransactionShard};

/// What an EndTxn means.
enum Intent {
    /// It decides.
    Decide,
    /// It repeats the decision that was made, and is told again what comes next.
    Repeat,
}

impl TransactionShard {
    pub(crate) fn end_txn(
        &self,
        request: &ProducerRequest,
        commit: bool,
        client_transaction_version: i8,
        fresh: Option<i64>,
        now: Now,
        out: &mut TransactionOutput,
    ) -> Result<ProducerIdAndEpoch, Refusal> {
        let transaction = self.transaction_of(request)?;
        let outcome = Outcome::of(commit);
        let bumps = bumps_epoch(client_transaction_version);
        let intent = if bumps {
            transaction.end_with_epoch_bump(request.producer, outcome)?
        } else {
            transaction.end_without_epoch_bump(request, outcome)?
        };
        let next = match intent {
            Intent::Repeat => transaction.producer(),
            Intent::Decide => {
                let rotates = bumps && transaction.is_epoch_exhausted();
                let next_producer_id = if rotates { fresh.ok_or(Refusal::NeedsProducerId)? } else { NO_PRODUCER_ID };
                // Kafka records 0 for all that do not bump.
                let version = if bumps { client_transaction_version } else { 0 };
                let decided = transaction.decided(outcome, version, next_producer_id, now);
                let next = decided.after_completion();
                self.decide(&request.transactional_id, decided, now, out);
                next
            }
        };
        Ok(if bumps { next } else { ProducerIdAndEpoch::NONE })
    }
}

impl TransactionMetadata {
    /// Below `transaction.version` 2.
    fn end_without_epoch_bump(&self, request: &ProducerRequest, outcome: Outcome) -> Result<Intent, ErrorCode> {
        self.validate_producer(request)?;
        match self.state {
            state if state.is_prepared() => Err(ErrorCode::ConcurrentTransactions),
            TransactionState::Ongoing => Ok(Intent::Decide),
            state if state == outcome.completed() => Ok(Intent::Repeat),
            _ => Err(ErrorCode::InvalidTxnState),
        }
    }

    /// From `transaction.version` 2 on.
    fn end_with_epoch_bump(&self, held: ProducerIdAndEpoch, outcome: Outcome) -> Result<Intent, ErrorCode> {
        // First, as in Kafka: the client may know the producer id already that takes over at completion.
        if self.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let is_before_rotation = self.is_before_rotation(held);
        if held.producer_id != self.producer_id && !is_before_rotation {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        let is_completed = matches!(self.state, TransactionState::CompleteCommit | TransactionState::CompleteAbort);
        // Only a decision that bumped the epoch is told by the epoch before. Kafka asks no such thing, and says success to
        // the commit of a fenced producer when the one that fenced it, of an older kind, has committed since.
        let is_repeated = bumps_epoch(self.client_transaction_version)
            && (is_before_rotation || held.epoch.checked_add(1) == Some(self.producer_epoch));
        let is_current = !is_before_rotation && held.epoch == self.producer_epoch;
        // What is told to a repeated request is the epoch in use, which must be one that a client may have.
        if !(is_current || is_completed && is_repeated) || self.producer_epoch > CLIENT_EPOCH_MAX {
            return Err(ErrorCode::ProducerFenced);
        }
        match (self.state, outcome) {
            (TransactionState::Ongoing, _) => Ok(Intent::Decide),
            (state, outcome) if is_repeated && state == outcome.completed() => Ok(Intent::Repeat),
            (_, Outcome::Abort) if !is_repeated => Ok(Intent::Decide),
            _ => Err(ErrorCode::InvalidTxnState),
        }
    }

    /// Whether the client did not hear of the producer id that took over when the one it holds was used up.
    fn is_before_rotation(&self, held: ProducerIdAndEpoch) -> bool {
        held.producer_id == self.previous_producer_id
            && held.producer_id != self.producer_id
            && held.epoch == CLIENT_EPOCH_MAX
            && self.producer_epoch == 0
    }
}
