//! The high watermark, derived lazily from the log's durable position: no task and no wake-up per append.

use std::collections::VecDeque;

use common::Lsn;
use common::planted::{self, Bug};

/// Capacity that an emptied queue may keep, entries.
const IDLE_CAPACITY: usize = 16;

/// The high watermark, and the appends above it that are not yet durable.
#[derive(Debug)]
pub(crate) struct HighWatermark {
    /// Exclusive end of what is known to be durable.
    offset: i64,
    /// Appends in order: durable position they need, and the partition's end after them.
    pending: VecDeque<(Lsn, i64)>,
}

impl HighWatermark {
    /// Everything below `offset` is durable, nothing is pending.
    pub(crate) fn at(offset: i64) -> Self {
        Self { offset, pending: VecDeque::new() }
    }

    /// An append that ends at `next_offset` will be durable at `lsn`.
    pub(crate) fn push(&mut self, lsn: Lsn, next_offset: i64) {
        debug_assert!(self.pending.back().is_none_or(|(last, end)| *last <= lsn && *end < next_offset));
        self.pending.push_back((lsn, next_offset));
    }

    /// Takes over what is durable by now, and returns the high watermark.
    pub(crate) fn follow(&mut self, durable: Lsn) -> i64 {
        while let Some((lsn, next_offset)) = self.pending.front() {
            if *lsn > durable && !planted::is(Bug::ReadUndurable) {
                return self.offset;
            }
            self.offset = *next_offset;
            self.pending.pop_front();
        }
        if self.pending.capacity() > IDLE_CAPACITY {
            self.pending.shrink_to(IDLE_CAPACITY / 2);
        }
        self.offset
    }

    /// The durable position that makes `offset` (inclusive) readable; `None` when it is already, or was never
    /// appended.
    pub(crate) fn lsn_of(&self, offset: i64) -> Option<Lsn> {
        if offset < self.offset {
            return None;
        }
        let index = self.pending.partition_point(|(_, next_offset)| *next_offset <= offset);
        self.pending.get(index).map(|(lsn, _)| *lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_durable_position_and_never_runs_ahead() {
        let mut watermark = HighWatermark::at(5);
        watermark.push(Lsn(100), 7);
        watermark.push(Lsn(200), 8);
        watermark.push(Lsn(200), 12);
        assert_eq!(watermark.follow(Lsn(99)), 5);
        assert_eq!(watermark.follow(Lsn(100)), 7);
        assert_eq!(watermark.follow(Lsn(199)), 7);
        assert_eq!(watermark.follow(Lsn(u64::MAX)), 12);
    }

    #[test]
    fn knows_when_an_offset_becomes_readable() {
        let mut watermark = HighWatermark::at(5);
        watermark.push(Lsn(100), 7);
        watermark.push(Lsn(200), 9);
        assert_eq!(watermark.lsn_of(4), None);
        assert_eq!(watermark.lsn_of(5), Some(Lsn(100)));
        assert_eq!(watermark.lsn_of(7), Some(Lsn(200)));
        assert_eq!(watermark.lsn_of(9), None);
    }
}
