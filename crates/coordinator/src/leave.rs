//! LeaveGroup: members go, by themselves or sent off by an operator. Errors are per member.

use std::sync::Arc;

use kafka_protocol::messages::LeaveGroupRequest;
use kafka_protocol::messages::LeaveGroupResponse;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use protocol::ErrorCode;

use crate::group::{ClassicGroup, GroupState};
use crate::rebalance::Step;
use crate::shard::{Context, GroupShard, Now, Output, Response, Token};

impl GroupShard {
    pub(crate) fn leave(
        &mut self,
        token: Token,
        context: &Context<'_>,
        request: &LeaveGroupRequest,
        now: Now,
        out: &mut Output,
    ) {
        if let Some((id, _)) = self.persisted.consumer_groups.get_key_value(request.group_id.as_str()) {
            let results = self.send_off(&Arc::clone(id), &request.members, context.topics, &mut out.records);
            let members = request.members.iter().zip(results).map(|(member, result)| answer(member, result));
            let response = LeaveGroupResponse::default().with_members(members.collect());
            out.responses.push((token, Response::Leave(response)));
            return;
        }
        let (groups, mut step) = self.step(now, out);
        let response = match groups.get_mut(request.group_id.as_str()) {
            _ if request.group_id.is_empty() => {
                LeaveGroupResponse::default().with_error_code(ErrorCode::InvalidGroupId.code())
            }
            Some(group) => LeaveGroupResponse::default().with_members(step.leave_group(&request.members, group)),
            None => {
                let unknown = |member| answer(member, Err(ErrorCode::UnknownMemberId));
                LeaveGroupResponse::default().with_members(request.members.iter().map(unknown).collect())
            }
        };
        step.respond(token, Response::Leave(response));
    }
}

impl Step<'_> {
    fn leave_group(&mut self, leaving: &[MemberIdentity], group: &mut ClassicGroup) -> Vec<MemberResponse> {
        let mut any_left = false;
        let mut answers = Vec::with_capacity(leaving.len());
        for member in leaving {
            let result = self.leave_member(member, group);
            any_left |= result.is_ok();
            answers.push(answer(member, result));
        }
        if any_left {
            match group.state() {
                GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(group),
                GroupState::PreparingRebalance => self.maybe_complete_join(group),
                GroupState::Empty => {}
            }
        }
        answers
    }

    fn leave_member(&mut self, member: &MemberIdentity, group: &mut ClassicGroup) -> Result<(), ErrorCode> {
        let instance_id = member.group_instance_id.as_ref().map(|instance| instance.as_str());
        if member.member_id.is_empty() {
            // An operator knows static members by their instance id.
            let found = instance_id.and_then(|instance_id| group.static_member(instance_id)).cloned();
            let id = found.ok_or(ErrorCode::UnknownMemberId)?;
            self.remove_member(group, &id);
        } else if group.pending_joins.contains(member.member_id.as_str()) {
            self.remove_member(group, &member.member_id);
        } else {
            group.validate_member(&member.member_id, instance_id)?;
            self.remove_member(group, &member.member_id);
        }
        Ok(())
    }
}

fn answer(member: &MemberIdentity, result: Result<(), ErrorCode>) -> MemberResponse {
    MemberResponse::default()
        .with_member_id(member.member_id.clone())
        .with_group_instance_id(member.group_instance_id.clone())
        .with_error_code(result.err().map_or(0, ErrorCode::code))
}
