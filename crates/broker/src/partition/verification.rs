//! Verification of transactions before they begin in a partition (KIP-890): Kafka's `VerificationStateEntry`.
//!
//! A partition does not know whether a producer's transaction is still under way; the transaction's coordinator does.
//! Before the first batch of a transaction is appended, the produce path asks the coordinator, and holds a guard
//! meanwhile.
//!
//! Rule **guard-or-open**: a transactional batch is taken only from a producer that has an open transaction in the
//! partition under the batch's epoch, or with the guard that the partition holds for this producer.
//!
//! Rule **no-guard-outlives-a-marker**: a marker makes the producer's guard void. Otherwise the coordinator's "yes, it is
//! under way" could arrive after that transaction was aborted, and begin one here that nobody will ever end.
//!
//! Bound: guards of at most [`Verifications::LIMIT`] producers; beyond it those asked for longest ago are void. They
//! are void as well after `producer.id.expiration.ms`. They do not survive the partition's leadership.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Partition;
use super::producer_state::{ProducerStates, SequenceError, Sequenced};

/// Stands for one verification of one producer in one partition. No two in the life of a broker are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationGuard(u64);

/// Gives out the guards of all partitions of a broker, so that a partition that left and came back does not take one of
/// before for one of its own.
#[derive(Debug, Default)]
pub(crate) struct GuardNumbers(AtomicU64);

impl GuardNumbers {
    fn next(&self) -> VerificationGuard {
        VerificationGuard(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether the coordinator must be asked before a transactional batch is appended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The transaction is open here already, or the batch was appended before: append it without a guard.
    NotNeeded,
    /// Ask, and if the answer is yes, append the batch with this guard.
    Needed(VerificationGuard),
}

/// What is remembered of a producer whose transaction is being verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    guard: VerificationGuard,
    epoch: i16,
    /// Lowest sequence that was to be verified under this epoch. A higher one must not overtake it, where that one has
    /// to come again after a passing error: it could never be appended after.
    lowest_sequence: i32,
    supports_epoch_bump: bool,
    asked_ms: i64,
}

/// All verifications under way in one partition.
#[derive(Debug, Default)]
pub(crate) struct Verifications {
    pending: BTreeMap<i64, Pending>,
}

/// What is to be verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToVerify {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    /// -1 for a batch without.
    pub(crate) base_sequence: i32,
    /// See [`Partition::begin_verification`].
    pub(crate) supports_epoch_bump: bool,
}

/// Why a transactional batch is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransactionError {
    /// INVALID_TXN_STATE: rule guard-or-open.
    #[error("the record is not part of an ongoing transaction")]
    NotVerified,
    /// NOT_ENOUGH_REPLICAS.
    #[error("the partition has too many open or aborted transactions, so that no other one can begin")]
    TooMany,
    /// As of any other batch.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

impl Verifications {
    /// Producers at most: some 6 MiB.
    pub(crate) const LIMIT: usize = 65_536;

    /// The producer's guard: the one it has, or else `fresh`. Batches of one transaction that are under way together share
    /// one.
    fn begin(&mut self, asked: &ToVerify, fresh: impl FnOnce() -> VerificationGuard, now_ms: i64) -> VerificationGuard {
        let ToVerify { producer_epoch: epoch, base_sequence, supports_epoch_bump, .. } = *asked;
        if self.pending.len() >= Self::LIMIT && !self.pending.contains_key(&asked.producer_id) {
            self.forget_oldest();
        }
        let pending = self.pending.entry(asked.producer_id).or_insert_with(|| Pending {
            guard: fresh(),
            epoch,
            lowest_sequence: base_sequence,
            supports_epoch_bump,
            asked_ms: now_ms,
        });
        if epoch > pending.epoch {
            (pending.epoch, pending.lowest_sequence) = (epoch, base_sequence);
        } else if epoch == pending.epoch {
            pending.lowest_sequence = pending.lowest_sequence.min(base_sequence);
        }
        (pending.supports_epoch_bump, pending.asked_ms) = (supports_epoch_bump, now_ms);
        pending.guard
    }

