//! Producer state of one partition: what idempotence needs to know of each producer id.
//!
//! Pure: no I/O, no clock. [`ProducerStates::judge`] decides, [`ProducerStates::record`] changes; a replay of
//! the tags of all records calls only the latter, and ends in the same state.
//!
//! Bound: at most [`ProducerStates::LIMIT`] producers a partition. Kafka has no bound here; where it would grow
//! further, the producers that have not written for longest are forgotten, as if they had expired early.
//!
//! Rule **open-is-kept**: a producer with an open transaction is not forgotten, neither by age nor by the bound. Its marker
//! would find nothing to end, and the last stable offset would stay where it is for good.

use std::collections::BTreeMap;

use protocol::batch::EndTransactionMarker;
use smallvec::SmallVec;

/// "No coordinator has ended a transaction of this producer", as in Kafka.
pub(crate) const NO_COORDINATOR_EPOCH: i32 = -1;

/// Batches remembered for each producer: as many requests as a Java producer keeps in flight.
pub(crate) const BATCHES_CACHED: usize = 5;

/// What a batch says of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequenced {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    /// -1 for a batch without: a group coordinator writes such in a transactional producer's name.
    pub(crate) base_sequence: i32,
    /// Last offset of the batch minus its first.
    pub(crate) last_offset_delta: i32,
    pub(crate) transactional: bool,
}

impl Sequenced {
    fn last_sequence(&self) -> i32 {
        increment_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// A batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedBatch {
    pub(crate) last_sequence: i32,
    pub(crate) offset_delta: i32,
    pub(crate) last_offset: i64,
    /// Largest timestamp of the batch.
    pub(crate) timestamp_ms: i64,
}

impl CachedBatch {
    pub(crate) fn base_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }

    fn base_sequence(&self) -> i32 {
        decrement_sequence(self.last_sequence, self.offset_delta)
    }
}

/// A producer's newest transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LastTransaction {
    /// None that is known, or one of an earlier epoch.
    #[default]
    None,
    /// Under way since the record at that offset.
    Open { first_offset: i64 },
    /// Ended by the marker there, under the producer's current epoch.
    Ended { commit: bool, marker_offset: i64 },
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerEntry {
    pub(crate) epoch: i16,
    /// Oldest first; room for one in place, for the many producers that write once.
    pub(crate) batches: SmallVec<[CachedBatch; 1]>,
    /// Wall time of the last append. Kafka expires by record timestamps, which would forget a producer that
    /// copies old records while it is still writing them.
    pub(crate) last_write_ms: i64,
    /// Epoch of the coordinator that wrote the newest marker, [`NO_COORDINATOR_EPOCH`] without one.
    pub(crate) coordinator_epoch: i32,
    pub(crate) transaction: LastTransaction,
}

impl ProducerEntry {
    /// First offset of the open transaction.
    pub(crate) fn open_since(&self) -> Option<i64> {
        match self.transaction {
            LastTransaction::Open { first_offset } => Some(first_offset),
            LastTransaction::None | LastTransaction::Ended { .. } => None,
        }
    }

    /// Whether there is more to tell of it than idempotence needs.
    pub(crate) fn is_transactional(&self) -> bool {
        self.coordinator_epoch != NO_COORDINATOR_EPOCH || self.transaction != LastTransaction::None
    }

    /// Whether one of its remembered batches starts with that sequence.
    pub(crate) fn has_batch_from(&self, base_sequence: i32) -> bool {
        self.batches.iter().any(|batch| batch.base_sequence() == base_sequence)
    }

    fn push(&mut self, batch: CachedBatch) {
        if self.batches.len() == BATCHES_CACHED {
            self.batches.remove(0);
        } else if self.batches.len() == 1 {
            self.batches.reserve_exact(BATCHES_CACHED - 1);
        }
        self.batches.push(batch);
    }
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is next: append it.
    Append,
    /// It was appended before, there.
    Duplicate(CachedBatch),
}

/// Why a batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SequenceError {
    /// INVALID_PRODUCER_EPOCH.
    #[error("producer {producer_id} sent epoch {sent}, the last known is {known}")]
    StaleEpoch { producer_id: i64, sent: i16, known: i16 },
    /// OUT_OF_ORDER_SEQUENCE_NUMBER.
    #[error("producer {producer_id} sent sequence {sent}, the last known is {known}")]
    OutOfOrder { producer_id: i64, sent: i32, known: i32 },
    /// INVALID_TXN_STATE.
    #[error("producer {producer_id} sent a batch outside of its open transaction")]
    OutsideTransaction { producer_id: i64 },
}

