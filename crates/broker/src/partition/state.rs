//! What changes in a partition, all of it under one lock, and without I/O: offsets, epochs, producers.

use bytes::Bytes;
use common::{Lsn, Offset};
use protocol::batch::Tag;
use s3stream::RecordHead;

use super::checkpoint::{self, Derived, PartitionCheckpoint};
use super::high_watermark::HighWatermark;
use super::leader_epochs::LeaderEpochs;
use super::producer_state::{Judgement, ProducerStates, SequenceError, Sequenced};
use super::read::Isolation;
use super::transactions::Transactions;
use super::verification::{TransactionError, VerificationGuard, Verifications};
use super::waiters::Waiters;

/// Bytes after which a checkpoint is due whatever it costs.
pub(crate) const CHECKPOINT_INTERVAL_BYTES: u64 = 8 << 20;
/// Bytes before which none is worth a record of its own in the log.
const CHECKPOINT_MIN_BYTES: u64 = 64 << 10;

/// What this broker still does for a partition that it led: with each step less, and the last is for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leadership {
    /// Everything.
    Full,
    /// It is being moved to another broker: nothing is appended meanwhile.
    Parked,
    /// Metadata was asked to give it to another broker, and this one does not know yet whether it did: nothing is read either.
    Leaving,
    /// None any more.
    Ended,
}

/// See the module.
pub(crate) struct PartitionState {
    /// First offset that exists (inclusive).
    pub(crate) log_start: i64,
    /// Next offset to be given out.
    pub(crate) log_end: i64,
    pub(crate) watermark: HighWatermark,
    pub(crate) epochs: LeaderEpochs,
    pub(crate) producers: ProducerStates,
    /// Open in here are exactly the transactions that are open in `producers`.
    pub(crate) transactions: Transactions,
    pub(crate) verifications: Verifications,
    pub(crate) waiters: Waiters,
    /// Bytes appended since the newest checkpoint.
    pub(crate) bytes_since_checkpoint: u64,
    /// What the coordinator has put into the newest checkpoint, and the offset it describes.
    pub(crate) coordinator: Option<(Offset, Bytes)>,
    pub(crate) leadership: Leadership,
}

impl PartitionState {
    /// The state as a checkpoint describes it; an empty one for a stream without.
    pub(crate) fn restored(checkpoint: PartitionCheckpoint, log_start: i64) -> Self {
        let PartitionCheckpoint { offset, epochs, producers, transactions, coordinator, .. } = checkpoint;
        Self {
            log_start,
            log_end: offset.max(log_start),
            watermark: HighWatermark::at(offset),
            epochs,
            producers,
            transactions,
            verifications: Verifications::default(),
            waiters: Waiters::default(),
            bytes_since_checkpoint: 0,
            coordinator: coordinator.map(|blob| (Offset(offset), blob)),
            leadership: Leadership::Full,
        }
    }

    /// Takes a step in leadership, to the end or back, unless it has ended.
    pub(crate) fn turn(&mut self, leadership: Leadership) {
        if self.leadership != Leadership::Ended {
            self.leadership = leadership;
        }
    }

    /// Ends leadership, and wakes whoever waits for data. Idempotent.
    pub(crate) fn end(&mut self) {
        self.turn(Leadership::Ended);
        self.waiters.closed();
    }

    /// Applies a record that was appended by an earlier opening.
    pub(crate) fn replay(&mut self, head: &RecordHead, now_ms: i64) {
        let tag = Tag::decode(&head.tag);
        self.apply(&tag, head.base_offset.0, head.next_offset.0, head.max_timestamp_ms, head.len, now_ms);
    }

    /// Everything below the log's end was recovered: this opening leads from there on under `leader_epoch`.
    pub(crate) fn lead(&mut self, leader_epoch: i32, log_end: i64) {
        self.log_end = log_end.max(self.log_start);
        self.watermark = HighWatermark::at(self.log_end);
        self.epochs.assign(leader_epoch, self.log_end);
        self.epochs.truncate_front(self.log_start);
        self.transactions.truncate_front(self.log_start);
        self.transactions.durable(self.log_end);
    }

    /// The high watermark, where the log is durable up to `durable`.
    pub(crate) fn follow(&mut self, durable: Lsn) -> i64 {
        let high_watermark = self.watermark.follow(durable);
        self.transactions.durable(high_watermark);
        high_watermark
    }

    /// High watermark and last stable offset: rule stable-below-open. What is below the log start is stable.
    pub(crate) fn follow_stable(&mut self, durable: Lsn) -> (i64, i64) {
        let high_watermark = self.follow(durable);
        let Some(first) = self.transactions.first_unstable() else { return (high_watermark, high_watermark) };
        let last_stable = first.max(self.log_start).min(high_watermark);
        debug_assert!(
            self.transactions.first_open().is_none_or(|open| last_stable <= open.max(self.log_start)),
            "stable-below-open"
        );
        (high_watermark, last_stable)
    }

    /// The last stable offset as it will be when all that was appended is durable, unless more is appended.
    fn stable_when_durable(&self) -> i64 {
        self.transactions.first_open().map_or(self.log_end, |first| first.max(self.log_start).min(self.log_end))
    }

    /// The durable position that makes the record at `offset` readable; `None` when it is readable, or that takes another
    /// append (of a record, or of the marker that ends a transaction).
    pub(crate) fn readable_at(&self, offset: i64, isolation: Isolation) -> Option<Lsn> {
        match isolation {
            Isolation::ReadUncommitted => self.watermark.lsn_of(offset),
            Isolation::ReadCommitted if self.stable_when_durable() <= offset => None,
            Isolation::ReadCommitted => {
                self.watermark.lsn_of(self.transactions.marker_holding(offset).unwrap_or(offset))
            }
        }
    }

