//! Which slot holds which segment, and which slots are free.

use std::collections::{BTreeMap, VecDeque};

use common::Lsn;

use crate::device::Slot;
use crate::format::segment_header::SEGMENT_HEADER_BYTES;

#[derive(Debug)]
pub(crate) struct Ring {
    segment_bytes: u64,
    live: BTreeMap<u64, Slot>,
    free: VecDeque<Slot>,
}

impl Ring {
    pub(crate) fn new(segment_bytes: u64, live: BTreeMap<u64, Slot>, free: VecDeque<Slot>) -> Self {
        Self { segment_bytes, live, free }
    }

    /// Takes the longest-free slot that suits.
    pub(crate) fn take_free(&mut self, suits: impl Fn(Slot) -> bool) -> Option<Slot> {
        let at = self.free.iter().position(|slot| suits(*slot))?;
        self.free.remove(at)
    }

    pub(crate) fn add_free(&mut self, slot: Slot) {
        self.free.push_back(slot);
    }

    pub(crate) fn occupy(&mut self, segment: u64, slot: Slot) {
        self.live.insert(segment, slot);
    }

    pub(crate) fn slot_of(&self, segment: u64) -> Option<Slot> {
        self.live.get(&segment).copied()
    }

    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Free slots, and the bytes of all of them.
    pub(crate) fn free_room(&self) -> (usize, u64) {
        (self.free.len(), self.free.iter().map(|slot| slot.usable).sum())
    }

    /// Whether a segment ends at or below `before`.
    pub(crate) fn would_free(&self, before: Lsn) -> bool {
        self.live.keys().next().is_some_and(|segment| (segment + 1) * self.segment_bytes <= before.0)
    }

    /// Frees the slots of segments that end at or below `before`. The segment that holds `before` itself, and
    /// so the one being filled, stays.
    pub(crate) fn release(&mut self, before: Lsn) {
        let kept = self.live.split_off(&(before.0 / self.segment_bytes));
        self.free.extend(std::mem::replace(&mut self.live, kept).into_values());
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.live.values().chain(&self.free).map(|slot| slot.usable).sum()
    }

    pub(crate) fn used(&self, trim: Lsn, end: Lsn) -> u64 {
        let (first, last) = (trim.0 / self.segment_bytes, end.0 / self.segment_bytes);
        let bytes = |(segment, slot): (&u64, &Slot)| {
            let start = segment * self.segment_bytes;
            let from = trim.0.max(start + SEGMENT_HEADER_BYTES);
            let to = if *segment < last { start + slot.usable } else { end.0.max(start) };
            to.saturating_sub(from)
        };
        if self.live.is_empty() { 0 } else { self.live.range(first..).map(bytes).sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_the_mark_is_freed() {
        const SEGMENT: u64 = 64 << 10;
        let slot = |id| Slot { id, usable: SEGMENT };
        let live = BTreeMap::from([(3, slot(0)), (4, slot(1)), (5, slot(2))]);
        let mut ring = Ring::new(SEGMENT, live, VecDeque::new());
        assert!(!ring.would_free(Lsn(4 * SEGMENT - 1)) && ring.would_free(Lsn(4 * SEGMENT)));
        ring.release(Lsn(5 * SEGMENT + 9));
        assert_eq!(ring.free_room(), (2, 2 * SEGMENT));
        assert_eq!((ring.slot_of(4), ring.slot_of(5)), (None, Some(slot(2))));
        assert_eq!(ring.used(Lsn(5 * SEGMENT + 9), Lsn(5 * SEGMENT + 8192)), 4096);
    }
}
