//! A consumer group's records as values, and to and from what `protocol::group_records` stores.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::StoredRecordError;
use protocol::group_records::consumer::{
    ConsumerGroupValue, ConsumerMemberValue, ConsumerRecord, CurrentAssignmentValue, RegexValue,
};

use super::assignment::Assignment;
use super::group::ResolvedRegex;
use super::member::{ConsumerMemberMetadata, CurrentAssignment, MemberState};

/// A record of a consumer group. `None` as value is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerGroupRecord {
    /// The group.
    Group {
        /// Group id.
        group: Arc<str>,
        /// Group epoch and hash of the topics subscribed to.
        value: Option<(i32, i64)>,
    },
    /// A member.
    Member {
        /// Group id.
        group: Arc<str>,
        /// Member id.
        member: Arc<str>,
        /// What it says of itself.
        value: Option<ConsumerMemberMetadata>,
    },
    /// The assignment's epoch.
    TargetEpoch {
        /// Group id.
        group: Arc<str>,
        /// Group epoch that the targets are of.
        value: Option<i32>,
    },
    /// A member's target.
    Target {
        /// Group id.
        group: Arc<str>,
        /// Member id.
        member: Arc<str>,
        /// What it should have.
        value: Option<Assignment>,
    },
    /// A member's present state.
    Current {
        /// Group id.
        group: Arc<str>,
        /// Member id.
        member: Arc<str>,
        /// What it has.
        value: Option<CurrentAssignment>,
    },
    /// A regular expression.
    Regex {
        /// Group id.
        group: Arc<str>,
        /// The expression.
        regex: Arc<str>,
        /// What it stands for.
        value: Option<ResolvedRegex>,
    },
}

impl ConsumerGroupRecord {
    /// The group it is of.
    pub(crate) fn group(&self) -> &Arc<str> {
        match self {
            Self::Group { group, .. }
            | Self::Member { group, .. }
            | Self::TargetEpoch { group, .. }
            | Self::Target { group, .. }
            | Self::Current { group, .. }
            | Self::Regex { group, .. } => group,
        }
    }

    pub(crate) fn encode(&self) -> Result<(Vec<u8>, Option<Vec<u8>>), StoredRecordError> {
        self.to_stored().encode()
    }

    fn to_stored(&self) -> ConsumerRecord {
        match self {
            Self::Group { group, value } => {
                let value = value.map(|(epoch, metadata_hash)| ConsumerGroupValue { epoch, metadata_hash });
                ConsumerRecord::Group(group.to_string(), value)
            }
            Self::Member { group, member, value } => {
                ConsumerRecord::Member(group.to_string(), member.to_string(), value.as_ref().map(member_value))
            }
            Self::TargetEpoch { group, value } => ConsumerRecord::TargetEpoch(group.to_string(), *value),
            Self::Target { group, member, value } => {
                let value = value.as_ref().map(Assignment::to_value);
                ConsumerRecord::Target(group.to_string(), member.to_string(), value)
            }
            Self::Current { group, member, value } => {
                ConsumerRecord::Current(group.to_string(), member.to_string(), value.as_ref().map(current_value))
            }
            Self::Regex { group, regex, value } => {
                ConsumerRecord::Regex(group.to_string(), regex.to_string(), value.as_ref().map(regex_value))
            }
        }
    }

    /// The record that is stored so.
    ///
    /// # Errors
    /// A member is in a state that a later version has added.
    pub(crate) fn of_stored(record: ConsumerRecord) -> Result<Self, StoredRecordError> {
        Ok(match record {
            ConsumerRecord::Group(group, value) => {
                Self::Group { group: group.into(), value: value.map(|value| (value.epoch, value.metadata_hash)) }
            }
            ConsumerRecord::Member(group, member, value) => {
                Self::Member { group: group.into(), member: member.into(), value: value.map(member_metadata) }
            }
            ConsumerRecord::TargetEpoch(group, value) => Self::TargetEpoch { group: group.into(), value },
            ConsumerRecord::Target(group, member, value) => {
                let value = value.map(|value| Assignment::from_value(&value));
                Self::Target { group: group.into(), member: member.into(), value }
            }
            ConsumerRecord::Current(group, member, value) => {
                let value = value.map(current_assignment).transpose()?;
                Self::Current { group: group.into(), member: member.into(), value }
            }
            ConsumerRecord::Regex(group, regex, value) => {
                Self::Regex { group: group.into(), regex: regex.into(), value: value.map(resolved) }
            }
        })
    }
}

fn string(text: &Arc<str>) -> String {
    text.to_string()
}

fn member_value(member: &ConsumerMemberMetadata) -> ConsumerMemberValue {
    ConsumerMemberValue {
        instance_id: member.instance_id.as_ref().map(string),
        rack_id: member.rack_id.as_ref().map(string),
        client_id: string(&member.client_id),
        client_host: string(&member.client_host),
        topic_names: member.topic_names.iter().map(string).collect(),
        topic_regex: Some(string(&member.topic_regex)),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        server_assignor: member.server_assignor.as_ref().map(string),
    }
}

fn member_metadata(value: ConsumerMemberValue) -> ConsumerMemberMetadata {
    ConsumerMemberMetadata {
        instance_id: value.instance_id.map(Arc::from),
        rack_id: value.rack_id.map(Arc::from),
        client_id: value.client_id.into(),
        client_host: value.client_host.into(),
        topic_names: value.topic_names.into_iter().map(Arc::from).collect(),
        topic_regex: value.topic_regex.unwrap_or_default().into(),
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        server_assignor: value.server_assignor.map(Arc::from),
    }
}

fn current_value(current: &CurrentAssignment) -> CurrentAssignmentValue {
    CurrentAssignmentValue {
        epoch: current.epoch,
        previous_epoch: current.previous_epoch,
        state: current.state.number(),
        assigned: current.assigned.to_value(),
        pending_revocation: current.pending_revocation.to_value(),
    }
}

fn current_assignment(value: CurrentAssignmentValue) -> Result<CurrentAssignment, StoredRecordError> {
    Ok(CurrentAssignment {
        epoch: value.epoch,
        previous_epoch: value.previous_epoch,
        state: MemberState::of_number(value.state).ok_or(StoredRecordError::Length)?,
        assigned: Assignment::from_value(&value.assigned),
        pending_revocation: Assignment::from_value(&value.pending_revocation),
    })
}

fn regex_value(resolved: &ResolvedRegex) -> RegexValue {
    RegexValue {
        topics: resolved.topics.iter().map(string).collect(),
        version: resolved.version,
        timestamp: resolved.timestamp_ms,
    }
}

fn resolved(value: RegexValue) -> ResolvedRegex {
    let topics: BTreeSet<Arc<str>> = value.topics.into_iter().map(Arc::from).collect();
    ResolvedRegex { topics, version: value.version, timestamp_ms: value.timestamp }
}
