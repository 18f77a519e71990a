//! JoinGroup: a member comes, or comes back.

use std::sync::Arc;

use kafka_protocol::messages::JoinGroupRequest;
use protocol::ErrorCode;

use crate::group::{ClassicGroup, GroupState};
use crate::member::{Member, protocols, rebalance_timeout_ms};
use crate::rebalance::{Step, join_error};
use crate::shard::{Context, GroupShard, Now, Output, Response, Token};

/// First version whose dynamic members must come back with the id they are given (KIP-394).
const MEMBER_ID_REQUIRED_SINCE: i16 = 4;

/// Longest name that may go into a record, whose strings have lengths of 15 bits; a member id is one of
/// the client's names and 37 bytes.
pub(crate) const NAME_BYTES_MAX: usize = 32_000;

fn has_long_name(context: &Context<'_>, request: &JoinGroupRequest) -> bool {
    let instance_id = request.group_instance_id.as_ref().map_or(0, |instance| instance.len());
    let protocols = request.protocols.iter().map(|protocol| protocol.name.len());
    [context.client_id.len(), instance_id, request.protocol_type.len()]
        .into_iter()
        .chain(protocols)
        .any(|len| len > NAME_BYTES_MAX)
}

impl GroupShard {
    pub(crate) fn join(
        &mut self,
        token: Token,
        context: &Context<'_>,
        request: &JoinGroupRequest,
        now: Now,
        out: &mut Output,
    ) {
        let session_ms = i64::from(request.session_timeout_ms);
        let refused = if request.group_id.is_empty() || request.group_id.len() > NAME_BYTES_MAX {
            Some(ErrorCode::InvalidGroupId)
        } else if has_long_name(context, request) {
            Some(ErrorCode::InvalidRequest)
        } else if session_ms < self.config.min_session_timeout_ms || session_ms > self.config.max_session_timeout_ms {
            Some(ErrorCode::InvalidSessionTimeout)
        } else {
            None
        };
        if let Some(error) = refused {
            out.responses.push((token, join_error(&request.member_id, error)));
            return;
        }
        if let Some((id, group)) = self.persisted.consumer_groups.get_key_value(request.group_id.as_str()) {
            if !group.members.is_empty() {
                // Its members are given partitions, and cannot take those that a leader would assign.
                out.responses.push((token, join_error(&request.member_id, ErrorCode::InconsistentGroupProtocol)));
                return;
            }
            if request.member_id.is_empty() {
                // Without members it becomes a group of the kind that its first member wants.
                self.drop_consumer_group(&Arc::clone(id), &mut out.records);
            }
        }
        let is_new_group = !self.groups.contains_key(request.group_id.as_str());
        if is_new_group {
            let error = if !request.member_id.is_empty() {
                Some(ErrorCode::UnknownMemberId)
            } else if self.group_count() >= self.config.max_groups {
                Some(ErrorCode::CoordinatorNotAvailable)
            } else {
                None
            };
            if let Some(error) = error {
                out.responses.push((token, join_error(&request.member_id, error)));
                return;
            }
            self.create_group(request.group_id.as_str(), now);
        }
        let records_before = out.records.len();
        let (groups, mut step) = self.step(now, out);
        let Some(group) = groups.get_mut(request.group_id.as_str()) else { return };
        step.join_group(token, context, request, group);
        if is_new_group && step.out.records.len() == records_before {
            // The group exists from now on, and must still do so after a crash.
            let value =
                Some(crate::GroupMetadata { state_timestamp_ms: group.state_timestamp_ms, ..Default::default() });
            step.out.records.push(crate::CoordinatorRecord::Group { group: Arc::clone(&group.id), value });
        }
    }
}

