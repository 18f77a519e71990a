//! A sealed log, as those read it who took over its streams.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use common::Lsn;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::config::WalLocation;
use crate::core::ring::Ring;
use crate::open::read_seal;
use crate::reader::{self, read_block};
use crate::reads::{ReadBlocks, Readers};
use crate::recovery::recover_sealed;
use crate::seal::Place;
use crate::{Block, BoxFuture, OpenError, ReadError, RecordRef, SealError};

/// One block at a time: adopters must not take the disk from a writer beside them.
const THREADS: usize = 1;

/// Where a sealed log's bytes come from.
pub trait SealedSource: Send + Sync + 'static {
    /// Every record below the end, in log order.
    fn records(&self) -> Result<Vec<RecordRef>, OpenError>;

    /// Reads and checks the block that starts at `lsn`.
    fn read_block(&self, lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>>;
}

/// A log that takes no more records, up to the end that metadata names. Its positions are [`BlockAddress::Sealed`]:
/// they say nothing about the log of whoever reads it.
///
/// [`BlockAddress::Sealed`]: crate::BlockAddress::Sealed
pub struct SealedLog {
    uuid: Uuid,
    end: Lsn,
    source: Box<dyn SealedSource>,
}

impl fmt::Debug for SealedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedLog").field("uuid", &self.uuid).field("end", &self.end).finish_non_exhaustive()
    }
}

impl SealedLog {
    /// Opens the log `uuid` and verifies it up to `end`, where it was sealed; what lies behind is ignored. Blocks on I/O:
    /// call it outside of async workers.
    ///
    /// Errors: as [`seal`](crate::seal()), and [`SealError::Unreadable`] where anything below `end` is damaged or
    /// missing, or the log is not sealed there.
    pub fn open(location: &WalLocation, uuid: Uuid, end: Lsn) -> Result<Arc<Self>, SealError> {
        let on_device = Arc::new(OnDevice::open(Place::reach(location, uuid)?, end)?);
        let readers = Readers::start(&on_device, THREADS).map_err(OpenError::io(location.path()))?;
        Ok(Self::over(uuid, end, Box::new(FileSource { readers, on_device })))
    }

    /// A sealed log that lies somewhere else: for tests.
    #[must_use]
    pub fn over(uuid: Uuid, end: Lsn, source: Box<dyn SealedSource>) -> Arc<Self> {
        Arc::new(Self { uuid, end, source })
    }

    /// Its identity.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// All its records in log order, without payloads. Reads the log's indexes again when called again.
    pub fn records(self: &Arc<Self>) -> Result<Vec<RecordRef>, OpenError> {
        let mut records = self.source.records()?;
        let mut block: Option<Arc<Block>> = None;
        for record in &mut records {
            let lsn = record.block.lsn();
            let known = block.take().filter(|block| block.lsn() == lsn);
            let of_this = known.unwrap_or_else(|| Arc::new(Block::of(self, lsn)));
            record.block = Arc::clone(&of_this);
            block = Some(of_this);
        }
        Ok(records)
    }

    /// Reads back the block of this log that starts at `lsn`.
    pub async fn read_block(&self, lsn: Lsn) -> Result<Bytes, ReadError> {
        let block = self.source.read_block(lsn).await?;
        let reason = || ReadError::Corrupt { lsn, reason: "it was read without its bytes".to_owned() };
        block.bytes().ok_or_else(reason)
    }
}

struct FileSource {
    readers: Readers,
    on_device: Arc<OnDevice>,
}

impl SealedSource for FileSource {
    fn records(&self) -> Result<Vec<RecordRef>, OpenError> {
        self.on_device.records()
    }

    fn read_block(&self, lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
        Box::pin(self.readers.read(lsn))
    }
}

/// A sealed log on a device.
pub(crate) struct OnDevice {
    place: Place,
    end: Lsn,
    ring: Ring,
    /// What the opening has read, until somebody asks for it: a log has millions of records.
    first: Mutex<Option<Vec<RecordRef>>>,
}

impl OnDevice {
    /// Reads and verifies the log up to `end`, where its seal must say that it ends.
    pub(crate) fn open(place: Place, end: Lsn) -> Result<Self, SealError> {
        let sector = read_seal(&*place.device, &place.path, place.superblock.uuid)?;
        if sector.sealed.is_none() || sector.end.is_some_and(|known| known != end) {
            let reason = format!("it was to be sealed at LSN {end}, and its seal says {:?}", sector.end);
            let (path, place) = (place.path, "the seal sector".to_owned());
            return Err(OpenError::Damaged { path, lsn: end, place, reason }.into());
        }
        let ring = Ring::new(place.superblock.segment_bytes, Default::default(), Default::default());
        let mut this = Self { place, end, ring, first: Mutex::default() };
        let (records, ring) = this.scan()?;
        (this.ring, this.first) = (ring, Mutex::new(Some(records)));
        Ok(this)
    }

    /// Every record below the end, in log order.
    pub(crate) fn records(&self) -> Result<Vec<RecordRef>, OpenError> {
        let first = self.first.lock().take();
        first.map_or_else(|| self.scan().map(|(records, _)| records), Ok)
    }

    fn scan(&self) -> Result<(Vec<RecordRef>, Ring), OpenError> {
        let Place { device, superblock, path, .. } = &self.place;
        let recovery = recover_sealed(&**device, superblock.uuid, superblock.segment_bytes, self.end);
        let recovery = recovery.map_err(OpenError::recovering(path))?;
        Ok((recovery.recovered.records, recovery.start.ring))
    }
}

