//! Identity and shape of a log: one page, written once when the log is made.
//!
//! ```text
//!   0 magic "OTTLAWAL" · 8 version u32 · 12 CRC32C u32 of bytes 16..4096
//!  16 log uuid [16] · 32 node id i32 · 36 class u8 (0 private, 1 shared) · 37 zero [3]
//!  40 segment bytes u64 · 48 capacity bytes u64 · 56 cluster id length u32 · 60 cluster id [≤ 255] · zero
//! ```

use common::NodeId;
use uuid::Uuid;

use super::{Damage, Put, open_prefix, seal_prefix};
use crate::config::WalClass;
use crate::direct::ALIGNMENT;

const MAGIC: [u8; 8] = *b"OTTLAWAL";
/// Longest cluster id, bytes.
pub(crate) const CLUSTER_ID_BYTES_MAX: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) uuid: Uuid,
    pub(crate) node: NodeId,
    pub(crate) class: WalClass,
    pub(crate) segment_bytes: u64,
    pub(crate) capacity_bytes: u64,
    pub(crate) cluster_id: String,
}

impl Superblock {
    /// Fills a page. The cluster id has at most [`CLUSTER_ID_BYTES_MAX`] bytes.
    pub(crate) fn encode(&self, page: &mut [u8]) {
        let class = match self.class {
            WalClass::Private => 0,
            WalClass::Shared => 1,
        };
        let mut put = Put::after_prefix(&mut *page);
        put.array(self.uuid.as_bytes()).i32(self.node.0).array(&[class, 0, 0, 0]).u64(self.segment_bytes);
        put.u64(self.capacity_bytes).u32(self.cluster_id.len() as u32).array(self.cluster_id.as_bytes()).zeros();
        seal_prefix(page, MAGIC);
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, Damage> {
        let (mut take, _) = open_prefix(page, MAGIC)?;
        let uuid = Uuid::from_bytes(take.array().ok_or(Damage::Short)?);
        let node = NodeId(take.i32().ok_or(Damage::Short)?);
        let class = match take.array().ok_or(Damage::Short)? {
            [0, 0, 0, 0] => WalClass::Private,
            [1, 0, 0, 0] => WalClass::Shared,
            _ => return Err(Damage::Field("class")),
        };
        let segment_bytes = take.u64().ok_or(Damage::Short)?;
        let capacity_bytes = take.u64().ok_or(Damage::Short)?;
        let aligned = segment_bytes.is_multiple_of(ALIGNMENT as u64);
        if !aligned || segment_bytes == 0 || capacity_bytes < segment_bytes {
            return Err(Damage::Field("segment size"));
        }
        let len = take.u32().ok_or(Damage::Short)? as usize;
        if len > CLUSTER_ID_BYTES_MAX {
            return Err(Damage::Field("cluster id"));
        }
        let cluster_id =
            take.bytes(len).and_then(|id| std::str::from_utf8(id).ok()).ok_or(Damage::Field("cluster id"))?;
        Ok(Self { uuid, node, class, segment_bytes, capacity_bytes, cluster_id: cluster_id.to_owned() })
    }
}
