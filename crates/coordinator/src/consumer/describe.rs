//! ConsumerGroupDescribe, and what ListGroups tells of consumer groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment as DescribedAssignment, DescribedGroup, Member, TopicPartitions,
};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, TopicName};
use protocol::ErrorCode;
use uuid::Uuid;

use super::assignment::Assignment;
use super::group::ConsumerGroup;
use super::member::ConsumerMember;
use super::topics::Topics;
use crate::group::text;
use crate::shard::{Context, GroupShard};
use crate::subscription::CONSUMER_PROTOCOL_TYPE;

/// Kafka's name of the type of these groups.
pub(crate) const CONSUMER: &str = "consumer";

/// First version that tells a member's type, and the type of members that speak this protocol.
const MEMBER_TYPE_SINCE: i16 = 1;
const MEMBER_TYPE_CONSUMER: i8 = 1;

impl GroupShard {
    pub(crate) fn describe_consumer_group(&self, id: &str, context: &Context<'_>) -> DescribedGroup {
        let described = DescribedGroup::default().with_group_id(GroupId(text(id)));
        let Some(group) = self.persisted.consumer_groups.get(id) else {
            // Whoever gets this tries the classic protocol's way.
            let message = match self.groups.contains_key(id) {
                true => format!("Group {id} is not a consumer group."),
                false => format!("Group {id} not found."),
            };
            let code = ErrorCode::GroupIdNotFound.code();
            return described.with_error_code(code).with_error_message(Some(text(&message)));
        };
        let assignor = group.preferred_assignor().map_or(self.config.consumer_default_assignor.name(), |name| name);
        let members =
            group.members.iter().map(|(id, member)| describe_member(id, member, context.version, context.topics));
        described
            .with_group_state(text(group.state().name()))
            .with_group_epoch(group.epoch)
            .with_assignment_epoch(group.assignment_epoch)
            .with_assignor_name(text(assignor))
            .with_members(members.collect())
    }
}

impl ConsumerGroup {
    pub(crate) fn listed(&self, id: &str) -> ListedGroup {
        ListedGroup::default()
            .with_group_id(GroupId(text(id)))
            .with_protocol_type(text(CONSUMER_PROTOCOL_TYPE))
            .with_group_state(text(self.state().name()))
            .with_group_type(text(CONSUMER))
    }
}

fn describe_member(id: &Arc<str>, member: &ConsumerMember, version: i16, topics: &dyn Topics) -> Member {
    let metadata = &member.metadata;
    Member::default()
        .with_member_id(text(id))
        .with_instance_id(metadata.instance_id.as_deref().map(text))
        .with_rack_id(metadata.rack_id.as_deref().map(text))
        .with_member_epoch(member.current.epoch)
        .with_client_id(text(&metadata.client_id))
        .with_client_host(text(&metadata.client_host))
        .with_subscribed_topic_names(metadata.topic_names.iter().map(|name| TopicName(text(name))).collect())
        .with_subscribed_topic_regex(member.regex().map(|regex| text(regex)))
        .with_assignment(describe_assignment(&member.current.assigned, topics))
        .with_target_assignment(describe_assignment(&member.target, topics))
        // Older answers have no place for it, and cannot be encoded with it.
        .with_member_type(if version >= MEMBER_TYPE_SINCE { MEMBER_TYPE_CONSUMER } else { -1 })
}

/// Topics that are gone are left out, for they have no name.
fn describe_assignment(assignment: &Assignment, topics: &dyn Topics) -> DescribedAssignment {
    let topic = |(id, partitions): (Uuid, &BTreeSet<i32>)| {
        let name = topics.name_of(id)?;
        let partitions = partitions.iter().copied().collect();
        let name = TopicName(text(&name));
        Some(TopicPartitions::default().with_topic_id(id).with_topic_name(name).with_partitions(partitions))
    };
    DescribedAssignment::default().with_topic_partitions(assignment.topics().filter_map(topic).collect())
}
