//! A directory: one file per slot, zero-filled before use, and small files for superblock, seal and lock.
//!
//! Slots start small and few, so that an empty directory is ready within milliseconds; more are made, and short
//! ones extended, in the background.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Pace, Slot, WalDevice};
use crate::direct::{ALIGNMENT, AlignedBuf, DirectFile, OpenMode, fsync_dir};

pub(crate) const SUPERBLOCK_FILE: &str = "superblock";
pub(crate) const SUPERBLOCK_TEMPORARY: &str = "superblock.new";
/// The superblock of a log that is being removed.
pub(crate) const SUPERBLOCK_REMOVED: &str = "superblock.removed";
pub(crate) const SEAL_FILE: &str = "seal";
/// Locked by the log's owner while it has the log open, and by whoever seals or removes the log without one.
pub(crate) const LOCK_FILE: &str = "lock";
/// Locked by the node that has any log below the directory open: it has one at a time.
pub(crate) const OWNER_FILE: &str = "owner";
const SEGMENT_PREFIX: &str = "segment-";
/// Zeros written at once when a slot is filled.
const ZERO_FILL_BYTES: u64 = 1 << 20;
/// Slots a new directory starts with, and bytes of each: small, because they are filled before the log opens.
const FIRST_SLOTS: u32 = 2;
const FIRST_SLOT_BYTES: u64 = 2 << 20;

pub(crate) struct FileDevice {
    directory: PathBuf,
    files: RwLock<BTreeMap<u32, Arc<DirectFile>>>,
    seal: DirectFile,
}

/// The file of a slot.
pub(crate) fn segment_path(directory: &Path, id: u32) -> PathBuf {
    directory.join(format!("{SEGMENT_PREFIX}{id:04}"))
}

/// The slot number of a file name.
pub(crate) fn slot_of_name(name: &str) -> Option<u32> {
    name.strip_prefix(SEGMENT_PREFIX)?.parse().ok()
}

/// Slot numbers of the segment files in a directory, ascending.
pub(crate) fn segment_files(directory: &Path) -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        ids.extend(entry?.file_name().to_str().and_then(slot_of_name));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Removes the segment files of a directory that never became a log.
pub(crate) fn remove_segments(directory: &Path) -> io::Result<()> {
    for id in segment_files(directory)? {
        std::fs::remove_file(segment_path(directory, id))?;
    }
    Ok(())
}

