//! The seal: one page of its own, which an adopter writes and the owner reads after each flush.
//!
//! ```text
//!   0 magic "OTTLSEAL" · 8 version u32 · 12 CRC32C u32 of bytes 16..4096
//!  16 log uuid [16] · 32 sealed u8 · 33 zero [3] · 36 sealed by: node id i32 · 40 its node epoch u64 · zero
//! ```
//! All that matters lies in the first 512 bytes, so a torn write leaves the old or the new state. A page that
//! cannot be read counts as sealed: the owner then acknowledges nothing.

use common::{NodeEpoch, NodeId};
use uuid::Uuid;

use super::{Damage, Put, open_prefix, seal_prefix};

const MAGIC: [u8; 8] = *b"OTTLSEAL";

/// Who ended a log for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedBy {
    /// The adopting node.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: NodeEpoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealSector {
    pub(crate) uuid: Uuid,
    pub(crate) sealed: Option<SealedBy>,
}

impl SealSector {
    pub(crate) fn encode(&self, page: &mut [u8]) {
        let by = self.sealed.unwrap_or(SealedBy { node: NodeId(0), epoch: NodeEpoch(0) });
        let mut put = Put::after_prefix(&mut *page);
        put.array(self.uuid.as_bytes()).array(&[u8::from(self.sealed.is_some()), 0, 0, 0]);
        put.i32(by.node.0).u64(by.epoch.0).zeros();
        seal_prefix(page, MAGIC);
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, Damage> {
        let (mut take, _) = open_prefix(page, MAGIC)?;
        let uuid = Uuid::from_bytes(take.array().ok_or(Damage::Short)?);
        let flag = take.array::<4>().ok_or(Damage::Short)?;
        let node = NodeId(take.i32().ok_or(Damage::Short)?);
        let epoch = NodeEpoch(take.u64().ok_or(Damage::Short)?);
        let sealed = match flag {
            [0, 0, 0, 0] => None,
            [1, 0, 0, 0] => Some(SealedBy { node, epoch }),
            _ => return Err(Damage::Field("seal flag")),
        };
        Ok(Self { uuid, sealed })
    }
}
