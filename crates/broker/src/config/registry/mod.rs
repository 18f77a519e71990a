//! The keys that Kafka 4.3 knows, as data: what DescribeConfigs lists, what AlterConfigs accepts, what a
//! properties file may hold.

mod broker_keys;
mod topic_keys;
mod value;

pub use broker_keys::BROKER_KEYS;
pub use topic_keys::{TOPIC_KEYS, TopicKey};
pub use value::parse_list;

/// One configuration key.
#[derive(Debug)]
pub struct ConfigKey {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default as text; `None` is null.
    pub default: Option<&'static str>,
    /// Which values of the type are valid.
    pub valid: Valid,
    /// How it may change while the broker runs.
    pub update: Update,
}

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`, in any case.
    Boolean,
    /// Text.
    String,
    /// 32 bits.
    Int,
    /// 16 bits.
    Short,
    /// 64 bits.
    Long,
    /// Floating point.
    Double,
    /// Texts separated by commas.
    List,
    /// Name of a Java class.
    Class,
    /// Text that is never shown.
    Password,
}

/// Which values are valid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Valid {
    /// All of the type.
    Any,
    /// A number no smaller.
    AtLeast(i64),
    /// A number within (inclusive).
    Between(i64, i64),
    /// A number within (inclusive), with decimals.
    Fraction(f64, f64),
    /// One of these texts; each element of a list.
    OneOf(&'static [&'static str]),
    /// One of these texts, whatever their case.
    OneOfIgnoringCase(&'static [&'static str]),
    /// 1 to 9, or -1 for the codec's own default.
    GzipLevel,
    /// `*`, or a list of `partition:broker`.
    ThrottledReplicas,
}

/// How a broker key may change while the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Only by a restart.
    ReadOnly,
    /// For one broker at a time.
    PerBroker,
    /// For one broker, or for all of them as a default.
    ClusterWide,
    /// Only by a restart, and never described.
    Internal,
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, valid: Valid, update: Update) -> ConfigKey {
    ConfigKey { name, kind, default, valid, update }
}

impl ConfigKey {
    /// Whether values are hidden from every answer.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        self.kind == Kind::Password
    }

    /// DescribeConfigs' number for the type.
    #[must_use]
    pub fn type_code(&self) -> i8 {
        match self.kind {
            Kind::Boolean => 1,
            Kind::String => 2,
            Kind::Int => 3,
            Kind::Short => 4,
            Kind::Long => 5,
            Kind::Double => 6,
            Kind::List => 7,
            Kind::Class => 8,
            Kind::Password => 9,
        }
    }
}

/// The broker key of that name.
#[must_use]
pub fn broker_key(name: &str) -> Option<&'static ConfigKey> {
    BROKER_KEYS.binary_search_by(|key| key.name.cmp(name)).ok().map(|index| &BROKER_KEYS[index])
}

/// The topic key of that name.
#[must_use]
pub fn topic_key(name: &str) -> Option<&'static TopicKey> {
    TOPIC_KEYS.binary_search_by(|topic| topic.key.name.cmp(name)).ok().map(|index| &TOPIC_KEYS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_their_defaults_are_valid() {
        assert!(BROKER_KEYS.is_sorted_by(|a, b| a.name < b.name));
        assert!(TOPIC_KEYS.is_sorted_by(|a, b| a.key.name < b.key.name));
        for key in BROKER_KEYS.iter().chain(TOPIC_KEYS.iter().map(|topic| &topic.key)) {
            if let Some(default) = key.default {
                assert_eq!(key.check(default), Ok(()), "{}", key.name);
            }
        }
    }

    #[test]
    fn every_synonym_of_a_topic_key_is_a_broker_key() {
        for topic in TOPIC_KEYS {
            for (synonym, _) in topic.synonyms {
                assert!(broker_key(synonym).is_some(), "{synonym}");
            }
        }
    }

    #[test]
    fn counts_are_those_of_kafka() {
        assert_eq!(TOPIC_KEYS.len(), 33);
        assert_eq!(BROKER_KEYS.iter().filter(|key| key.update != Update::Internal).count(), 340);
    }
}
