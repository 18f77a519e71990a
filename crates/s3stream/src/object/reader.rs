//! Reads objects through the block cache: each index and each data block is fetched once per miss, verified
//! as it enters memory, and fetched a second time before it is called damaged.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use common::Offset;
use common::StreamId;
use common::budget::ByteBudget;
use object_store::ObjectStore;

use super::key::object_key;
use crate::block_cache::{CacheKey, Cached, Guard, Lookup};
use crate::core::Core;
use crate::format::data_block::{DataBlock, RecordEntry, decode_table, table_bytes};
use crate::format::footer::{FOOTER_BYTES, Footer};
use crate::format::object_index::{BlockEntry, ObjectIndex};
use crate::format::{FormatError, crc32c};
use crate::ports::ObjectDescriptor;
use crate::stream::{FetchError, ReadClass};

/// Bytes of an object's end that are read to find its index; larger indexes cost a second request.
const INDEX_GUESS_BYTES: u64 = 64 * 1024;
/// What a request is charged with at least, so that a budget of bytes bounds requests too.
const REQUEST_BYTES_MIN: u64 = 64 * 1024;

/// Why an object could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectReadError {
    /// The store has no such object: its ranges may have moved to another one in the meantime.
    #[error("object {0} is not in the store")]
    Gone(String),
    /// The store failed; retry.
    #[error("{0}")]
    Unavailable(String),
    /// Twice the same damage.
    #[error("object {object}: {error}")]
    Corrupt {
        /// Its key.
        object: String,
        /// What is wrong.
        error: FormatError,
    },
}

impl From<ObjectReadError> for FetchError {
    fn from(error: ObjectReadError) -> Self {
        match error {
            ObjectReadError::Corrupt { .. } => Self::Corrupt(error.to_string()),
            ObjectReadError::Gone(_) | ObjectReadError::Unavailable(_) => Self::Unavailable(error.to_string()),
        }
    }
}

/// Bytes of reads in flight, by class: a replay waits for replays, never in the way of tail reads.
#[derive(Debug)]
pub(crate) struct ReadBudgets {
    tail: ByteBudget,
    catch_up: ByteBudget,
}

impl ReadBudgets {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { tail: ByteBudget::new(bytes), catch_up: ByteBudget::new(bytes) }
    }

    pub(crate) fn of(&self, class: ReadClass) -> &ByteBudget {
        match class {
            ReadClass::Tail => &self.tail,
            ReadClass::CatchUp => &self.catch_up,
        }
    }
}

/// Reads `ranges` of an object, once per call.
async fn get(
    core: &Core,
    object: &ObjectDescriptor,
    ranges: &[Range<u64>],
    class: ReadClass,
) -> Result<Vec<Bytes>, ObjectReadError> {
    let key = object_key(&core.settings.prefix, object);
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let _lease = core.read_budgets.of(class).take(bytes.max(REQUEST_BYTES_MIN)).await;
    match core.objects.get_ranges(&key, ranges).await {
        Ok(got) if got.len() == ranges.len() => Ok(got),
        Ok(_) => Err(ObjectReadError::Unavailable(format!("the store answered other ranges of {key}"))),
        Err(object_store::Error::NotFound { .. }) => Err(ObjectReadError::Gone(key.to_string())),
        Err(error) => Err(ObjectReadError::Unavailable(error.to_string())),
    }
}

/// Reads and decodes; what is damaged is read once more.
async fn get_verified<T>(
    core: &Core,
    object: &ObjectDescriptor,
    ranges: &[Range<u64>],
    class: ReadClass,
    decode: impl Fn(&[Bytes]) -> Result<T, FormatError>,
) -> Result<T, ObjectReadError> {
    let first = match decode(&get(core, object, ranges, class).await?) {
        Ok(decoded) => return Ok(decoded),
        Err(error) => error,
    };
    tracing::warn!(object = %object.id, error = %first, "damaged bytes from the object store, reading them again");
    let corrupt =
        |error| ObjectReadError::Corrupt { object: object_key(&core.settings.prefix, object).to_string(), error };
    decode(&get(core, object, ranges, class).await?).map_err(corrupt)
}

