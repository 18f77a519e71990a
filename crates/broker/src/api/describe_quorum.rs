//! DescribeQuorum (key 55), versions 0–2: the metadata quorum, as the one partition of `__cluster_metadata`. Version 1
//! brings times, 2 directories and nodes. Any broker answers: it asks the active controller.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::describe_quorum_response::{Node, PartitionData, ReplicaState, TopicData};
use kafka_protocol::messages::{BrokerId, DescribeQuorumRequest, DescribeQuorumResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use metadata::{QuorumReplica, QuorumState};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;

/// See the module.
pub(super) struct DescribeQuorum;

/// Kafka's name of the metadata log.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// How long the active controller may take to answer.
const WAIT: Duration = Duration::from_secs(5);
/// What stands for a time that is not known.
const UNKNOWN_MS: i64 = -1;

impl Handle for DescribeQuorum {
    type Request = DescribeQuorumRequest;
    const VERSIONS: (i16, i16) = (0, 2);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: DescribeQuorumRequest,
    ) -> Reply<DescribeQuorumResponse> {
        let (version, broker) = (context.version, Arc::clone(broker));
        Reply::Later(Box::pin(async move {
            let quorum = broker.member.quorum(WAIT).await;
            answer(version, &request, &quorum, broker.clock.wall_ms())
        }))
    }
}

fn answer(version: i16, request: &DescribeQuorumRequest, quorum: &QuorumState, now_ms: i64) -> DescribeQuorumResponse {
    let response = DescribeQuorumResponse::default();
    let asks_for_the_log = match request.topics.as_slice() {
        [topic] => {
            let partitions: Vec<i32> = topic.partitions.iter().map(|partition| partition.partition_index).collect();
            &**topic.topic_name == METADATA_TOPIC && partitions == [0]
        }
        _ => false,
    };
    if !asks_for_the_log {
        return response.with_topics(unknown(version, request));
    }
    let partition = match quorum.is_leader {
        true => describe(version, quorum, now_ms),
        false => refused(version, 0, ErrorCode::NotLeaderOrFollower),
    };
    let topic = TopicData::default()
        .with_topic_name(TopicName(StrBytes::from_static_str(METADATA_TOPIC)))
        .with_partitions(vec![partition]);
    // Where nodes talk Raft with each other is no address for clients: it is not told.
    let nodes = if version >= 2 { quorum.voters.iter().chain(&quorum.observers) } else { [].iter().chain(&[]) };
    let nodes = nodes.map(|replica| Node::default().with_node_id(BrokerId(replica.node.0)));
    response.with_topics(vec![topic]).with_nodes(nodes.collect())
}

fn describe(version: i16, quorum: &QuorumState, now_ms: i64) -> PartitionData {
    let offset = |index: common::LogIndex| i64::try_from(index.0).unwrap_or(i64::MAX);
    let replica = |replica: &QuorumReplica| {
        // Of other nodes only how far they are is known, not since when.
        let time = if Some(replica.node) == quorum.leader { now_ms } else { UNKNOWN_MS };
        let state = ReplicaState::default()
            .with_replica_id(BrokerId(replica.node.0))
            .with_log_end_offset(offset(replica.log_end));
        match version {
            0 => state,
            _ => state.with_last_fetch_timestamp(time).with_last_caught_up_timestamp(time),
        }
    };
    PartitionData::default()
        .with_leader_id(BrokerId(quorum.leader.map_or(-1, |leader| leader.0)))
        .with_leader_epoch(i32::try_from(quorum.term).unwrap_or(i32::MAX))
        .with_high_watermark(offset(quorum.committed_end))
        .with_current_voters(quorum.voters.iter().map(replica).collect())
        .with_observers(quorum.observers.iter().map(replica).collect())
}

fn refused(version: i16, index: i32, code: ErrorCode) -> PartitionData {
    let message = (version >= 2).then(|| StrBytes::from_static_str(code.message()));
    let refused = PartitionData::default().with_partition_index(index).with_error_code(code.code());
    if version >= 2 { refused.with_error_message(message) } else { refused }
}

/// As in Kafka: whoever asks for anything but the one partition is told that there is nothing of what was asked for.
fn unknown(version: i16, request: &DescribeQuorumRequest) -> Vec<TopicData> {
    let topics = request.topics.iter().map(|topic| {
        let refused = topic
            .partitions
            .iter()
            .map(|partition| refused(version, partition.partition_index, ErrorCode::UnknownTopicOrPartition));
        TopicData::default().with_topic_name(topic.topic_name.clone()).with_partitions(refused.collect())
    });
    topics.collect()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use common::{LogIndex, NodeId};
    use kafka_protocol::messages::describe_quorum_request;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    fn quorum(is_leader: bool) -> QuorumState {
        let replica = |id, end| QuorumReplica { node: NodeId(id), log_end: LogIndex(end) };
        QuorumState {
            leader: Some(NodeId(1)),
            is_leader,
            term: 3,
            committed_end: LogIndex(20),
            voters: vec![replica(1, 21), replica(2, 20)],
            observers: vec![replica(4, 7)],
        }
    }

    fn request(topic: &'static str, partitions: &[i32]) -> DescribeQuorumRequest {
        let partition = |index: &i32| describe_quorum_request::PartitionData::default().with_partition_index(*index);
        let topic = describe_quorum_request::TopicData::default()
            .with_topic_name(TopicName(StrBytes::from_static_str(topic)))
            .with_partitions(partitions.iter().map(partition).collect());
        DescribeQuorumRequest::default().with_topics(vec![topic])
    }

    #[test]
    fn the_leader_describes_the_quorum_in_every_version() {
        for version in DescribeQuorum::VERSIONS.0..=DescribeQuorum::VERSIONS.1 {
            let response = answer(version, &request(METADATA_TOPIC, &[0]), &quorum(true), 1000);
            let partition = &response.topics[0].partitions[0];
            assert_eq!((partition.error_code, partition.leader_id.0, partition.leader_epoch), (0, 1, 3));
            assert_eq!(partition.high_watermark, 20);
            let ends: Vec<i64> = partition.current_voters.iter().map(|voter| voter.log_end_offset).collect();
            assert_eq!((ends, partition.observers[0].log_end_offset), (vec![21, 20], 7));
            assert_eq!(response.nodes.len(), if version < 2 { 0 } else { 3 });
            let encoded = response.encode(&mut BytesMut::new(), version);
            assert!(encoded.is_ok(), "version {version}: {encoded:?}");
        }
    }

    #[test]
    fn others_and_other_logs_are_refused_in_every_version() {
        for version in DescribeQuorum::VERSIONS.0..=DescribeQuorum::VERSIONS.1 {
            let code = |request: &DescribeQuorumRequest, is_leader| {
                let response = answer(version, request, &quorum(is_leader), 1000);
                let encoded = response.encode(&mut BytesMut::new(), version);
                assert!(encoded.is_ok(), "version {version}: {encoded:?}");
                response.topics[0].partitions.iter().map(|partition| partition.error_code).collect::<Vec<_>>()
            };
            assert_eq!(code(&request(METADATA_TOPIC, &[0]), false), [6]);
            assert_eq!(code(&request("t", &[0]), true), [3]);
            assert_eq!(code(&request(METADATA_TOPIC, &[0, 1]), true), [3, 3]);
        }
    }
}
