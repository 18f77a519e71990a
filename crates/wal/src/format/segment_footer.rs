//! The index that ends a full segment, so that recovery reads it instead of the payloads.
//!
//! ```text
//! index:   per block: LSN u64 · length u32 · record count u32 · its record headers [72 each]
//! padding: zeros
//! trailer, the last 128 bytes of the usable part of the slot:
//!   0 magic "OTTLINDX" · 8 version u32 · 12 CRC32C u32 of bytes 16..128
//!  16 log uuid [16] · 32 segment number u64 · 40 index length u32 · 44 CRC32C u32 of the index · 48 blocks u32
//!  52 CRC of the last block u32 · 56 its end u64 · 64 its incarnation u64 · 72 its sequence u64
//!  80 synced mark u64 · 88 trim mark u64 · 96 the first block's link: end u64 · 104 CRC u32 · 108 zero [20]
//! ```
//! Index and trailer together take a multiple of 4 KiB. They are written after all blocks of the segment
//! are durable; a footer that is missing or damaged only means that the segment is scanned.

use common::Lsn;
use uuid::Uuid;

use super::block_header::{BLOCK_HEADER_BYTES, BlockHeader, Link, RecordPlace};
use super::record_header::{self, RECORD_HEADER_BYTES};
use super::{Damage, Put, Take, crc32c, open_prefix, seal_prefix};
use crate::direct::align_up;

pub(crate) const TRAILER_BYTES: usize = 128;
const BLOCK_ENTRY_BYTES: usize = 16;
const MAGIC: [u8; 8] = *b"OTTLINDX";

/// Bytes of a footer for so many blocks and records.
pub(crate) const fn footer_bytes(blocks: u64, records: u64) -> u64 {
    align_up(TRAILER_BYTES as u64 + blocks * BLOCK_ENTRY_BYTES as u64 + records * RECORD_HEADER_BYTES as u64)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) uuid: Uuid,
    pub(crate) segment: u64,
    pub(crate) index_len: u32,
    pub(crate) index_crc: u32,
    pub(crate) blocks: u32,
    pub(crate) last: Link,
    pub(crate) incarnation: u64,
    pub(crate) sequence: u64,
    pub(crate) synced: Lsn,
    pub(crate) trim: Lsn,
    pub(crate) first_link: Link,
}

/// A block as the index has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexedBlock {
    pub(crate) lsn: Lsn,
    pub(crate) length: u32,
    pub(crate) records: Vec<RecordPlace>,
}

impl Trailer {
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let mut put = Put::after_prefix(&mut *out);
        put.array(self.uuid.as_bytes()).u64(self.segment).u32(self.index_len).u32(self.index_crc).u32(self.blocks);
        put.u32(self.last.crc).u64(self.last.end.0).u64(self.incarnation).u64(self.sequence).u64(self.synced.0);
        put.u64(self.trim.0).u64(self.first_link.end.0).u32(self.first_link.crc).zeros();
        seal_prefix(out, MAGIC);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let (mut take, _) = open_prefix(bytes, MAGIC)?;
        Self::take(&mut take).ok_or(Damage::Short)
    }

    fn take(take: &mut Take<'_>) -> Option<Self> {
        let uuid = Uuid::from_bytes(take.array()?);
        let segment = take.u64()?;
        let (index_len, index_crc, blocks, last_crc) = (take.u32()?, take.u32()?, take.u32()?, take.u32()?);
        let last = Link { end: Lsn(take.u64()?), crc: last_crc };
        let (incarnation, sequence) = (take.u64()?, take.u64()?);
        let (synced, trim) = (Lsn(take.u64()?), Lsn(take.u64()?));
        let first_link = Link { end: Lsn(take.u64()?), crc: take.u32()? };
        Some(Self {
            uuid,
            segment,
            index_len,
            index_crc,
            blocks,
            last,
            incarnation,
            sequence,
            synced,
            trim,
            first_link,
        })
    }
}

/// Appends the entry of a finished block to an index.
pub(crate) fn push_block(index: &mut Vec<u8>, header: &BlockHeader, block: &[u8]) {
    index.extend_from_slice(&header.lsn.0.to_le_bytes());
    index.extend_from_slice(&header.length.to_le_bytes());
    index.extend_from_slice(&header.record_count.to_le_bytes());
    let mut position = BLOCK_HEADER_BYTES;
    for _ in 0..header.record_count {
        let record = &block[position..position + RECORD_HEADER_BYTES];
        index.extend_from_slice(record);
        let (_, len) = record_header::decode(&mut Take::new(record)).expect("the block was just written by us");
        position += record_header::record_bytes(len as usize);
    }
}

/// Reads an index whose trailer was checked.
pub(crate) fn decode_index(trailer: &Trailer, index: &[u8]) -> Result<Vec<IndexedBlock>, Damage> {
    if index.len() != trailer.index_len as usize {
        return Err(Damage::Short);
    }
    if crc32c(index) != trailer.index_crc {
        return Err(Damage::Checksum);
    }
    if trailer.blocks as usize > index.len() / BLOCK_ENTRY_BYTES {
        return Err(Damage::Field("block count"));
    }
    let mut take = Take::new(index);
    let mut blocks = Vec::with_capacity(trailer.blocks as usize);
    for _ in 0..trailer.blocks {
        blocks.push(take_block(&mut take).ok_or(Damage::Field("index entry"))?);
    }
    if take.rest.is_empty() { Ok(blocks) } else { Err(Damage::Field("index length")) }
}

fn take_block(take: &mut Take<'_>) -> Option<IndexedBlock> {
    let (lsn, length, count) = (Lsn(take.u64()?), take.u32()?, take.u32()? as usize);
    if count > take.rest.len() / RECORD_HEADER_BYTES {
        return None;
    }
    let mut records = Vec::with_capacity(count);
    let mut position = BLOCK_HEADER_BYTES as u64;
    for _ in 0..count {
        let (meta, len) = record_header::decode(take)?;
        let place = position + RECORD_HEADER_BYTES as u64;
        position = place + u64::from(len).next_multiple_of(8);
        if position > u64::from(length) {
            return None;
        }
        records.push(RecordPlace { meta, position: u32::try_from(place).ok()?, len });
    }
    Some(IndexedBlock { lsn, length, records })
}
