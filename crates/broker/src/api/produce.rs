//! Produce (key 0), versions 3–13, advertised from 0: older librdkafka takes a broker without version 0 for one
//! that cannot compress (KAFKA-18659). Version 7 brings zstd, 8 record errors, 10 hints on the current leader,
//! 13 topic ids.
//!
//! acks=1 and acks=all mean the same: the answer waits until the log is durable. acks=0 gets no answer; an error
//! closes its connection, which is how such a producer learns that it must refresh its metadata. As in Kafka only
//! acks=all has a time limit, `timeout_ms`: a log that is slower than that is answered with REQUEST_TIMED_OUT, which
//! says nothing about the records; they are in the log and will most likely stay.
//!
//! A batch for which the log has no room, or whose partition is just being opened or moved, waits a while, and with it all
//! requests behind it on its connection: a
//! refused batch comes again behind those that were sent after it, so that producers that are not idempotent would
//! reorder records in any burst that a log cannot take at once.
//!
//! A gap in a producer's sequence that such a refusal made is not called one: see [`gaps`].
//!
//! The first batch of a transaction in a partition waits for the transaction's coordinator: see [`transactional`].

pub(crate) mod gaps;
mod transactional;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use common::{Lsn, NodeId};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ApiKey, BrokerId, ProduceRequest, ProduceResponse, ResponseHeader};
use kafka_protocol::protocol::{Decodable, StrBytes};
use metadata::{MetadataImage, TopicImage};
use protocol::ErrorCode;
use protocol::batch::validate::sole_batch;

use super::{Handle, Late, Reply, RequestContext};
use crate::Broker;
use crate::network::{ConnectionInfo, Frame};
use crate::partition::{AppendOrigin, AppendRefused, AppendedBatch, LookupError, Partition, is_internal};
use transactional::{Verified, unverified, verify_and_append};

/// Clients of this id may write to internal topics; Kafka's administrators use it to repair them.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// How long a batch waits for room at most; clients mean seconds by their time limits.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often it looks: room comes with every flush, upload and new segment.
const ROOM_CHECK: Duration = Duration::from_millis(5);

/// See the module.
pub(super) struct Produce;

impl Handle for Produce {
    type Request = ProduceRequest;
    const VERSIONS: (i16, i16) = (0, 13);
    const LOWEST_DECODED: i16 = 3;

    fn handle(broker: &Arc<Broker>, context: RequestContext, mut request: ProduceRequest) -> Reply<ProduceResponse> {
        keep_one_of_each(&mut request.topic_data, context.version);
        if request.transactional_id.is_some() && request.acks == -1 {
            let unverified = unverified(broker, &request, context.version);
            if !unverified.is_empty() {
                return verify_and_append(Arc::clone(broker), context, request, unverified);
            }
        }
        append(broker, &context, request, &Verified::new())
    }
}

/// Appends what the request holds; the reply waits for what is not durable yet. `verified` has what was found out about
/// transactions that begin here.
fn append(
    broker: &Arc<Broker>,
    context: &RequestContext,
    request: ProduceRequest,
    verified: &Verified,
) -> Reply<ProduceResponse> {
    let acks = request.acks;
    let image = broker.metadata.image();
    let mut produce = Producing {
        broker,
        image: &image,
        by_id: context.version >= 13,
        origin: AppendOrigin::Client {
            produce_version: context.version,
            behind_refusal: context.connection.refused_batch.is_recent(broker.clock.as_ref()),
            guard: None,
        },
        internal_allowed: &*context.client_id == ADMIN_CLIENT_ID,
        verified,
        acks,
        lsn: Lsn(0),
        error: None,
        leaders: Vec::new(),
        waiting: Vec::new(),
    };
    let topics = request.topic_data.into_iter().enumerate();
    let mut responses: Vec<_> = topics.map(|(at, topic)| produce.topic(at, topic)).collect();
    let Producing { lsn, error, leaders, waiting, .. } = produce;
    if acks == 0 {
        return match error {
            None => Reply::Silent,
            Some(code) => Reply::Close(format!("produce with acks=0 failed with error {code}")),
        };
    }
    settle(broker, &context.connection, &mut responses, &waiting);
    let listener = &context.connection.listener;
    let endpoints = leaders.into_iter().filter_map(|leader| endpoint(&image, leader, listener)).collect();
    let response = ProduceResponse::default().with_responses(responses).with_node_endpoints(endpoints);
    let within = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    if !waiting.is_empty() {
        let within = (acks == -1).then_some(within);
        return Reply::Later(Box::pin(when_there_is_room(
            Arc::clone(broker),
            response,
            lsn,
            waiting,
            within,
            Arc::clone(&context.connection),
        )));
    }
    if acks != -1 {
        return Reply::Durable(lsn, response);
    }
    Reply::DurableWithin(lsn, response, Late { within, version: context.version, rewrite: timed_out })
}