    /// Whether `guard` lets `batch` begin its transaction. `is_unknown`: no batch of its producer is remembered.
    pub(crate) fn check(
        &self,
        batch: &Sequenced,
        guard: Option<VerificationGuard>,
        is_unknown: bool,
    ) -> Result<(), TransactionError> {
        let pending = self.pending.get(&batch.producer_id);
        let pending = pending.filter(|pending| Some(pending.guard) == guard).ok_or(TransactionError::NotVerified)?;
        let Sequenced { producer_id, base_sequence: sent, .. } = *batch;
        // Where epochs are bumped with every transaction, whoever is not known begins one, and that at 0.
        let skips_the_first = pending.supports_epoch_bump && is_unknown && sent > 0;
        if skips_the_first || sent > pending.lowest_sequence {
            return Err(SequenceError::OutOfOrder { producer_id, sent, known: -1 }.into());
        }
        Ok(())
    }

    /// The producer has begun its transaction, or a marker has ended it: its guard has served.
    pub(crate) fn clear(&mut self, producer_id: i64) {
        self.pending.remove(&producer_id);
    }

    /// Forgets those that were asked for longer ago than `expiration_ms`.
    pub(crate) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        let deadline = now_ms.saturating_sub(expiration_ms);
        self.pending.retain(|_, pending| pending.asked_ms > deadline);
    }

    /// A sixteenth at once, so that the walk is paid for once in thousands.
    fn forget_oldest(&mut self) {
        let mut ages: Vec<(i64, i64)> = self.pending.iter().map(|(id, pending)| (pending.asked_ms, *id)).collect();
        let count = (Self::LIMIT / 16).min(ages.len().saturating_sub(1));
        ages.select_nth_unstable(count);
        for (_, producer_id) in &ages[..count] {
            self.pending.remove(producer_id);
        }
    }
}

/// Whether the coordinator need not be asked: the transaction is open under this epoch, or `asked` is a batch that is
/// remembered, which will be recognized as such.
fn is_known(producers: &ProducerStates, asked: &ToVerify) -> bool {
    let entry = producers.get(asked.producer_id).filter(|entry| entry.epoch == asked.producer_epoch);
    entry.is_some_and(|entry| entry.open_since().is_some() || entry.has_batch_from(asked.base_sequence))
}

