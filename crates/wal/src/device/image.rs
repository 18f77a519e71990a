//! What lies on a disk in memory, and what is on its way there: unsynced writes may be lost, torn or reordered by a power
//! cut. For models and simulations.

use std::collections::BTreeMap;
use std::io;

use common::Random;

use super::Slot;
use crate::direct::ALIGNMENT;

/// A disk of slots and a seal page. Pages that were never written hold zeros and take no memory.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// Usable bytes by slot.
    slots: BTreeMap<u32, u64>,
    durable: BTreeMap<(u32, u64), Box<[u8; ALIGNMENT]>>,
    /// In the order in which they were written.
    unsynced: Vec<Write>,
    seal: Vec<u8>,
}

#[derive(Debug)]
struct Write {
    slot: u32,
    offset: u64,
    bytes: Vec<u8>,
}

impl Image {
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.slots.iter().map(|(id, usable)| Slot { id: *id, usable: *usable }).collect()
    }

    /// What whoever has the disk in use sees: unsynced writes too.
    pub(crate) fn read(&self, slot: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(slot, offset, buf.len())?;
        let first = offset / ALIGNMENT as u64;
        for (page, part) in (first..).zip(buf.chunks_mut(ALIGNMENT)) {
            match self.durable.get(&(slot, page)) {
                Some(bytes) => part.copy_from_slice(&bytes[..part.len()]),
                None => part.fill(0),
            }
        }
        let end = offset + buf.len() as u64;
        for write in self.unsynced.iter().filter(|write| write.slot == slot) {
            let (from, to) = (write.offset.max(offset), (write.offset + write.bytes.len() as u64).min(end));
            if from < to {
                let source = (from - write.offset) as usize..(to - write.offset) as usize;
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(&write.bytes[source]);
            }
        }
        Ok(())
    }

    /// Writes, not durably.
    pub(crate) fn write(&mut self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(slot, offset, bytes.len())?;
        self.unsynced.push(Write { slot, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    /// Makes what was written to `slots` durable.
    pub(crate) fn sync(&mut self, slots: &[u32]) {
        let (synced, rest) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|write| slots.contains(&write.slot));
        self.unsynced = rest;
        let synced: Vec<Write> = synced;
        for write in synced {
            self.apply(write.slot, write.offset, &write.bytes);
        }
    }

    /// Makes or extends a slot, durably.
    pub(crate) fn grow(&mut self, slot: Slot) {
        let usable = self.slots.entry(slot.id).or_default();
        *usable = slot.usable.max(*usable);
    }

    pub(crate) fn read_seal(&self, page: &mut [u8]) {
        page.fill(0);
        page[..self.seal.len()].copy_from_slice(&self.seal);
    }

    /// Writes the seal page, durably.
    pub(crate) fn write_seal(&mut self, page: &[u8]) {
        self.seal = page.to_vec();
    }

    /// Decides what of the unsynced writes is on the disk: none, all, the first ones, some, or pieces of some.
    pub(crate) fn lose_power(&mut self, random: &dyn Random) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let mode = random.below(6);
        let prefix = random.below(unsynced.len() as u64 + 1) as usize;
        for (at, write) in unsynced.into_iter().enumerate() {
            let tear = if random.below(2) == 0 { 512 } else { ALIGNMENT };
            let whole = match mode {
                0 => Some(false),
                1 => Some(true),
                2 => Some(at < prefix),
                3 => Some(random.below(2) == 0),
                _ => None,
            };
            for (piece, offset) in write.bytes.chunks(tear).zip((write.offset..).step_by(tear)) {
                if whole.unwrap_or_else(|| random.below(2) == 0) {
                    self.apply(write.slot, offset, piece);
                }
            }
        }
    }

    /// `bytes` at `offset`, in whatever pages that is.
    fn apply(&mut self, slot: u32, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let within = (at % ALIGNMENT as u64) as usize;
            let (piece, after) = rest.split_at(rest.len().min(ALIGNMENT - within));
            let page = self.durable.entry((slot, at / ALIGNMENT as u64)).or_insert_with(|| Box::new([0; ALIGNMENT]));
            page[within..within + piece.len()].copy_from_slice(piece);
            (at, rest) = (at + piece.len() as u64, after);
        }
    }

    fn check(&self, slot: u32, offset: u64, len: usize) -> io::Result<()> {
        let usable = self.slots.get(&slot).ok_or(io::ErrorKind::NotFound)?;
        let end = offset.checked_add(len as u64).filter(|end| end <= usable);
        end.map(|_| ()).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
