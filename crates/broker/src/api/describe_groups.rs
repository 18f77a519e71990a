//! DescribeGroups (key 15), versions 0–6: classic groups with their members. Version 3 brings authorized
//! operations, 6 GROUP_ID_NOT_FOUND, where older ones see a group in state Dead.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use protocol::ErrorCode;

use super::metadata::OPERATIONS_NOT_ASKED;
use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::{Submitted, reply_all};

/// See the module.
pub(super) struct DescribeGroups;

/// Operations on a group as bits, where nothing is forbidden: READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS,
/// ALTER_CONFIGS.
pub(super) const ALL_GROUP_OPERATIONS: i32 = 0b1101_0100_1000;

impl Handle for DescribeGroups {
    type Request = DescribeGroupsRequest;
    const VERSIONS: (i16, i16) = (0, 6);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: DescribeGroupsRequest,
    ) -> Reply<DescribeGroupsResponse> {
        let of = Context::version(context.version);
        let submit = |group: &GroupId| match group.is_empty() {
            true => Submitted::Refused(ErrorCode::InvalidGroupId),
            false => broker.groups.submit(group, &of, &Request::Describe(vec![group.as_str().into()])),
        };
        let submitted = request.groups.iter().map(submit).collect();
        reply_all(broker.groups.durable(), submitted, move |parts| {
            let described = request.groups.into_iter().zip(parts).map(|(id, part)| describe(id, part));
            let operations = |group: DescribedGroup| {
                let asked = request.include_authorized_operations && group.error_code == 0;
                group.with_authorized_operations(if asked { ALL_GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED })
            };
            DescribeGroupsResponse::default().with_groups(described.map(operations).collect())
        })
    }
}

fn describe(id: GroupId, part: Result<Response, ErrorCode>) -> DescribedGroup {
    let code = match part {
        Ok(Response::Describe(mut groups)) if groups.len() == 1 => return groups.swap_remove(0),
        Ok(_) => ErrorCode::UnknownServerError,
        Err(code) => code,
    };
    DescribedGroup::default().with_group_id(id).with_error_code(code.code())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use coordinator::{GroupConfig, GroupShard, Now, Persisted, Token};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;

    #[test]
    fn unknown_groups_encode_in_every_version() {
        let now = Now { wall_ms: 0, boot_ms: 0 };
        let mut shard = GroupShard::load(Arc::new(GroupConfig::default()), Persisted::default(), now);
        for version in DescribeGroups::VERSIONS.0..=DescribeGroups::VERSIONS.1 {
            let request = Request::Describe(vec!["g".into()]);
            let output = shard.handle(Token(1), &Context::version(version), &request, now);
            let (_, response) = output.responses.into_iter().next().expect("answered at once");
            let group = describe(GroupId(StrBytes::from_static_str("g")), Ok(response));
            assert_eq!((group.group_state.as_str(), group.error_code), ("Dead", if version >= 6 { 69 } else { 0 }));
            let group = group.with_authorized_operations(OPERATIONS_NOT_ASKED);
            let response = DescribeGroupsResponse::default().with_groups(vec![group]);
            let encoded = response.encode(&mut BytesMut::new(), version);
            assert!(encoded.is_ok(), "version {version}: {encoded:?}");
        }
    }
}
