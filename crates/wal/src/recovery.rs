//! Reading a log back: which records it holds, where it ends, and whether anything acknowledged is damaged.
//!
//! 1. Each slot says which segment it holds; each segment is read by its footer, or block by block.
//! 2. The newest trim mark names the first segment; segments are joined as long as each one's first block names
//!    the end and checksum of the block before it. Where that ends, the log ends.
//! 3. Whatever block lies behind that end and says that more than that was durable proves damage: the log is
//!    refused. Otherwise what lies behind was never acknowledged, and is wiped before anything is written.

pub(crate) mod scan;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::Lsn;
use uuid::Uuid;

use crate::core::ring::Ring;
use crate::core::writer::SegmentIndex;
use crate::core::{Start, Tail};
use crate::device::{Slot, WalDevice};
use crate::direct::{ALIGNMENT, AlignedBuf};
use crate::format::block_header::Link;
use crate::format::segment_header::SEGMENT_HEADER_BYTES;
use crate::{Block, RecordRef, Recovered};
use scan::{Identity, SegmentView};

/// Why a log was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the log is damaged at LSN {lsn} ({place}): {reason}")]
    Damaged { lsn: Lsn, place: String, reason: String },
}

/// A recovered log, ready to go on.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) recovered: Recovered,
    pub(crate) start: Start,
    pub(crate) link: Link,
    pub(crate) index: Option<SegmentIndex>,
    /// Pages to zero, and make durable, before anything else is written.
    wipes: Vec<(Slot, u64)>,
    live: Vec<u32>,
}

/// Reads the log of `uuid`. Writes nothing.
pub(crate) fn recover(device: &dyn WalDevice, uuid: Uuid, segment_bytes: u64) -> Result<Recovery, RecoverError> {
    let identity = Identity { uuid, segment_bytes, end: Lsn(u64::MAX) };
    let survey = Survey::take(device, identity)?;
    let Some(chain) = survey.join(device)? else {
        survey.refuse_marks_above(device, Lsn(0), None)?;
        return Ok(survey.empty());
    };
    survey.refuse_marks_above(device, chain.end, Some(chain.last))?;
    survey.finish(device, chain)
}

/// Reads the log of `uuid` that was sealed at `end`, up to there. What lies behind, a group that its late owner never
/// acknowledged, is left out, and so are the trim marks in it: the owner may have heard that others have its streams, and
/// have given up what these need of the log. Writes nothing.
pub(crate) fn recover_sealed(
    device: &dyn WalDevice,
    uuid: Uuid,
    segment_bytes: u64,
    end: Lsn,
) -> Result<Recovery, RecoverError> {
    let survey = Survey::take(device, Identity { uuid, segment_bytes, end })?;
    let mut recovery = match survey.join(device)? {
        None if end == Lsn(0) => survey.empty(),
        None => {
            let reason = format!("nothing can be read, although the log was sealed at LSN {end}");
            return Err(RecoverError::Damaged { lsn: Lsn(0), place: "no slot".to_owned(), reason });
        }
        Some(chain) if chain.end < end => {
            let evidence = format!("the log was sealed at LSN {end}");
            return Err(match survey.views.get(&chain.last) {
                Some(view) => survey.damaged_at(device, view, &evidence),
                None => RecoverError::Damaged { lsn: chain.end, place: "no slot".to_owned(), reason: evidence },
            });
        }
        Some(chain) => survey.finish(device, chain)?,
    };
    recovery.recovered.records.retain(|record| record.block.lsn() < end);
    recovery.recovered.end = end;
    Ok(recovery)
}

impl Recovery {
    /// Makes what was read durable, and changes nothing.
    pub(crate) fn harden(&self, device: &dyn WalDevice) -> io::Result<()> {
        if self.live.is_empty() { Ok(()) } else { device.sync(&self.live) }
    }

    /// Makes what was read durable, and removes what must not be read again.
    pub(crate) fn settle(&mut self, device: &dyn WalDevice) -> io::Result<()> {
        let page = AlignedBuf::zeroed(1)?;
        let mut touched = std::mem::take(&mut self.live);
        for (slot, offset) in self.wipes.drain(..) {
            device.write_at(slot.id, offset, &page)?;
            touched.push(slot.id);
        }
        touched.sort_unstable();
        touched.dedup();
        if touched.is_empty() { Ok(()) } else { device.sync(&touched) }
    }
}

/// What all slots hold.
struct Survey {
    identity: Identity,
    views: BTreeMap<u64, SegmentView>,
    /// Slots of segments below the newest trim mark, and never used ones.
    free: VecDeque<Slot>,
    /// Slots with bytes that name no segment.
    unknown: Vec<Slot>,
    trim: Lsn,
}

