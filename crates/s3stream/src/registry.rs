//! Which streams are open, and what the log recovered for those that are not open yet.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use common::{Lsn, Offset, StreamEpoch, StreamId};
use parking_lot::Mutex;
use wal::{RecordKind, RecordRef, Recovered};

use crate::anchors::{CheckpointSource, give_way, oldest_anchor};
use crate::core::Core;
use crate::ports::StreamMetadata;
use crate::recovery::resolve;
use crate::store::OpenError;
use crate::stream::Stream;
use crate::tail::{TAIL_ENTRY_BYTES, Tail};
use crate::upload::PlannedSlice;

/// See the module.
pub(crate) struct Registry {
    inner: Mutex<Inner>,
}

struct Inner {
    open: HashMap<StreamId, Arc<Stream>>,
    /// Records of streams nobody has opened yet, in log order.
    recovered: HashMap<StreamId, Vec<RecordRef>>,
    /// The metadata image is loaded and newer than everything in the log: what it does not know does not exist.
    /// So it is once a stream was opened, or when the caller says so.
    metadata_loaded: bool,
}

impl Registry {
    pub(crate) fn new(recovered: Recovered) -> Self {
        let mut by_stream: HashMap<StreamId, Vec<RecordRef>> = HashMap::new();
        for record in recovered.records {
            by_stream.entry(record.meta.stream).or_default().push(record);
        }
        Self { inner: Mutex::new(Inner { open: HashMap::new(), recovered: by_stream, metadata_loaded: false }) }
    }

    /// See [`crate::StreamStore::open`].
    pub(crate) fn open(
        &self,
        core: &Arc<Core>,
        id: StreamId,
        epoch: StreamEpoch,
        metadata: &StreamMetadata,
    ) -> Result<Arc<Stream>, OpenError> {
        let mut inner = self.inner.lock();
        if let Some(open) = inner.open.get(&id) {
            if open.epoch() >= epoch {
                return Err(OpenError::Fenced { stream: id, given: epoch, current: open.epoch() });
            }
            let reopened = Arc::new(open.supersede(epoch, metadata.end));
            inner.open.insert(id, Arc::clone(&reopened));
            return Ok(reopened);
        }
        let records = inner.recovered.get(&id).cloned().unwrap_or_default();
        let recovered = resolve(id, records, metadata.end, epoch)?;
        inner.recovered.remove(&id);
        inner.metadata_loaded = true;
        let mut tail = Tail::new(metadata.end, recovered.entries, recovered.checkpoints);
        if tail.next() < metadata.start {
            // Everything up to the start was trimmed before it was uploaded: the stream goes on from there.
            tail = Tail::new(metadata.start, VecDeque::new(), Vec::new());
        }
        core.backlog.add_index(tail.len() as u64 * TAIL_ENTRY_BYTES);
        core.appended(tail.pending_bytes());
        let stream = Arc::new(Stream::new(id, epoch, Arc::clone(core), metadata.start, tail));
        inner.open.insert(id, Arc::clone(&stream));
        Ok(stream)
    }

    /// See [`crate::StreamStore::metadata_loaded`].
    pub(crate) fn metadata_loaded(&self) {
        self.inner.lock().metadata_loaded = true;
    }

    /// All open streams, in the order of their ids.
    pub(crate) fn streams(&self) -> Vec<Arc<Stream>> {
        let mut streams: Vec<_> = self.inner.lock().open.values().cloned().collect();
        streams.sort_by_key(|stream| stream.id());
        streams
    }

    /// See [`crate::StreamStore::close`].
    pub(crate) fn close(&self, core: &Core, id: StreamId) {
        let mut inner = self.inner.lock();
        let Some(stream) = inner.open.get(&id) else {
            return;
        };
        let gone = core.stream_manager.stream(id).is_none();
        let done = {
            let mut state = stream.state.lock();
            state.closed = true;
            if gone {
                abandon(core, &mut state.tail);
            }
            state.tail.pending_bytes() == 0
        };
        if done {
            inner.open.remove(&id);
        }
    }

    /// Metadata took a slice: the stream's current opening serves it from objects from now on.
    pub(crate) fn committed(&self, core: &Core, slice: &PlannedSlice) {
        let inner = self.inner.lock();
        let Some(stream) = inner.open.get(&slice.stream.id()) else {
            return;
        };
        let checkpoint = slice.checkpoint.as_ref().map(|checkpoint| checkpoint.offset);
        commit(core, &mut stream.state.lock().tail, slice.end, checkpoint);
    }

