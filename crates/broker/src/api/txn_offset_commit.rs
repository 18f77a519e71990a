//! TxnOffsetCommit (key 28), versions 0–4: offsets of a group that count when the producer's transaction is committed.
//! Version 2 brings leader epochs, 3 the member they are of (KIP-447). Version 5, which needs no AddOffsetsToTxn
//! (KIP-890), is not here yet.

use std::sync::Arc;

use coordinator::transaction::ProducerIdAndEpoch;
use coordinator::{Context, Request, Response};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::{GROUP_METADATA_TOPIC, GroupCoordinator};
use crate::partition::{LookupError, Verification, VerificationGuard};

/// See the module.
pub(super) struct TxnOffsetCommit;

/// Batches of offsets have no sequence.
const NO_SEQUENCE: i32 = -1;

impl Handle for TxnOffsetCommit {
    type Request = TxnOffsetCommitRequest;
    const VERSIONS: (i16, i16) = (0, 4);

    fn handle(
        broker: &Arc<Broker>,
        _: RequestContext,
        request: TxnOffsetCommitRequest,
    ) -> Reply<TxnOffsetCommitResponse> {
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let asked = request.clone();
            commit(&broker, request).await.unwrap_or_else(|code| refuse(&asked, code))
        }))
    }
}

async fn commit(broker: &Broker, mut request: TxnOffsetCommitRequest) -> Result<TxnOffsetCommitResponse, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    let image = broker.metadata.image();
    let (known, unknown): (Vec<_>, Vec<_>) =
        std::mem::take(&mut request.topics).into_iter().partition(|topic| image.topic(&topic.name).is_some());
    request.topics = unknown;
    let refused = refuse(&request, ErrorCode::UnknownTopicOrPartition);
    if known.is_empty() {
        return Ok(refused);
    }
    request.topics = known;
    let guard = verified(broker, &request).await?;
    let group = request.group_id.clone();
    let context = Context::version(0);
    let submitted = broker.groups.submit_guarded(&group, &context, &Request::TxnOffsetCommit(request), guard);
    match submitted.durable(Arc::clone(broker.groups.durable())).await? {
        Response::TxnOffsetCommit(mut response) => {
            response.topics.extend(refused.topics);
            Ok(response)
        }
        _ => Err(ErrorCode::UnknownServerError),
    }
}

/// Makes sure that the group's partition is in the transaction; with what lets the append through, if that is needed.
async fn verified(broker: &Broker, request: &TxnOffsetCommitRequest) -> Result<Option<VerificationGuard>, ErrorCode> {
    let index = GroupCoordinator::partition_of(&broker.metadata.image(), &request.group_id);
    let index = index.ok_or(ErrorCode::CoordinatorNotAvailable)?;
    let partition = broker.partitions.lookup_name(GROUP_METADATA_TOPIC, index).map_err(|error| match error {
        LookupError::NotLeader { .. } => ErrorCode::NotCoordinator,
        _ => ErrorCode::CoordinatorLoadInProgress,
    })?;
    let (producer_id, epoch) = (request.producer_id.0, request.producer_epoch);
    let Verification::Needed(guard) = partition.begin_verification(producer_id, epoch, NO_SEQUENCE, false) else {
        return Ok(None);
    };
    let producer = ProducerIdAndEpoch { producer_id, epoch };
    let keys = [(GROUP_METADATA_TOPIC.into(), index)];
    let verdicts = broker.transactions.verify(&request.transactional_id, producer, &keys).await;
    match verdicts.first().copied().unwrap_or(ErrorCode::UnknownServerError) {
        ErrorCode::None => Ok(Some(guard)),
        // Where its transaction is not known any more, the producer has to begin another one.
        ErrorCode::TransactionAbortable => Err(ErrorCode::InvalidTxnState),
        ErrorCode::ProducerFenced => Err(ErrorCode::InvalidProducerEpoch),
        ErrorCode::CoordinatorLoadInProgress | ErrorCode::ConcurrentTransactions => {
            Err(ErrorCode::CoordinatorLoadInProgress)
        }
        ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => Err(ErrorCode::CoordinatorLoadInProgress),
        code => Err(code),
    }
}

fn refuse(request: &TxnOffsetCommitRequest, code: ErrorCode) -> TxnOffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let answer = TxnOffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
            answer.with_error_code(code.code())
        });
        TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}
