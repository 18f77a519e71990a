//! The index of an object: which data block and which checkpoint lies where.
//!
//! ```text
//! slices, 32 bytes each, sorted by stream and start:
//!    0  u64  stream
//!    8  u64  stream epoch under which it was written
//!   16  i64  first offset of the slice
//!   24  i64  end of the slice (exclusive)
//! data blocks, 56 bytes each, sorted by stream and base offset:
//!    0  u64  stream
//!    8  i64  base offset of the first record
//!   16  i64  end of the last record (exclusive)
//!   24  u64  position in the object
//!   32  u32  bytes, record table included
//!   36  u32  number of records
//!   40  i64  largest timestamp, ms, -1 when none
//!   48  u32  CRC32C of the payloads
//!   52  u32  reserved, 0
//! checkpoints, 32 bytes each, sorted by stream:
//!    0  u64  stream
//!    8  i64  offset: it describes what follows from all records below
//!   16  u64  position in the object
//!   24  u32  bytes
//!   28  u32  CRC32C of its bytes
//! ```
//!
//! The footer holds the three counts and the CRC32C of the whole index.

use bytes::{Buf, BufMut, BytesMut};
use common::{Offset, StreamEpoch, StreamId};

use super::data_block::table_bytes;
use super::footer::Footer;
use super::{FormatError, crc32c};

const PART: &str = "index";
/// Bytes of a slice entry.
pub const SLICE_ENTRY_BYTES: usize = 32;
/// Bytes of a data block entry.
pub const BLOCK_ENTRY_BYTES: usize = 56;
/// Bytes of a checkpoint entry.
pub const CHECKPOINT_ENTRY_BYTES: usize = 32;

/// One stream's contiguous offsets in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceEntry {
    /// The stream.
    pub stream: StreamId,
    /// The epoch of the writer.
    pub epoch: StreamEpoch,
    /// First offset.
    pub start: Offset,
    /// End (exclusive).
    pub end: Offset,
}

/// One data block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    /// The stream.
    pub stream: StreamId,
    /// Base offset of the first record.
    pub base: Offset,
    /// End of the last record (exclusive).
    pub end: Offset,
    /// Position in the object.
    pub position: u64,
    /// Bytes, with the record table.
    pub size: u32,
    /// Records.
    pub records: u32,
    /// Largest timestamp.
    pub max_timestamp_ms: i64,
    /// CRC32C of the payloads.
    pub crc: u32,
}

/// One checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointIndexEntry {
    /// The stream.
    pub stream: StreamId,
    /// What it describes: all records below.
    pub offset: Offset,
    /// Position in the object.
    pub position: u64,
    /// Bytes.
    pub len: u32,
    /// CRC32C of its bytes.
    pub crc: u32,
}

/// A verified index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectIndex {
    /// Slices, by stream and start.
    pub slices: Vec<SliceEntry>,
    /// Data blocks, by stream and base offset.
    pub blocks: Vec<BlockEntry>,
    /// Checkpoints, by stream.
    pub checkpoints: Vec<CheckpointIndexEntry>,
}

impl BlockEntry {
    /// Bytes of the payloads alone. The decoder made sure that there is room for the table.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        u64::from(self.size).saturating_sub(table_bytes(self.records))
    }

    /// End of the block in the object.
    #[must_use]
    pub fn end_position(&self) -> u64 {
        self.position + u64::from(self.size)
    }
}

impl ObjectIndex {
    /// Encodes it.
    pub fn encode(&self, out: &mut BytesMut) {
        for slice in &self.slices {
            out.put_u64_le(slice.stream.0);
            out.put_u64_le(slice.epoch.0);
            out.put_i64_le(slice.start.0);
            out.put_i64_le(slice.end.0);
        }
        for block in &self.blocks {
            out.put_u64_le(block.stream.0);
            out.put_i64_le(block.base.0);
            out.put_i64_le(block.end.0);
            out.put_u64_le(block.position);
            out.put_u32_le(block.size);
            out.put_u32_le(block.records);
            out.put_i64_le(block.max_timestamp_ms);
            out.put_u32_le(block.crc);
            out.put_u32_le(0);
        }
        for checkpoint in &self.checkpoints {
            out.put_u64_le(checkpoint.stream.0);
            out.put_i64_le(checkpoint.offset.0);
            out.put_u64_le(checkpoint.position);
            out.put_u32_le(checkpoint.len);
            out.put_u32_le(checkpoint.crc);
        }
    }

