//! From properties to a checked [`BrokerConfig`], with what the operator should be told.

use std::path::PathBuf;
use std::time::Duration;

use common::NodeId;
use coordinator::Assignor;

use super::honoured::{HONOURED, OTTLA_KEYS, WARNED};
use super::layers::check_as_topic_default;
use super::listeners::listeners;
use super::quorum::quorum;
use super::registry::{ConfigKey, broker_key, parse_list};
use super::{BrokerConfig, ConfigError, Properties};

/// What to tell the operator about accepted properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// Names nobody knows.
    pub unknown: Vec<String>,
    /// Kafka's names that have no effect here.
    pub without_effect: Vec<String>,
    /// Sentences about properties whose effect is not what Kafka's would be.
    pub warnings: Vec<String>,
}

impl Notices {
    /// Logs each kind once.
    pub fn log(&self) {
        if !self.unknown.is_empty() {
            tracing::warn!(keys = self.unknown.join(", "), "unknown configuration keys are ignored");
        }
        if !self.without_effect.is_empty() {
            tracing::info!(keys = self.without_effect.join(", "), "configuration keys without effect in Ottla");
        }
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

impl BrokerConfig {
    /// Checks properties and derives the rest. Properties that are needed and absent get Ottla's default:
    /// `node.id=1`, `listeners=PLAINTEXT://127.0.0.1:9092`, `log.dirs=./ottla-data`.
    ///
    /// # Errors
    /// The first bad or contradictory value, with its key.
    pub fn load(mut properties: Properties, insecure: bool) -> Result<(Self, Notices), ConfigError> {
        let notices = examine(&properties)?;
        complete(&mut properties)?;
        let read = Reader { properties: &properties };
        let insecure = insecure || read.boolean("ottla.insecure")?;
        let memory = Memory::derive(&read)?;
        let data_dir = data_dir(&properties)?;
        let object_store_url = url(&properties, "ottla.object.store.url", &data_dir, "store", STORE_SCHEMES)?;
        let wal_url = url(&properties, "ottla.wal.url", &data_dir, "wal", WAL_SCHEMES)?;
        let node_id = NodeId(read.number("node.id")?);
        let (listeners, controllers) = listeners(&properties, insecure)?;
        let quorum = quorum(&read, node_id, &listeners, &controllers)?;
        let config = Self {
            node_id,
            rack: properties.get("broker.rack").map(str::trim).filter(|rack| !rack.is_empty()).map(str::to_owned),
            data_dir,
            listeners,
            quorum,
            wal_class: wal_class(&properties, &wal_url)?,
            admin_address: admin_address(&properties)?,
            object_store_url,
            wal_url,
            wal_capacity_bytes: read.number("ottla.wal.capacity.bytes")?,
            upload_bytes: read.number("ottla.wal.upload.bytes")?,
            upload_interval_ms: read.number("ottla.wal.upload.interval.ms")?,
            log_cache_bytes: memory.log_cache,
            block_cache_bytes: memory.block_cache,
            tail_index_bytes: memory.tail_index,
            request_bytes_in_flight: memory.requests,
            response_bytes_in_flight: memory.responses,
            socket_request_max_bytes: read.number("socket.request.max.bytes")?,
            connections_max_idle_ms: read.milliseconds("connections.max.idle.ms")?,
            fetch_max_bytes: read.number("fetch.max.bytes")?,
            fetch_session_slots: read.number("max.incremental.fetch.session.cache.slots")?,
            auto_create_topics: read.boolean("auto.create.topics.enable")?,
            delete_topics: read.boolean("delete.topic.enable")?,
            num_partitions: read.number("num.partitions")?,
            default_replication_factor: read.positive("default.replication.factor")?,
            offsets_topic_partitions: read.number("offsets.topic.num.partitions")?,
            offsets_topic_replication_factor: read.number("offsets.topic.replication.factor")?,
            offset_metadata_max_bytes: read.number("offset.metadata.max.bytes")?,
            offsets_retention_minutes: read.number("offsets.retention.minutes")?,
            offsets_retention_check_interval_ms: read.number("offsets.retention.check.interval.ms")?,
            group_initial_rebalance_delay_ms: read.number("group.initial.rebalance.delay.ms")?,
            group_min_session_timeout_ms: read.number("group.min.session.timeout.ms")?,
            group_max_session_timeout_ms: read.number("group.max.session.timeout.ms")?,
            group_max_size: read.positive("group.max.size")?,
            transaction_topic_partitions: read.number("transaction.state.log.num.partitions")?,
            transaction_topic_replication_factor: read.number("transaction.state.log.replication.factor")?,
            transaction_max_timeout_ms: read.positive("transaction.max.timeout.ms")?,
            transactional_id_expiration_ms: read.positive("transactional.id.expiration.ms")?,
            transaction_abort_interval_ms: read
                .positive("transaction.abort.timed.out.transaction.cleanup.interval.ms")?,
            transaction_remove_interval_ms: read
                .positive("transaction.remove.expired.transaction.cleanup.interval.ms")?,
            group_consumer_session_timeout_ms: read.positive("group.consumer.session.timeout.ms")?,
            group_consumer_heartbeat_interval_ms: read.positive("group.consumer.heartbeat.interval.ms")?,
            group_consumer_max_size: read.positive("group.consumer.max.size")?,
            group_consumer_default_assignor: read.assignor()?,
            retention_check_interval_ms: read.number("log.retention.check.interval.ms")?,
            properties: Vec::new(),
        };
        config.check_jointly()?;
        Ok((Self { properties: properties.into_entries(), ..config }, notices))
    }

    fn check_jointly(&self) -> Result<(), ConfigError> {
        if self.group_min_session_timeout_ms > self.group_max_session_timeout_ms {
            let problem = format!("exceeds group.max.session.timeout.ms={}", self.group_max_session_timeout_ms);
            return Err(ConfigError::new("group.min.session.timeout.ms", problem));
        }
        if self.upload_bytes > self.wal_capacity_bytes / 2 {
            let problem = format!(
                "must be at most half of ottla.wal.capacity.bytes={}, or the log fills",
                self.wal_capacity_bytes
            );
            return Err(ConfigError::new("ottla.wal.upload.bytes", problem));
        }
        Ok(())
    }
}

const STORE_SCHEMES: &[&str] = &["file", "s3", "memory"];
const WAL_SCHEMES: &[&str] = &["file", "block"];

/// Checks each value by itself and sorts the keys into what to tell.
fn examine(properties: &Properties) -> Result<Notices, ConfigError> {
    let mut notices = Notices::default();
    for (name, value) in properties.iter() {
        if let Some(key) = find_key(name) {
            let checked = key.check(value).and_then(|()| check_as_topic_default(name, value));
            checked.map_err(|problem| ConfigError::invalid(name, problem))?;
            if let Some((_, warning)) = WARNED.iter().find(|(warned, _)| *warned == name) {
                notices.warnings.push(format!("{name}: {warning}"));
            } else if !HONOURED.contains(&name) && !name.starts_with("ottla.") {
                notices.without_effect.push(name.to_owned());
            }
        } else if !is_listener_prefixed(name) {
            notices.unknown.push(name.to_owned());
        }
    }
    Ok(notices)
}

/// `listener.name.<name>.<key>` overrides a key for one listener.
fn is_listener_prefixed(name: &str) -> bool {
    name.strip_prefix("listener.name.").is_some_and(|rest| rest.contains('.'))
}

/// Whether a property of that name means anything to a broker.
pub(super) fn is_known_key(name: &str) -> bool {
    find_key(name).is_some()
}

fn find_key(name: &str) -> Option<&'static ConfigKey> {
    broker_key(name).or_else(|| OTTLA_KEYS.iter().find(|key| key.name == name))
}

/// Fills in what a broker cannot be without, so that it is described as what it is: given statically.
fn complete(properties: &mut Properties) -> Result<(), ConfigError> {
    let given = |properties: &Properties, key: &str| properties.get(key).map(|value| value.trim().to_owned());
    let (node, broker) = (given(properties, "node.id"), given(properties, "broker.id").filter(|id| id != "-1"));
    if let (Some(node), Some(broker)) = (&node, &broker)
        && node != broker
    {
        return Err(ConfigError::new("broker.id", format!("is {broker}, but node.id is {node}")));
    }
    let id = node.or(broker).unwrap_or_else(|| "1".to_owned());
    properties.set("node.id", id.clone());
    properties.set("broker.id", id);
    if given(properties, "listeners").is_none_or(|listeners| listeners.is_empty()) {
        properties.set("listeners", "PLAINTEXT://127.0.0.1:9092");
    }
    if given(properties, "process.roles").is_none_or(|roles| roles.is_empty()) {
        properties.set("process.roles", "broker,controller");
    }
    Ok(())
}

/// A directory is private unless the operator says that other nodes can open it; a block device can be attached elsewhere.
fn wal_class(properties: &Properties, wal_url: &str) -> Result<wal::WalClass, ConfigError> {
    match properties.get("ottla.wal.class").map(str::trim) {
        Some("shared") => Ok(wal::WalClass::Shared),
        Some("private") => Ok(wal::WalClass::Private),
        None | Some("") if wal_url.starts_with("block:") => Ok(wal::WalClass::Shared),
        None | Some("") => Ok(wal::WalClass::Private),
        Some(other) => Err(ConfigError::new("ottla.wal.class", format!("'{other}' is neither shared nor private"))),
    }
}

fn data_dir(properties: &Properties) -> Result<PathBuf, ConfigError> {
    let (key, text) = match (properties.get("log.dirs"), properties.get("log.dir")) {
        (Some(text), _) => ("log.dirs", text),
        (None, Some(text)) => ("log.dir", text),
        (None, None) => ("log.dirs", "ottla-data"),
    };
    match parse_list(text).first() {
        Some(first) if !first.is_empty() => Ok(PathBuf::from(first)),
        _ => Err(ConfigError::new(key, "names no directory")),
    }
}

fn url(
    properties: &Properties,
    key: &'static str,
    data_dir: &std::path::Path,
    below: &str,
    schemes: &[&str],
) -> Result<String, ConfigError> {
    let Some(text) = properties.get(key).map(str::trim).filter(|text| !text.is_empty()) else {
        let path = std::path::absolute(data_dir.join(below))
            .map_err(|error| ConfigError::new("log.dirs", format!("{}: {error}", data_dir.display())))?;
        return Ok(format!("file://{}", path.display()));
    };
    match text.split_once("://") {
        Some((scheme, _)) if schemes.contains(&scheme) => Ok(text.to_owned()),
        _ => {
            let problem = format!("'{text}' has none of the schemes {}://", schemes.join("://, "));
            Err(ConfigError::new(key, problem))
        }
    }
}

fn admin_address(properties: &Properties) -> Result<Option<String>, ConfigError> {
    let text = properties.get("ottla.admin.listener").map_or("127.0.0.1:9644", str::trim);
    if text.is_empty() || text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let text = text.strip_prefix("http://").unwrap_or(text);
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Some(text.to_owned())),
        _ => Err(ConfigError::new("ottla.admin.listener", format!("'{text}' is neither host:port nor off"))),
    }
}

