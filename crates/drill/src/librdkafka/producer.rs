//! An idempotent producer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use super::code;
use crate::client::{Producer, Refusal};
use crate::history::Outcome;
use crate::ledger::Ledger;

pub(super) struct IdempotentProducer {
    producer: ThreadedProducer<Told>,
    topic: String,
    ledger: Arc<Ledger>,
}

impl IdempotentProducer {
    pub(super) fn new(config: &ClientConfig, topic: &str, ledger: Arc<Ledger>) -> Result<Self> {
        let producer = config.create_with_context(Told(Arc::clone(&ledger)))?;
        Ok(Self { producer, topic: topic.to_owned(), ledger })
    }
}

impl Producer for IdempotentProducer {
    fn send(&self, partition: u32, payload: &[u8]) -> Result<(), Refusal> {
        let record = BaseRecord::<(), [u8]>::to(&self.topic).partition(partition as i32).payload(payload);
        self.producer.send(record).map_err(|(error, _)| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Refusal::Full,
            _ => match self.producer.client().fatal_error() {
                Some((code, why)) => Refusal::Fatal(format!("{code:?}: {why}")),
                // Said of this record only, such as that its partition is not known at the moment.
                None => {
                    self.ledger.error(code(&error));
                    Refusal::Full
                }
            },
        })
    }

    fn flush(&self, patience: Duration) {
        if let Err(error) = self.producer.flush(patience) {
            self.ledger.error(format!("flush: {}", code(&error)));
        }
    }
}

/// Writes down what the producer is told.
struct Told(Arc<Ledger>);

impl ClientContext for Told {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, _: &str) {
        self.0.error(code(&error));
    }
}

impl ProducerContext for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let (outcome, message) = match result {
            Ok(message) => (Outcome::Acked { offset: u64::try_from(message.offset()).ok() }, message),
            Err((error, message)) => {
                self.0.error(code(error));
                (refused(error), message)
            }
        };
        self.0.outcome(message.payload().unwrap_or_default(), outcome);
    }
}

/// What an error says of the record. Few say that it is certainly not in the log.
fn refused(error: &KafkaError) -> Outcome {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp,
        ) => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}
