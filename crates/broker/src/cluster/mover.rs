//! Moves partitions to other brokers while they are in use: the source's side (docs/architecture.md §7 and §12).
//!
//! Steps, and what a crash of this process leaves at each: 1 upload (nothing changed) → 2 reserve epochs (void as soon as anybody
//! else opens the streams) → 3 park, drain → 4 hand the tails over (the target has records of an epoch nobody was granted) →
//! 5 read no more, commit (the target leads). Whatever fails before 5 is cancelled in metadata before a stream is resumed: a commit that is
//! still under way must not be granted afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use common::budget::ByteBudget;
use common::planted::{self, Bug};
use common::{Clock, NodeEpoch, NodeId, StreamEpoch, StreamId};
use futures::StreamExt as _;
use metadata::{Command, Outcome};
use s3stream::{Stream, StreamStore};

use super::member::Member;
use super::peer::messages::{HandOverAnswer, HandOverEntry, HandOverRequest, decode, encode};
use super::peer::{Kind, Lane};
use crate::coordinator::{GroupCoordinator, TransactionCoordinator};
use crate::partition::{Partition, Partitions};

/// Partitions that are parked at the same time.
const BATCH: usize = 256;
/// Bytes of tails in one hand-over, all that is read from the log for it: well below what a frame holds.
const TAIL_BYTES_MAX: u64 = 16 << 20;
/// Tails that are read from the log side by side.
const EXPORTS_AT_ONCE: usize = 8;
/// How long uploading before the move may take; what is not uploaded by then is handed over.
const PRE_COPY_WAIT: Duration = Duration::from_secs(3);
/// What arrives while something is uploaded is uploaded again, until a round takes no longer than this: then the tail is what
/// arrives in such a time.
const PRE_COPY_ROUND: Duration = Duration::from_millis(50);
/// How long the target may take to have a hand-over durable.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(5);
/// Pause before metadata is asked again what became of a move.
const RETRY: Duration = Duration::from_millis(50);

/// What moves have cost so far.
#[derive(Debug, Default)]
pub struct MoveCounters {
    /// Partitions being moved now.
    pub under_way: AtomicUsize,
    /// Partitions given away.
    pub moved: AtomicU64,
    /// Partitions that stayed although they were to move.
    pub failed: AtomicU64,
    /// Encoded bytes of tails sent to other brokers: all that ever follows a partition.
    pub tail_bytes: AtomicU64,
    /// Longest time that a partition was parked, microseconds.
    pub blackout_us_max: AtomicU64,
}

/// See the module.
pub struct Mover {
    member: Arc<Member>,
    life: (NodeId, NodeEpoch),
    partitions: Partitions,
    groups: GroupCoordinator,
    transactions: TransactionCoordinator,
    streams: Arc<StreamStore>,
    clock: Arc<dyn Clock>,
    /// One move at a time: two of them would share the log and the network, and be slower.
    turn: tokio::sync::Mutex<()>,
    /// What moves have cost.
    pub counters: MoveCounters,
}

impl Mover {
    pub(crate) fn new(
        member: Arc<Member>,
        node_epoch: NodeEpoch,
        partitions: Partitions,
        (groups, transactions): (GroupCoordinator, TransactionCoordinator),
        streams: Arc<StreamStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let life = (member.node, node_epoch);
        let (turn, counters) = (tokio::sync::Mutex::new(()), MoveCounters::default());
        Self { member, life, partitions, groups, transactions, streams, clock, turn, counters }
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.life.0
    }

    /// This life of the node.
    pub(crate) fn life(&self) -> (NodeId, NodeEpoch) {
        self.life
    }

