//! DescribeProducers (key 61), version 0 (KIP-664): the producers a partition remembers, with their open transactions.
//! With it operators find transactions that hang: those that a partition holds open and no coordinator knows.
//!
//! Errors of a partition: `UNKNOWN_TOPIC_OR_PARTITION`, `NOT_LEADER_OR_FOLLOWER`. Differences to Kafka: a partition that is
//! asked for several times is answered once, and an answer has at most [`PRODUCERS_MAX`] producers; partitions beyond
//! that get `INVALID_REQUEST`, and can be asked for alone.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};
use kafka_protocol::protocol::StrBytes;
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::partition::{ActiveProducer, LookupError};

/// Producers in one answer: some 5 MB, and more than one partition remembers.
const PRODUCERS_MAX: usize = 1 << 17;

/// See the module.
pub(super) struct DescribeProducers;

impl Handle for DescribeProducers {
    type Request = DescribeProducersRequest;
    const VERSIONS: (i16, i16) = (0, 0);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: DescribeProducersRequest,
    ) -> Reply<DescribeProducersResponse> {
        let mut left = PRODUCERS_MAX;
        let mut seen = HashSet::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for TopicRequest { name, partition_indexes, .. } in request.topics {
            let mut partitions = Vec::new();
            for index in partition_indexes {
                if seen.insert((name.clone(), index)) {
                    partitions.push(answer(index, producers(broker, &name, index, &mut left)));
                }
            }
            topics.push(TopicResponse::default().with_name(name).with_partitions(partitions));
        }
        Reply::Now(DescribeProducersResponse::default().with_topics(topics))
    }
}

/// Why a partition's producers are not told, with a text where the code does not say all.
type Refusal = (ErrorCode, Option<&'static str>);

fn producers(broker: &Broker, topic: &str, index: i32, left: &mut usize) -> Result<Vec<ActiveProducer>, Refusal> {
    let found = broker.partitions.lookup_name(topic, index);
    let partition = found.map_err(|error| (LookupError::code(error), None))?;
    if !partition.is_serving() {
        return Err((ErrorCode::NotLeaderOrFollower, None));
    }
    let told = partition.active_producers(*left);
    let told =
        told.ok_or((ErrorCode::InvalidRequest, Some("too many producers for one answer: ask for fewer partitions")))?;
    *left -= told.len();
    Ok(told)
}

fn answer(index: i32, producers: Result<Vec<ActiveProducer>, Refusal>) -> PartitionResponse {
    let response = PartitionResponse::default().with_partition_index(index);
    match producers {
        Ok(producers) => response.with_active_producers(producers.into_iter().map(state).collect()),
        Err((code, message)) => {
            response.with_error_code(code.code()).with_error_message(message.map(StrBytes::from_static_str))
        }
    }
}

fn state(producer: ActiveProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(producer.producer_id))
        .with_producer_epoch(producer.producer_epoch.into())
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.last_timestamp_ms)
        .with_coordinator_epoch(producer.coordinator_epoch)
        .with_current_txn_start_offset(producer.transaction_start.unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::protocol::Encodable;

    use super::*;

    #[test]
    fn producers_and_errors_are_told() {
        let producer = ActiveProducer {
            producer_id: 7,
            producer_epoch: 3,
            last_sequence: 41,
            last_timestamp_ms: 1_000,
            coordinator_epoch: -1,
            transaction_start: Some(12),
        };
        let idle = ActiveProducer { producer_id: 8, transaction_start: None, ..producer };
        let told = answer(2, Ok(vec![producer, idle]));
        assert_eq!((told.partition_index, told.error_code, told.active_producers.len()), (2, 0, 2));
        let [first, second] = &told.active_producers[..] else { panic!("two") };
        assert_eq!((first.producer_id.0, first.producer_epoch, first.last_sequence), (7, 3, 41));
        assert_eq!((first.current_txn_start_offset, second.current_txn_start_offset), (12, -1));
        let refused = answer(5, Err((ErrorCode::NotLeaderOrFollower, None)));
        assert_eq!((refused.error_code, refused.error_message.is_none()), (6, true));
        let topic = TopicResponse::default().with_partitions(vec![told, refused]);
        let response = DescribeProducersResponse::default().with_topics(vec![topic]);
        assert!(response.encode(&mut bytes::BytesMut::new(), 0).is_ok());
    }
}
