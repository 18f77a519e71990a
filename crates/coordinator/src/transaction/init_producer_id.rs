//! InitProducerId: a producer asks for an id and an epoch, and thereby fences those before it.
//!
//! - idle: the epoch grows by one, or a fresh producer id takes over at epoch 0 where the epochs are used up.
//! - a transaction is open: it is aborted under an epoch that nobody was given. CONCURRENT_TRANSACTIONS until it is
//!   complete; then the client, which repeats the request, gets its epoch.
//! - a transaction is decided: CONCURRENT_TRANSACTIONS until it is complete.
//!
//! A client may say which producer id and epoch it holds (KIP-360). If they are current, it goes on after an error;
//! if they are those before the last such request, it repeats that request and gets the same answer. Else
//! PRODUCER_FENCED.
//!
//! In two cases Kafka 4.3 does otherwise, and harm:
//! - It aborts an open transaction of the current producer for a request that says an *older* epoch, and refuses that
//!   request only when it comes again. A delayed duplicate would so abort a transaction that came after it. Here it is
//!   refused at once.
//! - It answers UNKNOWN_SERVER_ERROR to the repetition of a request that led to the last usable epoch. Here it gets the
//!   same answer again.

use std::sync::Arc;

use protocol::ErrorCode;

use crate::shard::Now;
use crate::transaction::metadata::{
    CLIENT_EPOCH_MAX, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, ProducerIdAndEpoch, TransactionMetadata, TransactionState,
    bumps_epoch,
};
use crate::transaction::shard::{Refusal, TransactionOutput, TransactionShard};

/// Bytes of a transactional id: what a record's key can hold.
pub(crate) const TRANSACTIONAL_ID_BYTES_MAX: usize = i16::MAX as usize;

impl TransactionShard {
    pub(crate) fn init_producer_id(
        &self,
        id: &Arc<str>,
        timeout_ms: i32,
        expected: Option<ProducerIdAndEpoch>,
        fresh: Option<i64>,
        now: Now,
        out: &mut TransactionOutput,
    ) -> Result<ProducerIdAndEpoch, Refusal> {
        if id.is_empty() || id.len() > TRANSACTIONAL_ID_BYTES_MAX {
            return Err(ErrorCode::InvalidRequest.into());
        }
        if timeout_ms <= 0 || timeout_ms > self.config.max_timeout_ms {
            return Err(ErrorCode::InvalidTransactionTimeout.into());
        }
        let Some(transaction) = self.persisted.transaction(id) else {
            if self.persisted.len() >= self.config.max_transactional_ids {
                return Err(ErrorCode::CoordinatorNotAvailable.into());
            }
            // Whatever the client held: its id has expired, and nobody else has it.
            let created = TransactionMetadata::created(fresh.ok_or(Refusal::NeedsProducerId)?, timeout_ms, now);
            let producer = created.producer();
            out.record(id, Some(created));
            return Ok(producer);
        };
        // First, as in Kafka: the producer id may be about to change.
        if transaction.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions.into());
        }
        if expected.is_some_and(|expected| !transaction.knows_producer(expected)) {
            return Err(ErrorCode::ProducerFenced.into());
        }
        if transaction.state == TransactionState::Ongoing {
            if expected.is_some_and(|expected| expected != transaction.producer()) {
                return Err(ErrorCode::ProducerFenced.into());
            }
            let fenced = self.fence(transaction, fresh, now).ok_or(Refusal::NeedsProducerId)?;
            self.decide(id, fenced, now, out);
            return Err(ErrorCode::ConcurrentTransactions.into());
        }
        let initialized = transaction.reinitialized(expected.map(|expected| expected.epoch), timeout_ms, fresh, now)?;
        let producer = initialized.producer();
        out.record(id, Some(initialized));
        Ok(producer)
    }

    /// The abort of an open transaction by the coordinator; `None` if that takes a fresh producer id.
    pub(crate) fn fence(
        &self,
        transaction: &TransactionMetadata,
        fresh: Option<i64>,
        now: Now,
    ) -> Option<TransactionMetadata> {
        let version = self.config.transaction_version;
        let rotates = bumps_epoch(version) && transaction.is_epoch_exhausted();
        let next_producer_id = if rotates { fresh? } else { NO_PRODUCER_ID };
        Some(transaction.fenced(version, next_producer_id, now))
    }
}

impl TransactionMetadata {
    /// Whether a client can hold this producer: it is the current id; or the one before, at its last epoch, if the client
    /// never got the answer that replaced it.
    fn knows_producer(&self, held: ProducerIdAndEpoch) -> bool {
        held.producer_id == self.producer_id
            || (held.producer_id == self.previous_producer_id && held.epoch >= CLIENT_EPOCH_MAX)
    }

    /// What an idle id becomes.
    fn reinitialized(
        &self,
        expected_epoch: Option<i16>,
        timeout_ms: i32,
        fresh: Option<i64>,
        now: Now,
    ) -> Result<Self, Refusal> {
        let holds_current = expected_epoch == Some(self.producer_epoch);
        let last_epoch = if holds_current { self.producer_epoch } else { NO_PRODUCER_EPOCH };
        let bumps = expected_epoch.is_none() || holds_current;
        if bumps && self.is_epoch_exhausted() {
            let producer = ProducerIdAndEpoch { producer_id: fresh.ok_or(Refusal::NeedsProducerId)?, epoch: 0 };
            return Ok(self.initialized(producer, last_epoch, timeout_ms, now));
        }
        if bumps {
            let producer = ProducerIdAndEpoch { epoch: self.producer_epoch.saturating_add(1), ..self.producer() };
            return Ok(self.initialized(producer, last_epoch, timeout_ms, now));
        }
        // The answer to the first attempt was lost: the same again. A producer that came in between would have set the
        // last epoch to none.
        let is_repetition = expected_epoch == Some(self.last_producer_epoch);
        if is_repetition && self.last_producer_epoch >= 0 && self.producer_epoch <= CLIENT_EPOCH_MAX {
            return Ok(self.initialized(self.producer(), self.last_producer_epoch, timeout_ms, now));
        }
        Err(ErrorCode::ProducerFenced.into())
    }
}
