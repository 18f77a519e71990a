//! Reading a block back from the device.

use std::sync::Arc;

use bytes::Bytes;
use common::Lsn;
use uuid::Uuid;

use crate::device::{Slot, WalDevice};
use crate::direct::AlignedBuf;
use crate::format::block_header::BlockHeader;
use crate::{Block, ReadError};

/// Read at first: most blocks are whole with it.
const FIRST_READ_BYTES: u64 = 128 << 10;

/// Where a block should lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) uuid: Uuid,
    pub(crate) lsn: Lsn,
    pub(crate) slot: Slot,
    /// Of the block, within the slot.
    pub(crate) offset: u64,
}

/// Reads and checks the block that starts at a place.
pub(crate) fn read_block(device: &dyn WalDevice, place: Place) -> Result<Arc<Block>, ReadError> {
    let corrupt = |reason: String| ReadError::Corrupt { lsn: place.lsn, reason };
    let room = place.slot.usable.checked_sub(place.offset).filter(|room| *room > 0);
    let room = room.ok_or(ReadError::NotFound(place.lsn))?;
    let mut buf = AlignedBuf::zeroed(room.min(FIRST_READ_BYTES) as usize)?;
    device.read_at(place.slot.id, place.offset, &mut buf)?;
    let named = |damage| corrupt(format!("{damage} ({})", device.describe(place.slot.id, place.offset)));
    let header = BlockHeader::peek(&buf).map_err(named)?;
    if header.uuid != place.uuid || header.lsn != place.lsn {
        return Err(corrupt(format!("another block lies there, of log {} at {}", header.uuid, header.lsn)));
    }
    let length = header.length as usize;
    if length as u64 > room {
        return Err(corrupt("it reaches beyond its segment".to_owned()));
    }
    if length > buf.len() {
        let mut whole = AlignedBuf::zeroed(length)?;
        let (front, rest) = whole.split_at_mut(buf.len());
        front.copy_from_slice(&buf);
        device.read_at(place.slot.id, place.offset + front.len() as u64, rest)?;
        buf = whole;
    }
    BlockHeader::decode(&buf[..length]).map_err(named)?;
    if length * 2 <= buf.len() {
        // Do not let a small block hold the whole read.
        let mut exact = AlignedBuf::zeroed(length)?;
        exact.copy_from_slice(&buf[..length]);
        buf = exact;
    }
    let block = Arc::new(Block::new(place.lsn));
    block.publish(Bytes::from_owner(buf).slice(..length));
    Ok(block)
}
