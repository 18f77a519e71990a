//! What the log needs of the place where it lies: numbered slots that hold one segment each, and a seal page.

pub(crate) mod block;
pub(crate) mod file;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod image;
pub(crate) mod memory;

use std::io;

/// A place for one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) id: u32,
    /// Bytes that may be used, from the slot's start. A multiple of 4 KiB.
    pub(crate) usable: u64,
}

/// What to do between two steps of growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Go,
    Stop,
}

/// Storage of a log. Offsets, lengths and addresses are multiples of 4 KiB. Nothing is durable before
/// [`sync`](Self::sync) returned; after any error nothing is known about what was not durable before.
pub(crate) trait WalDevice: Send + Sync {
    /// The slots that exist, by ascending id.
    fn slots(&self) -> Vec<Slot>;

    /// Fills `buf` from what the device itself holds, not from a cache.
    fn read_at(&self, slot: u32, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes`.
    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes all writes to these slots durable.
    fn sync(&self, slots: &[u32]) -> io::Result<()>;

    /// Reads the seal page.
    fn read_seal(&self, page: &mut [u8]) -> io::Result<()>;

    /// Writes the seal page; durable on return.
    fn write_seal(&self, page: &[u8]) -> io::Result<()>;

    /// Makes a slot with zeroed bytes, or extends one, to `usable` bytes; durable on return. `pace` is called
    /// after each step. After an error the slot is as it was before.
    fn grow(&self, slot: Slot, pace: &mut dyn FnMut() -> Pace) -> io::Result<()>;

    /// How many threads may read at the same time with profit.
    fn readers(&self) -> usize {
        4
    }

    /// File and offset of a place, for messages to the operator.
    fn describe(&self, slot: u32, offset: u64) -> String;
}
