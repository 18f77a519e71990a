//! A consumer of the new protocol, as simple as one can be: it sends what it must, and does what it is told.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicName};
use uuid::Uuid;

use super::harness::{GROUP, Harness, TestTopics, group_id, string};
use crate::{Request, Response};

pub(super) const REBALANCE_MS: i32 = 30_000;

/// What it knows of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Consumer {
    pub(super) id: String,
    pub(super) instance: Option<String>,
    pub(super) topics: BTreeSet<String>,
    pub(super) regex: Option<String>,
    pub(super) assignor: Option<String>,
    pub(super) epoch: i32,
    /// Partitions that it reads.
    pub(super) owned: BTreeSet<(String, i32)>,
    /// What it was told last to have.
    pub(super) told: BTreeSet<(String, i32)>,
}

impl Consumer {
    pub(super) fn new(id: &str, topics: &[&str]) -> Self {
        Self { id: id.into(), topics: topics.iter().map(|topic| (*topic).into()).collect(), ..Self::default() }
    }

    pub(super) fn of_instance(mut self, instance: &str) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// Everything it can say.
    pub(super) fn request(&self) -> ConsumerGroupHeartbeatRequest {
        let mut owned: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        self.owned.iter().for_each(|(topic, partition)| owned.entry(topic).or_default().push(*partition));
        let owned = owned.into_iter().map(|(topic, partitions)| {
            TopicPartitions::default().with_topic_id(TestTopics::id(topic)).with_partitions(partitions)
        });
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(string(&self.id))
            .with_member_epoch(self.epoch)
            .with_instance_id(self.instance.as_deref().map(string))
            .with_rebalance_timeout_ms(REBALANCE_MS)
            .with_subscribed_topic_names(Some(self.topics.iter().map(|topic| TopicName(string(topic))).collect()))
            .with_subscribed_topic_regex(self.regex.as_deref().map(string))
            .with_server_assignor(self.assignor.as_deref().map(string))
            .with_topic_partitions(Some(owned.collect()))
    }

    /// Sends a heartbeat and does what the answer says: gives up at once, takes what it is given.
    pub(super) fn beat(&mut self, harness: &mut Harness) -> i16 {
        let response = harness.beat(self.request());
        self.take(&response);
        response.error_code
    }

    pub(super) fn take(&mut self, response: &ConsumerGroupHeartbeatResponse) {
        if response.error_code != 0 {
            return;
        }
        self.epoch = response.member_epoch;
        if let Some(assignment) = &response.assignment {
            let partitions = assignment.topic_partitions.iter().flat_map(|topic| {
                let name = name_of(topic.topic_id);
                topic.partitions.iter().map(move |partition| (name.clone(), *partition))
            });
            self.told = partitions.collect();
            self.owned.clone_from(&self.told);
        }
    }

    /// Drops everything and begins anew.
    pub(super) fn begin_anew(&mut self) {
        self.epoch = 0;
        self.owned.clear();
        self.told.clear();
    }

    pub(super) fn leave(&mut self, harness: &mut Harness, epoch: i32) -> i16 {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(string(&self.id))
            .with_instance_id(self.instance.as_deref().map(string))
            .with_member_epoch(epoch);
        let code = harness.beat(request).error_code;
        if code == 0 {
            self.begin_anew();
        }
        code
    }

    pub(super) fn partitions(&self) -> Vec<i32> {
        self.owned.iter().map(|(_, partition)| *partition).collect()
    }
}

/// Ids of test topics are their names.
fn name_of(id: Uuid) -> String {
    let bytes = id.as_bytes().iter().copied().take_while(|byte| *byte != 0);
    String::from_utf8(bytes.collect()).expect("a name")
}

impl Harness {
    pub(super) fn beat(&mut self, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
        self.beat_version(1, request)
    }

    pub(super) fn beat_version(
        &mut self,
        version: i16,
        request: ConsumerGroupHeartbeatRequest,
    ) -> ConsumerGroupHeartbeatResponse {
        let token = self.send(version, Request::ConsumerHeartbeat(request));
        match self.answers.remove(&token) {
            Some(Response::ConsumerHeartbeat(response)) => response,
            other => panic!("no ConsumerGroupHeartbeat response but {other:?}"),
        }
    }

    /// Everybody sends heartbeats until nothing changes any more.
    pub(super) fn settle(&mut self, consumers: &mut [Consumer]) {
        for _ in 0..20 {
            for consumer in consumers.iter_mut() {
                assert_eq!(consumer.beat(self), 0, "{consumer:?}");
            }
        }
    }
}
