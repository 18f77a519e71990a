//! Response frames whose records are linked, not copied: small fields go to one buffer, records stay the
//! `Bytes` they are, and a vectored write sends both.

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{ApiKey, FetchResponse};
use kafka_protocol::protocol::{Encodable, StrBytes};
use smallvec::SmallVec;

use crate::frame::{LENGTH_LEN, put_response_header};

/// Records shorter than this are copied: a segment of its own costs more.
pub const LINK_LEN_MIN: usize = 1024;
/// First flexible version of Fetch.
const FETCH_FLEXIBLE: i16 = 12;
/// First version of Fetch that names topics by id.
const FETCH_TOPIC_IDS: i16 = 13;
/// First version of Fetch with a session and an error of its own.
const FETCH_SESSIONS: i16 = 7;

/// Why a response could not be encoded. The connection must be closed, or another response sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A field does not exist in this version, or is too long for its type.
    #[error("the response does not fit version {version}: {reason}")]
    Field {
        /// Version asked for.
        version: i16,
        /// What the codec says.
        reason: String,
    },
    /// The frame exceeds what a length field can say.
    #[error("the response of {0} bytes exceeds a frame")]
    TooLarge(usize),
}

/// A frame under construction.
#[derive(Debug)]
pub struct Rope {
    fields: BytesMut,
    /// Linked bytes, each with the position in `fields` before which it belongs; ascending.
    links: Vec<(usize, Bytes)>,
    linked_len: usize,
}

/// A whole frame, length included, in the pieces to be written one after the other.
#[derive(Clone, Debug, Default)]
pub struct ResponseFrame {
    segments: Vec<Bytes>,
    len: usize,
}

