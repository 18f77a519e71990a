//! A block device, or one preallocated file: superblock, seal, then slots of one segment each.
//!
//! ```text
//! 0 superblock · 4096 seal · 1 MiB slot 0 · 1 MiB + segment bytes slot 1 · …
//! ```

use std::io;

use super::{Pace, Slot, WalDevice};
use crate::direct::DirectFile;

pub(crate) const SUPERBLOCK_OFFSET: u64 = 0;
pub(crate) const SEAL_OFFSET: u64 = 4096;
/// Where the first slot starts.
pub(crate) const SLOTS_OFFSET: u64 = 1 << 20;

pub(crate) struct BlockDevice {
    file: DirectFile,
    segment_bytes: u64,
    slots: u32,
}

/// Slots that fit a device.
pub(crate) fn slots_in(device_bytes: u64, segment_bytes: u64) -> u64 {
    device_bytes.saturating_sub(SLOTS_OFFSET) / segment_bytes.max(1)
}

impl BlockDevice {
    pub(crate) fn new(file: DirectFile, segment_bytes: u64, slots: u32) -> Self {
        Self { file, segment_bytes, slots }
    }

    fn place(&self, slot: u32, offset: u64, len: usize) -> io::Result<u64> {
        let end = offset.checked_add(len as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if slot >= self.slots || end > self.segment_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "outside of the slot"));
        }
        Ok(SLOTS_OFFSET + u64::from(slot) * self.segment_bytes + offset)
    }
}

impl WalDevice for BlockDevice {
    fn slots(&self) -> Vec<Slot> {
        (0..self.slots).map(|id| Slot { id, usable: self.segment_bytes }).collect()
    }

    fn read_at(&self, slot: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, self.place(slot, offset, buf.len())?)
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.place(slot, offset, bytes.len())?)
    }

    fn sync(&self, _slots: &[u32]) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_seal(&self, page: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(page, SEAL_OFFSET)
    }

    fn write_seal(&self, page: &[u8]) -> io::Result<()> {
        self.file.write_all_at(page, SEAL_OFFSET)?;
        self.file.sync_data()
    }

    fn grow(&self, _slot: Slot, _pace: &mut dyn FnMut() -> Pace) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn describe(&self, slot: u32, offset: u64) -> String {
        let at = SLOTS_OFFSET + u64::from(slot) * self.segment_bytes + offset;
        format!("{}, offset {at}", self.file.path().display())
    }
}
