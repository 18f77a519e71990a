//! ConsumerGroupHeartbeat (KIP-848): a member joins, says that it lives and what it owns, and learns what it should have.
//!
//! Everything that can be refused is looked at first; after that nothing fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as OwnedPartitions;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment as AssignedPartitions, TopicPartitions};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use kafka_protocol::protocol::StrBytes;
use protocol::ErrorCode;
use uuid::Uuid;

use super::assignment::Assignment;
use super::assignor::{Assignor, Subscriber};
use super::group::ConsumerGroup;
use super::member::{
    ConsumerMember, ConsumerMemberMetadata, CurrentAssignment, JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH, MemberState,
};
use super::reconcile::Reconciliation;
use super::record_codec::ConsumerGroupRecord;
use super::topics::Topics;
use crate::group::{GroupState, text};
use crate::join::NAME_BYTES_MAX;
use crate::pattern::compile;
use crate::record::CoordinatorRecord;
use crate::shard::{Context, GroupShard, Now, Output, Response, Token};
use crate::timers::Timer;

/// Bytes of the topics' names that a member may subscribe to: they are one record.
const SUBSCRIPTION_BYTES_MAX: usize = 512 << 10;
/// First version in which members make their own ids.
const OWN_MEMBER_ID_SINCE: i16 = 1;

/// Why a heartbeat is refused; nothing has changed.
#[derive(Debug)]
pub(super) struct Refusal {
    code: ErrorCode,
    message: String,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn invalid(message: &str) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    fn into_response(self) -> ConsumerGroupHeartbeatResponse {
        ConsumerGroupHeartbeatResponse::default()
            .with_error_code(self.code.code())
            .with_error_message(Some(text(&self.message)))
    }
}

/// Who sends a heartbeat.
struct Seat {
    id: Arc<str>,
    /// The static member whose place it takes; another id of the same instance.
    replaces: Option<Arc<str>>,
    /// The member so far; the one it replaces, if it does.
    before: ConsumerMember,
}

/// A heartbeat that is taken.
struct Beat<'a> {
    group: Arc<str>,
    member: Arc<str>,
    topics: &'a dyn Topics,
    /// What the member says that it owns.
    owned: Option<Assignment>,
    now: Now,
}

impl GroupShard {
    pub(crate) fn consumer_heartbeat(
        &mut self,
        token: Token,
        context: &Context<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        now: Now,
        out: &mut Output,
    ) {
        let answer = validate(context, request).and_then(|()| match request.member_epoch {
            LEAVE_EPOCH | LEAVE_STATIC_EPOCH => self.consumer_leave(context, request, &mut out.records),
            _ => self.consumer_beat(context, request, now, &mut out.records),
        });
        let response = answer.unwrap_or_else(Refusal::into_response);
        out.responses.push((token, Response::ConsumerHeartbeat(response)));
    }

    fn consumer_beat(
        &mut self,
        context: &Context<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        now: Now,
        records: &mut Vec<CoordinatorRecord>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let id = self.group_to_beat(request)?;
        let owned = request.topic_partitions.as_deref().map(owned);
        let seat = self.seat(&id, context, request, owned.as_ref())?;
        let metadata = metadata(&seat.before.metadata, context, request);
        if metadata.topic_regex != seat.before.metadata.topic_regex {
            compile(&metadata.topic_regex).map_err(|error| Refusal::new(ErrorCode::InvalidRegularExpression, error))?;
        }
        if self.groups.contains_key(&id) {
            // A classic group without members: its offsets stay, the group becomes one of this kind.
            self.drop_group(&id, records);
        }
        if let Some(old) = &seat.replaces {
            self.replace_static(&id, old, &seat, records);
        }
        let names_changed = metadata.topic_names != seat.before.metadata.topic_names;
        let regex_changed = metadata.topic_regex != seat.before.metadata.topic_regex;
        let is_new = self.persisted.consumer_groups.get(&id).is_none_or(|group| group.epoch == 0);
        if metadata != seat.before.metadata || is_new || !self.has_member(&id, &seat.id) {
            let record = ConsumerGroupRecord::Member {
                group: Arc::clone(&id),
                member: Arc::clone(&seat.id),
                value: Some(metadata),
            };
            self.emit(record, records);
        }
        if regex_changed {
            self.forget_regexes(&id, records);
        }
        self.refresh(&id, context.topics, now, is_new || names_changed || regex_changed, records);
        self.assign(&id, context.topics, records);
        let beat = Beat { group: Arc::clone(&id), member: Arc::clone(&seat.id), topics: context.topics, owned, now };
        self.reconcile(&beat, names_changed || regex_changed, records);
        let session_ms = self.config.consumer_session_timeout_ms;
        self.timers.schedule(Timer::session(&id, &seat.id), now.boot_ms.saturating_add(session_ms));
        Ok(self.beat_response(&id, &seat, request))
    }

