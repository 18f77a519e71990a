//! ListTransactions (key 66), versions 0–2: transactional ids that this broker coordinates. Version 1 filters by duration, 2
//! by a pattern (KIP-1152).

use std::sync::Arc;

use coordinator::transaction::{TransactionContext, TransactionRequest, TransactionResponse};
use kafka_protocol::messages::{ListTransactionsRequest, ListTransactionsResponse};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply_all;

/// See the module.
pub(super) struct ListTransactions;

impl Handle for ListTransactions {
    type Request = ListTransactionsRequest;
    const VERSIONS: (i16, i16) = (0, 2);

    fn handle(
        broker: &Arc<Broker>,
        _: RequestContext,
        request: ListTransactionsRequest,
    ) -> Reply<ListTransactionsResponse> {
        let coordinator = &broker.transactions.coordinator;
        let asked = TransactionRequest::List(request);
        match coordinator.submit_to_all(&TransactionContext::default(), &asked) {
            Ok(submitted) => reply_all(coordinator.durable(), submitted, together),
            Err(code) => Reply::Now(ListTransactionsResponse::default().with_error_code(code.code())),
        }
    }
}

fn together(parts: Vec<Result<TransactionResponse, ErrorCode>>) -> ListTransactionsResponse {
    let mut all = ListTransactionsResponse::default();
    for part in parts {
        match part {
            Ok(TransactionResponse::List(listed)) => {
                all.error_code = if all.error_code == 0 { listed.error_code } else { all.error_code };
                all.transaction_states.extend(listed.transaction_states);
                // Every shard names the same filters.
                all.unknown_state_filters = listed.unknown_state_filters;
            }
            Ok(_) => all.error_code = ErrorCode::UnknownServerError.code(),
            Err(code) => all.error_code = code.code(),
        }
    }
    all
}
