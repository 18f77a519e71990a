//! SyncGroup: the leader hands in the assignment, everybody gets their part.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use protocol::ErrorCode;

use crate::group::{ClassicGroup, GroupState, text};
use crate::rebalance::{Step, sync_error};
use crate::shard::{GroupShard, Now, Output, Response, Token};
use crate::timers::Timer;

impl GroupShard {
    pub(crate) fn sync(&mut self, token: Token, request: &SyncGroupRequest, now: Now, out: &mut Output) {
        if request.group_id.is_empty() {
            out.responses.push((token, sync_error(ErrorCode::InvalidGroupId)));
            return;
        }
        let (groups, mut step) = self.step(now, out);
        match groups.get_mut(request.group_id.as_str()) {
            Some(group) => step.sync_group(token, request, group),
            None => step.respond(token, sync_error(ErrorCode::UnknownMemberId)),
        }
    }
}

impl Step<'_> {
    fn sync_group(&mut self, token: Token, request: &SyncGroupRequest, group: &mut ClassicGroup) {
        if let Err(error) = validate(group, request) {
            self.respond(token, sync_error(error));
            return;
        }
        let member_id = request.member_id.as_str();
        match group.state() {
            GroupState::Empty => self.respond(token, sync_error(ErrorCode::UnknownMemberId)),
            GroupState::PreparingRebalance => self.respond(token, sync_error(ErrorCode::RebalanceInProgress)),
            GroupState::CompletingRebalance => {
                let superseded = group.member_mut(member_id).and_then(|member| member.awaiting_sync.replace(token));
                if let Some(superseded) = superseded {
                    self.respond(superseded, sync_error(ErrorCode::RebalanceInProgress));
                }
                self.end_pending_sync(group, member_id);
                if group.is_leader(member_id) {
                    self.assign(group, request);
                }
            }
            GroupState::Stable => {
                self.end_pending_sync(group, member_id);
                let response = sync_response(group, member_id);
                self.respond(token, response);
            }
        }
    }

    /// Stores the leader's assignment, persists the generation and answers every waiting member. Members the
    /// leader left out get nothing to do.
    fn assign(&mut self, group: &mut ClassicGroup, request: &SyncGroupRequest) {
        let given = request.assignments.iter();
        let mut given: HashMap<&str, &Bytes> = given.map(|one| (one.member_id.as_str(), &one.assignment)).collect();
        let member_ids = group.member_ids();
        let assigned: usize = member_ids.iter().filter_map(|id| given.get(&**id)).map(|bytes| bytes.len()).sum();
        if record_bytes(group) + assigned > self.config.max_record_bytes {
            self.fail_syncs(group, ErrorCode::UnknownServerError);
            self.prepare_rebalance(group);
            return;
        }
        for id in &member_ids {
            let assignment = given.remove(&**id).map_or_else(Bytes::new, |bytes| Bytes::copy_from_slice(bytes));
            group.set_assignment(id, assignment);
        }
        // Kafka stamps the record before the transition; the offsets of an empty group age from this time.
        self.persist(group);
        group.transition_to(GroupState::Stable, self.now.wall_ms);
        for id in member_ids {
            if let Some(token) = group.member_mut(&id).and_then(|member| member.awaiting_sync.take()) {
                let response = sync_response(group, &id);
                self.respond(token, response);
                self.reset_session(group, &id);
            }
        }
    }

    fn end_pending_sync(&mut self, group: &mut ClassicGroup, member_id: &str) {
        group.pending_syncs.remove(member_id);
        if group.pending_syncs.is_empty() {
            self.timers.cancel(Timer::Sync { group: Arc::clone(&group.id) });
        }
    }
}

fn validate(group: &ClassicGroup, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
    if group.is(GroupState::Empty) {
        return Err(ErrorCode::UnknownMemberId);
    }
    let instance_id = request.group_instance_id.as_ref().map(|instance| instance.as_str());
    group.validate_member(&request.member_id, instance_id)?;
    if request.generation_id != group.generation {
        return Err(ErrorCode::IllegalGeneration);
    }
    let differs = |asked: Option<&str>, ours: Option<&str>| asked.zip(ours).is_some_and(|(asked, ours)| asked != ours);
    let protocol_type = request.protocol_type.as_ref().map(|name| name.as_str());
    let protocol = request.protocol_name.as_ref().map(|name| name.as_str());
    if differs(protocol_type, group.protocol_type.as_deref()) || differs(protocol, group.protocol.as_deref()) {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    Ok(())
}

/// Bytes of the group's record without assignments, rounded up.
fn record_bytes(group: &ClassicGroup) -> usize {
    const NUMBERS_AND_LENGTHS: usize = 64;
    let protocol = group.protocol.as_deref().unwrap_or_default();
    let members = group.members().map(|member| {
        let instance_id = member.instance_id.as_ref().map_or(0, |instance| instance.len());
        let texts = member.id.len() + instance_id + member.client_id.len() + member.client_host.len();
        NUMBERS_AND_LENGTHS + texts + member.metadata(protocol).len()
    });
    NUMBERS_AND_LENGTHS + 2 * group.id.len() + protocol.len() + members.sum::<usize>()
}

fn sync_response(group: &ClassicGroup, member_id: &str) -> Response {
    Response::Sync(
        SyncGroupResponse::default()
            .with_protocol_type(group.protocol_type.as_deref().map(text))
            .with_protocol_name(group.protocol.as_deref().map(text))
            .with_assignment(group.member(member_id).map(|member| member.assignment.clone()).unwrap_or_default()),
    )
}
