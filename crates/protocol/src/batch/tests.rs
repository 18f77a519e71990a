use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, Record as KafkaRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};

use super::records::RecordsError;
use super::*;
use crate::errors::ErrorCode;

const NOW: i64 = 1_700_000_100_000;
const DECODED: u64 = 1 << 30;

/// A batch that Kafka's own classes wrote: see `tests/kafka_batches/Batches.java`.
macro_rules! kafka_batch {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/kafka_batches/", $name, ".bin")).as_slice()
    };
}

fn small(codec: Codec) -> &'static [u8] {
    match codec {
        Codec::None => kafka_batch!("small-none"),
        Codec::Gzip => kafka_batch!("small-gzip"),
        Codec::Snappy => kafka_batch!("small-snappy"),
        Codec::Lz4 => kafka_batch!("small-lz4"),
        Codec::Zstd => kafka_batch!("small-zstd"),
    }
}

fn large(codec: Codec) -> Bytes {
    match codec {
        Codec::None => built(Codec::None, 400),
        Codec::Gzip => Bytes::from_static(kafka_batch!("large-gzip")),
        Codec::Snappy => Bytes::from_static(kafka_batch!("large-snappy")),
        Codec::Lz4 => Bytes::from_static(kafka_batch!("large-lz4")),
        Codec::Zstd => Bytes::from_static(kafka_batch!("large-zstd")),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// The record of index `i`, the same as in `Batches.java`.
fn entry(i: i64) -> Entry {
    let value = match i {
        50 => Some((0..150_000).map(|j| (j % 251) as u8).collect()),
        _ if i % 7 == 3 => None,
        _ => Some(format!("value-{i}-").repeat((i % 11) as usize).into_bytes()),
    };
    let header = |j| (format!("h{j}").into_bytes(), (j != 1).then(|| format!("v{i}{j}").into_bytes()));
    Entry {
        offset: i,
        timestamp: 1_700_000_000_000 + i * 37 % 1000,
        key: (i % 5 != 0).then(|| format!("key-{i}").into_bytes()),
        value,
        headers: (0..i % 4).map(header).collect(),
    }
}

fn built(codec: Codec, count: i64) -> Bytes {
    let mut builder = BatchBuilder::new().with_codec(codec).with_producer(4711, 3, 42);
    for entry in (0..count).map(entry) {
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            entry.headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        builder.push_with_headers(entry.timestamp, entry.key.as_deref(), entry.value.as_deref(), &headers);
    }
    builder.build(0, -1)
}

fn view(batch: &[u8]) -> BatchView<'_> {
    BatchView::exactly_one(batch).expect("one batch")
}

fn entries(batch: &[u8]) -> Result<Vec<Entry>, RecordsError> {
    let mut all = Vec::new();
    let flow = for_each_record::<()>(&view(batch), DECODED, |record| {
        all.push(Entry {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect(),
        });
        ControlFlow::Continue(())
    })?;
    assert_eq!(flow, ControlFlow::Continue(()));
    Ok(all)
}

fn rules() -> Rules {
    Rules::defaults(NOW)
}

/// `batch` with some header bytes changed and the checksum right again.
fn changed(batch: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    patch_crc(&mut batch);
    batch
}

fn refused(batch: &[u8], rules: &Rules) -> ErrorCode {
    validate(&view(batch), rules).expect_err("refused").error
}

#[test]
fn kafkas_batches_are_read_in_every_codec() {
    for codec in Codec::ALL {
        let expected: Vec<Entry> = (0..3).map(entry).collect();
        assert_eq!(entries(small(codec)).as_ref(), Ok(&expected), "{codec:?}");
        let expected: Vec<Entry> = (0..400).map(entry).collect();
        assert_eq!(entries(&large(codec)).as_ref(), Ok(&expected), "{codec:?}");
        let batch = large(codec);
        let validated = validate(&view(&batch), &rules()).expect("valid");
        assert_eq!(validated.codec, codec);
        assert_eq!((validated.contiguous, validated.timestamp_fix), (true, None));
    }
}

#[test]
fn our_batches_are_kafkas() {
    assert_eq!(built(Codec::None, 3), small(Codec::None), "byte for byte");
    for codec in Codec::ALL {
        let batch = built(codec, 400);
        assert_eq!(entries(&batch), Ok((0..400).map(entry).collect()), "{codec:?}");
        assert!(validate(&view(&batch), &rules()).is_ok(), "{codec:?}");
    }
}

#[test]
fn header_fields() {
    let batch = view(small(Codec::Lz4));
    assert_eq!((batch.base_offset(), batch.leader_epoch(), batch.size()), (0, -1, small(Codec::Lz4).len()));
    assert_eq!(batch.length() as usize + LOG_OVERHEAD, batch.size());
    assert_eq!((batch.last_offset_delta(), batch.last_offset(), batch.record_count()), (2, 2, 3));
    assert_eq!(
        (batch.producer_id(), batch.producer_epoch(), batch.base_sequence(), batch.last_sequence()),
        (4711, 3, 42, 44)
    );
    assert_eq!((batch.base_timestamp(), batch.max_timestamp()), (entry(0).timestamp, entry(2).timestamp));
    assert_eq!(batch.attributes().codec(), Some(Codec::Lz4));
    assert!(batch.is_valid() && batch.has_producer_id());
    let tag = Tag::of(&batch, 9).expect("an ordinary batch");
    assert_eq!((tag.producer_id, tag.record_count, tag.leader_epoch), (4711, 3, 9));
}

#[test]
fn sequences_wrap() {
    assert_eq!(sequence_plus(i32::MAX, 1), 0);
    assert_eq!(sequence_plus(i32::MAX - 1, 5), 3);
    assert_eq!(sequence_plus(5, 3), 8);
}

#[test]
fn splitting_blobs() {
    let blob = [small(Codec::None), small(Codec::Zstd)].concat();
    assert_eq!(batches(&blob).map(|batch| batch.expect("whole").size()).sum::<usize>(), blob.len());
    let error = batches(&blob[..blob.len() - 1]).last().expect("two").expect_err("cut");
    assert!(matches!(error, BatchError::Truncated { .. }));
    for len in 0..small(Codec::None).len() {
        assert!(BatchView::split_first(&small(Codec::None)[..len]).is_err());
    }
    let mut old = small(Codec::None).to_vec();
    old[MAGIC_AT] = 1;
    assert_eq!(BatchView::split_first(&old).err(), Some(BatchError::Magic(1)));
    assert_eq!(validate::sole_batch(&old, 9).expect_err("magic").error, ErrorCode::InvalidRecord);
    old[MAGIC_AT] = 2;
    old[8..12].copy_from_slice(&(-1_i32).to_be_bytes());
    assert_eq!(BatchView::split_first(&old).err(), Some(BatchError::Length(-1)));
    assert_eq!(validate::sole_batch(&blob, 9).expect_err("two").error, ErrorCode::InvalidRecord);
    assert_eq!(validate::sole_batch(&[], 9).expect_err("none").error, ErrorCode::InvalidRecord);
    assert_eq!(
        validate::sole_batch(small(Codec::Zstd), 6).expect_err("old").error,
        ErrorCode::UnsupportedCompressionType
    );
    assert!(validate::sole_batch(small(Codec::Zstd), 7).is_ok());
}

#[test]
fn patches_keep_or_renew_the_checksum() {
    let mut batch = small(Codec::Gzip).to_vec();
    patch_base_offset(&mut batch, 1 << 40);
    patch_leader_epoch(&mut batch, 12);
    assert!(view(&batch).is_valid());
    assert_eq!((view(&batch).base_offset(), view(&batch).leader_epoch()), (1 << 40, 12));
    assert_eq!(entries(&batch).expect("read")[2].offset, (1 << 40) + 2);
    patch_log_append_time(&mut batch, 99);
    assert!(view(&batch).is_valid() && view(&batch).attributes().is_log_append_time());
    assert!(entries(&batch).expect("read").iter().all(|entry| entry.timestamp == 99));
}

#[test]
fn header_checks_and_their_codes() {
    let batch = small(Codec::None);
    let with_offset = changed(batch, 0, &1_i64.to_be_bytes());
    assert_eq!(refused(&with_offset, &rules()), ErrorCode::InvalidRecord);
    let tight = Rules { message_bytes_max: batch.len() - 1, ..rules() };
    assert_eq!(refused(batch, &tight), ErrorCode::MessageTooLarge);
    let mut corrupt = batch.to_vec();
    *corrupt.last_mut().expect("bytes") ^= 1;
    assert_eq!(refused(&corrupt, &rules()), ErrorCode::CorruptMessage);
    assert_eq!(refused(&corrupt, &tight), ErrorCode::MessageTooLarge, "size comes before the checksum");
    let small_segment = Rules { segment_bytes: 10, ..rules() };
    assert_eq!(refused(batch, &small_segment), ErrorCode::RecordListTooLarge);
    for (at, bytes) in [
        (RECORD_COUNT_AT, 0_i32.to_be_bytes().as_slice()),
        (RECORD_COUNT_AT, &(-1_i32).to_be_bytes()),
        (RECORD_COUNT_AT, &4_i32.to_be_bytes()),
        (RECORD_COUNT_AT, &i32::MAX.to_be_bytes()),
        (LAST_OFFSET_DELTA_AT, &(-1_i32).to_be_bytes()),
        (LAST_OFFSET_DELTA_AT, &3_i32.to_be_bytes()),
        (BASE_SEQUENCE_AT, &(-1_i32).to_be_bytes()),
        (ATTRIBUTES_AT, &0x20_i16.to_be_bytes()),
        (ATTRIBUTES_AT, &5_i16.to_be_bytes()),
        (ATTRIBUTES_AT, &2_i16.to_be_bytes()),
    ] {
        assert_eq!(refused(&changed(batch, at, bytes), &rules()), ErrorCode::InvalidRecord, "{at} {bytes:?}");
    }
    for count in [2_i32, 4] {
        let mut wrong = changed(batch, RECORD_COUNT_AT, &count.to_be_bytes());
        wrong = changed(&wrong, LAST_OFFSET_DELTA_AT, &(count - 1).to_be_bytes());
        assert_eq!(refused(&wrong, &rules()), ErrorCode::InvalidRecord, "{count} records claimed");
    }
}

#[test]
fn record_checks_and_their_codes() {
    for codec in Codec::ALL {
        let batch = built(codec, 20);
        let invalid = validate(&view(&batch), &Rules { compacted: true, ..rules() }).expect_err("null keys");
        assert_eq!(invalid.error, ErrorCode::InvalidRecord);
        let at_fault: Vec<i32> = invalid.record_errors.iter().map(|error| error.index).collect();
        assert_eq!(at_fault, [0, 5, 10, 15]);

        let last = entry(19).timestamp;
        let future = Rules { now_ms: last - 3_600_001, ..rules() };
        let invalid = validate(&view(&batch), &future).expect_err("too far ahead");
        assert_eq!((invalid.error, invalid.record_errors.len()), (ErrorCode::InvalidTimestamp, 1));
        assert_eq!(invalid.record_errors[0].index, 19);
        assert!(validate(&view(&batch), &Rules { now_ms: last - 3_600_000, ..rules() }).is_ok());
        let past = Rules { timestamp_before_max_ms: 10, ..rules() };
        assert_eq!(validate(&view(&batch), &past).expect_err("too old").record_errors.len(), 20);
        assert!(validate(&view(&batch), &Rules { log_append_time: true, ..past }).is_ok(), "the append's time rules");
    }
}

#[test]
fn errors_listed_are_bounded() {
    let mut builder = BatchBuilder::new();
    (0..3000).for_each(|_| builder.push(NOW, None, Some(b"v")));
    let batch = builder.build(0, 0);
    let invalid = validate(&view(&batch), &Rules { compacted: true, ..rules() }).expect_err("null keys");
    assert_eq!(invalid.record_errors.len(), validate::RECORD_ERRORS_MAX);
}

#[test]
fn timestamps_are_fixed() {
    let batch = small(Codec::Zstd);
    let wrong_max = changed(batch, MAX_TIMESTAMP_AT, &5_i64.to_be_bytes());
    let validated = validate(&view(&wrong_max), &rules()).expect("valid but for the maximum");
    assert_eq!(validated.max_timestamp, entry(2).timestamp);
    let mut fixed = wrong_max.clone();
    let (attributes, max_timestamp) = validated.timestamp_fix.expect("a fix");
    patch_timestamp(&mut fixed, attributes, max_timestamp);
    assert_eq!(fixed, batch);

    let append_time = Rules { log_append_time: true, ..rules() };
    let validated = validate(&view(batch), &append_time).expect("valid");
    assert_eq!(validated.timestamp_fix, Some((view(batch).attributes().with_log_append_time(true), NOW)));

    let client_set =
        changed(batch, ATTRIBUTES_AT, &view(batch).attributes().with_log_append_time(true).0.to_be_bytes());
    assert_eq!(refused(&client_set, &append_time), ErrorCode::InvalidTimestamp);
    let validated = validate(&view(&client_set), &rules()).expect("a create-time topic clears the bit");
    assert_eq!(validated.timestamp_fix.expect("a fix").0, view(batch).attributes());
}

#[test]
fn record_structure_is_checked() {
    // One record: length, attributes, deltas, null key, empty value, no headers.
    let good = [12, 0, 0, 0, 1, 0, 0];
    let batch_of = |record: &[u8]| {
        let mut builder = BatchBuilder::new();
        builder.push(NOW, None, Some(b""));
        let mut batch = builder.build(0, 0)[..HEADER_LEN].to_vec();
        batch.extend_from_slice(record);
        let length = (batch.len() - LOG_OVERHEAD) as i32;
        batch[LENGTH_AT..LEADER_EPOCH_AT].copy_from_slice(&length.to_be_bytes());
        patch_crc(&mut batch);
        batch
    };
    assert!(validate(&view(&batch_of(&good)), &rules()).is_ok());
    let bad: [&[u8]; 12] = [
        &[],
        &[12],
        &[1, 0, 0, 0, 1, 0, 0],
        &[14, 0, 0, 0, 1, 0, 0],
        &[10, 0, 0, 0, 1, 0, 0],
        &[12, 0, 0, 0, 1, 2, 0],
        &[12, 0, 0, 0, 1, 0, 1],
        &[12, 0, 0, 0, 1, 0, 2],
        &[12, 0, 0, 0, 20, 0, 0],
        &[16, 0, 0, 0, 1, 0, 2, 1, 0],
        &[12, 0, 0, 0, 1, 0, 0, 0],
        &[0xFE, 0xFF, 0xFF, 0xFF, 0x0F, 0, 0, 0, 1, 0, 0],
    ];
    for record in bad {
        let batch = batch_of(record);
        assert_eq!(refused(&batch, &rules()), ErrorCode::InvalidRecord, "{record:?}");
        assert!(entries(&batch).is_err(), "{record:?}");
        for codec in Codec::ALL {
            assert!(rebuild(&view(&batch), codec, None, 1 << 20, DECODED).is_err() || record.len() > 5, "{record:?}");
        }
    }
}

#[test]
fn compressed_garbage_is_refused() {
    for codec in Codec::ALL.into_iter().skip(1) {
        let batch = large(codec);
        for cut in [1, 2, 10, batch.len() / 2] {
            let mut short = batch[..batch.len() - cut].to_vec();
            let length = (short.len() - LOG_OVERHEAD) as i32;
            short[LENGTH_AT..LEADER_EPOCH_AT].copy_from_slice(&length.to_be_bytes());
            patch_crc(&mut short);
            let result = validate(&view(&short), &rules());
            // An end mark or a checksum may be cut off unnoticed, as in Kafka, but never a record.
            assert!(result.is_err() || cut <= 10, "{codec:?} cut by {cut}");
        }
        let garbage = changed(&batch, HEADER_LEN, &[0xFF; 20]);
        assert_eq!(refused(&garbage, &rules()), ErrorCode::InvalidRecord, "{codec:?}");
    }
}

#[test]
fn bombs_end_at_the_limit() {
    let zeros = vec![0; 8 << 20];
    for codec in Codec::ALL.into_iter().skip(1) {
        let mut builder = BatchBuilder::new().with_codec(codec);
        builder.push(NOW, None, Some(&zeros));
        let batch = builder.build(0, 0);
        assert!(validate(&view(&batch), &Rules { message_bytes_max: 1 << 30, ..rules() }).is_ok(), "{codec:?}");
        let limited = Rules { message_bytes_max: 1 << 30, decoded_max: 1 << 20, ..rules() };
        assert_eq!(refused(&batch, &limited), ErrorCode::InvalidRecord, "{codec:?}");
        let rebuilt = rebuild(&view(&batch), Codec::None, None, 1 << 20, DECODED);
        assert_eq!(rebuilt, Err(builder::RebuildError::TooLarge(1 << 20)), "{codec:?}");
    }
}

#[test]
fn rebuilding_into_every_codec() {
    for from in Codec::ALL {
        let batch = large(from);
        for into in Codec::ALL {
            let rebuilt = rebuild(&view(&batch), into, None, 1 << 20, DECODED).expect("rebuilt");
            assert_eq!(entries(&rebuilt), entries(&batch), "{from:?} into {into:?}");
            let header = view(&rebuilt);
            assert!(header.is_valid());
            assert_eq!(header.attributes().codec(), Some(into));
            assert_eq!((header.producer_id(), header.base_sequence(), header.record_count()), (4711, 42, 400));
            assert!(validate(&header, &rules()).is_ok());
        }
    }
    let levels = [(Codec::Gzip, 1), (Codec::Gzip, 9), (Codec::Zstd, -5), (Codec::Zstd, 19), (Codec::Lz4, 9)];
    for (codec, level) in levels {
        let rebuilt = rebuild(&view(&large(Codec::Snappy)), codec, Some(level), 1 << 20, DECODED).expect("rebuilt");
        assert_eq!(entries(&rebuilt), entries(&large(Codec::None)));
    }
}

#[test]
fn relative_offsets_of_old_clients_are_mended() {
    let good = [12, 0, 0, 0, 1, 0, 0];
    let mut builder = BatchBuilder::new();
    builder.push(NOW, None, Some(b""));
    builder.push(NOW, None, Some(b""));
    let mut batch = builder.build(0, 0)[..HEADER_LEN].to_vec();
    batch.extend_from_slice(&[good, good].concat());
    seal_for_test(&mut batch);
    let validated = validate(&view(&batch), &rules()).expect("valid");
    assert!(!validated.contiguous);
    let mended = rebuild(&view(&batch), Codec::None, None, 1000, DECODED).expect("mended");
    let offsets: Vec<i64> = entries(&mended).expect("read").iter().map(|entry| entry.offset).collect();
    assert_eq!(offsets, [0, 1]);
    assert!(validate(&view(&mended), &rules()).expect("valid").contiguous);
}

fn seal_for_test(batch: &mut [u8]) {
    let length = (batch.len() - LOG_OVERHEAD) as i32;
    batch[LENGTH_AT..LEADER_EPOCH_AT].copy_from_slice(&length.to_be_bytes());
    patch_crc(batch);
}

#[test]
fn records_are_found_by_timestamp() {
    let all: Vec<Entry> = (0..400).map(entry).collect();
    let max = all.iter().map(|entry| entry.timestamp).max().expect("entries");
    for codec in Codec::ALL {
        let batch = large(codec);
        for target in [0, all[0].timestamp, all[0].timestamp + 500, max, max + 1] {
            let expected =
                all.iter().find(|entry| entry.timestamp >= target).map(|entry| (entry.offset, entry.timestamp));
            assert_eq!(find_timestamp(&view(&batch), target, DECODED), Ok(expected), "{codec:?} {target}");
        }
        let first_max = all.iter().find(|entry| entry.timestamp == max).map(|entry| (entry.offset, max));
        assert_eq!(find_max_timestamp(&view(&batch), DECODED), Ok(first_max), "{codec:?}");
    }
}

#[test]
fn snappy_without_framing_is_read() {
    let plain = large(Codec::None);
    let mut batch = plain[..HEADER_LEN].to_vec();
    batch.extend_from_slice(&snap::raw::Encoder::new().compress_vec(&plain[HEADER_LEN..]).expect("compresses"));
    let attributes = view(&plain).attributes().with_codec(Codec::Snappy).0;
    batch[ATTRIBUTES_AT..LAST_OFFSET_DELTA_AT].copy_from_slice(&attributes.to_be_bytes());
    seal_for_test(&mut batch);
    assert_eq!(entries(&batch), entries(&plain));
}

#[test]
fn reading_a_batch_inside_another() {
    let batch = large(Codec::Zstd);
    let mut inner = 0;
    let flow = for_each_record::<()>(&view(&batch), DECODED, |_| {
        inner += usize::from(find_max_timestamp(&view(small(Codec::Zstd)), DECODED).is_ok());
        ControlFlow::Continue(())
    })
    .expect("read");
    assert_eq!((inner, flow), (400, ControlFlow::Continue(())));
}

#[test]
fn the_stock_codec_agrees_without_compression() {
    let records: Vec<KafkaRecord> = (0..400)
        .map(|i| {
            let entry = entry(i);
            KafkaRecord {
                transactional: false,
                control: false,
                partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
                producer_id: 4711,
                producer_epoch: 3,
                timestamp_type: TimestampType::Creation,
                offset: i,
                sequence: 42 + i as i32,
                timestamp: entry.timestamp,
                delete_horizon: false,
                key: entry.key.map(Bytes::from),
                value: entry.value.map(Bytes::from),
                headers: entry
                    .headers
                    .into_iter()
                    .map(|(key, value)| (String::from_utf8(key).expect("text").into(), value.map(Bytes::from)))
                    .collect(),
            }
        })
        .collect();
    let mut stock = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut stock, &records, &options).expect("encodes");
    assert_eq!(entries(&stock), Ok((0..400).map(entry).collect()));
    assert!(validate(&view(&stock), &rules()).is_ok());
    let decoded = RecordBatchDecoder::decode(&mut built(Codec::None, 400)).expect("decodes");
    assert_eq!(decoded.records, records);
}

/// Writes what `Batches.java read` checks with Kafka's own classes.
#[test]
#[ignore = "needs OTTLA_WRITE_BATCHES, a directory; then run Batches.java"]
fn write_batches_for_kafka() {
    let dir = std::env::var("OTTLA_WRITE_BATCHES").expect("OTTLA_WRITE_BATCHES");
    for codec in Codec::ALL {
        for count in [1, 3, 400] {
            let path = format!("{dir}/built-{}-{count}.bin", codec.name());
            std::fs::write(path, built(codec, count)).expect("written");
        }
        for from in Codec::ALL {
            let rebuilt = rebuild(&view(&large(from)), codec, None, 1 << 20, DECODED).expect("rebuilt");
            std::fs::write(format!("{dir}/rebuilt-{}-{}.bin", from.name(), codec.name()), rebuilt).expect("written");
        }
    }
}
