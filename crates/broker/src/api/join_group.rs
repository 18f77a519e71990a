//! JoinGroup (key 11), versions 0–9: a member joins or rejoins a classic group. Version 1 brings the rebalance
//! timeout, 4 MEMBER_ID_REQUIRED, 5 static members, 7 the protocol type, 9 `skip_assignment`.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply;

/// See the module.
pub(super) struct JoinGroup;

/// First version in which the protocol's name may be null.
const NULLABLE_PROTOCOL_SINCE: i16 = 7;

impl Handle for JoinGroup {
    type Request = JoinGroupRequest;
    const VERSIONS: (i16, i16) = (0, 9);

    fn handle(broker: &Arc<Broker>, context: RequestContext, request: JoinGroupRequest) -> Reply<JoinGroupResponse> {
        let version = context.version;
        let host = format!("/{}", context.connection.peer.ip());
        let of = Context {
            client_id: &context.client_id,
            client_host: &host,
            member_id_suffix: broker.random.uuid(),
            ..Context::version(version)
        };
        let (group, member_id) = (request.group_id.clone(), request.member_id.clone());
        let submitted = broker.groups.submit(&group, &of, &Request::Join(request));
        let take = move |response| match response {
            Response::Join(response) => Some(for_version(response, version)),
            _ => None,
        };
        let refuse = move |code: protocol::ErrorCode| {
            let refused = JoinGroupResponse::default().with_member_id(member_id).with_generation_id(-1);
            for_version(refused.with_error_code(code.code()), version)
        };
        reply(broker.groups.durable(), submitted, take, refuse)
    }
}

fn for_version(mut response: JoinGroupResponse, version: i16) -> JoinGroupResponse {
    if version < NULLABLE_PROTOCOL_SINCE && response.protocol_name.is_none() {
        response.protocol_name = Some(StrBytes::default());
    }
    response
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    #[test]
    fn answers_of_every_kind_encode_in_every_version() {
        let member = JoinGroupResponseMember::default()
            .with_member_id(StrBytes::from_static_str("m"))
            .with_group_instance_id(Some(StrBytes::from_static_str("i")));
        let joined = JoinGroupResponse::default()
            .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
            .with_protocol_name(Some(StrBytes::from_static_str("range")))
            .with_members(vec![member]);
        let refused = JoinGroupResponse::default().with_protocol_type(None).with_protocol_name(None);
        for version in JoinGroup::VERSIONS.0..=JoinGroup::VERSIONS.1 {
            for response in [&joined, &refused] {
                let encoded = for_version(response.clone(), version).encode(&mut BytesMut::new(), version);
                assert!(encoded.is_ok(), "version {version}: {encoded:?}");
            }
        }
    }
}
