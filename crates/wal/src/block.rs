//! A block: the unit of one write to the log, and the memory that readers and uploads slice.

use bytes::Bytes;
use common::Lsn;
use parking_lot::RwLock;

/// A block of the log. While it is being filled its bytes belong to the log alone; once it is durable they
/// are immutable and handed out as [`Bytes`], until [`release`](Self::release) gives the memory back and
/// only the description stays.
#[derive(Debug)]
pub struct Block {
    lsn: Lsn,
    memory: RwLock<Option<Bytes>>,
}

impl Block {
    /// A block that starts at `lsn` and has no memory (yet).
    #[must_use]
    pub fn new(lsn: Lsn) -> Self {
        Self { lsn, memory: RwLock::new(None) }
    }

    /// Where the block starts: the argument for [`read_block`](crate::WriteAheadLog::read_block).
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The block's bytes from its first header byte on; `None` before it is durable and after its release.
    #[must_use]
    pub fn bytes(&self) -> Option<Bytes> {
        self.memory.read().clone()
    }

    /// The bytes `position..position + len`, `None` as for [`Self::bytes`] or when out of range.
    #[must_use]
    pub fn slice(&self, position: u32, len: u32) -> Option<Bytes> {
        let (start, end) = (position as usize, (position as usize).checked_add(len as usize)?);
        let memory = self.memory.read();
        let bytes = memory.as_ref()?;
        (end <= bytes.len()).then(|| bytes.slice(start..end))
    }

    /// Publishes the block's immutable bytes: called by the log when the block became durable.
    pub fn publish(&self, bytes: Bytes) {
        *self.memory.write() = Some(bytes);
    }

    /// Gives the memory up. Slices that are still out keep it alive until they are dropped.
    pub fn release(&self) {
        *self.memory.write() = None;
    }
}
