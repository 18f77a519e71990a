//! The upload task.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::{Lsn, ObjectId, Random};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::UploadError;
use super::plan::{PlannedObject, PlannedSlice, Source, identify, plan, split};
use crate::backoff::Backoff;
use crate::core::{Core, boot_ms};
use crate::object::put::{PutError, put};
use crate::ports::{CommitError, ObjectCommit, SliceOutcome};
use crate::registry::Registry;

/// Object ids leased at a time.
const IDS_PER_LEASE: u32 = 256;
/// Puts of one upload in flight together.
const PUTS_IN_FLIGHT: usize = 4;
/// How long to wait when an upload is due but nothing is durable yet.
const NOT_DURABLE_WAIT: Duration = Duration::from_millis(5);
/// How long to wait when all that is due lies in a sealed log that cannot be read.
const NOT_READABLE_WAIT: Duration = Duration::from_millis(100);
/// How long to wait before data goes into a new object that metadata has refused without a reason.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

/// Why an upload was given up before its commit.
enum NotPut {
    /// It is to be planned anew.
    Outdated,
    /// A sealed log cannot be read.
    Unreadable(UploadError),
}

/// See the module.
pub(crate) struct Uploader {
    core: Arc<Core>,
    registry: Arc<Registry>,
    random: Arc<dyn Random>,
    ids: std::ops::Range<u64>,
    /// Sealed logs could not be read: not before then, boot ms.
    sealed_after_ms: u64,
    sealed_backoff: Backoff,
}

impl Uploader {
    pub(crate) fn new(core: Arc<Core>, registry: Arc<Registry>, random: Arc<dyn Random>) -> Self {
        Self { core, registry, random, ids: 0..0, sealed_after_ms: 0, sealed_backoff: Backoff::default() }
    }

    /// Works until dropped. What is in flight then is in the log.
    pub(crate) async fn run(mut self) -> Infallible {
        loop {
            self.wait_due().await;
            let requested = self.core.backlog.take_request();
            if requested {
                self.wait_durable().await;
            }
            let durable = self.core.wal.durable().get();
            let uploaded = self.upload_below(durable).await;
            self.registry.settle(&self.core);
            self.core.backlog.restart_age(self.core.clock.as_ref());
            self.core.backlog.committed.notify_waiters();
            if !uploaded {
                let wait = if self.sealed_due() { NOT_DURABLE_WAIT } else { NOT_READABLE_WAIT };
                tokio::time::sleep(wait).await;
            }
        }
    }

    async fn wait_due(&self) {
        let core = &self.core;
        loop {
            let wanted = core.backlog.wanted.notified();
            let bytes = core.backlog.bytes();
            let age_left =
                core.backlog.age_ms(core.clock.as_ref()).map(|age| core.settings.upload_age_ms.saturating_sub(age));
            let due = bytes >= core.settings.upload_bytes || age_left == Some(0) || core.under_pressure();
            if core.backlog.is_requested() || (bytes > 0 && due) {
                return;
            }
            if core.under_pressure() {
                // Nothing to upload, but the log may hold what was uploaded or dropped.
                self.registry.settle(core);
            }
            match age_left {
                Some(left) => {
                    // Woken by the next append that reaches a bound, or when the age is due.
                    let _ = tokio::time::timeout(Duration::from_millis(left), wanted).await;
                }
                None => wanted.await,
            }
        }
    }

    /// Waits for everything appended so far; a failed log ends the wait, for nothing more will be durable.
    async fn wait_durable(&self) {
        let newest = |stream: &Arc<crate::Stream>| stream.state.lock().tail.newest_lsn();
        if let Some(end) = self.registry.streams().iter().filter_map(newest).max() {
            let _ = self.core.wal.durable().wait(end).await;
        }
    }

    /// Uploads everything below `durable`, piece by piece, and what was adopted. Whether there was anything.
    async fn upload_below(&mut self, durable: Lsn) -> bool {
        let mut any = false;
        loop {
            let own = self.upload_from(Source::Own { durable }).await;
            let sealed = self.sealed_due() && self.upload_from(Source::Sealed).await;
            if !own && !sealed {
                return any;
            }
            any = true;
        }
    }

    /// Whether there was anything that could be read.
    async fn upload_from(&mut self, source: Source) -> bool {
        let slices = plan(&self.core, &self.registry.streams(), source);
        if slices.is_empty() {
            return false;
        }
        let objects = match self.put_all(slices, source).await {
            Ok(objects) => objects,
            Err(NotPut::Outdated) => return true,
            // The log may have been let go because others committed what it held.
            Err(NotPut::Unreadable(_)) if self.registry.abandon_gone(&self.core) => return true,
            Err(NotPut::Unreadable(error)) => {
                let wait = self.sealed_backoff.next(self.random.as_ref());
                self.sealed_after_ms = boot_ms(self.core.clock.as_ref()) + wait.as_millis() as u64;
                tracing::error!(
                    %error, ?wait,
                    "acknowledged records cannot be read from a sealed log that was adopted: they are not uploaded, and \
                     the log is not given up. Restore its volume; no record is given up"
                );
                return false;
            }
        };
        if source == Source::Sealed {
            self.sealed_backoff = Backoff::default();
        }
        let outcomes = self.commit(&objects).await;
        let settled = self.apply(&objects, &outcomes);
        self.registry.settle(&self.core);
        self.core.backlog.committed.notify_waiters();
        if !settled {
            tokio::time::sleep(REFUSED_WAIT).await;
        }
        true
    }

