//! InitProducerId (key 22), versions 0–5, for idempotent producers: each call gives a producer id that nobody
//! ever had, at epoch 0.
//!
//! There are no transactions yet. A transactional id is answered UNSUPPORTED_VERSION, which every client takes for
//! final: a coordinator error would make it retry for ever, an authorization error would mislead.

use std::sync::Arc;

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;

/// See the module.
pub(super) struct InitProducerId;

impl Handle for InitProducerId {
    type Request = InitProducerIdRequest;
    const VERSIONS: (i16, i16) = (0, 5);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: InitProducerIdRequest,
    ) -> Reply<InitProducerIdResponse> {
        if let Some(id) = request.transactional_id {
            let empty = id.is_empty();
            return Reply::Now(refused(if empty { ErrorCode::InvalidRequest } else { ErrorCode::UnsupportedVersion }));
        }
        let producer_ids = broker.partitions.producer_ids();
        if let Some(id) = producer_ids.cached() {
            return Reply::Now(granted(id));
        }
        let producer_ids = Arc::clone(producer_ids);
        Reply::Later(Box::pin(async move {
            match producer_ids.next().await {
                Ok(id) => granted(id),
                Err(error) => {
                    tracing::warn!(%error, "no producer ids to give out");
                    // As Kafka answers while it has no block of ids: clients retry.
                    refused(ErrorCode::CoordinatorLoadInProgress)
                }
            }
        }))
    }
}

fn granted(id: i64) -> InitProducerIdResponse {
    InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0)
}

fn refused(code: ErrorCode) -> InitProducerIdResponse {
    let none = InitProducerIdResponse::default().with_producer_id(ProducerId(-1)).with_producer_epoch(-1);
    none.with_error_code(code as i16)
}
