//! The Fetch response, versions 4–18, written by hand: record bytes stay slices of cache memory, of which one
//! partition may have many, and go to the socket by a vectored write without ever being joined.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use protocol::rope::{EncodeError, ResponseFrame, Rope};
use uuid::Uuid;

use super::session::FetchKey;

/// First version whose arrays and strings are compact and whose structures end with tagged fields.
const FLEXIBLE: i16 = 12;

/// Answer for one partition.
#[derive(Clone, Debug, Default)]
pub struct PartitionAnswer {
    /// Kafka's error code.
    pub error_code: i16,
    /// High watermark, -1 with an error.
    pub high_watermark: i64,
    /// Last stable offset, -1 with an error.
    pub last_stable_offset: i64,
    /// Log start offset, -1 with an error.
    pub log_start_offset: i64,
    /// Aborted transactions that `records` may hold records of, as (producer id, first offset), by ascending first
    /// offset: some clients count on that. For read_committed; `None` for read_uncommitted.
    pub aborted: Option<Vec<(i64, i64)>>,
    /// Leader and epoch that the client should use instead (versions 12 and later).
    pub current_leader: Option<(i32, i32)>,
    /// Whole record batches, in order.
    pub records: Vec<Bytes>,
}

impl PartitionAnswer {
    /// An answer that carries nothing but an error.
    #[must_use]
    pub fn error(code: i16) -> Self {
        Self { error_code: code, high_watermark: -1, last_stable_offset: -1, log_start_offset: -1, ..Self::default() }
    }

    /// Bytes of its records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

/// Where clients reach a leader that an answer names (versions 16 and later).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderEndpoint {
    /// Node id.
    pub id: i32,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// Rack.
    pub rack: Option<String>,
}

/// A whole response.
#[derive(Debug, Default)]
pub struct FetchAnswer {
    /// Error of the request as a whole: sessions.
    pub error_code: i16,
    /// Session id, 0 for none.
    pub session_id: i32,
    /// Answers in serving order; neighbours of the same topic share its entry.
    pub partitions: Vec<(FetchKey, PartitionAnswer)>,
    /// Endpoints of the leaders named above.
    pub endpoints: Vec<LeaderEndpoint>,
}

impl FetchAnswer {
    /// The whole frame at `version`: fields, with the record slices linked between them.
    pub fn encode(&self, version: i16, correlation_id: i32) -> Result<ResponseFrame, EncodeError> {
        let mut rope = Rope::new(ApiKey::Fetch, version, correlation_id);
        let mut out = Encoder { flexible: version >= FLEXIBLE, rope: &mut rope };
        out.fields().put_i32(0);
        if version >= 7 {
            out.fields().put_i16(self.error_code);
            out.fields().put_i32(self.session_id);
        }
        let same_topic = |a: &(FetchKey, _), b: &(FetchKey, _)| a.0.topic == b.0.topic && a.0.topic_id == b.0.topic_id;
        out.array(self.partitions.chunk_by(same_topic).count());
        for topic in self.partitions.chunk_by(same_topic) {
            out.topic(version, topic);
        }
        out.endpoints(version, &self.endpoints);
        rope.finish()
    }
}

struct Encoder<'a> {
    flexible: bool,
    rope: &'a mut Rope,
}

