//! The log cache: which durable blocks of the log stay in memory. It owns no copies: the memory is the
//! log's own blocks, released oldest first when the bound is reached, whether uploaded or not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::Lsn;
use parking_lot::Mutex;
use wal::Block;

/// See the module.
#[derive(Debug)]
pub(crate) struct LogCache {
    limit: u64,
    /// One above the position of the newest block that was noted; spares the lock on every further record.
    newest: AtomicU64,
    /// Every block below was released.
    released_below: AtomicU64,
    blocks: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// In log order.
    queue: VecDeque<(Arc<Block>, u64)>,
    /// Leading blocks that are durable, so that their size is known and they may be released.
    durable: usize,
    /// Bytes of those.
    bytes: u64,
}

impl LogCache {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            newest: AtomicU64::new(0),
            released_below: AtomicU64::new(0),
            blocks: Mutex::new(Blocks::default()),
        }
    }

    /// Takes note of the block of a record just appended, and releases what exceeds the bound.
    pub(crate) fn note(&self, block: &Arc<Block>) {
        // What lies in sealed logs comes in through the block cache.
        let Some(lsn) = block.own_lsn() else { return };
        let mark = lsn.0 + 1;
        if self.newest.load(Ordering::Acquire) == mark {
            return;
        }
        let mut blocks = self.blocks.lock();
        let at = blocks.queue.partition_point(|(known, _)| known.own_lsn() < Some(lsn));
        let known = blocks.queue.get(at).is_some_and(|(known, _)| known.own_lsn() == Some(lsn));
        if !known && lsn >= self.released_below() {
            blocks.queue.insert(at, (Arc::clone(block), 0));
            // A block below a durable one is durable itself, but not measured yet.
            if at < blocks.durable {
                blocks.remeasure(at);
            }
            self.newest.fetch_max(mark, Ordering::AcqRel);
        }
        self.release_to(&mut blocks, self.limit);
    }

    /// Releases at least half of the memory: the log has none left.
    pub(crate) fn release_half(&self) {
        let mut blocks = self.blocks.lock();
        blocks.measure();
        let half = blocks.bytes / 2;
        self.release_to(&mut blocks, half);
    }

    /// Every block below this position was released.
    pub(crate) fn released_below(&self) -> Lsn {
        Lsn(self.released_below.load(Ordering::Acquire))
    }

    fn release_to(&self, blocks: &mut Blocks, limit: u64) {
        blocks.measure();
        while blocks.bytes > limit && blocks.durable > 0 {
            let Some((block, size)) = blocks.queue.pop_front() else {
                return;
            };
            blocks.durable -= 1;
            blocks.bytes -= size;
            block.release();
            if let Some(lsn) = block.own_lsn() {
                self.released_below.fetch_max(lsn.0 + 1, Ordering::AcqRel);
            }
        }
    }
}

impl Blocks {
    fn measure(&mut self) {
        while let Some((block, size)) = self.queue.get_mut(self.durable) {
            let Some(bytes) = block.bytes() else { return };
            *size = bytes.len() as u64;
            self.bytes += *size;
            self.durable += 1;
        }
    }

    /// Forgets the measures from `at` on.
    fn remeasure(&mut self, at: usize) {
        self.durable = at;
        self.bytes = self.queue.range(..at).map(|(_, size)| size).sum();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn block(lsn: u64, len: usize) -> Arc<Block> {
        let block = Arc::new(Block::new(Lsn(lsn)));
        if len > 0 {
            block.publish(Bytes::from(vec![0; len]));
        }
        block
    }

    #[test]
    fn releases_the_oldest_durable_blocks_over_the_bound() {
        let cache = LogCache::new(250);
        let blocks: Vec<_> = (0..4).map(|n| block(n * 100, 100)).collect();
        for block in &blocks {
            cache.note(block);
            cache.note(block);
        }
        let in_memory: Vec<bool> = blocks.iter().map(|block| block.bytes().is_some()).collect();
        assert_eq!(in_memory, [false, false, true, true]);
        assert_eq!(cache.released_below(), Lsn(101));
    }

    #[test]
    fn leaves_blocks_that_are_not_durable() {
        let cache = LogCache::new(0);
        let open = block(0, 0);
        cache.note(&open);
        open.publish(Bytes::from_static(b"now durable"));
        assert!(open.bytes().is_some());
        cache.note(&block(100, 0));
        assert!(open.bytes().is_none());
    }

    #[test]
    fn blocks_noted_out_of_order_are_released_in_order() {
        let cache = LogCache::new(1000);
        let (first, second) = (block(0, 100), block(100, 100));
        cache.note(&second);
        cache.note(&first);
        cache.release_half();
        assert!(first.bytes().is_none() && second.bytes().is_some());
    }
}
