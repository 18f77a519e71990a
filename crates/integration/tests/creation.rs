//! A new topic is there as soon as a client is told of it: on whichever brokers its leaders are.

use std::collections::HashMap;

use drill::wire::Connection;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_integration::process::cluster::{Cluster, Options};

const METADATA_VERSION: i16 = 8;
const LIST_OFFSETS_VERSION: i16 = 5;
const LATEST: i64 = -1;
const TOPICS: usize = 30;

/// Creates the topic by asking for it; answers its partitions and their leaders.
fn create(connection: &mut Connection, name: &TopicName) -> Vec<(i32, BrokerId)> {
    let wanted = MetadataRequestTopic::default().with_name(Some(name.clone()));
    let request = MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(true);
    let mut answer = connection.ask(&request, METADATA_VERSION).expect("an answer");
    let topic = answer.topics.remove(0);
    assert_eq!(topic.error_code, 0, "{topic:?}");
    topic.partitions.iter().map(|partition| (partition.partition_index, partition.leader_id)).collect()
}

#[test]
fn leaders_of_a_topic_that_was_just_created_know_their_offsets() {
    let properties = ["auto.create.topics.enable=true", "num.partitions=6"].map(str::to_owned).to_vec();
    let options = Options { brokers: 3, properties, ..Options::default() };
    let cluster = Cluster::start(&options).expect("the brokers start");
    let brokers = (1..).map(BrokerId).zip(cluster.bootstrap.split(','));
    let mut brokers: HashMap<BrokerId, Connection> =
        brokers.map(|(id, address)| (id, Connection::open(address).expect("connected"))).collect();
    for n in 0..TOPICS {
        let name = TopicName(StrBytes::from_string(format!("t{n}")));
        let asked = brokers.get_mut(&BrokerId(n as i32 % 3 + 1)).expect("a broker");
        for (index, leader) in create(asked, &name) {
            let partition = ListOffsetsPartition::default().with_partition_index(index).with_timestamp(LATEST);
            let topic = ListOffsetsTopic::default().with_name(name.clone()).with_partitions(vec![partition]);
            let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
            let leader = brokers.get_mut(&leader).expect("it has a leader");
            let answer = leader.ask(&request, LIST_OFFSETS_VERSION).expect("an answer");
            let found = &answer.topics[0].partitions[0];
            assert_eq!((found.error_code, found.offset), (0, 0), "{name:?}-{index}");
        }
    }
}
