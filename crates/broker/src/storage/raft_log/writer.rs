//! The thread that writes: batches, segments, the vote.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use metadata::log::{EntryId, LogRecord, Vote};
use wal::direct::{AlignedBuf, fsync_dir};

use super::batch::{Batch, Body, entry_len, padded_len};
use super::segment::{Location, Written};
use super::vote::VoteFile;
use super::{FULL_RETRY, Failed, Operation, Shared, closed};

/// A segment that has reached this many bytes is followed by a new one.
const SEGMENT_BYTES: u64 = 4 << 20;

/// Payload bytes gathered into one batch, but always at least one append.
const BATCH_BYTES: usize = 1 << 20;

/// Batch memory kept between batches; what a larger one took is given back.
const SCRATCH_BYTES: usize = 256 << 10;

/// See the module.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Written>,
    next_sequence: u64,
    vote: VoteFile,
    scratch: Option<AlignedBuf>,
}

/// What one turn of the thread does.
enum Work {
    Append(Vec<LogRecord>),
    Truncate(Option<EntryId>),
    Purge(EntryId),
    Vote(Vote),
}

/// How a write failed.
enum WriteError {
    /// Before anything was written that counts: try again when there is room.
    Full(io::Error),
    /// For good.
    Fatal(io::Error),
}

