//! Segments: the files batches lie in, and what recovery makes of them.
//!
//! A segment is named `log-<sequence of its first batch, 20 digits>` and filled with zeros ahead of what is
//! written, so that a flush touches no file metadata and a full disk is met before a batch, not within one. At
//! most one batch is ever in flight: whatever follows a damaged batch proves that it had been synced.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use metadata::log::{EntryId, LogRecord};
use wal::direct::{ALIGNMENT, AlignedBuf, DirectFile, OpenMode, fsync_dir};

use super::batch::{Batch, BatchError, Body, entry_len};

/// Bytes by which a segment grows.
const EXTENT_BYTES: u64 = 256 << 10;

const PREFIX: &str = "log-";

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: DirectFile,
    /// Sequence of its first batch.
    first: u64,
    path: PathBuf,
}

/// A segment as its writer sees it.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) segment: Arc<Segment>,
    /// Bytes of batches in it.
    pub(super) used: u64,
    /// Bytes filled with zeros or batches.
    allocated: u64,
    /// Largest index of an entry in it, 0 without entries.
    pub(super) last_index: u64,
}

/// Where an entry lies.
#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u64,
    pub(super) len: usize,
}

/// An entry of the log; without a location it is still to be written.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) id: EntryId,
    pub(super) location: Option<Location>,
}

/// What the segments held.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) segments: VecDeque<Written>,
    pub(super) next_sequence: u64,
    pub(super) purged: Option<EntryId>,
    pub(super) committed: Option<EntryId>,
    pub(super) slots: VecDeque<Slot>,
    pub(super) records: VecDeque<LogRecord>,
}

impl Written {
    /// Creates the segment whose first batch will be `first`. Its name is durable when this returns.
    pub(super) fn create(dir: &Path, first: u64) -> io::Result<Self> {
        let path = dir.join(format!("{PREFIX}{first:020}"));
        if path.exists() {
            // Left by an attempt that found the disk full; nothing was written to it.
            std::fs::remove_file(&path)?;
        }
        let file = DirectFile::open(&path, OpenMode::CreateNew)?;
        fsync_dir(dir)?;
        let segment = Arc::new(Segment { file, first, path });
        Ok(Self { segment, used: 0, allocated: 0, last_index: 0 })
    }

    /// Makes room for `len` more bytes of batches.
    pub(super) fn reserve(&mut self, len: u64) -> io::Result<()> {
        while self.allocated < self.used + len {
            let missing = (self.used + len - self.allocated).next_multiple_of(EXTENT_BYTES);
            self.segment.file.allocate(self.allocated, missing)?;
            let zeros = AlignedBuf::zeroed(EXTENT_BYTES as usize)?;
            for extent in 0..missing / EXTENT_BYTES {
                self.segment.file.write_all_at(&zeros, self.allocated + extent * EXTENT_BYTES)?;
            }
            self.allocated += missing;
        }
        Ok(())
    }

    /// Deletes the file.
    pub(super) fn delete(self) -> io::Result<()> {
        std::fs::remove_file(&self.segment.path)
    }
}

/// Reads and checks every segment. A torn last batch, which nobody was told of, is wiped; any other damage is
/// refused.
pub(super) fn recover(dir: &Path) -> io::Result<Recovered> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(first) = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)) {
            let first: u64 = first.parse().map_err(|_| damaged(&entry.path(), "its name is not a number"))?;
            names.push((first, entry.path()));
        }
    }
    names.sort();
    let mut recovered = Recovered { next_sequence: 1, ..Recovered::default() };
    if let Some((first, _)) = names.first() {
        recovered.next_sequence = *first;
    }
    let last = names.len().saturating_sub(1);
    let oldest = names.first().cloned();
    for (position, (first, path)) in names.into_iter().enumerate() {
        if first != recovered.next_sequence {
            return Err(damaged(&path, &format!("batch {} should follow", recovered.next_sequence)));
        }
        recovered.read_segment(first, path, position == last)?;
    }
    if let Some(current) = recovered.segments.back() {
        // Its last batch may have been read before it was ever synced, and counts from here on.
        current.segment.file.sync_data()?;
    }
    recovered.drop_purged();
    let whole = match (oldest, recovered.purged) {
        (Some((first, path)), None) if first != 1 => Err(damaged(&path, "older segments are missing")),
        (Some((_, path)), Some(purged))
            if recovered.slots.front().is_some_and(|slot| slot.id.index > purged.index + 1) =>
        {
            Err(damaged(&path, "entries after the last purged one are missing"))
        }
        _ => Ok(()),
    };
    whole.map(|()| recovered)
}