    /// Gives partitions away, each to its target; returns how many went. Those that are not open here, or whose target
    /// does not take them, stay.
    pub async fn give_away(&self, plan: Vec<(StreamId, NodeId)>) -> usize {
        let _turn = self.turn.lock().await;
        let mut by_target: BTreeMap<NodeId, Vec<Arc<Partition>>> = BTreeMap::new();
        let open = self.partitions.open_by_stream();
        for (stream, target) in plan {
            if let Some(partition) = open.get(&stream).filter(|_| target != self.life.0) {
                by_target.entry(target).or_default().push(Arc::clone(partition));
            }
        }
        let mut given = 0;
        for (target, partitions) in by_target {
            for batch in partitions.chunks(BATCH) {
                self.counters.under_way.fetch_add(batch.len(), Ordering::Relaxed);
                let moved = self.move_batch(target, batch).await;
                self.counters.under_way.fetch_sub(batch.len(), Ordering::Relaxed);
                let moved = moved.unwrap_or_else(|reason| {
                    tracing::warn!(%target, partitions = batch.len(), reason, "partitions were not moved");
                    0
                });
                self.counters.moved.fetch_add(moved as u64, Ordering::Relaxed);
                self.counters.failed.fetch_add((batch.len() - moved) as u64, Ordering::Relaxed);
                given += moved;
            }
        }
        given
    }

    async fn move_batch(&self, target: NodeId, batch: &[Arc<Partition>]) -> Result<usize, String> {
        let image = self.member.metadata.image();
        let node = image.nodes.get(&target).filter(|node| !node.fenced).ok_or("the target does not live")?;
        let (target, address) = ((target, node.epoch), Arc::clone(&node.peer));
        let streams: Vec<_> = batch.iter().map(|partition| Arc::clone(partition.stream())).collect();
        // A store that does not answer only makes the hand-over larger.
        let _ = tokio::time::timeout(PRE_COPY_WAIT, self.pre_copy(&streams)).await;
        let ids = streams.iter().map(|stream| stream.id()).collect();
        let reserve = Command::ReserveMove { source: self.life, target, streams: ids };
        let epochs = match self.member.metadata.submit(reserve).await {
            Ok(Outcome::Opened { epochs }) if epochs.len() == batch.len() => epochs,
            Ok(other) => return Err(format!("metadata answered {other:?}")),
            Err(error) => return Err(error.to_string()),
        };
        let reserved: Vec<(Arc<Partition>, StreamEpoch)> =
            batch.iter().zip(epochs).filter_map(|(partition, epoch)| Some((Arc::clone(partition), epoch?))).collect();
        let parked_at = self.clock.boot();
        let moved = self.hand_over(target, &address, &reserved).await;
        let blackout = self.clock.boot().saturating_sub(parked_at);
        let blackout_us = u64::try_from(blackout.as_micros()).unwrap_or(u64::MAX);
        self.counters.blackout_us_max.fetch_max(blackout_us, Ordering::Relaxed);
        tracing::info!(target = %target.0, partitions = moved, of = batch.len(), ?blackout, "partitions moved");
        Ok(moved)
    }

    async fn pre_copy(&self, streams: &[Arc<Stream>]) {
        loop {
            let since = self.clock.boot();
            self.streams.upload_now(streams).await;
            if self.clock.boot().saturating_sub(since) <= PRE_COPY_ROUND {
                return;
            }
        }
    }

