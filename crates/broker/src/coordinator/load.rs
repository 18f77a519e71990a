//! Loading a shard: the newest checkpoint, then every record above it.

use std::ops::ControlFlow;

use bytes::Bytes;
use common::Offset;
use coordinator::CheckpointError;
use protocol::batch::records::{RecordsError, for_each_record};
use protocol::batch::validate::DECODED_MAX;
use protocol::batch::{BatchError, BatchView, ControlError, EndTransactionMarker};
use s3stream::ReadClass;

use super::shard::{Shard, StoredRecord};
use crate::partition::{Isolation, Partition, ReadError};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// Why a shard cannot be loaded now.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("reading the coordinator's records: {0}")]
    Read(#[from] ReadError),
    #[error("the coordinator's checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("a batch of the coordinator: {0}")]
    Batch(#[from] BatchError),
    #[error("a batch of the coordinator: {0}")]
    Records(#[from] RecordsError),
    #[error("a marker in the coordinator's partition: {0}")]
    Marker(#[from] ControlError),
    #[error("records from {from} to {end} cannot be read yet")]
    NotReadable { from: Offset, end: Offset },
}

/// What a partition's records say, and how many bytes of them the checkpoint did not cover.
pub(super) struct Loaded<S: Shard> {
    pub(super) state: S::State,
    pub(super) replayed_bytes: usize,
}

/// Reads a partition up to its end. `checkpoint` is what the partition was opened with.
pub(super) async fn load<S: Shard>(
    partition: &Partition,
    checkpoint: Option<&(Offset, Bytes)>,
) -> Result<Loaded<S>, LoadError> {
    let mut state = match checkpoint {
        Some((_, bytes)) => S::restore(bytes)?,
        None => S::State::default(),
    };
    let end = partition.log_end();
    let mut from = checkpoint.map_or(Offset(0), |(offset, _)| *offset).max(partition.log_start());
    let mut replayed_bytes = 0;
    while from < end {
        let read = partition.read(from, READ_BYTES, Isolation::ReadUncommitted, true, ReadClass::CatchUp).await?;
        let before = from;
        for slice in &read.slices {
            from = replay::<S>(&slice.bytes, from, &mut state)?;
        }
        if from == before {
            return Err(LoadError::NotReadable { from, end });
        }
        replayed_bytes += read.bytes;
    }
    Ok(Loaded { state, replayed_bytes })
}

/// Replays the records at or above `from`; returns the offset after the last batch.
fn replay<S: Shard>(mut blob: &[u8], mut from: Offset, state: &mut S::State) -> Result<Offset, LoadError> {
    while !blob.is_empty() {
        let (batch, rest) = BatchView::split_first(blob)?;
        if batch.attributes().is_control() {
            if Offset(batch.base_offset()) >= from {
                let marker = EndTransactionMarker::parse(&batch)?;
                S::replay_marker(state, batch.producer_id(), marker.commit);
            }
        } else {
            let producer_id = batch.attributes().is_transactional().then(|| batch.producer_id());
            let flow = for_each_record::<()>(&batch, DECODED_MAX, |record| {
                let (offset, value) = (record.offset, record.value);
                match record.key {
                    Some(key) if offset >= from.0 => {
                        S::replay(state, &StoredRecord { offset, producer_id, key, value });
                    }
                    Some(_) => {}
                    None => tracing::error!(offset, "a record without a key is left out"),
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
