//! The collector: deletes objects that nothing references any more. [`crate::ports::ObjectManager::destroyed`] names each
//! when reads that were under way have ended; a read that comes later all the same finds it gone and looks for the range
//! anew. It is forgotten only after the store has confirmed. No grace is counted here: a broker that dies
//! again and again would never get to its end, and its objects would stay.
//!
//! Now and then it also looks through the store for orphans: objects that were put and never committed, because the
//! broker was killed in between. An id is revoked by the end of the life that leased it: metadata refuses commits of a
//! node epoch that is not current, and epochs only grow. So an object of an ended epoch that is not committed never
//! will be, nobody ever reads it, and it is deleted without a grace. What a late writer of that epoch still puts is
//! found by the next look; what the current life leaves behind, by the first look of the next life.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::{Error, ObjectStoreExt};

use crate::core::Core;
use crate::object::key::{object_key, objects_folder, parse_key};

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(10);
/// Objects looked at in one pass.
const OBJECTS_PER_PASS: usize = 256;
/// The first look for orphans comes after this many passes, the next ones after so many more: an hour.
const ORPHANS_FIRST_PASS: u64 = 6;
const ORPHANS_PASSES: u64 = 360;
/// Objects listed before a pause: a look through a large store is no load to speak of.
const LISTED_AT_ONCE: usize = 1000;
const LISTING_PAUSE: Duration = Duration::from_millis(200);

/// See the module.
pub(crate) struct Collector {
    core: Arc<Core>,
}

impl Collector {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Works until dropped.
    pub(crate) async fn run(self) {
        for pass in 1_u64.. {
            tokio::time::sleep(INTERVAL).await;
            self.pass().await;
            if pass % ORPHANS_PASSES == ORPHANS_FIRST_PASS {
                self.collect_orphans().await;
            }
        }
    }

    /// Looks through the store and deletes orphans. Failures are left for the next look.
    pub(crate) async fn collect_orphans(&self) {
        let (core, prefix) = (&self.core, &self.core.settings.prefix);
        let mut listing = core.objects.list(Some(&objects_folder(prefix))).enumerate();
        let mut deleted = 0_u64;
        while let Some((number, listed)) = listing.next().await {
            if number % LISTED_AT_ONCE == LISTED_AT_ONCE - 1 {
                tokio::time::sleep(LISTING_PAUSE).await;
            }
            let key = match listed {
                Ok(object) => object.location,
                Err(error) => {
                    tracing::warn!(%error, "the search for orphan objects ends early, it is repeated later");
                    break;
                }
            };
            let is_orphan = |(epoch, id, attempt)| core.object_manager.is_orphan(epoch, id, attempt);
            if !parse_key(prefix, &key).is_some_and(is_orphan) {
                continue;
            }
            match core.objects.delete(&key).await {
                Ok(()) | Err(Error::NotFound { .. }) => deleted += 1,
                Err(error) => tracing::warn!(%key, %error, "an orphan object could not be deleted, it is tried again"),
            }
        }
        if deleted > 0 {
            tracing::info!(deleted, "deleted objects that were put and never committed");
        }
    }

    /// Deletes what may be deleted now. Failures are left for the next pass.
    pub(crate) async fn pass(&self) {
        let mut gone = Vec::new();
        for object in self.core.object_manager.destroyed(OBJECTS_PER_PASS) {
            match self.core.objects.delete(&object_key(&self.core.settings.prefix, &object)).await {
                Ok(()) | Err(Error::NotFound { .. }) => gone.push(object.id),
                Err(error) => {
                    tracing::warn!(object = %object.id, %error, "an object could not be deleted, it is tried again");
                    break;
                }
            }
        }
        if gone.is_empty() {
            return;
        }
        if let Err(error) = self.core.object_manager.forget(gone).await {
            tracing::warn!(%error, "metadata did not forget deleted objects, they are deleted again");
        }
    }
}
