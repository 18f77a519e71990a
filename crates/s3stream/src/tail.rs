//! The tail of one stream: what of it lies in the log, or in sealed ones, in offset order. Pure state, no I/O.
//!
//! Offsets, in order: `covered_from <= committed <= next` (when anything cached is left below `committed`),
//! where entries below `committed` are copies of what objects hold, kept while their block is in memory. Where the stream
//! was trimmed above what objects hold, `committed` is its start.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use common::{Lsn, Offset};
use uuid::Uuid;
use wal::{Block, BlockAddress, TAG_BYTES};

use crate::stream::{Fetched, RecordHead, RecordSlice};

/// Un-uploaded checkpoints kept per stream; when one more comes, the oldest goes.
const CHECKPOINTS_MAX: usize = 4;

/// A record that lies in a log.
#[derive(Clone, Debug)]
pub(crate) struct TailEntry {
    pub(crate) base: Offset,
    pub(crate) next: Offset,
    pub(crate) max_timestamp_ms: i64,
    pub(crate) tag: [u8; TAG_BYTES],
    pub(crate) block: Arc<Block>,
    pub(crate) position: u32,
    pub(crate) len: u32,
}

/// Memory that one entry is charged with.
pub(crate) const TAIL_ENTRY_BYTES: u64 = size_of::<TailEntry>() as u64;

/// Exclusive end of a payload in the own log, `None` in a sealed one.
pub(crate) fn own_end(block: &Block, position: u32, len: u32) -> Option<Lsn> {
    block.own_lsn().map(|lsn| Lsn(lsn.0 + u64::from(position) + u64::from(len)))
}

impl TailEntry {
    /// Durable once the own log is durable up to here; `None` for what lies in a sealed one, which is durable.
    pub(crate) fn own_end(&self) -> Option<Lsn> {
        own_end(&self.block, self.position, self.len)
    }

    pub(crate) fn head(&self) -> RecordHead {
        RecordHead {
            base_offset: self.base,
            next_offset: self.next,
            max_timestamp_ms: self.max_timestamp_ms,
            len: self.len,
            tag: self.tag,
        }
    }
}

/// A checkpoint that lies in a log.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointEntry {
    pub(crate) offset: Offset,
    pub(crate) block: Arc<Block>,
    pub(crate) position: u32,
    pub(crate) len: u32,
}

impl CheckpointEntry {
    /// As [`TailEntry::own_end`].
    pub(crate) fn own_end(&self) -> Option<Lsn> {
        own_end(&self.block, self.position, self.len)
    }

    fn is_durable(&self, durable: Lsn) -> bool {
        self.own_end().is_none_or(|end| end <= durable)
    }
}

/// A part of one log, from its beginning on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Span {
    /// Blocks of the own log below `cut`, as far as they are `durable`.
    Own { cut: Lsn, durable: Lsn },
    /// Blocks of a sealed log below `cut`.
    Sealed { log: Uuid, cut: Lsn },
}

