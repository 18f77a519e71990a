//! Record batches of format v2 (`magic` 2) in place: views over the bytes a client sent, without copying.
//!
//! Header, big-endian, 61 bytes: base offset i64 @0 · length i32 @8 (of what follows) · leader epoch
//! i32 @12 · magic i8 @16 · CRC-32C u32 @17 (of byte 21 to the end) · attributes i16 @21 · last offset
//! delta i32 @23 · base timestamp i64 @27 · max timestamp i64 @35 · producer id i64 @43 · producer epoch
//! i16 @51 · base sequence i32 @53 · record count i32 @57. Base offset and leader epoch lie outside the
//! checksum, so that the broker can set them without touching it.

mod blocks;
pub mod builder;
pub mod codec;
pub mod control;
mod lz4;
pub mod records;
mod snappy;
pub mod stream;
pub mod tag;
pub mod validate;
mod varint;

#[cfg(test)]
mod tests;

pub use builder::{BatchBuilder, rebuild};
pub use codec::{Codec, CodecError};
pub use control::{ControlError, EndTransactionMarker};
pub use records::{Record, find_max_timestamp, find_timestamp, for_each_record};
pub use tag::{TAG_LEN, Tag};
pub use validate::{Invalid, RecordError, Rules, Validated, validate};

/// Bytes of the header.
pub const HEADER_LEN: usize = 61;
/// Bytes before the part that the length field counts: base offset and the length itself.
pub const LOG_OVERHEAD: usize = 12;
/// The only record format that is stored.
pub const MAGIC_V2: i8 = 2;
/// "No timestamp" in records and headers.
pub const NO_TIMESTAMP: i64 = -1;
/// "No producer id" in headers.
pub const NO_PRODUCER_ID: i64 = -1;

const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const RECORD_COUNT_AT: usize = 57;

/// Attribute bits of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC: i16 = 0b111;
    const LOG_APPEND_TIME: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;

    /// The codec of the records, `None` for an id that does not exist.
    #[must_use]
    pub fn codec(self) -> Option<Codec> {
        Codec::from_id(self.0 & Self::CODEC)
    }

    /// Whether timestamps are those of the append (`LogAppendTime`), not the producer's.
    #[must_use]
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records (transaction markers).
    #[must_use]
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is a delete horizon, set by the log cleaner.
    #[must_use]
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    /// The same with this codec.
    #[must_use]
    pub fn with_codec(self, codec: Codec) -> Self {
        Self(self.0 & !Self::CODEC | codec.id())
    }

    /// The same with the timestamp type set to `LogAppendTime` or `CreateTime`.
    #[must_use]
    pub fn with_log_append_time(self, yes: bool) -> Self {
        Self(if yes { self.0 | Self::LOG_APPEND_TIME } else { self.0 & !Self::LOG_APPEND_TIME })
    }

    /// The same with the transactional bit set or cleared.
    #[must_use]
    pub fn with_transactional(self, yes: bool) -> Self {
        Self(if yes { self.0 | Self::TRANSACTIONAL } else { self.0 & !Self::TRANSACTIONAL })
    }

    /// The same with the control bit set or cleared.
    #[must_use]
    pub fn with_control(self, yes: bool) -> Self {
        Self(if yes { self.0 | Self::CONTROL } else { self.0 & !Self::CONTROL })
    }
}

/// Why bytes are not a batch that can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a header, or than the header's length field claims.
    #[error("the batch claims {claimed} bytes, {left} are left")]
    Truncated {
        /// Bytes the batch should have, header included.
        claimed: u64,
        /// Bytes there are.
        left: usize,
    },
    /// A length field too small to hold the header.
    #[error("batch length {0} is below the header's")]
    Length(i32),
    /// A format other than v2.
    #[error("record format {0} is not supported, only 2 is")]
    Magic(i8),
}

