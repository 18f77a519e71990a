//! InitProducerId (key 22), versions 0–5. Without a transactional id each call gives a producer id that nobody ever had, at
//! epoch 0. With one its coordinator says what the producer goes on with, and fences whoever had it before. Version 3
//! lets a producer say what it holds (KIP-360), 4 brings PRODUCER_FENCED.

use std::sync::Arc;

use coordinator::transaction::{ProducerIdAndEpoch, TransactionRequest, TransactionResponse};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;

/// See the module.
pub(super) struct InitProducerId;

/// First version whose clients know PRODUCER_FENCED.
const FENCED_SINCE: i16 = 4;

impl Handle for InitProducerId {
    type Request = InitProducerIdRequest;
    const VERSIONS: (i16, i16) = (0, 5);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: InitProducerIdRequest,
    ) -> Reply<InitProducerIdResponse> {
        if let Some(id) = &request.transactional_id {
            let id: Arc<str> = id.as_str().into();
            return transactional(Arc::clone(broker), context.version, id, &request);
        }
        let producer_ids = broker.partitions.producer_ids();
        if let Some(id) = producer_ids.cached() {
            return Reply::Now(granted(id, 0));
        }
        let producer_ids = Arc::clone(producer_ids);
        Reply::Later(Box::pin(async move {
            match producer_ids.next().await {
                Ok(id) => granted(id, 0),
                Err(error) => {
                    tracing::warn!(%error, "no producer ids to give out");
                    // As Kafka answers while it has no block of ids: clients retry.
                    refused(ErrorCode::CoordinatorLoadInProgress)
                }
            }
        }))
    }
}

fn transactional(
    broker: Arc<Broker>,
    version: i16,
    id: Arc<str>,
    request: &InitProducerIdRequest,
) -> Reply<InitProducerIdResponse> {
    let held = ProducerIdAndEpoch { producer_id: request.producer_id.0, epoch: request.producer_epoch };
    let expected = match (held.producer_id >= 0, held.epoch >= 0) {
        (true, true) => Some(held),
        (false, false) => None,
        // One without the other says nothing.
        _ => return Reply::Now(refused(ErrorCode::InvalidRequest)),
    };
    if id.is_empty() {
        return Reply::Now(refused(ErrorCode::InvalidRequest));
    }
    if !broker.transactions.are_enabled() {
        // Final for every client; a coordinator's error would be retried for ever.
        return Reply::Now(refused(ErrorCode::UnsupportedVersion));
    }
    let timeout_ms = request.transaction_timeout_ms;
    let asked = TransactionRequest::InitProducerId { transactional_id: Arc::clone(&id), timeout_ms, expected };
    Reply::Later(Box::pin(async move {
        match broker.transactions.ask(&id, &asked).await {
            Ok(TransactionResponse::InitProducerId(Ok(given))) => granted(given.producer_id, given.epoch),
            Ok(TransactionResponse::InitProducerId(Err(ErrorCode::ProducerFenced))) if version < FENCED_SINCE => {
                refused(ErrorCode::InvalidProducerEpoch)
            }
            Ok(TransactionResponse::InitProducerId(Err(code))) | Err(code) => refused(code),
            Ok(_) => refused(ErrorCode::UnknownServerError),
        }
    }))
}

fn granted(id: i64, epoch: i16) -> InitProducerIdResponse {
    InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(epoch)
}

fn refused(code: ErrorCode) -> InitProducerIdResponse {
    let none = InitProducerIdResponse::default().with_producer_id(ProducerId(-1)).with_producer_epoch(-1);
    none.with_error_code(code as i16)
}
