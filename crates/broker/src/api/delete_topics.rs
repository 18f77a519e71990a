//! DeleteTopics (key 20), versions 1–6: by name, from 6 by name or id.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use metadata::{Command, MetadataImage};
use protocol::ErrorCode;
use uuid::Uuid;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::topics::{ChangeError, Deadline, submit};

/// See the module.
pub(crate) struct DeleteTopics;

/// Topics of one request that are being deleted at the same time.
const DELETIONS_AT_ONCE: usize = 64;

/// One topic as a client names it, and what is known of it.
struct Doomed {
    name: Option<TopicName>,
    id: Uuid,
    judged: Result<(), ChangeError>,
}

impl Handle for DeleteTopics {
    type Request = DeleteTopicsRequest;
    const VERSIONS: (i16, i16) = (1, 6);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: DeleteTopicsRequest,
    ) -> Reply<DeleteTopicsResponse> {
        let broker = Arc::clone(broker);
        let by_name = |name: TopicName| DeleteTopicState::default().with_name(Some(name));
        let states: Vec<DeleteTopicState> = match context.version {
            ..6 => request.topic_names.into_iter().map(by_name).collect(),
            _ => request.topics,
        };
        if !broker.config.delete_topics {
            // The code is younger than version 3.
            let code = if context.version < 3 { ErrorCode::InvalidRequest } else { ErrorCode::TopicDeletionDisabled };
            let error = ChangeError::new(code, "Topic deletion is disabled.");
            let refuse = |state: DeleteTopicState| {
                result(Doomed { name: state.name, id: state.topic_id, judged: Err(error.clone()) })
            };
            return Reply::Now(
                DeleteTopicsResponse::default().with_responses(states.into_iter().map(refuse).collect()),
            );
        }
        let deadline = Deadline::after_ms(&broker, request.timeout_ms);
        Reply::Later(Box::pin(async move {
            let doomed = judge(&broker.metadata.image(), states);
            let delete = async |mut topic: Doomed| {
                if topic.judged.is_ok() {
                    let command = Command::DeleteTopic { id: topic.id };
                    topic.judged = submit(&broker, deadline, command).await.map(|_| ());
                }
                result(topic)
            };
            let responses = futures::stream::iter(doomed).map(delete).buffered(DELETIONS_AT_ONCE).collect().await;
            DeleteTopicsResponse::default().with_responses(responses)
        }))
    }
}

fn judge(image: &MetadataImage, states: Vec<DeleteTopicState>) -> Vec<Doomed> {
    let mut seen: HashSet<Uuid> = HashSet::new();
    let find = |state: DeleteTopicState| {
        let topic = match &state.name {
            Some(name) => image.topic(name),
            None => image.topics.get(&state.topic_id),
        };
        let judged = match (&state.name, state.topic_id.is_nil(), topic) {
            (Some(_), false, _) => Err("Topic name and id can not both be specified."),
            (None, true, _) => Err("Neither topic name nor id were specified."),
            (_, _, Some(topic)) if !seen.insert(topic.id) => Err("Duplicate topic name or id."),
            _ => Ok(()),
        };
        let judged = judged.map_err(|message| ChangeError::new(ErrorCode::InvalidRequest, message));
        match topic {
            Some(topic) => {
                let name = TopicName(StrBytes::from_string(topic.name.to_string()));
                Doomed { name: Some(name), id: topic.id, judged }
            }
            None => {
                let code = match state.name {
                    Some(_) => ErrorCode::UnknownTopicOrPartition,
                    None => ErrorCode::UnknownTopicId,
                };
                let judged = judged.and(Err(ChangeError::plain(code)));
                Doomed { name: state.name, id: state.topic_id, judged }
            }
        }
    };
    states.into_iter().map(find).collect()
}

fn result(topic: Doomed) -> DeletableTopicResult {
    let result = DeletableTopicResult::default().with_name(topic.name).with_topic_id(topic.id);
    match topic.judged {
        Ok(()) => result,
        Err(error) => {
            result.with_error_code(error.code.code()).with_error_message(Some(StrBytes::from_string(error.message)))
        }
    }
}

#[cfg(test)]
mod tests {
    use metadata::TopicImage;

    use super::*;

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        let topic = TopicImage { id: Uuid::from_u128(7), name: Arc::from("t"), partitions: Vec::new() };
        image.topic_ids.insert(Arc::from("t"), topic.id);
        image.topics.insert(topic.id, Arc::new(topic));
        image
    }

    fn state(name: Option<&'static str>, id: u128) -> DeleteTopicState {
        let name = name.map(|name| TopicName(StrBytes::from_static_str(name)));
        DeleteTopicState::default().with_name(name).with_topic_id(Uuid::from_u128(id))
    }

    fn codes(states: Vec<DeleteTopicState>) -> Vec<i16> {
        judge(&image(), states).into_iter().map(|topic| result(topic).error_code).collect()
    }

    #[test]
    fn topics_are_found_by_name_or_id_but_once() {
        assert_eq!(codes(vec![state(Some("t"), 0)]), [0]);
        assert_eq!(codes(vec![state(None, 7)]), [0]);
        assert_eq!(codes(vec![state(None, 7), state(Some("t"), 0)]), [0, 42]);
        assert_eq!(codes(vec![state(Some("t"), 7), state(None, 0)]), [42, 42]);
        assert_eq!(codes(vec![state(Some("u"), 0), state(None, 8)]), [3, 100]);
    }

    #[test]
    fn the_answer_tells_name_and_id() {
        let answer = result(judge(&image(), vec![state(None, 7)]).remove(0));
        assert_eq!(answer.name.as_deref().map(|name| &**name), Some("t"));
        assert_eq!(answer.topic_id, Uuid::from_u128(7));
    }
}
