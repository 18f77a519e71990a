//! The bytes of an object, one file per part. All integers are little-endian. See `FORMAT.md`.
//!
//! ```text
//! data blocks · checkpoints · index · footer
//! ```

pub mod data_block;
pub mod footer;
pub mod hand_over;
pub mod object_index;
#[cfg(test)]
mod tests;

use bytes::Buf;

/// Bytes that are not what the format says. Always damage or a foreign file, never "no data".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}: {reason}")]
pub struct FormatError {
    /// Which part of the object.
    pub part: &'static str,
    /// What does not fit.
    pub reason: String,
}

impl FormatError {
    pub(crate) fn new(part: &'static str, reason: impl Into<String>) -> Self {
        Self { part, reason: reason.into() }
    }
}

/// CRC32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc).expect("a 32-bit CRC fits 32 bits")
}

/// CRC32C over several pieces.
pub(crate) struct Crc(crc_fast::Digest);

impl Crc {
    pub(crate) fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u32 {
        u32::try_from(self.0.finalize()).expect("a 32-bit CRC fits 32 bits")
    }
}

/// Fails unless `bytes` has at least `len` left.
pub(crate) fn need(part: &'static str, bytes: &impl Buf, len: usize) -> Result<(), FormatError> {
    if bytes.remaining() < len {
        return Err(FormatError::new(part, format!("{len} bytes expected, {} left", bytes.remaining())));
    }
    Ok(())
}
