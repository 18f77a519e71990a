//! What the protocol layer costs per frame, batch and response.

#![allow(missing_docs)]

use std::hint::black_box;

use broker::fetch::response::{FetchAnswer, PartitionAnswer};
use broker::fetch::session::FetchKey;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use protocol::batch::{BatchBuilder, BatchView, Codec, Rules, validate};
use protocol::guard;
use protocol::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use protocol::kafka::messages::{ApiKey, ProduceRequest, RequestHeader, TopicName};
use protocol::kafka::protocol::{Decodable, Encodable, StrBytes};
use uuid::Uuid;

const NOW_MS: i64 = 1_700_000_000_000;
const PRODUCE_VERSION: i16 = 11;
const FETCH_VERSION: i16 = 17;

/// A batch of about `batch_bytes` in records of `record_bytes`, half random, half repeating.
fn batch(codec: Codec, record_bytes: usize, batch_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new().with_codec(codec);
    let mut state = 1_u64;
    let mut value = vec![b'x'; record_bytes];
    while builder.size() < batch_bytes {
        for byte in &mut value[..record_bytes / 2] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        builder.push(NOW_MS, None, Some(&value));
    }
    builder.build(0, 0)
}

fn produce_frame(partitions: i32, records: &Bytes) -> Bytes {
    let partition = |index| PartitionProduceData::default().with_index(index).with_records(Some(records.clone()));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_static_str("benchmark")))
        .with_partition_data((0..partitions).map(partition).collect());
    let mut out = Vec::new();
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::Produce as i16)
        .with_request_api_version(PRODUCE_VERSION)
        .with_client_id(Some(StrBytes::from_static_str("producer-1")));
    header.encode(&mut out, ApiKey::Produce.request_header_version(PRODUCE_VERSION)).expect("header encodes");
    ProduceRequest::default().with_topic_data(vec![topic]).encode(&mut out, PRODUCE_VERSION).expect("body encodes");
    Bytes::from(out)
}

fn requests(c: &mut Criterion) {
    let frame = produce_frame(10, &batch(Codec::None, 1000, 16 << 10));
    let body_at = guard::check(&frame).expect("valid").header.len;
    let mut group = c.benchmark_group("produce request, 10 partitions");
    group.bench_function("guard", |b| b.iter(|| guard::check(black_box(&frame)).is_ok()));
    group.bench_function("decode", |b| {
        b.iter(|| ProduceRequest::decode(&mut frame.slice(body_at..), PRODUCE_VERSION).expect("decodes"));
    });
    group.finish();
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch of 64 KiB");
    for record_bytes in [1024, 100] {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let bytes = batch(codec, record_bytes, 64 << 10);
            let view = BatchView::exactly_one(&bytes).expect("one batch");
            let rules = Rules::defaults(NOW_MS);
            // Of decoded bytes, so that codecs compare.
            group.throughput(Throughput::Bytes(64 << 10));
            group.bench_function(format!("validate, {record_bytes} B records, {}", codec.name()), |b| {
                b.iter(|| validate(black_box(&view), &rules).expect("valid"));
            });
        }
    }
    let bytes = batch(Codec::None, 1024, 64 << 10);
    let view = BatchView::exactly_one(&bytes).expect("one batch");
    group.bench_function("CRC-32C", |b| b.iter(|| black_box(&view).is_valid()));
    group.finish();
}

/// Slices of the log cache, four to a partition, as one response.
fn fetch_answer() -> FetchAnswer {
    let slice = Bytes::from(vec![7; 256 << 10]);
    let partition = |partition| {
        let answer =
            PartitionAnswer { high_watermark: 10, records: vec![slice.clone(); 4], ..PartitionAnswer::default() };
        (FetchKey { topic_id: Uuid::from_u128(7), topic: StrBytes::default(), partition }, answer)
    };
    FetchAnswer { partitions: (0..64).map(partition).collect(), ..FetchAnswer::default() }
}

fn fetch(c: &mut Criterion) {
    let answer = fetch_answer();
    let mut group = c.benchmark_group("fetch response, 64 partitions of 4 slices");
    group.bench_function("encode", |b| b.iter(|| black_box(&answer).encode(FETCH_VERSION, 1).expect("encodes").len()));
    group.finish();
}

criterion_group!(benches, requests, batches, fetch);
criterion_main!(benches);
