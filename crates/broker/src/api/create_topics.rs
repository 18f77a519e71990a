//! CreateTopics (key 19), versions 2–7. Checks in Kafka's order, all of them also under `validate_only`; from 5
//! the answer tells the effective configuration, from 7 the topic id. When the answer says that a topic exists,
//! it can be written.

use std::collections::HashMap;
use std::sync::Arc;

use common::NodeId;
use futures::StreamExt;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use metadata::MetadataImage;
use metadata::placement::Placer;
use protocol::ErrorCode;
use uuid::Uuid;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::config::registry::TOPIC_KEYS;
use crate::config::{Layers, check_topic_configs};
use crate::topics::{
    ChangeError, Deadline, MAX_PARTITIONS_PER_REQUEST, check_assignment, check_name, colliding, create, place, placer,
};

/// See the module.
pub(crate) struct CreateTopics;

/// Topics of one request that are being created at the same time.
const CREATIONS_AT_ONCE: usize = 64;

type Configs = Vec<(Arc<str>, Arc<str>)>;

/// A topic that passed every check.
struct Planned {
    id: Uuid,
    partitions: Vec<Arc<[NodeId]>>,
    configs: Configs,
}

type Judged = (TopicName, Result<Planned, ChangeError>);

impl Handle for CreateTopics {
    type Request = CreateTopicsRequest;
    const VERSIONS: (i16, i16) = (2, 7);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: CreateTopicsRequest,
    ) -> Reply<CreateTopicsResponse> {
        let broker = Arc::clone(broker);
        let deadline = Deadline::after_ms(&broker, request.timeout_ms);
        Reply::Later(Box::pin(async move {
            let image = broker.metadata.image();
            let judged = judge(&broker, &image, &request.topics);
            let finish = async |(name, planned): Judged| match planned {
                Ok(planned) if !request.validate_only => {
                    let (partitions, configs) = (planned.partitions.clone(), planned.configs.clone());
                    let created = create(&broker, deadline, planned.id, Arc::from(&*name.0), partitions, configs).await;
                    (name, created.map(|()| planned))
                }
                other => (name, other),
            };
            let finished: Vec<Judged> =
                futures::stream::iter(judged).map(finish).buffered(CREATIONS_AT_ONCE).collect().await;
            let image = broker.metadata.image();
            let topics = finished.into_iter().map(|(name, outcome)| result(&broker, &image, name, outcome));
            CreateTopicsResponse::default().with_topics(topics.collect())
        }))
    }
}

/// Judges all topics of a request against one image, so that they cannot contradict each other either.
fn judge(broker: &Broker, image: &MetadataImage, topics: &[CreatableTopic]) -> Vec<Judged> {
    let mut counts: HashMap<&TopicName, usize> = HashMap::new();
    for topic in topics {
        *counts.entry(&topic.name).or_default() += 1;
    }
    let mut placer = placer(image, broker.random.as_ref());
    let mut partitions_left = MAX_PARTITIONS_PER_REQUEST;
    let mut judged: Vec<Judged> = Vec::with_capacity(topics.len());
    for topic in topics {
        let count = counts.get_mut(&topic.name).map(std::mem::take).unwrap_or_default();
        match count {
            // Told already, with the first of its name.
            0 => continue,
            1 => {
                let planned = plan(broker, image, &mut placer, topic).and_then(|planned| {
                    partitions_left = partitions_left.checked_sub(planned.partitions.len()).ok_or_else(|| {
                        let message = "Excessively large number of partitions per request.";
                        ChangeError::new(ErrorCode::PolicyViolation, message)
                    })?;
                    Ok(planned)
                });
                judged.push((topic.name.clone(), planned));
            }
            _ => {
                let error = ChangeError::new(ErrorCode::InvalidRequest, "Duplicate topic name.");
                judged.push((topic.name.clone(), Err(error)));
            }
        }
    }
    judged
}

