//! The checkpoint format: a partition's derived state, as it follows from all records below an offset.
//!
//! All numbers are big-endian.
//!
//! ```text
//! offset size
//!      0    4  magic "OPCK"
//!      4    2  version, 1
//!      6    2  sections that follow
//!      8    4  CRC-32C of everything from byte 12 on
//!     12    8  offset that the state describes (exclusive end of what it covers)
//!     20    8  log start offset
//!     28       sections, each: tag (2), length of its body (4), body
//!
//! section 1  leader epochs, oldest first: epoch (4), start offset (8)
//! section 2  producers by ascending id: producer id (8), epoch (2), wall time of the last write (8),
//!            cached batches (1, at most 5), oldest first: last sequence (4), offset delta (4),
//!            last offset (8), timestamp (8)
//! section 3  what the group or transaction coordinator gave: opaque here
//! section 4  what section 2's producers did in transactions, by ascending id, those alone that did anything:
//!            producer id (8), epoch of the last coordinator (4, -1 for none), last transaction (1): 0 none,
//!            1 open, 2 aborted, 3 committed, and its offset (8): -1, the first, the marker's, the marker's
//! section 5  aborted transactions by ascending marker: producer id (8), first offset (8), marker's offset (8),
//!            last stable offset when it ended (8)
//! ```
//!
//! Transactions that have ended need no more than that, because a checkpoint that is read is durable, and so are the
//! markers below it.
//!
//! Tags with the highest bit set may be skipped by a reader that does not know them; any other unknown tag
//! means that state would be lost, and is an error. Sections are left out when empty. The record around
//! it (log, object) has a checksum as well; this one covers the way from encoder to decoder.

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::leader_epochs::{EpochStart, LeaderEpochs};
use super::producer_state::{
    BATCHES_CACHED, CachedBatch, LastTransaction, NO_COORDINATOR_EPOCH, ProducerEntry, ProducerStates,
};
use super::transactions::{AbortedTransaction, Transactions};

const MAGIC: [u8; 4] = *b"OPCK";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 28;
const CHECKED_FROM: usize = 12;
const SECTION_HEADER_BYTES: usize = 6;
const EPOCH_BYTES: usize = 12;
const PRODUCER_BYTES: usize = 19;
const BATCH_BYTES: usize = 24;
const TRANSACTION_BYTES: usize = 21;
const ABORTED_BYTES: usize = 32;

const LEADER_EPOCHS: u16 = 1;
const PRODUCERS: u16 = 2;
const COORDINATOR: u16 = 3;
const TRANSACTIONS: u16 = 4;
const ABORTED: u16 = 5;
const SKIPPABLE: u16 = 0x8000;

/// What a checkpoint holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartitionCheckpoint {
    /// Exclusive end of what it covers.
    pub(crate) offset: i64,
    /// First offset that existed then.
    pub(crate) log_start: i64,
    pub(crate) epochs: LeaderEpochs,
    pub(crate) producers: ProducerStates,
    pub(crate) transactions: Transactions,
    /// The coordinator's part, if one owns the partition.
    pub(crate) coordinator: Option<Bytes>,
}

/// Why bytes are no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Ends early, or a count or length exceeds what is there.
    #[error("the checkpoint is cut off")]
    Truncated,
    /// Not a checkpoint.
    #[error("the checkpoint does not start with its magic bytes")]
    Magic,
    /// Written by a later Ottla.
    #[error("checkpoint version {0} is not known")]
    Version(u16),
    /// Damaged.
    #[error("the checkpoint's checksum does not match")]
    Checksum,
    /// Holds state this Ottla would lose.
    #[error("checkpoint section {0} is not known")]
    Section(u16),
    /// Contents contradict each other.
    #[error("the checkpoint is invalid: {0}")]
    Invalid(&'static str),
}

/// What follows from a partition's records, as [`encode`] takes it.
#[derive(Clone, Copy)]
pub(crate) struct Derived<'a> {
    pub(crate) epochs: &'a LeaderEpochs,
    pub(crate) producers: &'a ProducerStates,
    /// Those that are open stand in `producers` as well, and are written from there.
    pub(crate) transactions: &'a Transactions,
}

