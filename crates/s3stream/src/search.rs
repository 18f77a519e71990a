//! What indexes answer: record heads, and the record of a timestamp.

use std::sync::Arc;

use common::Offset;

use crate::format::data_block::RecordEntry;
use crate::format::object_index::BlockEntry;
use crate::object::reader::{self, ObjectReadError};
use crate::ports::CommittedRange;
use crate::read::overlapping;
use crate::stream::{FetchError, ReadClass, RecordHead, RecordSlice, Stream};

/// Ranges asked for at once.
const RANGES_PER_STEP: usize = 64;
/// Data blocks whose tables are read by one request.
const TABLES_PER_STEP: usize = 64;
/// How often a search starts over because objects moved under it.
const MOVES_MAX: usize = 8;

/// Repeats `search` while object compaction takes away what it looks at.
macro_rules! unless_moved {
    ($search:expr) => {{
        let mut moves = 0;
        loop {
            match $search.await {
                Err(ObjectReadError::Gone(what)) if moves < MOVES_MAX => {
                    tracing::debug!(object = what, "an object went away during a search");
                    moves += 1;
                    tokio::task::yield_now().await;
                }
                other => break other.map_err(FetchError::from),
            }
        }
    }};
}

/// See [`Stream::heads`].
pub(crate) async fn heads(stream: &Arc<Stream>, from: Offset) -> Result<Vec<RecordHead>, FetchError> {
    loop {
        let committed = {
            let state = stream.state.lock();
            let (start, next) = (state.start, state.tail.next());
            if from < start || from > next {
                return Err(FetchError::OutOfRange { start, next });
            }
            if state.tail.covered_from() <= from {
                return Ok(state.tail.from(from).map(|entry| entry.head()).collect());
            }
            state.tail.committed()
        };
        let mut heads = unless_moved!(committed_heads(stream, from, committed))?;
        let state = stream.state.lock();
        let reached = from.max(committed);
        // The tail may have moved into objects in the meantime.
        if state.tail.covered_from() <= reached {
            heads.extend(state.tail.from(reached).map(|entry| entry.head()));
            return Ok(heads);
        }
    }
}

async fn committed_heads(stream: &Stream, from: Offset, until: Offset) -> Result<Vec<RecordHead>, ObjectReadError> {
    let mut heads = Vec::new();
    let mut cursor = from;
    while cursor < until {
        let ranges = contiguous(stream, cursor, until)?;
        for range in ranges {
            for record in range_records(stream, &range, cursor, |_| true).await? {
                if record.next_offset > cursor && record.next_offset <= range.end.min(until) {
                    heads.push(record);
                }
            }
            cursor = range.end;
        }
    }
    Ok(heads)
}

/// The next ranges from `cursor` on; never none.
fn contiguous(stream: &Stream, cursor: Offset, until: Offset) -> Result<Vec<CommittedRange>, ObjectReadError> {
    let ranges = stream.core.object_manager.ranges(stream.id(), cursor, until, RANGES_PER_STEP);
    let mut expected = cursor;
    for (at, range) in ranges.iter().enumerate() {
        if range.start > expected || range.end <= expected || (at > 0 && range.start != expected) {
            let what = format!("ranges of stream {} have a gap at offset {expected}", stream.id());
            return Err(ObjectReadError::Gone(what));
        }
        expected = range.end;
    }
    if ranges.is_empty() {
        return Err(ObjectReadError::Gone(format!(
            "no object is known to hold offset {cursor} of stream {}",
            stream.id()
        )));
    }
    Ok(ranges)
}

/// Heads of the records of `range` from `from` on, in blocks that `wanted` picks.
async fn range_records(
    stream: &Stream,
    range: &CommittedRange,
    from: Offset,
    wanted: impl Fn(&BlockEntry) -> bool,
) -> Result<Vec<RecordHead>, ObjectReadError> {
    let core = &stream.core;
    let index = reader::index(core, &range.object, ReadClass::CatchUp).await?;
    let entries: Vec<BlockEntry> =
        overlapping(&index, stream, range, from).iter().filter(|entry| wanted(entry)).copied().collect();
    let mut heads = Vec::new();
    for entries in entries.chunks(TABLES_PER_STEP) {
        for table in reader::tables(core, &range.object, entries, ReadClass::CatchUp).await? {
            heads.extend(table.iter().map(|record: &RecordEntry| record.head));
        }
    }
    Ok(heads)
}

