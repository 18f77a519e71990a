//! WriteTxnMarkers (key 27), version 1: an operator ends a transaction that hangs, on the partitions that this broker
//! leads. Coordinators write markers over their own connections.

use std::sync::Arc;

use kafka_protocol::messages::write_txn_markers_request::WritableTxnMarker;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::partition::TransactionMarker;

/// See the module.
pub(super) struct WriteTxnMarkers;

impl Handle for WriteTxnMarkers {
    type Request = WriteTxnMarkersRequest;
    const VERSIONS: (i16, i16) = (1, 1);

    fn handle(
        broker: &Arc<Broker>,
        _: RequestContext,
        request: WriteTxnMarkersRequest,
    ) -> Reply<WriteTxnMarkersResponse> {
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let mut results = Vec::with_capacity(request.markers.len());
            for marker in request.markers {
                results.push(write(&broker, marker).await);
            }
            WriteTxnMarkersResponse::default().with_markers(results)
        }))
    }
}

async fn write(broker: &Broker, request: WritableTxnMarker) -> WritableTxnMarkerResult {
    let marker = TransactionMarker {
        producer_id: request.producer_id.0,
        producer_epoch: request.producer_epoch,
        commit: request.transaction_result,
        coordinator_epoch: request.coordinator_epoch,
        transaction_version: 0,
    };
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name: Arc<str> = topic.name.as_str().into();
        let keys: Vec<_> = topic.partition_indexes.iter().map(|index| (Arc::clone(&name), *index)).collect();
        let codes = broker.transactions.markers.write_here(&marker, &keys).await;
        let partitions = topic.partition_indexes.iter().zip(codes).map(|(index, code)| {
            WritableTxnMarkerPartitionResult::default().with_partition_index(*index).with_error_code(code.code())
        });
        let result = WritableTxnMarkerTopicResult::default().with_name(topic.name);
        topics.push(result.with_partitions(partitions.collect()));
    }
    WritableTxnMarkerResult::default().with_producer_id(request.producer_id).with_topics(topics)
}
