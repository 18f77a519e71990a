//! Records to and from the bytes that Kafka stores, by `protocol::group_records`.

use std::sync::Arc;

use bytes::Bytes;
use protocol::StoredRecordError;
use protocol::group_records::{GroupRecord, GroupValue, MemberValue, OffsetKey, OffsetValue, encode_group_key};
use uuid::Uuid;

use crate::consumer::ConsumerGroupRecord;
use crate::record::{CommittedOffset, CoordinatorRecord, GroupMetadata, MemberMetadata};

impl CoordinatorRecord {
    /// Key and value (`None`: a tombstone) as they are stored.
    ///
    /// # Errors
    /// When a string exceeds what its length field holds. Requests with such strings are refused before.
    pub fn encode(&self) -> Result<(Vec<u8>, Option<Vec<u8>>), StoredRecordError> {
        match self {
            Self::Group { group, value } => {
                let value = value.as_ref().map(|value| group_value(value).encode()).transpose()?;
                Ok((encode_group_key(group)?, value))
            }
            Self::Consumer(record) => record.encode(),
            Self::Offset { group, topic, partition, value } => {
                let value = value.as_ref().map(|value| offset_value(value).encode()).transpose()?;
                Ok((offset_key(group, topic, *partition)?, value))
            }
            Self::StagedOffset { group, topic, partition, value, .. } => {
                Ok((offset_key(group, topic, *partition)?, Some(offset_value(value).encode()?)))
            }
        }
    }

    /// Reads a stored record; `None` if it is of a kind of group that does not exist here.
    ///
    /// # Errors
    /// When the bytes are damaged, or of a later version.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, StoredRecordError> {
        Ok(match GroupRecord::decode(key, value)? {
            GroupRecord::Group(group, value) => {
                Some(Self::Group { group: group.into(), value: value.map(group_metadata) })
            }
            GroupRecord::Offset(key, value) => Some(Self::Offset {
                group: key.group.into(),
                topic: key.topic.into(),
                partition: key.partition,
                value: value.map(committed_offset),
            }),
            GroupRecord::Consumer(record) => Some(Self::Consumer(ConsumerGroupRecord::of_stored(record)?)),
            GroupRecord::Other(_) => None,
        })
    }
}

fn offset_key(group: &str, topic: &str, partition: i32) -> Result<Vec<u8>, StoredRecordError> {
    OffsetKey { group: group.to_owned(), topic: topic.to_owned(), partition }.encode()
}

fn group_value(group: &GroupMetadata) -> GroupValue {
    GroupValue {
        protocol_type: group.protocol_type.to_string(),
        generation: group.generation,
        protocol: group.protocol.as_deref().map(str::to_owned),
        leader: group.leader.as_deref().map(str::to_owned),
        state_timestamp: group.state_timestamp_ms,
        members: group.members.iter().map(member_value).collect(),
    }
}

fn member_value(member: &MemberMetadata) -> MemberValue {
    MemberValue {
        member_id: member.member_id.to_string(),
        group_instance_id: member.group_instance_id.as_deref().map(str::to_owned),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        session_timeout_ms: member.session_timeout_ms,
        subscription: member.subscription.to_vec(),
        assignment: member.assignment.to_vec(),
    }
}

fn offset_value(committed: &CommittedOffset) -> OffsetValue {
    OffsetValue {
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.to_string(),
        commit_timestamp: committed.commit_timestamp_ms,
        expire_timestamp: committed.expire_timestamp_ms,
        topic_id: Uuid::nil(),
    }
}

fn group_metadata(value: GroupValue) -> GroupMetadata {
    let mut members: Vec<MemberMetadata> = value.members.into_iter().map(member_metadata).collect();
    // Kafka writes them in no particular order.
    members.sort_by(|one, other| one.member_id.cmp(&other.member_id));
    GroupMetadata {
        protocol_type: value.protocol_type.into(),
        generation: value.generation,
        protocol: value.protocol.map(Arc::from),
        leader: value.leader.map(Arc::from),
        state_timestamp_ms: value.state_timestamp,
        members,
    }
}

fn member_metadata(value: MemberValue) -> MemberMetadata {
    MemberMetadata {
        member_id: value.member_id.into(),
        group_instance_id: value.group_instance_id.map(Arc::from),
        client_id: value.client_id.into(),
        client_host: value.client_host.into(),
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        session_timeout_ms: value.session_timeout_ms,
        subscription: Bytes::from(value.subscription),
        assignment: Bytes::from(value.assignment),
    }
}

fn committed_offset(value: OffsetValue) -> CommittedOffset {
    CommittedOffset {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata.into(),
        commit_timestamp_ms: value.commit_timestamp,
        expire_timestamp_ms: value.expire_timestamp,
    }
}
