//! Which streams are open, and what the log recovered for those that are not open yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use common::planted::{self, Bug};
use common::{Lsn, Offset, StreamEpoch, StreamId};
use parking_lot::Mutex;
use uuid::Uuid;
use wal::{RecordKind, RecordRef, Recovered};

use crate::anchors::{CheckpointSource, give_way, oldest_anchor};
use crate::core::Core;
use crate::format::hand_over::HandOver;
use crate::hand_over::{Import, ImportError};
use crate::ports::StreamMetadata;
use crate::recovery::resolve;
use crate::store::{AdoptError, OpenError};
use crate::stream::Stream;
use crate::tail::{TAIL_ENTRY_BYTES, Tail};
use crate::upload::PlannedSlice;

/// See the module.
pub(crate) struct Registry {
    inner: Mutex<Inner>,
}

struct Inner {
    open: BTreeMap<StreamId, Arc<Stream>>,
    /// Records of streams nobody has opened yet, in log order.
    recovered: BTreeMap<StreamId, Vec<RecordRef>>,
    /// What was imported last of each stream that ever was.
    imports: BTreeMap<StreamId, Import>,
    /// The metadata image is loaded and newer than everything in the log: what it does not know does not exist.
    /// So it is once a stream was opened, or when the caller says so.
    metadata_loaded: bool,
    /// Nothing is imported any more: this node is about to let its log go.
    leaving: bool,
}

