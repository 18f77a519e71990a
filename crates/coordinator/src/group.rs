//! A classic group: its members and its state. Changes that need timers, records or responses are made by
//! [`crate::rebalance`]; here are those that need none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kafka_protocol::messages::JoinGroupResponse;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::protocol::StrBytes;
use protocol::ErrorCode;

use crate::member::{Member, Protocols};
use crate::record::GroupMetadata;
use crate::shard::Token;
use crate::subscription::{self, CONSUMER_PROTOCOL_TYPE};

/// State of a classic group. Its life ends (Kafka's Dead) by leaving the shard's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// No members.
    Empty,
    /// Waiting for members to join the next generation.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Every member has, or can ask for, its assignment.
    Stable,
}

impl GroupState {
    /// Kafka's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The wait of a first rebalance: it goes on in steps while members keep arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InitialDelay {
    /// Length of the current step.
    pub(crate) step_ms: i64,
    /// What may still be added after it.
    pub(crate) remaining_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassicGroup {
    pub(crate) id: Arc<str>,
    state: GroupState,
    previous_state: Option<GroupState>,
    pub(crate) state_timestamp_ms: i64,
    pub(crate) generation: i32,
    /// `None` for a group that has only ever had offsets committed to it (a "simple" group).
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids given out by MEMBER_ID_REQUIRED whose owners have not joined yet.
    pub(crate) pending_joins: BTreeSet<Arc<str>>,
    /// Members of this generation that have not sent SyncGroup yet.
    pub(crate) pending_syncs: BTreeSet<Arc<str>>,
    /// Number of members that support each protocol.
    supported: BTreeMap<Arc<str>, usize>,
    awaiting_joins: usize,
    pub(crate) new_member_added: bool,
    pub(crate) initial_delay: Option<InitialDelay>,
    subscribed_topics: Option<BTreeSet<Arc<str>>>,
    bytes: usize,
}

impl ClassicGroup {
    pub(crate) fn empty(id: Arc<str>, state_timestamp_ms: i64) -> Self {
        Self {
            id,
            state: GroupState::Empty,
            previous_state: None,
            state_timestamp_ms,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_joins: BTreeSet::new(),
            pending_syncs: BTreeSet::new(),
            supported: BTreeMap::new(),
            awaiting_joins: 0,
            new_member_added: false,
            initial_delay: None,
            subscribed_topics: None,
            bytes: 0,
        }
    }

    /// A group as it was persisted: stable if it has members.
    pub(crate) fn loaded(id: Arc<str>, metadata: &GroupMetadata) -> Self {
        let mut group = Self::empty(id, metadata.state_timestamp_ms);
        let protocol: Arc<str> = metadata.protocol.clone().unwrap_or_default();
        for member in &metadata.members {
            group.insert(Member::loaded(member, &protocol));
        }
        group.generation = metadata.generation;
        group.protocol_type = Some(Arc::clone(&metadata.protocol_type)).filter(|name| !name.is_empty());
        group.protocol = metadata.protocol.clone();
        if !group.members.is_empty() {
            group.state = GroupState::Stable;
            let leader = metadata.leader.clone().filter(|leader| group.members.contains_key(leader));
            group.leader = leader.or_else(|| group.members.keys().next().cloned());
        }
        group.subscribed_topics = group.compute_subscribed_topics();
        group
    }

    pub(crate) fn state(&self) -> GroupState {
        self.state
    }

    pub(crate) fn is(&self, state: GroupState) -> bool {
        self.state == state
    }

    /// Whether the rebalance under way is the first since the group was empty, which waits for its whole delay.
    pub(crate) fn is_initial_rebalance(&self) -> bool {
        self.is(GroupState::PreparingRebalance) && self.previous_state == Some(GroupState::Empty)
    }

    pub(crate) fn transition_to(&mut self, state: GroupState, wall_ms: i64) {
        use GroupState::{CompletingRebalance, Empty, PreparingRebalance, Stable};
        debug_assert!(
            matches!(
                (self.state, state),
                (Empty | Stable | CompletingRebalance, PreparingRebalance)
                    | (PreparingRebalance, CompletingRebalance | Empty)
                    | (CompletingRebalance, Stable)
            ),
            "{} -> {state}",
            self.state
        );
        self.previous_state = Some(self.state);
        self.state = state;
        self.state_timestamp_ms = wall_ms;
    }

