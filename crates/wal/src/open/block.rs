//! A log on a block device, or in one preallocated file.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use common::{Random, SystemRandom};

use super::{OpenError, Place, lock, new_superblock, read_page, write_page};
use crate::config::WalConfig;
use crate::device::block::{BlockDevice, SEAL_OFFSET, SLOTS_OFFSET, SUPERBLOCK_OFFSET, slots_in};
use crate::direct::{DirectFile, OpenMode};
use crate::format::seal_sector::SealSector;
use crate::format::superblock::Superblock;

pub(super) fn open(path: &Path, config: &WalConfig) -> Result<Place, OpenError> {
    let io = OpenError::io(path);
    let file = open_file(path)?;
    let handle = file.file().try_clone().map_err(&io)?;
    lock(&handle, path, String::new)?;
    let bytes = file.len().map_err(&io)?;
    let superblock = match find_superblock(&file, path)? {
        Some(superblock) => superblock,
        None => make(&file, path, bytes, config)?,
    };
    let slots = superblock.capacity_bytes / superblock.segment_bytes;
    if slots > slots_in(bytes, superblock.segment_bytes) {
        let needed = SLOTS_OFFSET + superblock.capacity_bytes;
        let reason = format!("it has {bytes} bytes, but its log was made with {needed}: has the volume been shrunk?");
        return Err(OpenError::wrong_size(path, reason));
    }
    let slots = u32::try_from(slots).map_err(|_| OpenError::wrong_size(path, "too many segments"))?;
    let device = Arc::new(BlockDevice::new(file, superblock.segment_bytes, slots));
    Ok(Place { path: path.to_owned(), device, superblock, slots, lock: Box::new(handle) })
}

pub(crate) fn open_file(path: &Path) -> Result<DirectFile, OpenError> {
    let kind = std::fs::metadata(path).map_err(OpenError::io(path))?.file_type();
    let mode = if kind.is_block_device() {
        OpenMode::ReadWriteExclusive
    } else if kind.is_file() {
        OpenMode::ReadWrite
    } else {
        return Err(OpenError::not_a_wal(path, "neither a block device nor a file"));
    };
    DirectFile::open(path, mode).map_err(|error| match error.kind() {
        std::io::ErrorKind::ResourceBusy => {
            OpenError::Locked { path: path.to_owned(), holder: " or mounted".to_owned() }
        }
        _ => OpenError::io(path)(error),
    })
}

/// The superblock; `None` on an unused device.
pub(crate) fn find_superblock(file: &DirectFile, path: &Path) -> Result<Option<Superblock>, OpenError> {
    let io = OpenError::io(path);
    if file.len().map_err(&io)? < SLOTS_OFFSET {
        return Err(OpenError::wrong_size(path, format!("smaller than {SLOTS_OFFSET} bytes")));
    }
    let page = read_page(file, SUPERBLOCK_OFFSET).map_err(&io)?;
    if page.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    Superblock::decode(&page).map(Some).map_err(|damage| {
        let reason = format!("its superblock is bad: {damage}; to use it for a new log, zero its first 4096 bytes");
        OpenError::not_a_wal(path, reason)
    })
}

/// The log on a device that holds one.
pub(crate) fn find_device(file: DirectFile, path: &Path) -> Result<(Superblock, BlockDevice), OpenError> {
    let superblock = find_superblock(&file, path)?
        .ok_or_else(|| OpenError::not_a_wal(path, "its first page is empty: it is unused"))?;
    let slots = superblock.capacity_bytes / superblock.segment_bytes;
    let slots = u32::try_from(slots).map_err(|_| OpenError::wrong_size(path, "too many segments"))?;
    let device = BlockDevice::new(file, superblock.segment_bytes, slots);
    Ok((superblock, device))
}

fn make(file: &DirectFile, path: &Path, bytes: u64, config: &WalConfig) -> Result<Superblock, OpenError> {
    let io = OpenError::io(path);
    let fit = slots_in(bytes, config.segment_bytes);
    let wanted = if config.capacity_bytes == 0 { fit } else { config.capacity_bytes / config.segment_bytes };
    if fit < 2 || wanted > fit {
        let needed = SLOTS_OFFSET + wanted.max(2) * config.segment_bytes;
        let reason = format!("it has {bytes} bytes, {wanted} segments of {} need {needed}", config.segment_bytes);
        return Err(OpenError::wrong_size(path, reason));
    }
    let superblock = new_superblock(config, SystemRandom.uuid(), wanted * config.segment_bytes);
    let seal = SealSector::open(superblock.uuid);
    // The superblock last: it is what makes the device a log.
    write_page(file, SEAL_OFFSET, |page| seal.encode(page)).map_err(&io)?;
    write_page(file, SUPERBLOCK_OFFSET, |page| superblock.encode(page)).map_err(&io)?;
    Ok(superblock)
}