/// A batch in place: a whole header, and exactly as many bytes as its length field says.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// The batch at the start of `blob`, and what follows it. Checks lengths and magic, not the checksum.
    pub fn split_first(blob: &'a [u8]) -> Result<(Self, &'a [u8]), BatchError> {
        if blob.len() <= MAGIC_AT {
            return Err(BatchError::Truncated { claimed: HEADER_LEN as u64, left: blob.len() });
        }
        // An older format has another layout behind the magic: judge that first.
        let magic = blob[MAGIC_AT] as i8;
        if magic != MAGIC_V2 {
            return Err(BatchError::Magic(magic));
        }
        let length = i32::from_be_bytes(array(blob, LENGTH_AT));
        let total = usize::try_from(length).map_err(|_| BatchError::Length(length))? + LOG_OVERHEAD;
        if total < HEADER_LEN {
            return Err(BatchError::Length(length));
        }
        if total > blob.len() {
            return Err(BatchError::Truncated { claimed: total as u64, left: blob.len() });
        }
        let (bytes, rest) = blob.split_at(total);
        Ok((Self { bytes }, rest))
    }

    /// The one batch that `blob` consists of.
    pub fn exactly_one(blob: &'a [u8]) -> Result<Self, BatchError> {
        let (batch, rest) = Self::split_first(blob)?;
        if rest.is_empty() {
            Ok(batch)
        } else {
            Err(BatchError::Truncated { claimed: HEADER_LEN as u64, left: rest.len() })
        }
    }

    /// The whole batch.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// What follows the header: records, compressed if the codec says so.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..]
    }

    /// Offset of the first record.
    #[must_use]
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(array(self.bytes, 0))
    }

    /// The length field: bytes after itself.
    #[must_use]
    pub fn length(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, LENGTH_AT))
    }

    /// Leader epoch under which the batch was appended.
    #[must_use]
    pub fn leader_epoch(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, LEADER_EPOCH_AT))
    }

    /// The stored checksum.
    #[must_use]
    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(array(self.bytes, CRC_AT))
    }

    /// Attribute bits.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        Attributes(i16::from_be_bytes(array(self.bytes, ATTRIBUTES_AT)))
    }

    /// Offset of the last record, relative to the base offset.
    #[must_use]
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, LAST_OFFSET_DELTA_AT))
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset().wrapping_add(i64::from(self.last_offset_delta()))
    }

    /// Timestamp the records' deltas count from, milliseconds.
    #[must_use]
    pub fn base_timestamp(&self) -> i64 {
        i64::from_be_bytes(array(self.bytes, BASE_TIMESTAMP_AT))
    }

    /// Largest timestamp, or the time of the append, milliseconds.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(array(self.bytes, MAX_TIMESTAMP_AT))
    }

    /// Producer id, -1 for none.
    #[must_use]
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(array(self.bytes, PRODUCER_ID_AT))
    }

    /// Whether an idempotent producer wrote the batch (Kafka takes every id above -1).
    #[must_use]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id() > NO_PRODUCER_ID
    }

    /// Producer epoch, -1 for none.
    #[must_use]
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(array(self.bytes, PRODUCER_EPOCH_AT))
    }

    /// Sequence number of the first record, -1 for none.
    #[must_use]
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, BASE_SEQUENCE_AT))
    }

    /// Sequence number of the last record: sequences wrap from 2³¹-1 to 0. -1 when there is none.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence() {
            -1 => -1,
            base => sequence_plus(base, self.last_offset_delta()),
        }
    }

    /// Number of records.
    #[must_use]
    pub fn record_count(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, RECORD_COUNT_AT))
    }

    /// The checksum the bytes should carry.
    #[must_use]
    pub fn computed_crc(&self) -> u32 {
        crc_fast::crc32_iscsi(&self.bytes[ATTRIBUTES_AT..])
    }

    /// Whether the stored checksum is right.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.crc() == self.computed_crc()
    }
}

/// The sequence number `increment` after `sequence`, wrapping from 2³¹-1 to 0 as producers do.
#[must_use]
pub fn sequence_plus(sequence: i32, increment: i32) -> i32 {
    ((i64::from(sequence) + i64::from(increment)) & i64::from(i32::MAX)) as i32
}

/// The batches of a blob, in order; ends after the first error. A partial batch at the end is an error.
pub fn batches(blob: &[u8]) -> impl Iterator<Item = Result<BatchView<'_>, BatchError>> {
    let mut rest = blob;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match BatchView::split_first(rest) {
            Ok((batch, left)) => {
                rest = left;
                Some(Ok(batch))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

/// Sets the base offset of the batch at the start of `batch`. Outside the checksum.
///
/// # Panics
/// If `batch` is shorter than [`HEADER_LEN`], as for every `patch_` function.
pub fn patch_base_offset(batch: &mut [u8], offset: i64) {
    batch[..LENGTH_AT].copy_from_slice(&offset.to_be_bytes());
}

/// Sets the leader epoch. Outside the checksum.
pub fn patch_leader_epoch(batch: &mut [u8], epoch: i32) {
    batch[LEADER_EPOCH_AT..MAGIC_AT].copy_from_slice(&epoch.to_be_bytes());
}

/// Sets attributes and max timestamp of a whole batch (`batch` ends where the batch ends) and its checksum.
pub fn patch_timestamp(batch: &mut [u8], attributes: Attributes, max_timestamp: i64) {
    batch[ATTRIBUTES_AT..LAST_OFFSET_DELTA_AT].copy_from_slice(&attributes.0.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..PRODUCER_ID_AT].copy_from_slice(&max_timestamp.to_be_bytes());
    patch_crc(batch);
}

/// Marks a whole batch as appended at `now_ms` (`LogAppendTime`) and sets its checksum. Record deltas stay.
pub fn patch_log_append_time(batch: &mut [u8], now_ms: i64) {
    let attributes = Attributes(i16::from_be_bytes(array(batch, ATTRIBUTES_AT)));
    patch_timestamp(batch, attributes.with_log_append_time(true), now_ms);
}

fn patch_crc(batch: &mut [u8]) {
    let crc = crc_fast::crc32_iscsi(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
}

/// `N` bytes at `at`; callers have checked that they exist.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0_u8; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Reads an unsigned 32-bit varint: the value and its length. `None` if it does not end within 5 bytes.
pub(crate) fn unsigned_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    varint::unsigned(bytes, varint::VARINT_MAX).map(|(value, len)| (value & u64::from(u32::MAX), len))
}