/// How the one memory bound is shared out. What is left over (3/16) covers connections, partitions and metadata.
struct Memory {
    log_cache: u64,
    block_cache: u64,
    tail_index: u64,
    requests: u64,
    responses: u64,
}

impl Memory {
    fn derive(read: &Reader<'_>) -> Result<Self, ConfigError> {
        let total: u64 = read.number("ottla.memory.bytes")?;
        let part = |key: &'static str, sixteenths: u64| match read.properties.get(key) {
            Some(text) if text.trim() != "-1" => read.positive(key),
            _ => Ok(total / 16 * sixteenths),
        };
        let memory = Self {
            log_cache: part("ottla.log.cache.bytes", 6)?,
            block_cache: part("ottla.block.cache.bytes", 2)?,
            tail_index: part("ottla.tail.index.bytes", 1)?,
            requests: part("queued.max.request.bytes", 2)?,
            responses: part("ottla.response.bytes.in.flight", 2)?,
        };
        let parts = [memory.log_cache, memory.block_cache, memory.tail_index, memory.requests, memory.responses];
        let sum = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(*part));
        if sum > total {
            let problem = format!("is {total}, but the caches and budgets set by hand take {sum} bytes");
            return Err(ConfigError::new("ottla.memory.bytes", problem));
        }
        Ok(memory)
    }
}

