//! The read path past the log cache: released blocks of the log, then objects.

use std::sync::Arc;

use bytes::Bytes;
use common::Offset;
use common::planted::{self, Bug};
use futures::{StreamExt, stream};
use wal::{BlockAddress, ReadError};

use crate::format::object_index::{BlockEntry, ObjectIndex};
use crate::object::reader::{self, ObjectReadError};
use crate::ports::CommittedRange;
use crate::readahead::Readahead;
use crate::stream::{Checkpoint, FetchError, Fetched, ReadClass, Stream};
use crate::tail::TailEntry;

/// What one fetch loads at most, whatever it asks for: the memory of a request is bounded.
const FETCH_LOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Ranges looked at per step.
const RANGES_PER_STEP: usize = 8;
/// Readers that are read ahead for at the same time.
const READAHEADS_IN_FLIGHT: usize = 8;
/// How often a read starts over because data moved while it was read: from log to object, or between objects.
const MOVES_MAX: usize = 8;

/// One step of a read.
enum Step {
    /// Everything up to here was looked at.
    Reached(Offset),
    /// What was asked for has moved: look again.
    Moved(String),
}

/// See [`Stream::fetch`].
pub(crate) async fn fetch(
    stream: &Arc<Stream>,
    from: Offset,
    until: Offset,
    max_bytes: usize,
    class: ReadClass,
) -> Result<Fetched, FetchError> {
    let max_bytes = max_bytes.min(FETCH_LOAD_BYTES_MAX);
    let (mut cursor, mut fetched, mut moves) = (from, Fetched::default(), 0);
    loop {
        let (until, committed, in_log) = {
            let state = stream.state.lock();
            let (start, next) = (state.start, state.tail.next());
            if cursor < start || cursor > next {
                return out_of_range(fetched, start, next);
            }
            if cursor >= state.tail.covered_from() && state.tail.collect(cursor, until, max_bytes, &mut fetched) {
                return Ok(fetched);
            }
            (until.min(next), state.tail.committed(), state.tail.is_read_from_log(cursor))
        };
        if cursor >= until || !fetched.slices.is_empty() && fetched.bytes >= max_bytes {
            return Ok(fetched);
        }
        let step = if in_log {
            fetch_log(stream, cursor, until, max_bytes, &mut fetched).await?
        } else {
            match fetch_objects(stream, cursor, until.min(committed), max_bytes, class, &mut fetched).await {
                Err(_) if planted::is(Bug::FailedGetIsEmpty) => Step::Reached(until.min(committed)),
                read => read?,
            }
        };
        match step {
            Step::Reached(offset) if !fetched.slices.is_empty() || offset <= cursor => {
                return Ok(fetched);
            }
            Step::Reached(offset) => cursor = offset,
            Step::Moved(_) if !fetched.slices.is_empty() => return Ok(fetched),
            Step::Moved(what) => {
                moves += 1;
                if moves > MOVES_MAX {
                    return Err(FetchError::Unavailable(what));
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

fn out_of_range(fetched: Fetched, start: Offset, next: Offset) -> Result<Fetched, FetchError> {
    // A trim may overtake a read that has something already.
    if fetched.slices.is_empty() { Err(FetchError::OutOfRange { start, next }) } else { Ok(fetched) }
}

/// Records in the log whose blocks were released, or that were recovered.
async fn fetch_log(
    stream: &Stream,
    from: Offset,
    until: Offset,
    max_bytes: usize,
    fetched: &mut Fetched,
) -> Result<Step, FetchError> {
    let entries: Vec<TailEntry> = {
        let state = stream.state.lock();
        let mut bytes = 0;
        let within = |entry: &&TailEntry| {
            let first = bytes == 0;
            bytes += entry.len as usize;
            entry.next <= until && (first || bytes <= max_bytes)
        };
        state.tail.from(from).take_while(within).cloned().collect()
    };
    let mut reached = from;
    let mut last: Option<(BlockAddress, Bytes)> = None;
    for entry in entries {
        if !fetched.has_room(entry.len as usize, max_bytes) {
            break;
        }
        let address = entry.block.address();
        let block = match (entry.block.bytes(), &last) {
            (Some(bytes), _) => bytes,
            (None, Some((known, bytes))) if *known == address => bytes.clone(),
            (None, _) => match stream.core.block_cache.log_block(stream.core.wal.as_ref(), &entry.block).await {
                Ok(bytes) => bytes,
                // It was uploaded and trimmed since; a sealed log may even be gone, or another be in its place.
                Err(error) if is_gone(stream, &entry, &error) => {
                    stream.opened();
                    return Ok(Step::Moved(format!("a block of the log: {error}")));
                }
                Err(error) => return Err(unreadable(&error)),
            },
        };
        let payload = slice(&block, entry.position, entry.len)?;
        last = Some((address, block));
        fetched.push(entry.base, entry.next, payload);
        reached = entry.next;
    }
    Ok(Step::Reached(reached))
}

/// Whether objects hold the entry, so that nobody owes its block any more.
fn is_gone(stream: &Stream, entry: &TailEntry, error: &ReadError) -> bool {
    let in_sealed = entry.block.origin().is_some();
    matches!(error, ReadError::NotFound(_)) || in_sealed && entry.next <= stream.committed_offset()
}

fn unreadable(error: &ReadError) -> FetchError {
    match error {
        ReadError::Corrupt { .. } => FetchError::Corrupt(error.to_string()),
        ReadError::NotFound(_) | ReadError::Io(_) => FetchError::Unavailable(error.to_string()),
    }
}

/// The bytes `position..position + len` of a block of a log.
pub(crate) fn slice(block: &Bytes, position: u32, len: u32) -> Result<Bytes, FetchError> {
    let (start, end) = (position as usize, position as usize + len as usize);
    if end > block.len() {
        return Err(FetchError::Corrupt("a block of the log is shorter than it was".to_owned()));
    }
    Ok(block.slice(start..end))
}

/// Committed records.
async fn fetch_objects(
    stream: &Arc<Stream>,
    from: Offset,
    until: Offset,
    max_bytes: usize,
    class: ReadClass,
    fetched: &mut Fetched,
) -> Result<Step, FetchError> {
    let ranges = stream.core.object_manager.ranges(stream.id(), from, until, RANGES_PER_STEP);
    let (mut cursor, mut looked) = (from, false);
    for range in ranges {
        if range.start > cursor {
            break;
        }
        let read = fetch_range(stream, &range, cursor, until, max_bytes, class, fetched).await;
        match read {
            Ok((reached, whole)) => {
                cursor = reached;
                looked = true;
                if !whole {
                    break;
                }
            }
            Err(ObjectReadError::Gone(_)) if looked => break,
            Err(error @ ObjectReadError::Gone(_)) => return Ok(Step::Moved(error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    if !looked {
        return Ok(Step::Moved(format!("no object is known to hold offset {from} of stream {}", stream.id())));
    }
    let bytes = fetched.bytes as u64;
    let readahead = stream.state.lock().readers.on_read(from, cursor, bytes);
    if let Some(readahead) = readahead {
        read_ahead(Arc::clone(stream), readahead);
    }
    Ok(Step::Reached(cursor))
}

/// The blocks of `range` that overlap `from..until`.
pub(crate) fn overlapping<'a>(
    index: &'a ObjectIndex,
    stream: &Stream,
    range: &CommittedRange,
    from: Offset,
) -> &'a [BlockEntry] {
    let blocks = index.blocks_of(stream.id());
    let first = blocks.partition_point(|block| block.end <= from.max(range.start));
    let end = blocks.partition_point(|block| block.base < range.end);
    &blocks[first.min(end)..end]
}

/// Adds what `range` holds. Returns the offset reached, and whether the whole range was consumed.
async fn fetch_range(
    stream: &Stream,
    range: &CommittedRange,
    from: Offset,
    until: Offset,
    max_bytes: usize,
    class: ReadClass,
    fetched: &mut Fetched,
) -> Result<(Offset, bool), ObjectReadError> {
    let core = &stream.core;
    let index = reader::index(core, &range.object, class).await?;
    let until = until.min(range.end);
    let entries = overlapping(&index, stream, range, from);
    // No block is begun for less than half of what is asked for: a sequential reader then ends at the end of a block,
    // and each block is loaded, and handed out, once.
    let enough = max_bytes as u64 / 2;
    let mut bytes = fetched.bytes as u64;
    let within = |entry: &&BlockEntry| {
        let more = bytes <= enough;
        bytes += entry.payload_bytes();
        more && entry.base < until
    };
    let wanted = entries.iter().take_while(within).count().max(usize::from(!entries.is_empty()));
    let blocks = reader::blocks(core, &range.object, &entries[..wanted], class).await?;
    let mut reached = from;
    for (block, entry) in blocks.iter().zip(entries) {
        let more = block.collect(from, until, max_bytes, fetched);
        if !more {
            return Ok((fetched.slices.last().map_or(reached, |slice| slice.next_offset.max(reached)), false));
        }
        reached = reached.max(entry.end);
    }
    let whole = wanted == entries.len() && until == range.end;
    Ok((if wanted == entries.len() { until } else { reached }, whole))
}

/// A stream, and what one of its readers will ask for next.
pub(crate) struct ReadaheadJob {
    stream: Arc<Stream>,
    readahead: Readahead,
}

/// Has it loaded in the background, if there is room.
fn read_ahead(stream: Arc<Stream>, readahead: Readahead) {
    let sender = stream.core.readahead.clone();
    if let Err(error) = sender.try_send(ReadaheadJob { stream, readahead }) {
        let job = error.into_inner();
        job.stream.state.lock().readers.on_loaded(readahead.reader, readahead.from, 0);
    }
}

/// The task that reads ahead, a few at a time.
pub(crate) async fn run_readahead(jobs: tokio::sync::mpsc::Receiver<ReadaheadJob>) {
    let jobs = stream::unfold(jobs, |mut jobs| async { jobs.recv().await.map(|job| (job, jobs)) });
    let run = jobs.for_each_concurrent(READAHEADS_IN_FLIGHT, |job| async move {
        let ReadaheadJob { stream, readahead } = job;
        let (reached, bytes) = match load_ahead(&stream, readahead).await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::debug!(stream = %stream.id(), %error, "reading ahead failed");
                (readahead.from, 0)
            }
        };
        stream.state.lock().readers.on_loaded(readahead.reader, reached, bytes);
    });
    run.await;
}

async fn load_ahead(stream: &Stream, readahead: Readahead) -> Result<(Offset, u64), ObjectReadError> {
    let core = &stream.core;
    let committed = stream.committed_offset();
    let (mut cursor, mut loaded) = (readahead.from, 0);
    if cursor >= committed {
        return Ok((cursor, 0));
    }
    for range in core.object_manager.ranges(stream.id(), cursor, committed, RANGES_PER_STEP) {
        let index = reader::index(core, &range.object, ReadClass::CatchUp).await?;
        let entries = overlapping(&index, stream, &range, cursor);
        let left = readahead.bytes.saturating_sub(loaded);
        let mut sum = 0;
        let within = |entry: &&BlockEntry| {
            sum += entry.payload_bytes();
            sum - entry.payload_bytes() < left
        };
        let wanted = entries.iter().take_while(within).count();
        reader::blocks(core, &range.object, &entries[..wanted], ReadClass::CatchUp).await?;
        loaded += entries[..wanted].iter().map(BlockEntry::payload_bytes).sum::<u64>();
        if wanted < entries.len() {
            return Ok((entries[..wanted].last().map_or(cursor, |entry| entry.end), loaded));
        }
        cursor = range.end;
        if loaded >= readahead.bytes {
            break;
        }
    }
    Ok((cursor, loaded))
}

/// See [`Stream::checkpoint`].
pub(crate) async fn checkpoint(stream: &Stream) -> Result<Option<Checkpoint>, FetchError> {
    let in_log = {
        let state = stream.state.lock();
        let newest = state.tail.newest_checkpoint().cloned();
        if newest.is_none() && state.tail.is_whole() {
            return Ok(None);
        }
        newest
    };
    if let Some(entry) = in_log {
        let block = match entry.block.bytes() {
            Some(bytes) => Ok(bytes),
            None => stream.core.block_cache.log_block(stream.core.wal.as_ref(), &entry.block).await,
        };
        match block {
            Ok(block) => {
                let payload = slice(&block, entry.position, entry.len)?;
                return Ok(Some(Checkpoint { offset: entry.offset, payload }));
            }
            // Trimmed with the data it describes; objects have what there is.
            Err(ReadError::NotFound(_)) => {}
            // As above, for a sealed log is let go when objects hold all of its records.
            Err(_) if entry.block.origin().is_some() && entry.offset <= stream.committed_offset() => {}
            Err(error) => return Err(unreadable(&error)),
        }
    }
    let mut last = None;
    for _ in 0..MOVES_MAX {
        let metadata = stream.core.stream_manager.stream(stream.id());
        let Some(known) = metadata.and_then(|metadata| metadata.checkpoint) else {
            return Ok(None);
        };
        match reader::checkpoint(&stream.core, &known.object, stream.id(), known.offset).await {
            Ok(payload) => {
                return Ok(Some(Checkpoint { offset: known.offset, payload }));
            }
            Err(error @ ObjectReadError::Gone(_)) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(FetchError::Unavailable(last.map_or_else(String::new, |error| error.to_string())))
}
