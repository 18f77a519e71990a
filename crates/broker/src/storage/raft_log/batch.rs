//! The byte format of the Raft log: batches, each written and synced as one.
//!
//! A batch starts at a multiple of 4096 and is padded with zeros to the next one. Little-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `ORLB` |
//! | 4 | 4 | CRC32C of bytes 8 to the end of the body (padding excluded) |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | kind: 1 entries, 2 truncate, 3 mark |
//! | 12 | 4 | body length |
//! | 16 | 8 | sequence: counts batches through all segments |
//! | 24 | 24 | purged: term, node, index of the last entry given up; term `u64::MAX` for none |
//! | 48 | 24 | committed, newest that was known; likewise |
//! | 72 | … | body |
//!
//! Body of *entries*: one after the other, term, node, index (8 bytes each), payload length (4), CRC32C of these
//! 28 bytes and the payload (4), payload. Body of *truncate*: the last entry that stays, 24 bytes as above.
//! A *mark* has none; it carries a new purge bound.

use bytes::Bytes;
use metadata::log::{EntryId, LogRecord};
use wal::direct::{ALIGNMENT, align_up};

/// First bytes of a batch.
const MAGIC: [u8; 4] = *b"ORLB";
/// Version this code writes, and the only one it reads.
const VERSION: u16 = 1;
/// Bytes before the body.
pub(super) const HEADER_BYTES: usize = 72;
/// Bytes before an entry's payload.
const ENTRY_BYTES: usize = 32;
/// Bytes of an [`EntryId`].
const ID_BYTES: usize = 24;

/// What a batch does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Appends entries.
    Entries(Vec<LogRecord>),
    /// Removes the entries above this one.
    Truncate(Option<EntryId>),
    /// Only carries the header's purge bound.
    Mark,
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) sequence: u64,
    pub(super) purged: Option<EntryId>,
    pub(super) committed: Option<EntryId>,
    pub(super) body: Body,
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BatchError {
    /// Not even a header.
    #[error("no batch starts here")]
    None,
    /// The checksum or a length does not fit.
    #[error("the batch is damaged")]
    Damaged,
    /// Written by another version.
    #[error("the batch has version {0}")]
    Version(u16),
}

/// CRC32C (Castagnoli).
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits: nothing is cut off.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Bytes a batch of these records takes on disk.
pub(super) fn padded_len(body: &Body) -> usize {
    let body = match body {
        Body::Entries(records) => records.iter().map(|record| ENTRY_BYTES + record.payload.len()).sum(),
        Body::Truncate(_) => ID_BYTES,
        Body::Mark => 0,
    };
    align_up((HEADER_BYTES + body) as u64) as usize
}

impl Batch {
    /// Encodes into `out`, which must be of [`padded_len`] bytes; returns where each record's entry begins.
    pub(super) fn encode(&self, out: &mut [u8]) -> Vec<usize> {
        let mut put = Put { out, at: HEADER_BYTES };
        let mut positions = Vec::new();
        let kind: u16 = match &self.body {
            Body::Entries(records) => {
                for record in records {
                    positions.push(put.at);
                    put.entry(record);
                }
                1
            }
            Body::Truncate(last) => {
                put.id(*last);
                2
            }
            Body::Mark => 3,
        };
        let end = put.at;
        put.out[end..].fill(0);
        put.at = 8;
        put.bytes(&VERSION.to_le_bytes());
        put.bytes(&kind.to_le_bytes());
        put.bytes(&u32::try_from(end - HEADER_BYTES).expect("a batch is bounded below 4 GiB").to_le_bytes());
        put.bytes(&self.sequence.to_le_bytes());
        put.id(self.purged);
        put.id(self.committed);
        let crc = crc32c(&put.out[8..end]);
        put.at = 0;
        put.bytes(&MAGIC);
        put.bytes(&crc.to_le_bytes());
        positions
    }

    /// Decodes the batch at the start of `bytes`; returns it with the position of each record and its length
    /// on disk.
    pub(super) fn decode(bytes: &Bytes) -> Result<(Self, Vec<usize>, usize), BatchError> {
        if bytes.len() < HEADER_BYTES || bytes[..4] != MAGIC {
            return Err(BatchError::None);
        }
        let mut take = Take { bytes, at: 4 };
        let crc = take.u32().ok_or(BatchError::Damaged)?;
        let version = take.u16().ok_or(BatchError::Damaged)?;
        let kind = take.u16().ok_or(BatchError::Damaged)?;
        let body_len = take.u32().ok_or(BatchError::Damaged)? as usize;
        let end = HEADER_BYTES.checked_add(body_len).filter(|end| *end <= bytes.len()).ok_or(BatchError::Damaged)?;
        if crc32c(&bytes[8..end]) != crc {
            return Err(BatchError::Damaged);
        }
        if version != VERSION {
            return Err(BatchError::Version(version));
        }
        let sequence = take.u64().ok_or(BatchError::Damaged)?;
        let purged = take.id().ok_or(BatchError::Damaged)?;
        let committed = take.id().ok_or(BatchError::Damaged)?;
        let body_bytes = bytes.slice(..end);
        let mut take = Take { bytes: &body_bytes, at: HEADER_BYTES };
        let mut positions = Vec::new();
        let body = match kind {
            1 => {
                let mut records = Vec::new();
                while take.at < end {
                    positions.push(take.at);
                    records.push(take.entry().ok_or(BatchError::Damaged)?);
                }
                Body::Entries(records)
            }
            2 => Body::Truncate(take.id().ok_or(BatchError::Damaged)?),
            3 => Body::Mark,
            _ => return Err(BatchError::Damaged),
        };
        Ok((Self { sequence, purged, committed, body }, positions, end.next_multiple_of(ALIGNMENT)))
    }
}