impl Registry {
    pub(crate) fn new(recovered: Recovered) -> Self {
        let mut by_stream: BTreeMap<StreamId, Vec<RecordRef>> = BTreeMap::new();
        for record in recovered.records {
            by_stream.entry(record.meta.stream).or_default().push(record);
        }
        Self {
            inner: Mutex::new(Inner {
                open: BTreeMap::new(),
                recovered: by_stream,
                imports: BTreeMap::new(),
                metadata_loaded: false,
                leaving: false,
            }),
        }
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
            if !inner.was_away(id, open.epoch(), metadata) {
                let expected = open.next_offset().max(metadata.end);
                if expected < metadata.sealed_end {
                    return Err(OpenError::Gap { stream: id, expected, found: metadata.sealed_end });
                }
                let reopened = Arc::new(open.supersede(epoch, metadata.end));
                inner.recovered.remove(&id);
                inner.open.insert(id, Arc::clone(&reopened));
                return Ok(reopened);
            }
        }
        let records = inner.recovered.get(&id).cloned().unwrap_or_default();
        let recovered = resolve(id, records, metadata)?;
        if let Some(left) = inner.open.remove(&id) {
            // It went to another node and came back, with what that node had of it: what was left here is part of that.
            let mut state = left.state.lock();
            state.closed = true;
            abandon(core, &mut state.tail);
        }
        inner.recovered.remove(&id);
        inner.metadata_loaded = true;
        let tail = Tail::new(metadata.needed_from(), recovered.entries, recovered.checkpoints);
        core.backlog.add_index(tail.len() as u64 * TAIL_ENTRY_BYTES);
        core.appended(tail.pending_bytes());
        let stream = Arc::new(Stream::new(id, epoch, Arc::clone(core), metadata.start, tail));
        inner.open.insert(id, Arc::clone(&stream));
        Ok(stream)
    }

    /// See [`crate::StreamStore::adopt`].
    pub(crate) fn adopt(
        &self,
        core: &Core,
        log: Uuid,
        records: Vec<RecordRef>,
        of: &dyn Fn(StreamId) -> bool,
    ) -> Result<(), AdoptError> {
        let mut by_stream: BTreeMap<StreamId, Vec<RecordRef>> = BTreeMap::new();
        for record in records {
            if of(record.meta.stream) {
                by_stream.entry(record.meta.stream).or_default().push(record);
            }
        }
        let metadata = |id: StreamId| core.stream_manager.stream(id);
        let elsewhere = |id: &&StreamId| metadata(**id).is_some_and(|known| known.is_elsewhere(core.settings.node));
        if let Some(stream) = by_stream.keys().find(elsewhere) {
            return Err(AdoptError::Elsewhere(*stream));
        }
        let mut inner = self.inner.lock();
        for (id, records) in by_stream {
            if metadata(id).is_some_and(|metadata| inner.lacks(log, id, &metadata)) {
                inner.recovered.entry(id).or_default().extend(records);
            }
        }
        Ok(())
    }

    /// See [`crate::StreamStore::lacks`].
    pub(crate) fn lacks(&self, core: &Core, log: Uuid, id: StreamId) -> bool {
        core.stream_manager.stream(id).is_some_and(|metadata| self.inner.lock().lacks(log, id, &metadata))
    }

    /// See [`crate::StreamStore::import`].
    pub(crate) fn import(&self, core: &Core, epoch: StreamEpoch, hand_over: &HandOver) -> Result<Lsn, ImportError> {
        let id = hand_over.stream;
        // Held throughout, so that no trim comes between the append and the note of what was appended.
        let mut inner = self.inner.lock();
        if inner.leaving {
            return Err(ImportError::Leaving);
        }
        if inner.open.get(&id).is_some_and(|open| open.epoch() >= epoch) {
            return Err(ImportError::Used { stream: id, epoch });
        }
        let mut records = Vec::with_capacity(hand_over.records.len());
        let known = inner.imports.get(&id).copied();
        let (import, outcome) = Import::run(known, core, epoch, hand_over, &mut records);
        inner.imports.insert(id, import);
        if outcome.is_ok() && !records.is_empty() {
            inner.recovered.entry(id).or_default().extend(records);
        }
        outcome
    }

    /// See [`crate::StreamStore::refuse_imports`].
    pub(crate) fn refuse_imports(&self) {
        self.inner.lock().leaving = true;
    }

    /// See [`crate::StreamStore::discard`].
    pub(crate) fn discard(&self, id: StreamId, epoch: StreamEpoch) {
        let mut inner = self.inner.lock();
        // So that an import that comes again late is not answered as if its records were still there.
        inner.imports.entry(id).and_modify(|import| import.forget(epoch)).or_insert(Import::spent(epoch));
        if let Some(records) = inner.recovered.get_mut(&id) {
            records.retain(|record| record.meta.stream_epoch != epoch);
            if records.is_empty() {
                inner.recovered.remove(&id);
            }
        }
    }

    pub(crate) fn epoch_of(&self, id: StreamId) -> Option<StreamEpoch> {
        self.inner.lock().open.get(&id).map(|stream| stream.epoch())
    }

    /// See [`crate::StreamStore::metadata_loaded`].
    pub(crate) fn metadata_loaded(&self) {
        self.inner.lock().metadata_loaded = true;
    }

    /// All open streams, in the order of their ids.
    pub(crate) fn streams(&self) -> Vec<Arc<Stream>> {
        self.inner.lock().open.values().cloned().collect()
    }

    /// See [`crate::StreamStore::close`].
    pub(crate) fn close(&self, core: &Core, id: StreamId) {
        let mut inner = self.inner.lock();
        let Some(stream) = inner.open.get(&id) else {
            return;
        };
        let gone = is_gone(core, stream);
        let done = {
            let mut state = stream.state.lock();
            state.closed = true;
            if gone {
                abandon(core, &mut state.tail);
            }
            !state.tail.has_pending()
        };
        if done {
            inner.open.remove(&id);
        }
    }

    /// Gives up what is left of streams that went to other nodes, or were deleted. Whether there was anything.
    pub(crate) fn abandon_gone(&self, core: &Core) -> bool {
        let inner = self.inner.lock();
        let mut any = false;
        for stream in inner.open.values() {
            let mut state = stream.state.lock();
            if state.tail.has_pending() && is_gone(core, stream) {
                state.closed = true;
                abandon(core, &mut state.tail);
                any = true;
            }
        }
        any
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
        inner.drop_void(core);
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
            let (pending, anchor) = (tail.first_own_pending(), tail.anchor(durable));
            oldest = pending.map_or(oldest, |pending| pending.min(oldest));
            if !state.closed && !give_way {
                oldest = anchor.map_or(oldest, |anchor| anchor.min(oldest));
            }
            state.tail.has_pending() || !state.closed
        });
        if give_way {
            inner.open.values().for_each(|stream| stream.state.lock().tail.cut_anchor(oldest));
            core.anchors.wanted.notify_one();
        }
        core.wal.trim(if planted::is(Bug::TrimUncommitted) { durable } else { oldest });
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
        inner.drop_void(core);
        inner.first_unopened(core, true).is_none()
            && inner.open.values().all(|stream| !stream.state.lock().tail.has_pending())
    }
}