impl Step<'_> {
    fn join_group(
        &mut self,
        token: Token,
        context: &Context<'_>,
        request: &JoinGroupRequest,
        group: &mut ClassicGroup,
    ) {
        let member_id = request.member_id.as_str();
        let protocols = protocols(&request.protocols);
        if !self.accepts(group, member_id) {
            self.remove_member(group, member_id);
            self.respond(token, join_error("", ErrorCode::GroupMaxSizeReached));
        } else if !group.supports(&request.protocol_type, &protocols) {
            self.respond(token, join_error(member_id, ErrorCode::InconsistentGroupProtocol));
        } else if !self.fits(group, member_id, &protocols) {
            self.respond(token, join_error(member_id, ErrorCode::GroupMaxSizeReached));
        } else if member_id.is_empty() {
            self.join_new_member(token, context, request, group);
        } else {
            self.join_existing_member(token, context, request, group);
        }
    }

    /// Whether there is room for the member. While members gather, those that wait count: so a group
    /// above its maximum shrinks to it, last come last served.
    fn accepts(&self, group: &ClassicGroup, member_id: &str) -> bool {
        let member = group.member(member_id);
        match group.state() {
            GroupState::Empty => true,
            GroupState::PreparingRebalance => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || group.awaiting_joins() < self.config.max_size
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                member.is_some() || group.len() < self.config.max_size
            }
        }
    }

    fn fits(&self, group: &ClassicGroup, member_id: &str, protocols: &crate::member::Protocols) -> bool {
        let before = group.member(member_id).map_or(0, Member::bytes);
        let more: usize = protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum();
        group.bytes() - before + more <= self.config.max_group_bytes
    }

    fn join_new_member(
        &mut self,
        token: Token,
        context: &Context<'_>,
        request: &JoinGroupRequest,
        group: &mut ClassicGroup,
    ) {
        let instance_id = request.group_instance_id.as_ref().map(|instance| instance.as_str());
        let prefix = instance_id.unwrap_or(context.client_id);
        let new_id: Arc<str> = format!("{prefix}-{}", context.member_id_suffix).into();
        if let Some(instance_id) = instance_id {
            match group.static_member(instance_id).cloned() {
                Some(old_id) => self.join_in_place_of(token, context, request, group, &old_id, &new_id),
                None => self.add_member(token, context, request, group, new_id),
            }
        } else if context.version >= MEMBER_ID_REQUIRED_SINCE {
            if group.pending_joins.len() >= self.config.max_pending_members {
                self.respond(token, join_error("", ErrorCode::GroupMaxSizeReached));
                return;
            }
            self.schedule_heartbeat(group, &new_id, i64::from(request.session_timeout_ms));
            self.respond(token, join_error(&new_id, ErrorCode::MemberIdRequired));
            group.pending_joins.insert(new_id);
        } else {
            self.add_member(token, context, request, group, new_id);
        }
    }

    fn join_existing_member(
        &mut self,
        token: Token,
        context: &Context<'_>,
        request: &JoinGroupRequest,
        group: &mut ClassicGroup,
    ) {
        let member_id = request.member_id.as_str();
        let instance_id = request.group_instance_id.as_ref().map(|instance| instance.as_str());
        if group.pending_joins.contains(member_id) {
            if instance_id.is_some() {
                // Pending ids are given to dynamic members only: the client mixes up its identities.
                self.respond(token, join_error(member_id, ErrorCode::UnknownServerError));
            } else {
                self.add_member(token, context, request, group, member_id.into());
            }
            return;
        }
        if let Err(error) = group.validate_member(member_id, instance_id) {
            self.respond(token, join_error(member_id, error));
            return;
        }
        let unchanged = group.member(member_id).is_some_and(|member| member.protocols == protocols(&request.protocols));
        match group.state() {
            // A member that lost its response asks again: it gets the same one.
            GroupState::CompletingRebalance if unchanged => {
                let response = group.join_response(member_id);
                self.respond(token, Response::Join(response));
            }
            // A leader rejoins to have partitions assigned anew; an unchanged follower needs no rebalance.
            GroupState::Stable if unchanged && !group.is_leader(member_id) => {
                let response = group.join_response(member_id);
                self.respond(token, Response::Join(response));
            }
            GroupState::PreparingRebalance | GroupState::CompletingRebalance | GroupState::Stable => {
                self.rejoin(token, request, group, member_id);
                self.rebalance_or_complete_join(group);
            }
            GroupState::Empty => self.respond(token, join_error(member_id, ErrorCode::UnknownMemberId)),
        }
    }

    /// Updates a member and lets it wait for the join phase.
    pub(crate) fn rejoin(
        &mut self,
        token: Token,
        request: &JoinGroupRequest,
        group: &mut ClassicGroup,
        member_id: &str,
    ) {
        let (rebalance_ms, session_ms) = (rebalance_timeout_ms(request), request.session_timeout_ms);
        group.update_member(member_id, protocols(&request.protocols), rebalance_ms, session_ms);
        if let Some(superseded) = group.await_join(member_id, token) {
            // The client gave up on its earlier request; whoever still reads the answer joins again.
            self.respond(superseded, join_error(member_id, ErrorCode::RebalanceInProgress));
        }
    }

    fn add_member(
        &mut self,
        token: Token,
        context: &Context<'_>,
        request: &JoinGroupRequest,
        group: &mut ClassicGroup,
        id: Arc<str>,
    ) {
        if group.is_initial_rebalance() {
            group.new_member_added = true;
        }
        group.add(Member::joining(Arc::clone(&id), request, context), &request.protocol_type);
        group.await_join(&id, token);
        self.schedule_heartbeat(group, &id, self.config.new_member_join_timeout_ms);
        self.rebalance_or_complete_join(group);
    }
}