/// See [`Stream::find_timestamp`].
pub(crate) async fn find_timestamp(
    stream: &Arc<Stream>,
    timestamp_ms: i64,
    until: Offset,
) -> Result<Option<RecordSlice>, FetchError> {
    let found = loop {
        let (start, committed) = {
            let state = stream.state.lock();
            (state.start, state.tail.committed())
        };
        if let Some(found) = unless_moved!(first_committed(stream, timestamp_ms, start, committed))? {
            break Some(found);
        }
        let state = stream.state.lock();
        if state.tail.covered_from() > committed.max(start) {
            continue;
        }
        let hit = state.tail.from(committed.max(start)).find(|entry| entry.max_timestamp_ms >= timestamp_ms);
        break hit.map(|entry| entry.head());
    };
    match found {
        Some(head) if head.next_offset <= until => fetch_one(stream, &head).await,
        _ => Ok(None),
    }
}

async fn first_committed(
    stream: &Stream,
    timestamp_ms: i64,
    start: Offset,
    until: Offset,
) -> Result<Option<RecordHead>, ObjectReadError> {
    let mut cursor = start;
    while cursor < until {
        for range in contiguous(stream, cursor, until)? {
            if range.max_timestamp_ms >= timestamp_ms {
                let hit = |entry: &BlockEntry| entry.max_timestamp_ms >= timestamp_ms;
                let records = range_records(stream, &range, cursor, hit).await?;
                let first = records.into_iter().find(|record| {
                    record.max_timestamp_ms >= timestamp_ms
                        && record.next_offset > cursor
                        && record.next_offset <= range.end
                });
                if first.is_some() {
                    return Ok(first);
                }
            }
            cursor = range.end;
        }
    }
    Ok(None)
}

/// See [`Stream::find_max_timestamp`].
pub(crate) async fn find_max_timestamp(stream: &Arc<Stream>, until: Offset) -> Result<Option<RecordSlice>, FetchError> {
    let best = loop {
        let (start, committed) = {
            let state = stream.state.lock();
            (state.start, state.tail.committed())
        };
        let mut best = unless_moved!(max_committed(stream, start, committed.min(until)))?;
        let state = stream.state.lock();
        if state.tail.covered_from() > committed.max(start) {
            continue;
        }
        let tail = state.tail.from(committed.max(start)).take_while(|entry| entry.next <= until);
        for entry in tail {
            keep_larger(&mut best, entry.head());
        }
        break best;
    };
    match best {
        Some(head) => fetch_one(stream, &head).await,
        None => Ok(None),
    }
}

/// The earlier one stays where timestamps are equal.
fn keep_larger(best: &mut Option<RecordHead>, record: RecordHead) {
    if best.is_none_or(|best| record.max_timestamp_ms > best.max_timestamp_ms) {
        *best = Some(record);
    }
}

async fn max_committed(stream: &Stream, start: Offset, until: Offset) -> Result<Option<RecordHead>, ObjectReadError> {
    let mut best: Option<RecordHead> = None;
    let mut cursor = start;
    while cursor < until {
        for range in contiguous(stream, cursor, until)? {
            let known = best.map(|best| best.max_timestamp_ms);
            let better = |timestamp: i64| known.is_none_or(|known| timestamp > known);
            if better(range.max_timestamp_ms) {
                let records = range_records(stream, &range, cursor, |entry| better(entry.max_timestamp_ms)).await?;
                let inside =
                    |record: &RecordHead| record.next_offset > cursor && record.next_offset <= range.end.min(until);
                for record in records.into_iter().filter(inside) {
                    keep_larger(&mut best, record);
                }
            }
            cursor = range.end;
        }
    }
    Ok(best)
}

async fn fetch_one(stream: &Arc<Stream>, head: &RecordHead) -> Result<Option<RecordSlice>, FetchError> {
    let fetched =
        stream.fetch(head.base_offset.max(stream.start_offset()), head.next_offset, 1, ReadClass::CatchUp).await?;
    Ok(fetched.slices.into_iter().next())
}
