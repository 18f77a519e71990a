//! What must hold of the cluster's state at every moment. A broken rule is seen here even where another one hides what it would
//! have done: the next change may take that one away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use broker::Broker;
use common::{NodeEpoch, NodeId, StreamEpoch, StreamId};
use imbl::ordmap::DiffItem;
use metadata::MetadataImage;
use s3stream::Stream;
use uuid::Uuid;
use wal::BlockAddress;

use crate::world::World;

/// One life of a node.
type Life = (NodeId, NodeEpoch);

/// What was seen so far. See the module.
#[derive(Default)]
pub struct Watch {
    /// Whom each epoch of a stream was granted to.
    owners: BTreeMap<(StreamId, StreamEpoch), Life>,
    /// What each node knew last.
    images: BTreeMap<NodeId, Arc<MetadataImage>>,
    /// Streams that wait for the end of a move, by who holds them, and the epoch that was reserved for it.
    moving: BTreeMap<(Life, StreamId), StreamEpoch>,
    /// Openings of streams that were looked at.
    openings: BTreeSet<(Life, StreamId, StreamEpoch)>,
    /// Since when brokers have had a lease without interruption.
    leased: BTreeMap<NodeEpoch, Duration>,
}

impl Watch {
    /// Looks at the whole cluster.
    ///
    /// # Errors
    /// What does not hold.
    pub fn look(&mut self, world: &World) -> Result<(), String> {
        world.disks.check()?;
        for (node, broker) in world.brokers() {
            let (life, image) = ((node, broker.node_epoch), broker.metadata.image());
            self.look_at_image(node, &image)?;
            for partition in broker.partitions.open() {
                self.look_at_move(life, partition.stream(), &image)?;
                self.look_at_opening(world, (life, broker.wal.uuid()), partition.stream(), &image)?;
            }
            match broker.lease.is_valid() {
                true => drop(self.leased.entry(broker.node_epoch).or_insert(world.trace.now())),
                false => drop(self.leased.remove(&broker.node_epoch)),
            }
        }
        Ok(())
    }

    /// Since when `broker` has had a lease that still runs, as far as was seen.
    #[must_use]
    pub fn leased_since(&self, broker: &Broker) -> Option<Duration> {
        let since = self.leased.get(&broker.node_epoch).copied();
        since.filter(|_| broker.lease.is_valid())
    }

    fn look_at_image(&mut self, node: NodeId, image: &Arc<MetadataImage>) -> Result<(), String> {
        let before = self.images.insert(node, Arc::clone(image));
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, image)) {
            return Ok(());
        }
        for (id, stream) in &image.streams {
            let Some(owner) = stream.owner else { continue };
            let first = *self.owners.entry((*id, stream.epoch)).or_insert(owner);
            if first != owner {
                let epoch = stream.epoch;
                return Err(format!("epoch {epoch} of stream {id} was granted to {first:?} and to {owner:?}"));
            }
        }
        before.map_or(Ok(()), |before| check_commits(&before, image))
    }

    /// A source goes on only when metadata has given up the epoch that was reserved for the move: until then the move may still
    /// be committed. What this broker knows of metadata holds all that it was answered.
    fn look_at_move(&mut self, life: Life, stream: &Stream, image: &MetadataImage) -> Result<(), String> {
        let id = stream.id();
        let known = image.streams.get(&id).filter(|known| known.owner == Some(life));
        let reserved = known.and_then(|known| known.reserved).map(|reserved| reserved.epoch);
        if stream.is_parked() {
            if let Some(epoch) = reserved {
                self.moving.insert((life, id), epoch);
            }
            return Ok(());
        }
        match self.moving.remove(&(life, id)) {
            Some(epoch) if reserved == Some(epoch) => {
                let (node, _) = life;
                Err(format!("node {node} goes on with stream {id}, and its move may be committed in epoch {epoch}"))
            }
            _ => Ok(()),
        }
    }

    /// What is opened consists of records of epochs that were granted.
    fn look_at_opening(
        &mut self,
        world: &World,
        (life, own): (Life, Uuid),
        stream: &Stream,
        image: &MetadataImage,
    ) -> Result<(), String> {
        let void = image.streams.get(&stream.id()).map(|known| &known.void).filter(|void| !void.is_empty());
        let is_new = self.openings.insert((life, stream.id(), stream.epoch()));
        let (Some(void), true) = (void, is_new) else { return Ok(()) };
        let log = |address: BlockAddress| match address {
            BlockAddress::Own(lsn) => (own, lsn),
            BlockAddress::Sealed(uuid, lsn) => (uuid, lsn),
        };
        let held: BTreeSet<_> =
            stream.held_in_logs().into_iter().map(|(address, position)| (log(address), position)).collect();
        for (uuid, _, records) in world.disks.contents().map_err(|error| error.to_string())? {
            let is_void = |epoch: StreamEpoch| void.iter().any(|void| void.epoch == epoch);
            for record in records.iter().filter(|record| record.meta.stream == stream.id()) {
                let at = record.block.own_lsn().map(|lsn| ((uuid, lsn), record.position));
                let (id, epoch) = (stream.id(), record.meta.stream_epoch);
                if is_void(epoch) && at.is_some_and(|at| held.contains(&at)) {
                    let (base, node) = (record.meta.base_offset, life.0);
                    return Err(format!(
                        "node {node} opened stream {id} with offset {base} of epoch {epoch}, which is void"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Objects are committed by who holds the streams. Where a stream changed hands between the two images nothing can be said.
fn check_commits(before: &MetadataImage, image: &MetadataImage) -> Result<(), String> {
    for change in before.objects.diff(&image.objects) {
        let DiffItem::Add(id, object) = change else { continue };
        let writer = (object.node, object.node_epoch);
        for slice in object.slices.iter().filter(|slice| slice.committed) {
            let stream = slice.stream;
            let (Some(was), Some(is)) = (before.streams.get(&stream), image.streams.get(&stream)) else { continue };
            if was.epoch == is.epoch && is.owner != Some(writer) {
                let owner = is.owner;
                return Err(format!(
                    "object {id} of {writer:?} was committed to stream {stream}, which {owner:?} holds"
                ));
            }
        }
    }
    Ok(())
}

/// How long a broker must have had its lease before its log must not be sealed: longer than anything is under way.
const SETTLED: Duration = Duration::from_secs(1);

/// What must hold when the log `uuid` was sealed without its owner's end: its owner has no lease. Controllers who know that they lead
/// grant none for long before. Says nothing where a clock is wrong, or where what was decided long ago may be done now.
#[must_use]
pub fn sealed_early(world: &World, uuid: Uuid) -> Option<String> {
    if world.judge.may_be_stale() || world.may_be_late() {
        return None;
    }
    let (node, broker) = world.brokers().find(|(_, broker)| broker.wal.uuid() == uuid)?;
    let since = world.watch.lock().leased_since(&broker)?;
    (world.trace.now() >= since + SETTLED)
        .then(|| format!("log {uuid} was sealed, though node {node} has had a lease since {since:?}"))
}
