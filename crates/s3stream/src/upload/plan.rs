//! What one upload consists of.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use common::{Lsn, ObjectId, Offset};
use wal::{Block, BlockAddress};

use super::UploadError;
use crate::core::Core;
use crate::object::builder::{BuiltObject, ObjectBuilder};
use crate::ports::{ObjectDescriptor, SliceCommit};
use crate::read::slice;
use crate::stream::Stream;
use crate::tail::{CheckpointEntry, Span, TailEntry};

/// Payload bytes from which a stream's part of an upload becomes an object of its own.
pub(crate) const STREAM_OBJECT_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// The least an upload takes, however small the configured bounds.
const SPAN_BYTES_MIN: u64 = 1024 * 1024;

/// One stream's part of an upload.
pub(crate) struct PlannedSlice {
    pub(crate) stream: Arc<Stream>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    entries: Vec<TailEntry>,
    pub(crate) checkpoint: Option<CheckpointEntry>,
}

/// Slices that share an object, with its descriptor. The size is known once it was built.
pub(crate) struct PlannedObject {
    pub(crate) descriptor: ObjectDescriptor,
    pub(crate) slices: Vec<PlannedSlice>,
}

/// Bytes of log that one upload takes at most: bounded by what the log cache may hold, because the upload keeps
/// these blocks in memory while it puts them.
pub(crate) fn span_bytes(core: &Core) -> u64 {
    let settings = &core.settings;
    settings.upload_bytes.saturating_mul(2).min(settings.log_cache_bytes / 2).max(SPAN_BYTES_MIN)
}

/// Which log an upload takes records from. Each is uploaded on its own, so that a sealed log that cannot be read holds
/// up nothing but itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The own log, as far as it is below `durable`.
    Own { durable: Lsn },
    /// One of the sealed logs that streams were adopted from.
    Sealed,
}

/// The oldest un-uploaded part of a log, at most [`span_bytes`] of it, in the order of the streams.
pub(crate) fn plan(core: &Core, streams: &[Arc<Stream>], source: Source) -> Vec<PlannedSlice> {
    let durable = core.wal.durable().get();
    let Some(span) = span(core, streams, source) else { return Vec::new() };
    let mut slices = Vec::new();
    for stream in streams {
        let (start, (entries, checkpoint)) = {
            let state = stream.state.lock();
            (state.tail.committed(), state.tail.pending(span, durable))
        };
        let Some(end) = entries.last().map(|entry| entry.next) else {
            continue;
        };
        let bytes = entries.iter().map(|entry| u64::from(entry.len)).sum();
        slices.push(PlannedSlice { stream: Arc::clone(stream), start, end, bytes, entries, checkpoint });
    }
    // As an object's index has them.
    slices.sort_by_key(|slice| slice.stream.id());
    slices
}

fn span(core: &Core, streams: &[Arc<Stream>], source: Source) -> Option<Span> {
    let pending = streams.iter().filter_map(|stream| stream.state.lock().tail.first_pending());
    let cut = |first: Lsn| Lsn(first.0.saturating_add(span_bytes(core)));
    match source {
        Source::Own { durable } => {
            let own = pending.filter_map(|address| match address {
                BlockAddress::Own(lsn) => Some(lsn),
                BlockAddress::Sealed(..) => None,
            });
            let first = own.min().filter(|first| *first < durable)?;
            Some(Span::Own { cut: cut(first), durable })
        }
        Source::Sealed => {
            let sealed = pending.filter_map(|address| match address {
                BlockAddress::Own(_) => None,
                BlockAddress::Sealed(log, lsn) => Some((log, lsn)),
            });
            let (log, first) = sealed.min()?;
            Some(Span::Sealed { log, cut: cut(first) })
        }
    }
}