impl ReadBlocks for OnDevice {
    fn read(&self, lsn: Lsn) -> Result<Arc<Block>, ReadError> {
        let Place { device, superblock, .. } = &self.place;
        let segment_bytes = superblock.segment_bytes;
        let slot = self.ring.slot_of(lsn.0 / segment_bytes).filter(|_| lsn < self.end);
        let slot = slot.ok_or(ReadError::NotFound(lsn))?;
        read_block(&**device, reader::Place { uuid: superblock.uuid, lsn, slot, offset: lsn.0 % segment_bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::FileExt;

    use common::{NodeEpoch, NodeId};
    use futures::executor::block_on;

    use super::*;
    use crate::conformance::{Ground, append, payload};
    use crate::device::block::SLOTS_OFFSET;
    use crate::{BlockAddress, SealProof, SealedBy, WalClass, WalConfig, open, seal};

    const BY: SealedBy = SealedBy { node: NodeId(2), epoch: NodeEpoch(5) };

    /// A log of several segments, sealed while its owner goes on: `records` were acknowledged, one more was not.
    fn sealed(ground: &Ground, records: i64) -> (WalConfig, Uuid, Lsn) {
        let config = WalConfig { class: WalClass::Shared, ..ground.config() };
        let opened = open(&config).expect("opens");
        for base in 0..records {
            append(&*opened.wal, 1, base, 9_000);
        }
        let last = append(&*opened.wal, 1, records, 9_000);
        block_on(opened.wal.durable().wait(last.end)).expect("durable");
        let end = seal(&config.location, opened.uuid, BY, SealProof::LeaseExpired).expect("seals").end;
        // It has heard that others have its streams.
        opened.wal.trim(end);
        let late = append(&*opened.wal, 1, records + 1, 9_000);
        block_on(opened.wal.durable().wait(late.end)).expect_err("sealed");
        (config, opened.uuid, end)
    }

    fn contents(log: &Arc<SealedLog>) -> HashMap<i64, Result<Bytes, ReadError>> {
        let read = |record: &RecordRef| {
            assert_eq!(record.block.own_lsn(), None);
            assert_eq!(record.block.origin().map(|log| log.uuid()), Some(log.uuid()));
            let BlockAddress::Sealed(_, lsn) = record.block.address() else { panic!("an address of the own log") };
            let at = record.position as usize;
            block_on(log.read_block(lsn)).map(|bytes| bytes.slice(at..at + record.len as usize))
        };
        let records = log.records().expect("reads");
        records.iter().map(|record| (record.meta.base_offset.0, read(record))).collect()
    }

    #[test]
    fn what_was_acknowledged_is_read_and_what_came_later_is_not() {
        for ground in [Ground::directory(), Ground::block()] {
            let (config, uuid, end) = sealed(&ground, 80);
            let log = SealedLog::open(&config.location, uuid, end).expect("opens");
            for _ in 0..2 {
                let contents = contents(&log);
                assert_eq!(contents.len(), 81);
                for (base, bytes) in contents {
                    assert_eq!(bytes.expect("reads"), payload(base, 9_000));
                }
            }
            assert!(matches!(block_on(log.read_block(end)), Err(ReadError::NotFound(_))));
        }
    }

    #[test]
    fn damage_below_the_end_is_refused_or_shows() {
        let ground = Ground::block();
        let (config, uuid, end) = sealed(&ground, 20);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(ground.path()).expect("image");
        let (mut refused, mut shown) = (0, 0);
        for at in (SLOTS_OFFSET..SLOTS_OFFSET + (200 << 10)).step_by(9_973) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("read");
            file.write_all_at(&[byte[0] ^ 4], at).expect("flip");
            match SealedLog::open(&config.location, uuid, end) {
                Err(SealError::Unreadable(OpenError::Damaged { .. })) => refused += 1,
                Err(error) => panic!("{error}"),
                Ok(log) => {
                    let contents = contents(&log);
                    assert_eq!(contents.len(), 21, "a flip at {at} hid a record");
                    for (base, read) in contents {
                        match read {
                            Ok(bytes) => assert_eq!(bytes, payload(base, 9_000)),
                            Err(error) => {
                                assert!(matches!(error, ReadError::Corrupt { .. }), "{error}");
                                shown += 1;
                            }
                        }
                    }
                }
            }
            file.write_all_at(&byte, at).expect("restore");
        }
        assert!(refused + shown > 10, "{refused} refused, {shown} shown");
        assert_eq!(contents(&SealedLog::open(&config.location, uuid, end).expect("sound")).len(), 21);
    }

    #[test]
    fn an_end_that_is_not_the_seals_is_refused() {
        let ground = Ground::directory();
        let (config, uuid, end) = sealed(&ground, 3);
        let other = SealedLog::open(&config.location, uuid, Lsn(end.0 + 4096)).expect_err("another end");
        assert!(matches!(other, SealError::Unreadable(OpenError::Damaged { .. })), "{other}");
        let open_log = Ground::directory();
        let config = WalConfig { class: WalClass::Shared, ..open_log.config() };
        let uuid = open(&config).expect("opens").uuid;
        SealedLog::open(&config.location, uuid, Lsn(0)).expect_err("not sealed");
    }
}