impl Partition {
    /// Begins the verification of a producer's transaction, which must end with a yes of its coordinator before the batch
    /// that starts with `base_sequence` (-1: it has none) is appended. Never waits. Kafka's
    /// `UnifiedLog.maybeStartTransactionVerification`.
    ///
    /// `supports_epoch_bump`: the client's transactions are of version 2 (Produce version 12 and later), in which each
    /// has an epoch of its own, so that a producer nobody knows must begin at sequence 0.
    ///
    /// The guard goes into [`AppendOrigin`](super::AppendOrigin). It serves until the first append that it allows, so an
    /// append that fails for a passing reason may be tried again with it.
    pub fn begin_verification(
        &self,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
        supports_epoch_bump: bool,
    ) -> Verification {
        let asked = ToVerify { producer_id, producer_epoch, base_sequence, supports_epoch_bump };
        let now_ms = self.environment.clock.wall_ms();
        let mut state = self.state.lock();
        if is_known(&state.producers, &asked) {
            return Verification::NotNeeded;
        }
        let fresh = || self.environment.guards.next();
        Verification::Needed(state.verifications.begin(&asked, fresh, now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Sequenced =
        Sequenced { producer_id: 7, producer_epoch: 1, base_sequence: 0, last_offset_delta: 0, transactional: true };

    fn begin(
        states: &mut Verifications,
        numbers: &GuardNumbers,
        epoch: i16,
        sequence: i32,
        bumps: bool,
    ) -> VerificationGuard {
        let asked =
            ToVerify { producer_id: 7, producer_epoch: epoch, base_sequence: sequence, supports_epoch_bump: bumps };
        states.begin(&asked, || numbers.next(), 1_000)
    }

    #[test]
    fn guard_or_open() {
        let (mut states, numbers) = (Verifications::default(), GuardNumbers::default());
        assert_eq!(states.check(&BATCH, None, true), Err(TransactionError::NotVerified));
        let guard = begin(&mut states, &numbers, 1, 0, false);
        assert_eq!(begin(&mut states, &numbers, 1, 5, false), guard, "shared");
        assert_eq!(states.check(&BATCH, Some(guard), true), Ok(()));
        assert_eq!(states.check(&BATCH, None, true), Err(TransactionError::NotVerified));
        assert_eq!(states.check(&BATCH, Some(numbers.next()), true), Err(TransactionError::NotVerified));
        let other = Sequenced { producer_id: 8, ..BATCH };
        assert_eq!(states.check(&other, Some(guard), true), Err(TransactionError::NotVerified));
    }

    #[test]
    fn no_guard_outlives_a_marker() {
        let (mut states, numbers) = (Verifications::default(), GuardNumbers::default());
        let guard = begin(&mut states, &numbers, 1, 0, false);
        states.clear(7);
        assert_eq!(states.check(&BATCH, Some(guard), true), Err(TransactionError::NotVerified));
        let next = begin(&mut states, &numbers, 1, 0, false);
        assert_ne!(next, guard);
        assert_eq!(
            states.check(&BATCH, Some(guard), true),
            Err(TransactionError::NotVerified),
            "not the one of before"
        );
        assert_eq!(states.check(&BATCH, Some(next), true), Ok(()));
    }

    #[test]
    fn no_sequence_overtakes_a_lower_one_that_is_being_verified() {
        let (mut states, numbers) = (Verifications::default(), GuardNumbers::default());
        let guard = begin(&mut states, &numbers, 1, 5, false);
        begin(&mut states, &numbers, 1, 3, false);
        begin(&mut states, &numbers, 0, 1, false);
        let sequence = |epoch, base_sequence| Sequenced { producer_epoch: epoch, base_sequence, ..BATCH };
        assert!(states.check(&sequence(1, 5), Some(guard), true).is_err());
        assert_eq!(states.check(&sequence(1, 3), Some(guard), true), Ok(()));
        begin(&mut states, &numbers, 2, 4, false);
        assert_eq!(states.check(&sequence(2, 4), Some(guard), true), Ok(()), "a later epoch counts anew");
    }

    #[test]
    fn with_epoch_bumps_a_producer_nobody_knows_begins_at_0() {
        for (bumps, is_unknown, sequence, allowed) in [
            (true, true, 0, true),
            (true, true, 4, false),
            (true, true, -1, true),
            (true, false, 4, true),
            (false, true, 4, true),
        ] {
            let (mut states, numbers) = (Verifications::default(), GuardNumbers::default());
            let guard = begin(&mut states, &numbers, 1, sequence, bumps);
            let batch = Sequenced { base_sequence: sequence, ..BATCH };
            let case = (bumps, is_unknown, sequence);
            assert_eq!(states.check(&batch, Some(guard), is_unknown).is_ok(), allowed, "{case:?}");
        }
    }

    #[test]
    fn guards_expire_and_are_bounded() {
        let mut states = Verifications::default();
        let numbers = GuardNumbers::default();
        for producer_id in 0..=Verifications::LIMIT as i64 {
            let asked = ToVerify { producer_id, producer_epoch: 0, base_sequence: 0, supports_epoch_bump: false };
            states.begin(&asked, || numbers.next(), producer_id);
        }
        assert!(states.pending.len() <= Verifications::LIMIT);
        assert!(!states.pending.contains_key(&0) && states.pending.contains_key(&(Verifications::LIMIT as i64)));
        states.expire(70_000, 10_000);
        assert!(states.pending.keys().all(|id| *id > 60_000) && !states.pending.is_empty());
    }
}
