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

    /// Adopts every sealed log that holds a tail of a stream which this node leads and is about to open (`opening`). One that
    /// cannot be read now is told of, and tried again by the next call; its streams do not open until then. A log is read
    /// only if that brings something: whoever opens partitions asks at every change of metadata.
    pub(crate) async fn adopt(&self, image: &Arc<MetadataImage>, opening: &[StreamId]) {
        self.opened.lock().retain(|uuid, _| image.wals.contains_key(uuid));
        for (uuid, wal) in &image.wals {
            let WalState::Sealed { end, pending } = &wal.state else { continue };
            let is_wanted = |stream: &StreamId| {
                pending.contains_key(stream)
                    && image.leader_of(*stream) == Some(self.node)
                    && self.streams.lacks(*uuid, *stream)
            };
            if opening.iter().any(is_wanted)
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
        let adopted = blocking(move || streams.adopt(&adopting, &|stream| image.leader_of(stream) == Some(node)));
        adopted.await.map_err(|error| error.to_string())?;
        self.opened.lock().insert(uuid, log);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use common::Offset;
    use metadata::{WalClass, image::WalImage};
    use s3stream::sealed_tails;
    use wal::{Block, BoxFuture, OpenError, ReadError, RecordRef, SealedSource, SystemLogs};

    use super::*;
    use crate::api::cluster_image;
    use crate::partition::tests::rig::{Rig, STREAM, accepted, plain};

    /// Counts how often the log is read.
    struct Counted {
        log: Arc<SealedLog>,
        reads: Arc<AtomicU32>,
    }

    impl SealedSource for Counted {
        fn records(&self) -> Result<Vec<RecordRef>, OpenError> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            self.log.records()
        }

        fn read_block(&self, lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
            Box::pin(async move { Err(ReadError::NotFound(lsn)) })
        }
    }

    /// While its tail is not uploaded yet, which can last as long as the store is away, metadata changes many times a second.
    #[tokio::test]
    async fn a_sealed_log_is_read_once_for_an_opening() {
        let (dead, rig) = (Rig::durable(), Rig::durable());
        let partition = dead.open().await;
        accepted(&partition, &plain(3));
        dead.supervisor.stop(std::time::Duration::ZERO).await;
        let sealed = dead.log.sealed(Arc::new(AtomicBool::new(true)));
        rig.metadata.seal(&sealed_tails(&sealed, &*dead.metadata).expect("reads"));
        rig.metadata.open_stream(STREAM);
        let epoch = rig.metadata.open_stream(STREAM);

        let (uuid, end, reads) = (sealed.uuid(), sealed.end(), Arc::new(AtomicU32::new(0)));
        let counted = SealedLog::over(uuid, end, Box::new(Counted { log: sealed, reads: Arc::clone(&reads) }));
        let replicas = [&[1_i32][..]; STREAM.0 as usize];
        let mut image = cluster_image::image(&replicas);
        let pending = [(STREAM, Offset(3))].into_iter().collect();
        let state = WalState::Sealed { end, pending };
        let wal = WalImage { node: NodeId(2), class: WalClass::Shared, location: "file:///gone".into(), state };
        image.wals.insert(uuid, wal);
        let image = Arc::new(image);

        let adopter = Adopter::new(NodeId(1), Arc::new(SystemLogs), Arc::clone(&rig.store));
        adopter.opened.lock().insert(uuid, counted);
        adopter.adopt(&image, &[]).await;
        adopter.adopt(&image, &[StreamId(1)]).await;
        assert_eq!(reads.load(Ordering::SeqCst), 0, "nothing that is opened lies there");
        for _ in 0..2 {
            adopter.adopt(&image, &[STREAM]).await;
            assert_eq!(reads.load(Ordering::SeqCst), 1, "its records wait for the opening");
        }
        assert_eq!(rig.store.open(STREAM, epoch).expect("opens").next_offset(), Offset(3));
        adopter.adopt(&image, &[STREAM]).await;
        assert_eq!(reads.load(Ordering::SeqCst), 1, "it is open");
    }
}
