//! DeleteRecords (key 21), versions 0–2: moves the first offset of partitions up. Answered once metadata has it,
//! which for records that are not uploaded yet includes their upload.

use std::sync::Arc;
use std::time::Duration;

use common::Offset;
use futures::StreamExt;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use protocol::ErrorCode;
use s3stream::PortError;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::partition::{LookupError, is_internal};

/// Partitions of one request that are trimmed at a time.
const CONCURRENT: usize = 64;
/// "Up to the high watermark" in requests.
const HIGH_WATERMARK: i64 = -1;

/// See the module.
pub(super) struct DeleteRecords;

impl Handle for DeleteRecords {
    type Request = DeleteRecordsRequest;
    const VERSIONS: (i16, i16) = (0, 2);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: DeleteRecordsRequest,
    ) -> Reply<DeleteRecordsResponse> {
        let broker = Arc::clone(broker);
        let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
        Reply::Later(Box::pin(async move {
            let deadline = common::clock::deadline(timeout);
            let mut topics = Vec::with_capacity(request.topics.len());
            for topic in request.topics {
                topics.push(delete_topic(&broker, topic, deadline).await);
            }
            DeleteRecordsResponse::default().with_topics(topics)
        }))
    }
}

async fn delete_topic(
    broker: &Broker,
    topic: DeleteRecordsTopic,
    deadline: tokio::time::Instant,
) -> DeleteRecordsTopicResult {
    let DeleteRecordsTopic { name, partitions, .. } = topic;
    let deletions = partitions.into_iter().map(|asked| delete_partition(broker, &name, asked, deadline));
    let results = futures::stream::iter(deletions.collect::<Vec<_>>()).buffered(CONCURRENT).collect().await;
    DeleteRecordsTopicResult::default().with_name(name.clone()).with_partitions(results)
}

async fn delete_partition(
    broker: &Broker,
    topic: &str,
    asked: DeleteRecordsPartition,
    deadline: tokio::time::Instant,
) -> DeleteRecordsPartitionResult {
    let result = DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
    let deletion = tokio::time::timeout_at(deadline, delete(broker, topic, &asked));
    match deletion.await.unwrap_or(Err(ErrorCode::RequestTimedOut)) {
        Ok(low_watermark) => result.with_low_watermark(low_watermark.0),
        Err(code) => result.with_low_watermark(-1).with_error_code(code as i16),
    }
}

/// Deletes below the offset asked for; returns the first offset that is left.
async fn delete(broker: &Broker, topic: &str, asked: &DeleteRecordsPartition) -> Result<Offset, ErrorCode> {
    let partition = broker.partitions.lookup_name(topic, asked.partition_index).map_err(LookupError::code)?;
    if is_internal(topic) {
        return Err(ErrorCode::InvalidTopicException);
    }
    if !partition.topic().config.load().delete {
        return Err(ErrorCode::PolicyViolation);
    }
    let high_watermark = partition.high_watermark();
    let start = if asked.offset == HIGH_WATERMARK { high_watermark } else { Offset(asked.offset) };
    if start.0 < 0 || start > high_watermark {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    // In a task of its own: given up between metadata and memory (the time is up, the client is gone), this broker
    // would go on offering a log start that metadata has moved past.
    #[allow(clippy::disallowed_methods)]
    let trimmed = {
        let partition = Arc::clone(&partition);
        tokio::spawn(async move { partition.trim(start).await }).await
    };
    trimmed.map_err(|_| ErrorCode::KafkaStorageError)?.map_err(|error| match error {
        PortError::Fenced(_) => ErrorCode::NotLeaderOrFollower,
        PortError::Unavailable(_) => ErrorCode::KafkaStorageError,
    })?;
    Ok(partition.log_start())
}
