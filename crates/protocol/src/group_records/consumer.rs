//! Records of consumer groups (KIP-848), byte for byte as Kafka 4.3 writes them.
//!
//! Keys are plain, values are version 0 and flexible:
//! - type 3, group metadata: group. Value: epoch i32 · tag 0: metadata hash i64.
//! - type 5, member metadata: group, member id. Value: instance id, rack id nullable string · client id, host
//!   string · subscribed topic names array of string · subscribed topic regex nullable string · rebalance timeout
//!   i32 · server assignor nullable string · tag 0: what a member of the classic protocol supports (not kept here).
//! - type 6, target assignment metadata: group. Value: assignment epoch i32 · tag 0: its time (not kept here).
//! - type 7, a member's target assignment: group, member id. Value: topics.
//! - type 8, a member's current assignment: group, member id. Value: member epoch, previous member epoch i32 · state
//!   i8 · assigned, pending revocation: topics.
//! - type 16, a resolved regular expression: group, regex. Value: topic names array of string · version,
//!   timestamp i64.
//!
//! *topics*: array {topic id uuid · partitions array of i32}.

use uuid::Uuid;

use crate::stored_record::{Reader, StoredRecordError, Writer};

pub(super) const GROUP: i16 = 3;
pub(super) const MEMBER: i16 = 5;
pub(super) const TARGET_EPOCH: i16 = 6;
pub(super) const TARGET: i16 = 7;
pub(super) const CURRENT: i16 = 8;
pub(super) const REGEX: i16 = 16;

const VERSION: i16 = 0;
/// Bytes of the smallest entry of *topics*: an id, an empty array, no tags.
const TOPIC_LEN_MIN: usize = 18;

/// Partitions of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPartitionsValue {
    /// The topic's id.
    pub topic_id: Uuid,
    /// Partition indexes.
    pub partitions: Vec<i32>,
}

/// A consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerGroupValue {
    /// Group epoch.
    pub epoch: i32,
    /// Hash of the topics that the group subscribes to, 0 if not known.
    pub metadata_hash: i64,
}

/// A member, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerMemberValue {
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// `client.rack`.
    pub rack_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Host, as `/address`.
    pub client_host: String,
    /// Names subscribed to.
    pub topic_names: Vec<String>,
    /// Regular expression subscribed to.
    pub topic_regex: Option<String>,
    /// How long the member may take to revoke partitions, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// The assignor it asks for.
    pub server_assignor: Option<String>,
}

/// What a member has, and what it must give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentAssignmentValue {
    /// The epoch that is expected in its next heartbeat.
    pub epoch: i32,
    /// The epoch before.
    pub previous_epoch: i32,
    /// Kafka's number of its state.
    pub state: i8,
    /// Partitions it owns, or may take.
    pub assigned: Vec<TopicPartitionsValue>,
    /// Partitions it must give up first.
    pub pending_revocation: Vec<TopicPartitionsValue>,
}

/// What a regular expression stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexValue {
    /// Names that match.
    pub topics: Vec<String>,
    /// Version of metadata that was looked at.
    pub version: i64,
    /// When, milliseconds.
    pub timestamp: i64,
}

/// A record of a consumer group; `None` removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerRecord {
    /// The group.
    Group(String, Option<ConsumerGroupValue>),
    /// A member: group, member id.
    Member(String, String, Option<ConsumerMemberValue>),
    /// The epoch of the target assignment.
    TargetEpoch(String, Option<i32>),
    /// A member's target assignment: group, member id.
    Target(String, String, Option<Vec<TopicPartitionsValue>>),
    /// A member's current assignment: group, member id.
    Current(String, String, Option<CurrentAssignmentValue>),
    /// A resolved regular expression: group, expression.
    Regex(String, String, Option<RegexValue>),
}

