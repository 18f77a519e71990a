//! The seal: one page of its own, which an adopter writes and the owner reads after each flush.
//!
//! ```text
//!   0 magic "OTTLSEAL" · 8 version u32 · 12 CRC32C u32 of bytes 16..4096
//!  16 log uuid [16] · 32 state u8 · 33 zero [3] · 36 sealed by: node id i32 · 40 its node epoch u64
//!  48 end LSN u64 · zero
//! ```
//! State 0 is open, 1 sealed, 2 sealed and read: the log ends at the end LSN, whatever its late owner may still have
//! had in flight. So everybody who seals the log again, at any time, is told the same end.
//! All that matters lies in the first 512 bytes, so a torn write leaves the old or the new state. A page that
//! cannot be read counts as sealed: the owner then acknowledges nothing.

use common::{Lsn, NodeEpoch, NodeId};
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
    /// Where the log ends, once somebody has read it after the seal; only of a sealed one.
    pub(crate) end: Option<Lsn>,
}

impl SealSector {
    /// Not sealed.
    pub(crate) fn open(uuid: Uuid) -> Self {
        Self { uuid, sealed: None, end: None }
    }

    pub(crate) fn encode(&self, page: &mut [u8]) {
        let by = self.sealed.unwrap_or(SealedBy { node: NodeId(0), epoch: NodeEpoch(0) });
        let mut put = Put::after_prefix(&mut *page);
        let state = u8::from(self.sealed.is_some()) + u8::from(self.end.is_some());
        put.array(self.uuid.as_bytes()).array(&[state, 0, 0, 0]);
        put.i32(by.node.0).u64(by.epoch.0).u64(self.end.unwrap_or_default().0).zeros();
        seal_prefix(page, MAGIC);
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, Damage> {
        let (mut take, _) = open_prefix(page, MAGIC)?;
        let uuid = Uuid::from_bytes(take.array().ok_or(Damage::Short)?);
        let flag = take.array::<4>().ok_or(Damage::Short)?;
        let node = NodeId(take.i32().ok_or(Damage::Short)?);
        let epoch = NodeEpoch(take.u64().ok_or(Damage::Short)?);
        let end = Lsn(take.u64().ok_or(Damage::Short)?);
        let (sealed, end) = match flag {
            [0, 0, 0, 0] => (None, None),
            [1, 0, 0, 0] => (Some(SealedBy { node, epoch }), None),
            [2, 0, 0, 0] => (Some(SealedBy { node, epoch }), Some(end)),
            _ => return Err(Damage::Field("seal flag")),
        };
        Ok(Self { uuid, sealed, end })
    }
}
