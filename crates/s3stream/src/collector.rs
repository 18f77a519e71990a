//! The collector: deletes objects that nothing references any more. Metadata says which; each is deleted only a
//! grace after it was first seen there, so that reads that were under way have ended, and forgotten only after
//! the store has confirmed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::ObjectId;
use common::supervisor::StopSignal;
use object_store::{Error, ObjectStoreExt};

use crate::core::{Core, boot_ms};
use crate::object::key::object_key;

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time between losing the last reference and deletion, ms: longer than any read takes.
const GRACE_MS: u64 = 60_000;
/// Objects looked at in one pass.
const OBJECTS_PER_PASS: usize = 256;

/// See the module.
pub(crate) struct Collector {
    core: Arc<Core>,
    /// When each was first seen, boot ms. Only objects of the newest pass.
    seen: BTreeMap<ObjectId, u64>,
}

impl Collector {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, seen: BTreeMap::new() }
    }

    /// Runs until told to stop.
    pub(crate) async fn run(mut self, mut stop: StopSignal) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => return Ok(()),
                () = async {
                    tokio::time::sleep(INTERVAL).await;
                    self.pass(GRACE_MS).await;
                } => {}
            }
        }
    }

    /// Deletes what was seen `grace_ms` ago. Failures are left for the next pass.
    pub(crate) async fn pass(&mut self, grace_ms: u64) {
        let now = boot_ms(self.core.clock.as_ref());
        let destroyed = self.core.object_manager.destroyed(OBJECTS_PER_PASS);
        let mut seen = BTreeMap::new();
        let mut gone = Vec::new();
        for object in destroyed {
            let since = self.seen.get(&object.id).copied().unwrap_or(now);
            seen.insert(object.id, since);
            if now.saturating_sub(since) < grace_ms {
                continue;
            }
            match self.core.objects.delete(&object_key(&self.core.settings.prefix, &object)).await {
                Ok(()) | Err(Error::NotFound { .. }) => gone.push(object.id),
                Err(error) => {
                    tracing::warn!(object = %object.id, %error, "an object could not be deleted, it is tried again");
                    break;
                }
            }
        }
        self.seen = seen;
        if gone.is_empty() {
            return;
        }
        if let Err(error) = self.core.object_manager.forget(gone).await {
            tracing::warn!(%error, "metadata did not forget deleted objects, they are deleted again");
        }
    }
}
