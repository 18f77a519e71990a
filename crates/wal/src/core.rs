//! The log as a state machine without I/O: which block is filled, where it will lie, what a flush writes and
//! what is durable when it is done. A thread (or a model test) carries flushes to a device with
//! [`writer::Writer`].

pub(crate) mod ring;
pub(crate) mod writer;

use std::collections::VecDeque;
use std::sync::Arc;

use common::{Lsn, NodeEpoch};

use crate::chunk::{BlockBuffer, ChunkPool};
use crate::device::Slot;
use crate::direct::{ALIGNMENT, align_up};
use crate::format::block_header::BLOCK_HEADER_BYTES;
use crate::format::record_header::{self, RECORD_HEADER_BYTES, record_bytes};
use crate::format::segment_footer::footer_bytes;
use crate::format::segment_header::SEGMENT_HEADER_BYTES;
use crate::{AppendError, Appended, Block, RecordMeta, WalFailed};
use ring::Ring;

/// Room kept behind the last block of records of each segment: for a block that carries a trim mark when the
/// ring is full, and one that carries the last synced mark when the log is closed.
const MARKS_RESERVE_BYTES: u64 = 2 * ALIGNMENT as u64;

/// Sizes the core works with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) segment_bytes: u64,
    pub(crate) block_bytes_max: u32,
    pub(crate) record_bytes_max: u32,
    /// A flush takes no further block once it has so many bytes.
    pub(crate) flush_bytes_max: u64,
}

impl Sizes {
    /// Largest payload that fits a segment of its own, and the configured limit.
    pub(crate) fn payload_max(&self, memory_bytes: usize) -> usize {
        let around = SEGMENT_HEADER_BYTES + MARKS_RESERVE_BYTES + footer_bytes(1, 1) + ALIGNMENT as u64;
        let segment = usize::try_from(self.segment_bytes.saturating_sub(around)).unwrap_or(usize::MAX);
        let room = segment.min(memory_bytes).saturating_sub(BLOCK_HEADER_BYTES + RECORD_HEADER_BYTES + 8);
        room.min(self.record_bytes_max as usize)
    }
}

/// Bytes to keep for a segment's footer; when the index would take more than an eighth of the segment it is
/// left out, and only one page is kept, so that a segment's end never touches the next one's start.
pub(crate) fn footer_reserve(usable: u64, blocks: u64, records: u64) -> FooterReserve {
    let bytes = footer_bytes(blocks, records);
    if bytes > usable / 8 {
        FooterReserve { bytes: ALIGNMENT as u64, indexed: false }
    } else {
        FooterReserve { bytes, indexed: true }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FooterReserve {
    pub(crate) bytes: u64,
    pub(crate) indexed: bool,
}

/// The segment that is being filled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub(crate) segment: u64,
    pub(crate) slot: Slot,
    /// Where the next block starts, from the segment's start.
    pub(crate) position: u64,
    pub(crate) blocks: u64,
    pub(crate) records: u64,
}

impl Tail {
    fn has_room(&self, block_bytes: u64, records: u64, marks: u64) -> bool {
        let footer = footer_reserve(self.slot.usable, self.blocks + 1, self.records + records);
        self.position + block_bytes + marks + footer.bytes <= self.slot.usable
    }
}

/// The block that is being filled.
#[derive(Debug)]
struct OpenBlock {
    block: Arc<Block>,
    buffer: BlockBuffer,
    /// Bytes it may take: never more than `buffer` has.
    limit: usize,
    used: usize,
    records: u32,
}

/// A block that is complete but for its header.
#[derive(Debug)]
pub(crate) struct SealedBlock {
    pub(crate) block: Arc<Block>,
    /// The padded block.
    pub(crate) buffer: BlockBuffer,
    pub(crate) used: u32,
    pub(crate) records: u32,
    pub(crate) sequence: u64,
    pub(crate) segment: u64,
    pub(crate) slot: Slot,
}

impl SealedBlock {
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.block.lsn().0 + self.buffer.len() as u64)
    }
}

/// One group commit.
#[derive(Debug)]
pub(crate) struct Flush {
    pub(crate) blocks: Vec<SealedBlock>,
    pub(crate) synced: Lsn,
    pub(crate) trim: Lsn,
    pub(crate) epoch: NodeEpoch,
}

