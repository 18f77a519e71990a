//! CreatePartitions (key 37), versions 0–3.

use std::collections::HashMap;
use std::sync::Arc;

use common::{NodeId, Random};
use futures::StreamExt;
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use metadata::placement::Placer;
use metadata::{Command, MetadataImage, TopicImage};
use protocol::ErrorCode;
use uuid::Uuid;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::topics::{ChangeError, Deadline, MAX_PARTITIONS_PER_REQUEST, check_assignment, place, placer, submit};

/// See the module.
pub(crate) struct CreatePartitions;

/// Topics of one request that are being grown at the same time.
const CHANGES_AT_ONCE: usize = 64;

/// Partitions to add to a topic.
#[derive(Debug)]
struct Growth {
    topic: Uuid,
    added: Vec<Arc<[NodeId]>>,
}

impl Handle for CreatePartitions {
    type Request = CreatePartitionsRequest;
    const VERSIONS: (i16, i16) = (0, 3);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: CreatePartitionsRequest,
    ) -> Reply<CreatePartitionsResponse> {
        let broker = Arc::clone(broker);
        let deadline = Deadline::after_ms(&broker, request.timeout_ms);
        Reply::Later(Box::pin(async move {
            let judged = judge(&broker.metadata.image(), broker.random.as_ref(), &request.topics);
            let finish = async |(name, growth): (TopicName, Result<Growth, ChangeError>)| match growth {
                Ok(growth) if !request.validate_only => {
                    let topic = growth.topic;
                    let command = Command::CreatePartitions { topic, added: growth.added };
                    let outcome = submit(&broker, deadline, command).await;
                    if outcome.is_ok() {
                        broker.partitions.wait_open(topic).await;
                    }
                    result(name, outcome.map(|_| ()))
                }
                other => result(name, other.map(|_| ())),
            };
            let results = futures::stream::iter(judged).map(finish).buffered(CHANGES_AT_ONCE).collect().await;
            CreatePartitionsResponse::default().with_results(results)
        }))
    }
}

fn judge(
    image: &MetadataImage,
    random: &dyn Random,
    topics: &[CreatePartitionsTopic],
) -> Vec<(TopicName, Result<Growth, ChangeError>)> {
    let mut counts: HashMap<&TopicName, usize> = HashMap::new();
    for topic in topics {
        *counts.entry(&topic.name).or_default() += 1;
    }
    let mut placer = placer(image, random);
    let mut left = MAX_PARTITIONS_PER_REQUEST;
    let mut judged = Vec::with_capacity(topics.len());
    for topic in topics {
        match counts.get_mut(&topic.name).map(std::mem::take).unwrap_or_default() {
            // Told already, with the first of its name.
            0 => {}
            1 => judged.push((topic.name.clone(), plan(image, &mut placer, topic, &mut left))),
            _ => {
                let error = ChangeError::new(ErrorCode::InvalidRequest, "Duplicate topic name.");
                judged.push((topic.name.clone(), Err(error)));
            }
        }
    }
    judged
}

fn plan(
    image: &MetadataImage,
    placer: &mut Placer,
    request: &CreatePartitionsTopic,
    left: &mut usize,
) -> Result<Growth, ChangeError> {
    let topic = image.topic(&request.name).ok_or(ChangeError::plain(ErrorCode::UnknownTopicOrPartition))?;
    let current = topic.partitions.len();
    let wanted = usize::try_from(request.count).unwrap_or(0);
    if wanted <= current {
        let message = match wanted == current {
            true => format!("Topic already has {current} partition(s)."),
            false => format!(
                "The topic {} currently has {current} partition(s); {} would not be an increase.",
                topic.name, request.count
            ),
        };
        return Err(ChangeError::new(ErrorCode::InvalidPartitions, message));
    }
    let additional = wanted - current;
    *left = left.checked_sub(additional).ok_or_else(|| {
        ChangeError::new(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.")
    })?;
    let factor = topic.partitions.first().map_or(1, |partition| partition.replicas.len());
    let added = match &request.assignments {
        Some(assignments) => manual(image, topic, assignments, additional, factor)?,
        None => place(placer, additional, factor)?,
    };
    Ok(Growth { topic: topic.id, added })
}

fn manual(
    image: &MetadataImage,
    topic: &TopicImage,
    assignments: &[CreatePartitionsAssignment],
    additional: usize,
    factor: usize,
) -> Result<Vec<Arc<[NodeId]>>, ChangeError> {
    let invalid = |message: String| ChangeError::new(ErrorCode::InvalidReplicaAssignment, message);
    if assignments.len() != additional {
        let only = if assignments.len() < additional { "only " } else { "" };
        return Err(invalid(format!(
            "Attempted to add {additional} additional partition(s), but {only}{} assignment(s) were specified.",
            assignments.len()
        )));
    }
    let factor = (!topic.partitions.is_empty()).then_some(factor);
    let replicas = |assignment: &CreatePartitionsAssignment| {
        let replicas: Arc<[NodeId]> = assignment.broker_ids.iter().map(|id| NodeId(id.0)).collect();
        check_assignment(image, &replicas, factor).map_err(invalid)?;
        Ok(replicas)
    };
    assignments.iter().map(replicas).collect()
}

fn result(name: TopicName, outcome: Result<(), ChangeError>) -> CreatePartitionsTopicResult {
    let result = CreatePartitionsTopicResult::default().with_name(name);
    match outcome {
        Ok(()) => result,
        Err(error) => {
            result.with_error_code(error.code.code()).with_error_message(Some(StrBytes::from_string(error.message)))
        }
    }
}
