//! OffsetForLeaderEpoch (key 23), versions 2–4: where the records of a leader epoch end. Consumers find out with
//! it whether the log they have read was truncated.

use std::sync::Arc;

use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::partition::LookupError;

/// See the module.
pub(super) struct OffsetForLeaderEpoch;

impl Handle for OffsetForLeaderEpoch {
    type Request = OffsetForLeaderEpochRequest;
    const VERSIONS: (i16, i16) = (2, 4);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: OffsetForLeaderEpochRequest,
    ) -> Reply<OffsetForLeaderEpochResponse> {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| end_of(broker, &topic.topic, partition)).collect();
            OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
        });
        Reply::Now(OffsetForLeaderEpochResponse::default().with_topics(topics.collect()))
    }
}

fn end_of(broker: &Broker, topic: &str, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let answer = EpochEndOffset::default().with_partition(asked.partition);
    let found =
        broker.partitions.lookup_name(topic, asked.partition).map_err(LookupError::code).and_then(|partition| {
            partition.check_leader_epoch(asked.current_leader_epoch)?;
            if !partition.is_serving() {
                return Err(ErrorCode::NotLeaderOrFollower);
            }
            Ok(partition.end_of_epoch(asked.leader_epoch))
        });
    match found {
        Ok(Some((epoch, end))) => answer.with_leader_epoch(epoch).with_end_offset(end.0),
        Ok(None) => answer.with_leader_epoch(-1).with_end_offset(-1),
        Err(code) => answer.with_error_code(code as i16).with_leader_epoch(-1).with_end_offset(-1),
    }
}