/// Keeps gaps that refusals made from being called gaps, in all answers but those that `waiting` will replace.
fn settle(broker: &Broker, connection: &ConnectionInfo, responses: &mut [TopicProduceResponse], waiting: &[Waiting]) {
    let mut waiting = waiting.iter().peekable();
    for (t, topic) in responses.iter_mut().enumerate() {
        for (p, answer) in topic.partition_responses.iter_mut().enumerate() {
            let is_replaced = waiting.next_if(|waiting| (waiting.topic, waiting.entry) == (t, p)).is_some();
            if answer.error_code != 0 && !is_replaced {
                connection.refused_batch.settle(broker.clock.as_ref(), answer);
            }
        }
    }
}

/// The same response with REQUEST_TIMED_OUT for every partition that was appended to.
fn timed_out(frame: Frame, version: i16) -> Frame {
    let (pieces, _) = frame.into_parts();
    let mut bytes = Bytes::from(pieces.concat());
    bytes.advance(bytes.len().min(protocol::frame::LENGTH_LEN));
    let header = ResponseHeader::decode(&mut bytes, ApiKey::Produce.response_header_version(version));
    let (Ok(header), Ok(mut response)) = (header, ProduceResponse::decode(&mut bytes, version)) else {
        return Frame::default();
    };
    set_timed_out(&mut response);
    Frame::response(ApiKey::Produce as i16, version, header.correlation_id, &response)
}

fn set_timed_out(response: &mut ProduceResponse) {
    let partitions = response.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses);
    for partition in partitions.filter(|partition| partition.error_code == 0) {
        partition.error_code = ErrorCode::RequestTimedOut.code();
    }
}

/// A batch that the partition did not take yet (the log is full, or the partition is being opened or moved), and where its
/// answer stands in the response.
struct Waiting {
    topic: usize,
    entry: usize,
    id: uuid::Uuid,
    index: i32,
    records: Bytes,
    origin: AppendOrigin,
}

impl Waiting {
    /// Tries again, in the newest image: the partition may have come here or gone elsewhere meanwhile.
    fn append(&self, broker: &Broker) -> Result<AppendedBatch, Failure> {
        let image = broker.metadata.image();
        let topic = image.topics.get(&self.id).ok_or(Failure::Lookup(LookupError::UnknownTopicOrPartition))?;
        let partition = broker.partitions.lookup(topic, self.index).map_err(Failure::Lookup)?;
        append_to(&partition, &self.records, self.origin).map_err(|(refused, start)| Failure::Append(refused, start))
    }
}

/// Appends what waits, and completes the response when all of it is durable, or `within` is over. While others wait
/// for the memory of requests nobody waits for room: consumers have to go on.
async fn when_there_is_room(
    broker: Arc<Broker>,
    mut response: ProduceResponse,
    mut lsn: Lsn,
    waiting: Vec<Waiting>,
    within: Option<Duration>,
    connection: Arc<ConnectionInfo>,
) -> ProduceResponse {
    let listener = &connection.listener;
    let since = broker.clock.boot();
    let patience = within.unwrap_or(ROOM_WAIT_MAX).min(ROOM_WAIT_MAX);
    for waiting in waiting {
        let appended = loop {
            let appended = waiting.append(&broker);
            let is_patient = broker.clock.boot() - since < patience && !broker.request_memory.is_contended();
            if !is_patient || !appended.as_ref().is_err_and(Failure::may_pass) {
                break appended;
            }
            tokio::time::sleep(ROOM_CHECK).await;
        };
        count(&broker, waiting.id, &waiting.records, appended.is_ok());
        let answer = PartitionProduceResponse::default().with_index(waiting.index);
        let mut answer = match appended {
            Ok(appended) => {
                lsn = lsn.max(appended.lsn);
                with_offsets(answer, &appended)
            }
            Err(Failure::Append(refused, log_start)) => with_refusal(answer, refused, log_start),
            Err(Failure::Lookup(error)) => {
                let (answer, leader) = elsewhere(answer, error);
                let told = |id: NodeId| response.node_endpoints.iter().any(|endpoint| endpoint.node_id.0 == id.0);
                let leader = leader.filter(|leader| !told(*leader));
                let image = broker.metadata.image();
                response.node_endpoints.extend(leader.and_then(|leader| endpoint(&image, leader, listener)));
                answer
            }
        };
        connection.refused_batch.settle(broker.clock.as_ref(), &mut answer);
        response.responses[waiting.topic].partition_responses[waiting.entry] = answer;
    }
    let durable = broker.wal.durable().wait(lsn);
    let left = within.map_or(Duration::MAX, |within| (since + within).saturating_sub(broker.clock.boot()));
    match tokio::time::timeout(left, durable).await {
        Ok(Ok(())) => {}
        // The outcome stays unknown; the process ends, and the connection with it.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => set_timed_out(&mut response),
    }
    response
}

