//! The logs of one node below one place: the one it has open, and those that were sealed and are still needed.
//!
//! ```text
//! directory            the first log, and the locks: `owner` of the node, `lock` of the log
//! directory/log-<uuid> each further log, with a `lock` of its own
//! directory/removed-…  what a crash left of one that was being removed
//! ```
//! A block device holds one log at a time.
//!
//! What to open at a start is decided by what metadata says of each log: see [`choose`].

use std::io;
use std::path::{Path, PathBuf};

use common::{NodeId, Random, SystemRandom};
use uuid::Uuid;

use crate::config::{WalClass, WalConfig, WalLocation};
use crate::device::block::{BlockDevice, SUPERBLOCK_OFFSET};
use crate::device::file::{FileDevice, LOCK_FILE, SUPERBLOCK_FILE, SUPERBLOCK_REMOVED, remove_segments};
use crate::direct::{DirectFile, OpenMode, fsync_dir};
use crate::format::seal_sector::SealedBy;
use crate::format::superblock::Superblock;
use crate::open::{OpenError, block, check_whose, directory, lock, read_seal, write_page};

/// Begins the name of a further log's directory; its identity follows.
pub(crate) const LOG_PREFIX: &str = "log-";
const REMOVED_PREFIX: &str = "removed-";

/// A log that lies below a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLog {
    /// Where exactly: what [`open`](crate::open) and [`seal`](crate::seal()) take.
    pub location: WalLocation,
    /// Its identity.
    pub uuid: Uuid,
    /// Its owner.
    pub node: NodeId,
    /// Its owner's cluster.
    pub cluster_id: String,
    /// Whether other nodes can reach it.
    pub class: WalClass,
    /// Who ended it, if anybody did.
    pub sealed: Option<SealedBy>,
}

/// What metadata knows of a log of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownLog {
    /// It may hold what nothing else does, and this node is to recover it.
    Open,
    /// It may hold what nothing else does, and others recover it.
    Sealed,
    /// Nothing in it is needed. A clean stop leaves its log so, to be used again.
    Retired,
    /// Its records were given up: whatever it holds must not come back.
    Abandoned,
}

/// What a starting node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Opens this one.
    Existing(FoundLog),
    /// Makes one, at [`fresh`].
    Fresh,
    /// Waits: this one was sealed, and metadata is about to hear of it. Its records belong to whoever sealed it.
    BeingSealed(FoundLog),
    /// Does not start: metadata says that this one is open, and it is not here.
    Missing(Uuid),
}

/// The logs below `place`, the first one first. A place that does not exist yet has none.
///
/// Errors: a log whose superblock or seal cannot be read.
pub fn logs(place: &WalLocation) -> Result<Vec<FoundLog>, OpenError> {
    match place {
        WalLocation::Directory(path) => {
            let mut found: Vec<FoundLog> = read_directory(path)?.into_iter().collect();
            for child in children(path)? {
                found.extend(read_directory(&child)?);
            }
            Ok(found)
        }
        WalLocation::Block(path) => {
            let file = DirectFile::open(path, OpenMode::Read).map_err(OpenError::io(path))?;
            let Some(superblock) = block::find_superblock(&file, path)? else { return Ok(Vec::new()) };
            let device = BlockDevice::new(file, superblock.segment_bytes, 0);
            let sealed = read_seal(&device, path, superblock.uuid)?.sealed;
            Ok(vec![found(place.clone(), superblock, sealed)])
        }
    }
}

/// What to open, of the logs that were `found` and those that metadata has `known` of this node. Pure.
#[must_use]
pub fn choose(found: &[FoundLog], known: &[(Uuid, KnownLog)]) -> Choice {
    let state = |log: &FoundLog| known.iter().find(|(uuid, _)| *uuid == log.uuid).map(|(_, state)| *state);
    if let Some((open, _)) = known.iter().find(|(_, state)| *state == KnownLog::Open) {
        return match found.iter().find(|log| log.uuid == *open) {
            None => Choice::Missing(*open),
            Some(log) if log.sealed.is_some() => Choice::BeingSealed(log.clone()),
            Some(log) => Choice::Existing(log.clone()),
        };
    }
    // One that metadata has not heard of was made by a start that was cut off; a retired one was left by a clean stop.
    let usable = |log: &&FoundLog| log.sealed.is_none() && matches!(state(log), None | Some(KnownLog::Retired));
    found.iter().find(usable).map_or(Choice::Fresh, |log| Choice::Existing(log.clone()))
}

/// Where to make another log: the place itself while it holds none, else one below it.
///
/// Errors: [`OpenError::Occupied`] for a device that holds a log.
pub fn fresh(place: &WalLocation) -> Result<WalLocation, OpenError> {
    match place {
        WalLocation::Directory(path) => {
            if !is_log(path)? {
                return Ok(place.clone());
            }
            for child in children(path)? {
                // What a crash left of one in the making: its identity was never told to anybody.
                if !is_log(&child)? {
                    return Ok(WalLocation::Directory(child));
                }
            }
            Ok(WalLocation::Directory(path.join(format!("{LOG_PREFIX}{}", SystemRandom.uuid()))))
        }
        WalLocation::Block(path) => {
            let file = DirectFile::open(path, OpenMode::Read).map_err(OpenError::io(path))?;
            match block::find_superblock(&file, path)? {
                None => Ok(place.clone()),
                Some(superblock) => Err(OpenError::Occupied { path: path.clone(), uuid: superblock.uuid }),
            }
        }
    }
}

