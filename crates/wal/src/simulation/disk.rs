//! A log on a disk in memory, its locks, and the device that a process sees.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::simulated_disk::{DiskLife, DiskStep};
use common::{Lsn, Random};
use parking_lot::Mutex;

use crate::OpenError;
use crate::device::image::Image;
use crate::device::{Pace, Slot, WalDevice};
use crate::direct::ALIGNMENT;
use crate::format::seal_sector::SealSector;
use crate::format::superblock::Superblock;

/// How often who waits for its turn to seal looks again.
const TURN_LOOK: Duration = Duration::from_millis(5);

/// See the module.
pub(super) struct StoredLog {
    pub(super) path: PathBuf,
    pub(super) superblock: Superblock,
    pub(super) image: Mutex<Image>,
    random: Arc<dyn Random>,
    /// What its owners have acknowledged, in all their lives.
    pub(super) published: Mutex<Published>,
    lock: Arc<Mutex<Option<DiskLife>>>,
    turn: Arc<Mutex<Option<DiskLife>>>,
}

/// What owners of a log have let others know of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Published {
    pub(super) upto: Lsn,
    /// Once without a lease.
    pub(super) unleased: bool,
}

/// A lock that ends with its holder's life, as the kernel's do.
pub(super) struct Held {
    by: DiskLife,
    lock: Arc<Mutex<Option<DiskLife>>>,
}

impl Held {
    fn take(lock: &Arc<Mutex<Option<DiskLife>>>, by: &DiskLife) -> Option<Self> {
        let mut holder = lock.lock();
        if holder.as_ref().is_some_and(|holder| !holder.is_over()) {
            return None;
        }
        *holder = Some(by.clone());
        Some(Self { by: by.clone(), lock: Arc::clone(lock) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holder = self.lock.lock();
        if holder.as_ref().is_some_and(|holder| holder.is(&self.by)) {
            *holder = None;
        }
    }
}

impl StoredLog {
    /// A log that was just made.
    pub(super) fn new(path: PathBuf, superblock: Superblock, random: &Arc<dyn Random>) -> Self {
        let mut image = Image::default();
        for id in 0..2 {
            image.grow(Slot { id, usable: superblock.segment_bytes });
        }
        let mut page = [0; ALIGNMENT];
        SealSector::open(superblock.uuid).encode(&mut page);
        image.write_seal(&page);
        let (image, published) = (Mutex::new(image), Mutex::default());
        let (random, lock, turn) = (Arc::clone(random), Arc::default(), Arc::default());
        Self { path, superblock, image, random, published, lock, turn }
    }

    /// The power of the disk fails.
    pub(super) fn lose_power(&self) {
        self.image.lock().lose_power(&*self.random);
    }

    /// Takes the owner's lock.
    pub(super) fn hold(&self, life: &DiskLife) -> Result<Held, OpenError> {
        let locked = || OpenError::Locked { path: self.path.clone(), holder: String::new() };
        Held::take(&self.lock, life).ok_or_else(locked)
    }

    /// Waits for others that seal this log.
    pub(super) async fn turn(&self, life: &DiskLife) -> Held {
        loop {
            if let Some(turn) = Held::take(&self.turn, life) {
                return turn;
            }
            tokio::time::sleep(TURN_LOOK).await;
        }
    }
}

/// The log as a process sees it, or whoever watches over the simulation.
pub(super) struct Handle {
    log: Arc<StoredLog>,
    /// `None` for an observer, whom nothing befalls.
    life: Option<DiskLife>,
}

impl Handle {
    pub(super) fn of(log: &Arc<StoredLog>, life: DiskLife) -> Self {
        Self { log: Arc::clone(log), life: Some(life) }
    }

    pub(super) fn observing(log: &Arc<StoredLog>) -> Self {
        Self { log: Arc::clone(log), life: None }
    }

    fn admit(&self, step: DiskStep) -> io::Result<()> {
        self.life.as_ref().map_or(Ok(()), |life| life.admit(step))
    }
}

impl WalDevice for Handle {
    fn slots(&self) -> Vec<Slot> {
        self.log.image.lock().slots()
    }

    fn read_at(&self, slot: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.admit(DiskStep::Read)?;
        self.log.image.lock().read(slot, offset, buf)
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.admit(DiskStep::Write)?;
        self.log.image.lock().write(slot, offset, bytes)
    }

    fn sync(&self, slots: &[u32]) -> io::Result<()> {
        if let Err(error) = self.admit(DiskStep::Sync) {
            if self.life.as_ref().is_some_and(|life| !life.is_over()) {
                // As a kernel does: the next sync would find nothing left to do, and succeed.
                self.log.lose_power();
            }
            return Err(error);
        }
        self.log.image.lock().sync(slots);
        Ok(())
    }

    fn read_seal(&self, page: &mut [u8]) -> io::Result<()> {
        self.admit(DiskStep::Read)?;
        self.log.image.lock().read_seal(page);
        Ok(())
    }

    fn write_seal(&self, page: &[u8]) -> io::Result<()> {
        self.admit(DiskStep::Write)?;
        self.log.image.lock().write_seal(page);
        Ok(())
    }

    fn grow(&self, slot: Slot, _pace: &mut dyn FnMut() -> Pace) -> io::Result<()> {
        self.admit(DiskStep::Grow)?;
        self.log.image.lock().grow(slot);
        Ok(())
    }

    fn readers(&self) -> usize {
        1
    }

    fn describe(&self, slot: u32, offset: u64) -> String {
        format!("{}, slot {slot}, offset {offset}", self.log.path.display())
    }
}
