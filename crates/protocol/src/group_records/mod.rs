//! The records of `__consumer_offsets`, byte for byte as Kafka 4.3 writes them: committed offsets and the
//! metadata of classic groups; those of consumer groups are in [`consumer`]. Records of other group types are
//! recognised and left to whoever knows them.
//!
//! Key: record type i16, then fields. Value: version i16, then fields; a null value is a tombstone.
//! - type 0 (before Kafka 2.0) and 1, offset commit: group, topic string · partition i32.
//!   Value: offset i64 · leader epoch i32 (3+) · metadata string · commit timestamp i64 · expire timestamp i64
//!   (only 1) · tagged fields (4+), tag 0: topic id uuid.
//! - type 2, group metadata: group string. Value: protocol type string · generation i32 · protocol, leader
//!   nullable string · state timestamp i64 (2+) · members array {member id string · instance id nullable
//!   string (3+) · client id, host string · rebalance timeout i32 (1+) · session timeout i32 · subscription,
//!   assignment bytes · tagged fields (4+)} · tagged fields (4+).
//!
//! Version 4 is flexible: lengths are unsigned varints of length + 1. Numbers are big-endian.

pub mod consumer;

#[cfg(test)]
mod tests;

use consumer::ConsumerRecord;
use uuid::Uuid;

use crate::stored_record::{Reader, StoredRecordError, Writer};

const OFFSET_COMMIT_LEGACY: i16 = 0;
const OFFSET_COMMIT: i16 = 1;
const GROUP_METADATA: i16 = 2;
/// Version in which offsets with an expiry of their own (old clients' retention) are written.
const OFFSET_VERSION_WITH_EXPIRY: i16 = 1;
/// Version in which offsets are written, as Kafka 4.3 does.
const OFFSET_VERSION: i16 = 4;
/// Version in which group metadata is written, as Kafka 4.3 does.
const GROUP_VERSION: i16 = 3;
/// Newest version of either value that can be read; also the first flexible one.
const VERSION_MAX: i16 = 4;
const FLEXIBLE: i16 = 4;
/// Bytes of the smallest member: six empty or null fields and the tags in a byte each, two timeouts.
const MEMBER_LEN_MIN: usize = 15;

/// Key of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GroupRecordKey {
    /// A committed offset.
    Offset(OffsetKey),
    /// A classic group's metadata; the name is the group's id.
    Group(String),
    /// A record type of another kind of group, or of a newer Kafka.
    Other(i16),
}

/// What an offset is committed for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OffsetKey {
    /// Group id.
    pub group: String,
    /// Topic name.
    pub topic: String,
    /// Partition index.
    pub partition: i32,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetValue {
    /// Next offset to consume.
    pub offset: i64,
    /// Leader epoch of the last consumed record, -1 if not known.
    pub leader_epoch: i32,
    /// Whatever the client attached.
    pub metadata: String,
    /// Time of the commit, milliseconds.
    pub commit_timestamp: i64,
    /// When the offset expires, milliseconds; -1: by the group's retention.
    pub expire_timestamp: i64,
    /// The topic's id, nil if not known.
    pub topic_id: Uuid,
}

/// A classic group's metadata, as of its last completed rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    /// For consumers `consumer`; empty for a group that only stores offsets.
    pub protocol_type: String,
    /// Generation.
    pub generation: i32,
    /// Protocol (assignor) in use.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: Option<String>,
    /// Time of the last change of state, milliseconds, -1 if not known.
    pub state_timestamp: i64,
    /// Members.
    pub members: Vec<MemberValue>,
}

/// A member of a classic group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub group_instance_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Host, as `/address`.
    pub client_host: String,
    /// Rebalance timeout, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// Session timeout, milliseconds.
    pub session_timeout_ms: i32,
    /// The member's metadata for the protocol in use.
    pub subscription: Vec<u8>,
    /// What the leader assigned to it.
    pub assignment: Vec<u8>,
}

/// A record of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecord {
    /// An offset was committed, or removed (`None`).
    Offset(OffsetKey, Option<OffsetValue>),
    /// A group's metadata was stored, or the group removed (`None`).
    Group(String, Option<GroupValue>),
    /// Something of a consumer group.
    Consumer(ConsumerRecord),
    /// A record type that is not known here; to be kept, not interpreted.
    Other(i16),
}

impl GroupRecord {
    /// Reads a record's key and value.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, StoredRecordError> {
        Ok(match GroupRecordKey::decode(key)? {
            GroupRecordKey::Offset(key) => Self::Offset(key, value.map(OffsetValue::decode).transpose()?),
            GroupRecordKey::Group(group) => Self::Group(group, value.map(GroupValue::decode).transpose()?),
            GroupRecordKey::Other(record_type) => {
                let fields = Reader::new(key.get(2..).unwrap_or_default(), false);
                match ConsumerRecord::decode(record_type, fields, value)? {
                    Some(record) => Self::Consumer(record),
                    None => Self::Other(record_type),
                }
            }
        })
    }
}

impl GroupRecordKey {
    /// Reads a key.
    pub fn decode(key: &[u8]) -> Result<Self, StoredRecordError> {
        let mut reader = Reader::new(key, false);
        let key = match reader.i16()? {
            OFFSET_COMMIT_LEGACY | OFFSET_COMMIT => {
                Self::Offset(OffsetKey { group: reader.string()?, topic: reader.string()?, partition: reader.i32()? })
            }
            GROUP_METADATA => Self::Group(reader.string()?),
            other => return Ok(Self::Other(other)),
        };
        reader.finish()?;
        Ok(key)
    }
}

