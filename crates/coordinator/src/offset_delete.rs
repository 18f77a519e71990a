//! OffsetDelete: removes committed offsets of topics that no member consumes.

use std::sync::Arc;

use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use protocol::ErrorCode;

use crate::group::{ClassicGroup, GroupState};
use crate::record::CoordinatorRecord;
use crate::shard::GroupShard;

impl GroupShard {
    pub(crate) fn offset_delete(
        &self,
        request: &OffsetDeleteRequest,
        records: &mut Vec<CoordinatorRecord>,
    ) -> OffsetDeleteResponse {
        let id = request.group_id.as_str();
        let classic = self.groups.get_key_value(id);
        let consumer = self.persisted.consumer_groups.get_key_value(id);
        let error = match (classic, consumer) {
            (Some((_, group)), _) if !may_delete(group) => Some(ErrorCode::NonEmptyGroup),
            (None, None) if id.is_empty() => Some(ErrorCode::InvalidGroupId),
            (None, None) => Some(ErrorCode::GroupIdNotFound),
            _ => None,
        };
        if let Some(error) = error {
            return OffsetDeleteResponse::default().with_error_code(error.code());
        }
        let is_subscribed_to = |topic: &str| match (classic, consumer) {
            (_, Some((_, group))) => group.is_subscribed_to(topic),
            (Some((_, group)), None) => group.is_subscribed_to(topic),
            (None, None) => false,
        };
        let id: Arc<str> = id.into();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let subscribed = is_subscribed_to(&topic.name);
            let error = if subscribed { ErrorCode::GroupSubscribedToTopic.code() } else { 0 };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let index = partition.partition_index;
                partitions
                    .push(OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(error));
                if !subscribed && self.persisted.offset(&id, &topic.name, index).is_some() {
                    let name: Arc<str> = topic.name.as_str().into();
                    records.push(CoordinatorRecord::offset_tombstone(&id, &name, index));
                }
            }
            topics.push(OffsetDeleteResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions));
        }
        OffsetDeleteResponse::default().with_topics(topics)
    }

    /// Tombstones for every offset of the given topics.
    pub(crate) fn remove_offsets_of_topics(&self, gone: &[Arc<str>], records: &mut Vec<CoordinatorRecord>) {
        for (group, topics) in &self.persisted.offsets {
            for topic in gone {
                for partition in topics.get(topic).into_iter().flat_map(|partitions| partitions.keys()) {
                    records.push(CoordinatorRecord::offset_tombstone(group, topic, *partition));
                }
            }
        }
    }
}

/// Of a group with members, only a consumer group's subscriptions are known.
fn may_delete(group: &ClassicGroup) -> bool {
    group.is(GroupState::Empty) || group.uses_consumer_protocol()
}
