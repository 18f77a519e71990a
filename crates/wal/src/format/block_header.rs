//! Header of a block: 128 bytes; records follow, then zeros up to a multiple of 4 KiB.
//!
//! ```text
//!   0 magic "OTTLABLK" · 8 version u32 · 12 CRC32C u32 of bytes 16..length
//!  16 log uuid [16] · 32 node id i32 · 36 record count u32 · 40 node epoch u64 · 48 block sequence u64
//!  56 LSN u64 · 64 length u32, padded · 68 used u32, without padding · 72 synced mark u64 · 80 trim mark u64
//!  88 incarnation u64 · 96 previous block's end u64 · 104 previous block's CRC u32 · 108 zero [20]
//! ```
//! A block that follows the one before it names that one's end and CRC; so a block that an earlier
//! incarnation left behind the end of the log is never taken for its continuation.

use common::{Lsn, NodeEpoch, NodeId};
use uuid::Uuid;

use super::record_header::{self, RECORD_HEADER_BYTES};
use super::{Damage, PREFIX_BYTES, Put, Take, crc32c, seal_prefix, take_prefix};
use crate::direct::ALIGNMENT;
use crate::record::RecordMeta;

pub(crate) const BLOCK_HEADER_BYTES: usize = 128;
const MAGIC: [u8; 8] = *b"OTTLABLK";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) uuid: Uuid,
    pub(crate) node: NodeId,
    pub(crate) node_epoch: NodeEpoch,
    /// Number of the block, counting from 0 over the life of the log.
    pub(crate) sequence: u64,
    pub(crate) lsn: Lsn,
    pub(crate) record_count: u32,
    /// Bytes including header and padding.
    pub(crate) length: u32,
    /// Bytes including the header, without padding.
    pub(crate) used: u32,
    /// Everything below was durable when this block was written.
    pub(crate) synced: Lsn,
    /// Everything below was given up when this block was written.
    pub(crate) trim: Lsn,
    /// Random number of the opening that wrote this block.
    pub(crate) incarnation: u64,
    pub(crate) link: Link,
}

/// The end of a block, as its successor names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) end: Lsn,
    pub(crate) crc: u32,
}

impl BlockHeader {
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.lsn.0 + u64::from(self.length))
    }

    /// Writes the header into the front of its whole, padded block, and returns the block's CRC.
    pub(crate) fn encode(&self, block: &mut [u8]) -> u32 {
        let mut put = Put::after_prefix(&mut block[..BLOCK_HEADER_BYTES]);
        put.array(self.uuid.as_bytes()).i32(self.node.0).u32(self.record_count).u64(self.node_epoch.0);
        put.u64(self.sequence).u64(self.lsn.0).u32(self.length).u32(self.used).u64(self.synced.0);
        put.u64(self.trim.0).u64(self.incarnation).u64(self.link.end.0).u32(self.link.crc).zeros();
        seal_prefix(block, MAGIC)
    }

    /// Reads a header without the block's CRC being checked: only good to learn the block's length.
    pub(crate) fn peek(bytes: &[u8]) -> Result<Self, Damage> {
        let mut take = Take::new(bytes);
        take_prefix(&mut take, MAGIC)?;
        let header = Self::take(&mut take).ok_or(Damage::Short)?;
        let length = header.length as usize;
        if length == 0 || !length.is_multiple_of(ALIGNMENT) {
            return Err(Damage::Field("block length"));
        }
        if (header.used as usize) < BLOCK_HEADER_BYTES || header.used > header.length {
            return Err(Damage::Field("used length"));
        }
        if header.lsn.0.checked_add(u64::from(header.length)).is_none() {
            return Err(Damage::Field("position"));
        }
        Ok(header)
    }

    fn take(take: &mut Take<'_>) -> Option<Self> {
        let uuid = Uuid::from_bytes(take.array()?);
        let node = NodeId(take.i32()?);
        let record_count = take.u32()?;
        let (node_epoch, sequence) = (NodeEpoch(take.u64()?), take.u64()?);
        let lsn = Lsn(take.u64()?);
        let (length, used) = (take.u32()?, take.u32()?);
        let (synced, trim) = (Lsn(take.u64()?), Lsn(take.u64()?));
        let incarnation = take.u64()?;
        let link = Link { end: Lsn(take.u64()?), crc: take.u32()? };
        Some(Self {
            uuid,
            node,
            node_epoch,
            sequence,
            lsn,
            record_count,
            length,
            used,
            synced,
            trim,
            incarnation,
            link,
        })
    }

    /// Reads and checks a whole block, whose bytes may be followed by others. Returns its CRC too.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, u32), Damage> {
        let header = Self::peek(bytes)?;
        let block = bytes.get(..header.length as usize).ok_or(Damage::Short)?;
        let stored = take_prefix(&mut Take::new(block), MAGIC)?;
        if crc32c(&block[PREFIX_BYTES..]) == stored { Ok((header, stored)) } else { Err(Damage::Checksum) }
    }

    /// The records of a checked block, in order.
    pub(crate) fn records(&self, block: &[u8]) -> Result<Vec<RecordPlace>, Damage> {
        let used = block.get(..self.used as usize).ok_or(Damage::Short)?;
        // Each record takes at least its header, so the count is bounded before anything is allocated.
        if self.record_count as usize > used.len() / RECORD_HEADER_BYTES {
            return Err(Damage::Field("record count"));
        }
        let mut records = Vec::with_capacity(self.record_count as usize);
        let mut position = BLOCK_HEADER_BYTES;
        for _ in 0..self.record_count {
            let mut take = Take::new(used.get(position..).ok_or(Damage::Field("record"))?);
            let (meta, len) = record_header::decode(&mut take).ok_or(Damage::Field("record header"))?;
            let padded = (len as usize).checked_next_multiple_of(8).ok_or(Damage::Field("record length"))?;
            take.bytes(padded).ok_or(Damage::Field("record length"))?;
            let place = position + RECORD_HEADER_BYTES;
            // A position within a block, whose length fits 32 bits.
            records.push(RecordPlace { meta, position: place as u32, len });
            position = place + padded;
        }
        if position == used.len() { Ok(records) } else { Err(Damage::Field("used length")) }
    }
}

/// A record within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) meta: RecordMeta,
    /// First byte of the payload within the block.
    pub(crate) position: u32,
    /// Payload bytes.
    pub(crate) len: u32,
}
