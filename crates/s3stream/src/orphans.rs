//! Objects of lives that ended before metadata was restored from a copy, and that are part of no stream. The collector leaves
//! them alone, for they may be all that is left of something; an operator may look at them, and delete them.

use common::{NodeEpoch, ObjectId};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _};

use crate::StreamStore;
use crate::object::key::{epoch_folder, objects_folder, parse_key};

/// Orphans that one look tells by name.
const NAMED_MAX: usize = 1000;
/// Objects deleted side by side.
const DELETES_AT_ONCE: usize = 16;

/// An object that is part of no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Where it lies.
    pub key: Path,
    /// Its size.
    pub bytes: u64,
    /// Wall time at which it was put, in ms.
    pub put_ms: i64,
}

/// What one look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Some of them, or all.
    pub named: Vec<Orphan>,
    /// How many there are.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl StreamStore {
    /// Lives below `below` of which the store has objects.
    ///
    /// # Errors
    /// The store fails.
    pub async fn epochs_in_store(&self, below: NodeEpoch) -> Result<Vec<NodeEpoch>, Error> {
        let listed = self.core.objects.list_with_delimiter(Some(&objects_folder(&self.core.settings.prefix))).await?;
        let epoch = |folder: &Path| folder.parts().next_back()?.as_ref().parse().ok().map(NodeEpoch);
        let mut epochs: Vec<_> = listed.common_prefixes.iter().filter_map(epoch).filter(|one| *one < below).collect();
        epochs.sort();
        Ok(epochs)
    }

    /// Objects of the life `epoch` that were put before `before_ms` and are not committed.
    ///
    /// # Errors
    /// The store fails.
    pub async fn orphans(
        &self,
        epoch: NodeEpoch,
        before_ms: i64,
        is_committed: impl Fn(ObjectId, u32) -> bool,
    ) -> Result<Orphans, Error> {
        let prefix = &self.core.settings.prefix;
        let mut listing = self.core.objects.list(Some(&epoch_folder(prefix, epoch)));
        let mut found = Orphans::default();
        while let Some(object) = listing.try_next().await? {
            let put_ms = object.last_modified.timestamp_millis();
            let parsed = parse_key(prefix, &object.location).filter(|(of, ..)| *of == epoch);
            let is_orphan = parsed.is_some_and(|(_, id, attempt)| !is_committed(id, attempt));
            if !is_orphan || put_ms >= before_ms {
                continue;
            }
            found.count += 1;
            found.bytes += object.size;
            if found.named.len() < NAMED_MAX {
                found.named.push(Orphan { key: object.location, bytes: object.size, put_ms });
            }
        }
        Ok(found)
    }

    /// Deletes orphans that a look has named.
    ///
    /// # Errors
    /// The store fails; some may be deleted.
    pub async fn delete_orphans(&self, orphans: &[Orphan]) -> Result<(), Error> {
        let delete = async |orphan: &Orphan| match self.core.objects.delete(&orphan.key).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        };
        futures::stream::iter(orphans.iter().map(delete)).buffer_unordered(DELETES_AT_ONCE).try_collect().await
    }
}
