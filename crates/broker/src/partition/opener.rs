//! Opens partitions: one metadata command for all that wait, then their streams, some at a time. Those that the log alone
//! opens come first and never wait for one that needs the store. What cannot be opened now (the store is down, metadata
//! has no leader) is tried again, with growing pauses, and holds up nothing else.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::{StreamEpoch, StreamId};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use metadata::{Command, Outcome};
use s3stream::Stream;

use super::partitions::Inner;
use super::{Partition, Topic};

/// Streams in one metadata command.
const COMMAND_STREAMS_MAX: usize = 4096;
/// Partitions opened at a time.
const CONCURRENT_OPENINGS: usize = 64;
/// A partition that stays offline is told of whenever so many more attempts have failed.
const TELL_EVERY: u32 = 16;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A partition to be opened.
pub(crate) struct Opening {
    pub(crate) topic: Arc<Topic>,
    pub(crate) index: i32,
    pub(crate) stream: StreamId,
    /// How often it has failed.
    pub(crate) failures: u32,
}

impl Opening {
    /// Counts a failure and tells it: each of the first ones, later one in some minutes.
    fn failed(&mut self, error: &dyn std::fmt::Display) {
        self.failures += 1;
        if self.failures < 5 || self.failures.is_multiple_of(TELL_EVERY) {
            let (topic, partition, failures) = (&self.topic.name, self.index, self.failures);
            tracing::error!(%topic, partition, failures, %error, "the partition is offline, clients are told to retry; trying again");
        }
    }
}

/// An opening whose stream is open.
struct Granted {
    opening: Opening,
    leader_epoch: i32,
    stream: Arc<Stream>,
}

pub(crate) async fn run(partitions: Arc<Inner>) -> Infallible {
    let partitions = &partitions;
    let mut pause = PAUSE_MIN;
    // What needs the store, which may not answer for long: waiting for its turn, under way, and the streams of both.
    let mut queue: VecDeque<Granted> = VecDeque::new();
    let mut under_way = FuturesUnordered::new();
    let mut busy: HashSet<StreamId> = HashSet::new();
    loop {
        let is_waiting = !partitions.openings.lock().is_empty();
        let ended = tokio::select! {
            () = partitions.openings_added.notified() => None,
            () = tokio::time::sleep(pause), if is_waiting => {
                pause = (pause * 2).min(PAUSE_MAX);
                None
            }
            Some(ended) = under_way.next() => Some(ended),
        };
        if let Some((stream, failed)) = ended {
            busy.remove(&stream);
            partitions.openings.lock().extend(failed);
        } else {
            queue.extend(open_from_log(partitions, &busy).await);
            busy.extend(queue.iter().map(|granted| granted.opening.stream));
        }
        while under_way.len() < CONCURRENT_OPENINGS
            && let Some(granted) = queue.pop_front()
        {
            let stream = granted.opening.stream;
            under_way.push(async move { (stream, open_one(partitions, granted).await) });
        }
        if under_way.is_empty() {
            partitions.tried_all();
            if partitions.openings.lock().is_empty() {
                pause = PAUSE_MIN;
            }
        }
    }
}

