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
//! section 4  reserved: open transactions
//! section 5  reserved: aborted transactions
//! ```
//!
//! Tags with the highest bit set may be skipped by a reader that does not know them; any other unknown tag
//! means that state would be lost, and is an error. Sections 1 and 2 are left out when empty. The record around
//! it (log, object) has a checksum as well; this one covers the way from encoder to decoder.

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::leader_epochs::{EpochStart, LeaderEpochs};
use super::producer_state::{BATCHES_CACHED, CachedBatch, ProducerEntry, ProducerStates};

const MAGIC: [u8; 4] = *b"OPCK";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 28;
const CHECKED_FROM: usize = 12;
const SECTION_HEADER_BYTES: usize = 6;
const EPOCH_BYTES: usize = 12;
const PRODUCER_BYTES: usize = 19;
const BATCH_BYTES: usize = 24;

const LEADER_EPOCHS: u16 = 1;
const PRODUCERS: u16 = 2;
const COORDINATOR: u16 = 3;
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

/// Bytes that [`encode`] produces for this state.
pub(crate) fn encoded_len(epochs: &LeaderEpochs, producers: &ProducerStates, coordinator: Option<&[u8]>) -> usize {
    let section = |body: usize, present: bool| if present { SECTION_HEADER_BYTES + body } else { 0 };
    let (epochs, count) = (epochs.entries().len(), producers.len());
    HEADER_BYTES
        + section(epochs * EPOCH_BYTES, epochs > 0)
        + section(count * PRODUCER_BYTES + producers.batches() * BATCH_BYTES, count > 0)
        + section(coordinator.map_or(0, <[u8]>::len), coordinator.is_some())
}

/// Encodes the state below `offset`.
pub(crate) fn encode(
    offset: i64,
    log_start: i64,
    epochs: &LeaderEpochs,
    producers: &ProducerStates,
    coordinator: Option<&[u8]>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_len(epochs, producers, coordinator));
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
    out[6..8].copy_from_slice(&sections.to_be_bytes());
    let crc = crc32c(&out[CHECKED_FROM..]);
    out[8..CHECKED_FROM].copy_from_slice(&crc.to_be_bytes());
    out
}

fn section(out: &mut Vec<u8>, tag: u16, length: usize) {
    out.extend_from_slice(&tag.to_be_bytes());
    let length =
        u32::try_from(length).expect("producers and epochs are bounded, a coordinator's part fits a WAL record");
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
    if !rest.is_empty() {
        return Err(CheckpointError::Invalid("bytes follow the last section"));
    }
    if checkpoint.log_start < 0 || checkpoint.log_start > checkpoint.offset {
        return Err(CheckpointError::Invalid("the log starts beyond its end"));
    }
    Ok(checkpoint)
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
        producers.restore(id, ProducerEntry { epoch, batches, last_write_ms });
    }
    Ok(())
}

