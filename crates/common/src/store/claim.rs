//! A prefix belongs to one cluster: a marker object, created on condition that there is none, holds its
//! `cluster.id`.

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

/// Key of the marker below the store's prefix.
const MARKER: &str = "cluster.id";

/// Why a prefix cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It is another cluster's.
    #[error("the store belongs to cluster {owner}, this is cluster {own}: use another directory or prefix")]
    Foreign {
        /// `cluster.id` in the marker.
        owner: String,
        /// This cluster's.
        own: String,
    },
    /// The store failed; whether the marker was written is unknown, and asking again finds out.
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// Claims the store for `cluster_id`. Idempotent: a marker with the same id, from an earlier attempt whose answer was
/// lost, is this cluster's own.
pub async fn claim(store: &dyn ObjectStore, cluster_id: &str) -> Result<(), ClaimError> {
    let path = Path::from(MARKER);
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let payload = PutPayload::from(cluster_id.as_bytes().to_vec());
    match store.put_opts(&path, payload, create).await {
        Ok(_) => return Ok(()),
        Err(object_store::Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let marker = store.get(&path).await?.bytes().await?;
    let owner = String::from_utf8_lossy(&marker).trim().to_owned();
    if owner == cluster_id { Ok(()) } else { Err(ClaimError::Foreign { owner, own: cluster_id.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn the_first_cluster_keeps_the_prefix() {
        let store = InMemory::new();
        claim(&store, "first").await.expect("unclaimed");
        claim(&store, "first").await.expect("its own");
        let refused = claim(&store, "second").await.expect_err("foreign").to_string();
        assert!(refused.contains("first") && refused.contains("second"), "{refused}");
    }
}
