//! Control batches that end a transaction: Kafka's `EndTransactionMarker`, schemas `ControlRecordType` and
//! `EndTxnMarker` (KIP-98).
//!
//! A marker is a batch of one record, transactional and control, in the name of the transaction's producer, without a
//! sequence. Big-endian: key version i16, 0 · type i16, 0 abort or 1 commit; value version i16, 0 · coordinator epoch
//! i32. As in Kafka, later versions are read as if they were 0, with what they add behind it left alone.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::records::{RecordsError, for_each_record};
use super::{Attributes, BatchBuilder, BatchView};

const VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;
/// A marker has 10 bytes of its own; what decompresses to more than this is none.
const DECODED_MAX: u64 = 1 << 16;

/// How a transaction ended, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTransactionMarker {
    /// Committed, or else aborted.
    pub commit: bool,
    /// Leader epoch of the coordinator's partition: a coordinator of an older one is fenced.
    pub coordinator_epoch: i32,
}

/// Why a batch is no marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// An ordinary batch.
    #[error("the batch holds no control record")]
    NotControl,
    /// Not exactly one record.
    #[error("a control batch has one record, this one has {0}")]
    RecordCount(i32),
    /// The record cannot be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// Key or value is null or too short.
    #[error("the control record's {0} is cut off")]
    Truncated(&'static str),
    /// Negative.
    #[error("version {0} of a control record does not exist")]
    Version(i16),
    /// Neither abort nor commit.
    #[error("control record type {0} ends no transaction")]
    Type(i16),
}

impl EndTransactionMarker {
    /// The number of its type in control records.
    #[must_use]
    pub fn type_id(self) -> i16 {
        if self.commit { COMMIT } else { ABORT }
    }

    /// Whether the type of that number commits; `None` for one that ends no transaction.
    #[must_use]
    pub fn commits(type_id: i16) -> Option<bool> {
        match type_id {
            ABORT => Some(false),
            COMMIT => Some(true),
            _ => None,
        }
    }

    /// The batch, with base offset 0 and without a leader epoch. `timestamp` in milliseconds.
    #[must_use]
    pub fn batch(self, producer_id: i64, producer_epoch: i16, timestamp: i64) -> Bytes {
        let key = [VERSION.to_be_bytes(), self.type_id().to_be_bytes()].concat();
        let value = [&VERSION.to_be_bytes()[..], &self.coordinator_epoch.to_be_bytes()].concat();
        let attributes = Attributes::default().with_transactional(true).with_control(true);
        let mut builder =
            BatchBuilder::new().with_producer(producer_id, producer_epoch, -1).with_attributes(attributes);
        builder.push(timestamp, Some(&key), Some(&value));
        builder.build(0, -1)
    }

    /// Reads the marker that `batch` is.
    pub fn parse(batch: &BatchView<'_>) -> Result<Self, ControlError> {
        if !batch.attributes().is_control() {
            return Err(ControlError::NotControl);
        }
        if batch.record_count() != 1 {
            return Err(ControlError::RecordCount(batch.record_count()));
        }
        let read =
            for_each_record(batch, DECODED_MAX, |record| ControlFlow::Break(Self::read(record.key, record.value)));
        match read? {
            ControlFlow::Break(marker) => marker,
            ControlFlow::Continue(()) => Err(ControlError::RecordCount(0)),
        }
    }

