//! Carries flushes to a device: headers, checksums, the order of writes, the sync, the seal check.

use std::io;

use common::planted::{self, Bug};
use common::{Lsn, NodeId};
use uuid::Uuid;

use super::{Flush, SealedBlock, footer_reserve};
use crate::device::{Slot, WalDevice};
use crate::direct::AlignedBuf;
use crate::format::block_header::{BlockHeader, Link};
use crate::format::seal_sector::{SealSector, SealedBy};
use crate::format::segment_footer::{TRAILER_BYTES, Trailer, footer_bytes, push_block};
use crate::format::segment_header::SegmentHeader;
use crate::format::{Damage, crc32c};

/// Why a flush failed. The log ends with any of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    #[error("writing the log: {0}")]
    Io(#[from] io::Error),
    #[error("the log was sealed by node {} (epoch {})", .0.node, .0.epoch)]
    Sealed(SealedBy),
    #[error("the seal sector cannot be read, which counts as sealed: {0}")]
    Unreadable(Damage),
    #[error("the seal sector belongs to another log")]
    ForeignSeal,
    #[error("the log was closed while its owner had no lease to acknowledge what was written last")]
    NoLease,
}

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Author {
    pub(crate) uuid: Uuid,
    pub(crate) node: NodeId,
    /// Random; differs at each opening.
    pub(crate) incarnation: u64,
    /// Whether the seal sector is read after each flush.
    pub(crate) checks_seal: bool,
}

/// The index of the segment being written, as far as it got.
#[derive(Debug)]
pub(crate) struct SegmentIndex {
    pub(crate) segment: u64,
    pub(crate) slot: Slot,
    /// Empty once it is certain that the index will be left out.
    pub(crate) bytes: Vec<u8>,
    pub(crate) blocks: u64,
    pub(crate) records: u64,
    pub(crate) first_link: Link,
    pub(crate) last: Option<BlockHeader>,
}

impl SegmentIndex {
    pub(crate) fn new(segment: u64, slot: Slot, first_link: Link) -> Self {
        Self { segment, slot, bytes: Vec::new(), blocks: 0, records: 0, first_link, last: None }
    }

    pub(crate) fn push(&mut self, header: &BlockHeader, block: &[u8]) {
        self.blocks += 1;
        self.records += u64::from(header.record_count);
        self.last = Some(*header);
        if footer_reserve(self.slot.usable, self.blocks, self.records).indexed {
            push_block(&mut self.bytes, header, block);
        } else {
            self.bytes = Vec::new();
        }
    }

    /// The footer, and where it goes.
    fn footer(self, last: Link) -> io::Result<Option<(Slot, u64, AlignedBuf)>> {
        let Some(header) = self.last else { return Ok(None) };
        if !footer_reserve(self.slot.usable, self.blocks, self.records).indexed {
            return Ok(None);
        }
        let bytes = footer_bytes(self.blocks, self.records);
        let trailer = Trailer {
            uuid: header.uuid,
            segment: self.segment,
            index_len: u32::try_from(self.bytes.len()).map_err(io::Error::other)?,
            index_crc: crc32c(&self.bytes),
            blocks: u32::try_from(self.blocks).map_err(io::Error::other)?,
            last,
            incarnation: header.incarnation,
            sequence: header.sequence,
            synced: header.synced,
            trim: header.trim,
            first_link: self.first_link,
        };
        let mut footer = AlignedBuf::zeroed(usize::try_from(bytes).map_err(io::Error::other)?)?;
        footer[..self.bytes.len()].copy_from_slice(&self.bytes);
        let at = footer.len() - TRAILER_BYTES;
        trailer.encode(&mut footer[at..]);
        Ok(Some((self.slot, self.slot.usable - bytes, footer)))
    }
}

pub(crate) struct Writer {
    author: Author,
    segment_bytes: u64,
    /// End of the last block that was written.
    link: Link,
    index: Option<SegmentIndex>,
    /// Footers of segments whose blocks are durable once the current flush is: they go with the next one.
    footers: Vec<(Slot, u64, AlignedBuf)>,
    page: AlignedBuf,
    touched: Vec<u32>,
}