/// Of several entries for one partition Kafka takes the last, of those that hold exactly one batch if there are any;
/// the others are neither appended nor answered.
fn keep_one_of_each(topics: &mut [TopicProduceData], version: i16) {
    let ascending = |topic: &TopicProduceData| topic.partition_data.is_sorted_by(|a, b| a.index < b.index);
    if topics.len() <= 1 && topics.iter().all(ascending) {
        return;
    }
    let is_sound =
        |data: &PartitionProduceData| sole_batch(data.records.as_deref().unwrap_or_default(), version).is_ok();
    let mut kept = HashMap::new();
    let mut dropped = Vec::new();
    for (t, topic) in topics.iter().enumerate() {
        for (p, data) in topic.partition_data.iter().enumerate() {
            let key = (topic.topic_id, topic.name.as_str(), data.index);
            let Some(earlier) = kept.insert(key, (t, p, data)) else { continue };
            if is_sound(data) || !is_sound(earlier.2) {
                dropped.push((earlier.0, earlier.1));
            } else {
                kept.insert(key, earlier);
                dropped.push((t, p));
            }
        }
    }
    dropped.sort_unstable();
    let mut dropped = dropped.into_iter().peekable();
    for (t, topic) in topics.iter_mut().enumerate() {
        let mut p = 0..;
        topic.partition_data.retain(|_| dropped.next_if_eq(&(t, p.next().unwrap_or(usize::MAX))).is_none());
    }
}

/// One request on its way through its partitions.
struct Producing<'a> {
    broker: &'a Broker,
    image: &'a MetadataImage,
    by_id: bool,
    origin: AppendOrigin,
    internal_allowed: bool,
    verified: &'a Verified,
    acks: i16,
    /// Highest log position of all appends.
    lsn: Lsn,
    /// Code of the first error.
    error: Option<i16>,
    /// Leaders that clients were pointed to.
    leaders: Vec<NodeId>,
    /// What the log had no room for.
    waiting: Vec<Waiting>,
}

/// The answer for a partition that is not here, and who leads it, if that is somebody else.
fn elsewhere(response: PartitionProduceResponse, error: LookupError) -> (PartitionProduceResponse, Option<NodeId>) {
    let response = without_offsets(response).with_error_code(error.code() as i16);
    let LookupError::NotLeader { leader, leader_epoch } = error else { return (response, None) };
    let current = LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader.0)).with_leader_epoch(leader_epoch);
    (response.with_current_leader(current), Some(leader))
}

/// Why nothing was appended to a partition.
enum Failure {
    /// It is not here.
    Lookup(LookupError),
    /// It refused; with its first offset, where clients are told.
    Append(AppendRefused, i64),
}

impl Failure {
    /// Whether the same batch may be taken in a moment: when there is room, or the partition is open here, or known to be
    /// elsewhere.
    fn may_pass(&self) -> bool {
        match self {
            Self::Lookup(error) => *error == LookupError::Opening,
            Self::Append(refused, _) => {
                let passing = [ErrorCode::NotEnoughReplicas, ErrorCode::NotLeaderOrFollower];
                passing.iter().any(|code| code.code() == refused.code)
            }
        }
    }
}