impl ResponseFrame {
    /// The pieces in order; none is empty.
    #[must_use]
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// The pieces in order, owned.
    #[must_use]
    pub fn into_segments(self) -> Vec<Bytes> {
        self.segments
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to write; never so for a finished rope.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Rope {
    /// A frame that starts with the response header for this request.
    #[must_use]
    pub fn new(key: ApiKey, version: i16, correlation_id: i32) -> Self {
        let mut fields = BytesMut::with_capacity(256);
        fields.put_i32(0);
        put_response_header(&mut fields, key, version, correlation_id);
        Self { fields, links: Vec::new(), linked_len: 0 }
    }

    /// The buffer for small fields; append only.
    pub fn fields(&mut self) -> &mut BytesMut {
        &mut self.fields
    }

    /// Puts `bytes` behind everything so far: linked if long, copied if short.
    pub fn link(&mut self, bytes: &Bytes) {
        if bytes.len() < LINK_LEN_MIN {
            self.fields.put_slice(bytes);
        } else {
            self.linked_len += bytes.len();
            self.links.push((self.fields.len(), bytes.clone()));
        }
    }

    /// The frame, with its length set.
    pub fn finish(mut self) -> Result<ResponseFrame, EncodeError> {
        let len = self.fields.len() + self.linked_len;
        let length = i32::try_from(len - LENGTH_LEN).map_err(|_| EncodeError::TooLarge(len))?;
        self.fields[..LENGTH_LEN].copy_from_slice(&length.to_be_bytes());
        let fields = self.fields.freeze();
        let mut segments = Vec::with_capacity(self.links.len() * 2 + 1);
        let mut at = 0;
        for (position, bytes) in self.links {
            if position > at {
                segments.push(fields.slice(at..position));
                at = position;
            }
            segments.push(bytes);
        }
        if at < fields.len() {
            segments.push(fields.slice(at..));
        }
        Ok(ResponseFrame { segments, len })
    }
}

/// Encodes a response without records.
pub fn encode(key: ApiKey, version: i16, correlation_id: i32, body: &impl Encodable) -> Result<ResponseFrame, EncodeError> {
    let mut rope = Rope::new(key, version, correlation_id);
    put(&mut rope.fields, body, version)?;
    rope.finish()
}

/// Encodes a Fetch response, linking its records. The same bytes as [`encode`] would give.
pub fn encode_fetch(version: i16, correlation_id: i32, body: &mut FetchResponse) -> Result<ResponseFrame, EncodeError> {
    let mut rope = Rope::new(ApiKey::Fetch, version, correlation_id);
    // All but the topics is encoded by the crate; they go in front of what follows their (then empty) array.
    let topics = std::mem::take(&mut body.responses);
    let start = rope.fields.len();
    let encoded = put(&mut rope.fields, body, version);
    body.responses = topics;
    encoded?;
    let flexible = version >= FETCH_FLEXIBLE;
    let array_at = start + if version >= FETCH_SESSIONS { 4 + 2 + 4 } else { 4 };
    let tail = cut_field(&mut rope.fields, array_at, if flexible { 1 } else { 4 });
    put_count(&mut rope.fields, body.responses.len(), flexible);
    for topic in &mut body.responses {
        put_topic(&mut rope, topic, version)?;
    }
    rope.fields.put_slice(&tail);
    rope.finish()
}

fn put_topic(rope: &mut Rope, topic: &mut FetchableTopicResponse, version: i16) -> Result<(), EncodeError> {
    let flexible = version >= FETCH_FLEXIBLE;
    let partitions = std::mem::take(&mut topic.partitions);
    let start = rope.fields.len();
    let encoded = put(&mut rope.fields, topic, version);
    topic.partitions = partitions;
    encoded?;
    let name_len = if version >= FETCH_TOPIC_IDS { 16 } else { string_len(&topic.topic, flexible) };
    let array_at = start + name_len;
    let tail = cut_field(&mut rope.fields, array_at, if flexible { 1 } else { 4 });
    put_count(&mut rope.fields, topic.partitions.len(), flexible);
    for partition in &mut topic.partitions {
        put_partition(rope, partition, version)?;
    }
    rope.fields.put_slice(&tail);
    Ok(())
}

fn put_partition(rope: &mut Rope, partition: &mut PartitionData, version: i16) -> Result<(), EncodeError> {
    let flexible = version >= FETCH_FLEXIBLE;
    let records = partition.records.take();
    let start = rope.fields.len();
    let encoded = put(&mut rope.fields, partition, version);
    partition.records = records;
    encoded?;
    let Some(records) = &partition.records else { return Ok(()) };
    let records_at = start + fixed_len(version) + aborted_len(partition, version)?;
    // Behind the records come tagged fields only, a byte as a rule.
    let tail = cut_field(&mut rope.fields, records_at, if flexible { 1 } else { 4 });
    let length = i32::try_from(records.len()).map_err(|_| EncodeError::TooLarge(records.len()))?;
    if flexible {
        put_unsigned_varint(&mut rope.fields, length as u32 + 1);
    } else {
        rope.fields.put_i32(length);
    }
    rope.link(records);
    rope.fields.put_slice(&tail);
    Ok(())
}

/// Bytes of a partition's fields before its aborted transactions, and of the preferred read replica behind.
fn fixed_len(version: i16) -> usize {
    let index_error_offsets = 4 + 2 + 8 + 8;
    let log_start_offset = if version >= 5 { 8 } else { 0 };
    let preferred_read_replica = if version >= 11 { 4 } else { 0 };
    index_error_offsets + log_start_offset + preferred_read_replica
}

fn aborted_len(partition: &PartitionData, version: i16) -> Result<usize, EncodeError> {
    let aborted = partition.aborted_transactions.as_deref().unwrap_or_default();
    let count_len = match (version >= FETCH_FLEXIBLE, &partition.aborted_transactions) {
        (false, _) => 4,
        (true, None) => 1,
        (true, Some(aborted)) => unsigned_varint_len(aborted.len() as u32 + 1),
    };
    Ok(aborted.iter().map(|entry| size(entry, version)).sum::<Result<usize, _>>()? + count_len)
}

fn put(out: &mut BytesMut, body: &impl Encodable, version: i16) -> Result<(), EncodeError> {
    body.encode(out, version).map_err(|error| EncodeError::Field { version, reason: error.to_string() })
}

fn size(body: &impl Encodable, version: i16) -> Result<usize, EncodeError> {
    body.compute_size(version).map_err(|error| EncodeError::Field { version, reason: error.to_string() })
}

/// Cuts `out` off at `at` and returns what stood `field_len` bytes behind: short as a rule, so copied.
fn cut_field(out: &mut BytesMut, at: usize, field_len: usize) -> SmallVec<[u8; 64]> {
    let tail = SmallVec::from_slice(&out[at + field_len..]);
    out.truncate(at);
    tail
}

fn put_count(out: &mut BytesMut, count: usize, flexible: bool) {
    if flexible {
        put_unsigned_varint(out, count as u32 + 1);
    } else {
        out.put_i32(count as i32);
    }
}

fn string_len(text: &StrBytes, flexible: bool) -> usize {
    text.len() + if flexible { unsigned_varint_len(text.len() as u32 + 1) } else { 2 }
}

fn unsigned_varint_len(value: u32) -> usize {
    (38 - (value | 1).leading_zeros() as usize) / 7
}

fn put_unsigned_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, EpochEndOffset, LeaderIdAndEpoch, NodeEndpoint, SnapshotId,
    };
    use kafka_protocol::messages::{BrokerId, ProducerId, TopicName};
    use kafka_protocol::protocol::Message as _;

