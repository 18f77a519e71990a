//! Log levels that change while the broker runs: Kafka's BROKER_LOGGER resources. Loggers are the modules that log
//! lines name, with dots, because Kafka's tools take no colons; `root` is the level of all others. Changes last until
//! the process ends, as in Kafka.

use std::collections::{BTreeMap, HashSet};

use protocol::ErrorCode;
use tracing::level_filters::LevelFilter;

use crate::Broker;
use crate::config::alter::{Alteration, Operation, check_alterations};
use crate::topics::ChangeError;

/// The level of every logger that has one of its own, and of [`ROOT`].
pub type Levels = BTreeMap<String, LevelFilter>;

/// Whoever installed the log's filter.
pub trait LogFilter: Send + Sync {
    /// The levels in force.
    fn levels(&self) -> Levels;

    /// Puts these in force instead.
    ///
    /// # Errors
    /// The filter is gone.
    fn set(&self, levels: &Levels) -> Result<(), String>;
}

/// The logger of everything that has none of its own.
pub const ROOT: &str = "root";

/// Where Ottla's own lines come from, and what is used below it.
const LOGGERS: &[&str] = &[
    "object_store",
    "openraft",
    "ottla",
    "ottla_broker",
    "ottla_common",
    "ottla_coordinator",
    "ottla_metadata",
    "ottla_s3stream",
    "ottla_wal",
];

/// Kafka's names of levels. Nothing here is logged as fatal, so that level shows nothing.
const NAMES: [(&str, LevelFilter); 6] = [
    ("DEBUG", LevelFilter::DEBUG),
    ("ERROR", LevelFilter::ERROR),
    ("FATAL", LevelFilter::OFF),
    ("INFO", LevelFilter::INFO),
    ("TRACE", LevelFilter::TRACE),
    ("WARN", LevelFilter::WARN),
];

fn invalid_request(message: impl Into<String>) -> ChangeError {
    ChangeError::new(ErrorCode::InvalidRequest, message)
}

/// Every known logger with the name of its level.
///
/// # Errors
/// The name is not this broker's id.
pub fn describe(broker: &Broker, name: &str) -> Result<Vec<(String, &'static str)>, ChangeError> {
    let own = broker.config.node_id.0;
    match name.parse::<i32>() {
        Ok(id) if id == own => {}
        Ok(id) => return Err(invalid_request(format!("Unexpected broker id, expected {own} but received {id}"))),
        Err(_) if name.is_empty() => return Err(invalid_request("Broker id must not be empty")),
        Err(_) => return Err(invalid_request(format!("Broker id must be an integer, but it is: {name}"))),
    }
    Ok(broker.log_filter.get().map(|filter| listed(&filter.levels())).unwrap_or_default())
}

/// Judges a change of log levels.
///
/// # Errors
/// Kafka's codes and sentences.
pub fn plan(broker: &Broker, name: &str, alterations: &[Alteration<'_>]) -> Result<Levels, ChangeError> {
    let own = broker.config.node_id.0;
    match name.parse::<i32>() {
        Ok(id) if id == own => {}
        Ok(id) => return Err(invalid_request(format!("Unexpected node id. Expected {own}, but received {id}"))),
        Err(_) => return Err(invalid_request(format!("Node id must be an integer, but it is: {name}"))),
    }
    let filter = broker.log_filter.get().ok_or_else(|| invalid_request("This process does not log"))?;
    changed(filter.levels(), alterations)
}

/// Puts a plan in force.
///
/// # Errors
/// There is no log any more.
pub fn set(broker: &Broker, levels: &Levels) -> Result<(), ChangeError> {
    let set = broker.log_filter.get().map_or(Ok(()), |filter| filter.set(levels));
    set.map_err(|problem| ChangeError::new(ErrorCode::UnknownServerError, problem))
}

fn listed(levels: &Levels) -> Vec<(String, &'static str)> {
    let names: HashSet<&str> = LOGGERS.iter().copied().chain(levels.keys().map(String::as_str)).collect();
    let mut listed: Vec<_> =
        names.into_iter().map(|name| (name.to_owned(), level_name(effective(levels, name)))).collect();
    listed.sort_unstable();
    listed
}

/// The level of the longest name that the logger's begins with.
fn effective(levels: &Levels, logger: &str) -> LevelFilter {
    let above = levels.iter().filter(|(name, _)| *name != ROOT && logger.starts_with(name.as_str()));
    let nearest = above.max_by_key(|(name, _)| name.len()).map(|(_, level)| *level);
    nearest.or_else(|| levels.get(ROOT).copied()).unwrap_or(LevelFilter::OFF)
}

fn level_name(level: LevelFilter) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == level).map_or("INFO", |(name, _)| name)
}

