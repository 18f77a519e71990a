//! Heartbeat (key 12), versions 0–4: a member says that it lives. Version 3 brings static members.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply;

/// See the module.
pub(super) struct Heartbeat;

impl Handle for Heartbeat {
    type Request = HeartbeatRequest;
    const VERSIONS: (i16, i16) = (0, 4);

    fn handle(broker: &Arc<Broker>, context: RequestContext, request: HeartbeatRequest) -> Reply<HeartbeatResponse> {
        let group = request.group_id.clone();
        let submitted = broker.groups.submit(&group, &Context::version(context.version), &Request::Heartbeat(request));
        let take = |response| match response {
            Response::Heartbeat(response) => Some(response),
            _ => None,
        };
        // Clients that are told the coordinator is loading keep their session; old ones do not know the code.
        let refuse = |code: protocol::ErrorCode| {
            let code = if code == protocol::ErrorCode::CoordinatorLoadInProgress { 0 } else { code.code() };
            HeartbeatResponse::default().with_error_code(code)
        };
        reply(broker.groups.durable(), submitted, take, refuse)
    }
}
