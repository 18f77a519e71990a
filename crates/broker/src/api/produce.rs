//! Produce (key 0), versions 3–13, advertised from 0: older librdkafka takes a broker without version 0 for one
//! that cannot compress (KAFKA-18659). Version 7 brings zstd, 8 record errors, 10 hints on the current leader,
//! 13 topic ids.
//!
//! acks=1 and acks=all mean the same: the answer waits until the log is durable. acks=0 gets no answer; an error
//! closes its connection, which is how such a producer learns that it must refresh its metadata. `timeout_ms`
//! is not looked at: a log that does not become durable fails, and takes the broker with it.
//!
//! Transactions: batches of one are refused, as nothing can have begun one.

use std::sync::Arc;

use bytes::Bytes;
use common::{Lsn, NodeId};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::StrBytes;
use metadata::{MetadataImage, TopicImage};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::partition::{AppendOrigin, AppendRefused, AppendedBatch, LookupError, Partition, is_internal};

/// Clients of this id may write to internal topics; Kafka's administrators use it to repair them.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// See the module.
pub(super) struct Produce;

impl Handle for Produce {
    type Request = ProduceRequest;
    const VERSIONS: (i16, i16) = (0, 13);
    const LOWEST_DECODED: i16 = 3;

    fn handle(broker: &Arc<Broker>, context: RequestContext, request: ProduceRequest) -> Reply<ProduceResponse> {
        let acks = request.acks;
        let image = broker.metadata.image();
        let mut produce = Producing {
            broker,
            image: &image,
            by_id: context.version >= 13,
            origin: AppendOrigin::Client { produce_version: context.version },
            internal_allowed: &*context.client_id == ADMIN_CLIENT_ID,
            acks_valid: matches!(acks, -1..=1),
            lsn: Lsn(0),
            error: None,
            leaders: Vec::new(),
        };
        let responses = request.topic_data.into_iter().map(|topic| produce.topic(topic)).collect();
        let Producing { lsn, error, leaders, .. } = produce;
        if acks == 0 {
            return match error {
                None => Reply::Silent,
                Some(code) => Reply::Close(format!("produce with acks=0 failed with error {code}")),
            };
        }
        let listener = &context.connection.listener;
        let endpoints = leaders.into_iter().filter_map(|leader| endpoint(&image, leader, listener)).collect();
        Reply::Durable(lsn, ProduceResponse::default().with_responses(responses).with_node_endpoints(endpoints))
    }
}

/// One request on its way through its partitions.
struct Producing<'a> {
    broker: &'a Broker,
    image: &'a MetadataImage,
    by_id: bool,
    origin: AppendOrigin,
    internal_allowed: bool,
    acks_valid: bool,
    /// Highest log position of all appends.
    lsn: Lsn,
    /// Code of the first error.
    error: Option<i16>,
    /// Leaders that clients were pointed to.
    leaders: Vec<NodeId>,
}

/// Why nothing was appended to a partition.
enum Failure {
    /// It is not here.
    Lookup(LookupError),
    /// It refused; with its first offset, where clients are told.
    Append(AppendRefused, i64),
}

impl Producing<'_> {
    fn topic(&mut self, data: TopicProduceData) -> TopicProduceResponse {
        let image = if self.by_id { self.image.topics.get(&data.topic_id) } else { self.image.topic(&data.name) };
        let partitions = data.partition_data.into_iter().map(|partition| self.partition(image, partition));
        let partition_responses = partitions.collect();
        let response = TopicProduceResponse::default().with_partition_responses(partition_responses);
        if self.by_id { response.with_topic_id(data.topic_id) } else { response.with_name(data.name) }
    }

    fn partition(&mut self, topic: Option<&Arc<TopicImage>>, data: PartitionProduceData) -> PartitionProduceResponse {
        let response = PartitionProduceResponse::default().with_index(data.index);
        let failure = match self.append(topic, data) {
            Ok(appended) => {
                self.lsn = self.lsn.max(appended.lsn);
                return response
                    .with_base_offset(appended.base_offset.0)
                    .with_log_append_time_ms(appended.log_append_time_ms)
                    .with_log_start_offset(appended.log_start.0);
            }
            Err(failure) => failure,
        };
        let response = response.with_base_offset(-1).with_log_append_time_ms(-1).with_log_start_offset(-1);
        match failure {
            Failure::Lookup(error) => self.not_here(response, error),
            Failure::Append(refused, log_start) => {
                self.error.get_or_insert(refused.code);
                with_refusal(response, refused).with_log_start_offset(log_start)
            }
        }
    }

    fn append(&self, topic: Option<&Arc<TopicImage>>, data: PartitionProduceData) -> Result<AppendedBatch, Failure> {
        let refuse = |code, message: &str| Failure::Append(AppendRefused::new(code, message), -1);
        let unknown =
            if self.by_id { LookupError::UnknownTopicId } else { LookupError::UnknownTopicOrPartition };
        let topic = topic.ok_or(Failure::Lookup(unknown))?;
        if !usize::try_from(data.index).is_ok_and(|index| index < topic.partitions.len()) {
            return Err(Failure::Lookup(LookupError::UnknownTopicOrPartition));
        }
        if !self.acks_valid {
            return Err(refuse(ErrorCode::InvalidRequiredAcks, "acks must be -1, 0 or 1"));
        }
        if is_internal(&topic.name) && !self.internal_allowed {
            return Err(refuse(ErrorCode::InvalidTopicException, "clients may not write to an internal topic"));
        }
        let partition = self.broker.partitions.lookup(topic, data.index).map_err(Failure::Lookup)?;
        let records = data.records.unwrap_or_default();
        let appended = append_to(&partition, &records, self.origin);
        self.count(topic.id, &records, appended.is_ok());
        appended
    }

    fn count(&self, topic: uuid::Uuid, records: &Bytes, is_ok: bool) {
        let bytes = records.len() as u64;
        self.broker.metrics.count(topic, |counted| {
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

    fn not_here(&mut self, response: PartitionProduceResponse, error: LookupError) -> PartitionProduceResponse {
        let code = error.code() as i16;
        self.error.get_or_insert(code);
        let response = response.with_error_code(code);
        let LookupError::NotLeader { leader, leader_epoch } = error else { return response };
        if !self.leaders.contains(&leader) {
            self.leaders.push(leader);
        }
        let current = LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader.0)).with_leader_epoch(leader_epoch);
        response.with_current_leader(current)
    }
}

/// Records of a batch that was found valid, as its header says.
fn record_count(batch: &Bytes) -> u64 {
    const COUNT_AT: std::ops::Range<usize> = 57..61;
    let count = batch.get(COUNT_AT).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_be_bytes);
    u64::try_from(count).unwrap_or(0)
}

fn append_to(partition: &Partition, records: &Bytes, origin: AppendOrigin) -> Result<AppendedBatch, Failure> {
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
        Failure::Append(refused, log_start)
    })
}

fn with_refusal(response: PartitionProduceResponse, refused: AppendRefused) -> PartitionProduceResponse {
    let record_errors = refused.record_errors.into_iter().map(|(index, message)| {
        BatchIndexAndErrorMessage::default()
            .with_batch_index(index)
            .with_batch_index_error_message(Some(StrBytes::from_string(message)))
    });
    response
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
