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
        let found = self.groups.get_key_value(request.group_id.as_str());
        let (id, group) = match found {
            Some((_, group)) if !may_delete(group) => {
                return OffsetDeleteResponse::default().with_error_code(ErrorCode::NonEmptyGroup.code());
            }
            Some(found) => found,
            None if request.group_id.is_empty() => {
                return OffsetDeleteResponse::default().with_error_code(ErrorCode::InvalidGroupId.code());
            }
            None => return OffsetDeleteResponse::default().with_error_code(ErrorCode::GroupIdNotFound.code()),
        };
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let subscribed = group.is_subscribed_to(&topic.name);
            let error = if subscribed { ErrorCode::GroupSubscribedToTopic.code() } else { 0 };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let index = partition.partition_index;
                partitions
                    .push(OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(error));
                if !subscribed && self.persisted.offset(id, &topic.name, index).is_some() {
                    let name: Arc<str> = topic.name.as_str().into();
                    records.push(CoordinatorRecord::offset_tombstone(id, &name, index));
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
