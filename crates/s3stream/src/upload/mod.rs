//! Upload: moves what is durable in the log into objects, commits them, and trims the log.
//!
//! The order of the steps, which nothing may change:
//!
//! 1. plan: the oldest un-uploaded part of the log, bounded in bytes, sorted by (stream, offset);
//! 2. put its objects, each under a key of its own; repeated until it is certain that they are there;
//! 3. *one* commit to metadata; an unknown outcome is asked again with the same objects;
//! 4. each stream's tail takes note, in one step as readers see it;
//! 5. the log is trimmed up to the oldest record that no object holds.
//!
//! Nothing here is fatal: while store or metadata are away, everything stays in the log. Between attempts no
//! payload is held: it is taken from the log again, so that waiting costs no memory.

mod plan;
mod run;

pub(crate) use plan::PlannedSlice;
pub(crate) use run::Uploader;

use crate::object::put::PutError;

/// Why an attempt did not get through; it is repeated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("reading the log: {0}")]
    Log(String),
    #[error("object store: {0}")]
    Put(#[from] PutError),
}
