//! OffsetFetch (key 9), versions 1–9: committed offsets. Version 2 brings "all topics" (null) and an error for the
//! whole, 7 `require_stable`, which asks to be told of offsets that an open transaction may change (KIP-447), 8 several
//! groups at once.

use std::sync::Arc;

use coordinator::{Context, Request, RequireStable, Response};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use kafka_protocol::protocol::StrBytes;
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::{reply, reply_all};

/// See the module.
pub(super) struct OffsetFetch;

/// First version with several groups.
const GROUPS_SINCE: i16 = 8;
/// First version with an error for the whole response.
const ERROR_SINCE: i16 = 2;

impl Handle for OffsetFetch {
    type Request = OffsetFetchRequest;
    const VERSIONS: (i16, i16) = (1, 9);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: OffsetFetchRequest,
    ) -> Reply<OffsetFetchResponse> {
        let version = context.version;
        let of = Context::version(version);
        let stable = if request.require_stable { RequireStable::Yes } else { RequireStable::No };
        if version >= GROUPS_SINCE {
            let ids: Vec<_> = request.groups.iter().map(|group| group.group_id.clone()).collect();
            let submit = |group: OffsetFetchRequestGroup| {
                let id = group.group_id.clone();
                broker.groups.submit(&id, &of, &Request::OffsetFetch(group, stable))
            };
            let submitted = request.groups.into_iter().map(submit).collect();
            return reply_all(broker.groups.durable(), submitted, move |parts| {
                let groups = ids.into_iter().zip(parts).map(|(id, part)| match part {
                    Ok(Response::OffsetFetch(group)) => group,
                    Ok(_) => refuse_group(id, ErrorCode::UnknownServerError),
                    Err(code) => refuse_group(id, code),
                });
                OffsetFetchResponse::default().with_groups(groups.collect())
            });
        }
        let topics = request.topics.clone();
        let group = one_group(request);
        let id = group.group_id.clone();
        let submitted = broker.groups.submit(&id, &of, &Request::OffsetFetch(group, stable));
        let asked = topics.clone();
        let take = move |response| match response {
            Response::OffsetFetch(group) => Some(single(group, version, asked.as_deref().unwrap_or_default())),
            _ => None,
        };
        let refuse = move |code| single(refuse_group(id, code), version, &topics.unwrap_or_default());
        reply(broker.groups.durable(), submitted, take, refuse)
    }
}

/// The only group of an older request.
fn one_group(request: OffsetFetchRequest) -> OffsetFetchRequestGroup {
    let topic = |topic: OffsetFetchRequestTopic| {
        OffsetFetchRequestTopics::default().with_name(topic.name).with_partition_indexes(topic.partition_indexes)
    };
    let topics = request.topics.map(|topics| topics.into_iter().map(topic).collect());
    OffsetFetchRequestGroup::default().with_group_id(request.group_id).with_topics(topics)
}

/// The response to an older request, for its only group.
fn single(group: OffsetFetchResponseGroup, version: i16, asked: &[OffsetFetchRequestTopic]) -> OffsetFetchResponse {
    if group.error_code != 0 && version < ERROR_SINCE {
        // There is no other place for the error than every partition.
        let topics = asked.iter().map(|topic| {
            let refuse = |index: &i32| refuse_partition(*index, group.error_code);
            let partitions = topic.partition_indexes.iter().map(refuse).collect();
            OffsetFetchResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions)
        });
        return OffsetFetchResponse::default().with_topics(topics.collect());
    }
    let topics = group.topics.into_iter().map(older_topic).collect();
    OffsetFetchResponse::default().with_error_code(group.error_code).with_topics(topics)
}

fn older_topic(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    let partition = |partition: OffsetFetchResponsePartitions| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(partition.partition_index)
            .with_committed_offset(partition.committed_offset)
            .with_committed_leader_epoch(partition.committed_leader_epoch)
            .with_metadata(partition.metadata)
            .with_error_code(partition.error_code)
    };
    let partitions = topic.partitions.into_iter().map(partition).collect();
    OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions)
}

fn refuse_partition(index: i32, code: i16) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition::default()
        .with_partition_index(index)
        .with_committed_offset(-1)
        .with_committed_leader_epoch(-1)
        .with_metadata(Some(StrBytes::default()))
        .with_error_code(code)
}

fn refuse_group(id: kafka_protocol::messages::GroupId, code: ErrorCode) -> OffsetFetchResponseGroup {
    // Consumers older than Kafka 3.9 do not know COORDINATOR_NOT_AVAILABLE here and would give up.
    let code = if code == ErrorCode::CoordinatorNotAvailable { ErrorCode::NotCoordinator } else { code };
    OffsetFetchResponseGroup::default().with_group_id(id).with_error_code(code.code())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::{GroupId, TopicName};
    use kafka_protocol::protocol::Encodable;

    use super::*;

    fn asked() -> Vec<OffsetFetchRequestTopic> {
        let name = TopicName(StrBytes::from_static_str("t"));
        vec![OffsetFetchRequestTopic::default().with_name(name).with_partition_indexes(vec![0, 7])]
    }

    #[test]
    fn before_version_2_errors_stand_in_every_partition() {
        let refused = refuse_group(GroupId::default(), ErrorCode::NotCoordinator);
        let old = single(refused.clone(), 1, &asked());
        let codes: Vec<_> = old.topics[0].partitions.iter().map(|one| (one.partition_index, one.error_code)).collect();
        assert_eq!(codes, [(0, 16), (7, 16)]);
        let new = single(refused, 2, &asked());
        assert_eq!((new.error_code, new.topics.len()), (16, 0));
    }

    #[test]
    fn answers_encode_in_every_version() {
        let partition = OffsetFetchResponsePartitions::default()
            .with_committed_offset(5)
            .with_committed_leader_epoch(3)
            .with_metadata(Some(StrBytes::from_static_str("note")));
        let topic = OffsetFetchResponseTopics::default()
            .with_name(TopicName(StrBytes::from_static_str("t")))
            .with_partitions(vec![partition]);
        let group = OffsetFetchResponseGroup::default().with_topics(vec![topic]);
        for version in OffsetFetch::VERSIONS.0..=OffsetFetch::VERSIONS.1 {
            for group in [group.clone(), refuse_group(GroupId::default(), ErrorCode::CoordinatorLoadInProgress)] {
                let response = if version >= GROUPS_SINCE {
                    OffsetFetchResponse::default().with_groups(vec![group])
                } else {
                    single(group, version, &asked())
                };
                let encoded = response.encode(&mut BytesMut::new(), version);
                assert!(encoded.is_ok(), "version {version}: {encoded:?}");
            }
        }
    }
}
