use std::sync::Arc;

use bytes::Bytes;
use common::Offset;
use protocol::batch::{Attributes, BatchBuilder, BatchView, Codec as WireCodec, batches, for_each_record};
use s3stream::ReadClass;
use s3stream::testing::MemoryLog;

use super::rig::{CLIENT, NOW, Rig, accepted, append, code, fill, idempotent, plain, topic};
use crate::config::{Codec, TopicConfig};
use crate::partition::{AppendOrigin, Isolation, Partition, ReadError};

async fn read_all(partition: &Partition, from: i64) -> Bytes {
    let read = partition.read(Offset(from), 1 << 20, Isolation::ReadUncommitted, true, ReadClass::Tail).await;
    let slices = read.expect("reads").slices;
    Bytes::from(slices.iter().flat_map(|slice| slice.bytes.to_vec()).collect::<Vec<u8>>())
}

#[tokio::test]
async fn offsets_are_given_out_in_order_and_records_are_read_once_durable() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    let (first, lsn) = accepted(&partition, &plain(3));
    let (second, later) = accepted(&partition, &plain(2));
    assert_eq!((first, second), (0, 3));
    assert!(lsn < later);
    assert_eq!((partition.log_end(), partition.high_watermark()), (Offset(5), Offset(0)));
    let cached = |from| partition.read_cached(Offset(from), 1 << 20, Isolation::ReadCommitted, true);
    assert!(cached(3).expect("below the log end").expect("no wait").slices.is_empty());
    rig.log.flush();
    assert_eq!(partition.high_watermark(), Offset(5));
    let bytes = read_all(&partition, 0).await;
    let stored: Vec<BatchView<'_>> = batches(&bytes).map(|batch| batch.expect("whole")).collect();
    let expected = [(0, 0, true), (3, 0, true)];
    let found: Vec<_> =
        stored.iter().map(|batch| (batch.base_offset(), batch.leader_epoch(), batch.is_valid())).collect();
    assert_eq!(found, expected);
    assert!(matches!(cached(6), Err(ReadError::OutOfRange { .. })));
}

#[tokio::test]
async fn limits_bind_except_for_a_first_batch() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let size = plain(3).len();
    (0..4).for_each(|_| {
        accepted(&partition, &plain(3));
    });
    let read = |max, min_one| {
        let read = partition.read_cached(Offset(4), max, Isolation::ReadUncommitted, min_one);
        let read = read.expect("in range").expect("in memory");
        (read.bytes, read.slices.first().map(|slice| slice.base_offset.0))
    };
    assert_eq!(read(2 * size, false), (2 * size, Some(3)), "from the batch that contains the offset");
    assert_eq!(read(2 * size - 1, true).0, size);
    assert_eq!(read(size - 1, false).0, 0);
    assert_eq!(read(0, true).0, size);
    assert_eq!(read(0, false).0, 0);
}

#[tokio::test]
async fn a_duplicate_has_the_originals_offset_and_log_position() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    let (_, lsn) = accepted(&partition, &idempotent(5, 0, 0, 3));
    accepted(&partition, &idempotent(5, 0, 3, 3));
    let again = append(&partition, &idempotent(5, 0, 0, 3)).expect("taken for a duplicate");
    assert_eq!((again.base_offset, again.lsn), (Offset(0), lsn), "not durable before the original");
    assert_eq!(again.log_append_time_ms, NOW + 2, "as in Kafka");
    assert_eq!(partition.log_end(), Offset(6));
    rig.log.flush();
    let durable = append(&partition, &idempotent(5, 0, 0, 3)).expect("a duplicate");
    assert!(durable.lsn <= lsn);
}

/// Rule no-gap-of-our-own: otherwise the refused batch, which comes again, would be one of the past.
#[tokio::test]
async fn behind_a_refusal_an_unknown_producer_begins_with_its_first_batch() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let behind = AppendOrigin::Client { produce_version: 11, behind_refusal: true, guard: None };
    assert_eq!(code(partition.append(&idempotent(5, 0, 3, 3), behind)), 45);
    assert_eq!(partition.append(&idempotent(5, 0, 0, 3), behind).expect("the first").base_offset, Offset(0));
    assert_eq!(partition.append(&idempotent(5, 0, 3, 3), behind).expect("the next").base_offset, Offset(3));
    accepted(&partition, &idempotent(6, 0, 3, 3));
}

#[tokio::test]
async fn refusals_have_kafkas_codes_and_change_nothing() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    accepted(&partition, &idempotent(5, 1, 0, 3));
    assert_eq!(code(append(&partition, &idempotent(5, 1, 9, 1))), 45);
    assert_eq!(code(append(&partition, &idempotent(5, 2, 3, 1))), 45);
    assert_eq!(code(append(&partition, &idempotent(5, 0, 3, 1))), 47);
    let damaged = {
        let mut bytes = plain(1).to_vec();
        *bytes.last_mut().expect("bytes") ^= 1;
        Bytes::from(bytes)
    };
    assert_eq!(code(append(&partition, &damaged)), 2);
    assert_eq!(code(append(&partition, &Bytes::new())), 87);
    assert_eq!(code(append(&partition, &Bytes::from([plain(1), plain(1)].concat()))), 87);
    let transactional = Attributes::default().with_transactional(true);
    let batch = fill(BatchBuilder::new().with_producer(6, 0, 0).with_attributes(transactional), 1);
    assert_eq!(code(append(&partition, &batch)), 48);
    let control = fill(BatchBuilder::new().with_attributes(Attributes::default().with_control(true)), 1);
    assert_eq!(code(append(&partition, &control)), 87);
    let zstd = fill(BatchBuilder::new().with_codec(WireCodec::Zstd), 1);
    let old = AppendOrigin::Client { produce_version: 6, behind_refusal: false, guard: None };
    assert_eq!(code(partition.append(&zstd, old)), 76);
    let mut future = BatchBuilder::new();
    future.push(NOW, None, None);
    future.push(NOW + 3_600_001, None, None);
    let refused = append(&partition, &future.build(0, -1)).expect_err("an hour ahead at most");
    assert_eq!((refused.code, refused.record_errors.len(), refused.record_errors[0].0), (32, 1, 1));
    assert_eq!(partition.log_end(), Offset(3));
    assert_eq!(accepted(&partition, &idempotent(5, 1, 3, 1)).0, 3, "the sequence goes on");
}