/// Opens what the log alone opens; returns what needs the store. Those that must be tried again go back to the list.
async fn open_from_log(partitions: &Arc<Inner>, busy: &HashSet<StreamId>) -> Vec<Granted> {
    let mut waiting = std::mem::take(&mut *partitions.openings.lock());
    waiting.retain(|opening| partitions.wants(opening));
    // A partition that moved away and back while an attempt failed is listed twice.
    waiting.sort_by_key(|opening| opening.stream);
    waiting.dedup_by_key(|opening| opening.stream);
    let (mut failed, waiting): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|opening| busy.contains(&opening.stream));
    let mut granted = Vec::new();
    let streams: Vec<_> = waiting.iter().map(|opening| opening.stream).collect();
    partitions.parts.adopter.adopt(&partitions.parts.metadata.image(), &streams).await;
    let mut asked = Vec::new();
    for opening in waiting {
        let Some(epoch) = given_epoch(partitions, opening.stream) else {
            asked.push(opening);
            continue;
        };
        match grant(partitions, opening, epoch) {
            Ok(opened) => granted.extend(opened),
            Err(opening) => failed.push(opening),
        }
    }
    let mut waiting = asked;
    while !waiting.is_empty() {
        let rest = waiting.split_off(waiting.len().min(COMMAND_STREAMS_MAX));
        let batch = std::mem::replace(&mut waiting, rest);
        match open_streams(partitions, &batch).await {
            Ok(epochs) => {
                // A stream without an epoch was deleted, or moved to another node: the image will tell.
                for (opening, epoch) in
                    batch.into_iter().zip(epochs).filter_map(|(opening, epoch)| Some((opening, epoch?)))
                {
                    match grant(partitions, opening, epoch) {
                        Ok(opened) => granted.extend(opened),
                        Err(opening) => failed.push(opening),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(partitions = batch.len(), error, "metadata did not open the partitions; trying again");
                failed.extend(batch);
            }
        }
    }
    let (from_log, from_store): (Vec<_>, Vec<_>) =
        granted.into_iter().partition(|granted| granted.stream.opens_from_log());
    let openings = from_log.into_iter().map(|granted| open_one(partitions, granted));
    let outcomes: Vec<_> = futures::stream::iter(openings).buffer_unordered(CONCURRENT_OPENINGS).collect().await;
    failed.extend(outcomes.into_iter().flatten());
    partitions.openings.lock().extend(failed);
    from_store
}

/// The epoch that metadata gave this life of the node with the leadership, if it was not opened under that before.
fn given_epoch(partitions: &Inner, stream: StreamId) -> Option<StreamEpoch> {
    let parts = &partitions.parts;
    let image = parts.metadata.image();
    let known = image.streams.get(&stream)?;
    let is_new = parts.streams.epoch_of(stream).is_none_or(|opened| opened < known.epoch);
    (known.owner == Some((parts.node, parts.node_epoch)) && is_new).then_some(known.epoch)
}

async fn open_streams(partitions: &Inner, batch: &[Opening]) -> Result<Vec<Option<StreamEpoch>>, String> {
    let parts = &partitions.parts;
    let streams = batch.iter().map(|opening| opening.stream).collect();
    let command = Command::OpenStreams { node: parts.node, node_epoch: parts.node_epoch, streams };
    match parts.metadata.submit(command).await {
        Ok(Outcome::Opened { epochs }) if epochs.len() == batch.len() => Ok(epochs),
        Ok(other) => Err(format!("{other:?}")),
        // Whether or not it was applied, asking again gives epochs that are current.
        Err(error) => Err(error.to_string()),
    }
}

/// Opens the stream of one partition under its new epoch; gives the partition back if that must be tried again, and
/// nothing if it was deleted meanwhile.
fn grant(partitions: &Inner, mut opening: Opening, epoch: StreamEpoch) -> Result<Option<Granted>, Opening> {
    let image = partitions.parts.metadata.image();
    let partition = image.topics.get(&opening.topic.id).and_then(|topic| topic.partition(opening.index));
    let Some(leader_epoch) = partition.map(|partition| partition.leader_epoch) else { return Ok(None) };
    match partitions.parts.streams.open(opening.stream, epoch) {
        Ok(stream) => Ok(Some(Granted { opening, leader_epoch, stream })),
        // Damaged, or reopened since. Whoever repairs the log restarts the broker; until then this is told again.
        Err(error) => {
            opening.failed(&error);
            Err(opening)
        }
    }
}

/// Opens one partition; gives it back if that must be tried again.
async fn open_one(partitions: &Arc<Inner>, granted: Granted) -> Option<Opening> {
    let Granted { mut opening, leader_epoch, stream } = granted;
    let environment = Arc::clone(&partitions.environment);
    match Partition::open(environment, Arc::clone(&opening.topic), opening.index, leader_epoch, stream).await {
        Ok(partition) => {
            partitions.opened(partition);
            None
        }
        Err(error) => {
            opening.failed(&error);
            Some(opening)
        }
    }
}
