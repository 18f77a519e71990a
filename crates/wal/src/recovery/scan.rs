//! Reading one slot: which segment it holds, its blocks by footer or one by one, and what lies behind them.

use std::io;

use common::Lsn;
use uuid::Uuid;

use crate::core::writer::SegmentIndex;
use crate::device::{Slot, WalDevice};
use crate::direct::{ALIGNMENT, AlignedBuf, align_up};
use crate::format::Damage;
use crate::format::block_header::{BlockHeader, Link};
use crate::format::segment_footer::{IndexedBlock, TRAILER_BYTES, Trailer, decode_index};
use crate::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};

/// Read at once when scanning.
const WINDOW_BYTES: u64 = 4 << 20;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) uuid: Uuid,
    pub(crate) segment_bytes: u64,
    /// What lies here or behind does not count: a log that was sealed ends here, whatever its late owner went on writing.
    pub(crate) end: Lsn,
}

/// What the front of a slot says.
#[derive(Debug)]
pub(crate) enum Holding {
    /// Zeros, or another log's bytes.
    Nothing,
    /// Neither the header nor the first block can be read.
    Unknown,
    Segment {
        number: u64,
        usable: u64,
        trim: Lsn,
    },
}

/// The last block of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastBlock {
    pub(crate) link: Link,
    pub(crate) sequence: u64,
    pub(crate) records: u32,
}

/// A segment as it was read.
#[derive(Debug)]
pub(crate) struct SegmentView {
    pub(crate) segment: u64,
    pub(crate) slot: Slot,
    pub(crate) blocks: Vec<IndexedBlock>,
    pub(crate) first_link: Option<Link>,
    pub(crate) last: Option<LastBlock>,
    /// Newest marks of its blocks.
    pub(crate) synced: Lsn,
    pub(crate) trim: Lsn,
    /// Where its last valid block ends.
    pub(crate) end: Lsn,
    /// Why the next block was not taken.
    pub(crate) stopped: Damage,
    /// `None` when it was read by its footer.
    pub(crate) index: Option<SegmentIndex>,
}

impl SegmentView {
    pub(crate) fn last_link(&self) -> Option<Link> {
        self.last.map(|last| last.link)
    }
}

/// Reads the slot's header, or failing that its first block.
pub(crate) fn identify(device: &dyn WalDevice, identity: Identity, slot: Slot) -> io::Result<Holding> {
    let front = 2 * ALIGNMENT as u64;
    if slot.usable < 2 * front {
        return Ok(Holding::Nothing);
    }
    let mut buf = AlignedBuf::zeroed(front as usize)?;
    device.read_at(slot.id, 0, &mut buf)?;
    let (header, block) = buf.split_at(ALIGNMENT);
    let numbers = u64::MAX / identity.segment_bytes;
    match SegmentHeader::decode(header) {
        Ok(header) if header.uuid != identity.uuid => return Ok(Holding::Nothing),
        Ok(header) if header.segment.saturating_mul(identity.segment_bytes) >= identity.end.0 => {
            return Ok(Holding::Nothing);
        }
        Ok(header) if header.segment < numbers && header.usable <= slot.usable => {
            let (number, usable, trim) = (header.segment, header.usable, header.trim);
            return Ok(Holding::Segment { number, usable, trim });
        }
        _ => {}
    }
    if let Ok(first) = BlockHeader::peek(block)
        && first.uuid == identity.uuid
        && first.lsn.0 % identity.segment_bytes == SEGMENT_HEADER_BYTES
        && first.lsn < identity.end
    {
        let number = first.lsn.0 / identity.segment_bytes;
        return Ok(Holding::Segment { number, usable: slot.usable, trim: Lsn(0) });
    }
    let blank = buf.iter().all(|byte| *byte == 0);
    Ok(if blank { Holding::Nothing } else { Holding::Unknown })
}