/// Reads segments, some at a time, since an index keeps the processor busy longer than the disk. In any order.
fn read_segments(
    device: &dyn WalDevice,
    identity: Identity,
    held: &[(u64, Slot, Lsn)],
) -> io::Result<Vec<SegmentView>> {
    let next = AtomicUsize::new(0);
    let read = || {
        let mut views = Vec::new();
        while let Some((number, slot, header_trim)) = held.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut view = scan::read_segment(device, identity, *number, *slot)?;
            view.trim = view.trim.max(*header_trim);
            views.push(view);
        }
        Ok(views)
    };
    std::thread::scope(|scope| {
        let helpers = (1..device.readers().min(held.len())).map_while(|_| {
            // Without another thread it only takes longer.
            std::thread::Builder::new().name("wal-recover".to_owned()).spawn_scoped(scope, read).ok()
        });
        let helpers: Vec<_> = helpers.collect();
        let own = read();
        let others =
            helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let all: io::Result<Vec<Vec<SegmentView>>> = std::iter::once(own).chain(others).collect();
        all.map(|views| views.into_iter().flatten().collect())
    })
}

/// The joined segments.
struct Chain {
    first: u64,
    last: u64,
    end: Lsn,
}

impl Survey {
    fn take(device: &dyn WalDevice, identity: Identity) -> Result<Self, RecoverError> {
        let mut survey =
            Self { identity, views: BTreeMap::new(), free: VecDeque::new(), unknown: Vec::new(), trim: Lsn(0) };
        let mut held: Vec<(u64, Slot, Lsn)> = Vec::new();
        for slot in device.slots() {
            match scan::identify(device, identity, slot)? {
                scan::Holding::Nothing => survey.free.push_back(slot),
                scan::Holding::Unknown => survey.unknown.push(slot),
                scan::Holding::Segment { number, usable, trim } => {
                    held.push((number, Slot { usable, ..slot }, trim));
                }
            }
        }
        survey.trim = held.iter().map(|(.., trim)| *trim).max().unwrap_or_default();
        let below = |number: u64, trim: Lsn| (number + 1).saturating_mul(identity.segment_bytes) <= trim.0;
        let (gone, mut held): (Vec<_>, Vec<_>) = held.into_iter().partition(|(number, ..)| below(*number, survey.trim));
        survey.free.extend(gone.into_iter().map(|(_, slot, _)| slot));
        // From the newest on: it is read block by block, which takes longer than another one's index.
        held.sort_by_key(|(number, ..)| std::cmp::Reverse(*number));
        let views = read_segments(device, identity, &held)?;
        survey.trim = views.iter().map(|view| view.trim).max().unwrap_or_default().max(survey.trim);
        for view in views {
            let (number, slot) = (view.segment, view.slot);
            if below(number, survey.trim) {
                survey.free.push_back(slot);
            } else if let Some(other) = survey.views.insert(number, view) {
                return Err(RecoverError::Damaged {
                    lsn: Lsn(number * identity.segment_bytes),
                    place: device.describe(slot.id, 0),
                    reason: format!("{} holds the same segment", device.describe(other.slot.id, 0)),
                });
            }
        }
        Ok(survey)
    }

    /// Joins segments from the trim mark on; `None` when nothing was ever durable.
    fn join(&self, device: &dyn WalDevice) -> Result<Option<Chain>, RecoverError> {
        let first = self.trim.0 / self.identity.segment_bytes;
        let Some(mut view) = self.views.get(&first) else {
            if self.trim == Lsn(0) {
                return Ok(None);
            }
            return Err(RecoverError::Damaged {
                lsn: self.trim,
                place: "no slot".to_owned(),
                reason: format!("segment {first}, where the log starts, is missing"),
            });
        };
        if self.trim == Lsn(0) && view.last.is_none() {
            // Only the header of the very first segment reached the disk: nothing was ever written.
            return Ok(None);
        }
        while let Some(next) = self.views.get(&(view.segment + 1)) {
            if next.first_link.is_none() || next.first_link != view.last_link() {
                break;
            }
            view = next;
        }
        let chain = Chain { first, last: view.segment, end: view.end };
        if self.trim > chain.end {
            return Err(self.damaged_at(device, view, &format!("it was trimmed to {} before", self.trim)));
        }
        Ok(Some(chain))
    }

    fn damaged_at(&self, device: &dyn WalDevice, view: &SegmentView, evidence: &str) -> RecoverError {
        let offset = view.end.0 - view.segment * self.identity.segment_bytes;
        RecoverError::Damaged {
            lsn: view.end,
            place: device.describe(view.slot.id, offset),
            reason: format!("no valid block here ({}), although {evidence}", view.stopped),
        }
    }

