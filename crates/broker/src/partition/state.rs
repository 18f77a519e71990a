//! What changes in a partition, all of it under one lock, and without I/O: offsets, epochs, producers.

use bytes::Bytes;
use common::{Lsn, Offset};
use protocol::batch::Tag;
use s3stream::RecordHead;

use super::checkpoint::{self, PartitionCheckpoint};
use super::high_watermark::HighWatermark;
use super::leader_epochs::LeaderEpochs;
use super::producer_state::{ProducerStates, Sequenced};
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
        let PartitionCheckpoint { offset, epochs, producers, coordinator, .. } = checkpoint;
        Self {
            log_start,
            log_end: offset.max(log_start),
            watermark: HighWatermark::at(offset),
            epochs,
            producers,
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
        self.apply(tag, self.log_end, next_offset, timestamp_ms, bytes, now_ms);
        self.watermark.push(lsn, next_offset);
        self.waiters.appended(lsn);
    }

    /// The part that live appends and replay share, so that both end in the same state.
    fn apply(&mut self, tag: &Tag, base_offset: i64, next_offset: i64, timestamp_ms: i64, bytes: u32, now_ms: i64) {
        self.epochs.assign(tag.leader_epoch, base_offset);
        if tag.producer_id >= 0 && tag.attributes.is_control() {
            self.producers.record_control(tag.producer_id, tag.producer_epoch, now_ms);
        } else if tag.producer_id >= 0 {
            // A batch the cleaner shortened keeps its offsets, so the span counts and not the number of records.
            let last_offset_delta = i32::try_from(next_offset - base_offset - 1).unwrap_or(i32::MAX);
            self.producers.record(&sequenced(tag, last_offset_delta), base_offset, timestamp_ms, now_ms);
        }
        self.log_end = next_offset;
        self.bytes_since_checkpoint += u64::from(bytes);
    }

    /// The first offset moved up.
    pub(crate) fn trimmed(&mut self, log_start: i64) {
        if log_start > self.log_start {
            self.log_start = log_start;
            self.epochs.truncate_front(log_start);
        }
    }

    /// Whether a checkpoint is due: it costs at most a tenth of what was appended since the last, or that is
    /// 8 MiB.
    pub(crate) fn checkpoint_due(&self) -> bool {
        let bytes = self.bytes_since_checkpoint;
        if bytes < CHECKPOINT_MIN_BYTES {
            return false;
        }
        let cost = checkpoint::encoded_len(&self.epochs, &self.producers, None) as u64;
        bytes >= CHECKPOINT_INTERVAL_BYTES.max(cost) || bytes >= cost * 10
    }

    /// The state as a checkpoint at the log's end.
    pub(crate) fn checkpoint(&self, coordinator: Option<&[u8]>) -> Vec<u8> {
        checkpoint::encode(self.log_end, self.log_start, &self.epochs, &self.producers, coordinator)
    }

    /// The durable position at which the record at `offset` is readable; the lowest if it is already.
    pub(crate) fn durable_at(&self, offset: i64) -> Lsn {
        self.watermark.lsn_of(offset).unwrap_or(Lsn(0))
    }
}

/// What `tag` says of its producer.
pub(crate) fn sequenced(tag: &Tag, last_offset_delta: i32) -> Sequenced {
    let Tag { producer_id, producer_epoch, base_sequence, .. } = *tag;
    Sequenced { producer_id, producer_epoch, base_sequence, last_offset_delta }
}
