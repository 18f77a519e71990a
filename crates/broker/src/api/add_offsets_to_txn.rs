//! AddOffsetsToTxn (key 25), versions 0–4: the partition that holds a group's offsets becomes part of a producer's
//! transaction. Version 2 brings PRODUCER_FENCED.

use std::sync::Arc;

use kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use protocol::ErrorCode;

use super::end_txn::for_version;
use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::coordinator::{GROUP_METADATA_TOPIC, GroupCoordinator};
use crate::transactions::producer;

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
        let producer = producer(&request.transactional_id, request.producer_id.0, request.producer_epoch);
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let added = broker.transactions.add(producer, vec![(GROUP_METADATA_TOPIC.into(), index)]).await;
            respond(for_version(added.err().unwrap_or(ErrorCode::None), context.version))
        }))
    }
}