/// The split rule: large slices get an object each, the others share one.
pub(crate) fn split(slices: Vec<PlannedSlice>) -> Vec<Vec<PlannedSlice>> {
    let (large, small): (Vec<_>, Vec<_>) = slices.into_iter().partition(|slice| slice.bytes >= STREAM_OBJECT_BYTES_MIN);
    let shared = (!small.is_empty()).then_some(small);
    shared.into_iter().chain(large.into_iter().map(|slice| vec![slice])).collect()
}

/// Gives each object an id.
pub(crate) fn identify(core: &Core, groups: Vec<Vec<PlannedSlice>>, ids: &[ObjectId]) -> Vec<PlannedObject> {
    let node_epoch = core.settings.node_epoch;
    let descriptor = |id: &ObjectId| ObjectDescriptor { id: *id, node_epoch, attempt: 0, size: 0 };
    groups.into_iter().zip(ids).map(|(slices, id)| PlannedObject { descriptor: descriptor(id), slices }).collect()
}

impl PlannedSlice {
    /// As it is told to metadata.
    pub(crate) fn commit(&self) -> SliceCommit {
        SliceCommit {
            stream: self.stream.id(),
            epoch: self.stream.epoch(),
            start: self.start,
            end: self.end,
            bytes: self.bytes,
            max_timestamp_ms: self.entries.iter().map(|entry| entry.max_timestamp_ms).max().unwrap_or(-1),
            checkpoint: self.checkpoint.as_ref().map(|checkpoint| checkpoint.offset),
        }
    }
}

/// Blocks of logs that one build has read back.
type ReadBack = HashMap<BlockAddress, Bytes>;

impl PlannedObject {
    /// Whether a stream has gone on without this plan: what was to be uploaded was trimmed, or the stream was opened anew,
    /// and the log may have let go of the records.
    pub(crate) fn is_outdated(&self) -> bool {
        self.slices.iter().any(|slice| slice.stream.committed_offset() > slice.start)
    }

    /// Assembles the object from the log: slices of blocks in memory, and blocks read back. The same plan
    /// always gives the same bytes. A checkpoint that was trimmed from the log meanwhile is left out for good.
    pub(crate) async fn build(&mut self, core: &Core) -> Result<BuiltObject, UploadError> {
        let mut builder = ObjectBuilder::default();
        let mut read_back = ReadBack::new();
        for planned in &mut self.slices {
            let stream = planned.stream.id();
            builder.begin_slice(stream, planned.stream.epoch(), planned.start, planned.end);
            for entry in &planned.entries {
                let block = read(core, &mut read_back, &entry.block).await?;
                let payload = slice(&block, entry.position, entry.len);
                builder.record(entry.head(), payload.map_err(|error| UploadError::Log(error.to_string()))?);
            }
            let Some(entry) = planned.checkpoint.clone() else {
                continue;
            };
            match read_checkpoint(core, &mut read_back, &entry).await {
                Ok(payload) => builder.checkpoint(stream, entry.offset, payload),
                Err(error) => {
                    tracing::warn!(%stream, offset = %entry.offset, %error, "a checkpoint is left out of an upload");
                    planned.checkpoint = None;
                }
            }
        }
        let built = builder.finish(core.settings.node, self.descriptor);
        self.descriptor.size = built.descriptor.size;
        Ok(built)
    }
}

async fn read(core: &Core, read_back: &mut ReadBack, block: &Block) -> Result<Bytes, UploadError> {
    let known = block.bytes().or_else(|| read_back.get(&block.address()).cloned());
    if let Some(bytes) = known {
        return Ok(bytes);
    }
    let read = block.read_back(core.wal.as_ref()).await;
    let bytes = read.map_err(|error| UploadError::Log(error.to_string()))?;
    read_back.insert(block.address(), bytes.clone());
    Ok(bytes)
}

async fn read_checkpoint(core: &Core, read_back: &mut ReadBack, entry: &CheckpointEntry) -> Result<Bytes, UploadError> {
    let block = read(core, read_back, &entry.block).await?;
    slice(&block, entry.position, entry.len).map_err(|error| UploadError::Log(error.to_string()))
}