impl ConsumerRecord {
    /// Reads a record whose key begins with `record_type`, which `key` stands behind; `None` for other types.
    pub(super) fn decode(
        record_type: i16,
        mut key: Reader<'_>,
        value: Option<&[u8]>,
    ) -> Result<Option<Self>, StoredRecordError> {
        let named = matches!(record_type, MEMBER | TARGET | CURRENT | REGEX);
        if !named && !matches!(record_type, GROUP | TARGET_EPOCH) {
            return Ok(None);
        }
        let group = key.string()?;
        let name = if named { key.string()? } else { String::new() };
        key.finish()?;
        Ok(Some(match record_type {
            GROUP => Self::Group(group, read(value, ConsumerGroupValue::read)?),
            MEMBER => Self::Member(group, name, read(value, ConsumerMemberValue::read)?),
            TARGET_EPOCH => Self::TargetEpoch(group, read(value, |reader| with_tags(reader, Reader::i32))?),
            TARGET => Self::Target(group, name, read(value, |reader| with_tags(reader, read_topics))?),
            CURRENT => Self::Current(group, name, read(value, CurrentAssignmentValue::read)?),
            _ => Self::Regex(group, name, read(value, RegexValue::read)?),
        }))
    }

    /// Key and value as they are written.
    ///
    /// # Errors
    /// When a string exceeds its length field.
    pub fn encode(&self) -> Result<(Vec<u8>, Option<Vec<u8>>), StoredRecordError> {
        Ok(match self {
            Self::Group(group, value) => (key(GROUP, group, None)?, write(value.as_ref(), ConsumerGroupValue::write)?),
            Self::Member(group, member, value) => {
                (key(MEMBER, group, Some(member))?, write(value.as_ref(), ConsumerMemberValue::write)?)
            }
            Self::TargetEpoch(group, value) => (key(TARGET_EPOCH, group, None)?, write(value.as_ref(), write_epoch)?),
            Self::Target(group, member, value) => {
                (key(TARGET, group, Some(member))?, write(value.as_deref(), write_target)?)
            }
            Self::Current(group, member, value) => {
                (key(CURRENT, group, Some(member))?, write(value.as_ref(), CurrentAssignmentValue::write)?)
            }
            Self::Regex(group, regex, value) => {
                (key(REGEX, group, Some(regex))?, write(value.as_ref(), RegexValue::write)?)
            }
        })
    }
}

fn key(record_type: i16, group: &str, name: Option<&str>) -> Result<Vec<u8>, StoredRecordError> {
    let mut writer = Writer::new(record_type, false);
    writer.string(group)?;
    name.map_or(Ok(()), |name| writer.string(name))?;
    Ok(writer.finish())
}

fn read<T>(
    value: Option<&[u8]>,
    fields: impl FnOnce(&mut Reader<'_>) -> Result<T, StoredRecordError>,
) -> Result<Option<T>, StoredRecordError> {
    let Some(value) = value else { return Ok(None) };
    let (_, mut reader) = Reader::of_value(value, VERSION..=VERSION, VERSION)?;
    let value = fields(&mut reader)?;
    reader.finish()?;
    Ok(Some(value))
}

fn write<T: ?Sized>(
    value: Option<&T>,
    fields: impl FnOnce(&T, &mut Writer) -> Result<(), StoredRecordError>,
) -> Result<Option<Vec<u8>>, StoredRecordError> {
    let Some(value) = value else { return Ok(None) };
    let mut writer = Writer::new(VERSION, true);
    fields(value, &mut writer)?;
    Ok(Some(writer.finish()))
}

/// A value of one field, behind which only tags that are not needed may stand.
fn with_tags<'a, T>(
    reader: &mut Reader<'a>,
    field: impl FnOnce(&mut Reader<'a>) -> Result<T, StoredRecordError>,
) -> Result<T, StoredRecordError> {
    let value = field(reader)?;
    reader.tags(|_, _| Ok(()))?;
    Ok(value)
}

fn write_epoch(epoch: &i32, writer: &mut Writer) -> Result<(), StoredRecordError> {
    writer.i32(*epoch);
    writer.tags(&[])
}

fn write_target(topics: &[TopicPartitionsValue], writer: &mut Writer) -> Result<(), StoredRecordError> {
    write_topics(topics, writer)?;
    writer.tags(&[])
}

fn read_topics(reader: &mut Reader<'_>) -> Result<Vec<TopicPartitionsValue>, StoredRecordError> {
    let count = reader.count(TOPIC_LEN_MIN)?;
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        let topic_id = reader.uuid()?;
        let partitions = (0..reader.count(4)?).map(|_| reader.i32()).collect::<Result<_, _>>()?;
        reader.tags(|_, _| Ok(()))?;
        topics.push(TopicPartitionsValue { topic_id, partitions });
    }
    Ok(topics)
}

