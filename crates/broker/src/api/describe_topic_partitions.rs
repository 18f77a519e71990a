//! DescribeTopicPartitions (key 75), version 0: topics by name, in pages. A page ends at the limit with a cursor
//! on the partition that comes next; no topics asked for means all.

use std::sync::Arc;

use kafka_protocol::messages::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{BrokerId, DescribeTopicPartitionsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use metadata::{MetadataImage, PartitionImage, TopicImage};
use protocol::ErrorCode;

use super::metadata::{ALL_TOPIC_OPERATIONS, Replicas};
use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::config::is_internal_topic;
use crate::topics::check_name;

/// See the module.
pub(crate) struct DescribeTopicPartitions;

/// Partitions one page holds at most, Kafka's `max.request.partition.size.limit`.
const PAGE_MAX: usize = 2_000;

impl Handle for DescribeTopicPartitions {
    type Request = DescribeTopicPartitionsRequest;
    const VERSIONS: (i16, i16) = (0, 0);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: DescribeTopicPartitionsRequest,
    ) -> Reply<DescribeTopicPartitionsResponse> {
        let image = broker.metadata.image();
        if !image.nodes.contains_key(&broker.config.node_id) {
            return Reply::Close("metadata is not loaded yet".to_owned());
        }
        Reply::Now(page(&image, &request))
    }
}

fn page(image: &MetadataImage, request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let cursor = request.cursor.as_ref().map(|cursor| (&*cursor.topic_name.0, cursor.partition_index));
    if cursor.is_some_and(|(_, partition)| partition < 0) {
        let refuse = |topic: &kafka_protocol::messages::describe_topic_partitions_request::TopicRequest| {
            error_topic(ErrorCode::InvalidRequest, &topic.name)
        };
        let topics = request.topics.iter().map(refuse).collect();
        return DescribeTopicPartitionsResponse::default().with_topics(topics);
    }
    let from = cursor.map_or("", |(name, _)| name);
    let mut names: Vec<&str> = match request.topics.is_empty() {
        true => image.topic_ids.range(Arc::<str>::from(from)..).map(|(name, _)| &**name).collect(),
        false => request.topics.iter().map(|topic| &**topic.name).filter(|name| *name >= from).collect(),
    };
    names.sort_unstable();
    names.dedup();
    let mut left = usize::try_from(request.response_partition_limit).unwrap_or(1).clamp(1, PAGE_MAX);
    let mut topics = Vec::new();
    for name in names {
        let Some(topic) = image.topic(name) else {
            let illegal = check_name(name).is_err();
            let code = if illegal { ErrorCode::InvalidTopicException } else { ErrorCode::UnknownTopicOrPartition };
            topics.push(error_topic(code, name));
            continue;
        };
        let first = cursor.filter(|(at, _)| *at == name).map_or(0, |(_, partition)| partition);
        let first = usize::try_from(first).unwrap_or(0);
        if left == 0 {
            return finish(topics, Some((name, first)));
        }
        let end = topic.partitions.len().min(first.saturating_add(left));
        topics.push(describe(image, topic, first..end));
        left -= end.saturating_sub(first);
        if end < topic.partitions.len() {
            return finish(topics, Some((name, end)));
        }
    }
    finish(topics, None)
}

fn finish(
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    next: Option<(&str, usize)>,
) -> DescribeTopicPartitionsResponse {
    let cursor = next.map(|(name, partition)| {
        Cursor::default()
            .with_topic_name(topic_name(name))
            .with_partition_index(i32::try_from(partition).unwrap_or(i32::MAX))
    });
    DescribeTopicPartitionsResponse::default().with_topics(topics).with_next_cursor(cursor)
}

fn describe(
    image: &MetadataImage,
    topic: &TopicImage,
    range: std::ops::Range<usize>,
) -> DescribeTopicPartitionsResponseTopic {
    let partitions = topic.partitions.iter().enumerate().take(range.end).skip(range.start);
    let partitions = partitions.map(|(index, partition)| describe_partition(image, index, partition));
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(topic.id)
        .with_is_internal(is_internal_topic(&topic.name))
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(ALL_TOPIC_OPERATIONS)
}

fn describe_partition(
    image: &MetadataImage,
    index: usize,
    partition: &PartitionImage,
) -> DescribeTopicPartitionsResponsePartition {
    let replicas = Replicas::of(image, partition);
    let leader = image.leader_or_none(partition);
    let code = if leader.is_some() { 0 } else { ErrorCode::LeaderNotAvailable.code() };
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(code)
        .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
        .with_leader_id(BrokerId(leader.map_or(-1, |leader| leader.0)))
        .with_leader_epoch(partition.leader_epoch)
        .with_replica_nodes(replicas.all)
        .with_isr_nodes(replicas.in_sync)
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
        .with_offline_replicas(replicas.offline)
}

fn error_topic(code: ErrorCode, name: &str) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(code.code())
        .with_name(Some(topic_name(name)))
        .with_is_internal(is_internal_topic(name))
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

#[cfg(test)]
mod tests;
