//! DescribeGroups, ListGroups and DeleteGroups.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest};
use protocol::ErrorCode;

use crate::consumer::CONSUMER;
use crate::group::{ClassicGroup, GroupState, text};
use crate::member::Member;
use crate::record::CoordinatorRecord;
use crate::shard::GroupShard;

/// First version that says GROUP_ID_NOT_FOUND; before, an unknown group is an empty one in state Dead (KIP-1043).
const NOT_FOUND_SINCE: i16 = 6;

/// Kafka's name of the type of groups whose members assign.
const CLASSIC: &str = "classic";

impl GroupShard {
    pub(crate) fn describe(&self, id: &Arc<str>, version: i16) -> DescribedGroup {
        let described = DescribedGroup::default().with_group_id(GroupId(text(id)));
        let Some(group) = self.groups.get(id) else {
            let dead = described.with_group_state(text("Dead"));
            return if version >= NOT_FOUND_SINCE {
                dead.with_error_code(ErrorCode::GroupIdNotFound.code())
                    .with_error_message(Some(text(&format!("Group {id} not found."))))
            } else {
                dead
            };
        };
        // What members agreed on holds only while the generation is complete.
        let protocol = group.protocol.as_deref().filter(|_| group.is(GroupState::Stable));
        described
            .with_group_state(text(group.state().name()))
            .with_protocol_type(text(group.protocol_type.as_deref().unwrap_or_default()))
            .with_protocol_data(text(protocol.unwrap_or_default()))
            .with_members(group.members().map(|member| describe_member(member, protocol)).collect())
    }

    pub(crate) fn list(&self, request: &ListGroupsRequest) -> Vec<ListedGroup> {
        let states: BTreeSet<String> = request.states_filter.iter().map(|state| state.trim().to_lowercase()).collect();
        let types: BTreeSet<String> = request.types_filter.iter().map(|kind| kind.trim().to_lowercase()).collect();
        let is_asked_for = |kind: &str, group: &ListedGroup| {
            (types.is_empty() || types.contains(kind))
                && (states.is_empty() || states.contains(&group.group_state.to_lowercase()))
        };
        let classic = self.groups.values().map(list_group).filter(|group| is_asked_for(CLASSIC, group));
        let consumer = self.persisted.consumer_groups.iter().map(|(id, group)| group.listed(id));
        classic.chain(consumer.filter(|group| is_asked_for(CONSUMER, group))).collect()
    }

    /// Deletes a group without members, and its offsets.
    pub(crate) fn delete_group(&mut self, id: &Arc<str>, records: &mut Vec<CoordinatorRecord>) -> DeletableGroupResult {
        let error = match self.groups.get(id) {
            None if self.persisted.consumer_groups.contains_key(id) => self.delete_consumer_group(id, records),
            None if id.is_empty() => ErrorCode::InvalidGroupId.code(),
            None => ErrorCode::GroupIdNotFound.code(),
            Some(group) if !group.is(GroupState::Empty) => ErrorCode::NonEmptyGroup.code(),
            Some(_) => {
                self.offset_tombstones(id, records);
                self.drop_group(id, records);
                0
            }
        };
        DeletableGroupResult::default().with_group_id(GroupId(text(id))).with_error_code(error)
    }

    fn delete_consumer_group(&mut self, id: &Arc<str>, records: &mut Vec<CoordinatorRecord>) -> i16 {
        if self.persisted.consumer_groups.get(id).is_some_and(|group| !group.members.is_empty()) {
            return ErrorCode::NonEmptyGroup.code();
        }
        self.offset_tombstones(id, records);
        self.drop_consumer_group(id, records);
        0
    }

    /// Removes an empty group. Its pending members learn of it when they join.
    pub(crate) fn drop_group(&mut self, id: &Arc<str>, records: &mut Vec<CoordinatorRecord>) {
        records.push(CoordinatorRecord::Group { group: Arc::clone(id), value: None });
        if let Some(group) = self.groups.remove(id) {
            for member in group.pending_joins {
                self.timers.cancel(crate::timers::Timer::Heartbeat { group: Arc::clone(id), member });
            }
        }
    }

    fn offset_tombstones(&self, id: &Arc<str>, records: &mut Vec<CoordinatorRecord>) {
        for (topic, partitions) in self.persisted.offsets.get(id).into_iter().flatten() {
            for partition in partitions.keys() {
                records.push(CoordinatorRecord::offset_tombstone(id, topic, *partition));
            }
        }
    }
}

fn describe_member(member: &Member, protocol: Option<&str>) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(text(&member.id))
        .with_group_instance_id(member.instance_id.as_deref().map(text))
        .with_client_id(text(&member.client_id))
        .with_client_host(text(&member.client_host))
        .with_member_metadata(protocol.map(|protocol| member.metadata(protocol)).unwrap_or_default())
        .with_member_assignment(member.assignment.clone())
}

fn list_group(group: &ClassicGroup) -> ListedGroup {
    ListedGroup::default()
        .with_group_id(GroupId(text(&group.id)))
        .with_protocol_type(text(group.protocol_type.as_deref().unwrap_or_default()))
        .with_group_state(text(group.state().name()))
        .with_group_type(text(CLASSIC))
}
