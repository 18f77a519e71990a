//! What the source of a move hands to its target: the records of one stream that no object holds.
//!
//! ```text
//!  0 magic "OTTLHAND" · 8 version u32 · 12 CRC32C u32 of everything behind
//! 16 stream u64 · 24 number of records u32 · 28 zero [4] · records in offset order:
//!    0 kind u8 (0 data, 1 checkpoint) · 1 zero [3] · 4 payload length u32 · 8 base i64 · 16 next i64 (exclusive)
//!   24 largest timestamp i64 · 32 tag [24] · 56 payload
//! ```
//! Data is contiguous. A checkpoint stands behind the records that it covers, with `base` and `next` equal.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use common::{Offset, StreamId};
use wal::{RecordKind, TAG_BYTES};

use super::{FormatError, crc32c, need};

const PART: &str = "hand-over";
const MAGIC: &[u8; 8] = b"OTTLHAND";
const VERSION: u32 = 1;
/// Bytes in front of what the CRC covers.
const PREFIX_BYTES: usize = 16;
const HEADER_BYTES: usize = 32;
const RECORD_BYTES: usize = 56;
// Whoever leases the memory of a hand-over has leased the bytes on the wire.
const _: () = assert!(size_of::<HandOver>() >= HEADER_BYTES && size_of::<HandOverRecord>() >= RECORD_BYTES);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// The stream.
    pub stream: StreamId,
    /// Its records above the committed end, and its newest checkpoint among them.
    pub records: Vec<HandOverRecord>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOverRecord {
    /// Data or checkpoint.
    pub kind: RecordKind,
    /// First offset; of a checkpoint the offset it describes.
    pub base_offset: Offset,
    /// Exclusive end.
    pub next_offset: Offset,
    /// Largest timestamp.
    pub max_timestamp_ms: i64,
    /// As appended.
    pub tag: [u8; TAG_BYTES],
    /// As appended.
    pub payload: Bytes,
}

