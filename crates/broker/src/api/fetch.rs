//! Fetch (key 1), versions 4–18: sessions from 7 (KIP-227), leader epochs from 9 (KIP-320), topic ids from 13,
//! leader hints from 16. Limits and order as in KIP-74; long polls park until data, an error, or `max_wait_ms`.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use protocol::errors::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::fetch::purgatory::{self, FetchParameters};
use crate::fetch::response::FetchAnswer;
use crate::fetch::session::{FetchContext, FetchKey, FetchWish, SessionError, Told};
use crate::network::Frame;
use crate::partition::Isolation;

/// See the module.
pub(crate) struct Fetch;

/// First version that names topics by id.
const BY_TOPIC_ID: i16 = 13;

impl Handle for Fetch {
    type Request = FetchRequest;
    const VERSIONS: (i16, i16) = (4, 18);

    fn handle(broker: &Arc<Broker>, context: RequestContext, request: FetchRequest) -> Reply<FetchResponse> {
        let broker = Arc::clone(broker);
        Reply::InTurn(Box::pin(async move {
            let (answer, lease) = answer(&broker, &context, request).await;
            Frame::encoded(answer.encode(context.version, context.correlation_id), lease)
        }))
    }
}

async fn answer(
    broker: &Arc<Broker>,
    context: &RequestContext,
    request: FetchRequest,
) -> (FetchAnswer, Option<common::budget::ByteLease>) {
    let by_topic_id = context.version >= BY_TOPIC_ID;
    let asked = wishes(&request);
    let forgotten = forgotten(&request);
    let now_ms = u64::try_from(broker.clock.boot().as_millis()).unwrap_or(u64::MAX);
    let (id, epoch) = (request.session_id, request.session_epoch);
    let begun = broker.fetch_sessions.lock().begin(id, epoch, by_topic_id, &asked, &forgotten, now_ms);
    let session = match begun {
        Ok(session) => session,
        Err(error) => return (FetchAnswer { error_code: session_error(error).code(), ..FetchAnswer::default() }, None),
    };
    let wishes = match session {
        FetchContext::Incremental { id } => broker.fetch_sessions.lock().wishes(id),
        FetchContext::Full | FetchContext::Sessionless => asked,
    };
    let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(broker.config.fetch_max_bytes as usize);
    let parameters = FetchParameters {
        max_wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)),
        // More than may be returned is not waited for, as in Kafka.
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes),
        max_bytes,
        isolation: if request.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted },
        by_topic_id,
    };
    let (mut answer, lease) = purgatory::fetch(broker, &wishes, &parameters, &context.connection.listener).await;
    count(broker, &answer);
    let told: Vec<Told> = answer.partitions.iter().map(|(_, partition)| Told::from(partition)).collect();
    match session {
        FetchContext::Sessionless => {}
        FetchContext::Full => {
            // Ids are random so that a client of an earlier life of this broker does not meet a stranger's session.
            let candidate = i32::try_from(broker.random.below(i32::MAX as u64)).unwrap_or(0);
            answer.session_id = broker.fetch_sessions.lock().create(candidate, by_topic_id, &wishes, &told, now_ms);
        }
        FetchContext::Incremental { id } => {
            answer.session_id = id;
            let answers: Vec<(FetchKey, Told)> =
                answer.partitions.iter().map(|(key, _)| key.clone()).zip(told).collect();
            let mut tell = broker.fetch_sessions.lock().filter(id, &answers).into_iter();
            answer.partitions.retain(|_| tell.next().unwrap_or(true));
        }
    }
    (answer, lease)
}

fn count(broker: &Broker, answer: &FetchAnswer) {
    let image = broker.metadata.image();
    for (key, partition) in &answer.partitions {
        let id = if key.topic_id.is_nil() { image.topic(&key.topic).map(|topic| topic.id) } else { Some(key.topic_id) };
        // What does not exist is not counted: its names are made up by clients.
        let Some(id) = id.filter(|id| image.topics.contains_key(id)) else { continue };
        let bytes = partition.records.iter().map(|piece| piece.len() as u64).sum();
        broker.metrics.count(id, |counted| {
            counted.fetch_requests.add(1);
            counted.bytes_out.add(bytes);
            counted.failed_fetch_requests.add(u64::from(partition.error_code != 0));
        });
    }
}

/// A copy: sessions keep names for long, and what was decoded keeps the whole frame that it came in.
fn own(name: &TopicName) -> StrBytes {
    StrBytes::from_string(name.to_string())
}

fn wishes(request: &FetchRequest) -> Vec<(FetchKey, FetchWish)> {
    let named = request.topics.iter().map(|topic| (topic, own(&topic.topic)));
    let partitions = named.flat_map(|(topic, name)| topic.partitions.iter().map(move |p| (topic, name.clone(), p)));
    let wish = |(topic, name, partition): (&FetchTopic, StrBytes, &FetchPartition)| {
        let key = FetchKey { topic_id: topic.topic_id, topic: name, partition: partition.partition };
        let wish = FetchWish {
            offset: partition.fetch_offset,
            max_bytes: partition.partition_max_bytes,
            leader_epoch: partition.current_leader_epoch,
        };
        (key, wish)
    };
    partitions.map(wish).collect()
}

fn forgotten(request: &FetchRequest) -> Vec<FetchKey> {
    let topics = request.forgotten_topics_data.iter();
    let keys = topics.flat_map(|topic| {
        topic.partitions.iter().map(|partition| FetchKey {
            topic_id: topic.topic_id,
            topic: topic.topic.0.clone(),
            partition: *partition,
        })
    });
    keys.collect()
}

fn session_error(error: SessionError) -> ErrorCode {
    match error {
        SessionError::NotFound => ErrorCode::FetchSessionIdNotFound,
        SessionError::InvalidEpoch => ErrorCode::InvalidFetchSessionEpoch,
        SessionError::TopicIdError => ErrorCode::FetchSessionTopicIdError,
    }
}
