//! ConsumerGroupHeartbeat (key 68), versions 0–1 (KIP-848): a member of a consumer group joins, lives, leaves, and is told
//! what to read. Version 1 brings regular expressions, and ids that members make themselves.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use kafka_protocol::protocol::StrBytes;
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::{consumer_groups_enabled, reply};

/// See the module.
pub(super) struct ConsumerGroupHeartbeat;

impl Handle for ConsumerGroupHeartbeat {
    type Request = ConsumerGroupHeartbeatRequest;
    const VERSIONS: (i16, i16) = (0, 1);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: ConsumerGroupHeartbeatRequest,
    ) -> Reply<ConsumerGroupHeartbeatResponse> {
        if !consumer_groups_enabled(&broker.metadata.image()) {
            return Reply::Now(refuse(ErrorCode::UnsupportedVersion));
        }
        let host = format!("/{}", context.connection.peer.ip());
        let topics = broker.groups.topics();
        let of = Context {
            version: context.version,
            client_id: &context.client_id,
            client_host: &host,
            member_id_suffix: broker.random.uuid(),
            topics: &topics,
        };
        let group = request.group_id.clone();
        let submitted = broker.groups.submit(&group, &of, &Request::ConsumerHeartbeat(request));
        let take = |response| match response {
            Response::ConsumerHeartbeat(response) => Some(response),
            _ => None,
        };
        reply(broker.groups.durable(), submitted, take, refuse)
    }
}

fn refuse(code: ErrorCode) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse::default()
        .with_error_code(code.code())
        .with_error_message(Some(StrBytes::from_static_str(code.message())))
}