/// What the thread does next.
#[derive(Debug)]
pub(crate) enum Next {
    Flush(Flush),
    /// Nothing to do until an append, a trim or a close.
    Idle,
    /// The log is closed, all is durable.
    Finished,
}

/// Where the log goes on.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) ring: Ring,
    /// `None` for a log that was never written.
    pub(crate) tail: Option<Tail>,
    pub(crate) end: Lsn,
    pub(crate) trim: Lsn,
    /// The newest trim mark in a block that is part of the log.
    pub(crate) durable_trim: Lsn,
    pub(crate) next_sequence: u64,
    /// Whether no block on disk says that the last one is durable.
    pub(crate) last_unmarked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Closing,
    Closed,
    Failed,
}

#[derive(Debug)]
pub(crate) struct Core {
    sizes: Sizes,
    payload_max: usize,
    pool: ChunkPool,
    ring: Ring,
    tail: Option<Tail>,
    arena: Option<BlockBuffer>,
    open: Option<OpenBlock>,
    sealed: VecDeque<SealedBlock>,
    /// End of the last sealed block.
    end: Lsn,
    durable: Lsn,
    trim: Lsn,
    /// The trim mark that a durable block carries: what lies below may be overwritten.
    durable_trim: Lsn,
    next_sequence: u64,
    last_unmarked: bool,
    in_flight: bool,
    /// An append found no room since the last flush.
    starved: bool,
    epoch: NodeEpoch,
    state: State,
}

impl Core {
    pub(crate) fn new(sizes: Sizes, pool: ChunkPool, start: Start) -> Self {
        Self {
            sizes,
            payload_max: sizes.payload_max(pool.limit()),
            pool,
            ring: start.ring,
            tail: start.tail,
            arena: None,
            open: None,
            sealed: VecDeque::new(),
            end: start.end,
            durable: start.end,
            trim: start.trim,
            durable_trim: start.durable_trim,
            next_sequence: start.next_sequence,
            last_unmarked: start.last_unmarked,
            in_flight: false,
            starved: false,
            epoch: NodeEpoch(0),
            state: State::Running,
        }
    }

