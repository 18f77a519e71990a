//! Object compaction: rewrites objects so that a stream lies in few of them. Never touches keys or records.
//!
//! Two kinds of jobs, each one new object, bounded in bytes, put and committed by itself:
//!
//! * **split**: slices of the same streams in several stream-set objects become one slice each; large ones get an
//!   object of their own;
//! * **merge**: many small consecutive ranges of one stream become one stream object.
//!
//! A job copies whole committed ranges and counts what it copied: if the bytes are not exactly those that
//! metadata has for the ranges, or anything cannot be read, nothing is committed. Old objects lose their references by
//! the commit alone; the collector deletes them later.

mod plan;
mod run;

#[cfg(test)]
pub(crate) use plan::SETS_PER_SPLIT;
pub(crate) use run::Compactor;

use crate::object::put::PutError;
use crate::object::reader::ObjectReadError;

/// Why a job came to nothing. The objects stay as they were.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactionError {
    #[error("reading: {0}")]
    Read(#[from] ObjectReadError),
    #[error("writing: {0}")]
    Put(#[from] PutError),
    #[error("metadata: {0}")]
    Metadata(String),
    #[error("stream {stream}: {copied} bytes were copied where metadata has {expected}")]
    Coverage { stream: common::StreamId, copied: u64, expected: u64 },
}
