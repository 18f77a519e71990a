//! The Raft log of metadata on files in one directory: segments of batches, the vote, one snapshot.
//!
//! One thread writes. It gathers whatever was appended while the last flush was under way into one batch, writes
//! it with O_DIRECT, calls fdatasync, then tells. A full disk makes it wait and try again: a batch either fits the
//! space that was reserved for it, or is not begun. Any other error ends the log for good, because what reached
//! the disk is unknown.

mod batch;
mod segment;
pub(super) mod snapshot_file;
#[cfg(test)]
mod tests;
mod vote;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use metadata::log::{AppendDone, EntryId, LogBounds, LogRecord, RaftLogStore, SnapshotChunks, SnapshotSource, Vote};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use segment::{Location, Slot};
use writer::Writer;

/// Pause between attempts while the disk is full.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// Neighbouring entries are read from disk together up to this many bytes.
const READ_WINDOW: usize = 1 << 20;

/// The open log. Dropping it writes what was appended and ends its thread.
pub struct RaftLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
    wake: Condvar,
    stalled: AtomicBool,
    closing: AtomicBool,
    log_bytes: AtomicU64,
    snapshot_bytes: AtomicU64,
    /// Makes every reservation of space fail, as on a full disk.
    #[cfg(test)]
    full: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Bounded by what Raft has under way, which the client bounds in number and bytes.
    queue: VecDeque<Operation>,
    failed: Option<Failed>,
    slots: VecDeque<Slot>,
    /// Entries that are not on disk yet, and after a start those that recovery found.
    resident: BTreeMap<u64, LogRecord>,
    vote: Option<Vote>,
    purged: Option<EntryId>,
    committed: Option<EntryId>,
}

/// The error that ended the log; every later write gets it too.
#[derive(Clone, Debug)]
struct Failed {
    kind: io::ErrorKind,
    message: String,
}

impl From<Failed> for io::Error {
    fn from(from: Failed) -> Self {
        Self::new(from.kind, from.message)
    }
}

/// A write, in the order of the calls.
enum Operation {
    Append { records: Vec<LogRecord>, done: AppendDone },
    Truncate { last: Option<EntryId>, done: oneshot::Sender<io::Result<()>> },
    Purge { upto: EntryId, done: oneshot::Sender<io::Result<()>> },
    SaveVote { vote: Vote, done: oneshot::Sender<io::Result<()>> },
}

impl RaftLog {
    /// Opens the log in `dir`, creating it when there is none, and checks everything in it.
    ///
    /// Errors: `WouldBlock` when another process has it open; `InvalidData` when it is damaged, which is refused
    /// with a message that names the file. A torn last batch is not damage: nobody was told of it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        create_durably(dir)?;
        let vote = vote::VoteFile::open(&dir.join("vote"))?;
        let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(vote.file(), lock).map_err(|error| {
            let message = format!("{}: the metadata log is in use by another process", dir.display());
            if error == rustix::io::Errno::WOULDBLOCK {
                io::Error::new(io::ErrorKind::WouldBlock, message)
            } else {
                error.into()
            }
        })?;
        wal::direct::fsync_dir(dir)?;
        let recovered = segment::recover(dir)?;
        let snapshot = snapshot_file::newest(dir)?;
        require_snapshot(dir, recovered.purged, snapshot.as_ref())?;
        let snapshot_bytes =
            snapshot.map(|(_, path)| std::fs::metadata(path)).transpose()?.map_or(0, |file| file.len());
        let state = State {
            slots: recovered.slots,
            resident: recovered.records.into_iter().map(|record| (record.id.index, record)).collect(),
            vote: vote.vote(),
            purged: recovered.purged,
            committed: recovered.committed,
            ..State::default()
        };
        let used = recovered.segments.iter().map(|segment| segment.used).sum();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            state: Mutex::new(state),
            wake: Condvar::new(),
            stalled: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            log_bytes: AtomicU64::new(used),
            snapshot_bytes: AtomicU64::new(snapshot_bytes),
            #[cfg(test)]
            full: AtomicBool::new(false),
        });
        let writer = Writer::new(Arc::clone(&shared), recovered.segments, recovered.next_sequence, vote);
        let writer = std::thread::Builder::new().name("raft-log".into()).spawn(move || writer.run())?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)) })
    }

    async fn perform(&self, operation: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Operation) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        self.shared.enqueue(operation(done));
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl RaftLog {
    /// Tells the writer to end once the queue is empty; hands out its thread to whoever comes first.
    fn begin_close(&self) -> Option<std::thread::JoinHandle<()>> {
        {
            // With the lock held the writer is either waiting, and woken, or has yet to look.
            let _state = self.shared.state.lock();
            self.shared.closing.store(true, Ordering::Release);
            self.shared.wake.notify_all();
        }
        self.writer.lock().take()
    }
}