/// The object's index.
pub(crate) async fn index(
    core: &Core,
    object: &ObjectDescriptor,
    class: ReadClass,
) -> Result<Arc<ObjectIndex>, ObjectReadError> {
    let guard = match core.block_cache.get_or_guard(&CacheKey::Index(object.id)).await {
        Ok(Cached::Index(index)) => return Ok(index),
        Ok(_) => unreachable!("an index key only ever maps to an index"),
        Err(guard) => guard,
    };
    let index = Arc::new(load_index(core, object, class).await?);
    // A refused insert only means that it was evicted at once.
    let _ = guard.insert(Cached::Index(Arc::clone(&index)));
    Ok(index)
}

/// Reads the index past the cache.
pub(crate) async fn load_index(
    core: &Core,
    object: &ObjectDescriptor,
    class: ReadClass,
) -> Result<ObjectIndex, ObjectReadError> {
    let start = object.size.saturating_sub(INDEX_GUESS_BYTES);
    let tail_range = start..object.size;
    let decode = |parts: &[Bytes]| {
        let tail = parts.concat();
        let footer = Footer::decode(&tail, object.size)?;
        if footer.object != object.id || footer.attempt != object.attempt || footer.node_epoch != object.node_epoch {
            return Err(FormatError::new("footer", format!("it is of object {}", footer.object)));
        }
        let Some(from) = footer.index_position.checked_sub(start) else {
            return Ok((footer, None));
        };
        let from = usize::try_from(from).map_err(|_| FormatError::new("footer", "too large"))?;
        Ok((footer, Some(ObjectIndex::decode(&footer, &tail[from..tail.len() - FOOTER_BYTES])?)))
    };
    let (footer, decoded) = get_verified(core, object, std::slice::from_ref(&tail_range), class, decode).await?;
    if let Some(index) = decoded {
        return Ok(index);
    }
    let range = footer.index_position..object.size - FOOTER_BYTES as u64;
    get_verified(core, object, std::slice::from_ref(&range), class, |parts| {
        ObjectIndex::decode(&footer, &parts.concat())
    })
    .await
}

/// The data blocks that `entries` (in order) describe, from the cache where they are there.
pub(crate) async fn blocks(
    core: &Core,
    object: &ObjectDescriptor,
    entries: &[BlockEntry],
    class: ReadClass,
) -> Result<Vec<Arc<DataBlock>>, ObjectReadError> {
    let mut found: Vec<Option<Arc<DataBlock>>> = vec![None; entries.len()];
    let mut mine: Vec<(usize, Guard<'_>)> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        match core.block_cache.lookup(&CacheKey::Data(object.id, entry.position)) {
            Lookup::Found(cached) => found[at] = Some(data_block(cached)),
            Lookup::Mine(guard) => mine.push((at, guard)),
            Lookup::Loading => {}
        }
    }
    if !mine.is_empty() {
        let wanted: Vec<BlockEntry> = mine.iter().map(|(at, _)| entries[*at]).collect();
        let loaded = load_blocks(core, object, &wanted, class).await?;
        for ((at, guard), block) in mine.into_iter().zip(loaded) {
            let _ = guard.insert(Cached::Data(Arc::clone(&block)));
            found[at] = Some(block);
        }
    }
    // Nothing is held by now, so waiting for other loaders cannot lock up.
    let mut blocks = Vec::with_capacity(entries.len());
    for (found, entry) in found.into_iter().zip(entries) {
        blocks.push(match found {
            Some(block) => block,
            None => one_block(core, object, entry, class).await?,
        });
    }
    Ok(blocks)
}