impl FileDevice {
    /// Opens what is there.
    pub(crate) fn open(directory: &Path, mode: OpenMode) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for id in segment_files(directory)? {
            files.insert(id, Arc::new(DirectFile::open(&segment_path(directory, id), mode)?));
        }
        let seal = DirectFile::open(&directory.join(SEAL_FILE), mode)?;
        Ok(Self { directory: directory.to_owned(), files: RwLock::new(files), seal })
    }

    /// Makes the first slots of a new log. The caller syncs them, and the directory.
    pub(crate) fn make_first_slots(&self, segment_bytes: u64) -> io::Result<()> {
        for id in 0..FIRST_SLOTS {
            let usable = first_slot_bytes(id, segment_bytes);
            let file = DirectFile::open(&segment_path(&self.directory, id), OpenMode::CreateNew)?;
            zero_fill(&file, 0, usable, &mut || Pace::Go)?;
            self.files.write().insert(id, Arc::new(file));
        }
        Ok(())
    }

    fn file(&self, slot: u32) -> io::Result<Arc<DirectFile>> {
        self.files.read().get(&slot).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Bytes a slot is made with: each twice the one before, up to a whole segment.
pub(crate) fn first_slot_bytes(id: u32, segment_bytes: u64) -> u64 {
    let doublings = id.saturating_sub(FIRST_SLOTS - 1).min(30);
    (FIRST_SLOT_BYTES << doublings).min(segment_bytes)
}

impl WalDevice for FileDevice {
    fn slots(&self) -> Vec<Slot> {
        let files = self.files.read();
        let usable = |file: &DirectFile| file.len().unwrap_or(0) / ALIGNMENT as u64 * ALIGNMENT as u64;
        files.iter().map(|(id, file)| Slot { id: *id, usable: usable(file) }).collect()
    }

    fn read_at(&self, slot: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file(slot)?.read_exact_at(buf, offset)
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(slot)?.write_all_at(bytes, offset)
    }

    fn sync(&self, slots: &[u32]) -> io::Result<()> {
        slots.iter().try_for_each(|slot| self.file(*slot)?.sync_data())
    }

    fn read_seal(&self, page: &mut [u8]) -> io::Result<()> {
        self.seal.read_exact_at(page, 0)
    }

    fn write_seal(&self, page: &[u8]) -> io::Result<()> {
        self.seal.write_all_at(page, 0)?;
        self.seal.sync_data()
    }

    fn grow(&self, slot: Slot, pace: &mut dyn FnMut() -> Pace) -> io::Result<()> {
        let path = segment_path(&self.directory, slot.id);
        let known = self.files.read().get(&slot.id).cloned();
        let made = known.is_none();
        let file = match known {
            Some(file) => file,
            None => Arc::new(DirectFile::open(&path, OpenMode::CreateNew)?),
        };
        let before = file.len()? / ALIGNMENT as u64 * ALIGNMENT as u64;
        let filled = zero_fill(&file, before, slot.usable, pace).and_then(|()| file.sync_data());
        if let Err(error) = filled {
            // Give back the space of what was begun: it may be what others wait for. A file that was there before
            // stays, even an empty one that a crash left: its slot is known, and will be written.
            let undone = if made { std::fs::remove_file(&path) } else { file.file().set_len(before) };
            undone.and(Err(error))?;
        }
        if made {
            fsync_dir(&self.directory)?;
        }
        self.files.write().insert(slot.id, file);
        Ok(())
    }

    fn describe(&self, slot: u32, offset: u64) -> String {
        format!("file {}, offset {offset}", segment_path(&self.directory, slot).display())
    }
}

/// Fills `from..to` with zeros, so that later writes change no metadata of the file system.
fn zero_fill(file: &DirectFile, from: u64, to: u64, pace: &mut dyn FnMut() -> Pace) -> io::Result<()> {
    if to <= from {
        return Ok(());
    }
    // In one piece, and out of space before the work rather than after.
    file.allocate(from, to - from)?;
    let zeros = AlignedBuf::zeroed(ZERO_FILL_BYTES as usize)?;
    let mut at = from;
    while at < to {
        let step = ZERO_FILL_BYTES.min(to - at);
        file.write_all_at(&zeros[..step as usize], at)?;
        at += step;
        if let Pace::Stop = pace() {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crash between the making of a file and its first byte leaves it empty. If extending it then fails, as on
    /// a full disk, it must not be removed: the slot stays in use, and what is acknowledged there would be gone
    /// with the next start.
    #[test]
    fn a_file_that_was_there_before_survives_a_failure_to_extend_it() {
        let directory = tempfile::tempdir().expect("directory");
        for name in [SEAL_FILE, "segment-0000"] {
            std::fs::write(directory.path().join(name), "").expect("file");
        }
        let device = FileDevice::open(directory.path(), OpenMode::ReadWrite).expect("opens");
        let slot = Slot { id: 0, usable: 2 * ZERO_FILL_BYTES };
        device.grow(slot, &mut || Pace::Stop).expect_err("stopped");
        assert_eq!(device.slots(), [Slot { id: 0, usable: 0 }]);
        device.grow(slot, &mut || Pace::Go).expect("grows");
        let other = Slot { id: 1, ..slot };
        device.grow(other, &mut || Pace::Stop).expect_err("stopped");
        assert_eq!(segment_files(directory.path()).expect("readable"), [0]);
        let again = FileDevice::open(directory.path(), OpenMode::Read).expect("opens");
        assert_eq!(again.slots(), [slot]);
    }
}