    /// Looks at everything behind the end for a block that was written when more than that was durable.
    fn refuse_marks_above(&self, device: &dyn WalDevice, end: Lsn, last: Option<u64>) -> Result<(), RecoverError> {
        let mut newest = None;
        for view in self.views.values().filter(|view| last.is_none_or(|last| view.segment >= last)) {
            let offset = view.end.0 - view.segment * self.identity.segment_bytes;
            let behind = scan::newest_mark(device, self.identity, view.slot, offset, end)?;
            newest = newest.max(Some(view.synced)).max(behind);
        }
        for slot in &self.unknown {
            newest = newest.max(scan::newest_mark(device, self.identity, *slot, SEGMENT_HEADER_BYTES, end)?);
        }
        let Some(mark) = newest.filter(|mark| *mark > end) else { return Ok(()) };
        let evidence = format!("a later block says that everything below LSN {mark} was durable");
        match self.views.get(&last.unwrap_or(0)) {
            Some(view) => Err(self.damaged_at(device, view, &evidence)),
            None => Err(RecoverError::Damaged {
                lsn: end,
                place: "no slot".to_owned(),
                reason: format!("the first segment is missing, although {evidence}"),
            }),
        }
    }

    fn empty(mut self) -> Recovery {
        let mut wipes = Vec::new();
        self.discard_from(0, &mut wipes);
        let start = Start {
            ring: Ring::new(self.identity.segment_bytes, BTreeMap::new(), self.free),
            tail: None,
            end: Lsn(0),
            trim: Lsn(0),
            durable_trim: Lsn(0),
            next_sequence: 0,
            last_unmarked: false,
        };
        Recovery { recovered: Recovered::default(), start, link: Link::default(), index: None, wipes, live: Vec::new() }
    }

    /// Frees the slots of segments from `segment` on, and of those that name none; they must be wiped first.
    fn discard_from(&mut self, segment: u64, wipes: &mut Vec<(Slot, u64)>) {
        let gone = self.views.split_off(&segment);
        for slot in gone.into_values().map(|view| view.slot).chain(self.unknown.drain(..)) {
            wipes.extend([(slot, 0), (slot, SEGMENT_HEADER_BYTES)]);
            self.free.push_back(slot);
        }
    }

    fn finish(mut self, device: &dyn WalDevice, chain: Chain) -> Result<Recovery, RecoverError> {
        let mut wipes = Vec::new();
        self.discard_from(chain.last + 1, &mut wipes);
        let recovered = self.records(&chain);
        let durable_trim = self.views.values().map(|view| view.trim).max().unwrap_or_default();
        // Segments that only an unacknowledged block gave up still stand: the next recovery may need them.
        let kept = self.views.split_off(&(durable_trim.0 / self.identity.segment_bytes));
        self.free.extend(std::mem::replace(&mut self.views, kept).into_values().map(|view| view.slot));
        let mut last = self.views.remove(&chain.last).expect("the chain ends with a segment that was read");
        let mut live: BTreeMap<u64, Slot> = self.views.iter().map(|(number, view)| (*number, view.slot)).collect();
        live.insert(last.segment, last.slot);
        if last.index.is_none() {
            // Written on from its middle, this segment would have a footer that misses the rest.
            wipes.push((last.slot, last.slot.usable - ALIGNMENT as u64));
            last = scan::scan_blocks(device, self.identity, last.segment, last.slot)?;
        }
        let live_ids = live.values().map(|slot| slot.id).collect();
        let index = last.index.take();
        let tail = Tail {
            segment: last.segment,
            slot: last.slot,
            position: last.end.0 - last.segment * self.identity.segment_bytes,
            blocks: index.as_ref().map_or(0, |index| index.blocks),
            records: index.as_ref().map_or(0, |index| index.records),
        };
        let start = Start {
            ring: Ring::new(self.identity.segment_bytes, live, self.free),
            tail: Some(tail),
            end: chain.end,
            trim: self.trim,
            durable_trim,
            next_sequence: last.last.map_or(0, |last| last.sequence + 1),
            last_unmarked: last.last.is_some_and(|last| last.records > 0),
        };
        let link = last.last.map(|last| last.link).unwrap_or_default();
        Ok(Recovery { recovered, start, link, index, wipes, live: live_ids })
    }

    fn records(&mut self, chain: &Chain) -> Recovered {
        let count = |view: &SegmentView| view.blocks.iter().map(|block| block.records.len()).sum::<usize>();
        let mut records = Vec::with_capacity(self.views.values().map(count).sum());
        for view in self.views.range_mut(chain.first..=chain.last).map(|(_, view)| view) {
            for indexed in std::mem::take(&mut view.blocks) {
                if indexed.lsn.0 + u64::from(indexed.length) <= self.trim.0 || indexed.records.is_empty() {
                    continue;
                }
                let block = Arc::new(Block::new(indexed.lsn));
                records.extend(indexed.records.iter().map(|record| RecordRef {
                    meta: record.meta,
                    block: Arc::clone(&block),
                    position: record.position,
                    len: record.len,
                }));
            }
        }
        Recovered { records, end: chain.end }
    }
}
