//! Opening a log: locks, identity, recovery, start.

pub(crate) mod block;
pub(crate) mod directory;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Lsn, NodeId, Random, SystemRandom};
use uuid::Uuid;

use crate::chunk::ChunkPool;
use crate::config::{WalClass, WalConfig, WalLocation};
use crate::core::writer::{Author, Writer};
use crate::core::{Core, Sizes};
use crate::device::WalDevice;
use crate::direct::{ALIGNMENT, AlignedBuf, DirectFile};
use crate::engine::{Engine, Lock, Parts};
use crate::format::seal_sector::{SealSector, SealedBy};
use crate::format::superblock::{CLUSTER_ID_BYTES_MAX, Superblock};
use crate::recovery::{self, RecoverError};
use crate::{Recovered, WriteAheadLog};

/// A flush takes no further block once it has so many bytes: bounds how long an append waits for the flush
/// before its own.
const FLUSH_BYTES_MAX: u64 = 4 << 20;
/// Block memory is mapped in pieces of this size.
const CHUNK_BYTES: usize = 4 << 20;
/// Smallest segment: header, footer and marks take a few pages of each.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest segment: positions within a block are 32-bit numbers.
const SEGMENT_BYTES_MAX: u64 = 1 << 31;

/// An opened log.
pub struct Opened {
    /// The log.
    pub wal: Arc<dyn WriteAheadLog>,
    /// What it held.
    pub recovered: Recovered,
    /// Its identity, made with it.
    pub uuid: Uuid,
}

/// Why a log was not opened. Nothing was changed, unless a new log was being made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is in use by another process{holder}; a write-ahead log has one owner at a time")]
    Locked {
        /// The log.
        path: PathBuf,
        /// " (pid 123)" where known, else empty.
        holder: String,
    },
    /// It belongs to another node.
    #[error(
        "{path} is the write-ahead log of node {found}, not of node {expected}: check node.id and the log's location"
    )]
    OtherNode {
        /// The log.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        expected: NodeId,
    },
    /// It belongs to another cluster.
    #[error("{path} is a write-ahead log of cluster {found:?}, not of cluster {expected:?}")]
    OtherCluster {
        /// The log.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// Another node ended it.
    #[error("{path} (log {uuid}) was sealed by node {} in its epoch {}: its records belong to its adopters", .by.node, .by.epoch)]
    Sealed {
        /// The log.
        path: PathBuf,
        /// Its identity.
        uuid: Uuid,
        /// Who sealed it.
        by: SealedBy,
    },
    /// Acknowledged records cannot be read. Starting without them would lose them.
    #[error(
        "{path} is damaged below what was acknowledged, at LSN {lsn} ({place}): {reason}. Nothing was changed; restore the volume, or give up its records with an explicit data-loss command"
    )]
    Damaged {
        /// The log.
        path: PathBuf,
        /// The first position that cannot be read.
        lsn: Lsn,
        /// File or device, and offset in it.
        place: String,
        /// What does not fit.
        reason: String,
    },
    /// Something else lies there.
    #[error("{path} is not a write-ahead log: {reason}")]
    NotAWal {
        /// The place.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A device holds one log, and another one is wanted.
    #[error("{path} holds log {uuid}: another one can only be made there once that is retired")]
    Occupied {
        /// The device.
        path: PathBuf,
        /// What it holds.
        uuid: Uuid,
    },
    /// The configured sizes do not fit each other, or the device.
    #[error("{path}: {reason}")]
    WrongSize {
        /// The log.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The process may not open it.
    #[error("{path}: permission denied; the broker's user needs to read and write it")]
    Permission {
        /// What was refused.
        path: PathBuf,
    },
    /// The system failed.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { path: path.clone() }
            }
            _ => Self::Io { path: path.clone(), error },
        }
    }

    pub(crate) fn recovering(path: &Path) -> impl Fn(RecoverError) -> Self {
        let path = path.to_owned();
        move |error| match error {
            RecoverError::Io(error) => Self::io(&path)(error),
            RecoverError::Damaged { lsn, place, reason } => Self::Damaged { path: path.clone(), lsn, place, reason },
        }
    }

    pub(crate) fn not_a_wal(path: &Path, reason: impl Into<String>) -> Self {
        Self::NotAWal { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn wrong_size(path: &Path, reason: impl Into<String>) -> Self {
        Self::WrongSize { path: path.to_owned(), reason: reason.into() }
    }
}

/// A place that was locked and identified.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) device: Arc<dyn WalDevice>,
    pub(crate) superblock: Superblock,
    /// Slots the ring may have.
    pub(crate) slots: u32,
    pub(crate) lock: Lock,
}

