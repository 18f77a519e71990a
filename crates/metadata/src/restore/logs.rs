//! What write-ahead logs hold above the committed ends, and who is to lead so that it is found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{NodeId, Offset, StreamId};
use imbl::OrdMap;
use uuid::Uuid;

use super::{FoundLog, FoundRun, Rebuild};
use crate::image::{StreamImage, VoidEpoch, WalImage, WalState};
use crate::state::{VOID_MAX, partition_mut};

/// The newest run, where an older one reaches further; and that one.
fn outlived<'a>(runs: &[Run<'a>]) -> Option<(Run<'a>, Run<'a>)> {
    let newest = runs.iter().max_by_key(|one| (one.run.epoch, one.run.end))?;
    let longer = runs.iter().find(|one| one.run.epoch < newest.run.epoch && one.run.end > newest.run.end)?;
    Some((*newest, *longer))
}

/// A log's records of one stream under one epoch.
#[derive(Clone, Copy)]
struct Run<'a> {
    log: &'a FoundLog,
    run: FoundRun,
}

impl Rebuild<'_> {
    /// Gives each log that was found the state it is in, and returns the open ones of the copy that were not found.
    pub(super) fn find_logs(&mut self) -> Vec<Uuid> {
        let evidence = self.evidence;
        for log in &evidence.logs {
            let known = self.image.wals.get(&log.uuid).map(|wal| wal.state.clone());
            let state = match (known, log.sealed) {
                (Some(known @ (WalState::Abandoned | WalState::Sealed { .. })), _) => known,
                (_, Some(end)) => WalState::Sealed { end, pending: OrdMap::new() },
                // A retired one may have been opened again by its node.
                (_, None) => WalState::Open,
            };
            let location = match self.image.wals.get(&log.uuid) {
                Some(known) => Arc::clone(&known.location),
                None => Arc::clone(&log.location),
            };
            let (node, class) = (log.node, log.class);
            self.image.wals.insert(log.uuid, WalImage { node, class, location, state });
        }
        self.keep_one_open();
        let is_found = |uuid: &Uuid| evidence.logs.iter().any(|log| log.uuid == *uuid);
        let unread = self.image.wals.iter().filter(|(uuid, wal)| !wal.state.is_over() && !is_found(uuid));
        let unread: Vec<(Uuid, NodeId, Arc<str>)> =
            unread.map(|(uuid, wal)| (*uuid, wal.node, Arc::clone(&wal.location))).collect();
        for (uuid, node, location) in &unread {
            self.losses.push(format!(
                "the write-ahead log {uuid} of node {node} at {location} was not read: records may be there alone, and some \
                 of them may belong to partitions that another node leads now"
            ));
        }
        unread.into_iter().map(|(uuid, ..)| uuid).collect()
    }

    /// A node has one log open. One that is not there any more was retired after the copy, or its node would not have begun
    /// another.
    fn keep_one_open(&mut self) {
        let is_open = |wal: &WalImage| wal.state == WalState::Open;
        let nodes: BTreeSet<NodeId> = self.image.wals.values().filter(|wal| is_open(wal)).map(|wal| wal.node).collect();
        for node in nodes {
            let open = self.image.wals.iter().filter(|(_, wal)| wal.node == node && is_open(wal));
            let open: Vec<Uuid> = open.map(|(uuid, _)| *uuid).collect();
            let found: Vec<&FoundLog> = self.evidence.logs.iter().filter(|log| open.contains(&log.uuid)).collect();
            let newest = |log: &&&FoundLog| log.runs.iter().map(|run| (run.epoch, run.end)).max();
            let Some(kept) = found.iter().max_by_key(newest).filter(|_| open.len() > 1) else { continue };
            for uuid in open.iter().filter(|uuid| **uuid != kept.uuid) {
                if found.iter().any(|log| log.uuid == *uuid) {
                    self.losses.push(format!(
                        "node {node} has two write-ahead logs that nobody sealed: {} goes on, {uuid} is given up",
                        kept.uuid
                    ));
                }
                if let Some(wal) = self.image.wals.get_mut(uuid) {
                    let is_found = found.iter().any(|log| log.uuid == *uuid);
                    wal.state = if is_found { WalState::Abandoned } else { WalState::Retired };
                }
            }
        }
    }

    /// Whoever has a stream's newest records leads it, so that they are found.
    pub(super) fn find_leaders(&mut self) {
        let evidence = self.evidence;
        let given_up = |uuid: &Uuid| self.image.wals.get(uuid).is_none_or(|wal| wal.state.is_over());
        let mut by_stream: BTreeMap<StreamId, Vec<Run<'_>>> = BTreeMap::new();
        for log in evidence.logs.iter().filter(|log| !given_up(&log.uuid)) {
            for run in &log.runs {
                by_stream.entry(run.stream).or_default().push(Run { log, run: *run });
            }
        }
        for id in self.image.streams.keys().copied().collect::<Vec<_>>() {
            self.find_leader(id, by_stream.remove(&id).unwrap_or_default());
        }
    }

    fn find_leader(&mut self, id: StreamId, mut runs: Vec<Run<'_>>) {
        let Some(stream) = self.image.streams.get(&id).cloned() else { return };
        let (name, committed) = (self.name(&stream), stream.end.max(stream.start));
        runs.retain(|one| one.run.end > committed && stream.void.iter().all(|void| void.epoch != one.run.epoch));
        while let Some((newest, longer)) = outlived(&runs) {
            // What a move that failed left at its target is void, and its source went on. An operator's giving up of the
            // older log would look the same.
            self.losses.push(format!(
                "{name}: node {} holds offsets up to {} and node {}, later, up to {} only: taken for a move that failed",
                longer.log.node, longer.run.end, newest.log.node, newest.run.end
            ));
            self.make_void(id, newest);
            runs.retain(|one| one.run.epoch != newest.run.epoch);
        }
        let held = runs.iter().map(|one| one.run.end).max().unwrap_or(committed);
        if self.jump_to_far(id, held) {
            return self.find_leader(id, runs);
        }
        if let Some(newest) = runs.iter().max_by_key(|one| (one.run.epoch, one.run.end)).copied() {
            self.lead_where(id, &stream, newest, &runs);
        }
        for one in &runs {
            if let Some(WalState::Sealed { pending, .. }) =
                self.image.wals.get_mut(&one.log.uuid).map(|wal| &mut wal.state)
            {
                let tail = pending.get(&id).copied().unwrap_or_default().max(one.run.end);
                pending.insert(id, tail);
            }
        }
    }

    /// Makes the owner of `newest` the stream's leader, and sees to what it finds.
    fn lead_where(&mut self, id: StreamId, stream: &StreamImage, newest: Run<'_>, runs: &[Run<'_>]) {
        let (name, leader, committed) = (self.name(stream), newest.log.node, stream.end.max(stream.start));
        let is_reachable = |one: &&Run<'_>| one.log.node == leader || one.log.sealed.is_some();
        let mut reachable: Vec<FoundRun> = runs.iter().filter(is_reachable).map(|one| one.run).collect();
        reachable.sort_by_key(|run| run.base);
        // What the logs hold without a gap, up to the end; a checkpoint is a run without records.
        let (mut from, mut reached) = (committed, committed);
        for run in reachable {
            if run.base > reached {
                from = run.base;
            }
            reached = reached.max(run.end);
        }
        if from > committed {
            self.losses.push(format!(
                "{name}: offsets {committed}..{from} were deleted or lost: they are in no object and in no log that was read; \
                 the partition begins at {from}"
            ));
            self.begin_at(id, from);
        }
        self.log_ends.insert(id, reached);
        if let Some(partition) = partition_mut(&mut self.image, id)
            && partition.leader != leader
        {
            let before = std::mem::replace(&mut partition.leader, leader);
            self.notes.push(format!("{name}: moved from node {before} to node {leader} after the copy was taken"));
        }
    }

    fn make_void(&mut self, id: StreamId, run: Run<'_>) {
        let Some(stream) = self.image.streams.get_mut(&id).map(Arc::make_mut) else { return };
        let mut void: Vec<VoidEpoch> = stream.void.to_vec();
        void.push(VoidEpoch { epoch: run.run.epoch, wal: run.log.uuid });
        void.sort_by_key(|void| void.epoch);
        // What is above the bound makes the image invalid, which is refused.
        debug_assert!(void.len() <= VOID_MAX + 1);
        stream.void = void.into();
    }

    /// Sealed logs are kept for what is still only in them.
    pub(super) fn settle_logs(&mut self) {
        let crate::MetadataImage { wals, sealed_wals, streams, .. } = &mut self.image;
        sealed_wals.clear();
        for uuid in wals.keys().copied().collect::<Vec<_>>() {
            let Some(wal) = wals.get_mut(&uuid) else { continue };
            let WalState::Sealed { pending, .. } = &mut wal.state else { continue };
            let is_needed = |(id, tail): &(&StreamId, &Offset)| {
                streams.get(*id).is_some_and(|stream| **tail > stream.end.max(stream.start))
            };
            *pending = pending.iter().filter(is_needed).map(|(id, tail)| (*id, *tail)).collect();
            if pending.is_empty() {
                wal.state = WalState::Retired;
            } else {
                sealed_wals.insert(uuid);
            }
        }
    }
}
