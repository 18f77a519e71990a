//! OffsetCommit (key 8), versions 2–9: stores offsets of a group. Up to version 4 with a retention of its own, 6
//! brings leader epochs, 7 static members, 9 GROUP_ID_NOT_FOUND.

use std::sync::Arc;

use coordinator::{Context, Request, Response};
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply;

/// See the module.
pub(super) struct OffsetCommit;

impl Handle for OffsetCommit {
    type Request = OffsetCommitRequest;
    const VERSIONS: (i16, i16) = (2, 9);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        mut request: OffsetCommitRequest,
    ) -> Reply<OffsetCommitResponse> {
        let image = broker.metadata.image();
        let topics = std::mem::take(&mut request.topics);
        let (known, unknown): (Vec<_>, Vec<_>) =
            topics.into_iter().partition(|topic| image.topic(&topic.name).is_some());
        let mut answers = refuse_topics(&unknown, ErrorCode::UnknownTopicOrPartition);
        if known.is_empty() && !unknown.is_empty() {
            return Reply::Now(OffsetCommitResponse::default().with_topics(answers));
        }
        let refused_answers = answers.clone();
        let refused_topics = known.clone();
        request.topics = known;
        let group = request.group_id.clone();
        let submitted =
            broker.groups.submit(&group, &Context::version(context.version), &Request::OffsetCommit(request));
        let take = move |response| match response {
            Response::OffsetCommit(response) => {
                answers.extend(response.topics);
                Some(OffsetCommitResponse::default().with_topics(answers))
            }
            _ => None,
        };
        let refuse = move |code| {
            let mut answers = refused_answers;
            answers.extend(refuse_topics(&refused_topics, code));
            OffsetCommitResponse::default().with_topics(answers)
        };
        reply(broker.groups.durable(), submitted, take, refuse)
    }
}

fn refuse_topics(topics: &[OffsetCommitRequestTopic], code: ErrorCode) -> Vec<OffsetCommitResponseTopic> {
    let refuse = |topic: &OffsetCommitRequestTopic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let answer = OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
            answer.with_error_code(code.code())
        });
        OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    };
    topics.iter().map(refuse).collect()
}
