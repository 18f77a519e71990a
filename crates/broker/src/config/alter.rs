//! Judging changes of dynamic configuration: what AlterConfigs and IncrementalAlterConfigs share. Pure: a plan
//! is made from an image, and submitted by the handler.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use imbl::OrdMap;
use metadata::{ConfigResource, MetadataImage};
use protocol::ErrorCode;

use super::honoured::is_dynamic;
use super::layers::check_as_topic_default;
use super::registry::{Kind, Update, broker_key, parse_list, topic_key};
use super::{BrokerConfig, Layers, check_topic_configs};
use crate::topics::{ChangeError, check_name};

/// Number of a topic in requests that name resources.
pub const TOPIC_RESOURCE: i8 = 2;
/// Number of a broker in requests that name resources; all of them where the name is empty.
pub const BROKER_RESOURCE: i8 = 4;
/// Number of a broker's loggers, which are not part of the metadata.
pub const BROKER_LOGGER_RESOURCE: i8 = 8;
/// Number of a subscription to client metrics, of which there are none yet.
pub const CLIENT_METRICS_RESOURCE: i8 = 16;
/// Number of a group. Groups have no configuration before the consumer group protocol of KIP-848.
pub const GROUP_RESOURCE: i8 = 32;

/// What is done to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Replaces the value.
    Set,
    /// Removes the value.
    Delete,
    /// Adds elements to a list.
    Append,
    /// Removes elements from a list.
    Subtract,
}

impl Operation {
    /// By Kafka's number.
    #[must_use]
    pub fn from_code(code: i8) -> Option<Self> {
        match code {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }
}

/// One key of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alteration<'a> {
    /// The key.
    pub name: &'a str,
    /// What is done to it.
    pub operation: Operation,
    /// The value; `None` is null.
    pub value: Option<&'a str>,
}

/// A change that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterPlan {
    /// What is changed.
    pub resource: ConfigResource,
    /// New values, and `None` for those that go.
    pub changes: Vec<(Arc<str>, Option<Arc<str>>)>,
}

/// Kafka's sentence for a resource that a request names twice.
pub const REPEATED: &str = "Each resource must appear at most once.";

/// Those of a request's resources that it names more than once.
pub fn repeated<K: Clone + Eq + Hash>(resources: impl Iterator<Item = K>) -> HashSet<K> {
    let mut seen = HashSet::new();
    resources.filter(|resource| !seen.insert(resource.clone())).collect()
}

type Entries = OrdMap<Arc<str>, Arc<str>>;

fn invalid_request(message: impl Into<String>) -> ChangeError {
    ChangeError::new(ErrorCode::InvalidRequest, message)
}

/// The resource that a request names.
///
/// # Errors
/// A kind without configuration here, another broker's id, an illegal or unknown topic.
pub fn resolve(
    image: &MetadataImage,
    config: &BrokerConfig,
    kind: i8,
    name: &str,
) -> Result<ConfigResource, ChangeError> {
    match kind {
        TOPIC_RESOURCE => {
            if name.is_empty() {
                return Err(invalid_request("Default topic resources are not allowed."));
            }
            check_name(name).map_err(|message| ChangeError::new(ErrorCode::InvalidTopicException, message))?;
            if image.topic(name).is_none() {
                let message = format!("The topic '{name}' does not exist.");
                return Err(ChangeError::new(ErrorCode::UnknownTopicOrPartition, message));
            }
            Ok(ConfigResource::Topic(Arc::from(name)))
        }
        BROKER_RESOURCE if name.is_empty() => Ok(ConfigResource::Broker(None)),
        BROKER_RESOURCE => {
            let own = config.node_id;
            match name.parse::<i32>() {
                Ok(id) if id == own.0 => Ok(ConfigResource::Broker(Some(own))),
                Ok(id) => Err(invalid_request(format!("Unexpected broker id, expected {own}, but received {id}"))),
                Err(_) => Err(invalid_request(format!("Node id must be an integer, but it is: {name}"))),
            }
        }
        other => Err(invalid_request(format!("Unknown resource type {other}"))),
    }
}

