//! The rebalance: PreparingRebalance → CompletingRebalance (or Empty). Everything that starts, delays or
//! completes a join phase is here.

use std::sync::Arc;

use kafka_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
use protocol::ErrorCode;

use crate::config::GroupConfig;
use crate::group::{ClassicGroup, GroupState, InitialDelay, text};
use crate::record::CoordinatorRecord;
use crate::shard::{Now, Output, Response, Token};
use crate::timers::{Timer, Timers};

/// One step of the shard: what a transition may use besides the group itself.
pub(crate) struct Step<'a> {
    pub(crate) config: &'a GroupConfig,
    pub(crate) timers: &'a mut Timers,
    pub(crate) out: &'a mut Output,
    pub(crate) now: Now,
}

impl Step<'_> {
    /// Starts a rebalance from any state but PreparingRebalance; there, ends its join phase if that is due.
    pub(crate) fn rebalance_or_complete_join(&mut self, group: &mut ClassicGroup) {
        if group.is(GroupState::PreparingRebalance) {
            self.maybe_complete_join(group);
        } else {
            self.prepare_rebalance(group);
        }
    }

    pub(crate) fn prepare_rebalance(&mut self, group: &mut ClassicGroup) {
        if group.is(GroupState::CompletingRebalance) {
            self.fail_syncs(group, ErrorCode::RebalanceInProgress);
        }
        group.pending_syncs.clear();
        self.timers.cancel(Timer::Sync { group: Arc::clone(&group.id) });
        let initial = group.is(GroupState::Empty);
        group.transition_to(GroupState::PreparingRebalance, self.now.wall_ms);
        if initial {
            let step_ms = self.config.initial_rebalance_delay_ms;
            let remaining_ms = (group.rebalance_timeout_ms() - step_ms).max(0);
            self.schedule_initial_delay(group, InitialDelay { step_ms, remaining_ms });
        } else if group.has_all_members_joined() {
            self.complete_join(group);
        } else {
            self.schedule_join(group, group.rebalance_timeout_ms());
        }
    }

    /// Ends the join phase if everybody is there; a first rebalance waits for its delay nevertheless.
    pub(crate) fn maybe_complete_join(&mut self, group: &mut ClassicGroup) {
        if group.is(GroupState::PreparingRebalance) && !group.is_initial_rebalance() && group.has_all_members_joined() {
            self.complete_join(group);
        }
    }

    /// The join timer fired.
    pub(crate) fn on_join_timer(&mut self, group: &mut ClassicGroup) {
        if !group.is(GroupState::PreparingRebalance) {
            return;
        }
        match group.initial_delay.take() {
            Some(delay) if group.new_member_added && delay.remaining_ms > 0 => {
                group.new_member_added = false;
                let step_ms = self.config.initial_rebalance_delay_ms.min(delay.remaining_ms);
                let remaining_ms = (delay.remaining_ms - delay.step_ms).max(0);
                self.schedule_initial_delay(group, InitialDelay { step_ms, remaining_ms });
            }
            _ => self.complete_join(group),
        }
    }

    /// Ends the join phase: whoever has not come is out (static members stay until their session ends), and
    /// the next generation starts.
    pub(crate) fn complete_join(&mut self, group: &mut ClassicGroup) {
        self.timers.cancel(Timer::Join { group: Arc::clone(&group.id) });
        let absent = group.members().filter(|member| member.awaiting_join.is_none() && !member.is_static());
        for id in absent.map(|member| Arc::clone(&member.id)).collect::<Vec<_>>() {
            group.remove(&id);
            self.cancel_heartbeat(group, &id);
        }
        if group.len() > 0 && !group.elect_joined_leader() {
            // Only static members are left and none has come: they get the time their sessions give them.
            self.schedule_join(group, group.rebalance_timeout_ms());
            return;
        }
        group.next_generation(self.now.wall_ms);
        if group.is(GroupState::Empty) {
            self.persist(group);
            return;
        }
        for id in group.member_ids() {
            let response = group.join_response(&id);
            self.complete_member_join(group, &id, response);
            self.reset_session(group, &id);
            if let Some(member) = group.member_mut(&id) {
                member.is_new = false;
            }
            group.pending_syncs.insert(id);
        }
        let deadline = self.now.boot_ms.saturating_add(group.rebalance_timeout_ms());
        self.timers.schedule(Timer::Sync { group: Arc::clone(&group.id) }, deadline);
    }

    /// The sync timer fired: members that did not send SyncGroup in time are out.
    pub(crate) fn on_sync_timer(&mut self, group: &mut ClassicGroup) {
        let in_sync_phase = matches!(group.state(), GroupState::CompletingRebalance | GroupState::Stable);
        if !in_sync_phase || group.pending_syncs.is_empty() {
            return;
        }
        for id in group.pending_syncs.clone() {
            self.cancel_heartbeat(group, &id);
            group.remove(&id);
        }
        self.prepare_rebalance(group);
    }

    /// Takes a member out, answers what it waits for, and lets the group go on without it.
    pub(crate) fn remove_member_and_update(&mut self, group: &mut ClassicGroup, id: &str) {
        self.remove_member(group, id);
        match group.state() {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(group),
            GroupState::PreparingRebalance if group.has_all_members_joined() => self.complete_join(group),
            GroupState::PreparingRebalance | GroupState::Empty => {}
        }
    }

    /// Takes a member out. A client that is still there is told to join anew.
    pub(crate) fn remove_member(&mut self, group: &mut ClassicGroup, id: &str) {
        self.cancel_heartbeat(group, id);
        let Some(member) = group.remove(id) else { return };
        if let Some(token) = member.awaiting_join {
            self.respond(token, join_error("", ErrorCode::UnknownMemberId));
        }
        if let Some(token) = member.awaiting_sync {
            self.respond(token, sync_error(ErrorCode::UnknownMemberId));
        }
    }

    /// Answers every SyncGroup that waits, takes back all assignments.
    pub(crate) fn fail_syncs(&mut self, group: &mut ClassicGroup, error: ErrorCode) {
        for id in group.member_ids() {
            group.set_assignment(&id, bytes::Bytes::new());
            if let Some(token) = group.member_mut(&id).and_then(|member| member.awaiting_sync.take()) {
                self.respond(token, sync_error(error));
                self.reset_session(group, &id);
            }
        }
    }

    pub(crate) fn complete_member_join(&mut self, group: &mut ClassicGroup, id: &str, response: JoinGroupResponse) {
        if let Some(token) = group.end_await_join(id) {
            self.respond(token, Response::Join(response));
        }
    }

    /// The member was heard of: its session starts anew.
    pub(crate) fn reset_session(&mut self, group: &ClassicGroup, id: &str) {
        if let Some(member) = group.member(id) {
            self.schedule_heartbeat(group, id, i64::from(member.session_timeout_ms));
        }
    }

    pub(crate) fn schedule_heartbeat(&mut self, group: &ClassicGroup, id: &str, timeout_ms: i64) {
        let timer = Timer::Heartbeat { group: Arc::clone(&group.id), member: id.into() };
        self.timers.schedule(timer, self.now.boot_ms.saturating_add(timeout_ms));
    }

    pub(crate) fn cancel_heartbeat(&mut self, group: &ClassicGroup, id: &str) {
        self.timers.cancel(Timer::Heartbeat { group: Arc::clone(&group.id), member: id.into() });
    }

    pub(crate) fn persist(&mut self, group: &ClassicGroup) {
        let value = Some(group.to_metadata());
        self.out.records.push(CoordinatorRecord::Group { group: Arc::clone(&group.id), value });
    }

    pub(crate) fn respond(&mut self, token: Token, response: Response) {
        self.out.responses.push((token, response));
    }

    fn schedule_initial_delay(&mut self, group: &mut ClassicGroup, delay: InitialDelay) {
        group.initial_delay = Some(delay);
        self.schedule_join(group, delay.step_ms);
    }

    fn schedule_join(&mut self, group: &ClassicGroup, delay_ms: i64) {
        // Never at once: a group whose members want no time at all must not fire without end.
        let deadline = self.now.boot_ms.saturating_add(delay_ms.max(1));
        self.timers.schedule(Timer::Join { group: Arc::clone(&group.id) }, deadline);
    }
}

pub(crate) fn join_error(member_id: &str, error: ErrorCode) -> Response {
    Response::Join(
        JoinGroupResponse::default()
            .with_error_code(error.code())
            .with_member_id(text(member_id))
            .with_generation_id(-1)
            .with_protocol_type(None)
            .with_protocol_name(None),
    )
}

pub(crate) fn sync_error(error: ErrorCode) -> Response {
    Response::Sync(SyncGroupResponse::default().with_error_code(error.code()))
}