    pub(crate) fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    pub(crate) fn member_mut(&mut self, id: &str) -> Option<&mut Member> {
        self.members.get_mut(id)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(crate) fn member_ids(&self) -> Vec<Arc<str>> {
        self.members.keys().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn awaiting_joins(&self) -> usize {
        self.awaiting_joins
    }

    /// Bytes of all members' protocols and assignments.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    pub(crate) fn static_member(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.static_members.get(instance_id)
    }

    /// Longest time any member wants to be given for rejoining.
    pub(crate) fn rebalance_timeout_ms(&self) -> i64 {
        self.members().map(|member| i64::from(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    pub(crate) fn has_all_members_joined(&self) -> bool {
        self.members.len() == self.awaiting_joins && self.pending_joins.is_empty()
    }

    /// Adds a member that is not in the group. The first one fixes the protocol type.
    pub(crate) fn add(&mut self, member: Member, protocol_type: &str) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.into());
        }
        if self.leader.is_none() {
            self.leader = Some(Arc::clone(&member.id));
        }
        self.pending_joins.remove(&member.id);
        self.insert(member);
    }

    /// Removes a member or pending member. If it led, another member leads.
    pub(crate) fn remove(&mut self, id: &str) -> Option<Member> {
        self.pending_joins.remove(id);
        self.pending_syncs.remove(id);
        let removed = self.take(id)?;
        if let Some(instance_id) = &removed.instance_id {
            self.static_members.remove(instance_id);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(removed)
    }

    /// Gives a static member's place, with its assignment, to a new member id. What the old id waited for is
    /// returned, to be answered with FENCED_INSTANCE_ID.
    pub(crate) fn replace_static_member(&mut self, old_id: &str, new_id: &Arc<str>) -> [Option<Token>; 2] {
        let Some(mut member) = self.take(old_id) else { return [None, None] };
        let waiting = [member.awaiting_join.take(), member.awaiting_sync.take()];
        member.id = Arc::clone(new_id);
        member.is_new = false;
        if self.is_leader(old_id) {
            self.leader = Some(Arc::clone(new_id));
        }
        self.pending_syncs.remove(old_id);
        self.insert(member);
        waiting
    }

    /// Takes over what a rejoining member asks for.
    pub(crate) fn update_member(&mut self, id: &str, protocols: Protocols, rebalance_ms: i32, session_ms: i32) {
        let Some(mut member) = self.take(id) else { return };
        member.protocols = protocols;
        member.rebalance_timeout_ms = rebalance_ms;
        member.session_timeout_ms = session_ms;
        self.insert(member);
    }

    pub(crate) fn set_assignment(&mut self, id: &str, assignment: bytes::Bytes) {
        if let Some(member) = self.members.get_mut(id) {
            self.bytes = self.bytes + assignment.len() - member.assignment.len();
            member.assignment = assignment;
        }
    }

    /// Lets a member wait for the join phase; returns the request it waited with before.
    pub(crate) fn await_join(&mut self, id: &str, token: Token) -> Option<Token> {
        let before = self.members.get_mut(id)?.awaiting_join.replace(token);
        self.awaiting_joins += usize::from(before.is_none());
        before
    }

    /// Ends a member's wait for the join phase.
    pub(crate) fn end_await_join(&mut self, id: &str) -> Option<Token> {
        let token = self.members.get_mut(id)?.awaiting_join.take();
        self.awaiting_joins -= usize::from(token.is_some());
        token
    }

    /// Makes sure that the leader is a member that has joined; false if none has.
    pub(crate) fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = self.leader.as_ref().and_then(|leader| self.members.get(leader)) else { return false };
        if leader.awaiting_join.is_some() {
            return true;
        }
        match self.members.values().find(|member| member.awaiting_join.is_some()) {
            Some(joined) => {
                self.leader = Some(Arc::clone(&joined.id));
                true
            }
            None => false,
        }
    }

    /// Starts the next generation: Empty without members, CompletingRebalance with.
    pub(crate) fn next_generation(&mut self, wall_ms: i64) {
        self.generation = self.generation.wrapping_add(1).max(0);
        self.pending_syncs.clear();
        self.initial_delay = None;
        self.new_member_added = false;
        if self.members.is_empty() {
            self.protocol = None;
            self.transition_to(GroupState::Empty, wall_ms);
        } else {
            self.protocol = self.select_protocol();
            self.transition_to(GroupState::CompletingRebalance, wall_ms);
        }
        self.subscribed_topics = self.compute_subscribed_topics();
    }

    /// The protocol that every member supports and most members prefer; the first by name among equals.
    pub(crate) fn select_protocol(&self) -> Option<Arc<str>> {
        let common = self.supported.iter().filter(|(_, count)| **count == self.members.len());
        let candidates: BTreeSet<Arc<str>> = common.map(|(name, _)| Arc::clone(name)).collect();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for name in self.members().filter_map(|member| member.vote(&candidates)) {
            *votes.entry(name).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| Arc::clone(name))
    }

    /// Whether a member with these protocols can be in the group.
    pub(crate) fn supports(&self, protocol_type: &str, protocols: &Protocols) -> bool {
        if self.is(GroupState::Empty) {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.supported.get(name).copied().unwrap_or(0) == self.members.len())
    }

    /// Whether a request may speak for a member.
    pub(crate) fn validate_member(&self, id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if **current != *id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    pub(crate) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    /// Whether the coordinator knows what members subscribe to.
    pub(crate) fn knows_subscription(&self) -> bool {
        self.subscribed_topics.is_some()
    }

    /// Whether a member consumes the topic; presumed so for consumers whose subscription cannot be read.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    pub(crate) fn to_metadata(&self) -> GroupMetadata {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_timestamp_ms,
            members: self.members().map(|member| member.to_metadata(protocol)).collect(),
        }
    }