    pub(crate) fn append(
        &mut self,
        meta: &RecordMeta,
        payload: &[u8],
        patch: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Appended, AppendError> {
        match self.state {
            State::Running => {}
            State::Failed => return Err(WalFailed.into()),
            State::Closing | State::Closed => return Err(AppendError::Closed),
        }
        if payload.len() > self.payload_max {
            return Err(AppendError::TooLarge { bytes: payload.len(), limit: self.payload_max });
        }
        let need = record_bytes(payload.len());
        if !self.open.as_ref().is_some_and(|open| self.fits(open, need)) {
            self.seal_open();
            self.open_block(need).inspect_err(|error| self.starved |= *error == AppendError::Full)?;
        }
        let open = self.open.as_mut().expect("a block is open, as just ensured");
        Ok(open.push(meta, payload, need, patch))
    }

    fn fits(&self, open: &OpenBlock, need: usize) -> bool {
        let used = open.used + need;
        let block = align_up(used as u64);
        used <= open.limit
            && self.tail.is_some_and(|tail| tail.has_room(block, u64::from(open.records) + 1, MARKS_RESERVE_BYTES))
    }

    fn open_block(&mut self, need: usize) -> Result<(), AppendError> {
        let first = align_up((BLOCK_HEADER_BYTES + need) as u64);
        let bytes = usize::try_from(first).map_err(|_| AppendError::NoMemory)?;
        // Memory first: taking a segment is not undone.
        let buffer = match self.arena.take_if(|arena| arena.len() >= bytes) {
            Some(arena) => arena,
            None => self.pool.allocate(bytes).ok_or(AppendError::NoMemory)?,
        };
        let roll = !self.tail.is_some_and(|tail| tail.has_room(first, 1, MARKS_RESERVE_BYTES));
        if roll && !self.roll(first) {
            self.arena.get_or_insert(buffer);
            return Err(AppendError::Full);
        }
        let tail = self.tail.expect("a segment is open, as just ensured");
        let limit = bytes.max(self.sizes.block_bytes_max as usize).min(buffer.len());
        let lsn = Lsn(tail.segment * self.sizes.segment_bytes + tail.position);
        let block = Arc::new(Block::new(lsn));
        self.open = Some(OpenBlock { block, buffer, limit, used: BLOCK_HEADER_BYTES, records: 0 });
        Ok(())
    }

    /// Starts the next segment in a free slot that holds a first block of `first` bytes.
    fn roll(&mut self, first: u64) -> bool {
        let segment = self.tail.map_or(0, |tail| tail.segment + 1);
        let fresh = |slot| Tail { segment, slot, position: SEGMENT_HEADER_BYTES, blocks: 0, records: 0 };
        let found = self.ring.take_free(|slot| fresh(slot).has_room(first, 1, MARKS_RESERVE_BYTES));
        let Some(slot) = found else { return false };
        self.ring.occupy(segment, slot);
        self.tail = Some(fresh(slot));
        true
    }

    fn seal_open(&mut self) {
        let Some(OpenBlock { block, mut buffer, used, records, .. }) = self.open.take() else { return };
        let padded = align_up(used as u64) as usize;
        let rest = buffer.split_off(padded);
        if rest.len() >= 2 * ALIGNMENT && self.arena.as_ref().is_none_or(|arena| arena.len() < rest.len()) {
            self.arena = Some(rest);
        }
        buffer.as_mut_slice()[used..].fill(0);
        self.push_sealed(block, buffer, used, records);
    }

    fn push_sealed(&mut self, block: Arc<Block>, buffer: BlockBuffer, used: usize, records: u32) {
        let tail = self.tail.as_mut().expect("a sealed block has its place");
        tail.position += buffer.len() as u64;
        tail.blocks += 1;
        tail.records += u64::from(records);
        let (segment, slot) = (tail.segment, tail.slot);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        // A block is smaller than its segment, whose size fits 32 bits.
        let sealed = SealedBlock { block, buffer, used: used as u32, records, sequence, segment, slot };
        self.end = sealed.end();
        self.sealed.push_back(sealed);
    }

    /// What to do next. A flush must be finished, or the core failed, before the next one is asked for.
    pub(crate) fn next(&mut self) -> Next {
        assert!(!self.in_flight, "one flush is in flight at a time");
        if matches!(self.state, State::Closed | State::Failed) {
            return Next::Finished;
        }
        let blocks = self.take_group();
        if blocks.is_empty() {
            if self.state == State::Closing {
                self.state = State::Closed;
                return Next::Finished;
            }
            return Next::Idle;
        }
        self.in_flight = true;
        Next::Flush(Flush { blocks, synced: self.durable, trim: self.trim, epoch: self.epoch })
    }

    fn take_group(&mut self) -> Vec<SealedBlock> {
        let mut blocks = Vec::with_capacity(self.sealed.len() + 1);
        let mut bytes = 0;
        loop {
            if self.sealed.is_empty() {
                self.seal_open();
            }
            let Some(block) = self.sealed.pop_front() else { break };
            bytes += block.buffer.len() as u64;
            blocks.push(block);
            if bytes >= self.sizes.flush_bytes_max {
                break;
            }
        }
        let closing = self.state == State::Closing && self.last_unmarked;
        if blocks.is_empty() && (closing || self.wants_trim_mark()) {
            blocks.extend(self.mark_block());
        }
        blocks
    }

    /// Whether a block without records should carry the trim mark to the disk: when the ring needs a slot that
    /// only waits for that.
    fn wants_trim_mark(&self) -> bool {
        let short = self.starved || !self.ring.has_free();
        self.state == State::Running && short && self.trim > self.durable_trim && self.ring.would_free(self.trim)
    }

    /// A block without records, for the marks in its header.
    fn mark_block(&mut self) -> Option<SealedBlock> {
        let page = ALIGNMENT as u64;
        if !self.tail?.has_room(page, 0, 0) && !self.roll(page) {
            tracing::warn!("no room for a block that carries the log's marks");
            return None;
        }
        // Not from the pool, which readers may have exhausted.
        let mut buffer = ChunkPool::new(ALIGNMENT, ALIGNMENT).allocate(ALIGNMENT)?;
        buffer.as_mut_slice().fill(0);
        let tail = self.tail?;
        let lsn = Lsn(tail.segment * self.sizes.segment_bytes + tail.position);
        self.push_sealed(Arc::new(Block::new(lsn)), buffer, BLOCK_HEADER_BYTES, 0);
        self.sealed.pop_back()
    }

    /// The flush is durable. Returns the new durable position; its blocks may be published now.
    pub(crate) fn finish(&mut self, flush: &Flush) -> Lsn {
        self.in_flight = false;
        let Some(last) = flush.blocks.last() else { return self.durable };
        self.durable = last.end();
        self.last_unmarked = last.records > 0;
        self.durable_trim = self.durable_trim.max(flush.trim);
        self.ring.release(self.durable_trim);
        self.starved = false;
        self.durable
    }

    /// Gives up everything that ends at or below `before`. Returns whether the thread should look.
    pub(crate) fn trim(&mut self, before: Lsn) -> bool {
        self.trim = self.trim.max(before.min(self.durable));
        !self.in_flight && self.wants_trim_mark()
    }

    /// A slot was made or extended in the background.
    pub(crate) fn add_slot(&mut self, slot: Slot) {
        self.ring.add_free(slot);
    }

    /// Takes a free slot of less than `usable` bytes out of the ring, to be extended; not the last free one,
    /// unless it is too short for what waits.
    pub(crate) fn borrow_short_slot(&mut self, usable: u64) -> Option<Slot> {
        if self.ring.free_room().0 < 2 && !self.starved {
            return None;
        }
        self.ring.take_free(|slot| slot.usable < usable)
    }

    /// Ends the log: what is pending is flushed first.
    pub(crate) fn close(&mut self) {
        if self.state == State::Running {
            self.state = State::Closing;
        }
    }

    /// Whether nothing more is taken.
    pub(crate) fn is_closing(&self) -> bool {
        self.state != State::Running
    }

    /// Ends the log after an I/O error.
    pub(crate) fn fail(&mut self) {
        self.state = State::Failed;
        self.in_flight = false;
        self.open = None;
        self.sealed.clear();
    }

    pub(crate) fn set_epoch(&mut self, epoch: NodeEpoch) {
        self.epoch = epoch;
    }

    /// Where a block at `lsn` lies, if it is durable and its segment was not given up: slot, and offset in it.
    pub(crate) fn place_of(&self, lsn: Lsn) -> Option<(Slot, u64)> {
        let (segment, offset) = (lsn.0 / self.sizes.segment_bytes, lsn.0 % self.sizes.segment_bytes);
        let slot = self.ring.slot_of(segment).filter(|_| lsn < self.durable)?;
        Some((slot, offset))
    }

    #[cfg(test)]
    pub(crate) fn trimmed(&self) -> Lsn {
        self.trim
    }

    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.sizes.segment_bytes
    }

