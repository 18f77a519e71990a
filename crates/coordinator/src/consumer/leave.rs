//! Members of consumer groups go: by themselves, sent off by an operator, or because they were silent or slow for too long.

use std::sync::Arc;

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use protocol::ErrorCode;

use super::assignment::Assignment;
use super::heartbeat::{Refusal, fenced_instance};
use super::member::{CurrentAssignment, LEAVE_STATIC_EPOCH, MemberState};
use super::record_codec::ConsumerGroupRecord;
use super::topics::{Topics, metadata_hash};
use crate::group::text;
use crate::record::CoordinatorRecord;
use crate::shard::{Context, GroupShard, Now};
use crate::timers::Timer;

impl GroupShard {
    /// After a load: every member has a whole session, and whoever has to give something up all its time.
    pub(crate) fn start_consumer_timers(&mut self, now: Now) {
        for (id, group) in &self.persisted.consumer_groups {
            for (member_id, member) in &group.members {
                let session_ms = self.config.consumer_session_timeout_ms;
                self.timers.schedule(Timer::session(id, member_id), now.boot_ms.saturating_add(session_ms));
                if member.current.state == MemberState::UnrevokedPartitions {
                    let timeout_ms = i64::from(member.metadata.rebalance_timeout_ms);
                    self.timers.schedule(Timer::revocation(id, member_id), now.boot_ms.saturating_add(timeout_ms));
                }
            }
        }
    }

    /// A heartbeat with epoch -1, or -2: a static member will be back within its session.
    pub(super) fn consumer_leave(
        &mut self,
        context: &Context<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        records: &mut Vec<CoordinatorRecord>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let (id, member_id) = (request.group_id.as_str(), request.member_id.as_str());
        let Some((id, group)) = self.persisted.consumer_groups.get_key_value(id) else {
            return Err(Refusal::new(ErrorCode::GroupIdNotFound, format!("Group {id} not found.")));
        };
        let (member, current) = match request.instance_id.as_deref() {
            None => {
                let unknown = || {
                    let message = format!("Member {member_id} is not a member of group {id}.");
                    Refusal::new(ErrorCode::UnknownMemberId, message)
                };
                group.members.get_key_value(member_id).ok_or_else(unknown)?
            }
            Some(instance) => {
                let unknown =
                    || Refusal::new(ErrorCode::UnknownMemberId, format!("Instance id {instance} is unknown."));
                let (owner, member) = group.static_member(instance).ok_or_else(unknown)?;
                if **owner != *member_id {
                    return Err(fenced_instance(member_id, instance, owner));
                }
                (owner, member)
            }
        };
        let (id, member) = (Arc::clone(id), Arc::clone(member));
        if request.member_epoch == LEAVE_STATIC_EPOCH {
            let away = CurrentAssignment {
                epoch: LEAVE_STATIC_EPOCH,
                // What it was to give up it has given up by going away.
                state: MemberState::Stable,
                pending_revocation: Assignment::default(),
                ..current.current.clone()
            };
            self.timers.cancel(Timer::revocation(&id, &member));
            self.emit(ConsumerGroupRecord::Current { group: id, member, value: Some(away) }, records);
        } else {
            self.fence_members(&id, &[member], context.topics, records);
        }
        let response = ConsumerGroupHeartbeatResponse::default().with_member_id(Some(text(member_id)));
        Ok(response.with_member_epoch(request.member_epoch))
    }

    /// LeaveGroup of members of a consumer group: an operator knows static members by their instance ids. Members of this
    /// protocol leave by heartbeats.
    pub(crate) fn send_off(
        &mut self,
        id: &Arc<str>,
        leaving: &[MemberIdentity],
        topics: &dyn Topics,
        records: &mut Vec<CoordinatorRecord>,
    ) -> Vec<Result<(), ErrorCode>> {
        let mut gone = Vec::new();
        let results = leaving.iter().map(|member| {
            let group = self.persisted.consumer_groups.get(id).ok_or(ErrorCode::UnknownMemberId)?;
            let instance = member.group_instance_id.as_deref().filter(|_| member.member_id.is_empty());
            let (owner, _) =
                instance.and_then(|instance| group.static_member(instance)).ok_or(ErrorCode::UnknownMemberId)?;
            gone.push(Arc::clone(owner));
            Ok(())
        });
        let results = results.collect();
        self.fence_members(id, &gone, topics, records);
        results
    }

    /// A member's session, or its time to give partitions up, has run out.
    pub(crate) fn on_consumer_timer(
        &mut self,
        timer: &Timer,
        topics: &dyn Topics,
        records: &mut Vec<CoordinatorRecord>,
    ) {
        let (Timer::ConsumerSession { group: id, member } | Timer::ConsumerRevocation { group: id, member }) = timer
        else {
            return;
        };
        let group = self.persisted.consumer_groups.get(id);
        let Some(known) = group.and_then(|group| group.members.get(member)) else { return };
        let is_slow = known.current.state == MemberState::UnrevokedPartitions;
        if is_slow || matches!(timer, Timer::ConsumerSession { .. }) {
            self.fence_members(id, &[Arc::clone(member)], topics, records);
        }
    }

    /// Removes members, whose partitions are free then, and bumps the group's epoch.
    fn fence_members(
        &mut self,
        id: &Arc<str>,
        members: &[Arc<str>],
        topics: &dyn Topics,
        records: &mut Vec<CoordinatorRecord>,
    ) {
        if members.is_empty() {
            return;
        }
        members.iter().for_each(|member| self.remove_member(id, member, records));
        self.forget_regexes(id, records);
        let Some(group) = self.persisted.consumer_groups.get(id) else { return };
        let value = Some((group.epoch.saturating_add(1), metadata_hash(&group.subscribed_topics(), topics)));
        self.emit(ConsumerGroupRecord::Group { group: Arc::clone(id), value }, records);
    }

    /// Tombstones for a member. In this order: whoever replays them never sees a member that owns what is not its own.
    pub(super) fn remove_member(&mut self, id: &Arc<str>, member: &Arc<str>, records: &mut Vec<CoordinatorRecord>) {
        self.timers.cancel(Timer::session(id, member));
        self.timers.cancel(Timer::revocation(id, member));
        let names = || (Arc::clone(id), Arc::clone(member));
        let (group, member_id) = names();
        let current = ConsumerGroupRecord::Current { group, member: member_id, value: None };
        let (group, member_id) = names();
        let target = ConsumerGroupRecord::Target { group, member: member_id, value: None };
        let (group, member_id) = names();
        let metadata = ConsumerGroupRecord::Member { group, member: member_id, value: None };
        [current, target, metadata].into_iter().for_each(|record| self.emit(record, records));
    }

    /// Removes a group without members.
    pub(crate) fn drop_consumer_group(&mut self, id: &Arc<str>, records: &mut Vec<CoordinatorRecord>) {
        self.refreshes.remove(id);
        self.emit(ConsumerGroupRecord::TargetEpoch { group: Arc::clone(id), value: None }, records);
        self.emit(ConsumerGroupRecord::Group { group: Arc::clone(id), value: None }, records);
    }
}
