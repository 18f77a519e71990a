//! From a URL to an object store.

use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use url::Url;

/// Why a URL gives no store. Never holds secrets.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not a URL.
    #[error("not a URL: {0}")]
    Url(#[from] url::ParseError),
    /// Another scheme.
    #[error("scheme {0:?} is not known: use file:///directory, s3://bucket/prefix or memory://")]
    Scheme(String),
    /// The directory cannot be made or used.
    #[error("{path}: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store refuses its configuration.
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// Opens the store that `url` names: `file:///directory` (made if absent; every object is fsynced) or `memory://`.
pub fn open(url: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let url = Url::parse(url)?;
    match url.scheme() {
        "file" => local(url.path()),
        "memory" => Ok(Arc::new(InMemory::new())),
        scheme => Err(StoreError::Scheme(scheme.to_owned())),
    }
}

fn local(path: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let directory = Path::new(path);
    std::fs::create_dir_all(directory)
        .map_err(|source| StoreError::Directory { path: path.to_owned(), source })?;
    Ok(Arc::new(LocalFileSystem::new_with_prefix(directory)?.with_fsync(true)))
}
