//! The 24 bytes beside every batch in the WAL and in data blocks, from which producer state and leader
//! epochs are rebuilt without reading payloads.
//!
//! Layout, big-endian: producer id i64 @0 · producer epoch i16 @8 · attributes i16 @10 ·
//! base sequence i32 @12 · record count i32 @16 · leader epoch i32 @20.
//!
//! A control batch (attribute bit 5) never has a sequence and always one record, so that in its tag these two fields
//! tell how it ends its transaction: **coordinator epoch** i32 @12 · **type** i32 @16, 0 abort or 1 commit.

use super::control::{ControlError, EndTransactionMarker};
use super::{Attributes, BatchView};

/// Bytes of an encoded [`Tag`].
pub const TAG_LEN: usize = 24;

/// What a partition needs to know of a batch when it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Producer id, -1 for none.
    pub producer_id: i64,
    /// Producer epoch, -1 for none.
    pub producer_epoch: i16,
    /// The batch's attribute bits.
    pub attributes: Attributes,
    /// Sequence number of the first record, -1 for none. Of a control batch the coordinator epoch: see
    /// [`Self::marker`].
    pub base_sequence: i32,
    /// Number of records. Of a control batch its type: see [`Self::marker`].
    pub record_count: i32,
    /// Leader epoch under which the batch was appended.
    pub leader_epoch: i32,
}

impl Tag {
    /// The tag of a batch that is appended under `leader_epoch`. Errors: a control batch that ends no transaction.
    pub fn of(batch: &BatchView<'_>, leader_epoch: i32) -> Result<Self, ControlError> {
        let mut tag = Self {
            producer_id: batch.producer_id(),
            producer_epoch: batch.producer_epoch(),
            attributes: batch.attributes(),
            base_sequence: batch.base_sequence(),
            record_count: batch.record_count(),
            leader_epoch,
        };
        if tag.attributes.is_control() {
            let marker = EndTransactionMarker::parse(batch)?;
            tag.base_sequence = marker.coordinator_epoch;
            tag.record_count = marker.type_id().into();
        }
        Ok(tag)
    }

    /// How a control batch ends its transaction; `None` for an ordinary batch, and for a type that nobody writes.
    #[must_use]
    pub fn marker(&self) -> Option<EndTransactionMarker> {
        if !self.attributes.is_control() {
            return None;
        }
        let commit = EndTransactionMarker::commits(i16::try_from(self.record_count).ok()?)?;
        Some(EndTransactionMarker { commit, coordinator_epoch: self.base_sequence })
    }

    /// The encoded form.
    #[must_use]
    pub fn encode(&self) -> [u8; TAG_LEN] {
        let mut out = [0_u8; TAG_LEN];
        out[0..8].copy_from_slice(&self.producer_id.to_be_bytes());
        out[8..10].copy_from_slice(&self.producer_epoch.to_be_bytes());
        out[10..12].copy_from_slice(&self.attributes.0.to_be_bytes());
        out[12..16].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[16..20].copy_from_slice(&self.record_count.to_be_bytes());
        out[20..24].copy_from_slice(&self.leader_epoch.to_be_bytes());
        out
    }

    /// Reads a tag back. Every 24 bytes are a tag: damage is found by the checksum of what holds them.
    #[must_use]
    pub fn decode(bytes: &[u8; TAG_LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, epoch0, epoch1, attr0, attr1, rest @ ..] = *bytes;
        let [s0, s1, s2, s3, n0, n1, n2, n3, l0, l1, l2, l3] = rest;
        Self {
            producer_id: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            producer_epoch: i16::from_be_bytes([epoch0, epoch1]),
            attributes: Attributes(i16::from_be_bytes([attr0, attr1])),
            base_sequence: i32::from_be_bytes([s0, s1, s2, s3]),
            record_count: i32::from_be_bytes([n0, n1, n2, n3]),
            leader_epoch: i32::from_be_bytes([l0, l1, l2, l3]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let tag = Tag {
            producer_id: 0x0102_0304_0506_0708,
            producer_epoch: 0x090A,
            attributes: Attributes(0x0B0C),
            base_sequence: 0x0D0E_0F10,
            record_count: 0x1112_1314,
            leader_epoch: 0x1516_1718,
        };
        let bytes: Vec<u8> = (1..=24).collect();
        assert_eq!(tag.encode().as_slice(), bytes);
        assert_eq!(Tag::decode(&tag.encode()), tag);
    }

    #[test]
    fn golden_bytes_of_markers() {
        for (commit, last) in [(false, 0), (true, 1)] {
            let marker = EndTransactionMarker { commit, coordinator_epoch: 0x0D0E_0F10 };
            let batch = marker.batch(0x0102_0304_0506_0708, 0x090A, 5);
            let tag = Tag::of(&BatchView::exactly_one(&batch).expect("one batch"), 0x1516_1718).expect("a marker");
            let expected = [
                [1, 2, 3, 4, 5, 6, 7, 8],
                [9, 10, 0, 0x30, 0x0D, 0x0E, 0x0F, 0x10],
                [0, 0, 0, last, 0x15, 0x16, 0x17, 0x18],
            ];
            assert_eq!(tag.encode().as_slice(), expected.concat());
            assert_eq!(Tag::decode(&tag.encode()).marker(), Some(marker));
        }
    }

    #[test]
    fn only_control_batches_of_a_known_type_are_markers() {
        let control = Attributes::default().with_control(true);
        let tag = |attributes, record_count| Tag {
            producer_id: 1,
            producer_epoch: 0,
            attributes,
            base_sequence: 3,
            record_count,
            leader_epoch: 0,
        };
        assert_eq!(tag(Attributes::default().with_transactional(true), 1).marker(), None);
        for unknown in [-1, 2, 1 << 16, (1 << 16) + 1, i32::MIN] {
            assert_eq!(tag(control, unknown).marker(), None);
        }
        let marker = EndTransactionMarker { commit: true, coordinator_epoch: 3 };
        assert_eq!(tag(control, 1).marker(), Some(marker));
    }
}
