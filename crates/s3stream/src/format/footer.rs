//! The footer: the last 72 bytes of an object, from which everything else is found.
//!
//! ```text
//!    0  [8]  magic "OTTLAOBJ"
//!    8  u16  version, 1
//!   10  u16  reserved, 0
//!   12  i32  node that wrote it
//!   16  u64  its epoch
//!   24  u64  object id
//!   32  u32  attempt
//!   36  u32  number of slices
//!   40  u32  number of data blocks
//!   44  u32  number of checkpoints
//!   48  u64  position of the index; it ends where the footer starts
//!   56  u32  CRC32C of the index
//!   60  u64  reserved, 0
//!   68  u32  CRC32C of bytes 0..68
//! ```

use bytes::{Buf, BufMut, BytesMut};
use common::{NodeEpoch, NodeId, ObjectId};

use super::object_index::{BLOCK_ENTRY_BYTES, CHECKPOINT_ENTRY_BYTES, SLICE_ENTRY_BYTES};
use super::{FormatError, crc32c};

const PART: &str = "footer";
const MAGIC: &[u8; 8] = b"OTTLAOBJ";
const VERSION: u16 = 1;
/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 72;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Who wrote it.
    pub node: NodeId,
    /// In which life.
    pub node_epoch: NodeEpoch,
    /// The object's id.
    pub object: ObjectId,
    /// The attempt.
    pub attempt: u32,
    /// Slices in the index.
    pub slices: u32,
    /// Data blocks in the index.
    pub blocks: u32,
    /// Checkpoints in the index.
    pub checkpoints: u32,
    /// Where the index starts.
    pub index_position: u64,
    /// CRC32C of the index.
    pub index_crc: u32,
}

impl Footer {
    /// Bytes of the index. Cannot overflow: three 32-bit counts of small entries.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        u64::from(self.slices) * SLICE_ENTRY_BYTES as u64
            + u64::from(self.blocks) * BLOCK_ENTRY_BYTES as u64
            + u64::from(self.checkpoints) * CHECKPOINT_ENTRY_BYTES as u64
    }

    /// Encodes it.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_slice(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_i32_le(self.node.0);
        out.put_u64_le(self.node_epoch.0);
        out.put_u64_le(self.object.0);
        out.put_u32_le(self.attempt);
        out.put_u32_le(self.slices);
        out.put_u32_le(self.blocks);
        out.put_u32_le(self.checkpoints);
        out.put_u64_le(self.index_position);
        out.put_u32_le(self.index_crc);
        out.put_u64_le(0);
        let crc = crc32c(&out[start..]);
        out.put_u32_le(crc);
    }

    /// Decodes and verifies the footer of an object of `object_bytes`; `bytes` ends where the object ends.
    pub fn decode(bytes: &[u8], object_bytes: u64) -> Result<Self, FormatError> {
        let start = bytes.len().checked_sub(FOOTER_BYTES);
        let Some(mut left) = start.map(|start| &bytes[start..]) else {
            return Err(FormatError::new(PART, format!("an object of {object_bytes} bytes has no footer")));
        };
        let covered = &left[..FOOTER_BYTES - 4];
        if !left.starts_with(MAGIC) {
            return Err(FormatError::new(PART, "this is not an object of Ottla"));
        }
        left.advance(MAGIC.len());
        let version = left.get_u16_le();
        if version != VERSION {
            return Err(FormatError::new(PART, format!("version {version} is not known")));
        }
        left.advance(2);
        let footer = Self {
            node: NodeId(left.get_i32_le()),
            node_epoch: NodeEpoch(left.get_u64_le()),
            object: ObjectId(left.get_u64_le()),
            attempt: left.get_u32_le(),
            slices: left.get_u32_le(),
            blocks: left.get_u32_le(),
            checkpoints: left.get_u32_le(),
            index_position: left.get_u64_le(),
            index_crc: left.get_u32_le(),
        };
        left.advance(8);
        if left.get_u32_le() != crc32c(covered) {
            return Err(FormatError::new(PART, "its CRC does not match"));
        }
        let index_end = footer.index_position.checked_add(footer.index_bytes());
        if index_end.and_then(|end| end.checked_add(FOOTER_BYTES as u64)) != Some(object_bytes) {
            return Err(FormatError::new(PART, format!("the parts do not add up to {object_bytes} bytes")));
        }
        Ok(footer)
    }
}