    /// Metadata refused a slice for good. What that means is read from metadata, and nothing is dropped that
    /// could still become committed. `false` when metadata gives no reason: the data is uploaded again.
    pub(crate) fn refused(&self, core: &Core, slice: &PlannedSlice) -> bool {
        let id = slice.stream.id();
        let inner = self.inner.lock();
        let Some(stream) = inner.open.get(&id) else {
            return true;
        };
        let mut state = stream.state.lock();
        match core.stream_manager.stream(id) {
            None => {
                tracing::info!(stream = %id, "an upload's slice was refused: the stream was deleted");
                state.closed = true;
                abandon(core, &mut state.tail);
            }
            // Being opened anew by this very node: the opening takes the tail over, which must still be there.
            Some(metadata) if metadata.epoch > stream.epoch() && metadata.owner == Some(core.owner()) => {
                let current = metadata.epoch;
                tracing::debug!(stream = %id, %current, "an upload's slice was refused: the stream is being reopened");
                return false;
            }
            Some(metadata) if metadata.epoch > stream.epoch() => {
                let current = metadata.epoch;
                tracing::warn!(stream = %id, %current, "an upload's slice was refused: the stream is open elsewhere");
                state.closed = true;
                abandon(core, &mut state.tail);
            }
            // Committed by somebody else: go on behind it.
            Some(metadata) if metadata.end > slice.start => commit(core, &mut state.tail, metadata.end, None),
            // Reopened here while the upload ran: uploaded again under the new epoch.
            Some(_) if stream.epoch() > slice.stream.epoch() => {}
            Some(metadata) => {
                let (end, start) = (metadata.end, slice.start);
                tracing::error!(stream = %id, %end, %start, "an upload's slice was refused, although it should fit");
                return false;
            }
        }
        true
    }

    /// What follows an upload: gives up memory and index entries that are no longer needed, forgets streams
    /// that were closed, and trims the log up to the oldest record that no object holds.
    pub(crate) fn settle(&self, core: &Core) {
        let mut inner = self.inner.lock();
        inner.drop_unknown(core);
        // Read before the streams are: whatever is appended later lies above.
        let durable = core.wal.durable().get();
        let give_way = give_way(core);
        let mut oldest = inner.first_unopened(core, give_way).map_or(durable, |unopened| unopened.min(durable));
        let tight = core.backlog.index_bytes() > core.settings.tail_index_bytes / 2;
        let released_below = core.log_cache.released_below();
        inner.open.retain(|_, stream| {
            let mut state = stream.state.lock();
            let tail = &mut state.tail;
            let dropped = if tight { tail.drop_committed() } else { tail.drop_released(released_below) };
            core.backlog.sub_index(dropped as u64 * TAIL_ENTRY_BYTES);
            let (pending, anchor) = (tail.first_pending_lsn(), tail.anchor(durable));
            oldest = pending.map_or(oldest, |pending| pending.min(oldest));
            if !state.closed && !give_way {
                oldest = anchor.map_or(oldest, |anchor| anchor.min(oldest));
            }
            pending.is_some() || !state.closed
        });
        if give_way {
            inner.open.values().for_each(|stream| stream.state.lock().tail.cut_anchor(oldest));
            core.anchors.wanted.notify_one();
        }
        core.wal.trim(oldest);
    }

    /// Those who should append a checkpoint, because their stream's anchor has fallen back or is missing.
    pub(crate) fn without_anchor(&self, core: &Core) -> Vec<Weak<dyn CheckpointSource>> {
        let (oldest, durable) = (oldest_anchor(core), core.wal.durable().get());
        let inner = self.inner.lock();
        let wanted = inner.open.values().filter_map(|stream| {
            let mut state = stream.state.lock();
            let wants = !state.closed && state.tail.wants_anchor(oldest, durable);
            wants.then(|| state.checkpoint_source.clone()).flatten()
        });
        wanted.collect()
    }

    /// Drops all index entries of what objects hold.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn forget_committed(&self, core: &Core) {
        for stream in self.inner.lock().open.values() {
            let dropped = stream.state.lock().tail.drop_committed();
            core.backlog.sub_index(dropped as u64 * TAIL_ENTRY_BYTES);
        }
    }

    /// Whether the log holds nothing that should be uploaded.
    pub(crate) fn is_uploaded(&self, core: &Core) -> bool {
        let mut inner = self.inner.lock();
        inner.drop_unknown(core);
        inner.first_unopened(core, true).is_none()
            && inner.open.values().all(|stream| stream.state.lock().tail.first_pending_lsn().is_none())
    }
}

fn commit(core: &Core, tail: &mut Tail, end: Offset, checkpoint: Option<Offset>) {
    let before = tail.pending_bytes();
    tail.commit(end, checkpoint);
    core.backlog.sub(before - tail.pending_bytes());
}

fn abandon(core: &Core, tail: &mut Tail) {
    let (entries, bytes) = tail.abandon();
    core.backlog.sub_index(entries as u64 * TAIL_ENTRY_BYTES);
    core.backlog.sub(bytes);
}

impl Inner {
    /// Drops recovered records of streams that metadata no longer knows.
    fn drop_unknown(&mut self, core: &Core) {
        if self.metadata_loaded {
            self.recovered.retain(|id, _| {
                let exists = core.stream_manager.stream(*id).is_some();
                if !exists {
                    tracing::info!(stream = %id, "dropping what the log holds of a stream that was deleted");
                }
                exists
            });
        }
    }

    /// Where the oldest record lies in the log that was recovered for a stream nobody has opened yet; of those alone
    /// that no object holds, if so wished.
    fn first_unopened(&self, core: &Core, pending: bool) -> Option<Lsn> {
        let oldest = |(id, records): (&StreamId, &Vec<RecordRef>)| {
            let committed = core.stream_manager.stream(*id).map_or(Offset(0), |metadata| metadata.end);
            let counts = |record: &&RecordRef| {
                !pending || record.meta.kind == RecordKind::Data && record.meta.next_offset > committed
            };
            records.iter().find(counts).map(|record| record.block.lsn())
        };
        self.recovered.iter().filter_map(oldest).min()
    }
}