    /// The group, which exists or may come into being.
    fn group_to_beat(&self, request: &ConsumerGroupHeartbeatRequest) -> Result<Arc<str>, Refusal> {
        let id = request.group_id.as_str();
        if let Some((id, group)) = self.persisted.consumer_groups.get_key_value(id) {
            let is_full = group.members.len() >= self.config.consumer_max_size;
            if is_full && !group.members.contains_key(request.member_id.as_str()) {
                let max = self.config.consumer_max_size;
                let message = format!("The consumer group has reached its maximum capacity of {max} members.");
                return Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message));
            }
            return Ok(Arc::clone(id));
        }
        match self.groups.get_key_value(id) {
            Some((_, group)) if !group.is(GroupState::Empty) => {
                Err(Refusal::new(ErrorCode::GroupIdNotFound, format!("Group {id} is not a consumer group.")))
            }
            _ if request.member_epoch != JOIN_EPOCH => {
                Err(Refusal::new(ErrorCode::GroupIdNotFound, format!("Consumer group {id} not found.")))
            }
            Some((id, _)) => Ok(Arc::clone(id)),
            None if self.group_count() >= self.config.max_groups => {
                Err(Refusal::new(ErrorCode::CoordinatorNotAvailable, "The coordinator has too many groups."))
            }
            None => Ok(id.into()),
        }
    }

    fn seat(
        &self,
        id: &str,
        context: &Context<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        owned: Option<&Assignment>,
    ) -> Result<Seat, Refusal> {
        let joins = request.member_epoch == JOIN_EPOCH;
        let group = self.persisted.consumer_groups.get(id);
        let member_id = request.member_id.as_str();
        let found = group.and_then(|group| group.members.get_key_value(member_id));
        let newcomer = || Seat {
            id: if member_id.is_empty() { context.member_id_suffix.to_string().into() } else { member_id.into() },
            replaces: None,
            before: ConsumerMember::default(),
        };
        let taken = |(id, member): (&Arc<str>, &ConsumerMember)| {
            check_epoch(member, request.member_epoch, owned)?;
            Ok(Seat { id: Arc::clone(id), replaces: None, before: member.clone() })
        };
        let Some(instance) = request.instance_id.as_deref() else {
            return match found {
                Some(member) => taken(member),
                None if joins => Ok(newcomer()),
                None => {
                    let message = format!("Member {member_id} is not a member of group {id}.");
                    Err(Refusal::new(ErrorCode::UnknownMemberId, message))
                }
            };
        };
        match group.and_then(|group| group.static_member(instance)) {
            None if joins => Ok(newcomer()),
            None => Err(Refusal::new(ErrorCode::UnknownMemberId, format!("Instance id {instance} is unknown."))),
            Some((old, member)) if joins => {
                if member.current.epoch != LEAVE_STATIC_EPOCH {
                    let message = format!(
                        "Static member {member_id} with instance id {instance} cannot join the group because the instance id is owned by member {old}."
                    );
                    return Err(Refusal::new(ErrorCode::UnreleasedInstanceId, message));
                }
                Ok(Seat { replaces: Some(Arc::clone(old)), before: member.clone(), ..newcomer() })
            }
            Some((owner, _)) if **owner != *member_id => Err(fenced_instance(member_id, instance, owner)),
            Some(member) => taken(member),
        }
    }

    fn has_member(&self, id: &str, member: &str) -> bool {
        self.persisted.consumer_groups.get(id).is_some_and(|group| group.members.contains_key(member))
    }

    /// The new member takes over what the old one of the same instance had and should have.
    fn replace_static(&mut self, id: &Arc<str>, old: &Arc<str>, seat: &Seat, records: &mut Vec<CoordinatorRecord>) {
        self.remove_member(id, old, records);
        let (group, member) = (Arc::clone(id), Arc::clone(&seat.id));
        let value = Some(seat.before.metadata.clone());
        self.emit(ConsumerGroupRecord::Member { group, member, value }, records);
        let (group, member) = (Arc::clone(id), Arc::clone(&seat.id));
        let value = Some(seat.before.target.clone());
        self.emit(ConsumerGroupRecord::Target { group, member, value }, records);
        let current = CurrentAssignment { epoch: 0, previous_epoch: 0, ..seat.before.current.clone() };
        let (group, member) = (Arc::clone(id), Arc::clone(&seat.id));
        self.emit(ConsumerGroupRecord::Current { group, member, value: Some(current) }, records);
    }

    /// Makes targets for the group's epoch, if there are none.
    fn assign(&mut self, id: &Arc<str>, topics: &dyn Topics, records: &mut Vec<CoordinatorRecord>) {
        let Some(group) = self.persisted.consumer_groups.get(id) else { return };
        if group.epoch == group.assignment_epoch {
            return;
        }
        let preferred = group.preferred_assignor().and_then(|name| Assignor::of_name(name));
        let assignor = preferred.unwrap_or(self.config.consumer_default_assignor);
        let (epoch, targets) = (group.epoch, targets(group, assignor, topics));
        for (member, target) in targets {
            let record = ConsumerGroupRecord::Target { group: Arc::clone(id), member, value: Some(target) };
            self.emit(record, records);
        }
        self.emit(ConsumerGroupRecord::TargetEpoch { group: Arc::clone(id), value: Some(epoch) }, records);
    }

    /// Takes the member one step towards its target.
    fn reconcile(&mut self, beat: &Beat<'_>, subscription_changed: bool, records: &mut Vec<CoordinatorRecord>) {
        let (id, member_id) = (&beat.group, &beat.member);
        let Some(group) = self.persisted.consumer_groups.get(id) else { return };
        let Some(member) = group.members.get(member_id) else { return };
        if !subscription_changed && member.is_reconciled_to(group.assignment_epoch) {
            return;
        }
        let subscribed: BTreeSet<Uuid> =
            group.topics_of(&member.metadata).filter_map(|name| Some(beat.topics.by_name(name)?.id)).collect();
        let reconciliation = Reconciliation {
            target: &member.target,
            assignment_epoch: group.assignment_epoch,
            owned: beat.owned.as_ref(),
            is_owned: &|topic, partition| group.owner_epoch(topic, partition).is_some(),
            is_subscribed: &|topic| subscribed.contains(&topic),
            subscription_changed,
        };
        let next = reconciliation.step(&member.current);
        if next == member.current {
            return;
        }
        let timer = Timer::revocation(id, member_id);
        if next.state == MemberState::UnrevokedPartitions {
            let timeout_ms = i64::from(member.metadata.rebalance_timeout_ms);
            self.timers.schedule(timer, beat.now.boot_ms.saturating_add(timeout_ms));
        } else {
            self.timers.cancel(timer);
        }
        let (group, member) = (Arc::clone(id), Arc::clone(member_id));
        self.emit(ConsumerGroupRecord::Current { group, member, value: Some(next) }, records);
    }

    /// The assignment is told to whoever joins, says everything, or has another one than before.
    fn beat_response(
        &self,
        id: &str,
        seat: &Seat,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> ConsumerGroupHeartbeatResponse {
        let group = self.persisted.consumer_groups.get(id);
        let Some(member) = group.and_then(|group| group.members.get(&seat.id)) else {
            return Refusal::new(ErrorCode::UnknownServerError, "the member is gone").into_response();
        };
        let subscribes = request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some();
        let says_all = request.rebalance_timeout_ms != -1 && subscribes && request.topic_partitions.is_some();
        let changed = member.current.assigned != seat.before.current.assigned;
        let tell = request.member_epoch == JOIN_EPOCH || says_all || changed;
        ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(text(&seat.id)))
            .with_member_epoch(member.current.epoch)
            .with_heartbeat_interval_ms(i32::try_from(self.config.consumer_heartbeat_interval_ms).unwrap_or(i32::MAX))
            .with_assignment(tell.then(|| assigned(&member.current.assigned)))
    }
}