/// Removes the log at `location`, which is `uuid` and which metadata says is retired: its files, or its superblock on
/// a device. What else lies there stays. Idempotent, also after a crash in the middle.
///
/// Errors: [`OpenError::Locked`] while anybody has it open; [`OpenError::NotAWal`] where another log lies there.
pub fn remove(location: &WalLocation, uuid: Uuid) -> Result<(), OpenError> {
    match location {
        WalLocation::Directory(path) => remove_directory(path, uuid),
        WalLocation::Block(path) => {
            let file = block::open_file(path)?;
            lock(file.file(), path, String::new)?;
            let Some(superblock) = block::find_superblock(&file, path)? else { return Ok(()) };
            check_uuid(path, &superblock, uuid)?;
            write_page(&file, SUPERBLOCK_OFFSET, |page| page.fill(0)).map_err(OpenError::io(path))
        }
    }
}

fn remove_directory(path: &Path, uuid: Uuid) -> Result<(), OpenError> {
    let path = &std::path::absolute(path).map_err(OpenError::io(path))?;
    let io = OpenError::io(path);
    remove_leftovers(home_of(path)).map_err(&io)?;
    if !is_log(path)? {
        return Ok(());
    }
    let lock = directory::lock_directory(path, LOCK_FILE)?;
    check_uuid(path, &directory::read_superblock(path)?, uuid)?;
    if let Some(home) = path.parent().filter(|_| uuid_of(path).is_some()) {
        // Its name is given up first: whoever finds the rest of it must not make a log of the same identity there.
        let removed = home.join(format!("{REMOVED_PREFIX}{uuid}"));
        std::fs::rename(path, &removed).and_then(|()| fsync_dir(home)).map_err(&io)?;
        drop(lock);
        return std::fs::remove_dir_all(removed).and_then(|()| fsync_dir(home)).map_err(io);
    }
    // From here on it is no log any more, and what is left of it is removed by whoever comes next.
    let removed = path.join(SUPERBLOCK_REMOVED);
    std::fs::rename(path.join(SUPERBLOCK_FILE), removed).and_then(|()| fsync_dir(path)).map_err(&io)?;
    remove_leftovers(path).map_err(io)
}

/// Removes what a crash left of logs that were being removed.
pub(crate) fn remove_leftovers(home: &Path) -> io::Result<()> {
    for path in entries(home)? {
        if name_of(&path).starts_with(REMOVED_PREFIX) {
            std::fs::remove_dir_all(path)?;
        }
    }
    let marker = home.join(SUPERBLOCK_REMOVED);
    if marker.try_exists()? {
        remove_segments(home)?;
        // Last, and alone: it is what tells that the segments are not those of a log that lost its superblock.
        fsync_dir(home)?;
        std::fs::remove_file(marker)?;
        fsync_dir(home)?;
    }
    Ok(())
}

fn check_uuid(path: &Path, found: &Superblock, expected: Uuid) -> Result<(), OpenError> {
    if found.uuid == expected {
        return Ok(());
    }
    Err(OpenError::not_a_wal(path, format!("it holds log {}, not log {expected}", found.uuid)))
}

/// Refuses a place that holds a log of another node: two nodes would share one directory.
pub(crate) fn check_siblings(home: &Path, config: &WalConfig) -> Result<(), OpenError> {
    let own = is_log(home)?.then(|| home.to_owned());
    for path in own.into_iter().chain(children(home)?) {
        if is_log(&path)? {
            check_whose(&path, &directory::read_superblock(&path)?, config)?;
        }
    }
    Ok(())
}

/// The identity that the name of a log's directory gives.
pub(crate) fn uuid_of(path: &Path) -> Option<Uuid> {
    name_of(path).strip_prefix(LOG_PREFIX).and_then(|uuid| Uuid::parse_str(uuid).ok())
}

/// The directory that all logs of the node lie in, of one of which this is the path.
pub(crate) fn home_of(path: &Path) -> &Path {
    path.parent().filter(|_| uuid_of(path).is_some()).unwrap_or(path)
}

/// Whether a name in a log's directory is another log's, or what is left of one.
pub(crate) fn is_entry(name: &str) -> bool {
    uuid_of(Path::new(name)).is_some() || name.starts_with(REMOVED_PREFIX)
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn children(home: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let paths = entries(home).map_err(OpenError::io(home))?;
    Ok(paths.into_iter().filter(|path| uuid_of(path).is_some()).collect())
}

fn is_log(path: &Path) -> Result<bool, OpenError> {
    path.join(SUPERBLOCK_FILE).try_exists().map_err(OpenError::io(path))
}

fn read_directory(path: &Path) -> Result<Option<FoundLog>, OpenError> {
    if !is_log(path)? {
        return Ok(None);
    }
    let superblock = directory::read_superblock(path)?;
    let device = FileDevice::open(path, OpenMode::Read).map_err(OpenError::io(path))?;
    let sealed = read_seal(&device, path, superblock.uuid)?.sealed;
    Ok(Some(found(WalLocation::Directory(path.to_owned()), superblock, sealed)))
}

fn found(location: WalLocation, superblock: Superblock, sealed: Option<SealedBy>) -> FoundLog {
    let Superblock { uuid, node, class, cluster_id, .. } = superblock;
    FoundLog { location, uuid, node, cluster_id, class, sealed }
}

#[cfg(test)]
mod tests;