/// Bytes that [`encode`] produces for this state.
pub(crate) fn encoded_len(state: Derived<'_>, coordinator: Option<&[u8]>) -> usize {
    let section = |body: usize, present: bool| if present { SECTION_HEADER_BYTES + body } else { 0 };
    let (epochs, count) = (state.epochs.entries().len(), state.producers.len());
    let (transactional, aborted) = (state.producers.transactional(), state.transactions.aborted().len());
    HEADER_BYTES
        + section(epochs * EPOCH_BYTES, epochs > 0)
        + section(count * PRODUCER_BYTES + state.producers.batches() * BATCH_BYTES, count > 0)
        + section(coordinator.map_or(0, <[u8]>::len), coordinator.is_some())
        + section(transactional * TRANSACTION_BYTES, transactional > 0)
        + section(aborted * ABORTED_BYTES, aborted > 0)
}

/// Encodes the state below `offset`.
pub(crate) fn encode(offset: i64, log_start: i64, state: Derived<'_>, coordinator: Option<&[u8]>) -> Vec<u8> {
    let Derived { epochs, producers, transactions } = state;
    let mut out = Vec::with_capacity(encoded_len(state, coordinator));
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&log_start.to_be_bytes());
    let mut sections = 0_u16;
    if !epochs.entries().is_empty() {
        sections += 1;
        section(&mut out, LEADER_EPOCHS, epochs.entries().len() * EPOCH_BYTES);
        for entry in epochs.entries() {
            out.extend_from_slice(&entry.epoch.to_be_bytes());
            out.extend_from_slice(&entry.start.to_be_bytes());
        }
    }
    if producers.len() > 0 {
        sections += 1;
        section(&mut out, PRODUCERS, producers.len() * PRODUCER_BYTES + producers.batches() * BATCH_BYTES);
        producers.iter().for_each(|(id, entry)| put_producer(&mut out, id, entry));
    }
    if let Some(blob) = coordinator {
        sections += 1;
        section(&mut out, COORDINATOR, blob.len());
        out.extend_from_slice(blob);
    }
    if producers.transactional() > 0 {
        sections += 1;
        section(&mut out, TRANSACTIONS, producers.transactional() * TRANSACTION_BYTES);
        let transactional = producers.iter().filter(|(_, entry)| entry.is_transactional());
        transactional.for_each(|(id, entry)| put_transaction(&mut out, id, entry));
    }
    if !transactions.aborted().is_empty() {
        sections += 1;
        section(&mut out, ABORTED, transactions.aborted().len() * ABORTED_BYTES);
        for aborted in transactions.aborted() {
            out.extend_from_slice(&aborted.producer_id.to_be_bytes());
            out.extend_from_slice(&aborted.first_offset.to_be_bytes());
            out.extend_from_slice(&aborted.marker_offset.to_be_bytes());
            out.extend_from_slice(&aborted.last_stable_offset.to_be_bytes());
        }
    }
    out[6..8].copy_from_slice(&sections.to_be_bytes());
    let crc = crc32c(&out[CHECKED_FROM..]);
    out[8..CHECKED_FROM].copy_from_slice(&crc.to_be_bytes());
    out
}

fn section(out: &mut Vec<u8>, tag: u16, length: usize) {
    out.extend_from_slice(&tag.to_be_bytes());
    let length = u32::try_from(length).expect("what is remembered is bounded, a coordinator's part fits a WAL record");
    out.extend_from_slice(&length.to_be_bytes());
}

fn put_producer(out: &mut Vec<u8>, id: i64, entry: &ProducerEntry) {
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&entry.epoch.to_be_bytes());
    out.extend_from_slice(&entry.last_write_ms.to_be_bytes());
    out.push(entry.batches.len() as u8);
    for batch in &entry.batches {
        out.extend_from_slice(&batch.last_sequence.to_be_bytes());
        out.extend_from_slice(&batch.offset_delta.to_be_bytes());
        out.extend_from_slice(&batch.last_offset.to_be_bytes());
        out.extend_from_slice(&batch.timestamp_ms.to_be_bytes());
    }
}