/// What every request must hold, whatever the group is like.
fn validate(context: &Context<'_>, request: &ConsumerGroupHeartbeatRequest) -> Result<(), Refusal> {
    let refuse = |wrong: bool, message: &str| if wrong { Err(Refusal::invalid(message)) } else { Ok(()) };
    let is_empty = |text: &Option<StrBytes>| text.as_ref().is_some_and(|text| text.is_empty());
    let (epoch, joins) = (request.member_epoch, request.member_epoch == JOIN_EPOCH);
    refuse(request.group_id.is_empty(), "GroupId can't be empty.")?;
    refuse(is_empty(&request.instance_id), "InstanceId can't be empty.")?;
    refuse(is_empty(&request.rack_id), "RackId can't be empty.")?;
    let needs_id = context.version >= OWN_MEMBER_ID_SINCE || !joins;
    refuse(needs_id && request.member_id.is_empty(), "MemberId can't be empty.")?;
    refuse(epoch < LEAVE_STATIC_EPOCH, "MemberEpoch is invalid.")?;
    refuse(epoch == LEAVE_STATIC_EPOCH && request.instance_id.is_none(), "InstanceId can't be null.")?;
    if joins {
        let owns_nothing = request.topic_partitions.as_ref().is_some_and(Vec::is_empty);
        let names = request.subscribed_topic_names.as_ref().is_some_and(|names| !names.is_empty());
        let regex = request.subscribed_topic_regex.as_ref().is_some_and(|regex| !regex.is_empty());
        refuse(request.rebalance_timeout_ms == -1, "RebalanceTimeoutMs must be provided in first request.")?;
        refuse(!owns_nothing, "TopicPartitions must be empty when (re-)joining.")?;
        refuse(!names && !regex, "Either SubscribedTopicNames or SubscribedTopicRegex must be set when (re-)joining.")?;
    }
    refuse(has_long_name(context, request), "A name in the request is too long.")?;
    let subscription: usize = request.subscribed_topic_names.iter().flatten().map(|name| name.len()).sum();
    refuse(subscription > SUBSCRIPTION_BYTES_MAX, "The subscription is too long.")?;
    if let Some(assignor) = request.server_assignor.as_deref().filter(|name| Assignor::of_name(name).is_none()) {
        let message = format!("ServerAssignor {assignor} is not supported. Supported assignors: uniform, range.");
        return Err(Refusal::new(ErrorCode::UnsupportedAssignor, message));
    }
    Ok(())
}