/// Reads a segment by its footer, or block by block when it has no valid one.
pub(crate) fn read_segment(
    device: &dyn WalDevice,
    identity: Identity,
    segment: u64,
    slot: Slot,
) -> io::Result<SegmentView> {
    match read_footer(device, identity, segment, slot)? {
        Some(view) => Ok(view),
        None => scan_blocks(device, identity, segment, slot),
    }
}

fn read_footer(
    device: &dyn WalDevice,
    identity: Identity,
    segment: u64,
    slot: Slot,
) -> io::Result<Option<SegmentView>> {
    let mut buf = AlignedBuf::zeroed(ALIGNMENT)?;
    device.read_at(slot.id, slot.usable - ALIGNMENT as u64, &mut buf)?;
    let Ok(trailer) = Trailer::decode(&buf[ALIGNMENT - TRAILER_BYTES..]) else { return Ok(None) };
    let length = align_up(u64::from(trailer.index_len) + TRAILER_BYTES as u64);
    let counts = trailer.uuid == identity.uuid && trailer.segment == segment && trailer.last.end <= identity.end;
    if !counts || length > slot.usable / 2 {
        return Ok(None);
    }
    if length as usize > buf.len() {
        buf = AlignedBuf::zeroed(length as usize)?;
        device.read_at(slot.id, slot.usable - length, &mut buf)?;
    }
    let Ok(blocks) = decode_index(&trailer, &buf[..trailer.index_len as usize]) else { return Ok(None) };
    let Some(last) = blocks.last() else { return Ok(None) };
    if last.lsn.0.checked_add(u64::from(last.length)) != Some(trailer.last.end.0) {
        return Ok(None);
    }
    let records = last.records.len() as u32;
    Ok(Some(SegmentView {
        segment,
        slot,
        first_link: Some(trailer.first_link),
        last: Some(LastBlock { link: trailer.last, sequence: trailer.sequence, records }),
        synced: trailer.synced,
        trim: trailer.trim,
        end: trailer.last.end,
        stopped: Damage::Short,
        index: None,
        blocks,
    }))
}

/// Reads the blocks of a segment from its first one on, as long as each continues the one before.
pub(crate) fn scan_blocks(
    device: &dyn WalDevice,
    identity: Identity,
    segment: u64,
    slot: Slot,
) -> io::Result<SegmentView> {
    let base = segment * identity.segment_bytes;
    let mut window = Window::new(device, slot);
    let mut view = SegmentView {
        segment,
        slot,
        blocks: Vec::new(),
        first_link: None,
        last: None,
        synced: Lsn(0),
        trim: Lsn(0),
        end: Lsn(base + SEGMENT_HEADER_BYTES),
        stopped: Damage::Short,
        index: None,
    };
    let mut index = SegmentIndex::new(segment, slot, Link::default());
    loop {
        match next_block(&mut window, identity, &view, view.end.0 - base)? {
            Ok((header, crc, length)) => {
                let block = window.get(view.end.0 - base, length)?.unwrap_or_default();
                let records = match header.records(block) {
                    Ok(records) => records,
                    Err(damage) => {
                        view.stopped = damage;
                        break;
                    }
                };
                if view.first_link.is_none() {
                    view.first_link = Some(header.link);
                    index.first_link = header.link;
                }
                index.push(&header, block);
                view.blocks.push(IndexedBlock { lsn: header.lsn, length: header.length, records });
                view.synced = view.synced.max(header.synced);
                view.trim = view.trim.max(header.trim);
                view.end = header.end();
                let link = Link { end: header.end(), crc };
                view.last = Some(LastBlock { link, sequence: header.sequence, records: header.record_count });
            }
            Err(damage) => {
                view.stopped = damage;
                break;
            }
        }
    }
    view.index = Some(index);
    Ok(view)
}

type Found = Result<(BlockHeader, u32, u64), Damage>;

