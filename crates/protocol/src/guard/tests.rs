use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::describe_topic_partitions_request::Cursor;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    DescribeTopicPartitionsRequest, MetadataRequest, ProduceRequest, RequestHeader as KafkaHeader, TopicName,
};
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::*;

fn frame(key: ApiKey, version: i16, body: &impl Encodable) -> Vec<u8> {
    let mut out = BytesMut::new();
    KafkaHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("c")))
        .encode(&mut out, key.request_header_version(version))
        .expect("header");
    body.encode(&mut out, version).expect("body");
    out.to_vec()
}

fn produce(version: i16, records: usize) -> Vec<u8> {
    let partition = PartitionProduceData::default().with_index(3).with_records(Some(Bytes::from(vec![7; records])));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_static_str(if version < 13 { "topic" } else { "" })))
        .with_partition_data(vec![partition]);
    frame(ApiKey::Produce, version, &ProduceRequest::default().with_topic_data(vec![topic]))
}

#[test]
fn every_shape_the_table_names_exists() {
    assert!(REQUESTS.is_sorted_by_key(|request| request.key));
    let shape_exists = |index: u16| assert!(usize::from(index) < SHAPES.len());
    for shape in SHAPES {
        assert!(shape.len_min > 0);
        for step in shape.steps {
            match step {
                Step::Array { element, .. } | Step::CompactArray { element, .. } | Step::Nullable(element) => {
                    shape_exists(*element)
                }
                Step::Tags(known) => known.iter().for_each(|(_, shape)| shape_exists(*shape)),
                _ => {}
            }
        }
    }
    for request in REQUESTS {
        assert!(!request.shapes.is_empty());
        request.shapes.iter().for_each(|shape| shape_exists(*shape));
    }
}

#[test]
fn a_request_passes_whole_and_no_part_of_it_does() {
    for version in 3..=13 {
        let request = produce(version, 1000);
        let guarded = check(&request).unwrap_or_else(|error| panic!("v{version}: {error}"));
        assert_eq!(guarded.header.api_key, ApiKey::Produce);
        for len in 0..request.len() {
            assert!(check(&request[..len]).is_err(), "v{version} cut to {len}");
        }
        let mut longer = request.clone();
        longer.push(0);
        // Bytes after the request are ignored, as in Kafka: librdkafka 2.15 sends three with Metadata 13.
        assert!(check(&longer).is_ok(), "v{version}");
    }
}

#[test]
fn counts_that_cannot_be_true() {
    // A 4-byte body that makes the decoder ask for 155 GB.
    let mut request = frame(ApiKey::Metadata, 1, &MetadataRequest::default().with_topics(None));
    let at = request.len() - 4;
    request[at..].copy_from_slice(&i32::MAX.to_be_bytes());
    assert_eq!(check(&request), Err(GuardError::Truncated(request.len())));
    request[at..].copy_from_slice(&(-2_i32).to_be_bytes());
    assert_eq!(check(&request), Err(GuardError::Length(request.len())));
    request.truncate(at);
    request[2..4].copy_from_slice(&0_i16.to_be_bytes());
    request.extend_from_slice(&(-1_i32).to_be_bytes());
    assert_eq!(check(&request), Err(GuardError::Length(request.len())), "null is not allowed in version 0");
}

/// Found by the hostile test: the codec takes a structure to follow after 1 only, Kafka after anything not negative.
#[test]
fn a_nullable_structure_is_there_or_not() {
    let request = DescribeTopicPartitionsRequest::default().with_cursor(Some(Cursor::default()));
    let mut request = frame(ApiKey::DescribeTopicPartitions, 0, &request);
    let marker = request.len() - 1 - 7;
    assert_eq!(request[marker], 1);
    for (value, accepted) in [(1, true), (0, false), (2, false), (0x19, false), (0x7f, false)] {
        request[marker] = value;
        let expected = if accepted { Ok(()) } else { Err(GuardError::Marker(marker + 1)) };
        assert_eq!(check(&request).map(|_| ()), expected, "{value}");
    }
    request.drain(marker + 1..marker + 7);
    for value in [0xff, 0x80] {
        request[marker] = value;
        check(&request).expect("null");
    }
}

#[test]
fn unknown_keys_and_versions() {
    let mut request = produce(3, 100);
    request[2..4].copy_from_slice(&2_i16.to_be_bytes());
    assert_eq!(check(&request), Err(GuardError::Version { key: 0, version: 2 }));
    request[2..4].copy_from_slice(&14_i16.to_be_bytes());
    assert!(check(&request).is_err());
    request[2..4].copy_from_slice(&i16::MIN.to_be_bytes());
    assert!(check(&request).is_err());
    request[0..2].copy_from_slice(&4_i16.to_be_bytes());
    assert!(check(&request).is_err());
    request[0..2].copy_from_slice(&999_i16.to_be_bytes());
    assert_eq!(check(&request), Err(GuardError::Header(FrameError::UnknownKey(999))));
}

#[test]
fn amplification_is_bounded() {
    let topics = vec![MetadataRequestTopic::default().with_name(Some(TopicName::default())); 100_000];
    let request = frame(ApiKey::Metadata, 9, &MetadataRequest::default().with_topics(Some(topics)));
    assert!(matches!(check(&request), Err(GuardError::Memory { .. })));
    let topics = vec![
        MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string("t".repeat(20)))));
        100_000
    ];
    let request = frame(ApiKey::Metadata, 9, &MetadataRequest::default().with_topics(Some(topics)));
    assert!(check(&request).is_ok());
    let topics = vec![
        MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string("t".repeat(200)))));
        100_000
    ];
    let request = frame(ApiKey::Metadata, 9, &MetadataRequest::default().with_topics(Some(topics)));
    assert!(matches!(check(&request), Err(GuardError::Structure { .. })));
}

#[test]
fn tagged_fields_have_the_size_they_claim() {
    let body =
        kafka_protocol::messages::FetchRequest::default().with_cluster_id(Some(StrBytes::from_static_str("abc")));
    let request = frame(ApiKey::Fetch, 12, &body);
    assert!(check(&request).is_ok());
    // The tag's size stands five bytes before the end: size, compact length, three characters.
    let size_at = request.len() - 5;
    assert_eq!(request[size_at], 4);
    for size in [3, 5] {
        let mut wrong = request.clone();
        wrong[size_at] = size;
        assert!(check(&wrong).is_err());
    }
}

#[test]
fn large_frames_are_for_requests_that_carry_bytes() {
    assert_eq!(frame_max(ApiKey::Produce, 100 << 20), 100 << 20);
    assert_eq!(frame_max(ApiKey::SyncGroup, 100 << 20), 100 << 20);
    assert_eq!(frame_max(ApiKey::Metadata, 100 << 20), 8 << 20);
    assert_eq!(frame_max(ApiKey::CreateTopics, 1 << 20), 1 << 20);
}
