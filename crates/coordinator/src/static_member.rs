//! Static membership (KIP-345): a member with `group.instance.id` that comes back without its member id takes
//! its old place under a new id.

use std::sync::Arc;

use kafka_protocol::messages::JoinGroupRequest;
use protocol::ErrorCode;

use crate::group::{ClassicGroup, GroupState, text};
use crate::rebalance::{Step, join_error, sync_error};
use crate::shard::{Context, Response, Token};

/// First version in which a leader can be told to keep the assignment (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;

impl Step<'_> {
    /// Puts `new_id` in the place of the static member `old_id`.
    pub(crate) fn join_in_place_of(
        &mut self,
        token: Token,
        context: &Context<'_>,
        request: &JoinGroupRequest,
        group: &mut ClassicGroup,
        old_id: &str,
        new_id: &Arc<str>,
    ) {
        let old_leader = group.leader.clone();
        let [join, sync] = group.replace_static_member(old_id, new_id);
        if let Some(waiting) = join {
            self.respond(waiting, join_error(old_id, ErrorCode::FencedInstanceId));
        }
        if let Some(waiting) = sync {
            self.respond(waiting, sync_error(ErrorCode::FencedInstanceId));
        }
        self.cancel_heartbeat(group, old_id);
        self.rejoin(token, request, group, new_id);
        self.reset_session(group, new_id);
        match group.state() {
            GroupState::Stable if group.protocol == group.select_protocol() => {
                self.keep_generation(context, group, old_leader, new_id);
            }
            // The leader may already hold the old id and would assign nothing to the new one.
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(group),
            GroupState::PreparingRebalance => self.maybe_complete_join(group),
            GroupState::Empty => {}
        }
    }

    /// Nothing changes but a member id: no rebalance, but the new id must survive a crash.
    fn keep_generation(
        &mut self,
        context: &Context<'_>,
        group: &mut ClassicGroup,
        old_leader: Option<Arc<str>>,
        new_id: &str,
    ) {
        self.persist(group);
        let mut response = group.join_response(new_id);
        if context.version >= SKIP_ASSIGNMENT_SINCE {
            response.skip_assignment = group.is_leader(new_id);
        } else {
            // An old leader that learnt it leads would assign partitions; it is shown its former id instead.
            response.leader = text(old_leader.as_deref().unwrap_or_default());
            response.members = Vec::new();
        }
        if let Some(waiting) = group.end_await_join(new_id) {
            self.respond(waiting, Response::Join(response));
        }
    }
}
