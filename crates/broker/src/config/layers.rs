//! Where a value comes from: topic entries over this broker's dynamic entries over the cluster's dynamic
//! defaults over static properties over Kafka's defaults.

use std::borrow::Cow;
use std::sync::Arc;

use imbl::OrdMap;
use metadata::{ConfigResource, MetadataImage};

use super::BrokerConfig;
use super::honoured::OTTLA_KEYS;
use super::registry::{BROKER_KEYS, ConfigKey, TOPIC_KEYS, TopicKey, Update, broker_key};

/// Kafka's numbers for where a value was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// For this topic.
    Topic = 1,
    /// For this broker, while running.
    Broker = 2,
    /// For all brokers, while running.
    ClusterDefault = 3,
    /// In the properties the broker was started with.
    Static = 4,
    /// Nowhere.
    Default = 5,
}

/// A value a key could have had, in the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The key that sets it.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where it is set.
    pub source: Source,
}

type Entries = OrdMap<Arc<str>, Arc<str>>;

/// Keys that set the same thing in different units, strongest first.
const FAMILIES: &[&[&str]] = &[
    &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
    &["log.roll.ms", "log.roll.hours"],
    &["log.roll.jitter.ms", "log.roll.jitter.hours"],
    &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
];

/// All layers as one broker sees them.
pub struct Layers<'a> {
    config: &'a BrokerConfig,
    broker: Option<&'a Entries>,
    cluster: Option<&'a Entries>,
    image: &'a MetadataImage,
}

impl<'a> Layers<'a> {
    /// The layers of the broker with that configuration.
    #[must_use]
    pub fn new(image: &'a MetadataImage, config: &'a BrokerConfig) -> Self {
        Self {
            config,
            broker: image.configs.get(&ConfigResource::Broker(Some(config.node_id))),
            cluster: image.configs.get(&ConfigResource::Broker(None)),
            image,
        }
    }

    /// What is set for a topic, or nothing.
    #[must_use]
    pub fn topic_entries(&self, topic: &str) -> Option<&'a Entries> {
        self.image.configs.get(&ConfigResource::Topic(Arc::from(topic)))
    }

    /// What is set dynamically for this broker.
    #[must_use]
    pub fn broker_entries(&self) -> Option<&'a Entries> {
        self.broker
    }

    /// What is set dynamically for all brokers.
    #[must_use]
    pub fn cluster_entries(&self) -> Option<&'a Entries> {
        self.cluster
    }

    /// Value of one broker key alone, without its family. `None` is null. An invalid dynamic value, which only
    /// an older version could have let in, does not count.
    #[must_use]
    pub fn broker_value(&self, key: &ConfigKey) -> Option<(Cow<'a, str>, Source)> {
        self.values(key).next()
    }

    /// The number that one of Kafka's broker keys has now. For keys with a default that change while the broker runs.
    #[must_use]
    pub fn number(&self, name: &str) -> i64 {
        let value = broker_key(name).and_then(|key| self.broker_value(key));
        value.and_then(|(value, _)| value.trim().parse().ok()).unwrap_or(i64::MAX)
    }

    /// The values of one broker key, strongest first.
    fn values(&self, key: &ConfigKey) -> impl Iterator<Item = (Cow<'a, str>, Source)> {
        let name = key.name;
        let valid = |value: &&'a str| key.check(value).is_ok();
        let dynamic = |entries: Option<&'a Entries>| entries.and_then(|entries| entries.get(name)).map(AsRef::as_ref);
        let layers = [
            (dynamic(self.broker).filter(valid), Source::Broker),
            (dynamic(self.cluster).filter(valid), Source::ClusterDefault),
            (self.config.property(name), Source::Static),
            (key.default, Source::Default),
        ];
        let shown = layers.map(|(value, source)| value.map(|value| (Cow::Owned(key.canonical(value)), source)));
        shown.into_iter().flatten()
    }

    /// Where the value of a broker key comes from, and what it would be without that, and so on. As in Kafka,
    /// values of stronger keys of the family are left out, and with them all if the key itself has none.
    #[must_use]
    pub fn synonyms(&self, name: &str) -> Vec<Synonym> {
        let alone = [name];
        let family = FAMILIES.iter().find(|family| family.contains(&name)).map_or(&alone[..], |family| family);
        let mut found: Vec<Synonym> = Vec::new();
        for member in family {
            let Some(key) = broker_key(member).or_else(|| ottla_key(member)) else { continue };
            found.extend(self.values(key).map(|(value, source)| Synonym {
                name: (*member).to_owned(),
                value: value.into_owned(),
                source,
            }));
        }
        // Stable, so that within one layer the family's order stays.
        found.sort_by_key(|synonym| synonym.source as i8);
        found.into_iter().skip_while(|synonym| synonym.name != name).collect()
    }

    /// The value a topic key has when the topic sets none, with its source: the strongest member of the family
    /// of broker keys that has a value at all, whatever the layer.
    #[must_use]
    pub fn topic_default(&self, topic: &TopicKey) -> (String, Source) {
        for (name, factor) in topic.synonyms {
            let Some((value, source)) = broker_key(name).and_then(|key| self.broker_value(key)) else { continue };
            return (scaled(&value, *factor), source);
        }
        (topic.key.default.unwrap_or_default().to_owned(), Source::Default)
    }

    /// The value of a topic key, with its source. `entries` is what the topic sets.
    #[must_use]
    pub fn topic_value(&self, entries: Option<&Entries>, topic: &TopicKey) -> (String, Source) {
        let own = entries.and_then(|entries| entries.get(topic.key.name)).filter(|own| topic.key.check(own).is_ok());
        match own {
            Some(own) => (topic.key.canonical(own), Source::Topic),
            None => self.topic_default(topic),
        }
    }

    /// All broker keys that are described: Kafka's, then Ottla's.
    pub fn described_keys() -> impl Iterator<Item = &'static ConfigKey> {
        BROKER_KEYS.iter().filter(|key| key.update != Update::Internal).chain(OTTLA_KEYS)
    }
}

fn ottla_key(name: &str) -> Option<&'static ConfigKey> {
    OTTLA_KEYS.iter().find(|key| key.name == name)
}

/// A number in the unit of a topic key. Negative numbers mean "without bound" in any unit.
fn scaled(value: &str, factor: i64) -> String {
    match value.parse::<i64>() {
        Ok(number) if factor != 1 => if number < 0 { -1 } else { number.saturating_mul(factor) }.to_string(),
        _ => value.to_owned(),
    }
}

/// Checks a value of a broker key as the topic key whose default it gives: Kafka's own checks of the broker keys
/// are looser for some.
pub(super) fn check_as_topic_default(name: &str, value: &str) -> Result<(), String> {
    for topic in TOPIC_KEYS {
        let factor = topic.synonyms.iter().find(|(synonym, _)| *synonym == name).map(|(_, factor)| *factor);
        if factor.is_some_and(|factor| topic.key.check(&scaled(value.trim(), factor)).is_err()) {
            return Err(format!("Invalid value {value} for configuration {name}: not a valid {}", topic.key.name));
        }
    }
    Ok(())
}

impl BrokerConfig {
    /// A property as given at the start.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests;
