//! Tests of the whole stream layer on in-memory log, metadata and store.

mod adopt;
mod anchors;
mod basic;
mod cluster;
mod files;
mod model;
mod orphans;

use std::sync::Arc;
use std::time::Duration;

use common::supervisor::Supervisor;
use common::{NodeEpoch, NodeId, Offset, SeededRandom, StreamId, SystemClock};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::testing::{MemoryLog, MemoryMetadata};
use crate::{AppendRequest, Parts, Settings, Stream, StreamStore};

/// A stream store whose log, metadata and objects survive its crashes.
pub(crate) struct Rig {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) metadata: Arc<MemoryMetadata>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) store: Arc<StreamStore>,
    pub(crate) settings: Settings,
    supervisor: Supervisor,
}

pub(crate) fn settings() -> Settings {
    Settings {
        node: NodeId(1),
        node_epoch: NodeEpoch(1),
        prefix: "test".to_owned(),
        upload_bytes: u64::MAX / 4,
        upload_age_ms: u64::MAX / 4,
        log_cache_bytes: 1 << 20,
        block_cache_bytes: 16 << 20,
        tail_index_bytes: 1 << 20,
    }
}

impl Rig {
    pub(crate) fn new(log: MemoryLog, settings: Settings) -> Self {
        Self::on(Arc::new(InMemory::new()), log, settings)
    }

    pub(crate) fn on(objects: Arc<dyn ObjectStore>, log: MemoryLog, settings: Settings) -> Self {
        let metadata = Arc::new(MemoryMetadata::default());
        Self::start(objects, Arc::new(log), wal::Recovered::default(), metadata, settings)
    }

    fn start(
        objects: Arc<dyn ObjectStore>,
        log: Arc<MemoryLog>,
        recovered: wal::Recovered,
        metadata: Arc<MemoryMetadata>,
        settings: Settings,
    ) -> Self {
        let supervisor = Supervisor::default();
        metadata.register(settings.node, settings.node_epoch);
        let parts = Parts {
            wal: log.clone(),
            recovered,
            objects: objects.clone(),
            stream_manager: metadata.clone(),
            object_manager: metadata.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SeededRandom::new(7)),
            supervisor: supervisor.clone(),
        };
        let store = StreamStore::start(settings.clone(), parts).expect("starts");
        Self { log, metadata, objects, store, settings, supervisor }
    }

    /// Kills the store and starts another one on what the log kept.
    pub(crate) async fn crash(self) -> Self {
        self.supervisor.stop(Duration::ZERO).await;
        let (log, recovered) = self.log.crash();
        let mut settings = self.settings;
        settings.node_epoch.0 += 1;
        Self::start(self.objects, Arc::new(log), recovered, self.metadata, settings)
    }

    pub(crate) fn open(&self, stream: u64) -> Arc<Stream> {
        let stream = StreamId(stream);
        self.metadata.create_stream(stream);
        let epoch = self.metadata.open_stream(stream);
        self.store.open(stream, epoch).expect("opens")
    }
}

/// Appends a record of `count` offsets with `payload`.
pub(crate) fn append(stream: &Stream, count: i64, payload: &[u8]) {
    let base = stream.next_offset();
    let request = AppendRequest {
        base_offset: base,
        next_offset: base.plus(count),
        max_timestamp_ms: 1000 + base.0,
        tag: [base.0 as u8; wal::TAG_BYTES],
    };
    stream.append(&request, payload, &mut |_| ()).expect("appends");
}

pub(crate) fn offset(value: i64) -> Offset {
    Offset(value)
}
