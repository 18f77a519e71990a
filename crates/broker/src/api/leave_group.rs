//! LeaveGroup (key 13), versions 0–5: members leave. Since version 3 several at once, static ones by instance id,
//! with an error for each; before, one, whose error is the response's.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply;

/// See the module.
pub(super) struct LeaveGroup;

/// First version with several members.
const BATCH_SINCE: i16 = 3;

impl Handle for LeaveGroup {
    type Request = LeaveGroupRequest;
    const VERSIONS: (i16, i16) = (0, 5);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        mut request: LeaveGroupRequest,
    ) -> Reply<LeaveGroupResponse> {
        let version = context.version;
        if version < BATCH_SINCE {
            let member_id = std::mem::take(&mut request.member_id);
            request.members = vec![MemberIdentity::default().with_member_id(member_id)];
        }
        let group = request.group_id.clone();
        let topics = broker.groups.topics();
        let of = Context { topics: &topics, ..Context::version(version) };
        let submitted = broker.groups.submit(&group, &of, &Request::Leave(request));
        let take = move |response| match response {
            Response::Leave(response) => Some(for_version(response, version)),
            _ => None,
        };
        let refuse = |code: protocol::ErrorCode| LeaveGroupResponse::default().with_error_code(code.code());
        reply(broker.groups.durable(), submitted, take, refuse)
    }
}

fn for_version(mut response: LeaveGroupResponse, version: i16) -> LeaveGroupResponse {
    if version < BATCH_SINCE {
        let members = std::mem::take(&mut response.members);
        if response.error_code == 0 {
            response.error_code = members.first().map_or(0, |member| member.error_code);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::leave_group_response::MemberResponse;

    use super::*;

    #[test]
    fn old_versions_have_the_members_error_as_their_own() {
        let member = MemberResponse::default().with_error_code(25);
        let response = LeaveGroupResponse::default().with_members(vec![member]);
        assert_eq!(for_version(response.clone(), 3), response);
        let old = for_version(response, 2);
        assert_eq!((old.error_code, old.members.len()), (25, 0));
    }
}
