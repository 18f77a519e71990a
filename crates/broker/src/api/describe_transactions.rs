//! DescribeTransactions (key 65), version 0: transactional ids with their transactions.

use std::sync::Arc;

use coordinator::transaction::{TransactionContext, TransactionRequest, TransactionResponse};
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::{DescribeTransactionsRequest, DescribeTransactionsResponse, TransactionalId};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::reply_all;

/// See the module.
pub(super) struct DescribeTransactions;

impl Handle for DescribeTransactions {
    type Request = DescribeTransactionsRequest;
    const VERSIONS: (i16, i16) = (0, 0);

    fn handle(
        broker: &Arc<Broker>,
        _: RequestContext,
        request: DescribeTransactionsRequest,
    ) -> Reply<DescribeTransactionsResponse> {
        let coordinator = &broker.transactions.coordinator;
        let submit = |id: &TransactionalId| {
            let asked = TransactionRequest::Describe(vec![id.as_str().into()]);
            coordinator.submit(id, &TransactionContext::default(), &asked)
        };
        let submitted = request.transactional_ids.iter().map(submit).collect();
        reply_all(coordinator.durable(), submitted, move |parts| {
            let states = request.transactional_ids.into_iter().zip(parts).map(|(id, part)| describe(id, part));
            DescribeTransactionsResponse::default().with_transaction_states(states.collect())
        })
    }
}

fn describe(id: TransactionalId, part: Result<TransactionResponse, ErrorCode>) -> TransactionState {
    let code = match part {
        Ok(TransactionResponse::Describe(mut states)) if states.len() == 1 => return states.swap_remove(0),
        Ok(_) => ErrorCode::UnknownServerError,
        Err(code) => code,
    };
    TransactionState::default().with_transactional_id(id).with_error_code(code.code())
}