/// Whether nothing of this opening can be committed any more, and nobody here needs it: another node has the stream, and
/// with it all that was not committed, or it was deleted.
fn is_gone(core: &Core, stream: &Stream) -> bool {
    let moved = |metadata: StreamMetadata| metadata.epoch > stream.epoch() && metadata.is_elsewhere(core.settings.node);
    core.stream_manager.stream(stream.id()).is_none_or(moved)
}

/// Objects hold everything below `end` now.
pub(crate) fn commit(core: &Core, tail: &mut Tail, end: Offset, checkpoint: Option<Offset>) {
    if end > tail.next() {
        // Others wrote what lies in between. What is kept from before would look as if it reached up to there.
        abandon(core, tail);
    }
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
    /// Whether records of the sealed log `log` are still to be taken in: they do not wait for an opening yet, and the stream is not
    /// open under its newest epoch, as it would be with them if metadata knew of any.
    fn lacks(&self, log: Uuid, id: StreamId, metadata: &StreamMetadata) -> bool {
        let is_of_log = |record: &RecordRef| record.block.origin().is_some_and(|origin| origin.uuid() == log);
        let is_open = self.open.get(&id).is_some_and(|open| open.epoch() >= metadata.epoch);
        !is_open && !self.recovered.get(&id).is_some_and(|records| records.iter().any(is_of_log))
    }

    /// Whether others held the stream since it was opened here under `opened`: then there are records of theirs, or
    /// nothing that was not committed. Records that are older than the opening say nothing: it had them.
    fn was_away(&self, id: StreamId, opened: StreamEpoch, metadata: &StreamMetadata) -> bool {
        let of_others = |record: &RecordRef| {
            let epoch = record.meta.stream_epoch;
            epoch > opened && metadata.is_granted(epoch)
        };
        self.recovered.get(&id).is_some_and(|records| records.iter().any(of_others))
    }

    /// Drops records of streams that nobody has opened, where nobody will open them from here: metadata no longer knows
    /// the stream, or has given it to another node, which took over what was not committed; or never granted the epoch.
    fn drop_void(&mut self, core: &Core) {
        if !self.metadata_loaded {
            return;
        }
        self.recovered.retain(|id, records| {
            let Some(metadata) = core.stream_manager.stream(*id) else {
                tracing::info!(stream = %id, "dropping what the log holds of a stream that was deleted");
                return false;
            };
            let elsewhere = metadata.is_elsewhere(core.settings.node);
            // What was handed over to this node waits for the epoch that is reserved for it.
            let is_void = |epoch: StreamEpoch| metadata.void.contains(&epoch) || elsewhere && epoch <= metadata.epoch;
            records.retain(|record| !is_void(record.meta.stream_epoch));
            !records.is_empty()
        });
    }

    /// Where the oldest record lies in the own log that was recovered for a stream nobody has opened yet; of those alone
    /// that no object holds, if so wished.
    fn first_unopened(&self, core: &Core, pending: bool) -> Option<Lsn> {
        let oldest = |(id, records): (&StreamId, &Vec<RecordRef>)| {
            let committed = core.stream_manager.stream(*id).map_or(Offset(0), |metadata| metadata.needed_from());
            let counts = |record: &&RecordRef| {
                let wanted = !pending || record.meta.kind == RecordKind::Data && record.meta.next_offset > committed;
                wanted && record.block.own_lsn().is_some()
            };
            // What was imported may lie behind what was recovered, in any order.
            records.iter().filter(counts).filter_map(|record| record.block.own_lsn()).min()
        };
        self.recovered.iter().filter_map(oldest).min()
    }
}