/// What holds for a change of any resource: no key comes twice, and only a removal has no value.
///
/// # Errors
/// Kafka's code and sentence.
pub fn check_alterations(alterations: &[Alteration<'_>]) -> Result<(), ChangeError> {
    let mut seen = HashSet::new();
    if !alterations.iter().all(|one| seen.insert(one.name)) {
        return Err(invalid_request("Error due to duplicate config keys"));
    }
    let is_null = |one: &&Alteration<'_>| one.operation != Operation::Delete && one.value.is_none();
    let nulls: Vec<&str> = alterations.iter().filter(is_null).map(|one| one.name).collect();
    if !nulls.is_empty() {
        return Err(invalid_request(format!("Null value not supported for : {}", nulls.join(", "))));
    }
    Ok(())
}

/// Judges an incremental change of one resource.
///
/// # Errors
/// Kafka's code and sentence.
pub fn plan(
    image: &MetadataImage,
    config: &BrokerConfig,
    resource: ConfigResource,
    alterations: &[Alteration<'_>],
) -> Result<AlterPlan, ChangeError> {
    check_alterations(alterations)?;
    let mut changes = Vec::with_capacity(alterations.len());
    for alteration in alterations {
        let value = new_value(image, config, &resource, alteration)?;
        changes.push((Arc::from(alteration.name), value.map(Arc::from)));
    }
    finish(image, resource, changes)
}

/// Judges a change that replaces everything that is set for a resource.
///
/// # Errors
/// As [`plan`].
pub fn plan_replacement(
    image: &MetadataImage,
    config: &BrokerConfig,
    resource: ConfigResource,
    entries: &[(&str, Option<&str>)],
) -> Result<AlterPlan, ChangeError> {
    let set = |&(name, value): &(_, _)| Alteration { name, operation: Operation::Set, value };
    let mut alterations: Vec<Alteration<'_>> = entries.iter().map(set).collect();
    let current = image.configs.get(&resource).cloned().unwrap_or_default();
    let absent = current.keys().filter(|name| !entries.iter().any(|(kept, _)| *kept == &***name));
    let delete = |name| Alteration { name, operation: Operation::Delete, value: None };
    alterations.extend(absent.map(|name| delete(name.as_ref())));
    plan(image, config, resource, &alterations)
}

/// The value a key gets, `None` if it is removed.
fn new_value(
    image: &MetadataImage,
    config: &BrokerConfig,
    resource: &ConfigResource,
    alteration: &Alteration<'_>,
) -> Result<Option<String>, ChangeError> {
    let name = alteration.name;
    let key = match resource {
        ConfigResource::Topic(_) => topic_key(name).map(|topic| &topic.key),
        _ => broker_key(name),
    };
    let given = alteration.value.unwrap_or_default();
    match alteration.operation {
        Operation::Delete => Ok(None),
        Operation::Set => Ok(Some(given.to_owned())),
        operation @ (Operation::Append | Operation::Subtract) => {
            if key.is_none_or(|key| key.kind != Kind::List) {
                let word = if operation == Operation::Append { "APPEND" } else { "SUBTRACT" };
                let message = format!("Can't {word} to key {name} because its type is not LIST.");
                return Err(ChangeError::new(ErrorCode::InvalidConfig, message));
            }
            let current = current_value(image, config, resource, name);
            let mut elements = parse_list(&current);
            for element in parse_list(given) {
                match operation {
                    Operation::Append if !elements.contains(&element) => elements.push(element),
                    Operation::Subtract => elements.retain(|kept| *kept != element),
                    _ => {}
                }
            }
            Ok(Some(elements.join(",")))
        }
    }
}

/// The value a key has now for a resource, whatever the layer.
fn current_value(image: &MetadataImage, config: &BrokerConfig, resource: &ConfigResource, name: &str) -> String {
    let layers = Layers::new(image, config);
    match resource {
        ConfigResource::Topic(topic) => {
            topic_key(name).map(|key| layers.topic_value(layers.topic_entries(topic), key).0).unwrap_or_default()
        }
        _ => broker_key(name)
            .and_then(|key| layers.broker_value(key))
            .map(|(value, _)| value.into_owned())
            .unwrap_or_default(),
    }
}

/// Checks what the resource will hold after the change.
fn finish(
    image: &MetadataImage,
    resource: ConfigResource,
    changes: Vec<(Arc<str>, Option<Arc<str>>)>,
) -> Result<AlterPlan, ChangeError> {
    match &resource {
        ConfigResource::Topic(_) => {
            let mut entries: Entries = image.configs.get(&resource).cloned().unwrap_or_default();
            for (name, value) in &changes {
                match value {
                    Some(value) => entries.insert(Arc::clone(name), Arc::clone(value)),
                    None => entries.remove(name),
                };
            }
            check_topic_configs(entries.iter().map(|(name, value)| (name.as_ref(), value.as_ref())))
                .map_err(|message| ChangeError::new(ErrorCode::InvalidConfig, message))?;
        }
        ConfigResource::Broker(node) => check_broker_changes(node.is_none(), &changes)?,
        ConfigResource::Group(_) => return Err(invalid_request("Groups have no configuration yet")),
    }
    Ok(AlterPlan { resource, changes })
}

fn check_broker_changes(is_default: bool, changes: &[(Arc<str>, Option<Arc<str>>)]) -> Result<(), ChangeError> {
    let is_fixed = |name: &str| broker_key(name).is_some_and(|key| !is_dynamic(key));
    let fixed: Vec<&str> = changes.iter().map(|(name, _)| name.as_ref()).filter(|name| is_fixed(name)).collect();
    let is_per_broker = |name: &&str| broker_key(name).is_some_and(|key| key.update == Update::PerBroker);
    if is_default && !fixed.is_empty() && fixed.iter().all(is_per_broker) {
        return Err(invalid_request(format!(
            "Cannot update these configs at default cluster level, broker id must be specified: [{}]",
            fixed.join(", ")
        )));
    }
    if !fixed.is_empty() {
        return Err(invalid_request(format!("Cannot update these configs dynamically: [{}]", fixed.join(", "))));
    }
    for (name, value) in changes {
        if let (Some(key), Some(value)) = (broker_key(name), value) {
            key.check(value).and_then(|()| check_as_topic_default(name, value)).map_err(invalid_request)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