fn changed(mut levels: Levels, alterations: &[Alteration<'_>]) -> Result<Levels, ChangeError> {
    check_alterations(alterations)?;
    for Alteration { name, operation, value } in alterations {
        let is_ours = LOGGERS.contains(&name.split('.').next().unwrap_or_default());
        if *name != ROOT && !is_ours && !levels.contains_key(*name) {
            return Err(ChangeError::new(ErrorCode::InvalidConfig, format!("Logger {name} does not exist!")));
        }
        match operation {
            Operation::Set => {
                let level = level(name, value.unwrap_or_default())?;
                levels.insert((*name).to_owned(), level);
            }
            Operation::Delete if *name == ROOT => {
                return Err(invalid_request("Removing the log level of the root logger is not allowed"));
            }
            Operation::Delete => drop(levels.remove(*name)),
            Operation::Append | Operation::Subtract => {
                let word = if *operation == Operation::Append { "APPEND" } else { "SUBTRACT" };
                let message = format!("{word} operation is not allowed for the BROKER_LOGGER resource");
                return Err(invalid_request(message));
            }
        }
    }
    Ok(levels)
}

fn level(logger: &str, name: &str) -> Result<LevelFilter, ChangeError> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, level)| *level).ok_or_else(|| {
        let names = NAMES.map(|(name, _)| name).join(", ");
        let message = format!(
            "Cannot set the log level of {logger} to {name} as it is not a supported log level. Valid log levels are {names}"
        );
        ChangeError::new(ErrorCode::InvalidConfig, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels() -> Levels {
        let levels = [(ROOT, LevelFilter::INFO), ("openraft", LevelFilter::ERROR), ("mine", LevelFilter::WARN)];
        levels.map(|(name, level)| (name.to_owned(), level)).into()
    }

    fn alter(name: &str, operation: Operation, value: Option<&str>) -> Result<Levels, (i16, String)> {
        let alteration = Alteration { name, operation, value };
        changed(levels(), &[alteration]).map_err(|error| (error.code.code(), error.message))
    }

    #[test]
    fn levels_are_set_removed_and_inherited() {
        let set = alter("ottla_broker.network", Operation::Set, Some("DEBUG")).expect("sound");
        assert_eq!(set["ottla_broker.network"], LevelFilter::DEBUG);
        assert_eq!(effective(&set, "ottla_broker.network.reader"), LevelFilter::DEBUG);
        assert_eq!(effective(&set, "ottla_broker"), LevelFilter::INFO);
        let removed = alter("openraft", Operation::Delete, None).expect("sound");
        assert!(!removed.contains_key("openraft"));
        assert_eq!(alter("mine", Operation::Set, Some("FATAL")).expect("sound")["mine"], LevelFilter::OFF);
        let listed = listed(&levels());
        for expected in [("mine", "WARN"), ("openraft", "ERROR"), ("ottla_wal", "INFO"), (ROOT, "INFO")] {
            assert!(listed.contains(&(expected.0.to_owned(), expected.1)), "{expected:?}");
        }
    }

    /// Codes and sentences are those of Kafka 4.3.1.
    #[test]
    fn what_makes_no_sense_is_refused() {
        use Operation::{Append, Delete, Set};
        let refused = |name, operation, value| alter(name, operation, value).expect_err("refused");
        let message = "Cannot set the log level of root to LOUD as it is not a supported log level. \
                       Valid log levels are DEBUG, ERROR, FATAL, INFO, TRACE, WARN";
        assert_eq!(refused(ROOT, Set, Some("LOUD")), (40, message.to_owned()));
        assert_eq!(refused("other", Set, Some("INFO")), (40, "Logger other does not exist!".to_owned()));
        let message = "Removing the log level of the root logger is not allowed";
        assert_eq!(refused(ROOT, Delete, None), (42, message.to_owned()));
        let message = "APPEND operation is not allowed for the BROKER_LOGGER resource";
        assert_eq!(refused(ROOT, Append, Some("INFO")), (42, message.to_owned()));
        assert_eq!(refused(ROOT, Set, None), (42, "Null value not supported for : root".to_owned()));
    }
}