    /// Judges a transactional batch: rule guard-or-open. Kafka's order: duplicates, then epochs, then whether the
    /// transaction is known here or verified, then sequences.
    pub(crate) fn judge_transactional(
        &self,
        batch: &Sequenced,
        guard: Option<VerificationGuard>,
    ) -> Result<Judgement, TransactionError> {
        let judged = self.producers.judge(batch);
        if matches!(judged, Ok(Judgement::Duplicate(_)) | Err(SequenceError::StaleEpoch { .. })) {
            return judged.map_err(TransactionError::from);
        }
        let entry = self.producers.get(batch.producer_id);
        let open = entry.filter(|entry| entry.open_since().is_some());
        if open.is_none_or(|entry| entry.epoch != batch.producer_epoch) {
            let is_unknown = entry.is_none_or(|entry| entry.batches.is_empty());
            self.verifications.check(batch, guard, is_unknown)?;
        }
        if open.is_none() && self.transactions.is_full() {
            return Err(TransactionError::TooMany);
        }
        judged.map_err(TransactionError::from)
    }

    /// Takes an append over that the log has accepted; it is durable at `lsn`.
    pub(crate) fn appended(
        &mut self,
        tag: &Tag,
        next_offset: i64,
        timestamp_ms: i64,
        bytes: u32,
        lsn: Lsn,
        now_ms: i64,
    ) {
        let stable_before = self.stable_when_durable();
        self.apply(tag, self.log_end, next_offset, timestamp_ms, bytes, now_ms);
        if tag.attributes.is_transactional() {
            // Rule no-guard-outlives-a-marker, and one guard begins one transaction.
            self.verifications.clear(tag.producer_id);
        }
        self.watermark.push(lsn, next_offset);
        self.waiters.appended(lsn);
        if self.stable_when_durable() > stable_before {
            self.waiters.stabilized(lsn);
        }
    }

    /// The part that live appends and replay share, so that both end in the same state.
    fn apply(&mut self, tag: &Tag, base_offset: i64, next_offset: i64, timestamp_ms: i64, bytes: u32, now_ms: i64) {
        self.epochs.assign(tag.leader_epoch, base_offset);
        if tag.producer_id >= 0 {
            self.apply_producer(tag, base_offset, next_offset, timestamp_ms, now_ms);
        }
        self.log_end = next_offset;
        self.bytes_since_checkpoint += u64::from(bytes);
    }

    fn apply_producer(&mut self, tag: &Tag, base_offset: i64, next_offset: i64, timestamp_ms: i64, now_ms: i64) {
        let Tag { producer_id, producer_epoch, attributes, .. } = *tag;
        if attributes.is_control() {
            let Some(marker) = tag.marker() else { return };
            let ended = self.producers.record_marker(producer_id, producer_epoch, marker, base_offset, now_ms);
            if let Some(first_offset) = ended {
                self.transactions.end(producer_id, first_offset, base_offset, marker.commit);
            }
            return;
        }
        // A batch the cleaner shortened keeps its offsets, so the span counts and not the number of records.
        let last_offset_delta = i32::try_from(next_offset - base_offset - 1).unwrap_or(i32::MAX);
        self.producers.record(&sequenced(tag, last_offset_delta), base_offset, timestamp_ms, now_ms);
        if attributes.is_transactional() && self.producers.begin_transaction(producer_id, base_offset) {
            self.transactions.begin(producer_id, base_offset);
        }
    }

    /// The first offset moved up.
    pub(crate) fn trimmed(&mut self, log_start: i64) {
        if log_start > self.log_start {
            let stable_before = self.stable_when_durable();
            self.log_start = log_start;
            self.epochs.truncate_front(log_start);
            self.transactions.truncate_front(log_start);
            if self.stable_when_durable() > stable_before {
                self.waiters.stable_now();
            }
        }
    }

    /// Whether a checkpoint is due: it costs at most a tenth of what was appended since the last, or that is
    /// 8 MiB.
    pub(crate) fn checkpoint_due(&self) -> bool {
        let bytes = self.bytes_since_checkpoint;
        if bytes < CHECKPOINT_MIN_BYTES {
            return false;
        }
        let cost = checkpoint::encoded_len(self.derived(), None) as u64;
        bytes >= CHECKPOINT_INTERVAL_BYTES.max(cost) || bytes >= cost * 10
    }

    /// The state as a checkpoint at the log's end.
    pub(crate) fn checkpoint(&self, coordinator: Option<&[u8]>) -> Vec<u8> {
        checkpoint::encode(self.log_end, self.log_start, self.derived(), coordinator)
    }

    fn derived(&self) -> Derived<'_> {
        Derived { epochs: &self.epochs, producers: &self.producers, transactions: &self.transactions }
    }

    /// The durable position at which the record at `offset` is readable; the lowest if it is already.
    pub(crate) fn durable_at(&self, offset: i64) -> Lsn {
        self.watermark.lsn_of(offset).unwrap_or(Lsn(0))
    }
}

/// What `tag` says of its producer.
pub(crate) fn sequenced(tag: &Tag, last_offset_delta: i32) -> Sequenced {
    let Tag { producer_id, producer_epoch, base_sequence, attributes, .. } = *tag;
    let transactional = attributes.is_transactional();
    Sequenced { producer_id, producer_epoch, base_sequence, last_offset_delta, transactional }
}
