//! AddOffsetsToTxn (key 25), versions 0–4: the partition that holds a group's offsets becomes part of a producer's
//! transaction. Version 2 brings PRODUCER_FENCED.

use std::sync::Arc;

use coordinator::transaction::{ProducerIdAndEpoch, ProducerRequest, TransactionRequest, TransactionResponse};
use kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::{GROUP_METADATA_TOPIC, GroupCoordinator};

/// See the module.
pub(super) struct AddOffsetsToTxn;

impl Handle for AddOffsetsToTxn {
    type Request = AddOffsetsToTxnRequest;
    const VERSIONS: (i16, i16) = (0, 4);

    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: AddOffsetsToTxnRequest,
    ) -> Reply<AddOffsetsToTxnResponse> {
        let respond = |code: ErrorCode| AddOffsetsToTxnResponse::default().with_error_code(code.code());
        let Some(index) = GroupCoordinator::partition_of(&broker.metadata.image(), &request.group_id) else {
            // Nobody has asked for a group's coordinator yet; whoever does creates the topic.
            return Reply::Now(respond(ErrorCode::CoordinatorNotAvailable));
        };
        let id: Arc<str> = request.transactional_id.as_str().into();
        let producer = ProducerIdAndEpoch { producer_id: request.producer_id.0, epoch: request.producer_epoch };
        let asked = TransactionRequest::AddPartitions {
            producer: ProducerRequest { transactional_id: Arc::clone(&id), producer },
            partitions: vec![(GROUP_METADATA_TOPIC.into(), index)],
            client_transaction_version: 0,
        };
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let answered = match broker.transactions.ask(&id, &asked).await {
                Ok(TransactionResponse::AddPartitions(result)) => result,
                Ok(_) => Err(ErrorCode::UnknownServerError),
                Err(code) => Err(code),
            };
            respond(super::end_txn::for_version(answered.err().unwrap_or(ErrorCode::None), context.version))
        }))
    }
}
