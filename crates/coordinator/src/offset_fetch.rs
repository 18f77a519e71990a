//! OffsetFetch: what is committed. Unknown groups, topics and partitions have no offset (-1), which is no error.

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use protocol::ErrorCode;

use crate::group::text;
use crate::record::CommittedOffset;
use crate::shard::GroupShard;

impl GroupShard {
    /// Offsets committed within open transactions, for which `require_stable` asks to wait, do not exist here yet:
    /// every stored offset is stable.
    pub(crate) fn offset_fetch(&self, request: &OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
        let id = request.group_id.as_str();
        let response = OffsetFetchResponseGroup::default().with_group_id(request.group_id.clone());
        if id.is_empty() {
            return response.with_error_code(ErrorCode::InvalidGroupId.code());
        }
        if let Some(group) = self.persisted.consumer_groups.get(id)
            && let Err(error) = group.may_fetch(request.member_id.as_deref(), request.member_epoch)
        {
            return response.with_error_code(error.code());
        }
        let topics = match &request.topics {
            Some(topics) => topics
                .iter()
                .map(|topic| {
                    let found = |index: &i32| partition(*index, self.persisted.offset(id, &topic.name, *index));
                    let partitions = topic.partition_indexes.iter().map(found).collect();
                    OffsetFetchResponseTopics::default().with_name(topic.name.clone()).with_partitions(partitions)
                })
                .collect(),
            None => self.all_offsets(id),
        };
        response.with_topics(topics)
    }

    fn all_offsets(&self, id: &str) -> Vec<OffsetFetchResponseTopics> {
        let topics = self.persisted.offsets.get(id).into_iter().flatten();
        topics
            .map(|(topic, partitions)| {
                let partitions = partitions.iter().map(|(index, committed)| partition(*index, Some(committed)));
                OffsetFetchResponseTopics::default()
                    .with_name(TopicName(text(topic)))
                    .with_partitions(partitions.collect())
            })
            .collect()
    }
}

fn partition(index: i32, committed: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    let response = OffsetFetchResponsePartitions::default().with_partition_index(index);
    match committed {
        Some(committed) => response
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(Some(text(&committed.metadata))),
        None => response.with_committed_offset(-1).with_committed_leader_epoch(-1).with_metadata(Some(text(""))),
    }
}