async fn one_block(
    core: &Core,
    object: &ObjectDescriptor,
    entry: &BlockEntry,
    class: ReadClass,
) -> Result<Arc<DataBlock>, ObjectReadError> {
    match core.block_cache.get_or_guard(&CacheKey::Data(object.id, entry.position)).await {
        Ok(cached) => Ok(data_block(cached)),
        Err(guard) => {
            let loaded = load_blocks(core, object, std::slice::from_ref(entry), class).await?;
            let block = loaded.into_iter().next().expect("one block was asked for");
            let _ = guard.insert(Cached::Data(Arc::clone(&block)));
            Ok(block)
        }
    }
}

fn data_block(cached: Cached) -> Arc<DataBlock> {
    match cached {
        Cached::Data(block) => block,
        _ => unreachable!("a data key only ever maps to a data block"),
    }
}

/// Reads data blocks past the cache. Each owns its memory, so that evicting one gives its bytes back.
pub(crate) async fn load_blocks(
    core: &Core,
    object: &ObjectDescriptor,
    entries: &[BlockEntry],
    class: ReadClass,
) -> Result<Vec<Arc<DataBlock>>, ObjectReadError> {
    let ranges: Vec<Range<u64>> = entries.iter().map(|entry| entry.position..entry.end_position()).collect();
    get_verified(core, object, &ranges, class, |parts| {
        let decode = |(at, entry): (usize, &BlockEntry)| {
            let bytes = &parts[at];
            let own = if shares_memory(&ranges, parts, at) { Bytes::copy_from_slice(bytes) } else { bytes.clone() };
            DataBlock::decode(entry, &own).map(Arc::new)
        };
        entries.iter().enumerate().map(decode).collect()
    })
    .await
}

/// Whether a store that reads neighbouring ranges at once answered the range `at` and one beside it with slices of the
/// same memory: they then lie as far apart there as in the object.
fn shares_memory(ranges: &[Range<u64>], parts: &[Bytes], at: usize) -> bool {
    let memory_start = |at: usize| (parts[at].as_ptr() as u64).wrapping_sub(ranges[at].start);
    let same = |other: usize| memory_start(at) == memory_start(other);
    at.checked_sub(1).is_some_and(same) || at + 1 < parts.len() && same(at + 1)
}

/// Record tables of data blocks, without their payloads unless those are cached.
pub(crate) async fn tables(
    core: &Core,
    object: &ObjectDescriptor,
    entries: &[BlockEntry],
    class: ReadClass,
) -> Result<Vec<Vec<RecordEntry>>, ObjectReadError> {
    let cached: Option<Vec<_>> = entries
        .iter()
        .map(|entry| match core.block_cache.get(&CacheKey::Data(object.id, entry.position)) {
            Some(Cached::Data(block)) => Some(block.records().to_vec()),
            _ => None,
        })
        .collect();
    if let Some(cached) = cached {
        return Ok(cached);
    }
    let ranges: Vec<Range<u64>> =
        entries.iter().map(|entry| entry.end_position() - table_bytes(entry.records)..entry.end_position()).collect();
    get_verified(core, object, &ranges, class, |parts| {
        entries.iter().zip(parts).map(|(entry, bytes)| decode_table(entry, bytes)).collect()
    })
    .await
}

/// A checkpoint's bytes.
pub(crate) async fn checkpoint(
    core: &Core,
    object: &ObjectDescriptor,
    stream: StreamId,
    offset: Offset,
) -> Result<Bytes, ObjectReadError> {
    let class = ReadClass::CatchUp;
    let index = index(core, object, class).await?;
    let Some(entry) = index.checkpoint_of(stream, offset).copied() else {
        let error = FormatError::new("checkpoints", format!("none of stream {stream} at {offset}"));
        return Err(ObjectReadError::Corrupt { object: object.id.to_string(), error });
    };
    let range = entry.position..entry.position + u64::from(entry.len);
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    get_verified(core, object, std::slice::from_ref(&range), class, |parts| {
        let bytes = parts.first().cloned().unwrap_or_default();
        if bytes.len() as u64 != u64::from(entry.len) || crc32c(&bytes) != entry.crc {
            return Err(FormatError::new("checkpoints", "the CRC does not match"));
        }
        Ok(bytes)
    })
    .await
}
