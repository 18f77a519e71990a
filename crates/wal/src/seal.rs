//! Ending a log that belongs to another node. Who seals writes the seal, makes it durable, and only then reads the log;
//! the owner of a shared log reads the seal after each fdatasync and before it acknowledges. So either the owner sees
//! the seal, or who sealed sees the data: no clock is needed. Of what the owner had in flight and never acknowledged,
//! some may be part of the log and some not; the end that was found first is written into the seal, and stands.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use common::Lsn;
use common::planted::{self, Bug};
use uuid::Uuid;

use crate::OpenError;
use crate::config::{WalClass, WalLocation};
use crate::device::WalDevice;
use crate::device::file::{FileDevice, LOCK_FILE, SEAL_FILE};
use crate::direct::{AlignedBuf, DirectFile, OpenMode};
use crate::format::seal_sector::{SealSector, SealedBy};
use crate::format::superblock::Superblock;
use crate::open::{block, directory, lock, read_seal};
use crate::recovery::{RecoverError, recover};

/// Why the log's owner may be assumed to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealProof {
    /// Its process has ended, which shows in that the log's lock can be taken.
    OwnerGone,
    /// Its lease has run out: it serves nothing any more, though it may still be writing.
    LeaseExpired,
}

/// A log that takes no more records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Exclusive end of its records, the same for everybody who seals it.
    pub end: Lsn,
    /// Who sealed it first.
    pub by: SealedBy,
}

/// Why a log was not sealed, or its end not found.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It cannot be opened from here.
    #[error("{path} cannot be reached: {error}")]
    NotReachable {
        /// The log.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another log lies there.
    #[error("{path} holds log {found}, not log {expected}")]
    OtherLog {
        /// The log.
        path: PathBuf,
        /// What lies there.
        found: Uuid,
        /// What was to be sealed.
        expected: Uuid,
    },
    /// Its owner does not look at the seal.
    #[error("{path} is a private write-ahead log: only its own node recovers it")]
    Private {
        /// The log.
        path: PathBuf,
    },
    /// Its owner has not ended. Nothing was changed.
    #[error("{path} is in use by another process{holder}: its owner is alive")]
    Alive {
        /// The log.
        path: PathBuf,
        /// " (pid 123)" where known, else empty.
        holder: String,
    },
    /// It cannot be read. It is sealed nevertheless, unless its superblock or seal is what cannot be read.
    #[error(transparent)]
    Unreadable(OpenError),
}

impl From<OpenError> for SealError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io { path, error } => Self::NotReachable { path, error },
            OpenError::Permission { path } => {
                Self::NotReachable { path, error: io::ErrorKind::PermissionDenied.into() }
            }
            OpenError::Locked { path, holder } => Self::Alive { path, holder },
            other => Self::Unreadable(other),
        }
    }
}

/// Ends the log `uuid` at `location` for good and says where: after this its owner acknowledges nothing more, and
/// cannot open it. Idempotent: whoever asks again, in whatever name, gets the same answer.
///
/// Nothing but the seal is written. Blocks on I/O, and while another one seals the same log: call it outside of async
/// workers.
///
/// Errors: see [`SealError`].
pub fn seal(location: &WalLocation, uuid: Uuid, by: SealedBy, proof: SealProof) -> Result<Sealed, SealError> {
    let place = Place::reach(location, uuid)?;
    let _turn = place.turn().map_err(OpenError::io(&place.path))?;
    let marked = mark(&place, by, || (proof == SealProof::OwnerGone).then(|| place.lock()).transpose())?;
    // What was acknowledged lies in files that exist by now, but maybe not yet when the place was reached.
    conclude(&Place::reach(location, uuid)?, marked)
}

/// Writes the seal, unless somebody did: from here on the owner acknowledges nothing more. `lock` is held until the seal
/// is durable: an owner that starts now finds it.
pub(crate) fn mark<L>(
    place: &Place,
    by: SealedBy,
    lock: impl FnOnce() -> Result<L, OpenError>,
) -> Result<(SealedBy, SealSector), SealError> {
    let mut sector = read_seal(&*place.device, &place.path, place.superblock.uuid)?;
    if let Some(first) = sector.sealed {
        return Ok((first, sector));
    }
    let _lock = lock()?;
    sector.sealed = Some(by);
    write(&*place.device, &sector).map_err(OpenError::io(&place.path))?;
    Ok((by, sector))
}