fn join(writer: std::thread::JoinHandle<()>) {
    if writer.join().is_err() {
        tracing::error!("the writer of the metadata log panicked");
    }
}

impl Drop for RaftLog {
    fn drop(&mut self) {
        if let Some(writer) = self.begin_close() {
            join(writer);
        }
    }
}

fn closed() -> io::Error {
    ended().into()
}

fn ended() -> Failed {
    Failed { kind: io::ErrorKind::BrokenPipe, message: "the metadata log is closed".into() }
}

/// Creates missing directories; each new name is durable before it is used.
fn create_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_durably(parent)?;
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => wal::direct::fsync_dir(parent),
    }
}

/// What was purged must be in a snapshot, or metadata would silently begin in the middle.
fn require_snapshot(dir: &Path, purged: Option<EntryId>, snapshot: Option<&(u64, PathBuf)>) -> io::Result<()> {
    let covered = snapshot.map(|(index, _)| *index);
    match purged {
        Some(purged) if covered.is_none_or(|covered| covered < purged.index) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: the snapshot of metadata up to entry {} is missing", dir.display(), purged.index),
        )),
        _ => Ok(()),
    }
}

impl Shared {
    fn enqueue(&self, operation: Operation) {
        let mut state = self.state.lock();
        let closing = self.closing.load(Ordering::Acquire);
        if let Some(failed) = state.failed.clone().or_else(|| closing.then(ended)) {
            drop(state);
            operation.finish(&Err(failed));
            return;
        }
        state.queue.push_back(operation);
        self.wake.notify_one();
    }

