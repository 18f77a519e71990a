//! Slots in memory: for tests, and for logs that need not survive the process.

use std::io;

use parking_lot::RwLock;

use super::{Pace, Slot, WalDevice};

pub(crate) struct MemoryDevice {
    slots: RwLock<Vec<Vec<u8>>>,
    seal: RwLock<Vec<u8>>,
}

impl MemoryDevice {
    pub(crate) fn new(slots: u32, bytes: u64) -> Self {
        let zeroed = |_| vec![0; bytes as usize];
        Self { slots: RwLock::new((0..slots).map(zeroed).collect()), seal: RwLock::default() }
    }
}

fn range(offset: u64, len: usize, of: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    let end = start.checked_add(len).filter(|end| *end <= of).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(start..end)
}

impl WalDevice for MemoryDevice {
    fn slots(&self) -> Vec<Slot> {
        let slots = self.slots.read();
        slots.iter().zip(0..).map(|(bytes, id)| Slot { id, usable: bytes.len() as u64 }).collect()
    }

    fn read_at(&self, slot: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let slots = self.slots.read();
        let bytes = slots.get(slot as usize).ok_or(io::ErrorKind::NotFound)?;
        buf.copy_from_slice(&bytes[range(offset, buf.len(), bytes.len())?]);
        Ok(())
    }

    fn write_at(&self, slot: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut slots = self.slots.write();
        let bytes = slots.get_mut(slot as usize).ok_or(io::ErrorKind::NotFound)?;
        let range = range(offset, data.len(), bytes.len())?;
        bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self, _slots: &[u32]) -> io::Result<()> {
        Ok(())
    }

    fn read_seal(&self, page: &mut [u8]) -> io::Result<()> {
        let seal = self.seal.read();
        page.fill(0);
        page[..seal.len()].copy_from_slice(&seal);
        Ok(())
    }

    fn write_seal(&self, page: &[u8]) -> io::Result<()> {
        *self.seal.write() = page.to_vec();
        Ok(())
    }

    fn grow(&self, slot: Slot, _pace: &mut dyn FnMut() -> Pace) -> io::Result<()> {
        let mut slots = self.slots.write();
        let count = slots.len().max(slot.id as usize + 1);
        slots.resize(count, Vec::new());
        slots[slot.id as usize].resize(slot.usable as usize, 0);
        Ok(())
    }

    fn describe(&self, slot: u32, offset: u64) -> String {
        format!("memory slot {slot}, offset {offset}")
    }
}
