//! Decoding and verifying a log without changing it: for operators, and for tests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use common::{Lsn, NodeId, StreamId};
use uuid::Uuid;

use crate::config::{WalClass, WalLocation};
use crate::device::file::FileDevice;
use crate::device::{Slot, WalDevice};
use crate::direct::{AlignedBuf, DirectFile, OpenMode};
use crate::format::seal_sector::{SealSector, SealedBy};
use crate::format::superblock::Superblock;
use crate::open::{block as block_place, directory};
use crate::recovery::scan::{self, Holding, Identity};
use crate::recovery::{RecoverError, recover};
use crate::{OpenError, Recovered};

/// What a log holds, every checksum verified.
#[derive(Debug)]
pub struct Inspection {
    /// Its identity.
    pub uuid: Uuid,
    /// Its owner.
    pub node: NodeId,
    /// Its owner's cluster.
    pub cluster_id: String,
    /// Whether other nodes can reach it.
    pub class: WalClass,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Bytes the ring may have.
    pub capacity_bytes: u64,
    /// Who sealed it; an error when the seal sector cannot be read.
    pub sealed: Result<Option<SealedBy>, String>,
    /// Its slots, in the order of the segments they hold; unused ones last.
    pub segments: Vec<SegmentReport>,
    /// What opening it would recover, or why it would be refused.
    pub recovered: Result<Recovered, String>,
}

/// One slot.
#[derive(Debug)]
pub struct SegmentReport {
    /// File or device, and offset.
    pub place: String,
    /// The segment it holds, `None` when unused.
    pub segment: Option<u64>,
    /// Bytes in use, header and footer included.
    pub usable: u64,
    /// Whether it has a valid index.
    pub indexed: bool,
    /// Blocks whose checksums match, from the first one on.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Payload bytes in them.
    pub payload_bytes: u64,
    /// Where the last of these blocks ends.
    pub end: Lsn,
    /// What does not fit: only good as a hint when the segment was never filled, or lies below the trim mark.
    pub damage: Option<String>,
}

/// Reads the whole log. The owner may have it open: then the newest blocks may look torn.
pub fn inspect(location: &WalLocation) -> Result<Inspection, OpenError> {
    let (superblock, device, path) = open_read_only(location)?;
    let io = OpenError::io(path);
    let identity = Identity { uuid: superblock.uuid, segment_bytes: superblock.segment_bytes, end: Lsn(u64::MAX) };
    let mut segments = Vec::new();
    for slot in device.slots() {
        segments.push(report(&*device, identity, slot).map_err(&io)?);
    }
    segments.sort_by_key(|report| report.segment.unwrap_or(u64::MAX));
    let recovered = match recover(&*device, superblock.uuid, superblock.segment_bytes) {
        Ok(recovery) => Ok(recovery.recovered),
        Err(RecoverError::Io(error)) => return Err(io(error)),
        Err(error) => Err(error.to_string()),
    };
    Ok(Inspection {
        uuid: superblock.uuid,
        node: superblock.node,
        cluster_id: superblock.cluster_id,
        class: superblock.class,
        segment_bytes: superblock.segment_bytes,
        capacity_bytes: superblock.capacity_bytes,
        sealed: read_seal(&*device).map_err(&io)?,
        segments,
        recovered,
    })
}

fn open_read_only(location: &WalLocation) -> Result<(Superblock, Arc<dyn WalDevice>, &std::path::Path), OpenError> {
    match location {
        WalLocation::Directory(path) => {
            let superblock = directory::read_superblock(path)?;
            let device = FileDevice::open(path, OpenMode::Read).map_err(OpenError::io(path))?;
            Ok((superblock, Arc::new(device), path))
        }
        WalLocation::Block(path) => {
            let file = DirectFile::open(path, OpenMode::Read).map_err(OpenError::io(path))?;
            let (superblock, device) = block_place::find_device(file, path)?;
            Ok((superblock, Arc::new(device), path))
        }
    }
}

