//! Metadata commands on behalf of a request: bounded in time, with their failures as Kafka's error codes.

use std::sync::Arc;
use std::time::Duration;

use common::NodeId;
use metadata::command::Refusal;
use metadata::{Command, MetadataImage, Outcome, SubmitError};
use protocol::ErrorCode;
use uuid::Uuid;

use super::{check_name, colliding, place, placer};
use crate::Broker;
use crate::config::is_internal_topic;
use crate::coordinator::TRANSACTION_STATE_TOPIC;

/// How long a request waits at least, whatever it says: clients that send 0 mean "no hurry to wait", yet gain
/// nothing from an answer that leaves the outcome open.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// How long a request waits at most.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// A change that was refused, failed, or may have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeError {
    /// Kafka's code.
    pub code: ErrorCode,
    /// For the client.
    pub message: String,
}

impl ChangeError {
    /// From a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// With the code's own sentence.
    #[must_use]
    pub fn plain(code: ErrorCode) -> Self {
        Self { code, message: code.message().to_owned() }
    }
}

impl From<SubmitError> for ChangeError {
    fn from(error: SubmitError) -> Self {
        let code = match error {
            SubmitError::Unavailable(_) => ErrorCode::NotController,
            SubmitError::Indeterminate(_) => ErrorCode::RequestTimedOut,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Refusal> for ChangeError {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::TopicExists(name) => {
                return Self::new(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists."));
            }
            Refusal::UnknownTopic => return Self::plain(ErrorCode::UnknownTopicOrPartition),
            Refusal::UnknownNode(_) => ErrorCode::BrokerIdNotRegistered,
            Refusal::Invalid(_) => ErrorCode::InvalidRequest,
            Refusal::Fenced(_) | Refusal::DuplicateNode(_) | Refusal::WalMissing(_) => ErrorCode::NotController,
        };
        Self::new(code, refusal.to_string())
    }
}

/// Until when a request waits for its changes, on the broker's boot-time clock.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Duration);

impl Deadline {
    /// From a request's `timeout_ms`.
    #[must_use]
    pub fn after_ms(broker: &Broker, timeout_ms: i32) -> Self {
        let asked = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        Self(broker.clock.boot() + asked.clamp(SHORTEST_WAIT, LONGEST_WAIT))
    }

    fn left(self, broker: &Broker) -> Duration {
        self.0.saturating_sub(broker.clock.boot())
    }
}

/// Submits a command, and waits until all brokers know of it: whoever was told that a topic exists finds it on any of them.
/// After the deadline the outcome is unknown, and said to be so.
///
/// # Errors
/// As the command was refused, or could not be brought to an end.
pub async fn submit(broker: &Broker, deadline: Deadline, command: Command) -> Result<Outcome, ChangeError> {
    match tokio::time::timeout(deadline.left(broker), broker.metadata.submit(command)).await {
        Ok(Ok(Outcome::Refused(refusal))) => Err(refusal.into()),
        Ok(Ok(outcome)) => {
            broker.member.wait_known_everywhere().await;
            Ok(outcome)
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(ChangeError::plain(ErrorCode::RequestTimedOut)),
    }
}

/// Waits until metadata is as wanted here, or the deadline has passed.
pub async fn wait_for(broker: &Broker, deadline: Deadline, is_reached: impl Fn(&MetadataImage) -> bool) {
    let mut applied = broker.metadata.watch();
    let reached = async {
        loop {
            applied.mark_unchanged();
            // Where metadata has ended, nothing will change any more.
            if is_reached(&broker.metadata.image()) || applied.changed().await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(deadline.left(broker), reached).await;
}

/// Creates a topic and waits until its partitions can be written.
///
/// # Errors
/// As [`submit`].
pub async fn create(
    broker: &Arc<Broker>,
    deadline: Deadline,
    id: Uuid,
    name: Arc<str>,
    partitions: Vec<Arc<[NodeId]>>,
    configs: Vec<(Arc<str>, Arc<str>)>,
) -> Result<(), ChangeError> {
    submit(broker, deadline, Command::CreateTopic { id, name, partitions, configs }).await?;
    broker.partitions.wait_open(id).await;
    Ok(())
}

/// Makes sure that a topic exists, creating it with the broker's defaults (Kafka's own topics: with theirs).
/// Answers its id.
///
/// # Errors
/// INVALID_TOPIC_EXCEPTION, INVALID_REPLICATION_FACTOR, or as [`submit`].
pub async fn ensure_exists(broker: &Arc<Broker>, deadline: Deadline, name: &str) -> Result<Uuid, ChangeError> {
    let image = broker.metadata.image();
    if let Some(topic) = image.topic(name) {
        return Ok(topic.id);
    }
    check_name(name).map_err(|message| ChangeError::new(ErrorCode::InvalidTopicException, message))?;
    if let Some(existing) = colliding(&image, name) {
        let message = format!("Topic '{name}' collides with existing topic: {existing}");
        return Err(ChangeError::new(ErrorCode::InvalidTopicException, message));
    }
    let shape = Shape::of(broker, name, image.nodes.len());
    let mut placer = placer(&image, broker.random.as_ref());
    let partitions = place(&mut placer, shape.partitions, shape.replication_factor)?;
    let id = broker.random.uuid();
    match create(broker, deadline, id, Arc::from(name), partitions, shape.configs).await {
        Err(error) if error.code == ErrorCode::TopicAlreadyExists => {
            // Another request was faster. The command's refusal comes after its image.
            let id = broker.metadata.image().topic(name).map(|topic| topic.id);
            id.ok_or_else(|| ChangeError::plain(ErrorCode::UnknownTopicOrPartition))
        }
        created => created.map(|()| id),
    }
}

/// What a topic that is created without a client's wishes looks like.
struct Shape {
    partitions: usize,
    replication_factor: usize,
    configs: Vec<(Arc<str>, Arc<str>)>,
}

impl Shape {
    fn of(broker: &Broker, name: &str, nodes: usize) -> Self {
        let config = &broker.config;
        let count = |number: i32| usize::try_from(number).unwrap_or(1);
        if !is_internal_topic(name) {
            return Self {
                partitions: count(config.num_partitions),
                replication_factor: count(config.default_replication_factor.into()),
                configs: Vec::new(),
            };
        }
        // Kafka refuses its own topics while there are fewer brokers than replicas. Replicas are virtual here,
        // so that nothing would be gained by waiting.
        let (partitions, factor) = match name {
            TRANSACTION_STATE_TOPIC => {
                (config.transaction_topic_partitions, config.transaction_topic_replication_factor)
            }
            _ => (config.offsets_topic_partitions, config.offsets_topic_replication_factor),
        };
        let factor = count(factor.into()).min(nodes).max(1);
        let entries = [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", "104857600")];
        Self {
            partitions: count(partitions),
            replication_factor: factor,
            configs: entries.iter().map(|&(key, value)| (Arc::from(key), Arc::from(value))).collect(),
        }
    }
}
