//! One prefix, one cluster: a marker object that is created conditionally holds the cluster's id.

use futures::StreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

/// Name of the marker under the prefix.
const MARKER: &str = "cluster.id";
/// No cluster id is longer; a longer marker is somebody else's file.
const MARKER_BYTES_MAX: u64 = 256;

/// How a prefix came to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It was empty, and is ours from now on.
    Fresh,
    /// It was ours before.
    Known,
}

/// Why a prefix cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It belongs to another cluster.
    #[error(
        "{place} belongs to cluster {owner}, this is cluster {ours}: give this cluster an empty prefix of its own, \
         or start it on the metadata directory of cluster {owner}"
    )]
    Foreign {
        /// Store and prefix.
        place: String,
        /// Whose it is.
        owner: String,
        /// Who we are.
        ours: String,
    },
    /// It holds objects that no marker speaks for.
    #[error(
        "{place} holds {found}, but no marker says to which cluster it belongs: give this cluster an empty prefix, \
         or move those objects away"
    )]
    Used {
        /// Store and prefix.
        place: String,
        /// An object that was found.
        found: String,
    },
    /// The store failed; whether the prefix is ours is not known.
    #[error("cannot claim {place}: {source}")]
    Store {
        /// Store and prefix.
        place: String,
        /// What it said.
        source: Error,
    },
}

/// Claims a whole store, which may itself stand for a prefix of a bucket. See [`claim_prefix`].
pub async fn claim(store: &dyn ObjectStore, cluster_id: &str) -> Result<Claimed, ClaimError> {
    claim_prefix(store, "", cluster_id).await
}

/// Claims `prefix` for the cluster, or finds that it is claimed already. Safe to repeat, and when several nodes of
/// one cluster do it together.
///
/// A broker whose metadata says that the prefix was claimed before may start although this fails with
/// [`ClaimError::Store`].
pub async fn claim_prefix(store: &dyn ObjectStore, prefix: &str, cluster_id: &str) -> Result<Claimed, ClaimError> {
    let folder = Path::from(prefix);
    let marker = folder.clone().join(MARKER);
    let place = || format!("{store}, prefix \"{prefix}\",");
    let failed = |source| ClaimError::Store { place: place(), source };
    if let Some(owner) = read_marker(store, &marker).await.map_err(failed)? {
        return judge(owner, cluster_id, place());
    }
    if let Some(found) = store.list(Some(&folder)).next().await {
        let found = found.map_err(failed)?.location.to_string();
        // Another node of this cluster may have been faster, and uploading already.
        return match read_marker(store, &marker).await.map_err(failed)? {
            Some(owner) => judge(owner, cluster_id, place()),
            None => Err(ClaimError::Used { place: place(), found }),
        };
    }
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let payload = PutPayload::from(cluster_id.as_bytes().to_vec());
    match store.put_opts(&marker, payload, options).await {
        Ok(_) => Ok(Claimed::Fresh),
        // Whatever happened, the marker tells.
        Err(error) => match read_marker(store, &marker).await {
            Ok(Some(owner)) => judge(owner, cluster_id, place()),
            Ok(None) | Err(_) => Err(failed(error)),
        },
    }
}

fn judge(owner: String, ours: &str, place: String) -> Result<Claimed, ClaimError> {
    if owner == ours { Ok(Claimed::Known) } else { Err(ClaimError::Foreign { place, owner, ours: ours.to_owned() }) }
}

async fn read_marker(store: &dyn ObjectStore, marker: &Path) -> Result<Option<String>, Error> {
    match store.get(marker).await {
        Ok(got) if got.meta.size > MARKER_BYTES_MAX => Ok(Some("(not a cluster id)".to_owned())),
        Ok(got) => Ok(Some(String::from_utf8_lossy(&got.bytes().await?).trim().to_owned())),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