fn read_seal(device: &dyn WalDevice) -> std::io::Result<Result<Option<SealedBy>, String>> {
    let mut page = AlignedBuf::zeroed(1)?;
    device.read_seal(&mut page)?;
    Ok(SealSector::decode(&page).map(|sector| sector.sealed).map_err(|damage| damage.to_string()))
}

fn report(device: &dyn WalDevice, identity: Identity, slot: Slot) -> std::io::Result<SegmentReport> {
    let mut report = SegmentReport {
        place: device.describe(slot.id, 0),
        segment: None,
        usable: slot.usable,
        indexed: false,
        blocks: 0,
        records: 0,
        payload_bytes: 0,
        end: Lsn(0),
        damage: None,
    };
    let (number, usable) = match scan::identify(device, identity, slot)? {
        Holding::Nothing => return Ok(report),
        Holding::Unknown => {
            report.damage = Some("neither its header nor its first block can be read".to_owned());
            return Ok(report);
        }
        Holding::Segment { number, usable, .. } => (number, usable),
    };
    let slot = Slot { usable, ..slot };
    let scanned = scan::scan_blocks(device, identity, number, slot)?;
    let footed = scan::read_segment(device, identity, number, slot)?;
    report.segment = Some(number);
    report.usable = usable;
    report.indexed = footed.index.is_none();
    report.blocks = scanned.blocks.len() as u64;
    report.end = scanned.end;
    for record in scanned.blocks.iter().flat_map(|block| &block.records) {
        report.records += 1;
        report.payload_bytes += u64::from(record.len);
    }
    if footed.blocks != scanned.blocks {
        report.damage = Some(format!(
            "its index names {} blocks up to LSN {}, but after LSN {}: {}",
            footed.blocks.len(),
            footed.end,
            scanned.end,
            scanned.stopped
        ));
    }
    Ok(report)
}

impl Inspection {
    /// Whether opening it would succeed and all its blocks can be read.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.recovered.is_ok() && self.sealed.is_ok() && self.segments.iter().all(|report| report.damage.is_none())
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            WalClass::Private => "private",
            WalClass::Shared => "shared",
        };
        writeln!(f, "log {} of node {} in cluster {:?}, {class}", self.uuid, self.node, self.cluster_id)?;
        writeln!(f, "segments of {} bytes, ring of {} bytes", self.segment_bytes, self.capacity_bytes)?;
        match &self.sealed {
            Ok(None) => writeln!(f, "not sealed")?,
            Ok(Some(by)) => writeln!(f, "sealed by node {} in its epoch {}", by.node, by.epoch)?,
            Err(reason) => writeln!(f, "SEAL UNREADABLE: {reason}")?,
        }
        for report in &self.segments {
            writeln!(f, "{report}")?;
        }
        match &self.recovered {
            Ok(recovered) => {
                writeln!(f, "{} records up to LSN {}", recovered.records.len(), recovered.end)?;
                let mut streams: BTreeMap<StreamId, u64> = BTreeMap::new();
                for record in &recovered.records {
                    *streams.entry(record.meta.stream).or_default() += 1;
                }
                streams.iter().try_for_each(|(stream, count)| writeln!(f, "  stream {stream}: {count} records"))
            }
            Err(reason) => writeln!(f, "REFUSED: {reason}"),
        }
    }
}

impl fmt::Display for SegmentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match self.segment {
            Some(segment) => write!(
                f,
                "segment {segment}, {} bytes, {} blocks, {} records of {} bytes, up to LSN {}{}",
                self.usable,
                self.blocks,
                self.records,
                self.payload_bytes,
                self.end,
                if self.indexed { ", indexed" } else { "" }
            )?,
            None => write!(f, "unused, {} bytes", self.usable)?,
        }
        match &self.damage {
            Some(damage) => write!(f, " DAMAGED: {damage}"),
            None => Ok(()),
        }
    }
}