    /// Whether an error only says that the disk is full.
    fn is_full(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl Operation {
    fn finish(self, outcome: &Result<(), Failed>) {
        let outcome = outcome.clone().map_err(io::Error::from);
        match self {
            Self::Append { done, .. } => done(outcome),
            // Whoever asked may have stopped waiting.
            Self::Truncate { done, .. } | Self::Purge { done, .. } | Self::SaveVote { done, .. } => {
                let _ = done.send(outcome);
            }
        }
    }
}

impl State {
    /// Takes entries in memory; they must follow the last one.
    fn append(&mut self, records: &[LogRecord]) -> Result<(), Failed> {
        let mut last = self.slots.back().map(|slot| slot.id.index);
        for record in records {
            if last.is_some_and(|last| last + 1 != record.id.index) {
                let message = format!("entry {} does not follow entry {last:?}", record.id.index);
                return Err(Failed { kind: io::ErrorKind::InvalidInput, message });
            }
            last = Some(record.id.index);
        }
        for record in records {
            self.slots.push_back(Slot { id: record.id, location: None });
            self.resident.insert(record.id.index, record.clone());
        }
        Ok(())
    }

    fn truncate_after(&mut self, last: Option<EntryId>) {
        let first = last.map_or(0, |last| last.index + 1);
        while self.slots.back().is_some_and(|slot| slot.id.index >= first) {
            self.slots.pop_back();
        }
        self.resident.split_off(&first);
    }

    fn purge(&mut self, upto: EntryId) {
        self.purged = self.purged.max(Some(upto));
        while self.slots.front().is_some_and(|slot| slot.id.index <= upto.index) {
            self.slots.pop_front();
        }
        self.resident = self.resident.split_off(&(upto.index + 1));
    }

    /// Where the entry of this index is, if it exists.
    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let first = self.slots.front()?.id.index;
        self.slots.get_mut(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    fn locate(&self, range: &Range<u64>) -> Vec<Found> {
        let Some(first) = self.slots.front().map(|slot| slot.id.index) else { return Vec::new() };
        let skip = usize::try_from(range.start.saturating_sub(first)).unwrap_or(usize::MAX);
        let within = self.slots.iter().skip(skip).take_while(|slot| slot.id.index < range.end);
        let found = within.filter_map(|slot| match self.resident.get(&slot.id.index) {
            Some(record) => Some(Found::Resident(record.clone())),
            None => slot.location.clone().map(|location| Found::OnDisk(slot.id, location)),
        });
        found.collect()
    }
}

/// An entry that is to be read.
enum Found {
    Resident(LogRecord),
    OnDisk(EntryId, Location),
}

/// Reads entries from disk, neighbours together.
fn read_found(found: Vec<Found>) -> io::Result<Vec<LogRecord>> {
    let mut records = Vec::with_capacity(found.len());
    let mut window: Option<(Location, bytes::Bytes)> = None;
    let mut found = found.into_iter().peekable();
    let mut ahead = VecDeque::new();
    while let Some(next) = ahead.pop_front().or_else(|| found.next()) {
        let (id, at) = match next {
            Found::Resident(record) => {
                records.push(record);
                continue;
            }
            Found::OnDisk(id, at) => (id, at),
        };
        let inside = window.as_ref().and_then(|(of, bytes)| slice_of(of, bytes, &at));
        let bytes = match inside {
            Some(bytes) => bytes,
            None => {
                let mut whole = at.clone();
                while let Some(Found::OnDisk(_, next)) = found.peek()
                    && Arc::ptr_eq(&next.segment, &at.segment)
                    && next.offset >= at.offset
                    && (next.offset - at.offset) as usize + next.len <= READ_WINDOW
                {
                    whole.len = (next.offset - at.offset) as usize + next.len;
                    ahead.extend(found.next());
                }
                let bytes = whole.segment.read(whole.offset, whole.len)?;
                let own = bytes.slice(..at.len);
                window = Some((whole, bytes));
                own
            }
        };
        let record = batch::decode_entry(&bytes).filter(|record| record.id == id);
        records.push(record.ok_or_else(|| at.segment.damaged(at.offset))?);
    }
    Ok(records)
}

fn slice_of(window: &Location, bytes: &bytes::Bytes, at: &Location) -> Option<bytes::Bytes> {
    if !Arc::ptr_eq(&window.segment, &at.segment) {
        return None;
    }
    let start = usize::try_from(at.offset.checked_sub(window.offset)?).ok()?;
    let end = start.checked_add(at.len).filter(|end| *end <= bytes.len())?;
    Some(bytes.slice(start..end))
}

#[async_trait::async_trait]
impl RaftLogStore for RaftLog {
    fn bounds(&self) -> LogBounds {
        let state = self.shared.state.lock();
        LogBounds {
            vote: state.vote,
            purged: state.purged,
            last: state.slots.back().map(|slot| slot.id).or(state.purged),
            committed: state.committed,
        }
    }

    fn append(&self, records: Vec<LogRecord>, done: AppendDone) {
        let appended = self.shared.state.lock().append(&records);
        let operation = Operation::Append { records, done };
        match appended {
            Ok(()) => self.shared.enqueue(operation),
            Err(failed) => operation.finish(&Err(failed)),
        }
    }

    async fn truncate_after(&self, last: Option<EntryId>) -> io::Result<()> {
        self.shared.state.lock().truncate_after(last);
        self.perform(|done| Operation::Truncate { last, done }).await
    }

    async fn purge(&self, upto: EntryId) -> io::Result<()> {
        self.shared.state.lock().purge(upto);
        self.perform(|done| Operation::Purge { upto, done }).await
    }

    async fn read(&self, range: Range<u64>) -> io::Result<Vec<LogRecord>> {
        let found = self.shared.state.lock().locate(&range);
        if found.iter().all(|found| matches!(found, Found::Resident(_))) {
            return read_found(found);
        }
        tokio::task::spawn_blocking(move || read_found(found)).await.map_err(io::Error::other)?
    }

    async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        self.perform(|done| Operation::SaveVote { vote, done }).await?;
        self.shared.state.lock().vote = Some(vote);
        Ok(())
    }

    fn note_committed(&self, committed: Option<EntryId>) {
        let mut state = self.shared.state.lock();
        state.committed = state.committed.max(committed);
    }

    async fn save_snapshot(&self, covers: Option<EntryId>, source: SnapshotSource) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let save = move || {
            loop {
                match snapshot_file::save(&shared.dir, covers, &source) {
                    Err(error) if Shared::is_full(&error) && !shared.closing.load(Ordering::Acquire) => {
                        tracing::warn!(%error, "the metadata snapshot waits for room on the disk");
                        std::thread::sleep(FULL_RETRY);
                    }
                    Err(error) => return Err(error),
                    Ok(bytes) => {
                        shared.snapshot_bytes.store(bytes, Ordering::Release);
                        return Ok(());
                    }
                }
            }
        };
        tokio::task::spawn_blocking(save).await.map_err(io::Error::other)?
    }

    async fn load_snapshot(&self) -> io::Result<Option<SnapshotChunks>> {
        let newest = snapshot_file::newest(&self.shared.dir)?;
        newest.map(|(_, path)| Ok(Box::new(snapshot_file::Frames::open(&path)?) as SnapshotChunks)).transpose()
    }

    fn settle(&self) {
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        let on_disk = state.slots.iter().filter(|slot| slot.location.is_some());
        for slot in on_disk {
            state.resident.remove(&slot.id.index);
        }
    }

    async fn close(&self) {
        if let Some(writer) = self.begin_close()
            && tokio::task::spawn_blocking(move || join(writer)).await.is_err()
        {
            tracing::error!("closing the metadata log was cut short");
        }
    }

    fn is_stalled(&self) -> bool {
        self.shared.stalled.load(Ordering::Acquire)
    }

    fn log_bytes(&self) -> u64 {
        self.shared.log_bytes.load(Ordering::Acquire)
    }

    fn snapshot_bytes(&self) -> u64 {
        self.shared.snapshot_bytes.load(Ordering::Acquire)
    }
}