/// The block at `offset`, if it is valid and continues the view.
fn next_block(window: &mut Window<'_>, identity: Identity, view: &SegmentView, offset: u64) -> io::Result<Found> {
    let expected = view.end;
    if expected >= identity.end {
        return Ok(Err(Damage::Short));
    }
    let (header, crc) = match valid_block(window, identity, offset, expected)? {
        Ok(found) => found,
        Err(damage) => return Ok(Err(damage)),
    };
    if let Some(last) = view.last {
        if header.link != last.link {
            return Ok(Err(Damage::Foreign("previous block")));
        }
        if Some(header.sequence) != last.sequence.checked_add(1) {
            return Ok(Err(Damage::Foreign("block sequence")));
        }
    }
    Ok(Ok((header, crc, u64::from(header.length))))
}

/// The block at `offset`, if it is whole, of this log and of this place.
fn valid_block(
    window: &mut Window<'_>,
    identity: Identity,
    offset: u64,
    lsn: Lsn,
) -> io::Result<Result<(BlockHeader, u32), Damage>> {
    let Some(page) = window.get(offset, ALIGNMENT as u64)? else { return Ok(Err(Damage::Short)) };
    let header = match BlockHeader::peek(page) {
        Ok(header) => header,
        Err(damage) => return Ok(Err(damage)),
    };
    if header.uuid != identity.uuid {
        return Ok(Err(Damage::Foreign("uuid")));
    }
    if header.lsn != lsn {
        return Ok(Err(Damage::Foreign("position")));
    }
    match window.get(offset, u64::from(header.length))? {
        Some(block) => Ok(BlockHeader::decode(block)),
        None => Ok(Err(Damage::Short)),
    }
}

/// The newest synced or trim mark above `end` in any valid block of this log from `offset` on, wherever the
/// slot's blocks claim to lie.
pub(crate) fn newest_mark(
    device: &dyn WalDevice,
    identity: Identity,
    slot: Slot,
    offset: u64,
    end: Lsn,
) -> io::Result<Option<Lsn>> {
    let mut window = Window::new(device, slot);
    let mut newest = None;
    let mut at = offset;
    while let Some(page) = window.get(at, ALIGNMENT as u64)? {
        let step = match BlockHeader::peek(page) {
            Ok(header) if header.uuid == identity.uuid && header.lsn.0 % identity.segment_bytes == at => {
                match valid_block(&mut window, identity, at, header.lsn)? {
                    Ok((header, _)) => {
                        let mark = header.synced.max(header.trim);
                        // Older laps of the ring lie here too; their marks are below the end.
                        newest = newest.max(Some(mark).filter(|mark| *mark > end));
                        u64::from(header.length)
                    }
                    Err(_) => ALIGNMENT as u64,
                }
            }
            _ => ALIGNMENT as u64,
        };
        at += step;
    }
    Ok(newest)
}

/// Large reads, handed out piece by piece.
struct Window<'a> {
    device: &'a dyn WalDevice,
    slot: Slot,
    buf: Option<AlignedBuf>,
    start: u64,
    len: u64,
}

impl<'a> Window<'a> {
    fn new(device: &'a dyn WalDevice, slot: Slot) -> Self {
        Self { device, slot, buf: None, start: 0, len: 0 }
    }

    /// The bytes `offset..offset + len`, `None` beyond the slot's end. Both are multiples of 4 KiB.
    fn get(&mut self, offset: u64, len: u64) -> io::Result<Option<&[u8]>> {
        let Some(end) = offset.checked_add(len).filter(|end| *end <= self.slot.usable) else { return Ok(None) };
        if offset < self.start || end > self.start + self.len {
            let want = WINDOW_BYTES.max(len).min(self.slot.usable - offset);
            if self.buf.as_ref().is_none_or(|buf| (buf.len() as u64) < want) {
                self.buf = None;
                self.buf = Some(AlignedBuf::zeroed(want as usize)?);
            }
            self.len = 0;
            let buf = self.buf.as_mut().expect("just made");
            self.device.read_at(self.slot.id, offset, &mut buf[..want as usize])?;
            (self.start, self.len) = (offset, want);
        }
        let from = (offset - self.start) as usize;
        Ok(self.buf.as_deref().and_then(|buf| buf.get(from..from + len as usize)))
    }
}