fn damaged(path: &Path, reason: &str) -> io::Error {
    let message = format!("{}: {reason}; the metadata log is damaged and will not be used", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl Recovered {
    fn read_segment(&mut self, first: u64, path: PathBuf, is_last: bool) -> io::Result<()> {
        let file = DirectFile::open(&path, OpenMode::ReadWrite)?;
        let len = usize::try_from(file.len()?).map_err(|_| damaged(&path, "it is too large"))? / ALIGNMENT * ALIGNMENT;
        let mut buffer = AlignedBuf::zeroed(len)?;
        if len > 0 {
            file.read_exact_at(&mut buffer[..len], 0)?;
        }
        let bytes = Bytes::from_owner(buffer).slice(..len);
        let segment = Arc::new(Segment { file, first, path: path.clone() });
        let mut written = Written { segment, used: 0, allocated: len as u64, last_index: 0 };
        loop {
            let rest = bytes.slice(written.used as usize..);
            match Batch::decode(&rest) {
                Ok((batch, positions, len)) if batch.sequence == self.next_sequence => {
                    self.take(batch, &positions, &mut written, &path)?;
                    written.used += len as u64;
                    self.next_sequence += 1;
                }
                Err(BatchError::Version(version)) => {
                    return Err(damaged(&path, &format!("it has a batch of version {version}")));
                }
                _ => {
                    self.check_end(&written, &rest, is_last, &path)?;
                    break;
                }
            }
        }
        self.segments.push_back(written);
        Ok(())
    }

    /// Where no batch follows, the log ends: only the last segment may end in a torn batch.
    fn check_end(&self, written: &Written, rest: &Bytes, is_last: bool, path: &Path) -> io::Result<()> {
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        if !is_last {
            return Err(damaged(path, &format!("batch {} is damaged", self.next_sequence)));
        }
        for start in (ALIGNMENT..rest.len()).step_by(ALIGNMENT) {
            if let Ok((batch, ..)) = Batch::decode(&rest.slice(start..))
                && batch.sequence > self.next_sequence
            {
                let reason = format!("batch {} is damaged, but {} follows", self.next_sequence, batch.sequence);
                return Err(damaged(path, &reason));
            }
        }
        tracing::warn!(path = %path.display(), at = written.used, "wiping a torn batch that was never acknowledged");
        let zeros = AlignedBuf::zeroed(rest.len())?;
        written.segment.file.write_all_at(&zeros[..rest.len()], written.used)?;
        written.segment.file.sync_data()
    }

    fn take(&mut self, batch: Batch, positions: &[usize], written: &mut Written, path: &Path) -> io::Result<()> {
        self.purged = self.purged.max(batch.purged);
        self.committed = self.committed.max(batch.committed);
        match batch.body {
            Body::Mark => {}
            Body::Truncate(last) => {
                let first = last.map_or(0, |last| last.index + 1);
                while self.slots.back().is_some_and(|slot| slot.id.index >= first) {
                    self.slots.pop_back();
                    self.records.pop_back();
                }
            }
            Body::Entries(records) => {
                for (record, position) in records.into_iter().zip(positions) {
                    self.drop_purged();
                    if self.slots.back().is_some_and(|last| last.id.index + 1 != record.id.index) {
                        return Err(damaged(path, &format!("entry {} does not follow", record.id.index)));
                    }
                    let offset = written.used + *position as u64;
                    let location = Location { segment: Arc::clone(&written.segment), offset, len: entry_len(&record) };
                    written.last_index = written.last_index.max(record.id.index);
                    self.slots.push_back(Slot { id: record.id, location: Some(location) });
                    self.records.push_back(record);
                }
            }
        }
        Ok(())
    }

    fn drop_purged(&mut self) {
        let Some(purged) = self.purged else { return };
        while self.slots.front().is_some_and(|slot| slot.id.index <= purged.index) {
            self.slots.pop_front();
            self.records.pop_front();
        }
    }
}

impl Segment {
    /// Reads `len` bytes from `offset`, whatever their alignment.
    pub(super) fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let start = offset / ALIGNMENT as u64 * ALIGNMENT as u64;
        let skip = (offset - start) as usize;
        let mut buffer = AlignedBuf::zeroed(skip + len)?;
        self.file.read_exact_at(&mut buffer, start)?;
        Ok(Bytes::from_owner(buffer).slice(skip..skip + len))
    }

    /// An error that tells where the damage is.
    pub(super) fn damaged(&self, offset: u64) -> io::Error {
        damaged(&self.path, &format!("the entry at byte {offset} of the segment from batch {} is damaged", self.first))
    }
}
