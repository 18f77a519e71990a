//! Page-aligned block memory, carved from recycled chunks: the one place of this crate with `unsafe`.
//!
//! A chunk is an anonymous map. [`BlockBuffer`]s are disjoint ranges of it: each has one owner who may write,
//! until [`BlockBuffer::freeze`] turns it into immutable [`Bytes`]. When the last buffer and the last slice of
//! a chunk are gone, the chunk goes back to its pool.
#![allow(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use memmap2::{MmapMut, MmapRaw};
use parking_lot::Mutex;

use crate::direct::ALIGNMENT;

/// Hands out chunks; never more than `limit` bytes are mapped at once.
#[derive(Clone, Debug)]
pub(crate) struct ChunkPool {
    inner: Arc<PoolInner>,
}

#[derive(Debug)]
struct PoolInner {
    chunk_bytes: usize,
    limit: usize,
    state: Mutex<PoolState>,
}

#[derive(Debug, Default)]
struct PoolState {
    free: Vec<MmapRaw>,
    mapped: usize,
}

#[derive(Debug)]
struct Chunk {
    /// Only `None` while being dropped.
    map: Option<MmapRaw>,
    pool: Arc<PoolInner>,
}

/// A range of a chunk that one owner may write.
#[derive(Debug)]
pub(crate) struct BlockBuffer {
    chunk: Arc<Chunk>,
    start: usize,
    len: usize,
}

impl ChunkPool {
    pub(crate) fn new(chunk_bytes: usize, limit: usize) -> Self {
        let chunk_bytes = chunk_bytes.next_multiple_of(ALIGNMENT);
        Self { inner: Arc::new(PoolInner { chunk_bytes, limit, state: Mutex::default() }) }
    }

    /// A whole chunk, or a larger one of its own when `at_least` does not fit; `None` at the limit.
    pub(crate) fn allocate(&self, at_least: usize) -> Option<BlockBuffer> {
        let bytes = at_least.max(self.inner.chunk_bytes).checked_next_multiple_of(ALIGNMENT)?;
        let map = self.inner.take(bytes)?;
        let chunk = Arc::new(Chunk { map: Some(map), pool: Arc::clone(&self.inner) });
        Some(BlockBuffer { chunk, start: 0, len: bytes })
    }

    pub(crate) fn limit(&self) -> usize {
        self.inner.limit
    }

    /// Bytes mapped at this moment, in use or kept for reuse.
    #[cfg(test)]
    pub(crate) fn mapped(&self) -> usize {
        self.inner.state.lock().mapped
    }
}

impl PoolInner {
    fn take(&self, bytes: usize) -> Option<MmapRaw> {
        let mut state = self.state.lock();
        if bytes == self.chunk_bytes
            && let Some(map) = state.free.pop()
        {
            return Some(map);
        }
        while state.mapped.checked_add(bytes)? > self.limit {
            let idle = state.free.pop()?;
            state.mapped -= idle.len();
        }
        match MmapMut::map_anon(bytes) {
            Ok(map) => {
                state.mapped += bytes;
                Some(map.into())
            }
            Err(error) => {
                tracing::warn!(%error, bytes, "the system gave no memory for a block");
                None
            }
        }
    }

    fn give_back(&self, map: MmapRaw) {
        let mut state = self.state.lock();
        if map.len() == self.chunk_bytes {
            state.free.push(map);
        } else {
            state.mapped -= map.len();
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            self.pool.give_back(map);
        }
    }
}

impl BlockBuffer {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn pointer(&self) -> *mut u8 {
        let map = self.chunk.map.as_ref().expect("a chunk keeps its map until it is dropped");
        assert!(self.start + self.len <= map.len(), "a buffer lies within its chunk");
        // SAFETY: `start` is within the map, as just checked.
        unsafe { map.as_mut_ptr().add(self.start) }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the range is within a live, initialised (anonymous) map that the chunk keeps alive as long
        // as `self`; nobody else can write it, since ranges of one chunk are disjoint (see `split_off`).
        unsafe { std::slice::from_raw_parts(self.pointer(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_slice`; and `&mut self` makes this the only reference into the range.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.len) }
    }

    /// Splits in two at `at`: `self` keeps the front, the rest is returned.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.len, "a split lies within its buffer");
        let rest = Self { chunk: Arc::clone(&self.chunk), start: self.start + at, len: self.len - at };
        self.len = at;
        rest
    }

    /// Gives up writing.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(Frozen(self))
    }
}

/// A buffer that nobody writes any more.
struct Frozen(BlockBuffer);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_returns_when_its_last_slice_is_dropped() {
        let pool = ChunkPool::new(8192, 16384);
        let mut front = pool.allocate(1).expect("first");
        let rest = front.split_off(4096);
        front.as_mut_slice().fill(1);
        let slice = front.freeze().slice(10..20);
        drop(rest);
        let second = pool.allocate(1).expect("second");
        assert!(pool.allocate(1).is_none());
        assert_eq!(&slice[..], &[1; 10]);
        drop(slice);
        assert!(pool.allocate(1).is_some());
        drop(second);
        assert_eq!(pool.mapped(), 16384);
    }

    #[test]
    fn an_oversized_buffer_takes_the_place_of_idle_chunks() {
        let pool = ChunkPool::new(8192, 24576);
        drop((pool.allocate(1), pool.allocate(1)));
        let big = pool.allocate(20000).expect("fits once idle chunks are gone");
        assert_eq!((big.len(), pool.mapped()), (20480, 20480));
        assert!(pool.allocate(1).is_none());
        drop(big);
        assert_eq!(pool.mapped(), 0);
    }

    #[test]
    fn neighbours_do_not_see_each_others_writes() {
        let pool = ChunkPool::new(8192, 8192);
        let mut front = pool.allocate(1).expect("chunk");
        let mut rest = front.split_off(4096);
        front.as_mut_slice().fill(1);
        rest.as_mut_slice().fill(2);
        assert!(front.as_slice().iter().all(|byte| *byte == 1));
        assert!(rest.as_slice().iter().all(|byte| *byte == 2));
    }
}