fn put_transaction(out: &mut Vec<u8>, id: i64, entry: &ProducerEntry) {
    let (kind, offset) = match entry.transaction {
        LastTransaction::None => (0, -1),
        LastTransaction::Open { first_offset } => (1, first_offset),
        LastTransaction::Ended { commit, marker_offset } => (2 + u8::from(commit), marker_offset),
    };
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(&offset.to_be_bytes());
}

/// Decodes and checks.
pub(crate) fn decode(payload: &Bytes) -> Result<PartitionCheckpoint, CheckpointError> {
    let mut rest = payload.clone();
    if rest.len() < HEADER_BYTES {
        return Err(CheckpointError::Truncated);
    }
    if rest[..4] != MAGIC {
        return Err(CheckpointError::Magic);
    }
    rest.advance(4);
    match rest.get_u16() {
        VERSION => {}
        version => return Err(CheckpointError::Version(version)),
    }
    let sections = rest.get_u16();
    if rest.get_u32() != crc32c(&rest) {
        return Err(CheckpointError::Checksum);
    }
    let mut checkpoint =
        PartitionCheckpoint { offset: rest.get_i64(), log_start: rest.get_i64(), ..PartitionCheckpoint::default() };
    for _ in 0..sections {
        read_section(&mut rest, &mut checkpoint)?;
    }
    restore_open(&mut checkpoint)?;
    if !rest.is_empty() {
        return Err(CheckpointError::Invalid("bytes follow the last section"));
    }
    if checkpoint.log_start < 0 || checkpoint.log_start > checkpoint.offset {
        return Err(CheckpointError::Invalid("the log starts beyond its end"));
    }
    Ok(checkpoint)
}

/// Orders the transactions that are open by their first offsets.
fn restore_open(checkpoint: &mut PartitionCheckpoint) -> Result<(), CheckpointError> {
    let PartitionCheckpoint { offset, producers, transactions, .. } = checkpoint;
    for (id, entry) in producers.iter() {
        let Some(first_offset) = entry.open_since() else { continue };
        if transactions.aborted().back().is_some_and(|last| !last.precedes(first_offset, *offset)) {
            return Err(CheckpointError::Invalid("a transaction was open and not counted as such"));
        }
        if !transactions.restore_open(id, first_offset) {
            return Err(CheckpointError::Invalid("two transactions begin with the same record"));
        }
    }
    Ok(())
}

fn read_section(rest: &mut Bytes, checkpoint: &mut PartitionCheckpoint) -> Result<(), CheckpointError> {
    if rest.len() < SECTION_HEADER_BYTES {
        return Err(CheckpointError::Truncated);
    }
    let (tag, length) = (rest.get_u16(), rest.get_u32() as usize);
    if rest.len() < length {
        return Err(CheckpointError::Truncated);
    }
    let body = rest.split_to(length);
    match tag {
        LEADER_EPOCHS => read_epochs(body, &mut checkpoint.epochs),
        PRODUCERS => read_producers(body, &mut checkpoint.producers),
        COORDINATOR => {
            checkpoint.coordinator = Some(body);
            Ok(())
        }
        TRANSACTIONS => read_transactions(body, checkpoint),
        ABORTED => read_aborted(body, checkpoint),
        tag if tag & SKIPPABLE != 0 => Ok(()),
        tag => Err(CheckpointError::Section(tag)),
    }
}

fn read_epochs(mut body: Bytes, epochs: &mut LeaderEpochs) -> Result<(), CheckpointError> {
    if !body.len().is_multiple_of(EPOCH_BYTES) {
        return Err(CheckpointError::Truncated);
    }
    let mut last: Option<EpochStart> = None;
    while body.has_remaining() {
        let entry = EpochStart { epoch: body.get_i32(), start: body.get_i64() };
        if last.is_some_and(|last| last.epoch >= entry.epoch || last.start >= entry.start) {
            return Err(CheckpointError::Invalid("leader epochs do not ascend"));
        }
        epochs.assign(entry.epoch, entry.start);
        last = Some(entry);
    }
    Ok(())
}