/// For steps that can be taken again from the start.
fn repeatable(error: io::Error) -> WriteError {
    if Shared::is_full(&error) { WriteError::Full(error) } else { WriteError::Fatal(error) }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, segments: VecDeque<Written>, next_sequence: u64, vote: VoteFile) -> Self {
        Self { shared, segments, next_sequence, vote, scratch: None }
    }

    /// Works until the log is closed and nothing is queued, or until an error.
    pub(super) fn run(mut self) {
        while let Some((work, operations)) = self.next() {
            let outcome = self.work_through(&work);
            if let Err(error) = &outcome {
                tracing::error!(%error, "the metadata log failed and takes no more entries");
            }
            let failed = outcome.err().map(|error| Failed { kind: error.kind(), message: error.to_string() });
            let mut rest = VecDeque::new();
            if failed.is_some() {
                let mut state = self.shared.state.lock();
                state.failed.clone_from(&failed);
                rest = std::mem::take(&mut state.queue);
            }
            let outcome = failed.map_or(Ok(()), Err);
            for operation in operations.into_iter().chain(rest) {
                operation.finish(&outcome);
            }
        }
    }

    /// Waits for work; appends that are queued together become one.
    fn next(&self) -> Option<(Work, Vec<Operation>)> {
        let mut state = self.shared.state.lock();
        while state.queue.is_empty() {
            if self.shared.closing.load(Ordering::Acquire) {
                return None;
            }
            self.shared.wake.wait(&mut state);
        }
        let mut gathered = Vec::new();
        let mut operations = Vec::new();
        let mut bytes = 0;
        while let Some(Operation::Append { records, .. }) = state.queue.front()
            && bytes < BATCH_BYTES
        {
            bytes += records.iter().map(|record| record.payload.len()).sum::<usize>();
            gathered.extend(records.iter().cloned());
            operations.extend(state.queue.pop_front());
        }
        if !operations.is_empty() {
            return Some((Work::Append(gathered), operations));
        }
        let operation = state.queue.pop_front()?;
        let work = match &operation {
            Operation::Append { records, .. } => Work::Append(records.clone()),
            Operation::Truncate { last, .. } => Work::Truncate(*last),
            Operation::Purge { upto, .. } => Work::Purge(*upto),
            Operation::SaveVote { vote, .. } => Work::Vote(*vote),
        };
        Some((work, vec![operation]))
    }

    fn work_through(&mut self, work: &Work) -> io::Result<()> {
        loop {
            match self.attempt(work) {
                Ok(()) => {
                    if self.shared.stalled.swap(false, Ordering::AcqRel) {
                        tracing::info!("the metadata log has room again");
                    }
                    return Ok(());
                }
                Err(WriteError::Fatal(error)) => return Err(error),
                Err(WriteError::Full(error)) => {
                    if !self.shared.stalled.swap(true, Ordering::AcqRel) {
                        tracing::warn!(%error, "the metadata log waits for room on the disk");
                    }
                    if self.shared.closing.load(Ordering::Acquire) {
                        return Err(closed());
                    }
                    std::thread::sleep(FULL_RETRY);
                }
            }
        }
    }

    fn attempt(&mut self, work: &Work) -> Result<(), WriteError> {
        match work {
            Work::Append(records) => self.append(records),
            Work::Truncate(last) => self.write_batch(Body::Truncate(*last)).map(drop),
            Work::Purge(upto) => self.purge(*upto),
            Work::Vote(vote) => self.vote.save(*vote).map_err(WriteError::Fatal),
        }
    }

    fn append(&mut self, records: &[LogRecord]) -> Result<(), WriteError> {
        let (start, positions) = self.write_batch(Body::Entries(records.to_vec()))?;
        let current = self.segments.back_mut().expect("a batch was written to it");
        let mut state = self.shared.state.lock();
        for (record, position) in records.iter().zip(positions) {
            current.last_index = current.last_index.max(record.id.index);
            let offset = start + position as u64;
            let location = Location { segment: Arc::clone(&current.segment), offset, len: entry_len(record) };
            // It may have been truncated, and its index written anew, in the meantime.
            if let Some(slot) = state.slot_mut(record.id.index).filter(|slot| slot.id == record.id) {
                slot.location = Some(location);
                state.resident.remove(&record.id.index);
            }
        }
        Ok(())
    }

    /// Writes the new bound, then deletes the segments below it. A current segment without any other entry is
    /// left behind too.
    fn purge(&mut self, upto: EntryId) -> Result<(), WriteError> {
        if self.segments.back().is_some_and(|current| current.used > 0 && current.last_index <= upto.index) {
            self.roll()?;
        }
        self.write_batch(Body::Mark)?;
        let mut deleted = false;
        while self.segments.len() > 1 && self.segments.front().is_some_and(|oldest| oldest.last_index <= upto.index) {
            if let Some(oldest) = self.segments.pop_front() {
                oldest.delete().map_err(WriteError::Fatal)?;
                deleted = true;
            }
        }
        if deleted {
            fsync_dir(&self.shared.dir).map_err(WriteError::Fatal)?;
            self.publish_size();
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), WriteError> {
        let segment = Written::create(&self.shared.dir, self.next_sequence).map_err(repeatable)?;
        self.segments.push_back(segment);
        Ok(())
    }

    /// Writes and syncs one batch; returns where it starts and where its records lie within it.
    fn write_batch(&mut self, body: Body) -> Result<(u64, Vec<usize>), WriteError> {
        let len = padded_len(&body);
        let fits = |current: &Written| current.used == 0 || current.used + len as u64 <= SEGMENT_BYTES;
        if !self.segments.back().is_some_and(fits) {
            self.roll()?;
        }
        let (purged, committed) = {
            let state = self.shared.state.lock();
            (state.purged, state.committed)
        };
        let batch = Batch { sequence: self.next_sequence, purged, committed, body };
        let mut scratch = match self.scratch.take().filter(|scratch| scratch.len() >= len) {
            Some(scratch) => scratch,
            None => AlignedBuf::zeroed(len.max(SCRATCH_BYTES)).map_err(WriteError::Fatal)?,
        };
        let positions = batch.encode(&mut scratch[..len]);
        let current = self.segments.back_mut().expect("rolled above if there was none");
        #[cfg(test)]
        if self.shared.full.load(Ordering::Acquire) {
            return Err(WriteError::Full(io::ErrorKind::StorageFull.into()));
        }
        current.reserve(len as u64).map_err(repeatable)?;
        let start = current.used;
        // Writing again over what did not fit is harmless: it was neither synced nor counted.
        current.segment.file.write_all_at(&scratch[..len], start).map_err(repeatable)?;
        current.segment.file.sync_data().map_err(WriteError::Fatal)?;
        current.used += len as u64;
        self.next_sequence += 1;
        if scratch.len() <= SCRATCH_BYTES {
            self.scratch = Some(scratch);
        }
        self.publish_size();
        Ok((start, positions))
    }

    fn publish_size(&self) {
        let used = self.segments.iter().map(|segment| segment.used).sum();
        self.shared.log_bytes.store(used, Ordering::Release);
    }
}
