//! The byte formats on the device: see `FORMAT.md`. One file per format; all numbers are little-endian; every
//! format but the record header (which lies inside a checked block or index) has a CRC32C of its own.

pub(crate) mod block_header;
pub(crate) mod record_header;
pub(crate) mod seal_sector;
pub(crate) mod segment_footer;
pub(crate) mod segment_header;
pub(crate) mod superblock;

#[cfg(test)]
mod tests;

use crc_fast::CrcAlgorithm;

/// Version of all formats of this crate. A log of another version is refused.
pub(crate) const VERSION: u32 = 1;

/// Bytes before the part that the CRC covers: magic, version, CRC.
pub(crate) const PREFIX_BYTES: usize = 16;

/// CRC32C (Castagnoli).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits: nothing is cut off.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Writes magic, version and the CRC of everything behind them.
pub(crate) fn seal_prefix(bytes: &mut [u8], magic: [u8; 8]) -> u32 {
    let crc = crc32c(&bytes[PREFIX_BYTES..]);
    let mut put = Put::new(bytes);
    put.array(&magic).u32(VERSION).u32(crc);
    crc
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("it is cut short")]
    Short,
    #[error("it does not start with the expected magic bytes")]
    Magic,
    #[error("its format version {0} is not supported")]
    Version(u32),
    #[error("its checksum does not match")]
    Checksum,
    #[error("its {0} is out of range")]
    Field(&'static str),
    #[error("it belongs to another log or place ({0} differs)")]
    Foreign(&'static str),
}

/// Checks magic, version and CRC of `bytes`, and returns what is behind them, and the CRC.
pub(crate) fn open_prefix(bytes: &[u8], magic: [u8; 8]) -> Result<(Take<'_>, u32), Damage> {
    let mut take = Take::new(bytes);
    let crc = take_prefix(&mut take, magic)?;
    if crc32c(take.rest) == crc { Ok((take, crc)) } else { Err(Damage::Checksum) }
}

/// Reads the prefix and leaves the CRC to the caller.
pub(crate) fn take_prefix(take: &mut Take<'_>, magic: [u8; 8]) -> Result<u32, Damage> {
    if take.array::<8>().ok_or(Damage::Short)? != magic {
        return Err(Damage::Magic);
    }
    let version = take.u32().ok_or(Damage::Short)?;
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    take.u32().ok_or(Damage::Short)
}

/// Writes fields one behind the other. The caller gives a buffer that holds them all.
pub(crate) struct Put<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Put<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn after_prefix(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: PREFIX_BYTES }
    }

    pub(crate) fn array(&mut self, value: &[u8]) -> &mut Self {
        let end = self.at + value.len();
        self.bytes[self.at..end].copy_from_slice(value);
        self.at = end;
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.array(&[value])
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.array(&value.to_le_bytes())
    }

    pub(crate) fn i32(&mut self, value: i32) -> &mut Self {
        self.array(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.array(&value.to_le_bytes())
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.array(&value.to_le_bytes())
    }

    /// Zeroes what is left of the buffer.
    pub(crate) fn zeros(&mut self) {
        self.bytes[self.at..].fill(0);
    }
}

/// Reads fields one behind the other; `None` at the end of the bytes.
#[derive(Clone)]
pub(crate) struct Take<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Take<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (value, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*value)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (value, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(value)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}