    fn sealed_due(&self) -> bool {
        boot_ms(self.core.clock.as_ref()) >= self.sealed_after_ms
    }

    async fn put_all(&mut self, slices: Vec<PlannedSlice>, source: Source) -> Result<Vec<PlannedObject>, NotPut> {
        let groups = split(slices);
        let ids = self.lease(groups.len()).await;
        let objects = identify(&self.core, groups, &ids);
        let this = &*self;
        stream::iter(objects).map(|object| this.put_one(object, source)).buffered(PUTS_IN_FLIGHT).try_collect().await
    }

    async fn put_one(&self, mut object: PlannedObject, source: Source) -> Result<PlannedObject, NotPut> {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.try_put(&mut object).await {
                Ok(()) => return Ok(object),
                Err(error) => error,
            };
            if matches!(error, UploadError::Put(PutError::Taken)) {
                object.descriptor.attempt += 1;
            }
            if matches!(error, UploadError::Log(_)) {
                if object.is_outdated() {
                    return Err(NotPut::Outdated);
                } else if source == Source::Sealed {
                    return Err(NotPut::Unreadable(error));
                }
            }
            let wait = backoff.next(self.random.as_ref());
            let id = object.descriptor.id;
            if let UploadError::Log(_) = error {
                tracing::error!(
                    object = %id, %error, ?wait,
                    "acknowledged records cannot be read back from the write-ahead log: they are not uploaded, nothing is \
                     trimmed, and produce is refused once the log is full. Restore the log's volume; no record is given up"
                );
            } else {
                tracing::warn!(object = %id, %error, ?wait, "an upload did not get through, the log keeps it");
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn try_put(&self, object: &mut PlannedObject) -> Result<(), UploadError> {
        let built = object.build(&self.core).await?;
        Ok(put(&self.core, built).await?)
    }

    async fn lease(&mut self, count: usize) -> Vec<ObjectId> {
        let mut ids = Vec::with_capacity(count);
        let mut backoff = Backoff::default();
        while ids.len() < count {
            if let Some(id) = self.ids.next() {
                ids.push(ObjectId(id));
                continue;
            }
            match self.core.object_manager.lease_object_ids(IDS_PER_LEASE).await {
                Ok(first) => self.ids = first.0..first.0 + u64::from(IDS_PER_LEASE),
                Err(error) => self.wait_for_metadata(&mut backoff, &error).await,
            }
        }
        ids
    }

    async fn commit(&self, objects: &[PlannedObject]) -> Vec<SliceOutcome> {
        let commit = ObjectCommit {
            node: self.core.settings.node,
            node_epoch: self.core.settings.node_epoch,
            objects: objects
                .iter()
                .map(|object| (object.descriptor, object.slices.iter().map(PlannedSlice::commit).collect()))
                .collect(),
            replaces: Vec::new(),
        };
        let mut backoff = Backoff::default();
        loop {
            // A commit is idempotent by its objects, so an unknown outcome is asked for in the same words.
            let error: CommitError = match self.core.object_manager.commit(commit.clone()).await {
                Ok(outcomes) => return outcomes,
                Err(error) => error,
            };
            self.wait_for_metadata(&mut backoff, &error).await;
        }
    }

    async fn wait_for_metadata(&self, backoff: &mut Backoff, error: &(dyn std::error::Error + Sync)) {
        let wait = backoff.next(self.random.as_ref());
        tracing::warn!(%error, ?wait, "metadata did not take an upload, the log keeps it");
        tokio::time::sleep(wait).await;
    }

    /// Tells the streams. Whether every refusal was understood.
    fn apply(&self, objects: &[PlannedObject], outcomes: &[SliceOutcome]) -> bool {
        let mut settled = true;
        let slices = objects.iter().flat_map(|object| &object.slices);
        // An outcome that is missing is treated as a refusal, which looks at metadata before it drops anything.
        let outcomes = outcomes.iter().copied().chain(std::iter::repeat(SliceOutcome::Stale));
        for (slice, outcome) in slices.zip(outcomes) {
            match outcome {
                SliceOutcome::Committed => self.registry.committed(&self.core, slice),
                SliceOutcome::Stale => settled &= self.registry.refused(&self.core, slice),
            }
        }
        settled
    }
}
