//! What DescribeConfigs tells of a resource.

use std::sync::Arc;

use metadata::{ConfigResource, MetadataImage};

use super::honoured::is_dynamic;
use super::registry::{ConfigKey, TOPIC_KEYS, TopicKey, broker_key};
use super::{BrokerConfig, Layers, Source, Synonym};

/// One key of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The key.
    pub name: String,
    /// Its value in force; `None` where it is null or secret.
    pub value: Option<String>,
    /// Where that value comes from.
    pub source: Source,
    /// Whether it can change while the broker runs.
    pub is_read_only: bool,
    /// Whether its value is secret.
    pub is_sensitive: bool,
    /// Kafka's number of the type, 0 if unknown.
    pub type_code: i8,
    /// All values it could have, strongest first.
    pub synonyms: Vec<Synonym>,
    /// What it does.
    pub documentation: &'static str,
}

/// Describes the keys of a resource that `wanted` selects.
#[must_use]
pub fn describe(
    image: &MetadataImage,
    config: &BrokerConfig,
    resource: &ConfigResource,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<Described> {
    let layers = Layers::new(image, config);
    match resource {
        ConfigResource::Topic(topic) => {
            let entries = layers.topic_entries(topic);
            let wanted = TOPIC_KEYS.iter().filter(|topic| wanted(topic.key.name));
            wanted.map(|key| topic_entry(&layers, entries, key)).collect()
        }
        ConfigResource::Broker(None) => {
            let entries = layers.cluster_entries().into_iter().flatten();
            entries.filter(|(name, _)| wanted(name)).map(|(name, value)| cluster_entry(name, value)).collect()
        }
        ConfigResource::Broker(Some(_)) => {
            let known = Layers::described_keys().filter(|key| wanted(key.name)).map(|key| broker_entry(&layers, key));
            known.chain(unknown_entries(&layers, config, wanted)).collect()
        }
        ConfigResource::Group(_) => Vec::new(),
    }
}

fn topic_entry(layers: &Layers<'_>, entries: Option<&imbl::OrdMap<Arc<str>, Arc<str>>>, topic: &TopicKey) -> Described {
    let (value, source) = layers.topic_value(entries, topic);
    // Kafka tells the synonyms of the strongest broker key alone, and takes the source from them.
    let mut synonyms = topic.synonyms.first().map(|(name, _)| layers.synonyms(name)).unwrap_or_default();
    if source == Source::Topic {
        synonyms.insert(0, Synonym { name: topic.key.name.to_owned(), value: value.clone(), source });
    }
    Described {
        name: topic.key.name.to_owned(),
        value: Some(value),
        source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
        is_read_only: false,
        is_sensitive: false,
        type_code: topic.key.type_code(),
        synonyms,
        documentation: topic.documentation,
    }
}

fn broker_entry(layers: &Layers<'_>, key: &ConfigKey) -> Described {
    let is_sensitive = key.is_sensitive();
    let mut synonyms = layers.synonyms(key.name);
    if is_sensitive {
        // Told with their source alone; encoded as null.
        synonyms.iter_mut().for_each(|synonym| synonym.value.clear());
    }
    Described {
        name: key.name.to_owned(),
        value: layers.broker_value(key).filter(|_| !is_sensitive).map(|(value, _)| value.into_owned()),
        source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
        is_read_only: !is_dynamic(key),
        is_sensitive,
        type_code: key.type_code(),
        synonyms,
        documentation: "",
    }
}

fn cluster_entry(name: &str, value: &str) -> Described {
    let key = broker_key(name);
    // Nobody knows what an unknown key holds: it may be a secret.
    let is_sensitive = key.is_none_or(ConfigKey::is_sensitive);
    let shown = if is_sensitive { String::new() } else { value.to_owned() };
    let synonym = Synonym { name: name.to_owned(), value: shown.clone(), source: Source::ClusterDefault };
    Described {
        name: name.to_owned(),
        value: (!is_sensitive).then_some(shown),
        source: Source::ClusterDefault,
        is_read_only: false,
        is_sensitive,
        type_code: key.map_or(0, ConfigKey::type_code),
        synonyms: vec![synonym],
        documentation: "",
    }
}

/// Properties nobody knows. Their values may be secrets of plugins.
fn unknown_entries<'a>(
    layers: &Layers<'a>,
    config: &'a BrokerConfig,
    wanted: &'a dyn Fn(&str) -> bool,
) -> impl Iterator<Item = Described> {
    let given = config.properties.iter().map(|(name, _)| (name.as_str(), Source::Static));
    let dynamic = layers.broker_entries().into_iter().flatten().map(|(name, _)| (name.as_ref(), Source::Broker));
    let is_unknown = |name: &str| !Layers::described_keys().any(|key| key.name == name);
    dynamic.chain(given).filter(move |(name, _)| is_unknown(name) && broker_key(name).is_none() && wanted(name)).map(
        |(name, source)| Described {
            name: name.to_owned(),
            value: None,
            source,
            is_read_only: true,
            is_sensitive: true,
            type_code: 0,
            synonyms: vec![Synonym { name: name.to_owned(), value: String::new(), source }],
            documentation: "",
        },
    )
}

#[cfg(test)]
mod tests;