fn plan(
    broker: &Broker,
    image: &MetadataImage,
    placer: &mut Placer,
    topic: &CreatableTopic,
) -> Result<Planned, ChangeError> {
    let name: &str = &topic.name;
    if name == "__cluster_metadata" {
        let message = format!("Creation of internal topic {name} is prohibited.");
        return Err(ChangeError::new(ErrorCode::InvalidRequest, message));
    }
    check_name(name).map_err(|message| ChangeError::new(ErrorCode::InvalidTopicException, message))?;
    if image.topic(name).is_some() {
        return Err(ChangeError::new(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
    }
    if let Some(existing) = colliding(image, name) {
        let message = format!("Topic '{name}' collides with existing topic: {existing}");
        return Err(ChangeError::new(ErrorCode::InvalidTopicException, message));
    }
    let configs = configs(topic)?;
    let partitions = match topic.assignments.is_empty() {
        true => automatic(broker, placer, topic)?,
        false => manual(image, topic)?,
    };
    Ok(Planned { id: broker.random.uuid(), partitions, configs })
}

fn configs(topic: &CreatableTopic) -> Result<Configs, ChangeError> {
    let invalid = |message: String| ChangeError::new(ErrorCode::InvalidConfig, message);
    let nulls: Vec<&str> =
        topic.configs.iter().filter(|config| config.value.is_none()).map(|config| &*config.name).collect();
    if !nulls.is_empty() {
        return Err(invalid(format!("Null value not supported for topic configs: {}", nulls.join(","))));
    }
    let entries = topic.configs.iter().filter_map(|config| Some((&*config.name, &**config.value.as_ref()?)));
    check_topic_configs(entries.clone()).map_err(invalid)?;
    Ok(entries.map(|(name, value)| (Arc::from(name), Arc::from(value))).collect())
}

fn automatic(broker: &Broker, placer: &mut Placer, topic: &CreatableTopic) -> Result<Vec<Arc<[NodeId]>>, ChangeError> {
    let factor = match topic.replication_factor {
        -1 => broker.config.default_replication_factor,
        factor if factor > 0 => factor,
        _ => {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(ChangeError::new(ErrorCode::InvalidReplicationFactor, message));
        }
    };
    let count = match topic.num_partitions {
        -1 => broker.config.num_partitions,
        count if count > 0 => count,
        _ => {
            let message = "Number of partitions was set to an invalid non-positive value.";
            return Err(ChangeError::new(ErrorCode::InvalidPartitions, message));
        }
    };
    let (count, factor) = (usize::try_from(count).unwrap_or(1), usize::try_from(factor).unwrap_or(1));
    if count > MAX_PARTITIONS_PER_REQUEST {
        let message = "Excessively large number of partitions per request.";
        return Err(ChangeError::new(ErrorCode::PolicyViolation, message));
    }
    place(placer, count, factor)
}

fn manual(image: &MetadataImage, topic: &CreatableTopic) -> Result<Vec<Arc<[NodeId]>>, ChangeError> {
    let unset = |what: &str| {
        let message = format!("A manual partition assignment was specified, but {what} was not set to -1.");
        Err(ChangeError::new(ErrorCode::InvalidRequest, message))
    };
    if topic.replication_factor != -1 {
        return unset("replication factor");
    }
    if topic.num_partitions != -1 {
        return unset("numPartitions");
    }
    let invalid = |message: String| ChangeError::new(ErrorCode::InvalidReplicaAssignment, message);
    let mut assigned: Vec<Option<Arc<[NodeId]>>> = vec![None; topic.assignments.len()];
    let mut factor = None;
    for assignment in &topic.assignments {
        let replicas: Arc<[NodeId]> = assignment.broker_ids.iter().map(|id| NodeId(id.0)).collect();
        check_assignment(image, &replicas, factor).map_err(invalid)?;
        factor = Some(replicas.len());
        let index = usize::try_from(assignment.partition_index).ok();
        let Some(place) = index.and_then(|index| assigned.get_mut(index)) else {
            return Err(invalid("partitions should be a consecutive 0-based integer sequence".to_owned()));
        };
        if place.replace(replicas).is_some() {
            let index = assignment.partition_index;
            return Err(invalid(format!("Found multiple manual partition assignments for partition {index}")));
        }
    }
    // As many places as assignments, none used twice: all are filled.
    Ok(assigned.into_iter().flatten().collect())
}

fn result(
    broker: &Broker,
    image: &MetadataImage,
    name: TopicName,
    outcome: Result<Planned, ChangeError>,
) -> CreatableTopicResult {
    // The codec's own default is an empty message; kafkajs tells it from none.
    let result = CreatableTopicResult::default().with_name(name).with_error_message(None);
    match outcome {
        Ok(planned) => {
            let factor = planned.partitions.first().map_or(0, |replicas| replicas.len());
            result
                .with_topic_id(planned.id)
                .with_num_partitions(i32::try_from(planned.partitions.len()).unwrap_or(i32::MAX))
                .with_replication_factor(i16::try_from(factor).unwrap_or(i16::MAX))
                .with_configs(Some(effective(broker, image, &planned)))
        }
        Err(error) => result
            .with_error_code(error.code.code())
            .with_error_message(Some(StrBytes::from_string(error.message)))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(Some(Vec::new())),
    }
}

/// The topic's effective configuration, told from the plan: a validated topic does not exist.
fn effective(broker: &Broker, image: &MetadataImage, planned: &Planned) -> Vec<CreatableTopicConfigs> {
    let layers = Layers::new(image, &broker.config);
    let entries = planned.configs.iter().cloned().collect();
    let told = TOPIC_KEYS.iter().map(|topic| {
        let (value, source) = layers.topic_value(Some(&entries), topic);
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(topic.key.name))
            .with_value(Some(StrBytes::from_string(value)))
            .with_config_source(source as i8)
            .with_is_sensitive(topic.key.is_sensitive())
    });
    told.collect()
}