impl OffsetKey {
    /// The key as it is written.
    pub fn encode(&self) -> Result<Vec<u8>, StoredRecordError> {
        let mut writer = Writer::new(OFFSET_COMMIT, false);
        writer.string(&self.group)?;
        writer.string(&self.topic)?;
        writer.i32(self.partition);
        Ok(writer.finish())
    }
}

/// The key of a group's metadata as it is written.
pub fn encode_group_key(group: &str) -> Result<Vec<u8>, StoredRecordError> {
    let mut writer = Writer::new(GROUP_METADATA, false);
    writer.string(group)?;
    Ok(writer.finish())
}

fn value_reader(value: &[u8]) -> Result<(i16, Reader<'_>), StoredRecordError> {
    Reader::of_value(value, 0..=VERSION_MAX, FLEXIBLE)
}

impl OffsetValue {
    /// Reads a value of any version.
    pub fn decode(value: &[u8]) -> Result<Self, StoredRecordError> {
        let (version, mut reader) = value_reader(value)?;
        let mut decoded = Self {
            offset: reader.i64()?,
            leader_epoch: if version >= 3 { reader.i32()? } else { -1 },
            metadata: reader.string()?,
            commit_timestamp: reader.i64()?,
            expire_timestamp: if version == 1 { reader.i64()? } else { -1 },
            topic_id: Uuid::nil(),
        };
        reader.tags(|tag, field| {
            if tag == 0 {
                decoded.topic_id = Uuid::from_bytes(field.try_into().map_err(|_| StoredRecordError::Length)?);
            }
            Ok(())
        })?;
        reader.finish()?;
        Ok(decoded)
    }

    /// The value as Kafka writes it: version 4, or 1 with an expiry of its own, which has neither leader epoch
    /// nor topic id.
    pub fn encode(&self) -> Result<Vec<u8>, StoredRecordError> {
        let version = if self.expire_timestamp >= 0 { OFFSET_VERSION_WITH_EXPIRY } else { OFFSET_VERSION };
        self.encode_version(version)
    }

    fn encode_version(&self, version: i16) -> Result<Vec<u8>, StoredRecordError> {
        let mut writer = Writer::new(version, version >= FLEXIBLE);
        writer.i64(self.offset);
        if version >= 3 {
            writer.i32(self.leader_epoch);
        }
        writer.string(&self.metadata)?;
        writer.i64(self.commit_timestamp);
        if version == 1 {
            writer.i64(self.expire_timestamp);
        }
        let topic_id = (!self.topic_id.is_nil()).then_some((0, self.topic_id.as_bytes().as_slice()));
        writer.tags(topic_id.as_slice())?;
        Ok(writer.finish())
    }
}

impl GroupValue {
    /// Reads a value of any version.
    pub fn decode(value: &[u8]) -> Result<Self, StoredRecordError> {
        let (version, mut reader) = value_reader(value)?;
        let mut decoded = Self {
            protocol_type: reader.string()?,
            generation: reader.i32()?,
            protocol: reader.nullable_string()?,
            leader: reader.nullable_string()?,
            state_timestamp: if version >= 2 { reader.i64()? } else { -1 },
            members: Vec::new(),
        };
        let count = reader.count(MEMBER_LEN_MIN)?;
        decoded.members.reserve_exact(count);
        for _ in 0..count {
            decoded.members.push(MemberValue::read(&mut reader, version)?);
        }
        reader.tags(|_, _| Ok(()))?;
        reader.finish()?;
        Ok(decoded)
    }

    /// The value as Kafka writes it, in version 3.
    pub fn encode(&self) -> Result<Vec<u8>, StoredRecordError> {
        self.encode_version(GROUP_VERSION)
    }

    fn encode_version(&self, version: i16) -> Result<Vec<u8>, StoredRecordError> {
        let mut writer = Writer::new(version, version >= FLEXIBLE);
        writer.string(&self.protocol_type)?;
        writer.i32(self.generation);
        writer.nullable_string(self.protocol.as_deref())?;
        writer.nullable_string(self.leader.as_deref())?;
        if version >= 2 {
            writer.i64(self.state_timestamp);
        }
        writer.count(self.members.len())?;
        for member in &self.members {
            member.write(&mut writer, version)?;
        }
        writer.tags(&[])?;
        Ok(writer.finish())
    }
}

impl MemberValue {
    fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, StoredRecordError> {
        let member_id = reader.string()?;
        let group_instance_id = if version >= 3 { reader.nullable_string()? } else { None };
        let client_id = reader.string()?;
        let client_host = reader.string()?;
        // Before version 1 the session timeout was the rebalance timeout too.
        let rebalance_timeout = if version >= 1 { Some(reader.i32()?) } else { None };
        let session_timeout_ms = reader.i32()?;
        let member = Self {
            member_id,
            group_instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: rebalance_timeout.unwrap_or(session_timeout_ms),
            session_timeout_ms,
            subscription: reader.bytes()?.to_vec(),
            assignment: reader.bytes()?.to_vec(),
        };
        reader.tags(|_, _| Ok(()))?;
        Ok(member)
    }

    fn write(&self, writer: &mut Writer, version: i16) -> Result<(), StoredRecordError> {
        writer.string(&self.member_id)?;
        if version >= 3 {
            writer.nullable_string(self.group_instance_id.as_deref())?;
        }
        writer.string(&self.client_id)?;
        writer.string(&self.client_host)?;
        if version >= 1 {
            writer.i32(self.rebalance_timeout_ms);
        }
        writer.i32(self.session_timeout_ms);
        writer.bytes(&self.subscription)?;
        writer.bytes(&self.assignment)?;
        writer.tags(&[])
    }
}