fn read_producers(mut body: Bytes, producers: &mut ProducerStates) -> Result<(), CheckpointError> {
    while body.has_remaining() {
        if body.len() < PRODUCER_BYTES {
            return Err(CheckpointError::Truncated);
        }
        let (id, epoch, last_write_ms) = (body.get_i64(), body.get_i16(), body.get_i64());
        let count = usize::from(body.get_u8());
        if count > BATCHES_CACHED {
            return Err(CheckpointError::Invalid("a producer has more than five batches"));
        }
        if body.len() < count * BATCH_BYTES {
            return Err(CheckpointError::Truncated);
        }
        let mut batches = SmallVec::with_capacity(count);
        for _ in 0..count {
            batches.push(CachedBatch {
                last_sequence: body.get_i32(),
                offset_delta: body.get_i32(),
                last_offset: body.get_i64(),
                timestamp_ms: body.get_i64(),
            });
        }
        if producers.len() >= ProducerStates::LIMIT {
            return Err(CheckpointError::Invalid("too many producers"));
        }
        let (coordinator_epoch, transaction) = (NO_COORDINATOR_EPOCH, LastTransaction::None);
        producers.restore(id, ProducerEntry { epoch, batches, last_write_ms, coordinator_epoch, transaction });
    }
    Ok(())
}

fn read_transactions(mut body: Bytes, checkpoint: &mut PartitionCheckpoint) -> Result<(), CheckpointError> {
    if !body.len().is_multiple_of(TRANSACTION_BYTES) {
        return Err(CheckpointError::Truncated);
    }
    let mut last = None;
    while body.has_remaining() {
        let (id, coordinator_epoch, kind, offset) = (body.get_i64(), body.get_i32(), body.get_u8(), body.get_i64());
        if last.replace(id).is_some_and(|last| last >= id) {
            return Err(CheckpointError::Invalid("producers with transactions do not ascend"));
        }
        if kind != 0 && !(0..checkpoint.offset).contains(&offset) {
            return Err(CheckpointError::Invalid("a transaction lies outside of the log"));
        }
        let transaction = match kind {
            0 => LastTransaction::None,
            1 => LastTransaction::Open { first_offset: offset },
            2 | 3 => LastTransaction::Ended { commit: kind == 3, marker_offset: offset },
            _ => return Err(CheckpointError::Invalid("a transaction in an unknown state")),
        };
        if !checkpoint.producers.restore_transaction(id, coordinator_epoch, transaction) {
            return Err(CheckpointError::Invalid("a transaction of an unknown producer"));
        }
    }
    Ok(())
}

fn read_aborted(mut body: Bytes, checkpoint: &mut PartitionCheckpoint) -> Result<(), CheckpointError> {
    if !body.len().is_multiple_of(ABORTED_BYTES) {
        return Err(CheckpointError::Truncated);
    }
    if checkpoint.transactions.aborted().len() + body.len() / ABORTED_BYTES > Transactions::ABORTED_MAX {
        return Err(CheckpointError::Invalid("too many aborted transactions"));
    }
    while body.has_remaining() {
        let aborted = AbortedTransaction {
            producer_id: body.get_i64(),
            first_offset: body.get_i64(),
            marker_offset: body.get_i64(),
            last_stable_offset: body.get_i64(),
        };
        let AbortedTransaction { first_offset, marker_offset, last_stable_offset, .. } = aborted;
        let inside = 0 <= first_offset && first_offset < marker_offset && marker_offset < checkpoint.offset;
        if !inside || !(0..=marker_offset + 1).contains(&last_stable_offset) {
            return Err(CheckpointError::Invalid("an aborted transaction contradicts itself"));
        }
        let last = checkpoint.transactions.aborted().back();
        if last.is_some_and(|last| !last.precedes(first_offset, marker_offset)) {
            return Err(CheckpointError::Invalid("aborted transactions do not ascend"));
        }
        checkpoint.transactions.restore_aborted(aborted);
    }
    Ok(())
}

fn crc32c(bytes: &[u8]) -> u32 {
    // A 32-bit algorithm: the upper half is always zero.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests;
