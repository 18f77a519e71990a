//! AddPartitionsToTxn (key 24), versions 0–3: partitions become part of a producer's transaction before it writes to them.
//! Version 2 brings PRODUCER_FENCED. Brokers ask each other on their own connections, so that versions 4 and 5, which
//! are theirs in Kafka, are not here.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};
use metadata::MetadataImage;
use protocol::ErrorCode;

use super::end_txn::for_version;
use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::partition::is_internal;
use crate::transactions::producer;

/// See the module.
pub(super) struct AddPartitionsToTxn;

impl Handle for AddPartitionsToTxn {
    type Request = AddPartitionsToTxnRequest;
    const VERSIONS: (i16, i16) = (0, 3);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: AddPartitionsToTxnRequest,
    ) -> Reply<AddPartitionsToTxnResponse> {
        let topics = request.v3_and_below_topics;
        let refused = refused(&broker.metadata.image(), &topics);
        if !refused.is_empty() {
            // One that cannot be added lets none be.
            let code =
                |topic: &str, index| refused.get(&(topic, index)).copied().unwrap_or(ErrorCode::OperationNotAttempted);
            return Reply::Now(respond(&topics, code));
        }
        let (producer_id, epoch) = (request.v3_and_below_producer_id.0, request.v3_and_below_producer_epoch);
        let producer = producer(&request.v3_and_below_transactional_id, producer_id, epoch);
        let partitions = topics.iter().flat_map(|topic| {
            let name: Arc<str> = topic.name.as_str().into();
            topic.partitions.iter().map(move |index| (Arc::clone(&name), *index))
        });
        let partitions = partitions.collect();
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let added = broker.transactions.add(producer, partitions).await;
            let code = for_version(added.err().unwrap_or(ErrorCode::None), context.version);
            respond(&topics, |_, _| code)
        }))
    }
}

/// Partitions that do not exist, or that clients may not write to.
fn refused<'a>(image: &MetadataImage, topics: &'a [AddPartitionsToTxnTopic]) -> HashMap<(&'a str, i32), ErrorCode> {
    let mut refused = HashMap::new();
    for topic in topics {
        let known = image.topic(&topic.name);
        for index in &topic.partitions {
            if known.and_then(|known| known.partition(*index)).is_none() {
                refused.insert((topic.name.as_str(), *index), ErrorCode::UnknownTopicOrPartition);
            } else if is_internal(&topic.name) {
                refused.insert((topic.name.as_str(), *index), ErrorCode::TopicAuthorizationFailed);
            }
        }
    }
    refused
}

fn respond(topics: &[AddPartitionsToTxnTopic], code: impl Fn(&str, i32) -> ErrorCode) -> AddPartitionsToTxnResponse {
    let results = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| {
            let result = AddPartitionsToTxnPartitionResult::default().with_partition_index(*index);
            result.with_partition_error_code(code(&topic.name, *index).code())
        });
        let result = AddPartitionsToTxnTopicResult::default().with_name(topic.name.clone());
        result.with_results_by_partition(partitions.collect())
    });
    AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results.collect())
}
