//! ConsumerGroupDescribe (key 69), versions 0–1 (KIP-848): consumer groups with their members. Version 1 tells which protocol a
//! member speaks. A group of another kind is GROUP_ID_NOT_FOUND, whereupon clients ask DescribeGroups.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, GroupId};
use protocol::ErrorCode;

use super::describe_groups::ALL_GROUP_OPERATIONS;
use super::metadata::OPERATIONS_NOT_ASKED;
use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::{Submitted, consumer_groups_enabled, reply_all};

/// See the module.
pub(super) struct ConsumerGroupDescribe;

impl Handle for ConsumerGroupDescribe {
    type Request = ConsumerGroupDescribeRequest;
    const VERSIONS: (i16, i16) = (0, 1);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: ConsumerGroupDescribeRequest,
    ) -> Reply<ConsumerGroupDescribeResponse> {
        let is_enabled = consumer_groups_enabled(&broker.metadata.image());
        let topics = broker.groups.topics();
        let of = Context { topics: &topics, ..Context::version(context.version) };
        let submit = |group: &GroupId| match group.is_empty() {
            _ if !is_enabled => Submitted::Refused(ErrorCode::UnsupportedVersion),
            true => Submitted::Refused(ErrorCode::InvalidGroupId),
            false => broker.groups.submit(group, &of, &Request::ConsumerDescribe(group.as_str().into())),
        };
        let submitted = request.group_ids.iter().map(submit).collect();
        reply_all(broker.groups.durable(), submitted, move |parts| {
            let described = request.group_ids.into_iter().zip(parts).map(|(id, part)| describe(id, part));
            let operations = |group: DescribedGroup| {
                let asked = request.include_authorized_operations && group.error_code == 0;
                group.with_authorized_operations(if asked { ALL_GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED })
            };
            ConsumerGroupDescribeResponse::default().with_groups(described.map(operations).collect())
        })
    }
}

fn describe(id: GroupId, part: Result<Response, ErrorCode>) -> DescribedGroup {
    let code = match part {
        Ok(Response::ConsumerDescribe(group)) => return group,
        Ok(_) => ErrorCode::UnknownServerError,
        Err(code) => code,
    };
    DescribedGroup::default().with_group_id(id).with_error_code(code.code())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use coordinator::{GroupConfig, GroupShard, Now, Persisted, Token};
    use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;

    #[test]
    fn groups_known_and_unknown_encode_in_every_version() {
        let now = Now { wall_ms: 0, boot_ms: 0 };
        let mut shard = GroupShard::load(Arc::new(GroupConfig::default()), Persisted::default(), now);
        let text = StrBytes::from_static_str;
        let join = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text("m"))
            .with_rebalance_timeout_ms(1_000)
            .with_subscribed_topic_names(Some(vec![TopicName(text("t"))]))
            .with_topic_partitions(Some(Vec::new()));
        let output = shard.handle(Token(0), &Context::version(1), &Request::ConsumerHeartbeat(join), now);
        shard.apply(&output.records);
        for version in ConsumerGroupDescribe::VERSIONS.0..=ConsumerGroupDescribe::VERSIONS.1 {
            for (id, code) in [("g", 0), ("h", ErrorCode::GroupIdNotFound.code())] {
                let request = Request::ConsumerDescribe(id.into());
                let output = shard.handle(Token(1), &Context::version(version), &request, now);
                let (_, response) = output.responses.into_iter().next().expect("answered at once");
                let group = describe(GroupId(text(id)), Ok(response));
                assert_eq!(group.error_code, code);
                let response = ConsumerGroupDescribeResponse::default().with_groups(vec![group]);
                let encoded = response.encode(&mut BytesMut::new(), version);
                assert!(encoded.is_ok(), "version {version}: {encoded:?}");
            }
        }
    }
}