impl HandOver {
    /// Bytes that [`encode`](Self::encode) gives.
    fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + self.records.iter().map(|record| RECORD_BYTES + record.payload.len()).sum::<usize>()
    }

    /// As bytes.
    ///
    /// # Panics
    /// When there are 2^32 records, or a payload of 4 GiB.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_bytes());
        out.put_slice(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(0);
        out.put_u64_le(self.stream.0);
        out.put_u32_le(u32::try_from(self.records.len()).expect("records that fit memory"));
        out.put_u32_le(0);
        for record in &self.records {
            out.put_u32_le(record.kind as u32);
            out.put_u32_le(u32::try_from(record.payload.len()).expect("a payload that fits a block"));
            out.put_i64_le(record.base_offset.0);
            out.put_i64_le(record.next_offset.0);
            out.put_i64_le(record.max_timestamp_ms);
            out.put_slice(&record.tag);
            out.put_slice(&record.payload);
        }
        let crc = crc32c(&out[PREFIX_BYTES..]);
        out[PREFIX_BYTES - 4..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    /// Reads and checks what was encoded. Payloads share the memory of `bytes`.
    pub fn decode(mut bytes: Bytes) -> Result<Self, FormatError> {
        let wrong = |reason: &str| FormatError::new(PART, reason);
        need(PART, &bytes, HEADER_BYTES)?;
        let crc = crc32c(&bytes[PREFIX_BYTES..]);
        let mut magic = [0; MAGIC.len()];
        bytes.copy_to_slice(&mut magic);
        if magic != *MAGIC {
            return Err(wrong("it does not start with the expected magic bytes"));
        }
        let version = bytes.get_u32_le();
        if version != VERSION {
            return Err(FormatError::new(PART, format!("version {version} is not supported")));
        }
        if bytes.get_u32_le() != crc {
            return Err(wrong("the CRC does not match"));
        }
        let stream = StreamId(bytes.get_u64_le());
        let count = bytes.get_u32_le() as usize;
        if bytes.get_u32_le() != 0 || bytes.len() / RECORD_BYTES < count {
            return Err(wrong("the number of records is out of range"));
        }
        let mut records = Vec::with_capacity(count);
        let mut end = None;
        for _ in 0..count {
            let record = decode_record(&mut bytes, end)?;
            end = Some(record.next_offset);
            records.push(record);
        }
        if bytes.has_remaining() {
            return Err(wrong("bytes are left behind the last record"));
        }
        Ok(Self { stream, records })
    }
}

fn decode_record(bytes: &mut Bytes, end: Option<Offset>) -> Result<HandOverRecord, FormatError> {
    need(PART, bytes, RECORD_BYTES)?;
    let kind = match bytes.get_u32_le() {
        0 => RecordKind::Data,
        1 => RecordKind::Checkpoint,
        other => return Err(FormatError::new(PART, format!("a record of kind {other}"))),
    };
    let len = bytes.get_u32_le() as usize;
    let (base_offset, next_offset) = (Offset(bytes.get_i64_le()), Offset(bytes.get_i64_le()));
    let max_timestamp_ms = bytes.get_i64_le();
    let mut tag = [0; TAG_BYTES];
    bytes.copy_to_slice(&mut tag);
    need(PART, bytes, len)?;
    let payload = bytes.split_to(len);
    let spans = match kind {
        RecordKind::Data => next_offset > base_offset,
        RecordKind::Checkpoint => next_offset == base_offset,
    };
    if !spans || base_offset < Offset(0) || end.is_some_and(|end| end != base_offset) {
        return Err(FormatError::new(PART, format!("a record of offsets {base_offset}..{next_offset} does not fit")));
    }
    Ok(HandOverRecord { kind, base_offset, next_offset, max_timestamp_ms, tag, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: RecordKind, base: i64, next: i64, payload: &'static [u8]) -> HandOverRecord {
        HandOverRecord {
            kind,
            base_offset: Offset(base),
            next_offset: Offset(next),
            max_timestamp_ms: 1000 + base,
            tag: [base as u8; TAG_BYTES],
            payload: Bytes::from_static(payload),
        }
    }

    fn hand_over() -> HandOver {
        let records = vec![
            record(RecordKind::Data, 10, 12, b"hello"),
            record(RecordKind::Checkpoint, 12, 12, b"state"),
            record(RecordKind::Data, 12, 13, b"!"),
        ];
        HandOver { stream: StreamId(7), records }
    }

    #[test]
    fn golden_bytes() {
        let bytes = hand_over().encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected: String = include_str!("hand_over.hex").split_whitespace().collect();
        assert_eq!(hex, expected);
        assert_eq!(bytes.len(), hand_over().encoded_bytes());
        assert_eq!(HandOver::decode(bytes), Ok(hand_over()));
        let empty = HandOver { stream: StreamId(1), records: Vec::new() };
        assert_eq!(HandOver::decode(empty.encode()), Ok(empty));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        let good = hand_over().encode();
        for at in 0..good.len() {
            HandOver::decode(good.slice(..at)).expect_err("cut short");
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[at] ^= 1 << bit;
                HandOver::decode(bad.into()).expect_err("damaged");
            }
        }
        HandOver::decode([&good[..], b"x"].concat().into()).expect_err("too long");
    }

    /// Bytes that were damaged with a CRC to match, as a peer of ill will sends them.
    #[test]
    fn what_does_not_fit_is_refused_whatever_its_checksum_says() {
        let good = hand_over().encode();
        let forge = |at: usize, value: &[u8]| {
            let mut bad = good.to_vec();
            bad[at..at + value.len()].copy_from_slice(value);
            let crc = crc32c(&bad[PREFIX_BYTES..]);
            bad[12..16].copy_from_slice(&crc.to_le_bytes());
            HandOver::decode(bad.into())
        };
        forge(16, &8_u64.to_le_bytes()).expect("another stream");
        for count in [0, 2, 4, u32::MAX] {
            forge(24, &count.to_le_bytes()).expect_err("records that are not there");
        }
        forge(HEADER_BYTES, &2_u32.to_le_bytes()).expect_err("an unknown kind");
        forge(HEADER_BYTES, &1_u32.to_le_bytes()).expect_err("a checkpoint of two offsets");
        forge(HEADER_BYTES + 4, &u32::MAX.to_le_bytes()).expect_err("a payload beyond the end");
        for base in [-1_i64, 11, 12, i64::MAX] {
            forge(HEADER_BYTES + 8, &base.to_le_bytes()).map(|it| assert_eq!(it.records[0].base_offset.0, 11)).ok();
        }
        forge(HEADER_BYTES + 16, &13_i64.to_le_bytes()).expect_err("a gap");
    }
}