/// Opens the log, making it if the place is empty, and recovers what it holds.
///
/// Errors: see [`OpenError`]. Blocks on I/O: call it outside of async workers.
pub fn open(config: &WalConfig) -> Result<Opened, OpenError> {
    check_config(config)?;
    let place = match &config.location {
        WalLocation::Directory(path) => directory::open(path, config)?,
        WalLocation::Block(path) => block::open(path, config)?,
    };
    let (parts, recovered) = recover(place, config, &SystemRandom)?;
    let (uuid, path) = (parts.uuid, config.location.path().to_owned());
    let engine = Engine::start(parts).map_err(OpenError::io(&path))?;
    Ok(Opened { wal: Arc::new(engine), recovered, uuid })
}

pub(crate) fn check_config(config: &WalConfig) -> Result<(), OpenError> {
    let path = config.location.path();
    let wrong = |reason: String| Err(OpenError::wrong_size(path, reason));
    let page = ALIGNMENT as u64;
    let segment = config.segment_bytes;
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment) || !segment.is_multiple_of(page) {
        return wrong(format!(
            "a segment of {segment} bytes: it must be a multiple of {page} from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
        ));
    }
    let all_of_it = config.capacity_bytes == 0 && matches!(config.location, WalLocation::Block(_));
    if !all_of_it && config.capacity_bytes < 2 * segment {
        return wrong(format!("a capacity of {} bytes does not hold two segments of {segment}", config.capacity_bytes));
    }
    if config.block_bytes_max < ALIGNMENT as u32 || config.memory_bytes < 4 * u64::from(config.block_bytes_max) {
        return wrong(format!(
            "blocks of {} bytes with {} bytes of memory: at least {page} and four blocks",
            config.block_bytes_max, config.memory_bytes
        ));
    }
    if config.cluster_id.len() > CLUSTER_ID_BYTES_MAX {
        return wrong(format!("the cluster id has more than {CLUSTER_ID_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// What a new log is made with.
pub(crate) fn new_superblock(config: &WalConfig, uuid: Uuid, capacity_bytes: u64) -> Superblock {
    Superblock {
        uuid,
        node: config.node,
        class: config.class,
        segment_bytes: config.segment_bytes,
        capacity_bytes,
        cluster_id: config.cluster_id.clone(),
    }
}

fn check_owner(place: &Place, config: &WalConfig) -> Result<(), OpenError> {
    check_whose(&place.path, &place.superblock, config)?;
    let made_with = place.superblock.segment_bytes;
    if made_with != config.segment_bytes {
        let (path, configured) = (place.path.display(), config.segment_bytes);
        tracing::warn!(%path, made_with, configured, "the write-ahead log keeps the segment size that it was made with");
    }
    Ok(())
}

pub(crate) fn check_whose(path: &Path, found: &Superblock, config: &WalConfig) -> Result<(), OpenError> {
    let path = path.to_owned();
    if found.cluster_id != config.cluster_id {
        let expected = config.cluster_id.clone();
        return Err(OpenError::OtherCluster { path, found: found.cluster_id.clone(), expected });
    }
    if found.node != config.node {
        return Err(OpenError::OtherNode { path, found: found.node, expected: config.node });
    }
    Ok(())
}

fn check_seal(place: &Place) -> Result<(), OpenError> {
    match read_seal(&*place.device, &place.path, place.superblock.uuid)?.sealed {
        Some(by) => Err(OpenError::Sealed { path: place.path.clone(), uuid: place.superblock.uuid, by }),
        None => Ok(()),
    }
}

/// The seal of log `uuid`. One that cannot be read is damage: it counts as sealed, and nobody knows by whom.
pub(crate) fn read_seal(device: &dyn WalDevice, path: &Path, uuid: Uuid) -> Result<SealSector, OpenError> {
    let io = OpenError::io(path);
    let mut page = AlignedBuf::zeroed(1).map_err(&io)?;
    device.read_seal(&mut page).map_err(&io)?;
    match SealSector::decode(&page) {
        Ok(sector) if sector.uuid != uuid => Err(OpenError::not_a_wal(
            path,
            format!("its seal belongs to log {}, its superblock to log {uuid}", sector.uuid),
        )),
        Ok(sector) => Ok(sector),
        Err(damage) => Err(OpenError::Damaged {
            path: path.to_owned(),
            lsn: Lsn(0),
            place: "the seal sector".to_owned(),
            reason: format!("{damage}; it counts as sealed"),
        }),
    }
}

/// Recovers the log at a place: what an engine is made of, and what the log held.
pub(crate) fn recover(place: Place, config: &WalConfig, random: &dyn Random) -> Result<(Parts, Recovered), OpenError> {
    check_owner(&place, config)?;
    check_seal(&place)?;
    let io = OpenError::io(&place.path);
    let (uuid, segment_bytes) = (place.superblock.uuid, place.superblock.segment_bytes);
    let recovered = recovery::recover(&*place.device, uuid, segment_bytes);
    let mut recovery = recovered.map_err(OpenError::recovering(&place.path))?;
    recovery.settle(&*place.device).map_err(&io)?;
    let author = Author {
        uuid,
        node: config.node,
        incarnation: random.next_u64(),
        checks_seal: place.superblock.class == WalClass::Shared,
    };
    let sizes = Sizes {
        segment_bytes,
        block_bytes_max: config.block_bytes_max,
        record_bytes_max: config.record_bytes_max,
        flush_bytes_max: FLUSH_BYTES_MAX,
    };
    let memory = usize::try_from(config.memory_bytes).unwrap_or(usize::MAX);
    let chunk = CHUNK_BYTES.min(memory / 4).max(config.block_bytes_max as usize);
    let core = Core::new(sizes, ChunkPool::new(chunk, memory), recovery.start);
    let writer = Writer::new(author, segment_bytes, recovery.link, recovery.index).map_err(&io)?;
    let parts = Parts {
        core,
        writer,
        device: place.device,
        uuid,
        slots: place.slots,
        segment_bytes,
        gate: config.gate.clone(),
        lock: place.lock,
    };
    Ok((parts, recovery.recovered))
}

/// Takes the lock on an open file, held until the file is closed by all threads of this process.
pub(crate) fn lock(file: &File, path: &Path, holder: impl FnOnce() -> String) -> Result<(), OpenError> {
    match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path: path.to_owned(), holder: holder() }),
        Err(error) => Err(OpenError::io(path)(error.into())),
    }
}

/// Reads one page of a file.
fn read_page(file: &DirectFile, offset: u64) -> io::Result<AlignedBuf> {
    let mut page = AlignedBuf::zeroed(1)?;
    file.read_exact_at(&mut page, offset)?;
    Ok(page)
}

/// Writes one page of a file.
fn write_page_unsynced(file: &DirectFile, offset: u64, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
    let mut page = AlignedBuf::zeroed(1)?;
    fill(&mut page);
    file.write_all_at(&page, offset)
}

/// Writes one page of a file, durably.
pub(crate) fn write_page(file: &DirectFile, offset: u64, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
    write_page_unsynced(file, offset, fill)?;
    file.sync_data()
}