    /// Everything between parking and the new leaders; afterwards each partition is closed here, or goes on.
    async fn hand_over(
        &self,
        target: (NodeId, NodeEpoch),
        address: &str,
        reserved: &[(Arc<Partition>, StreamEpoch)],
    ) -> usize {
        for (partition, _) in reserved {
            self.groups.append_final_checkpoint_of(partition);
            self.transactions.append_final_checkpoint_of(partition);
            partition.park();
        }
        let sent = self.send(target, address, reserved).await;
        let taken = match sent {
            Ok(taken) => taken,
            Err(reason) => {
                tracing::warn!(target = %target.0, reason, "a hand-over was not taken");
                BTreeMap::new()
            }
        };
        for (partition, _) in reserved.iter().filter(|(partition, _)| taken.contains_key(&partition.stream().id())) {
            partition.leave();
        }
        let streams = taken.iter().map(|(stream, epoch)| (*stream, *epoch)).collect();
        let commit = Command::CommitMove { source: self.life, target, streams };
        let committed = match taken.is_empty() {
            true => Vec::new(),
            false => match self.member.metadata.submit(commit).await {
                Ok(Outcome::Moved { committed }) => committed,
                // Perhaps it happened: the cancellation below tells.
                other => {
                    tracing::warn!(?other, "the outcome of a move is not known yet");
                    Vec::new()
                }
            },
        };
        let gone: BTreeSet<StreamId> =
            taken.into_keys().zip(committed).filter_map(|(stream, done)| done.then_some(stream)).collect();
        let (moved, left): (Vec<_>, Vec<_>) =
            reserved.iter().cloned().partition(|(partition, _)| gone.contains(&partition.stream().id()));
        moved.iter().for_each(|(partition, _)| partition.close());
        moved.len() + self.settle(left).await
    }

    /// Sends the tails; returns the streams whose tails the target has durable.
    async fn send(
        &self,
        target: (NodeId, NodeEpoch),
        address: &str,
        reserved: &[(Arc<Partition>, StreamEpoch)],
    ) -> Result<BTreeMap<StreamId, StreamEpoch>, String> {
        let budget = ByteBudget::new(TAIL_BYTES_MAX);
        let (mut entries, mut leases, mut taken) = (Vec::new(), Vec::new(), BTreeMap::new());
        let exports = reserved.iter().map(|(partition, _)| partition.stream().export_tail(&budget));
        let mut exports = futures::stream::iter(exports.collect::<Vec<_>>()).buffered(EXPORTS_AT_ONCE);
        for (partition, epoch) in reserved {
            let Some(tail) = exports.next().await else { break };
            match tail {
                Ok((tail, lease)) => {
                    entries.push(HandOverEntry { epoch: epoch.0, tail: tail.encode() });
                    leases.push(lease);
                    taken.insert(tail.stream, *epoch);
                }
                Err(error) => tracing::warn!(?partition, %error, "the partition stays"),
            }
        }
        let request = HandOverRequest { node_epoch: target.1.0, entries, reads_refusals: true };
        let body = encode(&request);
        self.counters.tail_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        let asked = self.member.peers.call(address, Lane::Bulk, Kind::HandOver, body, HAND_OVER_DEADLINE).await;
        let refused = decode::<HandOverAnswer>(asked.map_err(|error| error.to_string())??)?.refused;
        for stream in refused {
            taken.remove(&StreamId(stream));
        }
        Ok(taken)
    }

    /// Makes sure what became of moves that were not committed for certain: resumes what is still this node's, closes what
    /// went after all. Asks until it knows; meanwhile nothing is appended. Returns how many went.
    async fn settle(&self, left: Vec<(Arc<Partition>, StreamEpoch)>) -> usize {
        if left.is_empty() {
            return 0;
        }
        let streams: Vec<_> = left.iter().map(|(partition, epoch)| (partition.stream().id(), *epoch)).collect();
        let gone = loop {
            if planted::is(Bug::ResumeWithoutCancelling) {
                break vec![false; left.len()];
            }
            let cancel = Command::CancelMove { source: self.life, streams: streams.clone() };
            match self.member.metadata.submit(cancel).await {
                Ok(Outcome::Moved { committed }) => break committed,
                // This life is over: nothing here is this node's any more.
                Ok(Outcome::Refused(_)) => break vec![true; left.len()],
                Ok(other) => tracing::warn!(?other, "asking again what became of a move"),
                Err(error) => tracing::warn!(%error, "asking again what became of a move"),
            }
            tokio::time::sleep(RETRY).await;
        };
        let mut went = 0;
        for ((partition, _), gone) in left.into_iter().zip(gone) {
            if gone {
                partition.close();
                went += 1;
            } else {
                partition.resume();
            }
        }
        went
    }
}
