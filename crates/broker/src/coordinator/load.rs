//! Loading a shard: the newest checkpoint, then every record above it.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use common::Offset;
use coordinator::{CheckpointError, CoordinatorRecord, Persisted};
use protocol::batch::records::{RecordsError, for_each_record};
use protocol::batch::validate::DECODED_MAX;
use protocol::batch::{BatchError, BatchView};
use s3stream::ReadClass;

use crate::partition::{Isolation, Partition, ReadError};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// Why a shard cannot be loaded now.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("reading the group coordinator's records: {0}")]
    Read(#[from] ReadError),
    #[error("the group coordinator's checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("a batch of the group coordinator: {0}")]
    Batch(#[from] BatchError),
    #[error("a batch of the group coordinator: {0}")]
    Records(#[from] RecordsError),
    #[error("records from {from} to {end} cannot be read yet")]
    NotReadable { from: Offset, end: Offset },
}

/// What a partition's records say, and how many bytes of them the checkpoint did not cover.
pub(super) struct Loaded {
    pub(super) persisted: Persisted,
    pub(super) replayed_bytes: usize,
}

/// Reads a partition up to its end. `checkpoint` is what the partition was opened with.
pub(super) async fn load(partition: &Partition, checkpoint: Option<&(Offset, Bytes)>) -> Result<Loaded, LoadError> {
    let mut persisted = match checkpoint {
        Some((_, bytes)) => Persisted::restore(bytes)?,
        None => Persisted::default(),
    };
    let end = partition.log_end();
    let mut from = checkpoint.map_or(Offset(0), |(offset, _)| *offset).max(partition.log_start());
    let mut replayed_bytes = 0;
    while from < end {
        let read = partition.read(from, READ_BYTES, Isolation::ReadUncommitted, true, ReadClass::CatchUp).await?;
        let before = from;
        for slice in &read.slices {
            from = replay(&slice.bytes, from, &mut persisted)?;
        }
        if from == before {
            return Err(LoadError::NotReadable { from, end });
        }
        replayed_bytes += read.bytes;
    }
    Ok(Loaded { persisted, replayed_bytes })
}

/// Replays the records at or above `from`; returns the offset after the last batch.
fn replay(mut blob: &[u8], mut from: Offset, persisted: &mut Persisted) -> Result<Offset, LoadError> {
    while !blob.is_empty() {
        let (batch, rest) = BatchView::split_first(blob)?;
        if !batch.attributes().is_control() {
            let flow = for_each_record::<()>(&batch, DECODED_MAX, |record| {
                if record.offset >= from.0 {
                    replay_record(record.offset, record.key, record.value, persisted);
                }
                ControlFlow::Continue(())
            })?;
            debug_assert!(flow.is_continue(), "no record ends the replay");
        }
        from = from.max(Offset(batch.last_offset()).plus(1));
        blob = rest;
    }
    Ok(from)
}

/// Replays one record. Its batch is sound, so one that cannot be understood was written by somebody else (an
/// administrator may produce to the topic): it is no reason to serve none of the groups.
fn replay_record(offset: i64, key: Option<&[u8]>, value: Option<&[u8]>, persisted: &mut Persisted) {
    match key.map(|key| CoordinatorRecord::decode(key, value)) {
        Some(Ok(Some(record))) => persisted.replay(&record),
        Some(Ok(None)) => tracing::debug!(offset, "a record of another kind of group"),
        Some(Err(error)) => tracing::error!(offset, %error, "a record that is no group coordinator's is left out"),
        None => tracing::error!(offset, "a record without a key is left out"),
    }
}

/// Topics with committed offsets that do not exist (any more).
pub(super) fn topics_gone(persisted: &Persisted, exists: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
    let mut gone: Vec<Arc<str>> = persisted.topics().filter(|topic| !exists(topic)).cloned().collect();
    gone.sort();
    gone.dedup();
    gone
}