/// All producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducerStates {
    entries: BTreeMap<i64, Box<ProducerEntry>>,
    /// Sum of all cached batches, so that the size of a checkpoint is known without a walk.
    batches: usize,
    /// How many are [`ProducerEntry::is_transactional`], for the same reason.
    transactional: usize,
}

impl ProducerStates {
    /// Producers remembered at most: some 20 MiB.
    pub(crate) const LIMIT: usize = 65_536;

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Batches cached over all producers.
    pub(crate) fn batches(&self) -> usize {
        self.batches
    }

    /// Producers with something to tell of transactions.
    pub(crate) fn transactional(&self) -> usize {
        self.transactional
    }

    /// What is known of a producer.
    pub(crate) fn get(&self, producer_id: i64) -> Option<&ProducerEntry> {
        self.entries.get(&producer_id).map(AsRef::as_ref)
    }

    /// By ascending producer id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, &ProducerEntry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry.as_ref()))
    }

    /// Puts in what a checkpoint held.
    pub(crate) fn restore(&mut self, producer_id: i64, entry: ProducerEntry) {
        self.batches += entry.batches.len();
        self.transactional += usize::from(entry.is_transactional());
        if let Some(old) = self.entries.insert(producer_id, Box::new(entry)) {
            self.forgot(&old);
        }
    }

    /// Puts in what a checkpoint held of a producer's transactions; false if the producer is not known.
    pub(crate) fn restore_transaction(
        &mut self,
        id: i64,
        coordinator_epoch: i32,
        transaction: LastTransaction,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        self.transactional -= usize::from(entry.is_transactional());
        (entry.coordinator_epoch, entry.transaction) = (coordinator_epoch, transaction);
        self.transactional += usize::from(entry.is_transactional());
        true
    }

    fn forgot(&mut self, entry: &ProducerEntry) {
        self.batches -= entry.batches.len();
        self.transactional -= usize::from(entry.is_transactional());
    }

    /// A producer of whom nothing is known must begin at 0. Otherwise any beginning is right, as in Kafka: what it wrote
    /// before may have been deleted.
    pub(crate) fn expect_first(&self, batch: &Sequenced) -> Result<(), SequenceError> {
        let Sequenced { producer_id, base_sequence: sent, .. } = *batch;
        if sent == 0 || self.entries.contains_key(&producer_id) {
            return Ok(());
        }
        Err(SequenceError::OutOfOrder { producer_id, sent, known: -1 })
    }

    /// Whether `batch` may be appended now. Kafka's order: first duplicates, then epochs, then sequences, then whether a
    /// transaction is open that the batch is not part of.
    pub(crate) fn judge(&self, batch: &Sequenced) -> Result<Judgement, SequenceError> {
        let Some(entry) = self.entries.get(&batch.producer_id) else { return Ok(Judgement::Append) };
        let Sequenced { producer_id, producer_epoch, base_sequence, .. } = *batch;
        if producer_epoch < entry.epoch {
            return Err(SequenceError::StaleEpoch { producer_id, sent: producer_epoch, known: entry.epoch });
        }
        let in_place = if batch.transactional || entry.open_since().is_none() {
            Ok(Judgement::Append)
        } else {
            Err(SequenceError::OutsideTransaction { producer_id })
        };
        if base_sequence < 0 {
            return in_place;
        }
        let known = entry.batches.last().map_or(-1, |last| last.last_sequence);
        let out_of_order = SequenceError::OutOfOrder { producer_id, sent: base_sequence, known };
        if producer_epoch > entry.epoch {
            return if base_sequence == 0 { in_place } else { Err(out_of_order) };
        }
        let same = |cached: &&CachedBatch| {
            cached.base_sequence() == base_sequence && cached.last_sequence == batch.last_sequence()
        };
        if let Some(original) = entry.batches.iter().find(same) {
            return Ok(Judgement::Duplicate(*original));
        }
        if is_next(known, base_sequence) { in_place } else { Err(out_of_order) }
    }

    /// Remembers an appended batch. `replayed` state and live state are the same but for `now_ms`.
    pub(crate) fn record(&mut self, batch: &Sequenced, base_offset: i64, timestamp_ms: i64, now_ms: i64) {
        let entry = self.entry(batch.producer_id, batch.producer_epoch, now_ms);
        if batch.base_sequence >= 0 {
            let before = entry.batches.len();
            entry.push(CachedBatch {
                last_sequence: batch.last_sequence(),
                offset_delta: batch.last_offset_delta,
                last_offset: base_offset + i64::from(batch.last_offset_delta),
                timestamp_ms,
            });
            self.batches += entry_len(&self.entries, batch.producer_id) - before;
        }
        self.make_room(batch.producer_id);
    }

    /// A transactional batch of this producer was recorded at `base_offset`: whether that began a transaction.
    pub(crate) fn begin_transaction(&mut self, producer_id: i64, base_offset: i64) -> bool {
        let Some(entry) = self.entries.get_mut(&producer_id).filter(|entry| entry.open_since().is_none()) else {
            return false;
        };
        self.transactional += usize::from(!entry.is_transactional());
        entry.transaction = LastTransaction::Open { first_offset: base_offset };
        true
    }

    /// Records a marker at `marker_offset`: it takes its epoch over, and ends the open transaction, whose first offset is
    /// the result. A marker has no sequence; where its epoch is not a new one, sequences go on.
    pub(crate) fn record_marker(
        &mut self,
        producer_id: i64,
        producer_epoch: i16,
        marker: EndTransactionMarker,
        marker_offset: i64,
        now_ms: i64,
    ) -> Option<i64> {
        let EndTransactionMarker { commit, coordinator_epoch } = marker;
        let entry = self.entry(producer_id, producer_epoch, now_ms);
        let (ended, was_transactional) = (entry.open_since(), entry.is_transactional());
        entry.coordinator_epoch = coordinator_epoch;
        entry.transaction = LastTransaction::Ended { commit, marker_offset };
        self.transactional += usize::from(!was_transactional);
        self.make_room(producer_id);
        ended
    }

    /// The entry under `epoch`: a new epoch forgets the batches of older ones, and how the last transaction ended. One that
    /// is open stays so, as in Kafka.
    fn entry(&mut self, producer_id: i64, epoch: i16, now_ms: i64) -> &mut ProducerEntry {
        let fresh = || {
            Box::new(ProducerEntry {
                epoch,
                batches: SmallVec::new(),
                last_write_ms: now_ms,
                coordinator_epoch: NO_COORDINATOR_EPOCH,
                transaction: LastTransaction::None,
            })
        };
        let entry = self.entries.entry(producer_id).or_insert_with(fresh);
        if entry.epoch != epoch {
            self.batches -= entry.batches.len();
            entry.epoch = epoch;
            entry.batches.clear();
            if entry.open_since().is_none() {
                self.transactional -= usize::from(entry.is_transactional());
                entry.transaction = LastTransaction::None;
                self.transactional += usize::from(entry.is_transactional());
            }
        }
        entry.last_write_ms = now_ms;
        entry
    }

    /// Forgets producers that have not written for `expiration_ms`: rule open-is-kept.
    pub(crate) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        let deadline = now_ms.saturating_sub(expiration_ms);
        let (mut batches, mut transactional) = (0, 0);
        self.entries.retain(|_, entry| {
            let keep = entry.last_write_ms > deadline || entry.open_since().is_some();
            if !keep {
                batches += entry.batches.len();
                transactional += usize::from(entry.is_transactional());
            }
            keep
        });
        self.batches -= batches;
        self.transactional -= transactional;
    }

    fn make_room(&mut self, spared: i64) {
        if self.entries.len() > Self::LIMIT {
            self.evict_oldest(spared);
        }
    }

    /// Makes room for a sixteenth of the limit at once, so that the walk is paid for once in thousands of appends. Rule
    /// open-is-kept: half of them are not open, see [`Transactions::OPEN_MAX`](super::transactions::Transactions::OPEN_MAX).
    fn evict_oldest(&mut self, spared: i64) {
        let forgettable = self.entries.iter().filter(|(id, entry)| entry.open_since().is_none() && **id != spared);
        let mut ages: Vec<(i64, i64)> = forgettable.map(|(id, entry)| (entry.last_write_ms, *id)).collect();
        let count = (Self::LIMIT / 16).min(ages.len());
        if count < ages.len() {
            ages.select_nth_unstable(count);
        }
        for (_, id) in &ages[..count] {
            if let Some(entry) = self.entries.remove(id) {
                debug_assert!(entry.open_since().is_none(), "open-is-kept");
                self.forgot(&entry);
            }
        }
    }
}

fn entry_len(entries: &BTreeMap<i64, Box<ProducerEntry>>, producer_id: i64) -> usize {
    entries.get(&producer_id).map_or(0, |entry| entry.batches.len())
}

/// Sequences count 0..=2³¹−1 and start again at 0.
fn is_next(last: i32, next: i32) -> bool {
    i64::from(next) == i64::from(last) + 1 || (next == 0 && last == i32::MAX)
}

fn increment_sequence(sequence: i32, by: i32) -> i32 {
    ((i64::from(sequence) + i64::from(by)) & i64::from(i32::MAX)) as i32
}

fn decrement_sequence(sequence: i32, by: i32) -> i32 {
    ((i64::from(sequence) - i64::from(by)) & i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests;