/// Typed access; every key it is asked for is in one of the tables, and its value has been checked.
pub(super) struct Reader<'a> {
    pub(super) properties: &'a Properties,
}

impl Reader<'_> {
    fn text(&self, name: &'static str) -> &str {
        let default = || find_key(name).and_then(|key| key.default).unwrap_or_default();
        self.properties.get(name).map_or_else(default, str::trim)
    }

    fn number<T: TryFrom<i64>>(&self, name: &'static str) -> Result<T, ConfigError> {
        let text = self.text(name);
        let number = text.parse::<i64>().ok().and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| ConfigError::new(name, format!("'{text}' is out of range")))
    }

    pub(super) fn positive<T: TryFrom<i64> + PartialOrd + Default>(
        &self,
        name: &'static str,
    ) -> Result<T, ConfigError> {
        let number = self.number::<T>(name)?;
        if number > T::default() { Ok(number) } else { Err(ConfigError::new(name, "must be larger than 0")) }
    }

    pub(super) fn duration(&self, name: &'static str) -> Result<Duration, ConfigError> {
        self.positive::<u32>(name).map(|ms| Duration::from_millis(ms.into()))
    }

    /// Milliseconds, where any negative number means without end.
    fn milliseconds(&self, name: &'static str) -> Result<u64, ConfigError> {
        let number: i64 = self.number(name)?;
        Ok(u64::try_from(number).unwrap_or(u64::MAX))
    }

    /// The first of the assignors, all of which must be ours: Java classes cannot be loaded.
    fn assignor(&self) -> Result<Assignor, ConfigError> {
        let key = "group.consumer.assignors";
        let known = |name: &&str| {
            let unknown = || ConfigError::new(key, format!("'{name}' is neither uniform nor range"));
            Assignor::of_name(name).ok_or_else(unknown)
        };
        let assignors = parse_list(self.text(key)).iter().map(known).collect::<Result<Vec<_>, _>>()?;
        assignors.first().copied().ok_or_else(|| ConfigError::new(key, "names no assignor"))
    }

    fn boolean(&self, name: &'static str) -> Result<bool, ConfigError> {
        Ok(self.text(name).eq_ignore_ascii_case("true"))
    }
}

#[cfg(test)]
mod tests;