impl Producing<'_> {
    fn topic(&mut self, at: usize, data: TopicProduceData) -> TopicProduceResponse {
        let image = if self.by_id { self.image.topics.get(&data.topic_id) } else { self.image.topic(&data.name) };
        let partitions = data.partition_data.into_iter().enumerate();
        let partition_responses = partitions.map(|(entry, data)| self.partition(image, (at, entry), data)).collect();
        let response = TopicProduceResponse::default().with_partition_responses(partition_responses);
        if self.by_id { response.with_topic_id(data.topic_id) } else { response.with_name(data.name) }
    }

    fn partition(
        &mut self,
        topic: Option<&Arc<TopicImage>>,
        at: (usize, usize),
        data: PartitionProduceData,
    ) -> PartitionProduceResponse {
        let response = PartitionProduceResponse::default().with_index(data.index);
        match self.append(topic, at, data) {
            Ok(appended) => {
                self.lsn = self.lsn.max(appended.lsn);
                with_offsets(response, &appended)
            }
            Err(Failure::Lookup(error)) => self.not_here(response, error),
            Err(Failure::Append(refused, log_start)) => {
                self.error.get_or_insert(refused.code);
                with_refusal(response, refused, log_start)
            }
        }
    }

    fn append(
        &mut self,
        topic: Option<&Arc<TopicImage>>,
        at: (usize, usize),
        data: PartitionProduceData,
    ) -> Result<AppendedBatch, Failure> {
        let refuse = |code, message: &str| Failure::Append(AppendRefused::new(code, message), -1);
        let unknown = if self.by_id { LookupError::UnknownTopicId } else { LookupError::UnknownTopicOrPartition };
        let topic = topic.ok_or(Failure::Lookup(unknown))?;
        if topic.partition(data.index).is_none() {
            return Err(Failure::Lookup(LookupError::UnknownTopicOrPartition));
        }
        if !matches!(self.acks, -1..=1) {
            return Err(refuse(ErrorCode::InvalidRequiredAcks, "acks must be -1, 0 or 1"));
        }
        if is_internal(&topic.name) && !self.internal_allowed {
            return Err(refuse(ErrorCode::InvalidTopicException, "clients may not write to an internal topic"));
        }
        let waiting = Waiting {
            topic: at.0,
            entry: at.1,
            id: topic.id,
            index: data.index,
            records: data.records.unwrap_or_default(),
            origin: self.origin_at((topic.id, data.index)).map_err(|code| refuse(code, code.message()))?,
        };
        let partition = self.broker.partitions.lookup(topic, data.index).map_err(Failure::Lookup);
        let appended = partition.and_then(|partition| {
            append_to(&partition, &waiting.records, waiting.origin)
                .map_err(|(refused, start)| Failure::Append(refused, start))
        });
        if self.acks != 0 && appended.as_ref().is_err_and(Failure::may_pass) {
            self.waiting.push(waiting);
        } else {
            count(self.broker, topic.id, &waiting.records, appended.is_ok());
        }
        appended
    }

    /// How a batch of that partition comes, or why it may not.
    fn origin_at(&self, at: (uuid::Uuid, i32)) -> Result<AppendOrigin, ErrorCode> {
        match self.verified.get(&at) {
            Some(verdict) => verdict.map(|guard| self.origin.guarded(guard)),
            None => Ok(self.origin),
        }
    }

    fn not_here(&mut self, response: PartitionProduceResponse, error: LookupError) -> PartitionProduceResponse {
        let (response, leader) = elsewhere(response, error);
        self.error.get_or_insert(response.error_code);
        if let Some(leader) = leader.filter(|leader| !self.leaders.contains(leader)) {
            self.leaders.push(leader);
        }
        response
    }
}

fn count(broker: &Broker, topic: uuid::Uuid, records: &Bytes, is_ok: bool) {
    let bytes = records.len() as u64;
    broker.metrics.count(topic, |counted| {
        counted.produce_requests.add(1);
        if is_ok {
            counted.bytes_in.add(bytes);
            counted.messages_in.add(record_count(records));
        } else {
            counted.bytes_rejected.add(bytes);
            counted.failed_produce_requests.add(1);
        }
    });
}

/// Records of a batch that was found valid, as its header says.
fn record_count(batch: &Bytes) -> u64 {
    const COUNT_AT: std::ops::Range<usize> = 57..61;
    let count = batch.get(COUNT_AT).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_be_bytes);
    u64::try_from(count).unwrap_or(0)
}

/// A refusal comes with the first offset of the partition, where clients are told.
fn append_to(
    partition: &Partition,
    records: &Bytes,
    origin: AppendOrigin,
) -> Result<AppendedBatch, (AppendRefused, i64)> {
    partition.append(records, origin).map_err(|refused| {
        // As in Kafka: only some failures tell where the log starts.
        let untold = matches!(
            ErrorCode::from_code(refused.code),
            Some(
                ErrorCode::NotLeaderOrFollower
                    | ErrorCode::MessageTooLarge
                    | ErrorCode::RecordListTooLarge
                    | ErrorCode::CorruptMessage
            )
        );
        let log_start = if untold { -1 } else { partition.log_start().0 };
        (refused, log_start)
    })
}

