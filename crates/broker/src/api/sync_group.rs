//! SyncGroup (key 14), versions 0–5: the leader hands in the assignment, every member gets its part. Version 3
//! brings static members, 5 protocol type and name.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply;

/// See the module.
pub(super) struct SyncGroup;

/// First version that must say which protocol the member believes in.
const PROTOCOL_SINCE: i16 = 5;

impl Handle for SyncGroup {
    type Request = SyncGroupRequest;
    const VERSIONS: (i16, i16) = (0, 5);

    fn handle(broker: &Arc<Broker>, context: RequestContext, request: SyncGroupRequest) -> Reply<SyncGroupResponse> {
        let refuse = |code: protocol::ErrorCode| SyncGroupResponse::default().with_error_code(code.code());
        let names_protocol = request.protocol_type.is_some() && request.protocol_name.is_some();
        if context.version >= PROTOCOL_SINCE && !names_protocol {
            return Reply::Now(refuse(protocol::ErrorCode::InconsistentGroupProtocol));
        }
        let group = request.group_id.clone();
        let submitted = broker.groups.submit(&group, &Context::version(context.version), &Request::Sync(request));
        let take = |response| match response {
            Response::Sync(response) => Some(response),
            _ => None,
        };
        reply(broker.groups.durable(), submitted, take, refuse)
    }
}