impl Encoder<'_> {
    fn fields(&mut self) -> &mut BytesMut {
        self.rope.fields()
    }

    fn topic(&mut self, version: i16, partitions: &[(FetchKey, PartitionAnswer)]) {
        let Some((key, _)) = partitions.first() else { return };
        if version >= 13 {
            self.uuid(key.topic_id);
        } else {
            self.string(Some(&key.topic));
        }
        self.array(partitions.len());
        for (key, answer) in partitions {
            self.partition(version, key.partition, answer);
        }
        self.no_tags();
    }

    fn partition(&mut self, version: i16, index: i32, answer: &PartitionAnswer) {
        self.fields().put_i32(index);
        self.fields().put_i16(answer.error_code);
        self.fields().put_i64(answer.high_watermark);
        self.fields().put_i64(answer.last_stable_offset);
        if version >= 5 {
            self.fields().put_i64(answer.log_start_offset);
        }
        self.aborted(answer.aborted.as_deref());
        if version >= 11 {
            // No preferred read replica.
            self.fields().put_i32(-1);
        }
        self.records(&answer.records);
        if self.flexible {
            self.current_leader(answer.current_leader);
        }
    }

    fn aborted(&mut self, aborted: Option<&[(i64, i64)]>) {
        let Some(aborted) = aborted else {
            if self.flexible {
                self.varint(0);
            } else {
                self.fields().put_i32(-1);
            }
            return;
        };
        self.array(aborted.len());
        for (producer_id, first_offset) in aborted {
            self.fields().put_i64(*producer_id);
            self.fields().put_i64(*first_offset);
            self.no_tags();
        }
    }

    /// Length, then the slices as pieces of their own. Never null: some clients reject negative sizes.
    fn records(&mut self, records: &[Bytes]) {
        self.length(records.iter().map(Bytes::len).sum());
        records.iter().for_each(|slice| self.rope.link(slice));
    }

    /// Tagged field 1 of a partition: leader id and epoch.
    fn current_leader(&mut self, leader: Option<(i32, i32)>) {
        let Some((id, epoch)) = leader else { return self.no_tags() };
        self.varint(1);
        self.varint(1);
        self.varint(9);
        self.fields().put_i32(id);
        self.fields().put_i32(epoch);
        self.varint(0);
    }

    /// Tagged field 0 of the response, from version 16 on.
    fn endpoints(&mut self, version: i16, endpoints: &[LeaderEndpoint]) {
        if version < 16 || endpoints.is_empty() {
            return self.no_tags();
        }
        let string = |text: &str| compact_len(text.len()) + text.len();
        let entry = |endpoint: &LeaderEndpoint| {
            let rack = endpoint.rack.as_deref().map_or(1, string);
            4 + string(&endpoint.host) + 4 + rack + 1
        };
        let bytes = compact_len(endpoints.len()) + endpoints.iter().map(entry).sum::<usize>();
        self.varint(1);
        self.varint(0);
        self.varint(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.array(endpoints.len());
        for endpoint in endpoints {
            self.fields().put_i32(endpoint.id);
            self.string(Some(&endpoint.host));
            self.fields().put_i32(i32::from(endpoint.port));
            self.string(endpoint.rack.as_deref());
            self.no_tags();
        }
    }

    fn string(&mut self, text: Option<&str>) {
        match (text, self.flexible) {
            (None, true) => self.varint(0),
            (None, false) => self.fields().put_i16(-1),
            (Some(text), true) => {
                self.length(text.len());
                self.fields().extend_from_slice(text.as_bytes());
            }
            (Some(text), false) => {
                self.fields().put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
                self.fields().extend_from_slice(text.as_bytes());
            }
        }
    }

    fn uuid(&mut self, id: Uuid) {
        self.fields().extend_from_slice(id.as_bytes());
    }

    fn array(&mut self, count: usize) {
        self.length(count);
    }

    /// A length or count: plus one and as a varint in flexible versions, four bytes before.
    fn length(&mut self, length: usize) {
        if self.flexible {
            self.varint(u32::try_from(length + 1).unwrap_or(u32::MAX));
        } else {
            self.fields().put_i32(i32::try_from(length).unwrap_or(i32::MAX));
        }
    }

    fn no_tags(&mut self) {
        if self.flexible {
            self.varint(0);
        }
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.fields().put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.fields().put_u8(value as u8);
    }
}