fn with_offsets(response: PartitionProduceResponse, appended: &AppendedBatch) -> PartitionProduceResponse {
    response
        .with_base_offset(appended.base_offset.0)
        .with_log_append_time_ms(appended.log_append_time_ms)
        .with_log_start_offset(appended.log_start.0)
}

fn without_offsets(response: PartitionProduceResponse) -> PartitionProduceResponse {
    response.with_base_offset(-1).with_log_append_time_ms(-1).with_log_start_offset(-1)
}

fn with_refusal(
    response: PartitionProduceResponse,
    refused: AppendRefused,
    log_start: i64,
) -> PartitionProduceResponse {
    let record_errors = refused.record_errors.into_iter().map(|(index, message)| {
        BatchIndexAndErrorMessage::default()
            .with_batch_index(index)
            .with_batch_index_error_message(Some(StrBytes::from_string(message)))
    });
    without_offsets(response)
        .with_log_start_offset(log_start)
        .with_error_code(refused.code)
        .with_record_errors(record_errors.collect())
        .with_error_message(refused.message.map(StrBytes::from_string))
}

/// Where a client of `listener` reaches a node.
fn endpoint(image: &MetadataImage, node: NodeId, listener: &str) -> Option<NodeEndpoint> {
    let node = image.nodes.get(&node)?;
    let endpoint = node.endpoints.iter().find(|endpoint| endpoint.listener == listener)?;
    let reached = NodeEndpoint::default()
        .with_node_id(BrokerId(node.id.0))
        .with_host(StrBytes::from_string(endpoint.host.clone()))
        .with_port(i32::from(endpoint.port));
    Some(reached.with_rack(node.rack.as_ref().map(|rack| StrBytes::from_string(rack.to_string()))))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::TopicName;
    use protocol::batch::builder::BatchBuilder;

    use super::*;

    fn entry(index: i32, records: impl Into<Bytes>) -> PartitionProduceData {
        PartitionProduceData::default().with_index(index).with_records(Some(records.into()))
    }

    fn batch(value: &[u8]) -> Bytes {
        let mut batch = BatchBuilder::new();
        batch.push(-1, None, Some(value));
        batch.build(0, -1)
    }

    fn topic(name: &'static str, entries: Vec<PartitionProduceData>) -> TopicProduceData {
        TopicProduceData::default().with_name(TopicName(StrBytes::from_static_str(name))).with_partition_data(entries)
    }

    #[test]
    fn of_several_entries_for_a_partition_the_last_sound_one_stays() {
        let (a, b, c) = (batch(b"a"), batch(b"b"), batch(b"c"));
        let first = vec![entry(1, a.clone()), entry(0, a.clone()), entry(1, b.clone()), entry(1, "no batch")];
        let second = vec![entry(0, c.clone()), entry(7, "first"), entry(7, "second")];
        let mut topics = vec![topic("t", first.clone()), topic("u", second), topic("t", vec![entry(0, c.clone())])];
        keep_one_of_each(&mut topics, 9);
        let left: Vec<(i32, Bytes)> = topics
            .iter()
            .flat_map(|topic| &topic.partition_data)
            .map(|data| (data.index, data.records.clone().expect("records")))
            .collect();
        assert_eq!(left, vec![(1, b.clone()), (0, c.clone()), (7, "second".into()), (0, c)]);
        let mut one = vec![topic("t", first)];
        keep_one_of_each(&mut one, 9);
        assert_eq!(one[0].partition_data, vec![entry(0, a), entry(1, b)]);
    }

    #[test]
    fn a_late_answer_tells_of_the_time_and_keeps_errors() {
        let partition = |index: i32, code: ErrorCode| {
            PartitionProduceResponse::default().with_index(index).with_error_code(code.code()).with_base_offset(5)
        };
        let partitions = vec![partition(0, ErrorCode::None), partition(1, ErrorCode::InvalidRecord)];
        for version in Produce::LOWEST_DECODED..=Produce::VERSIONS.1 {
            let topic = TopicProduceResponse::default().with_partition_responses(partitions.clone());
            let response = ProduceResponse::default().with_responses(vec![topic]);
            let on_time = Frame::response(ApiKey::Produce as i16, version, 7, &response);
            let mut expected = response;
            expected.responses[0].partition_responses[0].error_code = ErrorCode::RequestTimedOut.code();
            let expected = Frame::response(ApiKey::Produce as i16, version, 7, &expected);
            let late = timed_out(on_time, version);
            assert_eq!(late.into_parts().0.concat(), expected.into_parts().0.concat(), "version {version}");
        }
    }
}