impl Span {
    fn holds(&self, entry: &TailEntry) -> bool {
        match (*self, entry.block.address()) {
            (Self::Own { cut, durable }, BlockAddress::Own(lsn)) => {
                lsn < cut && entry.own_end().is_some_and(|end| end <= durable)
            }
            (Self::Sealed { log, cut }, BlockAddress::Sealed(other, lsn)) => log == other && lsn < cut,
            _ => false,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tail {
    committed: Offset,
    next: Offset,
    /// Contiguous, up to `next`.
    entries: VecDeque<TailEntry>,
    /// How many leading entries are below `committed`.
    committed_entries: usize,
    /// In offset order.
    checkpoints: Vec<CheckpointEntry>,
    /// Payload bytes of the entries at or above `committed`.
    pending_bytes: u64,
    /// From here on the own log alone says what an opening needs: see [`crate::anchors`].
    anchor: Option<Lsn>,
    /// The committed entries were recovered from the log for the opening, which has not read them yet.
    recovered: bool,
}

impl Tail {
    /// A tail whose objects end at `committed`. `entries` are contiguous and reach `committed` at least, unless there are
    /// none. Entries below `committed` are there only if they and `checkpoints`, or they alone, are the whole state.
    pub(crate) fn new(committed: Offset, entries: VecDeque<TailEntry>, checkpoints: Vec<CheckpointEntry>) -> Self {
        let next = entries.back().map_or(committed, |entry| entry.next);
        let committed_entries = entries.partition_point(|entry| entry.next <= committed);
        let pending_bytes = entries.range(committed_entries..).map(|entry| u64::from(entry.len)).sum();
        let from_nothing = entries.front().filter(|entry| entry.base == Offset(0));
        let anchor = match checkpoints.first() {
            Some(checkpoint) => checkpoint.block.own_lsn(),
            None => from_nothing.and_then(|entry| entry.block.own_lsn()),
        };
        Self {
            committed,
            next,
            entries,
            committed_entries,
            checkpoints,
            pending_bytes,
            anchor,
            recovered: committed_entries > 0,
        }
    }

    /// Where the log must not be trimmed, so that an opening needs no store; `None` when it needs it, or needs nothing.
    pub(crate) fn anchor(&mut self, durable: Lsn) -> Option<Lsn> {
        let newest = self.checkpoints.iter().rev().find(|checkpoint| checkpoint.is_durable(durable));
        self.anchor = self.anchor.max(newest.and_then(|checkpoint| checkpoint.block.own_lsn()));
        self.anchor
    }

    /// Whether a new checkpoint should go into the log: the newest lies below `oldest`, or only the store has one.
    pub(crate) fn wants_anchor(&mut self, oldest: Lsn, durable: Lsn) -> bool {
        self.next > Offset(0) && self.anchor(durable).is_none_or(|anchor| anchor < oldest)
    }

    /// Whether every record there ever was is in the entries.
    pub(crate) fn is_whole(&self) -> bool {
        self.entries.front().is_some_and(|entry| entry.base == Offset(0))
    }

    /// Whether the log, or a sealed one, says what an opening needs.
    pub(crate) fn is_anchored(&self) -> bool {
        // A sealed log has no anchor to lose: it is not trimmed.
        let adopted_whole = || self.is_whole() && self.entries[0].block.origin().is_some();
        self.anchor.is_some() || !self.checkpoints.is_empty() || self.next == Offset(0) || adopted_whole()
    }

    /// Whether the next opening would need the store, or a sealed log, once that is gone.
    pub(crate) fn is_adrift(&self) -> bool {
        let in_own = |checkpoint: &CheckpointEntry| checkpoint.block.own_lsn().is_some();
        self.anchor.is_none() && !self.checkpoints.iter().any(in_own) && self.next > Offset(0)
    }

    /// The log was trimmed up to `before` although an anchor may lie below.
    pub(crate) fn cut_anchor(&mut self, before: Lsn) {
        self.checkpoints.retain(|checkpoint| checkpoint.block.own_lsn().is_none_or(|lsn| lsn >= before));
        self.anchor = self.anchor.filter(|anchor| *anchor >= before);
    }

    pub(crate) fn committed(&self) -> Offset {
        self.committed
    }

    pub(crate) fn next(&self) -> Offset {
        self.next
    }

    /// Everything from here to `next` is in the entries.
    pub(crate) fn covered_from(&self) -> Offset {
        self.entries.front().map_or(self.next, |entry| entry.base)
    }

    /// Payload bytes that no object holds yet.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    pub(crate) fn push(&mut self, entry: TailEntry) {
        assert!(entry.base == self.next, "an append must start at the next offset");
        assert!(entry.next > entry.base, "a record must hold an offset");
        if entry.base == Offset(0) {
            self.anchor = entry.block.own_lsn();
        }
        self.next = entry.next;
        self.pending_bytes += u64::from(entry.len);
        self.entries.push_back(entry);
    }

    pub(crate) fn push_checkpoint(&mut self, checkpoint: CheckpointEntry) {
        if self.checkpoints.len() == CHECKPOINTS_MAX {
            self.checkpoints.remove(0);
        }
        self.checkpoints.push(checkpoint);
    }

    /// The newest checkpoint that only the log holds.
    pub(crate) fn newest_checkpoint(&self) -> Option<&CheckpointEntry> {
        self.checkpoints.last()
    }

    /// Whether there are records that no object holds.
    pub(crate) fn has_pending(&self) -> bool {
        self.committed_entries < self.entries.len()
    }

    /// Where the oldest record that no object holds lies.
    pub(crate) fn first_pending(&self) -> Option<BlockAddress> {
        self.entries.get(self.committed_entries).map(|entry| entry.block.address())
    }

    /// Where the oldest record that only the own log holds lies in it. What was adopted lies in front of most.
    pub(crate) fn first_own_pending(&self) -> Option<Lsn> {
        self.entries.range(self.committed_entries..).find_map(|entry| entry.block.own_lsn())
    }

    /// End of the newest record that only the own log holds.
    pub(crate) fn newest_lsn(&self) -> Option<Lsn> {
        self.entries.range(self.committed_entries..).next_back().and_then(TailEntry::own_end)
    }

    /// The oldest un-uploaded entries as far as they lie in `span`, and the newest checkpoint at or below their end.
    pub(crate) fn pending(&self, span: Span, durable: Lsn) -> (Vec<TailEntry>, Option<CheckpointEntry>) {
        let pending = self.entries.range(self.committed_entries..);
        let entries: Vec<TailEntry> = pending.take_while(|entry| span.holds(entry)).cloned().collect();
        let Some(end) = entries.last().map(|entry| entry.next) else {
            return (entries, None);
        };
        let durable_here = |checkpoint: &&CheckpointEntry| {
            checkpoint.offset <= end && checkpoint.offset >= self.committed && checkpoint.is_durable(durable)
        };
        let checkpoint = self.checkpoints.iter().rev().find(durable_here).cloned();
        (entries, checkpoint)
    }

    /// All entries that no object holds, durable or not, and the newest checkpoint among them.
    pub(crate) fn un_uploaded(&self) -> (Vec<TailEntry>, Option<CheckpointEntry>) {
        let entries: Vec<TailEntry> = self.entries.range(self.committed_entries..).cloned().collect();
        let from = entries.first().map_or(self.next, |entry| entry.base);
        let checkpoint = self.checkpoints.last().filter(|checkpoint| checkpoint.offset >= from);
        (entries, checkpoint.cloned())
    }

    /// Objects hold everything below `end` now, checkpoints up to `checkpoint` included.
    pub(crate) fn commit(&mut self, end: Offset, checkpoint: Option<Offset>) {
        self.committed = self.committed.max(end);
        while let Some(entry) = self.entries.get(self.committed_entries) {
            if entry.next > self.committed {
                break;
            }
            self.pending_bytes -= u64::from(entry.len);
            self.committed_entries += 1;
        }
        self.next = self.next.max(self.committed);
        if let Some(offset) = checkpoint {
            // What is committed was durable.
            let newest = self.checkpoints.iter().rev().find(|kept| kept.offset <= offset);
            self.anchor = self.anchor.max(newest.and_then(|kept| kept.block.own_lsn()));
            self.checkpoints.retain(|kept| kept.offset > offset);
        }
    }

    /// Drops entries that objects hold and whose block was released (`released_below`), or lies in a sealed log, which is
    /// not read any more than it must be. Returns how many.
    pub(crate) fn drop_released(&mut self, released_below: Lsn) -> usize {
        let mut dropped = 0;
        let released = |entry: &TailEntry| entry.block.own_lsn().map_or(!self.recovered, |lsn| lsn < released_below);
        while self.committed_entries > 0 && self.entries.front().is_some_and(released) {
            self.entries.pop_front();
            self.committed_entries -= 1;
            dropped += 1;
        }
        if dropped > 0 && self.entries.capacity() > 16 && self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to_fit();
        }
        dropped
    }

    /// Whether the record at `from` is to be read from the log: no object holds it, or it was recovered for the opening.
    pub(crate) fn is_read_from_log(&self, from: Offset) -> bool {
        from >= self.committed || self.recovered && from >= self.covered_from()
    }

    /// Drops what was recovered for the opening and is held by objects. Returns how many.
    pub(crate) fn drop_recovered(&mut self) -> usize {
        if self.recovered { self.drop_committed() } else { 0 }
    }

    /// Drops all entries that objects hold. Returns how many.
    pub(crate) fn drop_committed(&mut self) -> usize {
        self.recovered = false;
        let dropped = std::mem::take(&mut self.committed_entries);
        self.entries.drain(..dropped);
        self.entries.shrink_to_fit();
        dropped
    }

    /// Forgets entries that end at or below `start`, which must not be above `next`. Those that no object holds are not
    /// uploaded any more: nothing has to be there, and the log that holds them may be given up. Returns how many.
    pub(crate) fn trim(&mut self, start: Offset) -> usize {
        self.commit(start, None);
        let below = self.entries.partition_point(|entry| entry.next <= start).min(self.committed_entries);
        self.entries.drain(..below);
        self.committed_entries -= below;
        below
    }

    /// Forgets everything that is not committed: the stream is gone or belongs to somebody else.
    /// Returns how many entries went, and their payload bytes.
    pub(crate) fn abandon(&mut self) -> (usize, u64) {
        let dropped = self.entries.len();
        let bytes = self.pending_bytes;
        self.entries.clear();
        self.checkpoints.clear();
        self.committed_entries = 0;
        self.pending_bytes = 0;
        self.anchor = None;
        self.next = self.committed;
        (dropped, bytes)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries from the one that holds `from` on.
    pub(crate) fn from(&self, from: Offset) -> impl Iterator<Item = &TailEntry> {
        let first = self.entries.partition_point(|entry| entry.next <= from);
        self.entries.range(first..)
    }

    /// Adds slices from `from` on to `out` while `budget` allows; the first record always fits when `out` is
    /// empty. `false` when the very next record is not in memory, so that nothing could be added.
    pub(crate) fn collect(&self, from: Offset, until: Offset, max_bytes: usize, out: &mut Fetched) -> bool {
        for entry in self.from(from) {
            if entry.next > until || !out.has_room(entry.len as usize, max_bytes) {
                return true;
            }
            let Some(bytes) = entry.block.slice(entry.position, entry.len) else {
                return !out.slices.is_empty();
            };
            out.push(entry.base, entry.next, bytes);
        }
        true
    }
}

impl Fetched {
    /// Whether a record of `len` bytes may be added.
    pub(crate) fn has_room(&self, len: usize, max_bytes: usize) -> bool {
        self.slices.is_empty() || self.bytes.saturating_add(len) <= max_bytes
    }

    pub(crate) fn push(&mut self, base_offset: Offset, next_offset: Offset, bytes: Bytes) {
        self.bytes += bytes.len();
        self.slices.push(RecordSlice { base_offset, next_offset, bytes });
    }
}