fn crc32c(bytes: &[u8]) -> u32 {
    // A 32-bit algorithm: the upper half is always zero.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::producer_state::Sequenced;

    fn state() -> (LeaderEpochs, ProducerStates) {
        let (mut epochs, mut producers) = (LeaderEpochs::default(), ProducerStates::default());
        epochs.assign(3, 0);
        epochs.assign(4, 70);
        let batch = |producer_id, base_sequence| Sequenced {
            producer_id,
            producer_epoch: 1,
            base_sequence,
            last_offset_delta: 1,
        };
        for index in 0..6 {
            producers.record(&batch(9, index * 2), 80 + i64::from(index) * 2, 1_000, 2_000);
        }
        producers.record(&batch(7, i32::MAX), 92, -1, 2_001);
        (epochs, producers)
    }

    fn encoded(coordinator: Option<&[u8]>) -> Bytes {
        let (epochs, producers) = state();
        Bytes::from(encode(94, 5, &epochs, &producers, coordinator))
    }

    #[test]
    fn golden_bytes() {
        let (mut epochs, mut producers) = (LeaderEpochs::default(), ProducerStates::default());
        epochs.assign(3, 7);
        let batch = Sequenced { producer_id: 9, producer_epoch: 1, base_sequence: 4, last_offset_delta: 1 };
        producers.record(&batch, 16, 33, 44);
        let bytes = encode(18, 7, &epochs, &producers, Some(b"xy"));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let body = concat!(
            "0000000000000012",
            "0000000000000007",
            "0001",
            "0000000c",
            "00000003",
            "0000000000000007",
            "0002",
            "0000002b",
            "0000000000000009",
            "0001",
            "000000000000002c",
            "01",
            "00000005",
            "00000001",
            "0000000000000011",
            "0000000000000021",
            "0003",
            "00000002",
            "7879"
        );
        assert_eq!(hex, format!("4f50434b{}{}{}{body}", "0001", "0003", "ea36a10c"));
    }

    #[test]
    fn round_trip_and_length() {
        for coordinator in [None, Some(&b""[..]), Some(b"groups")] {
            let (epochs, producers) = state();
            let bytes = encoded(coordinator);
            assert_eq!(bytes.len(), encoded_len(&epochs, &producers, coordinator));
            let coordinator = coordinator.map(Bytes::from_static);
            let expected = PartitionCheckpoint { offset: 94, log_start: 5, epochs, producers, coordinator };
            assert_eq!(decode(&bytes), Ok(expected));
        }
        let empty = encode(0, 0, &LeaderEpochs::default(), &ProducerStates::default(), None);
        assert_eq!(decode(&Bytes::from(empty)), Ok(PartitionCheckpoint::default()));
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_refused() {
        let good = encoded(Some(b"groups"));
        for length in 0..good.len() {
            assert!(decode(&good.slice(..length)).is_err(), "cut at {length}");
        }
        for index in 0..good.len() {
            let mut bad = good.to_vec();
            bad[index] ^= 0x20;
            assert!(decode(&Bytes::from(bad)).is_err(), "byte {index}");
        }
    }

    /// Damage that a matching checksum hides, as a hostile or faulty writer could make it.
    #[test]
    fn hostile_contents_are_refused_without_large_allocations() {
        let good = encoded(None);
        let resealed = |index: usize, bytes: &[u8]| {
            let mut bad = good.to_vec();
            bad[index..index + bytes.len()].copy_from_slice(bytes);
            let crc = crc32c(&bad[CHECKED_FROM..]);
            bad[8..12].copy_from_slice(&crc.to_be_bytes());
            decode(&Bytes::from(bad))
        };
        assert_eq!(resealed(30, &u32::MAX.to_be_bytes()), Err(CheckpointError::Truncated));
        assert_eq!(resealed(28, &9_u16.to_be_bytes()), Err(CheckpointError::Section(9)));
        assert!(
            resealed(28, &0x8009_u16.to_be_bytes())
                .is_ok_and(|checkpoint| checkpoint.epochs == LeaderEpochs::default())
        );
        assert_eq!(resealed(20, &95_i64.to_be_bytes()), Err(CheckpointError::Invalid("the log starts beyond its end")));
        assert!(matches!(resealed(34, &9_i32.to_be_bytes()), Err(CheckpointError::Invalid(_))));
        let first_count = 28 + 6 + 24 + 6 + 18;
        assert!(matches!(resealed(first_count, &[6]), Err(CheckpointError::Invalid(_))));
        assert!(resealed(first_count, &[4]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn random_sections_never_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200), sections in 0_u16..4) {
            let mut bytes = [&MAGIC[..], &VERSION.to_be_bytes(), &sections.to_be_bytes(), &[0; 4], &[0; 16], &body].concat();
            let crc = crc32c(&bytes[CHECKED_FROM..]);
            bytes[8..12].copy_from_slice(&crc.to_be_bytes());
            let _ = decode(&Bytes::from(bytes));
        }
    }
}
