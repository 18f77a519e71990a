//! A block: the unit of one write to the log, and the memory that readers and uploads slice.

use std::sync::Arc;

use bytes::Bytes;
use common::Lsn;
use parking_lot::RwLock;
use uuid::Uuid;

use crate::{ReadError, SealedLog, WriteAheadLog};

/// Which log a block lies in, and where in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockAddress {
    /// In the log of this process.
    Own(Lsn),
    /// In a sealed one.
    Sealed(Uuid, Lsn),
}

/// A block of the log. While it is being filled its bytes belong to the log alone; once it is durable they
/// are immutable and handed out as [`Bytes`], until [`release`](Self::release) gives the memory back and
/// only the description stays.
#[derive(Debug)]
pub struct Block {
    lsn: Lsn,
    /// `None`: the own log.
    origin: Option<Arc<SealedLog>>,
    memory: RwLock<Option<Bytes>>,
}

impl Block {
    /// A block of the own log that starts at `lsn` and has no memory (yet).
    #[must_use]
    pub fn new(lsn: Lsn) -> Self {
        Self { lsn, origin: None, memory: RwLock::new(None) }
    }

    /// A block of a sealed log.
    pub(crate) fn of(log: &Arc<SealedLog>, lsn: Lsn) -> Self {
        Self { lsn, origin: Some(Arc::clone(log)), memory: RwLock::new(None) }
    }

    /// Where the block starts within its log, whichever that is.
    pub(crate) fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Where the block starts in the own log: the argument for [`read_block`](crate::WriteAheadLog::read_block), and
    /// what compares with its durable position and trim mark. `None` for a block of a sealed log.
    #[must_use]
    pub fn own_lsn(&self) -> Option<Lsn> {
        self.origin.is_none().then_some(self.lsn)
    }

    /// The sealed log that holds it; `None`: the own one.
    #[must_use]
    pub fn origin(&self) -> Option<&Arc<SealedLog>> {
        self.origin.as_ref()
    }

    /// Its log and position.
    #[must_use]
    pub fn address(&self) -> BlockAddress {
        match &self.origin {
            None => BlockAddress::Own(self.lsn),
            Some(log) => BlockAddress::Sealed(log.uuid(), self.lsn),
        }
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

    /// Reads the block's bytes from the log that holds it, which is `own` or the sealed one.
    pub async fn read_back(&self, own: &dyn WriteAheadLog) -> Result<Bytes, ReadError> {
        if let Some(sealed) = &self.origin {
            return sealed.read_block(self.lsn).await;
        }
        let block = own.read_block(self.lsn).await?;
        let reason = || ReadError::Corrupt { lsn: self.lsn, reason: "it was read without its bytes".to_owned() };
        block.bytes().ok_or_else(reason)
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
