//! The block cache: what was read back from log or store, bounded by bytes, filled once per miss.

use std::sync::Arc;

use bytes::Bytes;
use common::ObjectId;
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use wal::{Block, BlockAddress, ReadError, WriteAheadLog};

use crate::format::data_block::DataBlock;
use crate::format::object_index::ObjectIndex;

/// What is cached under which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CacheKey {
    /// A block of the log, or of a sealed one.
    Log(BlockAddress),
    /// A data block by its position in an object.
    Data(ObjectId, u64),
    /// An object's index.
    Index(ObjectId),
}

/// A cached value.
#[derive(Clone, Debug)]
pub(crate) enum Cached {
    Log(Bytes),
    Data(Arc<DataBlock>),
    Index(Arc<ObjectIndex>),
}

/// Memory beside the bytes themselves that an entry costs, roughly.
const ENTRY_OVERHEAD_BYTES: u64 = 256;
/// Shards are few, so that one large block still fits a shard's share of the bound.
const SHARDS: usize = 4;
/// Part of the cache for what was asked for more than once. The rest takes what is new: blocks that were read ahead must
/// outlive the wait for their reader, also when the cache is full of what nobody needs any more.
const HOT_PART: f64 = 0.3;
/// Typical weight of an entry, to size the cache's own table.
const TYPICAL_ENTRY_BYTES: u64 = 256 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct ByBytes;

impl Weighter<CacheKey, Cached> for ByBytes {
    fn weight(&self, _key: &CacheKey, value: &Cached) -> u64 {
        let bytes = match value {
            Cached::Log(bytes) => bytes.len() as u64,
            Cached::Data(block) => block.memory_bytes(),
            Cached::Index(index) => index.memory_bytes(),
        };
        bytes + ENTRY_OVERHEAD_BYTES
    }
}

type Inner = Cache<CacheKey, Cached, ByBytes, DefaultHashBuilder, DefaultLifecycle<CacheKey, Cached>>;
pub(crate) type Guard<'a> =
    PlaceholderGuard<'a, CacheKey, Cached, ByBytes, DefaultHashBuilder, DefaultLifecycle<CacheKey, Cached>>;

/// See the module.
pub(crate) struct BlockCache {
    cache: Inner,
}

/// Outcome of a lookup that does not wait.
pub(crate) enum Lookup<'a> {
    Found(Cached),
    /// The caller loads it and gives it to the guard.
    Mine(Guard<'a>),
    /// Somebody else is loading it.
    Loading,
}

impl BlockCache {
    pub(crate) fn new(bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .weight_capacity(bytes)
            .hot_allocation(HOT_PART)
            .estimated_items_capacity(usize::try_from(bytes / TYPICAL_ENTRY_BYTES).unwrap_or(0).max(64))
            .build()
            .expect("both capacities are given");
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self { cache: Cache::with_options(options, ByBytes, hasher, lifecycle) }
    }

    /// The value, or the right to load it; waits while somebody else is loading it.
    pub(crate) async fn get_or_guard(&self, key: &CacheKey) -> Result<Cached, Guard<'_>> {
        self.cache.get_value_or_guard_async(key).await
    }

    pub(crate) fn lookup(&self, key: &CacheKey) -> Lookup<'_> {
        match self.cache.get_value_or_guard(key, Some(std::time::Duration::ZERO)) {
            GuardResult::Value(value) => Lookup::Found(value),
            GuardResult::Guard(guard) => Lookup::Mine(guard),
            GuardResult::Timeout => Lookup::Loading,
        }
    }

    /// A value that is there, without waiting.
    pub(crate) fn get(&self, key: &CacheKey) -> Option<Cached> {
        self.cache.get(key)
    }

    /// Bytes held.
    pub(crate) fn used(&self) -> u64 {
        self.cache.weight()
    }

    /// A block of a log whose memory was given up.
    pub(crate) async fn log_block(&self, wal: &dyn WriteAheadLog, block: &Block) -> Result<Bytes, ReadError> {
        let guard = match self.get_or_guard(&CacheKey::Log(block.address())).await {
            Ok(Cached::Log(bytes)) => return Ok(bytes),
            Ok(_) => unreachable!("a log key only ever maps to a log block"),
            Err(guard) => guard,
        };
        let bytes = block.read_back(wal).await?;
        // A refused insert only means that it was evicted at once.
        let _ = guard.insert(Cached::Log(bytes.clone()));
        Ok(bytes)
    }
}
