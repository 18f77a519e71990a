//! Takes over what sealed logs of others hold of the streams this broker owns: indexes alone, payloads stay where they are until
//! somebody reads or uploads them.
//!
//! Invariant (docs/architecture.md §12): a stream with a tail in a sealed log opens only after that log was adopted here, and
//! ends at or above that tail.

use std::collections::HashMap;
use std::sync::Arc;

use common::{NodeId, Offset, StreamId};
use metadata::{MetadataImage, WalState};
use parking_lot::Mutex;
use s3stream::StreamStore;
use uuid::Uuid;
use wal::{SealedLog, WalLocation};

/// See the module.
pub(crate) struct Adopter {
    node: NodeId,
    streams: Arc<StreamStore>,
    logs: Mutex<HashMap<Uuid, Arc<SealedLog>>>,
}

impl Adopter {
    pub(crate) fn new(node: NodeId, streams: Arc<StreamStore>) -> Self {
        Self { node, streams, logs: Mutex::default() }
    }

    /// Adopts every sealed log that holds a tail of a stream this node leads. Those that cannot be read now are told, and
    /// their streams are not ready: see [`Self::tail_end`]. Cheap when there is none.
    pub(crate) async fn adopt(&self, image: &Arc<MetadataImage>) {
        let owns = |stream: &StreamId| {
            let partition = image.streams.get(stream).and_then(|stream| image.partition_of(stream));
            partition.is_some_and(|partition| partition.leader == self.node)
        };
        for (uuid, wal) in &image.wals {
            let WalState::Sealed { end, pending } = &wal.state else {
                self.logs.lock().remove(uuid);
                continue;
            };
            if !pending.keys().any(owns) {
                continue;
            }
            let known = self.logs.lock().get(uuid).cloned();
            let opened = match known {
                Some(log) => Ok(log),
                None => open(*uuid, &wal.location, *end).await,
            };
            let adopted = opened.and_then(|log| {
                self.streams.adopt(&log, &|stream| owns(&stream)).map_err(|error| error.to_string()).map(|()| log)
            });
            match adopted {
                Ok(log) => drop(self.logs.lock().insert(*uuid, log)),
                Err(error) => {
                    tracing::error!(%uuid, location = %wal.location, error, "a sealed write-ahead log cannot be adopted; trying again")
                }
            }
        }
        self.logs.lock().retain(|uuid, _| image.wals.contains_key(uuid));
    }

    /// The offset (exclusive) up to which a stream has records in sealed logs, or why it must not be opened yet.
    pub(crate) fn tail_end(&self, image: &MetadataImage, stream: StreamId) -> Result<Option<Offset>, String> {
        let mut tail = None;
        for (uuid, wal) in &image.wals {
            let WalState::Sealed { pending, .. } = &wal.state else { continue };
            let Some(end) = pending.get(&stream) else { continue };
            if !self.logs.lock().contains_key(uuid) {
                return Err(format!("the sealed write-ahead log {uuid} at {} is not adopted yet", wal.location));
            }
            tail = tail.max(Some(*end));
        }
        Ok(tail)
    }
}

async fn open(uuid: Uuid, location: &str, end: common::Lsn) -> Result<Arc<SealedLog>, String> {
    let location: WalLocation = location.parse()?;
    let opened = tokio::task::spawn_blocking(move || SealedLog::open(&location, uuid, end)).await;
    opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
