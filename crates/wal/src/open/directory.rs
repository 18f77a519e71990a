//! A log in a directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Random, SystemRandom};

use super::{OpenError, Place, lock, new_superblock, read_page, write_page_unsynced};
use crate::config::WalConfig;
use crate::device::WalDevice;
use crate::device::file::{
    FileDevice, LOCK_FILE, OWNER_FILE, SEAL_FILE, SUPERBLOCK_FILE, SUPERBLOCK_TEMPORARY, remove_segments,
    segment_files, segment_path, slot_of_name,
};
use crate::direct::{ALIGNMENT, DirectFile, OpenMode, fsync_dir};
use crate::format::Damage;
use crate::format::seal_sector::SealSector;
use crate::format::segment_header::SegmentHeader;
use crate::format::superblock::Superblock;
use crate::home;

pub(super) fn open(path: &Path, config: &WalConfig) -> Result<Place, OpenError> {
    let io = OpenError::io(path);
    // A relative path may have no parent by name.
    let path = &std::path::absolute(path).map_err(&io)?;
    let home = home::home_of(path);
    let mut entered = make_directory(home).map_err(&io)?;
    let owner = lock_directory(home, OWNER_FILE)?;
    home::check_siblings(home, config)?;
    home::remove_leftovers(home).map_err(&io)?;
    entered.extend(make_directory(path).map_err(&io)?);
    let lock = lock_directory(path, LOCK_FILE)?;
    if path.join(SUPERBLOCK_FILE).try_exists().map_err(&io)? {
        // A segment file may be as new as the crash that ended the process which made it.
        entered.push(path.clone());
    } else {
        make(path, config)?;
        // Also where an earlier attempt made the directory, and was cut off before this.
        entered.extend(path.parent().map(Path::to_owned));
    }
    entered.iter().try_for_each(|directory| fsync_dir(directory)).map_err(&io)?;
    let superblock = read_superblock(path)?;
    let device = FileDevice::open(path, OpenMode::ReadWrite).map_err(&io)?;
    let slots = (config.capacity_bytes / superblock.segment_bytes).max(2);
    // More slots than configured stay in use: the ring does not shrink.
    let slots = u32::try_from(slots).unwrap_or(u32::MAX).max(device.slots().len() as u32);
    Ok(Place { path: path.to_owned(), device: Arc::new(device), superblock, slots, lock: Box::new((owner, lock)) })
}

pub(crate) fn read_superblock(path: &Path) -> Result<Superblock, OpenError> {
    let file = path.join(SUPERBLOCK_FILE);
    let io = OpenError::io(&file);
    let page = DirectFile::open(&file, OpenMode::Read).and_then(|file| read_page(&file, 0)).map_err(&io)?;
    Superblock::decode(&page).map_err(|damage| OpenError::not_a_wal(&file, format!("the superblock is bad: {damage}")))
}

/// Makes the directory; returns the parents that got a new entry, which are yet to be made durable.
fn make_directory(path: &Path) -> io::Result<Vec<PathBuf>> {
    let made = path.ancestors().take_while(|directory| !directory.exists());
    let parents = made.filter_map(|directory| directory.parent().map(Path::to_owned)).collect();
    std::fs::create_dir_all(path)?;
    Ok(parents)
}

/// Takes one of the locks of a directory; fails at once where another process has it.
pub(crate) fn lock_directory(path: &Path, name: &str) -> Result<File, OpenError> {
    let file = path.join(name);
    let io = OpenError::io(&file);
    let mut options = OpenOptions::new();
    let mut held = options.read(true).write(true).create(true).truncate(false).open(&file).map_err(&io)?;
    let holder = || {
        let mut pid = String::new();
        let read = File::open(&file).and_then(|file| file.take(20).read_to_string(&mut pid));
        if read.is_ok() && !pid.trim().is_empty() { format!(" (pid {})", pid.trim()) } else { String::new() }
    };
    lock(&held, path, holder)?;
    // Only for the message above: a full disk must not keep the log from opening.
    if let Err(error) = held.set_len(0).and_then(|()| write!(held, "{}", std::process::id())) {
        tracing::warn!(path = %file.display(), %error, "cannot note who holds the lock");
    }
    Ok(held)
}

/// Makes a log. Its superblock comes last, so that what a crash leaves before is made anew.
fn make(path: &Path, config: &WalConfig) -> Result<(), OpenError> {
    let io = OpenError::io(path);
    refuse_strangers(path)?;
    remove_segments(path).map_err(&io)?;
    let uuid = home::uuid_of(path).unwrap_or_else(|| SystemRandom.uuid());
    let superblock = new_superblock(config, uuid, config.capacity_bytes);
    for name in [SEAL_FILE, SUPERBLOCK_TEMPORARY] {
        match std::fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    let seal = DirectFile::open(&path.join(SEAL_FILE), OpenMode::CreateNew).map_err(&io)?;
    let sector = SealSector::open(superblock.uuid);
    write_page_unsynced(&seal, 0, |page| sector.encode(page)).map_err(&io)?;
    let device = FileDevice::open(path, OpenMode::ReadWrite).map_err(&io)?;
    device.make_first_slots(config.segment_bytes).map_err(&io)?;
    let temporary = path.join(SUPERBLOCK_TEMPORARY);
    let file = DirectFile::open(&temporary, OpenMode::CreateNew).map_err(&io)?;
    write_page_unsynced(&file, 0, |page| superblock.encode(page)).map_err(&io)?;
    // All syncs together: the first one commits the file system's journal for all of them.
    let slots: Vec<u32> = device.slots().iter().map(|slot| slot.id).collect();
    device.sync(&slots).and_then(|()| seal.sync_data()).and_then(|()| file.sync_data()).map_err(&io)?;
    std::fs::rename(&temporary, path.join(SUPERBLOCK_FILE)).map_err(&io)?;
    fsync_dir(path).map_err(&io)
}

/// Refuses a directory that holds what is not ours, or segments whose superblock was lost.
fn refuse_strangers(path: &Path) -> Result<(), OpenError> {
    let io = OpenError::io(path);
    for entry in std::fs::read_dir(path).map_err(&io)? {
        let name = entry.map_err(&io)?.file_name();
        let name = name.to_string_lossy();
        let ours = [LOCK_FILE, OWNER_FILE, SEAL_FILE, SUPERBLOCK_TEMPORARY, "lost+found"].contains(&&*name);
        if !ours && slot_of_name(&name).is_none() && !home::is_entry(&name) {
            let reason = format!("the directory holds {name:?}; give the log a directory of its own");
            return Err(OpenError::not_a_wal(path, reason));
        }
    }
    for id in segment_files(path).map_err(&io)? {
        let file = segment_path(path, id);
        let io = OpenError::io(&file);
        let segment = DirectFile::open(&file, OpenMode::Read).map_err(&io)?;
        if segment.len().map_err(&io)? < ALIGNMENT as u64 {
            continue;
        }
        let page = read_page(&segment, 0).map_err(&io)?;
        if !matches!(SegmentHeader::decode(&page), Err(Damage::Magic)) {
            let reason = format!("its superblock is missing, but {} holds records", file.display());
            return Err(OpenError::not_a_wal(path, reason));
        }
    }
    Ok(())
}