    /// Bytes of all slots.
    pub(crate) fn ring_bytes(&self) -> u64 {
        self.ring.bytes()
    }

    /// Free slots, and the bytes of all of them.
    pub(crate) fn free_room(&self) -> (usize, u64) {
        self.ring.free_room()
    }

    /// Bytes between trim mark and end, without what lies unused behind short segments.
    pub(crate) fn used(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |open| open.used as u64);
        self.ring.used(self.trim, self.end) + open
    }
}

impl OpenBlock {
    fn push(&mut self, meta: &RecordMeta, payload: &[u8], need: usize, patch: &mut dyn FnMut(&mut [u8])) -> Appended {
        let position = self.used + RECORD_HEADER_BYTES;
        let record = &mut self.buffer.as_mut_slice()[self.used..self.used + need];
        let (header, body) = record.split_at_mut(RECORD_HEADER_BYTES);
        // Payloads are bounded by the segment, whose size fits 32 bits.
        record_header::encode(meta, payload.len() as u32, header);
        let (copy, padding) = body.split_at_mut(payload.len());
        copy.copy_from_slice(payload);
        patch(copy);
        padding.fill(0);
        self.used += need;
        self.records += 1;
        Appended {
            end: Lsn(self.block.lsn().0 + (position + payload.len()) as u64),
            block: Arc::clone(&self.block),
            position: position as u32,
            len: payload.len() as u32,
        }
    }
}