/// Whether a string would not go into a record.
fn has_long_name(context: &Context<'_>, request: &ConsumerGroupHeartbeatRequest) -> bool {
    let optional = [&request.instance_id, &request.rack_id, &request.subscribed_topic_regex];
    let optional = optional.into_iter().flatten().map(|text| text.len());
    let names = request.subscribed_topic_names.iter().flatten().map(|name| name.len());
    let own = [request.group_id.len(), request.member_id.len(), context.client_id.len()];
    own.into_iter().chain(optional).chain(names).any(|len| len > NAME_BYTES_MAX)
}

/// A member's epoch is the one that the coordinator told it last; or the one before, if that answer was lost: then it
/// can own nothing but what it has been given.
fn check_epoch(member: &ConsumerMember, received: i32, owned: Option<&Assignment>) -> Result<(), Refusal> {
    let current = &member.current;
    let known = current.epoch;
    let lost_answer = || {
        let is_assigned =
            |owned: &Assignment| owned.iter().all(|(topic, index)| current.assigned.contains(topic, index));
        received == current.previous_epoch && owned.is_some_and(is_assigned)
    };
    if received == JOIN_EPOCH || received == known || (received < known && lost_answer()) {
        return Ok(());
    }
    let than = if received > known { "greater" } else { "smaller" };
    let message = format!(
        "The consumer group member has a {than} member epoch ({received}) than the one known by the group coordinator ({known}). The member must abandon all its partitions and rejoin."
    );
    Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
}

