//! Opens partitions: one metadata command for all that wait, then their streams, some at a time. What cannot be opened
//! now (the store is down, metadata has no leader) is tried again, with growing pauses, and holds up nothing else.

use std::sync::Arc;
use std::time::Duration;

use common::supervisor::StopSignal;
use common::{StreamEpoch, StreamId};
use futures::StreamExt;
use metadata::{Command, Outcome};

use super::partitions::Inner;
use super::{Partition, Topic};

/// Streams in one metadata command.
const COMMAND_STREAMS_MAX: usize = 4096;
/// Partitions opened at a time.
const CONCURRENT_OPENINGS: usize = 64;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A partition to be opened.
pub(crate) struct Opening {
    pub(crate) topic: Arc<Topic>,
    pub(crate) index: i32,
    pub(crate) stream: StreamId,
}

pub(crate) async fn run(partitions: Arc<Inner>, mut stop: StopSignal) -> Result<(), std::convert::Infallible> {
    let mut pause = PAUSE_MIN;
    let mut again = false;
    loop {
        tokio::select! {
            () = stop.stopped() => return Ok(()),
            () = partitions.openings_added.notified() => {}
            () = tokio::time::sleep(pause), if again => pause = (pause * 2).min(PAUSE_MAX),
        }
        let mut waiting = std::mem::take(&mut *partitions.openings.lock());
        waiting.retain(|opening| partitions.wants(opening));
        // A partition that moved away and back while an attempt failed is listed twice.
        waiting.sort_by_key(|opening| opening.stream);
        waiting.dedup_by_key(|opening| opening.stream);
        let failed = tokio::select! {
            () = stop.stopped() => return Ok(()),
            failed = open_all(&partitions, waiting) => failed,
        };
        partitions.tried_all();
        again = !failed.is_empty();
        if !again {
            pause = PAUSE_MIN;
        }
        partitions.openings.lock().extend(failed);
    }
}

/// Opens what it can; returns what must be tried again.
async fn open_all(partitions: &Arc<Inner>, mut waiting: Vec<Opening>) -> Vec<Opening> {
    let mut failed = Vec::new();
    while !waiting.is_empty() {
        let rest = waiting.split_off(waiting.len().min(COMMAND_STREAMS_MAX));
        let batch = std::mem::replace(&mut waiting, rest);
        let epochs = match open_streams(partitions, &batch).await {
            Ok(epochs) => epochs,
            Err(error) => {
                tracing::warn!(partitions = batch.len(), error, "metadata did not open the partitions; trying again");
                failed.extend(batch);
                continue;
            }
        };
        // A stream without an epoch was deleted, or moved to another node: the image will tell.
        let granted = batch.into_iter().zip(epochs).filter_map(|(opening, epoch)| Some((opening, epoch?)));
        let openings = granted.map(|(opening, epoch)| open_one(partitions, opening, epoch));
        let outcomes: Vec<_> = futures::stream::iter(openings).buffer_unordered(CONCURRENT_OPENINGS).collect().await;
        failed.extend(outcomes.into_iter().flatten());
    }
    failed
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

/// Opens one partition; gives it back if that must be tried again.
async fn open_one(partitions: &Arc<Inner>, opening: Opening, epoch: StreamEpoch) -> Option<Opening> {
    let index = usize::try_from(opening.index).ok()?;
    let leader_epoch = {
        let image = partitions.parts.metadata.image();
        image.topics.get(&opening.topic.id)?.partitions.get(index)?.leader_epoch
    };
    let stream = match partitions.parts.streams.open(opening.stream, epoch) {
        Ok(stream) => stream,
        // Deleted, reopened since, or damaged: another attempt under this epoch would not change that.
        Err(error) => {
            tracing::error!(topic = %opening.topic.name, partition = opening.index, %error, "the partition's stream is not opened");
            return None;
        }
    };
    let environment = Arc::clone(&partitions.environment);
    match Partition::open(environment, Arc::clone(&opening.topic), opening.index, leader_epoch, stream).await {
        Ok(partition) => {
            partitions.opened(partition);
            None
        }
        Err(error) => {
            tracing::warn!(topic = %opening.topic.name, partition = opening.index, %error, "cannot open the partition yet; trying again");
            Some(opening)
        }
    }
}