fn write_topics(topics: &[TopicPartitionsValue], writer: &mut Writer) -> Result<(), StoredRecordError> {
    writer.count(topics.len())?;
    for topic in topics {
        writer.uuid(topic.topic_id);
        writer.count(topic.partitions.len())?;
        topic.partitions.iter().for_each(|partition| writer.i32(*partition));
        writer.tags(&[])?;
    }
    Ok(())
}

fn read_strings(reader: &mut Reader<'_>) -> Result<Vec<String>, StoredRecordError> {
    (0..reader.count(1)?).map(|_| reader.string()).collect()
}

fn write_strings(strings: &[String], writer: &mut Writer) -> Result<(), StoredRecordError> {
    writer.count(strings.len())?;
    strings.iter().try_for_each(|string| writer.string(string))
}

impl ConsumerGroupValue {
    fn read(reader: &mut Reader<'_>) -> Result<Self, StoredRecordError> {
        let mut value = Self { epoch: reader.i32()?, metadata_hash: 0 };
        reader.tags(|tag, field| {
            if tag == 0 {
                let hash = field.try_into().map_err(|_| StoredRecordError::Length)?;
                value.metadata_hash = i64::from_be_bytes(hash);
            }
            Ok(())
        })?;
        Ok(value)
    }

    fn write(&self, writer: &mut Writer) -> Result<(), StoredRecordError> {
        writer.i32(self.epoch);
        let hash = self.metadata_hash.to_be_bytes();
        let tag = (self.metadata_hash != 0).then_some((0, hash.as_slice()));
        writer.tags(tag.as_slice())
    }
}

impl ConsumerMemberValue {
    fn read(reader: &mut Reader<'_>) -> Result<Self, StoredRecordError> {
        let value = Self {
            instance_id: reader.nullable_string()?,
            rack_id: reader.nullable_string()?,
            client_id: reader.string()?,
            client_host: reader.string()?,
            topic_names: read_strings(reader)?,
            topic_regex: reader.nullable_string()?,
            rebalance_timeout_ms: reader.i32()?,
            server_assignor: reader.nullable_string()?,
        };
        reader.tags(|_, _| Ok(()))?;
        Ok(value)
    }

    fn write(&self, writer: &mut Writer) -> Result<(), StoredRecordError> {
        writer.nullable_string(self.instance_id.as_deref())?;
        writer.nullable_string(self.rack_id.as_deref())?;
        writer.string(&self.client_id)?;
        writer.string(&self.client_host)?;
        write_strings(&self.topic_names, writer)?;
        writer.nullable_string(self.topic_regex.as_deref())?;
        writer.i32(self.rebalance_timeout_ms);
        writer.nullable_string(self.server_assignor.as_deref())?;
        writer.tags(&[])
    }
}

impl CurrentAssignmentValue {
    fn read(reader: &mut Reader<'_>) -> Result<Self, StoredRecordError> {
        let value = Self {
            epoch: reader.i32()?,
            previous_epoch: reader.i32()?,
            state: reader.i8()?,
            assigned: read_topics(reader)?,
            pending_revocation: read_topics(reader)?,
        };
        reader.tags(|_, _| Ok(()))?;
        Ok(value)
    }

    fn write(&self, writer: &mut Writer) -> Result<(), StoredRecordError> {
        writer.i32(self.epoch);
        writer.i32(self.previous_epoch);
        writer.i8(self.state);
        write_topics(&self.assigned, writer)?;
        write_topics(&self.pending_revocation, writer)?;
        writer.tags(&[])
    }
}

impl RegexValue {
    fn read(reader: &mut Reader<'_>) -> Result<Self, StoredRecordError> {
        let value = Self { topics: read_strings(reader)?, version: reader.i64()?, timestamp: reader.i64()? };
        reader.tags(|_, _| Ok(()))?;
        Ok(value)
    }

    fn write(&self, writer: &mut Writer) -> Result<(), StoredRecordError> {
        write_strings(&self.topics, writer)?;
        writer.i64(self.version);
        writer.i64(self.timestamp);
        writer.tags(&[])
    }
}