#[tokio::test]
async fn a_changed_configuration_holds_for_the_next_batch() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let set = |config: TopicConfig| rig.topic.config.store(Arc::new(config));
    set(TopicConfig { max_message_bytes: 70, ..super::config() });
    assert_eq!(code(append(&partition, &plain(3))), 10);
    set(TopicConfig { segment_bytes: 70, ..super::config() });
    assert_eq!(code(append(&partition, &plain(3))), 18);
    set(TopicConfig { compact: true, ..super::config() });
    let mut keyless = BatchBuilder::new();
    keyless.push(NOW, None, Some(b"v"));
    assert_eq!(code(append(&partition, &keyless.build(0, -1))), 87);
    accepted(&partition, &plain(1));
}

#[tokio::test]
async fn log_append_time_is_stamped_with_a_valid_checksum() {
    let rig = Rig::durable();
    rig.topic.config.store(Arc::new(TopicConfig { log_append_time: true, ..super::config() }));
    rig.clock.set_wall_ms(NOW + 77);
    let partition = rig.open().await;
    let appended = append(&partition, &plain(2)).expect("accepted");
    assert_eq!(appended.log_append_time_ms, NOW + 77);
    let bytes = read_all(&partition, 0).await;
    let stored = BatchView::exactly_one(&bytes).expect("one batch");
    assert!(stored.is_valid() && stored.attributes().is_log_append_time());
    assert_eq!(stored.max_timestamp(), NOW + 77);
}

#[tokio::test]
async fn compression_type_rebuilds_batches_and_keeps_their_sequence() {
    let codecs = [
        (Codec::Uncompressed, WireCodec::None),
        (Codec::Gzip(6), WireCodec::Gzip),
        (Codec::Snappy, WireCodec::Snappy),
        (Codec::Lz4(9), WireCodec::Lz4),
        (Codec::Zstd(3), WireCodec::Zstd),
    ];
    for (configured, wire) in codecs {
        let rig = Rig::durable();
        rig.topic.config.store(Arc::new(TopicConfig { compression: Some(configured), ..super::config() }));
        let partition = rig.open().await;
        let sent = fill(BatchBuilder::new().with_codec(WireCodec::Gzip).with_producer(9, 0, 0), 20);
        accepted(&partition, &sent);
        let bytes = read_all(&partition, 0).await;
        let stored = BatchView::exactly_one(&bytes).expect("one batch");
        assert_eq!(stored.attributes().codec(), Some(wire));
        assert!(stored.is_valid());
        assert_eq!((stored.producer_id(), stored.base_sequence(), stored.record_count()), (9, 0, 20));
        let mut values = Vec::new();
        let _ = for_each_record(&stored, 1 << 20, |record| {
            values.push(record.value.map(<[u8]>::to_vec));
            std::ops::ControlFlow::<()>::Continue(())
        });
        assert_eq!(values.len(), 20);
        assert_eq!(values[19].as_deref(), Some(&b"value 19"[..]));
        assert!(append(&partition, &sent).is_ok_and(|again| again.base_offset == Offset(0)), "still a duplicate");
    }
}

#[tokio::test]
async fn a_full_log_refuses_retriably_and_changes_nothing() {
    let rig = Rig::new(MemoryLog::new(1500, 1 << 20, true), super::config());
    let partition = rig.open().await;
    let mut sequence = 0;
    let refused = loop {
        match append(&partition, &idempotent(5, 0, sequence, 1)) {
            Ok(_) => sequence += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code, 19);
    assert_eq!(partition.log_end(), Offset(i64::from(sequence)));
    assert!(!partition.is_closed());
    rig.store.flush().await.expect("uploads and trims");
    assert_eq!(accepted(&partition, &idempotent(5, 0, sequence, 1)).0, i64::from(sequence));
}

#[tokio::test]
async fn a_superseded_stream_ends_the_leadership() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let successor = rig.open().await;
    assert_eq!(code(append(&partition, &plain(1))), 6);
    assert!(partition.is_closed());
    let read = partition.read_cached(Offset(0), 1, Isolation::ReadUncommitted, true);
    assert!(matches!(read, Err(ReadError::NotLeader)));
    assert_eq!(accepted(&successor, &plain(1)).0, 0);
}

#[tokio::test]
async fn a_coordinator_appends_without_a_clients_checks() {
    let rig = Rig::durable();
    let config = TopicConfig { compact: true, max_message_bytes: 10, ..super::config() };
    let rig = Rig { topic: topic("__consumer_offsets", config), ..rig };
    let partition = rig.open().await;
    assert!(partition.append(&plain(2), CLIENT).is_err());
    let appended = partition.append(&plain(2), AppendOrigin::Coordinator).expect("accepted");
    assert_eq!(appended.base_offset, Offset(0));
    assert_eq!(read_all(&partition, 0).await.len(), plain(2).len());
}
