//! Moving a stream to another node while it is in use: the source parks it and exports what no object holds of it, the
//! target imports that into its own log under the epoch that metadata has reserved, and opens the stream when metadata
//! has granted it. Until then the records are void, and whatever fails leaves the stream where it was.

use std::sync::Arc;

use bytes::Bytes;
use common::budget::{ByteBudget, ByteLease};
use common::{Lsn, StreamEpoch, StreamId};
use wal::{AppendError, RecordKind, RecordMeta, RecordRef, WalFailed};

use crate::core::Core;
use crate::format::hand_over::{HandOver, HandOverRecord};
use crate::read::slice;
use crate::stream::FetchError;
use crate::tail::{CheckpointEntry, TailEntry};
use crate::{Stream, StreamStore};

/// Why a stream's tail was not exported. It stays as it is; a smaller tail may be had by an upload.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Too much is not uploaded yet.
    #[error("{bytes} bytes of stream {stream} are not uploaded yet, and {left} is left of what a move takes along")]
    TooLarge {
        /// The stream.
        stream: StreamId,
        /// What it has.
        bytes: u64,
        /// What the budget had left.
        left: u64,
    },
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] FetchError),
    /// The log failed.
    #[error(transparent)]
    Failed(#[from] WalFailed),
}

/// Why a hand-over was not taken. The epoch is spent: what the log may hold of it is void, and another attempt needs
/// another reservation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The epoch was used before, or the stream is open here under it.
    #[error("epoch {epoch} of stream {stream} has been used here")]
    Used {
        /// The stream.
        stream: StreamId,
        /// The epoch.
        epoch: StreamEpoch,
    },
    /// See [`StreamStore::refuse_imports`].
    #[error("this node is stopping and takes nothing over")]
    Leaving,
    /// The log takes no more.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log failed before the records were durable.
    #[error(transparent)]
    Failed(#[from] WalFailed),
}

impl Stream {
    /// Refuses appends from now on, until [`Self::resume`]: what [`Self::export_tail`] gives is then all there is.
    pub fn park(&self) {
        self.state.lock().parked = true;
    }

    /// The stream stays: appends go on.
    pub fn resume(&self) {
        self.state.lock().parked = false;
    }

    /// Waits until all records are durable, and gives those that no object holds, with the newest checkpoint if it is
    /// among them. What it takes, in memory and encoded, is leased from `budget` before anything is read. The stream must be
    /// parked.
    pub async fn export_tail(&self, budget: &ByteBudget) -> Result<(HandOver, ByteLease), ExportError> {
        let (entries, checkpoint) = self.state.lock().tail.un_uploaded();
        let lens = entries.iter().map(|entry| entry.len).chain(checkpoint.iter().map(|checkpoint| checkpoint.len));
        let bytes = size_of::<HandOver>() + lens.map(|len| len as usize + size_of::<HandOverRecord>()).sum::<usize>();
        let bytes = bytes as u64;
        let lease = budget.try_take_below(bytes, budget.limit()).ok_or_else(|| {
            let left = budget.limit().saturating_sub(budget.used());
            ExportError::TooLarge { stream: self.id(), bytes, left }
        })?;
        let ends = entries.iter().filter_map(TailEntry::own_end);
        let newest = ends.chain(checkpoint.iter().filter_map(CheckpointEntry::own_end)).max();
        if let Some(newest) = newest {
            self.core.wal.durable().wait(newest).await?;
        }
        let mut records = Vec::with_capacity(entries.len() + 1);
        for entry in &entries {
            if let Some(checkpoint) = checkpoint.as_ref().filter(|checkpoint| checkpoint.offset == entry.base) {
                records.push(self.export_checkpoint(checkpoint).await?);
            }
            records.push(HandOverRecord {
                kind: RecordKind::Data,
                base_offset: entry.base,
                next_offset: entry.next,
                max_timestamp_ms: entry.max_timestamp_ms,
                tag: entry.tag,
                payload: self.core.payload(&entry.block, entry.position, entry.len).await?,
            });
        }
        if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.offset == self.next_offset()) {
            records.push(self.export_checkpoint(&checkpoint).await?);
        }
        Ok((HandOver { stream: self.id(), records }, lease))
    }

    async fn export_checkpoint(&self, checkpoint: &CheckpointEntry) -> Result<HandOverRecord, FetchError> {
        Ok(HandOverRecord {
            kind: RecordKind::Checkpoint,
            base_offset: checkpoint.offset,
            next_offset: checkpoint.offset,
            max_timestamp_ms: -1,
            tag: [0; wal::TAG_BYTES],
            payload: self.core.payload(&checkpoint.block, checkpoint.position, checkpoint.len).await?,
        })
    }
}

