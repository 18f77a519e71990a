//! The byte formats of metadata: log entries, snapshots, and what nodes send each other. Protocol Buffers
//! throughout: fields may be added, never renumbered. A command this version does not know is an error,
//! because skipping it would let nodes diverge.

mod command;
mod convert;
mod moves;
mod rpc;
mod snapshot;

#[cfg(test)]
mod tests;

pub(crate) use command::{decode_entry, encode_entry};
pub(crate) use rpc::{AppendOutcome, Request, Response};
pub(crate) use snapshot::{SnapshotDecoder, SnapshotHead, encode_snapshot};

#[cfg(test)]
pub(crate) use tests::round_trip;

/// Bytes that are not what this version writes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WireError {
    /// Not Protocol Buffers, or not these messages.
    #[error("undecodable metadata: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A field that must be there is missing or out of range.
    #[error("undecodable metadata: {0}")]
    Field(&'static str),
    /// Written by a newer version.
    #[error("metadata of a newer version: {0}")]
    Newer(&'static str),
}

impl From<WireError> for std::io::Error {
    fn from(error: WireError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}
