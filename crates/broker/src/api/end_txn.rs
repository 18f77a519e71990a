//! EndTxn (key 26), versions 0–4: a producer's transaction is committed or aborted. The answer comes when the decision is
//! durable; the markers follow. Version 2 brings PRODUCER_FENCED. Version 5, an epoch for each transaction (KIP-890), is
//! not here yet.

use std::sync::Arc;

use coordinator::transaction::{TransactionRequest, TransactionResponse};
use kafka_protocol::messages::{EndTxnRequest, EndTxnResponse};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::transactions::producer;

/// See the module.
pub(super) struct EndTxn;

/// First version of this, AddPartitionsToTxn and AddOffsetsToTxn whose clients know PRODUCER_FENCED.
const FENCED_SINCE: i16 = 2;

/// The code as clients of that version know it.
pub(super) fn for_version(code: ErrorCode, version: i16) -> ErrorCode {
    let is_unknown = version < FENCED_SINCE && code == ErrorCode::ProducerFenced;
    if is_unknown { ErrorCode::InvalidProducerEpoch } else { code }
}

impl Handle for EndTxn {
    type Request = EndTxnRequest;
    const VERSIONS: (i16, i16) = (0, 4);

    fn handle(broker: &Arc<Broker>, context: RequestContext, request: EndTxnRequest) -> Reply<EndTxnResponse> {
        let producer = producer(&request.transactional_id, request.producer_id.0, request.producer_epoch);
        let id = Arc::clone(&producer.transactional_id);
        let asked = TransactionRequest::EndTxn { producer, commit: request.committed, client_transaction_version: 0 };
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let answered = match broker.transactions.ask(&id, &asked).await {
                Ok(TransactionResponse::EndTxn(result)) => result.map(|_| ()),
                Ok(_) => Err(ErrorCode::UnknownServerError),
                Err(code) => Err(code),
            };
            let code = for_version(answered.err().unwrap_or(ErrorCode::None), context.version);
            EndTxnResponse::default().with_error_code(code.code())
        }))
    }
}
