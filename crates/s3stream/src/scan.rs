//! Looks through a store for objects and reads what they say of themselves: for rebuilding metadata.

use std::sync::Arc;

use common::{NodeEpoch, NodeId, ObjectId};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::format::footer::{FOOTER_BYTES, Footer};
use crate::format::object_index::ObjectIndex;
use crate::object::key::{objects_folder, parse_key};
use crate::ports::ObjectDescriptor;

/// Objects read side by side.
const AT_ONCE: usize = 16;
/// Bytes of an object's end that are read to find its index.
const INDEX_GUESS_BYTES: u64 = 64 * 1024;

/// An object and its index.
#[derive(Clone, Debug)]
pub struct ScannedObject {
    /// Which it is.
    pub descriptor: ObjectDescriptor,
    /// Who wrote it.
    pub node: NodeId,
    /// What it holds.
    pub index: ObjectIndex,
}

/// What lies in a store.
#[derive(Debug, Default)]
pub struct Scan {
    /// Objects that the caller knew, by id.
    pub known: Vec<ObjectId>,
    /// The others.
    pub others: Vec<ScannedObject>,
    /// What cannot be read, and why.
    pub damaged: Vec<String>,
}

/// Lists the objects under `prefix`, and reads the index of each that `is_known` does not know.
///
/// # Errors
/// The store fails.
pub async fn scan(
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
    is_known: impl Fn(NodeEpoch, ObjectId, u32) -> bool,
) -> Result<Scan, object_store::Error> {
    let (mut scan, mut unknown) = (Scan::default(), Vec::new());
    let mut listing = store.list(Some(&objects_folder(prefix)));
    while let Some(object) = listing.try_next().await? {
        match parse_key(prefix, &object.location) {
            Some((node_epoch, id, attempt)) if is_known(node_epoch, id, attempt) => scan.known.push(id),
            Some((node_epoch, id, attempt)) => {
                unknown.push((object.location, ObjectDescriptor { id, node_epoch, attempt, size: object.size }));
            }
            None => {}
        }
    }
    let reads = unknown.into_iter().map(|(key, descriptor)| read(Arc::clone(store), key, descriptor));
    let mut reads = futures::stream::iter(reads).buffered(AT_ONCE);
    while let Some(read) = reads.try_next().await? {
        match read {
            Ok(object) => scan.others.push(object),
            Err(damage) => scan.damaged.push(damage),
        }
    }
    Ok(scan)
}

type Read = Result<ScannedObject, String>;

async fn read(
    store: Arc<dyn ObjectStore>,
    key: Path,
    descriptor: ObjectDescriptor,
) -> Result<Read, object_store::Error> {
    let size = descriptor.size;
    let start = size.saturating_sub(INDEX_GUESS_BYTES);
    let tail = match store.get_range(&key, start..size).await {
        // Deleted since it was listed.
        Err(object_store::Error::NotFound { .. }) => return Ok(Err(format!("object {key} is gone"))),
        tail => tail?,
    };
    let refused = |reason: String| Ok(Err(format!("object {key}: {reason}")));
    let footer = match Footer::decode(&tail, size) {
        Ok(footer) => footer,
        Err(error) => return refused(error.to_string()),
    };
    let said = (footer.object, footer.node_epoch, footer.attempt);
    if said != (descriptor.id, descriptor.node_epoch, descriptor.attempt) {
        return refused(format!("its footer is of object {}", footer.object));
    }
    let end = size - FOOTER_BYTES as u64;
    let index = match footer.index_position.checked_sub(start).and_then(|at| usize::try_from(at).ok()) {
        Some(at) => tail.slice(at.min(tail.len() - FOOTER_BYTES)..tail.len() - FOOTER_BYTES),
        None => store.get_range(&key, footer.index_position..end).await?,
    };
    match ObjectIndex::decode(&footer, &index) {
        Ok(index) => Ok(Ok(ScannedObject { descriptor, node: footer.node, index })),
        Err(error) => refused(error.to_string()),
    }
}