    use super::*;

    fn partition(index: i32, version: i16, records: Option<Bytes>) -> PartitionData {
        let mut data = PartitionData::default()
            .with_partition_index(index)
            .with_high_watermark(1000)
            .with_last_stable_offset(900)
            .with_records(records);
        if version >= 5 {
            data.log_start_offset = 7;
        }
        data.aborted_transactions = match index % 3 {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(vec![AbortedTransaction::default().with_producer_id(ProducerId(9)).with_first_offset(3); 130]),
        };
        if version >= 11 {
            data.preferred_read_replica = BrokerId(3);
        }
        if version >= 12 && index % 2 == 0 {
            data.current_leader = LeaderIdAndEpoch::default().with_leader_id(BrokerId(1)).with_leader_epoch(5);
            data.diverging_epoch = EpochEndOffset::default().with_epoch(1).with_end_offset(8);
            data.snapshot_id = SnapshotId::default().with_epoch(1).with_end_offset(8);
            data.unknown_tagged_fields.insert(9, Bytes::from_static(b"tag"));
        }
        data
    }

    fn response(version: i16) -> FetchResponse {
        let records = [
            None,
            Some(Bytes::new()),
            Some(Bytes::from(vec![1; LINK_LEN_MIN - 1])),
            Some(Bytes::from(vec![2; LINK_LEN_MIN])),
            Some(Bytes::from(vec![3; 200_000])),
        ];
        let mut body = FetchResponse::default().with_throttle_time_ms(5);
        if version >= 7 {
            body = body.with_error_code(6).with_session_id(77);
        }
        if version >= 16 {
            body.node_endpoints = vec![NodeEndpoint::default().with_node_id(BrokerId(4)).with_port(9)];
        }
        for topic_index in 0..3 {
            let partitions =
                (0..10).map(|index| partition(index, version, records[(index + topic_index) as usize % 5].clone())).collect();
            let mut topic = FetchableTopicResponse::default().with_partitions(partitions);
            if version >= FETCH_TOPIC_IDS {
                topic.topic_id = uuid::Uuid::from_u128(5);
            } else {
                topic.topic = TopicName(StrBytes::from_string("t".repeat(100 + 100 * topic_index as usize)));
            }
            body.responses.push(topic);
        }
        body
    }

    #[test]
    fn fetch_is_byte_identical_to_the_stock_encoder_and_links_long_records() {
        for version in FetchResponse::VERSIONS.min..=FetchResponse::VERSIONS.max {
            let mut body = response(version);
            let mut stock = BytesMut::new();
            stock.put_i32(0);
            put_response_header(&mut stock, ApiKey::Fetch, version, 42);
            body.encode(&mut stock, version).expect("stock encodes");
            let length = stock.len() as i32 - 4;
            stock[..4].copy_from_slice(&length.to_be_bytes());

            let frame = encode_fetch(version, 42, &mut body).expect("encodes");
            assert_eq!(frame.len(), stock.len(), "v{version}");
            assert_eq!(frame.segments().concat(), stock, "v{version}");
            assert!(frame.segments().iter().all(|segment| !segment.is_empty()));
            let records = body.responses[0].partitions[4].records.clone().expect("records");
            assert!(frame.segments().iter().any(|segment| std::ptr::eq(segment.as_ref(), records.as_ref())), "v{version}");
            assert_eq!(body, response(version), "the response is left as it was");
        }
    }

    #[test]
    fn an_empty_fetch_response_and_a_plain_one() {
        for version in [4, 7, 12, 18] {
            let mut body = FetchResponse::default();
            let linked = encode_fetch(version, 1, &mut body).expect("encodes");
            let plain = encode(ApiKey::Fetch, version, 1, &body).expect("encodes");
            assert_eq!(linked.segments(), plain.segments());
        }
    }
}