/// Finds the end of a marked log, and writes it into the seal, unless somebody did.
pub(crate) fn conclude(place: &Place, (by, mut sector): (SealedBy, SealSector)) -> Result<Sealed, SealError> {
    if let Some(end) = sector.end {
        return Ok(Sealed { end, by });
    }
    let end = find_end(&*place.device, sector.uuid, place.superblock.segment_bytes);
    let end = end.map_err(OpenError::recovering(&place.path))?;
    sector.end = Some(end);
    write(&*place.device, &sector).map_err(OpenError::io(&place.path))?;
    Ok(Sealed { end, by })
}

/// Writes the seal, durably.
pub(crate) fn write(device: &dyn WalDevice, sector: &SealSector) -> io::Result<()> {
    if planted::is(Bug::AdoptWithoutSeal) {
        return Ok(());
    }
    let mut page = AlignedBuf::zeroed(1)?;
    sector.encode(&mut page);
    device.write_seal(&page)
}

/// Where a sealed log ends. The owner may still be writing a group that it will not acknowledge: whether that is found
/// or not, all of the groups before it are. What was found is durable on return, so that it is found again.
pub(crate) fn find_end(device: &dyn WalDevice, uuid: Uuid, segment_bytes: u64) -> Result<Lsn, RecoverError> {
    let recovery = recover(device, uuid, segment_bytes)?;
    recovery.harden(device)?;
    Ok(recovery.recovered.end)
}

/// Another node's log.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) device: Box<dyn WalDevice>,
    pub(crate) superblock: Superblock,
    pub(crate) is_directory: bool,
}

impl Place {
    /// Opens the shared log `uuid`, without any lock.
    pub(crate) fn reach(location: &WalLocation, uuid: Uuid) -> Result<Self, SealError> {
        let place = match location {
            WalLocation::Directory(path) => {
                let superblock = directory::read_superblock(path)?;
                let device = FileDevice::open(path, OpenMode::ReadWrite).map_err(OpenError::io(path))?;
                Self { path: path.clone(), device: Box::new(device), superblock, is_directory: true }
            }
            WalLocation::Block(path) => {
                let file = DirectFile::open(path, OpenMode::ReadWrite).map_err(OpenError::io(path))?;
                let (superblock, device) = block::find_device(file, path)?;
                Self { path: path.clone(), device: Box::new(device), superblock, is_directory: false }
            }
        };
        place.checked(uuid)
    }

    /// Refuses another log, and one that is its node's alone.
    pub(crate) fn checked(self, uuid: Uuid) -> Result<Self, SealError> {
        let path = self.path.clone();
        if self.superblock.uuid != uuid {
            return Err(SealError::OtherLog { path, found: self.superblock.uuid, expected: uuid });
        }
        match self.superblock.class {
            WalClass::Private => Err(SealError::Private { path }),
            WalClass::Shared => Ok(self),
        }
    }

    /// Waits for others that seal this log. A device has one lock, its owner's: there the controller sees to it that
    /// one node at a time is asked.
    fn turn(&self) -> io::Result<Option<File>> {
        if !self.is_directory {
            return Ok(None);
        }
        let file = File::open(self.path.join(SEAL_FILE))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(Some(file))
    }

    /// The owner's lock.
    fn lock(&self) -> Result<File, OpenError> {
        if self.is_directory {
            return directory::lock_directory(&self.path, LOCK_FILE);
        }
        // A device that its owner has open, exclusively, cannot be opened so again.
        let exclusive = block::open_file(&self.path)?;
        lock(exclusive.file(), &self.path, String::new)?;
        exclusive.file().try_clone().map_err(OpenError::io(&self.path))
    }
}

#[cfg(test)]
mod tests;