    /// A successful JoinGroup response of the current generation. Only the leader is told who the members are.
    pub(crate) fn join_response(&self, member_id: &str) -> JoinGroupResponse {
        let members = if self.is_leader(member_id) { self.join_response_members() } else { Vec::new() };
        JoinGroupResponse::default()
            .with_member_id(text(member_id))
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type.as_deref().map(text))
            .with_protocol_name(self.protocol.as_deref().map(text))
            .with_leader(text(self.leader.as_deref().unwrap_or_default()))
            .with_members(members)
    }

    fn join_response_members(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let one = |member: &Member| {
            JoinGroupResponseMember::default()
                .with_member_id(text(&member.id))
                .with_group_instance_id(member.instance_id.as_deref().map(text))
                .with_metadata(member.metadata(protocol))
        };
        self.members().map(one).collect()
    }

    fn insert(&mut self, member: Member) {
        for (name, _) in &member.protocols {
            *self.supported.entry(Arc::clone(name)).or_default() += 1;
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(Arc::clone(instance_id), Arc::clone(&member.id));
        }
        self.awaiting_joins += usize::from(member.awaiting_join.is_some());
        self.bytes += member.bytes();
        self.members.insert(Arc::clone(&member.id), member);
    }

    fn take(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        for (name, _) in &member.protocols {
            if let Some(count) = self.supported.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(name);
                }
            }
        }
        self.awaiting_joins -= usize::from(member.awaiting_join.is_some());
        self.bytes -= member.bytes();
        Some(member)
    }

    fn compute_subscribed_topics(&self) -> Option<BTreeSet<Arc<str>>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        if self.members.is_empty() {
            return Some(topics);
        }
        let protocol = self.protocol.as_deref()?;
        for member in self.members() {
            subscription::read_topics(&member.metadata(protocol), &mut topics)?;
        }
        Some(topics)
    }

    /// What must hold after every change.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check(&self) {
        let awaiting = self.members().filter(|member| member.awaiting_join.is_some()).count();
        assert_eq!(awaiting, self.awaiting_joins, "members that await the join phase");
        assert_eq!(self.members().map(Member::bytes).sum::<usize>(), self.bytes, "bytes of members");
        assert_eq!(self.leader.is_none(), self.members.is_empty(), "a group leads itself if it has members");
        assert!(self.leader.as_ref().is_none_or(|leader| self.members.contains_key(leader)), "the leader is a member");
        assert!(self.pending_syncs.iter().all(|id| self.members.contains_key(id)), "syncs are awaited of members");
        assert!(self.pending_joins.iter().all(|id| !self.members.contains_key(id)), "pending members are none yet");
        assert_eq!(self.members().filter(|member| member.is_static()).count(), self.static_members.len());
        match self.state {
            GroupState::Empty => assert!(self.members.is_empty(), "an empty group has no members"),
            GroupState::PreparingRebalance => {}
            GroupState::CompletingRebalance | GroupState::Stable => {
                assert!(!self.members.is_empty() && self.protocol.is_some(), "members agree on a protocol");
                assert_eq!(awaiting, 0, "joins wait only in PreparingRebalance");
            }
        }
        if !self.is(GroupState::CompletingRebalance) {
            assert!(self.members().all(|member| member.awaiting_sync.is_none()), "syncs wait for the leader only");
        }
    }
}

/// A string of our own for a response.
pub(crate) fn text(string: &str) -> StrBytes {
    StrBytes::from_string(string.to_owned())
}
