//! Checking and parsing of values, with the words Kafka's clients know.

use super::{ConfigKey, Kind, Valid};

/// The elements of a list value.
#[must_use]
pub fn parse_list(value: &str) -> Vec<&str> {
    let value = value.trim();
    if value.is_empty() { Vec::new() } else { value.split(',').map(str::trim).collect() }
}

impl ConfigKey {
    /// Checks a value as given by a client or a file.
    ///
    /// # Errors
    /// A sentence that names the value, the key and what is wrong.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let trimmed = value.trim();
        let wrong_type = |kind: &str| self.invalid(value, &format!("Not a number of type {kind}"));
        match self.kind {
            Kind::Boolean if is_boolean(trimmed) => Ok(()),
            Kind::Boolean => Err(self.invalid(value, "Expected value to be either true or false")),
            Kind::Int => trimmed
                .parse::<i32>()
                .map_err(|_| wrong_type("INT"))
                .and_then(|number| self.check_number(number.into())),
            Kind::Short => trimmed
                .parse::<i16>()
                .map_err(|_| wrong_type("SHORT"))
                .and_then(|number| self.check_number(number.into())),
            Kind::Long => {
                trimmed.parse::<i64>().map_err(|_| wrong_type("LONG")).and_then(|number| self.check_number(number))
            }
            Kind::Double => {
                trimmed.parse::<f64>().map_err(|_| wrong_type("DOUBLE")).and_then(|number| self.check_fraction(number))
            }
            Kind::List => self.check_list(value),
            Kind::String | Kind::Class | Kind::Password => self.check_text(trimmed),
        }
    }

    /// The value as Kafka shows it after parsing: trimmed, booleans in lower case.
    #[must_use]
    pub fn canonical(&self, value: &str) -> String {
        let trimmed = value.trim();
        match self.kind {
            Kind::Boolean => trimmed.to_ascii_lowercase(),
            Kind::List => parse_list(trimmed).join(","),
            Kind::Password => value.to_owned(),
            _ => trimmed.to_owned(),
        }
    }

    fn invalid(&self, value: impl std::fmt::Display, reason: &str) -> String {
        if self.is_sensitive() {
            return format!("Invalid value [hidden] for configuration {}: {reason}", self.name);
        }
        format!("Invalid value {value} for configuration {}: {reason}", self.name)
    }

    fn check_number(&self, number: i64) -> Result<(), String> {
        match self.valid {
            Valid::AtLeast(least) | Valid::Between(least, _) if number < least => {
                Err(self.invalid(number, &format!("Value must be at least {least}")))
            }
            Valid::Between(_, most) if number > most => {
                Err(self.invalid(number, &format!("Value must be no more than {most}")))
            }
            Valid::GzipLevel if number != -1 && !(1..=9).contains(&number) => {
                Err(self.invalid(number, "Value must be between 1 and 9 or equal to -1"))
            }
            _ => Ok(()),
        }
    }

    fn check_fraction(&self, number: f64) -> Result<(), String> {
        match self.valid {
            _ if number.is_nan() => Err(self.invalid(number, "Not a number of type DOUBLE")),
            Valid::Fraction(least, _) if number < least => {
                Err(self.invalid(format!("{number:?}"), &format!("Value must be at least {least}")))
            }
            Valid::Fraction(_, most) if number > most => {
                Err(self.invalid(format!("{number:?}"), &format!("Value must be no more than {most}")))
            }
            _ => Ok(()),
        }
    }

    fn check_list(&self, value: &str) -> Result<(), String> {
        let elements = parse_list(value);
        match self.valid {
            Valid::OneOf(_) => elements.iter().try_for_each(|element| self.check_text(element)),
            Valid::ThrottledReplicas if !are_throttled_replicas(&elements) => Err(self.invalid(
                format!("[{}]", elements.join(", ")),
                &format!(
                    "{} must be the literal '*' or a list of replicas in the following format: \
                     [partitionId]:[brokerId],[partitionId]:[brokerId],...",
                    self.name
                ),
            )),
            _ => Ok(()),
        }
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        match self.valid {
            Valid::OneOf(allowed) if !allowed.contains(&text) => {
                Err(self.invalid(text, &format!("String must be one of: {}", allowed.join(", "))))
            }
            Valid::OneOfIgnoringCase(allowed) if !allowed.iter().any(|one| one.eq_ignore_ascii_case(text)) => {
                let allowed = allowed.join(", ");
                Err(self.invalid(text, &format!("String must be one of (case insensitive): {allowed}")))
            }
            _ => Ok(()),
        }
    }
}

fn is_boolean(text: &str) -> bool {
    text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")
}

fn are_throttled_replicas(elements: &[&str]) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    elements == ["*"]
        || elements.iter().all(|element| {
            element.split_once(':').is_some_and(|(partition, broker)| is_number(partition) && is_number(broker))
        })
}

#[cfg(test)]
mod tests {
    use super::super::{broker_key, topic_key};

    /// Value, key and the message Apache Kafka 4.3.1 answers.
    const REFUSED: &[(&str, &str, &str)] = &[
        ("abc", "retention.ms", "Invalid value abc for configuration retention.ms: Not a number of type LONG"),
        ("", "retention.ms", "Invalid value  for configuration retention.ms: Not a number of type LONG"),
        ("-2", "retention.ms", "Invalid value -2 for configuration retention.ms: Value must be at least -1"),
        (
            "foo",
            "cleanup.policy",
            "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete",
        ),
        ("100", "segment.bytes", "Invalid value 100 for configuration segment.bytes: Value must be at least 1048576"),
        (
            "none",
            "compression.type",
            "Invalid value none for configuration compression.type: String must be one of: uncompressed, zstd, lz4, \
             snappy, gzip, producer",
        ),
        (
            "maybe",
            "preallocate",
            "Invalid value maybe for configuration preallocate: Expected value to be either true or false",
        ),
        (
            "0",
            "compression.gzip.level",
            "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
        ),
        (
            "2",
            "min.cleanable.dirty.ratio",
            "Invalid value 2.0 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
        ),
        (
            "99999999999",
            "segment.bytes",
            "Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT",
        ),
        (
            "x",
            "leader.replication.throttled.replicas",
            "Invalid value [x] for configuration leader.replication.throttled.replicas: \
             leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the following \
             format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
        ),
    ];

    #[test]
    fn refuses_in_kafkas_words() {
        for (value, key, message) in REFUSED {
            let key = &topic_key(key).expect("known key").key;
            assert_eq!(key.check(value).expect_err(key.name), *message);
        }
    }

    #[test]
    fn accepts_what_kafka_accepts() {
        for (value, key) in [
            ("delete,compact", "cleanup.policy"),
            ("", "cleanup.policy"),
            (" 77 ", "retention.ms"),
            ("TRUE", "preallocate"),
            ("*", "leader.replication.throttled.replicas"),
            ("0:1,1:2", "leader.replication.throttled.replicas"),
        ] {
            assert_eq!(topic_key(key).expect("known key").key.check(value), Ok(()), "{key}={value}");
        }
    }

    #[test]
    fn a_password_is_never_repeated() {
        let key = broker_key("ssl.key.password").expect("known key");
        assert!(!key.invalid("secret", "anything").contains("secret"));
    }
}
