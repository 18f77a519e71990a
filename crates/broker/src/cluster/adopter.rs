//! Takes over what sealed logs of others hold of the streams this broker leads: indexes alone, payloads stay where they are until
//! somebody reads or uploads them. That nothing is missing is seen to by whoever opens a stream
//! ([`s3stream::StreamMetadata`] says how far its records reach in sealed logs).

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Lsn, NodeId, StreamId, blocking};
use metadata::{MetadataImage, WalState};
use parking_lot::Mutex;
use s3stream::StreamStore;
use uuid::Uuid;
use wal::{Logs, SealedLog, WalLocation};

/// See the module.
pub(crate) struct Adopter {
    node: NodeId,
    logs: Arc<dyn Logs>,
    streams: Arc<StreamStore>,
    opened: Mutex<BTreeMap<Uuid, Arc<SealedLog>>>,
}

impl Adopter {
    pub(crate) fn new(node: NodeId, logs: Arc<dyn Logs>, streams: Arc<StreamStore>) -> Self {
        Self { node, logs, streams, opened: Mutex::default() }
    }

    /// Adopts every sealed log that holds a tail of a stream this node leads. One that cannot be read now is told of, and
    /// tried again by the next call; its streams do not open until then. Cheap when there is none.
    pub(crate) async fn adopt(&self, image: &Arc<MetadataImage>) {
        self.opened.lock().retain(|uuid, _| image.wals.contains_key(uuid));
        for (uuid, wal) in &image.wals {
            let WalState::Sealed { end, pending } = &wal.state else { continue };
            if pending.keys().any(|stream| leads(image, self.node, *stream))
                && let Err(error) = self.adopt_one(image, *uuid, &wal.location, *end).await
            {
                let location = &wal.location;
                tracing::error!(%uuid, %location, error, "a sealed write-ahead log cannot be adopted; trying again");
            }
        }
    }

    async fn adopt_one(&self, image: &Arc<MetadataImage>, uuid: Uuid, location: &str, end: Lsn) -> Result<(), String> {
        let location: WalLocation = location.parse()?;
        let known = self.opened.lock().get(&uuid).cloned();
        let log = match known {
            Some(log) => log,
            None => self.logs.open_sealed(location, uuid, end).await.map_err(|error| error.to_string())?,
        };
        let (image, node, streams) = (Arc::clone(image), self.node, Arc::clone(&self.streams));
        let adopting = Arc::clone(&log);
        let adopted = blocking(move || streams.adopt(&adopting, &|stream| leads(&image, node, stream)));
        adopted.await.map_err(|error| error.to_string())?;
        self.opened.lock().insert(uuid, log);
        Ok(())
    }
}

fn leads(image: &MetadataImage, node: NodeId, stream: StreamId) -> bool {
    image.leader_of(stream) == Some(node)
}