pub(super) fn fenced_instance(member: &str, instance: &str, owner: &str) -> Refusal {
    let message = format!("Static member {member} with instance id {instance} was fenced by member {owner}.");
    Refusal::new(ErrorCode::FencedInstanceId, message)
}

/// The member as the request describes it: what is absent stays.
fn metadata(
    before: &ConsumerMemberMetadata,
    context: &Context<'_>,
    request: &ConsumerGroupHeartbeatRequest,
) -> ConsumerMemberMetadata {
    let updated = |new: &Option<StrBytes>, old: &Option<Arc<str>>| match new {
        Some(new) => Some(Arc::from(new.as_str())),
        None => old.clone(),
    };
    let topic_names = match &request.subscribed_topic_names {
        Some(names) => names.iter().map(|name| Arc::from(name.as_str())).collect(),
        None => before.topic_names.clone(),
    };
    let topic_regex = match &request.subscribed_topic_regex {
        Some(regex) => regex.as_str().into(),
        None => Arc::clone(&before.topic_regex),
    };
    ConsumerMemberMetadata {
        instance_id: updated(&request.instance_id, &before.instance_id),
        rack_id: updated(&request.rack_id, &before.rack_id),
        client_id: context.client_id.into(),
        client_host: context.client_host.into(),
        topic_names,
        topic_regex,
        rebalance_timeout_ms: match request.rebalance_timeout_ms {
            -1 => before.rebalance_timeout_ms,
            timeout => timeout,
        },
        server_assignor: updated(&request.server_assignor, &before.server_assignor),
    }
}

/// Targets that differ from what members have as theirs, by member id.
fn targets(group: &ConsumerGroup, assignor: Assignor, topics: &dyn Topics) -> Vec<(Arc<str>, Assignment)> {
    let mut partitions = BTreeMap::new();
    let mut known = |name: &Arc<str>| {
        let topic = topics.by_name(name)?;
        partitions.insert(topic.id, topic.partitions);
        Some(topic.id)
    };
    let members = group.members.iter().map(|(id, member)| {
        let ids: BTreeSet<Uuid> = group.topics_of(&member.metadata).filter_map(&mut known).collect();
        Subscriber {
            id,
            instance_id: member.metadata.instance_id.as_ref(),
            topics: ids.into_iter().collect(),
            target: &member.target,
        }
    });
    let members: Vec<Subscriber<'_>> = members.collect();
    let targets = assignor.assign(&members, &partitions);
    let changed = members.iter().zip(targets).filter(|(member, target)| member.target != target);
    changed.map(|(member, target)| (Arc::clone(member.id), target)).collect()
}

fn owned(topics: &[OwnedPartitions]) -> Assignment {
    let mut owned = Assignment::default();
    topics.iter().for_each(|topic| owned.insert_all(topic.topic_id, topic.partitions.iter().copied()));
    owned
}

fn assigned(assignment: &Assignment) -> AssignedPartitions {
    let topic = |(id, partitions): (Uuid, &BTreeSet<i32>)| {
        TopicPartitions::default().with_topic_id(id).with_partitions(partitions.iter().copied().collect())
    };
    AssignedPartitions::default().with_topic_partitions(assignment.topics().map(topic).collect())
}
