//! ListOffsets (key 2), versions 1–10: offsets by timestamp, or by what negative timestamps stand for. Version 2
//! brings the isolation level, 4 leader epochs, 7 the newest timestamp, 8 the local log start, 9 the end of tiered
//! storage.
//!
//! All records are in one place as far as clients can see, so the local log starts where the log starts, and
//! nothing is tiered.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse, TopicName};
use metadata::MetadataImage;
use protocol::ErrorCode;
use uuid::Uuid;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::partition::{FoundOffset, Isolation, LookupError, Partition};

/// Partitions of one request that are searched at a time.
const CONCURRENT: usize = 16;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// See the module.
pub(super) struct ListOffsets;

impl Handle for ListOffsets {
    type Request = ListOffsetsRequest;
    const VERSIONS: (i16, i16) = (1, 10);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: ListOffsetsRequest,
    ) -> Reply<ListOffsetsResponse> {
        let image = broker.metadata.image();
        let opening: Vec<Uuid> = request.topics.iter().filter_map(|asked| opening(broker, &image, asked)).collect();
        if !opening.is_empty() {
            let broker = Arc::clone(broker);
            return Reply::Later(Box::pin(async move {
                let waits = opening.into_iter().map(|topic| broker.partitions.wait_open_here(topic));
                futures::future::join_all(waits).await;
                answers(context.version, questions(&broker, context.version, request)).await
            }));
        }
        let topics = questions(broker, context.version, request);
        let is_search = |(_, question): &(i32, _)| matches!(question, Ok(Question::Search(..)));
        let must_search = topics.iter().any(|(_, questions)| questions.iter().any(is_search));
        let answering = answers(context.version, topics);
        if must_search {
            return Reply::Later(Box::pin(answering));
        }
        // Without a search nothing in it waits.
        match futures::FutureExt::now_or_never(answering) {
            Some(response) => Reply::Now(response),
            None => Reply::Close("offsets that need no search were not there".to_owned()),
        }
    }
}

/// The topic, if a partition that is asked about is being opened here.
fn opening(broker: &Broker, image: &MetadataImage, asked: &ListOffsetsTopic) -> Option<Uuid> {
    let topic = image.topic(&asked.name)?;
    let found = |asked: &ListOffsetsPartition| broker.partitions.lookup(topic, asked.partition_index);
    asked.partitions.iter().any(|asked| matches!(found(asked), Err(LookupError::Opening))).then_some(topic.id)
}

/// A topic's partitions, each with what is asked of it.
type Asked = (TopicName, Vec<(i32, Result<Question, ErrorCode>)>);

fn questions(broker: &Broker, version: i16, request: ListOffsetsRequest) -> Vec<Asked> {
    let isolation = if request.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let duplicates = duplicates(&request.topics);
    let topics = request.topics.into_iter().map(|topic| {
        let duplicate = |index| !duplicates.is_empty() && duplicates.contains(&(topic.name.to_string(), index));
        let partitions = topic.partitions.iter().map(|asked| {
            let question = if duplicate(asked.partition_index) {
                Err(ErrorCode::InvalidRequest)
            } else {
                question(broker, version, &topic.name, asked, isolation)
            };
            (asked.partition_index, question)
        });
        let partitions: Vec<_> = partitions.collect();
        (topic.name, partitions)
    });
    topics.collect()
}

async fn answers(version: i16, topics: Vec<Asked>) -> ListOffsetsResponse {
    let mut answers = Vec::with_capacity(topics.len());
    for (name, questions) in topics {
        let answered =
            futures::stream::iter(questions.into_iter().map(|question| answer(version, question))).buffered(CONCURRENT);
        let partitions = answered.collect().await;
        answers.push(ListOffsetsTopicResponse::default().with_name(name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(answers)
}

/// What a valid request for one partition comes down to.
enum Question {
    /// Known without reading records.
    Known(FoundOffset),
    /// Reads records.
    Search(Arc<Partition>, Isolation, i64),
}

fn duplicates(topics: &[ListOffsetsTopic]) -> HashSet<(String, i32)> {
    let mut seen = HashSet::new();
    let partitions = topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.as_str(), partition.partition_index)));
    let again = partitions.filter(|partition| !seen.insert(*partition));
    again.map(|(name, index)| (name.to_owned(), index)).collect()
}

/// The first version that tells the epoch of the offset it found.
const EPOCH_SINCE: i16 = 4;

/// The lowest version that may ask for a negative timestamp.
fn lowest_version(timestamp: i64) -> Option<i16> {
    match timestamp {
        LATEST | EARLIEST => Some(1),
        MAX_TIMESTAMP => Some(7),
        EARLIEST_LOCAL => Some(8),
        LATEST_TIERED => Some(9),
        _ => None,
    }
}

fn question(
    broker: &Broker,
    version: i16,
    topic: &str,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<Question, ErrorCode> {
    let timestamp = asked.timestamp;
    if timestamp < 0 && lowest_version(timestamp).is_none_or(|lowest| version < lowest) {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let partition = broker.partitions.lookup_name(topic, asked.partition_index).map_err(LookupError::code)?;
    partition.check_leader_epoch(asked.current_leader_epoch)?;
    if !partition.is_serving() {
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    let known = match timestamp {
        LATEST => FoundOffset {
            offset: partition.readable_end(isolation).0,
            timestamp_ms: -1,
            leader_epoch: partition.leader_epoch(),
        },
        EARLIEST | EARLIEST_LOCAL => {
            let start = partition.log_start();
            FoundOffset { offset: start.0, timestamp_ms: -1, leader_epoch: partition.epoch_at(start) }
        }
        LATEST_TIERED => FoundOffset::NONE,
        _ => return Ok(Question::Search(partition, isolation, timestamp)),
    };
    Ok(Question::Known(known))
}

async fn answer(version: i16, (index, question): (i32, Result<Question, ErrorCode>)) -> ListOffsetsPartitionResponse {
    let found = match question {
        Ok(Question::Known(found)) => Ok(found),
        Ok(Question::Search(partition, isolation, MAX_TIMESTAMP)) => partition.find_max_timestamp(isolation).await,
        Ok(Question::Search(partition, isolation, timestamp)) => partition.find_timestamp(timestamp, isolation).await,
        Err(code) => return respond(version, index, FoundOffset::NONE).with_error_code(code as i16),
    };
    match found {
        Ok(found) => respond(version, index, found),
        Err(error) => {
            tracing::warn!(partition = index, %error, "cannot search for a timestamp");
            respond(version, index, FoundOffset::NONE).with_error_code(error.code() as i16)
        }
    }
}

fn respond(version: i16, index: i32, found: FoundOffset) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse::default()
        .with_partition_index(index)
        .with_timestamp(found.timestamp_ms)
        .with_offset(found.offset)
        // Older answers have no place for it, and cannot be encoded with it.
        .with_leader_epoch(if version >= EPOCH_SINCE { found.leader_epoch } else { -1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_encode_in_every_version() {
        let found = FoundOffset { offset: 7, timestamp_ms: 9, leader_epoch: 3 };
        let (oldest, newest) = ListOffsets::VERSIONS;
        for version in oldest..=newest {
            let topic = ListOffsetsTopicResponse::default().with_partitions(vec![respond(version, 0, found)]);
            let response = ListOffsetsResponse::default().with_topics(vec![topic]);
            let encoded = kafka_protocol::protocol::Encodable::encode(&response, &mut bytes::BytesMut::new(), version);
            assert!(encoded.is_ok(), "version {version}: {encoded:?}");
        }
    }
}
