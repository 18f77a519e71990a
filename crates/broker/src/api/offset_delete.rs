//! OffsetDelete (key 47), version 0: removes committed offsets of topics that no member of the group consumes.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::offset_delete_request::OffsetDeleteRequestTopic;
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply;

/// See the module.
pub(super) struct OffsetDelete;

impl Handle for OffsetDelete {
    type Request = OffsetDeleteRequest;
    const VERSIONS: (i16, i16) = (0, 0);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        mut request: OffsetDeleteRequest,
    ) -> Reply<OffsetDeleteResponse> {
        let image = broker.metadata.image();
        let topics = std::mem::take(&mut request.topics);
        let (known, unknown): (Vec<_>, Vec<_>) =
            topics.into_iter().partition(|topic| image.topic(&topic.name).is_some());
        let mut answers: Vec<_> = unknown.iter().map(unknown_topic).collect();
        request.topics = known;
        let group = request.group_id.clone();
        let submitted =
            broker.groups.submit(&group, &Context::version(context.version), &Request::OffsetDelete(request));
        let take = move |response| match response {
            Response::OffsetDelete(mut response) => {
                if response.error_code == 0 {
                    answers.append(&mut response.topics);
                    response.topics = answers;
                }
                Some(response)
            }
            _ => None,
        };
        let refuse = |code: ErrorCode| OffsetDeleteResponse::default().with_error_code(code.code());
        reply(broker.groups.durable(), submitted, take, refuse)
    }
}

fn unknown_topic(topic: &OffsetDeleteRequestTopic) -> OffsetDeleteResponseTopic {
    let partitions = topic.partitions.iter().map(|partition| {
        let answer = OffsetDeleteResponsePartition::default().with_partition_index(partition.partition_index);
        answer.with_error_code(ErrorCode::UnknownTopicOrPartition.code())
    });
    OffsetDeleteResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
}
