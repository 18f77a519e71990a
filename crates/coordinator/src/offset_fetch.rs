//! OffsetFetch: what is committed. Unknown groups, topics and partitions have no offset (-1), which is no error.

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use protocol::ErrorCode;

use crate::group::text;
use crate::record::CommittedOffset;
use crate::shard::{GroupShard, RequireStable};

impl GroupShard {
    /// Plain reads see what is committed; whoever requires stable offsets is told of those that an open transaction may
    /// change.
    pub(crate) fn offset_fetch(
        &self,
        request: &OffsetFetchRequestGroup,
        require_stable: RequireStable,
    ) -> OffsetFetchResponseGroup {
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
                    let found = |index: &i32| self.fetched(id, &topic.name, *index, require_stable);
                    let partitions = topic.partition_indexes.iter().map(found).collect();
                    OffsetFetchResponseTopics::default().with_name(topic.name.clone()).with_partitions(partitions)
                })
                .collect(),
            None => self.all_offsets(id, require_stable),
        };
        response.with_topics(topics)
    }

    fn fetched(
        &self,
        id: &str,
        topic: &str,
        index: i32,
        require_stable: RequireStable,
    ) -> OffsetFetchResponsePartitions {
        if require_stable == RequireStable::Yes && self.persisted.is_staged(id, topic, index) {
            return partition(index, None).with_error_code(ErrorCode::UnstableOffsetCommit.code());
        }
        partition(index, self.persisted.offset(id, topic, index))
    }

    fn all_offsets(&self, id: &str, require_stable: RequireStable) -> Vec<OffsetFetchResponseTopics> {
        let topics = self.persisted.offsets.get(id).into_iter().flatten();
        topics
            .map(|(topic, partitions)| {
                let partitions = partitions.keys().map(|index| self.fetched(id, topic, *index, require_stable));
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
