//! Transactions, as a broker takes part in them: it asks coordinators, here or on a peer, and writes markers.

pub(crate) mod markers;

use std::sync::Arc;
use std::time::Duration;

use common::NodeId;
use coordinator::transaction::{
    ProducerIdAndEpoch, ProducerRequest, TransactionContext, TransactionRequest, TransactionResponse,
};
use protocol::ErrorCode;

use crate::cluster::peer::Kind;
use crate::cluster::peer::messages::{TopicPartition, VerifyAnswer, VerifyRequest, encode};
use crate::coordinator::{TRANSACTION_STATE_TOPIC, TransactionCoordinator};
use markers::{Key, MarkerWriter};

/// The `transaction.version` by which this cluster works. (2, an epoch for each transaction, is not finalized yet, so that
/// clients do not work by it.)
pub(crate) const TRANSACTION_VERSION: i8 = 0;

/// The first version of nodes ([`metadata::VERSION`]) that know transactions.
const TRANSACTIONS_SINCE: u32 = 3;

/// How long a coordinator on a peer may take to say whether a partition is in a transaction.
const VERIFY_DEADLINE: Duration = Duration::from_secs(3);

/// What a broker needs for transactions.
pub(crate) struct Transactions {
    /// Coordinators on this broker.
    pub(crate) coordinator: TransactionCoordinator,
    /// Writes markers.
    pub(crate) markers: Arc<MarkerWriter>,
}

/// What a request says of its producer.
pub(crate) fn producer(transactional_id: &str, producer_id: i64, epoch: i16) -> ProducerRequest {
    let producer = ProducerIdAndEpoch { producer_id, epoch };
    ProducerRequest { transactional_id: transactional_id.into(), producer }
}

/// The code of that number, as a peer told it.
fn code_of(code: i32) -> ErrorCode {
    i16::try_from(code).ok().and_then(ErrorCode::from_code).unwrap_or(ErrorCode::UnknownServerError)
}

impl Transactions {
    /// Whether transactions may begin: every node that may have to lead their partitions knows them.
    pub(crate) fn are_enabled(&self) -> bool {
        self.markers.metadata.image().least_version() >= TRANSACTIONS_SINCE
    }

    /// Asks the coordinator of a transactional id, which must be here; answers when what it says is durable.
    pub(crate) async fn ask(&self, id: &str, request: &TransactionRequest) -> Result<TransactionResponse, ErrorCode> {
        let mut context = TransactionContext::default();
        loop {
            let submitted = self.coordinator.submit(id, &context, request);
            match submitted.durable(Arc::clone(self.coordinator.durable())).await? {
                TransactionResponse::NeedsProducerId if context.fresh_producer_id.is_none() => {
                    let fresh = self.markers.partitions.producer_ids().next().await;
                    let fresh = fresh.map_err(|error| {
                        tracing::warn!(%error, "no producer ids to give out");
                        ErrorCode::CoordinatorNotAvailable
                    })?;
                    context = TransactionContext { fresh_producer_id: Some(fresh) };
                }
                TransactionResponse::NeedsProducerId => return Err(ErrorCode::UnknownServerError),
                response => return Ok(response),
            }
        }
    }

    /// Makes partitions part of a producer's transaction, for a client that names them before it writes (below
    /// `transaction.version` 2).
    pub(crate) async fn add(&self, producer: ProducerRequest, partitions: Vec<Key>) -> Result<(), ErrorCode> {
        let id = Arc::clone(&producer.transactional_id);
        let asked = TransactionRequest::AddPartitions { producer, partitions, client_transaction_version: 0 };
        match self.ask(&id, &asked).await? {
            TransactionResponse::AddPartitions(added) => added,
            _ => Err(ErrorCode::UnknownServerError),
        }
    }

    /// Asks the coordinator, wherever it is, whether partitions are in a producer's open transaction; a code for each.
    pub(crate) async fn verify(&self, id: &str, producer: ProducerIdAndEpoch, keys: &[Key]) -> Vec<ErrorCode> {
        let image = self.markers.metadata.image();
        let index = TransactionCoordinator::partition_of(&image, id);
        let partition = index.and_then(|index| image.topic(TRANSACTION_STATE_TOPIC)?.partition(index));
        let answered = match partition.map(|partition| partition.leader) {
            None => Err(ErrorCode::CoordinatorNotAvailable),
            Some(leader) if leader == self.markers.node => self.verify_here(id, producer, keys).await,
            Some(leader) => self.verify_there(leader, id, producer, keys).await,
        };
        answered.unwrap_or_else(|code| vec![code; keys.len()])
    }

    async fn verify_here(
        &self,
        id: &str,
        producer: ProducerIdAndEpoch,
        keys: &[Key],
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        let producer = ProducerRequest { transactional_id: id.into(), producer };
        let request = TransactionRequest::VerifyPartitions { producer, partitions: keys.to_vec() };
        match self.ask(id, &request).await? {
            TransactionResponse::VerifyPartitions(verdicts) => {
                Ok(verdicts.into_iter().map(|(_, _, code)| code).collect())
            }
            _ => Err(ErrorCode::UnknownServerError),
        }
    }

    async fn verify_there(
        &self,
        leader: NodeId,
        id: &str,
        producer: ProducerIdAndEpoch,
        keys: &[Key],
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        let request = VerifyRequest {
            transactional_id: id.to_owned(),
            producer_id: producer.producer_id,
            producer_epoch: producer.epoch.into(),
            partitions: keys.iter().map(TopicPartition::from).collect(),
        };
        let (image, kind) = (self.markers.metadata.image(), Kind::VerifyTransaction);
        let answered: Option<VerifyAnswer> =
            self.markers.ask(&image, leader, kind, encode(&request), VERIFY_DEADLINE).await;
        let codes = answered.map(|answer| answer.codes).filter(|codes| codes.len() == keys.len());
        let codes = codes.ok_or(ErrorCode::CoordinatorNotAvailable)?;
        Ok(codes.into_iter().map(code_of).collect())
    }

    /// A partition's leader asks the coordinator here.
    pub(crate) async fn answer_verify(&self, request: VerifyRequest) -> Result<VerifyAnswer, String> {
        let epoch = i16::try_from(request.producer_epoch).map_err(|_| "the epoch is out of range".to_owned())?;
        let producer = ProducerIdAndEpoch { producer_id: request.producer_id, epoch };
        let keys: Vec<Key> = request.partitions.into_iter().map(Key::from).collect();
        let verified = self.verify_here(&request.transactional_id, producer, &keys).await;
        let codes = verified.unwrap_or_else(|code| vec![code; keys.len()]);
        Ok(VerifyAnswer { codes: codes.into_iter().map(|code| code.code().into()).collect() })
    }
}