    fn read(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self, ControlError> {
        let &[k0, k1, t0, t1, ..] = key.unwrap_or_default() else { return Err(ControlError::Truncated("key")) };
        let version = i16::from_be_bytes([k0, k1]);
        if version < VERSION {
            return Err(ControlError::Version(version));
        }
        let type_id = i16::from_be_bytes([t0, t1]);
        let commit = Self::commits(type_id).ok_or(ControlError::Type(type_id))?;
        let &[v0, v1, e0, e1, e2, e3, ..] = value.unwrap_or_default() else {
            return Err(ControlError::Truncated("value"));
        };
        let version = i16::from_be_bytes([v0, v1]);
        if version < VERSION {
            return Err(ControlError::Version(version));
        }
        Ok(Self { commit, coordinator_epoch: i32::from_be_bytes([e0, e1, e2, e3]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: EndTransactionMarker = EndTransactionMarker { commit: true, coordinator_epoch: 0x0102_0304 };

    fn control(key: Option<&[u8]>, value: Option<&[u8]>) -> Bytes {
        let attributes = Attributes::default().with_transactional(true).with_control(true);
        let mut builder = BatchBuilder::new().with_producer(7, 1, -1).with_attributes(attributes);
        builder.push(5, key, value);
        builder.build(0, -1)
    }

    fn parsed(batch: &Bytes) -> Result<EndTransactionMarker, ControlError> {
        EndTransactionMarker::parse(&BatchView::exactly_one(batch).expect("one batch"))
    }

    #[test]
    fn golden_bytes() {
        let batch = COMMITTED.batch(0x1122_3344_5566_7788, 9, 0x0A0B);
        let hex: String = batch.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "0000000000000000", // base offset
            "00000042",         // length
            "ffffffff",         // leader epoch
            "02",               // magic
            "f6c935c8",         // checksum
            "0030",             // transactional, control
            "00000000",         // last offset delta
            "0000000000000a0b", // base timestamp
            "0000000000000a0b", // max timestamp
            "1122334455667788", // producer id
            "0009",             // producer epoch
            "ffffffff",         // base sequence
            "00000001",         // records
            "20000000",         // length 16, attributes, timestamp delta, offset delta
            "08",               // key of 4 bytes
            "00000001",         // version 0, commit
            "0c",               // value of 6 bytes
            "0000",             // version 0
            "01020304",         // coordinator epoch
            "00",               // no headers
        );
        assert_eq!(hex, expected);
        let view = BatchView::exactly_one(&batch).expect("one batch");
        assert!(view.is_valid() && view.attributes().is_transactional() && view.attributes().is_control());
    }

    #[test]
    fn round_trip() {
        for commit in [false, true] {
            for coordinator_epoch in [0, 7, i32::MAX] {
                let marker = EndTransactionMarker { commit, coordinator_epoch };
                assert_eq!(parsed(&marker.batch(3, 4, 5)), Ok(marker));
                assert_eq!(EndTransactionMarker::commits(marker.type_id()), Some(commit));
            }
        }
    }

    #[test]
    fn later_versions_are_read_as_the_first() {
        let marker = parsed(&control(Some(&[0, 9, 0, 1, 77]), Some(&[0, 3, 1, 2, 3, 4, 88, 99])));
        assert_eq!(marker, Ok(COMMITTED));
    }

    #[test]
    fn what_is_no_marker_is_an_error() {
        let (key, value) = ([0, 0, 0, 1], [0, 0, 1, 2, 3, 4]);
        for len in 0..key.len() {
            assert_eq!(parsed(&control(Some(&key[..len]), Some(&value))), Err(ControlError::Truncated("key")));
        }
        for len in 0..value.len() {
            assert_eq!(parsed(&control(Some(&key), Some(&value[..len]))), Err(ControlError::Truncated("value")));
        }
        assert_eq!(parsed(&control(None, Some(&value))), Err(ControlError::Truncated("key")));
        assert_eq!(parsed(&control(Some(&key), None)), Err(ControlError::Truncated("value")));
        assert_eq!(parsed(&control(Some(&[255, 255, 0, 1]), Some(&value))), Err(ControlError::Version(-1)));
        assert_eq!(parsed(&control(Some(&key), Some(&[255, 254, 0, 0, 0, 0]))), Err(ControlError::Version(-2)));
        assert_eq!(parsed(&control(Some(&[0, 0, 0, 2]), Some(&value))), Err(ControlError::Type(2)), "a leader change");
        let mut ordinary = BatchBuilder::new();
        ordinary.push(5, Some(&key), Some(&value));
        assert_eq!(parsed(&ordinary.build(0, -1)), Err(ControlError::NotControl));
        let attributes = Attributes::default().with_control(true);
        let mut two = BatchBuilder::new().with_attributes(attributes);
        (0..2).for_each(|_| two.push(5, Some(&key), Some(&value)));
        assert_eq!(parsed(&two.build(0, -1)), Err(ControlError::RecordCount(2)));
    }

    #[test]
    fn damage_never_panics() {
        let good = COMMITTED.batch(7, 1, 5);
        for at in 0..good.len() {
            for byte in 0..=u8::MAX {
                let mut batch = good.to_vec();
                batch[at] = byte;
                if let Ok(view) = BatchView::exactly_one(&batch) {
                    let _ = EndTransactionMarker::parse(&view);
                }
            }
        }
    }
}