impl Writer {
    pub(crate) fn new(author: Author, segment_bytes: u64, link: Link, index: Option<SegmentIndex>) -> io::Result<Self> {
        let page = AlignedBuf::zeroed(1)?;
        Ok(Self { author, segment_bytes, link, index, footers: Vec::new(), page, touched: Vec::new() })
    }

    /// Writes the flush and makes it durable; returns only then, and only if the log is not sealed.
    pub(crate) fn run(&mut self, device: &dyn WalDevice, flush: &mut Flush) -> Result<(), FlushError> {
        self.write(device, flush)?;
        self.sync(device)?;
        self.check_seal(device)
    }

    /// The first step of [`Self::run`]: what is written is not durable yet.
    pub(crate) fn write(&mut self, device: &dyn WalDevice, flush: &mut Flush) -> io::Result<()> {
        self.touched.clear();
        for (slot, offset, footer) in std::mem::take(&mut self.footers) {
            self.touch(slot);
            device.write_at(slot.id, offset, &footer)?;
        }
        let (synced, trim, epoch) = (flush.synced, flush.trim, flush.epoch);
        for block in &mut flush.blocks {
            if self.index.as_ref().is_none_or(|index| index.segment != block.segment) {
                self.start_segment(device, block, trim)?;
            }
            let header = BlockHeader {
                uuid: self.author.uuid,
                node: self.author.node,
                node_epoch: epoch,
                sequence: block.sequence,
                lsn: block.block.lsn(),
                record_count: block.records,
                length: block.buffer.len() as u32,
                used: block.used,
                synced,
                trim,
                incarnation: self.author.incarnation,
                link: self.link,
            };
            let crc = header.encode(block.buffer.as_mut_slice());
            self.link = Link { end: header.end(), crc };
            if let Some(index) = &mut self.index {
                index.push(&header, block.buffer.as_slice());
            }
            self.touch(block.slot);
            let offset = header.lsn.0 - block.segment * self.segment_bytes;
            device.write_at(block.slot.id, offset, block.buffer.as_slice())?;
        }
        Ok(())
    }

    /// The second step: what was written becomes durable. The last one is [`Self::check_seal`].
    pub(crate) fn sync(&self, device: &dyn WalDevice) -> io::Result<()> {
        if planted::is(Bug::AckBeforeFsync) {
            return Ok(());
        }
        let synced = device.sync(&self.touched);
        if planted::is(Bug::AckAfterFailedFsync) { Ok(()) } else { synced }
    }

    fn start_segment(&mut self, device: &dyn WalDevice, block: &SealedBlock, trim: Lsn) -> io::Result<()> {
        let next = SegmentIndex::new(block.segment, block.slot, self.link);
        if let Some(full) = self.index.replace(next) {
            self.footers.extend(full.footer(self.link)?);
        }
        let header = SegmentHeader {
            uuid: self.author.uuid,
            segment: block.segment,
            usable: block.slot.usable,
            trim,
            incarnation: self.author.incarnation,
        };
        header.encode(&mut self.page);
        self.touch(block.slot);
        device.write_at(block.slot.id, 0, &self.page)
    }

    fn touch(&mut self, slot: Slot) {
        if !self.touched.contains(&slot.id) {
            self.touched.push(slot.id);
        }
    }

    /// Reads the seal of a shared log, past any cache: what was made durable before may be published if it is open.
    pub(crate) fn check_seal(&mut self, device: &dyn WalDevice) -> Result<(), FlushError> {
        if !self.author.checks_seal || planted::is(Bug::SkipSealCheck) {
            return Ok(());
        }
        device.read_seal(&mut self.page)?;
        let sector = SealSector::decode(&self.page).map_err(FlushError::Unreadable)?;
        match sector.sealed {
            _ if sector.uuid != self.author.uuid => Err(FlushError::ForeignSeal),
            Some(by) => Err(FlushError::Sealed(by)),
            None => Ok(()),
        }
    }
}