    /// Decodes and verifies the index that `footer` describes.
    pub fn decode(footer: &Footer, mut bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() as u64 != footer.index_bytes() {
            return Err(FormatError::new(PART, format!("{} bytes instead of {}", bytes.len(), footer.index_bytes())));
        }
        if crc32c(bytes) != footer.index_crc {
            return Err(FormatError::new(PART, "its CRC does not match"));
        }
        let slices = (0..footer.slices).map(|_| decode_slice(&mut bytes)).collect();
        let blocks = (0..footer.blocks).map(|_| decode_block(&mut bytes)).collect();
        let checkpoints = (0..footer.checkpoints).map(|_| decode_checkpoint(&mut bytes)).collect();
        let index = Self { slices, blocks, checkpoints };
        index.validate(footer.index_position)?;
        Ok(index)
    }

    /// Everything lies before the index, in order, and nothing overlaps.
    pub(crate) fn validate(&self, data_end: u64) -> Result<(), FormatError> {
        let refuse = |reason: String| Err(FormatError::new(PART, reason));
        for block in &self.blocks {
            let inside = block.position.checked_add(u64::from(block.size)).is_some_and(|end| end <= data_end);
            let sane = block.base < block.end && u64::from(block.size) >= table_bytes(block.records);
            if !inside || !sane || block.records == 0 {
                return refuse(format!("the block at {} does not fit", block.position));
            }
        }
        for checkpoint in &self.checkpoints {
            let end = checkpoint.position.checked_add(u64::from(checkpoint.len));
            if end.is_none_or(|end| end > data_end) {
                return refuse(format!("the checkpoint at {} does not fit", checkpoint.position));
            }
        }
        let blocks_in_order =
            self.blocks.is_sorted_by(|a, b| (a.stream, a.end) <= (b.stream, b.base) || a.stream < b.stream);
        let slices_in_order =
            self.slices.is_sorted_by(|a, b| a.stream < b.stream || (a.stream == b.stream && a.end <= b.start));
        if !blocks_in_order || !slices_in_order || self.slices.iter().any(|slice| slice.start > slice.end) {
            return refuse("entries are out of order".to_owned());
        }
        Ok(())
    }

    /// The data blocks of `stream`, in offset order.
    #[must_use]
    pub fn blocks_of(&self, stream: StreamId) -> &[BlockEntry] {
        let start = self.blocks.partition_point(|block| block.stream < stream);
        let end = self.blocks.partition_point(|block| block.stream <= stream);
        &self.blocks[start..end]
    }

    /// The checkpoint of `stream` at `offset`.
    #[must_use]
    pub fn checkpoint_of(&self, stream: StreamId, offset: Offset) -> Option<&CheckpointIndexEntry> {
        self.checkpoints.iter().find(|checkpoint| checkpoint.stream == stream && checkpoint.offset == offset)
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        let bytes = self.slices.capacity() * size_of::<SliceEntry>()
            + self.blocks.capacity() * size_of::<BlockEntry>()
            + self.checkpoints.capacity() * size_of::<CheckpointIndexEntry>();
        bytes as u64
    }
}

// The caller has checked that the bytes of all entries are there.

fn decode_slice(bytes: &mut &[u8]) -> SliceEntry {
    SliceEntry {
        stream: StreamId(bytes.get_u64_le()),
        epoch: StreamEpoch(bytes.get_u64_le()),
        start: Offset(bytes.get_i64_le()),
        end: Offset(bytes.get_i64_le()),
    }
}

fn decode_block(bytes: &mut &[u8]) -> BlockEntry {
    let entry = BlockEntry {
        stream: StreamId(bytes.get_u64_le()),
        base: Offset(bytes.get_i64_le()),
        end: Offset(bytes.get_i64_le()),
        position: bytes.get_u64_le(),
        size: bytes.get_u32_le(),
        records: bytes.get_u32_le(),
        max_timestamp_ms: bytes.get_i64_le(),
        crc: bytes.get_u32_le(),
    };
    bytes.advance(4);
    entry
}

fn decode_checkpoint(bytes: &mut &[u8]) -> CheckpointIndexEntry {
    CheckpointIndexEntry {
        stream: StreamId(bytes.get_u64_le()),
        offset: Offset(bytes.get_i64_le()),
        position: bytes.get_u64_le(),
        len: bytes.get_u32_le(),
        crc: bytes.get_u32_le(),
    }
}
