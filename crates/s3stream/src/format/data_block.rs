//! A data block: consecutive records of one stream.
//!
//! ```text
//! payloads, back to back
//! record table, 56 bytes per record:
//!    0  i64  base offset
//!    8  i64  next offset (exclusive end)
//!   16  u32  position of the payload within the block
//!   20  u32  payload bytes
//!   24  i64  largest timestamp, ms, -1 when none
//!   32  [24] tag
//! trailer, 8 bytes:
//!    0  u32  number of records
//!    4  u32  CRC32C of the record table and the count
//! ```
//!
//! The payloads' CRC32C is in the index entry of the block: so the table can be read alone, and the whole
//! object's payloads are vouched for by its index.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use common::Offset;

use super::{FormatError, crc32c, need};
use crate::format::object_index::BlockEntry;
use crate::stream::{Fetched, RecordHead};

const PART: &str = "data block";
/// Bytes of one record in the table.
pub const RECORD_ENTRY_BYTES: usize = 56;
/// Bytes after the table.
pub const TRAILER_BYTES: usize = 8;

/// A record table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordEntry {
    /// The record.
    pub head: RecordHead,
    /// Its payload's position in the block.
    pub position: u32,
}

/// A verified data block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataBlock {
    payloads: Bytes,
    records: Vec<RecordEntry>,
}

/// Bytes of a table with its trailer.
#[must_use]
pub fn table_bytes(records: u32) -> u64 {
    u64::from(records) * RECORD_ENTRY_BYTES as u64 + TRAILER_BYTES as u64
}

/// Appends the table and trailer for `records`.
pub fn encode_table(records: &[RecordEntry], out: &mut BytesMut) {
    let start = out.len();
    for record in records {
        out.put_i64_le(record.head.base_offset.0);
        out.put_i64_le(record.head.next_offset.0);
        out.put_u32_le(record.position);
        out.put_u32_le(record.head.len);
        out.put_i64_le(record.head.max_timestamp_ms);
        out.put_slice(&record.head.tag);
    }
    out.put_u32_le(u32::try_from(records.len()).expect("a block holds fewer than 2^32 records"));
    let crc = crc32c(&out[start..]);
    out.put_u32_le(crc);
}

/// Decodes and verifies the table of the block that `entry` describes.
pub fn decode_table(entry: &BlockEntry, bytes: &[u8]) -> Result<Vec<RecordEntry>, FormatError> {
    if bytes.len() as u64 != table_bytes(entry.records) {
        return Err(FormatError::new(PART, format!("a table of {} bytes for {} records", bytes.len(), entry.records)));
    }
    let (covered, mut crc) = bytes.split_at(bytes.len() - 4);
    if crc.get_u32_le() != crc32c(covered) {
        return Err(FormatError::new(PART, "the record table's CRC does not match"));
    }
    let mut left = covered;
    let mut records = Vec::with_capacity(entry.records as usize);
    let (mut position, mut offset) = (0_u64, entry.base);
    for _ in 0..entry.records {
        let record = decode_record(&mut left)?;
        let head = &record.head;
        if u64::from(record.position) != position || head.base_offset < offset || head.next_offset <= head.base_offset {
            return Err(FormatError::new(PART, format!("the record at {} does not follow on", head.base_offset)));
        }
        position += u64::from(head.len);
        offset = head.next_offset;
        records.push(record);
    }
    let fits = left.get_u32_le() == entry.records && position == entry.payload_bytes() && offset <= entry.end;
    if !fits {
        return Err(FormatError::new(PART, "the record table does not add up to its index entry"));
    }
    Ok(records)
}

fn decode_record(bytes: &mut &[u8]) -> Result<RecordEntry, FormatError> {
    need(PART, bytes, RECORD_ENTRY_BYTES)?;
    let (base_offset, next_offset) = (Offset(bytes.get_i64_le()), Offset(bytes.get_i64_le()));
    let (position, len) = (bytes.get_u32_le(), bytes.get_u32_le());
    let max_timestamp_ms = bytes.get_i64_le();
    let mut tag = [0; wal::TAG_BYTES];
    bytes.copy_to_slice(&mut tag);
    Ok(RecordEntry { head: RecordHead { base_offset, next_offset, max_timestamp_ms, len, tag }, position })
}

impl DataBlock {
    /// Decodes and verifies the block that `entry` describes.
    pub fn decode(entry: &BlockEntry, bytes: &Bytes) -> Result<Self, FormatError> {
        if bytes.len() as u64 != u64::from(entry.size) {
            return Err(FormatError::new(PART, format!("{} bytes instead of {}", bytes.len(), entry.size)));
        }
        let payload_bytes = usize::try_from(entry.payload_bytes()).map_err(|_| FormatError::new(PART, "too large"))?;
        let payloads = bytes.slice(..payload_bytes);
        if crc32c(&payloads) != entry.crc {
            return Err(FormatError::new(PART, format!("the payloads' CRC at {} does not match", entry.position)));
        }
        let records = decode_table(entry, &bytes[payload_bytes..])?;
        Ok(Self { payloads, records })
    }

    /// Its records.
    #[must_use]
    pub fn records(&self) -> &[RecordEntry] {
        &self.records
    }

    /// The payload of one of its records.
    #[must_use]
    pub fn payload(&self, record: &RecordEntry) -> Bytes {
        let start = record.position as usize;
        self.payloads.slice(start..start + record.head.len as usize)
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        (self.payloads.len() + self.records.capacity() * size_of::<RecordEntry>()) as u64
    }

    /// Adds the records from `from` up to `until` as one slice, while `max_bytes` allows. `true` when more
    /// may follow in the next block.
    pub(crate) fn collect(&self, from: Offset, until: Offset, max_bytes: usize, out: &mut Fetched) -> bool {
        let first = self.records.partition_point(|record| record.head.next_offset <= from);
        let Some(start) = self.records.get(first) else {
            return true;
        };
        let (mut end, mut bytes) = (first, out.bytes);
        let mut more = true;
        for record in &self.records[first..] {
            let always = out.slices.is_empty() && end == first;
            let fits = always || bytes.saturating_add(record.head.len as usize) <= max_bytes;
            if record.head.next_offset > until || !fits {
                more = false;
                break;
            }
            bytes += record.head.len as usize;
            end += 1;
        }
        if end > first {
            let last = &self.records[end - 1];
            let range = start.position as usize..last.position as usize + last.head.len as usize;
            out.push(start.head.base_offset, last.head.next_offset, self.payloads.slice(range));
        }
        more
    }
}