/// Bytes from an entry's position to the end of its payload.
pub(super) fn entry_len(record: &LogRecord) -> usize {
    ENTRY_BYTES + record.payload.len()
}

/// Reads back one entry; `None` when it is damaged.
pub(super) fn decode_entry(bytes: &Bytes) -> Option<LogRecord> {
    Take { bytes, at: 0 }.entry()
}

struct Put<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn id(&mut self, id: Option<EntryId>) {
        let id = id.unwrap_or(EntryId { term: u64::MAX, node: 0, index: 0 });
        for part in [id.term, id.node, id.index] {
            self.bytes(&part.to_le_bytes());
        }
    }

    fn entry(&mut self, record: &LogRecord) {
        let start = self.at;
        self.id(Some(record.id));
        self.bytes(&u32::try_from(record.payload.len()).expect("entries are bounded below 4 GiB").to_le_bytes());
        let crc_at = self.at;
        self.at += 4;
        self.bytes(&record.payload);
        let crc = entry_crc(&self.out[start..crc_at], &record.payload);
        self.out[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn entry_crc(head: &[u8], payload: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(payload);
    digest.finalize() as u32
}

struct Take<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Take<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let end = self.at.checked_add(N)?;
        let array = self.bytes.get(self.at..end)?.try_into().ok()?;
        self.at = end;
        Some(array)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Option<Option<EntryId>> {
        let id = EntryId { term: self.u64()?, node: self.u64()?, index: self.u64()? };
        Some((id.term != u64::MAX).then_some(id))
    }

    fn entry(&mut self) -> Option<LogRecord> {
        let start = self.at;
        let id = self.id()??;
        let len = self.u32()? as usize;
        let head_end = self.at;
        let crc = self.u32()?;
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        let payload = self.bytes.slice(self.at..end);
        self.at = end;
        (entry_crc(&self.bytes[start..head_end], &payload) == crc).then_some(LogRecord { id, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Batch {
        let record = |index, payload: &'static [u8]| LogRecord {
            id: EntryId { term: 3, node: 1, index },
            payload: Bytes::from_static(payload),
        };
        Batch {
            sequence: 9,
            purged: None,
            committed: Some(EntryId { term: 3, node: 1, index: 4 }),
            body: Body::Entries(vec![record(5, b"five"), record(6, b"")]),
        }
    }

    fn encode(batch: &Batch) -> Bytes {
        let mut out = vec![0xAA; padded_len(&batch.body)];
        batch.encode(&mut out);
        out.into()
    }

    #[test]
    fn every_kind_comes_back() {
        let id = EntryId { term: 1, node: 2, index: 3 };
        for body in [sample().body, Body::Truncate(None), Body::Truncate(Some(id)), Body::Mark] {
            let batch = Batch { body, purged: Some(id), ..sample() };
            let bytes = encode(&batch);
            assert_eq!(bytes.len() % ALIGNMENT, 0);
            let (decoded, positions, len) = Batch::decode(&bytes).expect("decodes");
            assert_eq!((&decoded, len), (&batch, bytes.len()));
            if let Body::Entries(records) = &batch.body {
                for (record, position) in records.iter().zip(positions) {
                    let entry = bytes.slice(position..position + entry_len(record));
                    assert_eq!(decode_entry(&entry).as_ref(), Some(record));
                }
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(&sample());
        let hex: String = bytes[..140].iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "4f524c42",
            "cf684965",
            "0100",
            "0100",
            "44000000",
            "0900000000000000",
            "ffffffffffffffff",
            "0000000000000000",
            "0000000000000000",
            "0300000000000000",
            "0100000000000000",
            "0400000000000000",
            "0300000000000000",
            "0100000000000000",
            "0500000000000000",
            "04000000",
            "a22a76e2",
            "66697665",
            "0300000000000000",
            "0100000000000000",
            "0600000000000000",
            "00000000",
            "d9237c84",
        );
        assert_eq!(hex, expected);
        assert!(bytes[140..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let bytes = encode(&sample());
        for at in 0..140 {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(Batch::decode(&damaged.into()).is_err(), "byte {at}");
        }
        for len in 0..140 {
            assert!(Batch::decode(&bytes.slice(..len)).is_err(), "cut to {len}");
        }
    }
}
