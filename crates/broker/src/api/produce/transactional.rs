//! Batches of transactions: before the first of a transaction in a partition, the transaction's coordinator is asked whether
//! the partition is in it (KIP-890). So a batch that was delayed cannot begin a transaction that nobody will end.

use std::collections::HashMap;
use std::sync::Arc;

use coordinator::transaction::ProducerIdAndEpoch;
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use protocol::ErrorCode;
use protocol::batch::validate::sole_batch;
use uuid::Uuid;

use super::{append, set_timed_out};
use crate::Broker;
use crate::api::{Reply, RequestContext};
use crate::partition::{Verification, VerificationGuard};

/// First version whose clients know TRANSACTION_ABORTABLE.
const ABORTABLE_SINCE: i16 = 11;

/// What came of asking, by topic id and partition: what lets the batch through, or why it is refused.
pub(super) type Verified = HashMap<(Uuid, i32), Result<VerificationGuard, ErrorCode>>;

/// A partition whose coordinator is to be asked.
pub(super) struct Unverified {
    topic: Uuid,
    key: (Arc<str>, i32),
    guard: VerificationGuard,
    producer: ProducerIdAndEpoch,
}

/// Partitions of the request in which its transaction has not begun. What is wrong with a batch is found by its append.
pub(super) fn unverified(broker: &Broker, request: &ProduceRequest, version: i16) -> Vec<Unverified> {
    let image = broker.metadata.image();
    let mut found = Vec::new();
    for data in &request.topic_data {
        let topic = if version >= 13 { image.topics.get(&data.topic_id) } else { image.topic(&data.name) };
        let Some(topic) = topic else { continue };
        for entry in &data.partition_data {
            let Ok(batch) = sole_batch(entry.records.as_deref().unwrap_or_default(), version) else { continue };
            if !batch.attributes().is_transactional() {
                continue;
            }
            let Ok(partition) = broker.partitions.lookup(topic, entry.index) else { continue };
            let producer = ProducerIdAndEpoch { producer_id: batch.producer_id(), epoch: batch.producer_epoch() };
            let asked =
                partition.begin_verification(producer.producer_id, producer.epoch, batch.base_sequence(), false);
            if let Verification::Needed(guard) = asked {
                let key = (Arc::clone(&topic.name), entry.index);
                found.push(Unverified { topic: topic.id, key, guard, producer });
            }
        }
    }
    found
}

/// Asks, then appends, and answers when that is durable.
pub(super) fn verify_and_append(
    broker: Arc<Broker>,
    context: RequestContext,
    request: ProduceRequest,
    unverified: Vec<Unverified>,
) -> Reply<ProduceResponse> {
    Reply::Later(Box::pin(async move {
        let verified = verify(&broker, &request, context.version, unverified).await;
        let reply = append(&broker, &context, request, &verified);
        durable(&broker, reply).await
    }))
}

async fn verify(broker: &Broker, request: &ProduceRequest, version: i16, unverified: Vec<Unverified>) -> Verified {
    let id = request.transactional_id.as_ref().map_or("", |id| id.as_str());
    let mut verified = Verified::new();
    // One producer, but for a client that makes things up.
    for of_producer in unverified.chunk_by(|one, other| one.producer == other.producer) {
        let Some(first) = of_producer.first() else { continue };
        let keys: Vec<_> = of_producer.iter().map(|one| one.key.clone()).collect();
        let codes = broker.transactions.verify(id, first.producer, &keys).await;
        for (one, code) in of_producer.iter().zip(codes) {
            let verdict = match code {
                ErrorCode::None => Ok(one.guard),
                code => Err(for_client(code, version)),
            };
            verified.insert((one.topic, one.key.1), verdict);
        }
    }
    verified
}

/// What the coordinator says, as a producer understands it.
fn for_client(code: ErrorCode, version: i16) -> ErrorCode {
    match code {
        ErrorCode::TransactionAbortable if version < ABORTABLE_SINCE => ErrorCode::InvalidTxnState,
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        // They pass: the producer sends the batch again.
        ErrorCode::ConcurrentTransactions
        | ErrorCode::NotCoordinator
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::CoordinatorLoadInProgress => ErrorCode::NotEnoughReplicas,
        code => code,
    }
}

/// The response, when it may be sent.
async fn durable(broker: &Broker, reply: Reply<ProduceResponse>) -> ProduceResponse {
    let (lsn, mut response, within) = match reply {
        Reply::Durable(lsn, response) => (lsn, response, std::time::Duration::MAX),
        Reply::DurableWithin(lsn, response, late) => (lsn, response, late.within),
        Reply::Later(response) => return response.await,
        Reply::Now(response) => return response,
        // Of requests without an answer, which no transaction is in.
        Reply::InTurn(_) | Reply::Silent | Reply::Close(_) => return ProduceResponse::default(),
    };
    match tokio::time::timeout(within, broker.wal.durable().wait(lsn)).await {
        Ok(Ok(())) => {}
        // The outcome stays unknown; the process ends, and the connection with it.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => set_timed_out(&mut response),
    }
    response
}
