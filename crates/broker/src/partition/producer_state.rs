//! Producer state of one partition: what idempotence needs to know of each producer id.
//!
//! Pure: no I/O, no clock. [`ProducerStates::judge`] decides, [`ProducerStates::record`] changes; a replay of
//! the tags of all records calls only the latter, and ends in the same state.
//!
//! Bound: at most [`ProducerStates::LIMIT`] producers a partition. Kafka has no bound here; where it would grow
//! further, the producers that have not written for longest are forgotten, as if they had expired early.

use std::collections::BTreeMap;

use smallvec::SmallVec;

/// Batches remembered for each producer: as many requests as a Java producer keeps in flight.
pub(crate) const BATCHES_CACHED: usize = 5;

/// What a batch says of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequenced {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    /// Last offset of the batch minus its first.
    pub(crate) last_offset_delta: i32,
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

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerEntry {
    pub(crate) epoch: i16,
    /// Oldest first; room for one in place, for the many producers that write once.
    pub(crate) batches: SmallVec<[CachedBatch; 1]>,
    /// Wall time of the last append. Kafka expires by record timestamps, which would forget a producer that
    /// copies old records while it is still writing them.
    pub(crate) last_write_ms: i64,
}

impl ProducerEntry {
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
}

/// All producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducerStates {
    entries: BTreeMap<i64, Box<ProducerEntry>>,
    /// Sum of all cached batches, so that the size of a checkpoint is known without a walk.
    batches: usize,
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

    /// By ascending producer id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, &ProducerEntry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry.as_ref()))
    }

    /// Puts in what a checkpoint held.
    pub(crate) fn restore(&mut self, producer_id: i64, entry: ProducerEntry) {
        self.batches += entry.batches.len();
        if let Some(old) = self.entries.insert(producer_id, Box::new(entry)) {
            self.batches -= old.batches.len();
        }
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

    /// Whether `batch` may be appended now. Kafka's order: first duplicates, then epochs, then sequences.
    pub(crate) fn judge(&self, batch: &Sequenced) -> Result<Judgement, SequenceError> {
        let Some(entry) = self.entries.get(&batch.producer_id) else { return Ok(Judgement::Append) };
        let Sequenced { producer_id, producer_epoch, base_sequence, .. } = *batch;
        if producer_epoch < entry.epoch {
            return Err(SequenceError::StaleEpoch { producer_id, sent: producer_epoch, known: entry.epoch });
        }
        let known = entry.batches.last().map_or(-1, |last| last.last_sequence);
        if producer_epoch > entry.epoch {
            return if base_sequence == 0 {
                Ok(Judgement::Append)
            } else {
                Err(SequenceError::OutOfOrder { producer_id, sent: base_sequence, known })
            };
        }
        let same = |cached: &&CachedBatch| {
            cached.base_sequence() == base_sequence && cached.last_sequence == batch.last_sequence()
        };
        if let Some(original) = entry.batches.iter().find(same) {
            return Ok(Judgement::Duplicate(*original));
        }
        if is_next(known, base_sequence) {
            Ok(Judgement::Append)
        } else {
            Err(SequenceError::OutOfOrder { producer_id, sent: base_sequence, known })
        }
    }

    /// Remembers an appended batch. `replayed` state and live state are the same but for `now_ms`.
    pub(crate) fn record(&mut self, batch: &Sequenced, base_offset: i64, timestamp_ms: i64, now_ms: i64) {
        let entry = self.entry(batch.producer_id, batch.producer_epoch, now_ms);
        let before = entry.batches.len();
        entry.push(CachedBatch {
            last_sequence: batch.last_sequence(),
            offset_delta: batch.last_offset_delta,
            last_offset: base_offset + i64::from(batch.last_offset_delta),
            timestamp_ms,
        });
        self.batches += entry_len(&self.entries, batch.producer_id) - before;
        if self.entries.len() > Self::LIMIT {
            self.evict_oldest(batch.producer_id);
        }
    }

    /// Takes the epoch of a control batch over, which has no sequence.
    pub(crate) fn record_control(&mut self, producer_id: i64, producer_epoch: i16, now_ms: i64) {
        self.entry(producer_id, producer_epoch, now_ms);
    }

    /// The entry under `epoch`: a new epoch forgets the batches of older ones.
    fn entry(&mut self, producer_id: i64, epoch: i16, now_ms: i64) -> &mut ProducerEntry {
        let fresh = || Box::new(ProducerEntry { epoch, batches: SmallVec::new(), last_write_ms: now_ms });
        let entry = self.entries.entry(producer_id).or_insert_with(fresh);
        if entry.epoch != epoch {
            self.batches -= entry.batches.len();
            entry.epoch = epoch;
            entry.batches.clear();
        }
        entry.last_write_ms = now_ms;
        entry
    }

    /// Forgets producers that have not written for `expiration_ms`.
    pub(crate) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        let deadline = now_ms.saturating_sub(expiration_ms);
        let mut forgotten = 0;
        self.entries.retain(|_, entry| {
            let keep = entry.last_write_ms > deadline;
            if !keep {
                forgotten += entry.batches.len();
            }
            keep
        });
        self.batches -= forgotten;
    }

    /// Makes room for a sixteenth of the limit at once, so that the walk is paid for once in thousands of appends.
    fn evict_oldest(&mut self, spared: i64) {
        let mut ages: Vec<(i64, i64)> = self.entries.iter().map(|(id, entry)| (entry.last_write_ms, *id)).collect();
        let count = (Self::LIMIT / 16).min(ages.len().saturating_sub(1));
        ages.select_nth_unstable(count);
        for (_, id) in ages[..count].iter().filter(|(_, id)| *id != spared) {
            if let Some(entry) = self.entries.remove(id) {
                self.batches -= entry.batches.len();
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
