//! A cluster's answers about itself, over Kafka's protocol.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{BrokerId, DescribeQuorumRequest, ListOffsetsRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::client::{Broker, Leader, Observer, Overview, Range, View};
use crate::wire::Connection;

/// Versions that every broker of the last years speaks, and that need no negotiation.
const METADATA_VERSION: i16 = 8;
const LIST_OFFSETS_VERSION: i16 = 5;
const DESCRIBE_QUORUM_VERSION: i16 = 0;

/// Kafka's marks for the two ends of a partition.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// A paused broker answers when it goes on: its observer waits for that answer, because that is the one to judge.
const PATIENCE: Duration = Duration::from_secs(60);

/// Brokers reached over TCP.
#[derive(Debug)]
pub struct TcpView {
    bootstrap: Vec<String>,
}

impl TcpView {
    /// From `host:port[,host:port...]`.
    #[must_use]
    pub fn new(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.split(',').map(|address| address.trim().to_owned()).collect() }
    }
}

impl View for TcpView {
    fn bootstrap(&self) -> Vec<String> {
        self.bootstrap.clone()
    }

    fn observe(&self, address: &str) -> Result<Box<dyn Observer>> {
        Ok(Box::new(TcpObserver { connection: Connection::open_patiently(address, PATIENCE)? }))
    }
}

struct TcpObserver {
    connection: Connection,
}

fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

impl TcpObserver {
    /// The offsets at one of the ends, of the partitions whose leader this broker says it is.
    fn ends(&mut self, topic: &str, partitions: &[u32], which: i64) -> Result<HashMap<u32, u64>> {
        let partitions = partitions.iter().map(|&partition| {
            ListOffsetsPartition::default()
                .with_partition_index(partition as i32)
                .with_current_leader_epoch(-1)
                .with_timestamp(which)
        });
        let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions.collect());
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let answer = self.connection.ask(&request, LIST_OFFSETS_VERSION)?;
        let told = answer.topics.iter().flat_map(|topic| &topic.partitions).filter(|p| p.error_code == 0);
        Ok(told.filter_map(|p| Some((p.partition_index as u32, u64::try_from(p.offset).ok()?))).collect())
    }
}

impl Observer for TcpObserver {
    fn overview(&mut self, topic: &str) -> Result<Overview> {
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request = MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(false);
        let answer = self.connection.ask(&request, METADATA_VERSION)?;
        let brokers = answer.brokers.iter().filter_map(|broker| {
            let id = u32::try_from(broker.node_id.0).ok()?;
            Some(Broker { id, address: format!("{}:{}", broker.host, broker.port) })
        });
        let mut brokers: Vec<Broker> = brokers.collect();
        brokers.sort_by_key(|broker| broker.id);
        let mut leaders = Vec::new();
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            let index = usize::try_from(partition.partition_index)?;
            ensure!(index < 1 << 20, "a partition numbered {index}");
            if leaders.len() <= index {
                leaders.resize(index + 1, Leader { node: None, epoch: -1 });
            }
            leaders[index] = Leader { node: u32::try_from(partition.leader_id.0).ok(), epoch: partition.leader_epoch };
        }
        Ok(Overview { brokers, leaders })
    }

    fn offsets(&mut self, topic: &str, partitions: &[u32]) -> Result<Vec<Range>> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let starts = self.ends(topic, partitions, EARLIEST)?;
        let ends = self.ends(topic, partitions, LATEST)?;
        let both = partitions.iter().filter_map(|partition| {
            Some(Range { partition: *partition, start: *starts.get(partition)?, end: *ends.get(partition)? })
        });
        Ok(both.collect())
    }

    fn controller(&mut self) -> Result<Option<u32>> {
        let partition = PartitionData::default().with_partition_index(0);
        let topic =
            TopicData::default().with_topic_name(topic_name("__cluster_metadata")).with_partitions(vec![partition]);
        let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
        let answer = self.connection.ask(&request, DESCRIBE_QUORUM_VERSION)?;
        let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
        Ok(partition.filter(|told| told.error_code == 0).and_then(|told| u32::try_from(told.leader_id.0).ok()))
    }
}
