//! Puts an object under its unique key, telling apart what certainly failed and what may have happened.

use bytes::Bytes;
use common::NodeId;
use common::planted::{self, Bug};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::core::Core;
use crate::format::footer::{FOOTER_BYTES, Footer};
use crate::object::builder::BuiltObject;
use crate::object::key::object_key;
use crate::ports::ObjectDescriptor;

/// Why a put gave no object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    /// Certainly not written.
    #[error("{0}")]
    Failed(String),
    /// May be written, now or later: only a look at the key can tell. Repeat with the same bytes.
    #[error("the outcome is unknown: {0}")]
    Ambiguous(String),
    /// The key is taken by something else: go on under another attempt.
    #[error("the key is taken by another object")]
    Taken,
}

/// Puts `object`, create-only. An object that is there already counts as ours only when its size and its footer
/// are what we would have written.
pub(crate) async fn put(core: &Core, object: BuiltObject) -> Result<(), PutError> {
    let BuiltObject { parts, descriptor } = object;
    let key = object_key(&core.settings.prefix, &descriptor);
    let payload: PutPayload = parts.into_iter().collect();
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match core.objects.put_opts(&key, payload, options).await {
        Ok(_) => Ok(()),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => verify(core, &key, &descriptor).await,
        Err(error) if certainly_failed(&error) => Err(PutError::Failed(error.to_string())),
        Err(_) if planted::is(Bug::CommitUnsurePut) => Ok(()),
        Err(error) => Err(PutError::Ambiguous(error.to_string())),
    }
}

/// Whether an error means that the store did nothing.
fn certainly_failed(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::UnknownConfigurationKey { .. }
    )
}

async fn verify(core: &Core, key: &Path, descriptor: &ObjectDescriptor) -> Result<(), PutError> {
    let unknown = |error: Error| PutError::Ambiguous(error.to_string());
    let size = core.objects.head(key).await.map_err(unknown)?.size;
    if size != descriptor.size {
        return Err(PutError::Taken);
    }
    let range = size.saturating_sub(FOOTER_BYTES as u64)..size;
    let bytes: Bytes = core.objects.get_range(key, range).await.map_err(unknown)?;
    let ours = |footer: Footer| {
        let NodeId(node) = core.settings.node;
        footer.object == descriptor.id && footer.node_epoch == descriptor.node_epoch && footer.node.0 == node
    };
    if Footer::decode(&bytes, size).is_ok_and(ours) { Ok(()) } else { Err(PutError::Taken) }
}
