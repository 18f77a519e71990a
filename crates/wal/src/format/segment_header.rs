//! First page of a slot: which segment of the endless log it holds now.
//!
//! ```text
//!   0 magic "OTTLSEGM" · 8 version u32 · 12 CRC32C u32 of bytes 16..4096
//!  16 log uuid [16] · 32 segment number u64 · 40 usable bytes u64 · 48 trim mark u64 · 56 incarnation u64 · zero
//! ```
//! Written with the first blocks of the segment, in one flush: no block of it is acknowledged before it is durable.

use common::Lsn;
use uuid::Uuid;

use super::{Damage, Put, open_prefix, seal_prefix};
use crate::direct::ALIGNMENT;

/// Where the first block of a segment lies.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = ALIGNMENT as u64;
const MAGIC: [u8; 8] = *b"OTTLSEGM";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) uuid: Uuid,
    /// Number of the segment: its LSNs start at `segment × segment bytes`.
    pub(crate) segment: u64,
    /// Bytes of the slot in use, header and footer included; less than the segment bytes in a young ring.
    pub(crate) usable: u64,
    pub(crate) trim: Lsn,
    pub(crate) incarnation: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, page: &mut [u8]) {
        let mut put = Put::after_prefix(&mut *page);
        put.array(self.uuid.as_bytes()).u64(self.segment).u64(self.usable).u64(self.trim.0);
        put.u64(self.incarnation).zeros();
        seal_prefix(page, MAGIC);
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, Damage> {
        let (mut take, _) = open_prefix(page, MAGIC)?;
        let uuid = Uuid::from_bytes(take.array().ok_or(Damage::Short)?);
        let mut number = || take.u64().ok_or(Damage::Short);
        let (segment, usable) = (number()?, number()?);
        Ok(Self { uuid, segment, usable, trim: Lsn(number()?), incarnation: number()? })
    }
}