/// Bytes of a compact length: the varint of the length plus one.
fn compact_len(length: usize) -> usize {
    let bits = usize::BITS - (length + 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
    };
    use kafka_protocol::messages::{BrokerId, FetchResponse, ProducerId, TopicName};
    use kafka_protocol::protocol::StrBytes;

    use super::*;

    fn key(topic: &str, partition: i32) -> FetchKey {
        FetchKey { topic_id: Uuid::from_u128(77), topic: StrBytes::from_string(topic.into()), partition }
    }

    fn answer() -> FetchAnswer {
        let data = PartitionAnswer {
            error_code: 0,
            high_watermark: 10,
            last_stable_offset: 9,
            log_start_offset: 3,
            aborted: Some(vec![(5, 6)]),
            current_leader: None,
            records: vec![Bytes::from_static(b"first batch"), Bytes::from_static(b"second")],
        };
        let moved = PartitionAnswer { current_leader: Some((2, 7)), ..PartitionAnswer::error(6) };
        FetchAnswer {
            error_code: 0,
            session_id: 42,
            partitions: vec![(key("t", 0), data), (key("t", 1), moved), (key("t", 2), PartitionAnswer::error(1))],
            endpoints: vec![LeaderEndpoint { id: 2, host: "h".into(), port: 9092, rack: Some("r".into()) }],
        }
    }

    /// The same response through the general encoder.
    fn reference(answer: &FetchAnswer, version: i16) -> Vec<u8> {
        let partitions = answer.partitions.iter().map(|(key, answer)| {
            let mut data = PartitionData::default()
                .with_partition_index(key.partition)
                .with_error_code(answer.error_code)
                .with_high_watermark(answer.high_watermark)
                .with_last_stable_offset(answer.last_stable_offset)
                .with_log_start_offset(if version >= 5 { answer.log_start_offset } else { -1 })
                .with_records(Some(answer.records.concat().into()))
                .with_aborted_transactions(answer.aborted.as_ref().map(|list| {
                    let entry = |(id, first): &(i64, i64)| {
                        AbortedTransaction::default().with_producer_id(ProducerId(*id)).with_first_offset(*first)
                    };
                    list.iter().map(entry).collect()
                }));
            if let (Some((id, epoch)), true) = (answer.current_leader, version >= 12) {
                data.current_leader = LeaderIdAndEpoch::default().with_leader_id(BrokerId(id)).with_leader_epoch(epoch);
            }
            data
        });
        let mut topic = FetchableTopicResponse::default().with_partitions(partitions.collect());
        if version >= 13 {
            topic.topic_id = Uuid::from_u128(77);
        } else {
            topic.topic = TopicName(StrBytes::from_static_str("t"));
        }
        let mut response = FetchResponse::default().with_responses(vec![topic]);
        if version >= 7 {
            response.session_id = answer.session_id;
        }
        if version >= 16 {
            let endpoint = |e: &LeaderEndpoint| {
                NodeEndpoint::default()
                    .with_node_id(BrokerId(e.id))
                    .with_host(StrBytes::from_string(e.host.clone()))
                    .with_port(i32::from(e.port))
                    .with_rack(e.rack.clone().map(StrBytes::from_string))
            };
            response.node_endpoints = answer.endpoints.iter().map(endpoint).collect();
        }
        protocol::rope::encode(ApiKey::Fetch, version, 9, &response).expect("the reference encodes").segments().concat()
    }

    #[test]
    fn every_version_is_byte_identical_to_the_general_encoder() {
        for version in 4..=18 {
            let answer = answer();
            let frame = answer.encode(version, 9).expect("encodes");
            assert_eq!(frame.segments().concat(), reference(&answer, version), "version {version}");
        }
    }

    #[test]
    fn long_records_are_linked_not_copied() {
        let mut answer = answer();
        answer.partitions[0].1.records = vec![Bytes::from(vec![1; 5000]), Bytes::from(vec![2; 6000])];
        let frame = answer.encode(18, 9).expect("encodes");
        for record in &answer.partitions[0].1.records {
            assert!(frame.segments().iter().any(|piece| std::ptr::eq(piece.as_ptr(), record.as_ptr())));
        }
    }
}
