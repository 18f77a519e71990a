//! Heartbeat: a member says that it lives, and learns whether it must rejoin.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use protocol::ErrorCode;

use crate::group::{ClassicGroup, GroupState};
use crate::rebalance::Step;
use crate::shard::{GroupShard, Now, Output, Response, Token};

impl GroupShard {
    pub(crate) fn heartbeat(&mut self, token: Token, request: &HeartbeatRequest, now: Now, out: &mut Output) {
        let (groups, mut step) = self.step(now, out);
        let result = match groups.get(request.group_id.as_str()) {
            _ if request.group_id.is_empty() => Err(ErrorCode::InvalidGroupId),
            Some(group) => step.heartbeat_group(request, group),
            None => Err(ErrorCode::UnknownMemberId),
        };
        let code = result.err().map_or(0, ErrorCode::code);
        step.respond(token, Response::Heartbeat(HeartbeatResponse::default().with_error_code(code)));
    }
}

impl Step<'_> {
    fn heartbeat_group(&mut self, request: &HeartbeatRequest, group: &ClassicGroup) -> Result<(), ErrorCode> {
        let instance_id = request.group_instance_id.as_ref().map(|instance| instance.as_str());
        group.validate_member(&request.member_id, instance_id)?;
        if request.generation_id != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.reset_session(group, &request.member_id);
        match group.state() {
            GroupState::Empty => Err(ErrorCode::UnknownMemberId),
            GroupState::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            // Members may send heartbeats as soon as they have joined.
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }

    /// A session, or the time of a pending member, has run out.
    pub(crate) fn on_heartbeat_timer(&mut self, group: &mut ClassicGroup, member_id: &str) {
        if group.pending_joins.remove(member_id) {
            if group.is(GroupState::PreparingRebalance) && group.has_all_members_joined() {
                self.complete_join(group);
            }
        } else if group.member(member_id).is_some_and(|member| !member.has_satisfied_heartbeat()) {
            self.remove_member_and_update(group, member_id);
        }
    }
}