impl Core {
    /// A payload in the log, from memory or through the cache; there as a copy, for a slice would keep its whole block after
    /// the cache has given that up.
    async fn payload(&self, block: &Arc<wal::Block>, position: u32, len: u32) -> Result<Bytes, FetchError> {
        if let Some(bytes) = block.bytes() {
            return slice(&bytes, position, len);
        }
        let bytes = self.block_cache.log_block(self.wal.as_ref(), block).await;
        let bytes = bytes.map_err(|error| FetchError::Unavailable(error.to_string()))?;
        Ok(Bytes::copy_from_slice(&slice(&bytes, position, len)?))
    }

    /// Appends a record that was handed over.
    fn import(&self, stream: StreamId, epoch: StreamEpoch, record: &HandOverRecord) -> Result<RecordRef, AppendError> {
        let meta = RecordMeta {
            stream,
            stream_epoch: epoch,
            kind: record.kind,
            base_offset: record.base_offset,
            next_offset: record.next_offset,
            max_timestamp_ms: record.max_timestamp_ms,
            tag: record.tag,
        };
        let appended = self.append_to_log(&meta, &record.payload, &mut |_| ())?;
        self.log_cache.note(&appended.block);
        Ok(RecordRef { meta, block: appended.block, position: appended.position, len: appended.len })
    }
}

/// What was imported of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Import {
    epoch: StreamEpoch,
    /// End of its records in the log; `None` where not all of them were taken.
    end: Option<Lsn>,
}

impl Import {
    /// Nothing is to be imported under `epoch`, or below.
    pub(crate) fn spent(epoch: StreamEpoch) -> Self {
        Self { epoch, end: None }
    }

    /// What was imported under `epoch` is forgotten.
    pub(crate) fn forget(&mut self, epoch: StreamEpoch) {
        if self.epoch <= epoch {
            *self = Self::spent(epoch);
        }
    }

    /// Appends what was handed over, if `epoch` is a new one; `records` gets what the log took.
    pub(crate) fn run(
        known: Option<Self>,
        core: &Core,
        epoch: StreamEpoch,
        hand_over: &HandOver,
        records: &mut Vec<RecordRef>,
    ) -> (Self, Result<Lsn, ImportError>) {
        let used = ImportError::Used { stream: hand_over.stream, epoch };
        match known {
            Some(known) if known.epoch > epoch => return (known, Err(used)),
            // Asked again because the answer was lost.
            Some(known) if known.epoch == epoch => return (known, known.end.ok_or(used)),
            _ => {}
        }
        let mut end = core.wal.durable().get();
        for record in &hand_over.records {
            match core.import(hand_over.stream, epoch, record) {
                Ok(taken) => {
                    let own_end = crate::tail::own_end(&taken.block, taken.position, taken.len);
                    end = end.max(own_end.unwrap_or_default());
                    records.push(taken);
                }
                Err(error) => return (Self::spent(epoch), Err(error.into())),
            }
        }
        (Self { epoch, end: Some(end) }, Ok(end))
    }
}

impl StreamStore {
    /// Uploads what these streams hold at this moment, while they go on; returns when it is committed. Waits as long as the
    /// store is away: the caller sets a deadline.
    pub async fn upload_now(&self, streams: &[Arc<Stream>]) {
        let wanted: Vec<_> = streams.iter().map(|stream| (stream, stream.next_offset())).collect();
        loop {
            let committed = self.core.backlog.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            if wanted.iter().all(|(stream, next)| stream.committed_offset() >= *next) {
                return;
            }
            self.core.backlog.request();
            committed.await;
        }
    }

    /// Appends what another node has handed over of a stream to the own log, under the epoch that is reserved for it, and
    /// returns where that ends when it is durable. The stream is not open: [`Self::open`] finds the records when
    /// metadata has granted the epoch, and [`Self::discard`] drops them when it has not. Idempotent.
    ///
    /// Errors: see [`ImportError`].
    pub async fn import(&self, epoch: StreamEpoch, hand_over: &HandOver) -> Result<Lsn, ImportError> {
        let end = self.registry.import(&self.core, epoch, hand_over)?;
        self.core.wal.durable().wait(end).await?;
        Ok(end)
    }

    /// From now on nothing is imported. Whoever stops calls this before [`Self::flush`]: what was imported earlier is waited
    /// for there, and what came later would lie in a log that metadata holds for empty.
    pub fn refuse_imports(&self) {
        self.registry.refuse_imports();
    }

    /// The move did not happen: forgets what was imported under `epoch`.
    pub fn discard(&self, stream: StreamId, epoch: StreamEpoch) {
        self.registry.discard(stream, epoch);
    }
}
