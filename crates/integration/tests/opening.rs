//! A broker that was killed opens its partitions from the write-ahead log, while the object store cannot be reached.

use std::time::Duration;

use common::{Clock, SystemClock};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{CreateTopicsRequest, InitProducerIdRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_integration::http;
use ottla_integration::process::broker::{Broker, Start};
use ottla_integration::process::s3::S3;
use ottla_integration::process::wait_until;
use ottla_integration::s3sim::Faults;
use ottla_integration::wire::Connection;
use protocol::batch::builder::BatchBuilder;

/// Partitions that are written now and then, beside one that is always.
const PARTITIONS: i32 = 200;
const NOT_LEADER: i16 = 6;

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// A client with a producer id.
struct Producer {
    connection: Connection,
    id: i64,
}

impl Producer {
    fn start(bootstrap: &str) -> Self {
        let mut connection = Connection::open(bootstrap).expect("the broker listens");
        let request = InitProducerIdRequest::default().with_transactional_id(None);
        let answer = connection.ask(&request, 4).expect("an answer");
        assert_eq!(answer.error_code, 0);
        Self { connection, id: answer.producer_id.0 }
    }

    /// Writes one record of `size` bytes to each partition of the range; the answers are in the order of partitions.
    fn produce(
        &mut self,
        topic: &str,
        partitions: std::ops::Range<i32>,
        sequence: i32,
        size: usize,
    ) -> Vec<PartitionProduceResponse> {
        let data = partitions.map(|index| {
            let mut batch = BatchBuilder::new().with_producer(self.id, 0, sequence);
            batch.push(-1, None, Some(&vec![7; size]));
            PartitionProduceData::default().with_index(index).with_records(Some(batch.build(0, -1)))
        });
        let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(data.collect());
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(5_000).with_topic_data(vec![topic]);
        let mut answer = self.connection.ask(&request, 9).expect("an answer");
        let mut partitions = answer.responses.remove(0).partition_responses;
        partitions.sort_by_key(|partition| partition.index);
        partitions
    }

    /// As [`Self::produce`], and all must be taken, at `offset`.
    fn produce_at(&mut self, topic: &str, partitions: std::ops::Range<i32>, sequence: i32, offset: i64) {
        for answer in self.produce(topic, partitions, sequence, 100) {
            assert_eq!((answer.error_code, answer.base_offset), (0, offset), "{topic}-{}", answer.index);
        }
    }
}

fn create(producer: &mut Producer) {
    let topic = |topic: &str, partitions| {
        CreatableTopic::default().with_name(name(topic)).with_num_partitions(partitions).with_replication_factor(1)
    };
    let request = CreateTopicsRequest::default().with_topics(vec![topic("many", PARTITIONS), topic("busy", 1)]);
    let answer = producer.connection.ask(&request.with_timeout_ms(10_000), 5).expect("an answer");
    assert!(answer.topics.iter().all(|topic| topic.error_code == 0), "{answer:?}");
}

/// Writes `megabytes` to one partition, through a full log's refusals.
fn write_busy(producer: &mut Producer, sequence: &mut i32, megabytes: i32) {
    for _ in 0..megabytes {
        let mut answer = None;
        wait_until(Duration::from_secs(60), "uploads make room in the log", || {
            let answers = producer.produce("busy", 0..1, *sequence, 900_000);
            answer.insert(answers[0].clone()).error_code == 0
        })
        .unwrap_or_else(|error| panic!("{error:#}: {answer:?}"));
        *sequence += 1;
    }
}

fn metric(broker: &Broker, name: &str) -> u64 {
    http::metric(&broker.admin, name).expect("the admin port tells it")
}

/// More than the log holds is written, so that uploads and trims happen; some partitions rest all the while. Then the
/// store goes away, and the broker is killed: every partition must be written to again, and know its producer.
#[test]
fn every_partition_opens_while_the_store_is_down() {
    let s3 = S3::start(1).expect("loopback ports");
    let properties = [&s3.property("opening"), "ottla.wal.capacity.bytes=268435456", "ottla.wal.upload.bytes=8388608"];
    let start = Start { properties: properties.map(str::to_owned).to_vec(), env: s3.env(), ..Start::default() };
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path(), &start).expect("the broker starts");
    let mut producer = Producer::start(&broker.bootstrap);
    create(&mut producer);
    let mut busy = 0;
    producer.produce_at("many", 0..PARTITIONS, 0, 0);
    write_busy(&mut producer, &mut busy, 160);
    producer.produce_at("many", 50..PARTITIONS, 1, 1);
    write_busy(&mut producer, &mut busy, 140);
    wait_until(Duration::from_secs(120), "most of it is uploaded, so that the log has room for the outage", || {
        metric(&broker, "ottla_upload_backlog_bytes") < 8 << 20
    })
    .expect("the store is there");
    s3.set(&Faults { unreachable_ms: 600_000, ..Faults::default() }).expect("it answers");
    producer.produce_at("many", 100..PARTITIONS, 2, 2);
    write_busy(&mut producer, &mut busy, 5);

    // Twice: what the first life after the outage wrote is in the log alone.
    let (mut broker, id) = (broker, producer.id);
    for next in 3..5 {
        broker.process.kill().expect("it ran");
        let killed = SystemClock.boot();
        broker = broker.again().expect("it starts without its store");
        producer = Producer { connection: Connection::open(&broker.bootstrap).expect("it listens"), id };
        wait_until(Duration::from_secs(20), "every partition is open", || {
            let answers = producer.produce("many", 0..PARTITIONS, 0, 100);
            answers.iter().all(|answer| answer.error_code != NOT_LEADER)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", broker.process.output()));
        let served = u64::try_from(PARTITIONS).expect("some") + 1;
        assert!(metric(&broker, "ottla_partition_openings") >= served, "`many` and `busy`");
        assert!(metric(&broker, "ottla_wal_left_seconds") > 0);
        // On the connection that was told to wait, a gap would be put down to that.
        producer.connection = Connection::open(&broker.bootstrap).expect("it listens");
        eprintln!("kill to {PARTITIONS} partitions open: {:?}", SystemClock.boot() - killed);
        // What each has taken last is known to it as a duplicate, and nothing is left out unnoticed.
        for (partitions, taken) in [(0..50, 0), (50..100, 1), (100..PARTITIONS, 2)] {
            let taken = taken + next - 3;
            producer.produce_at("many", partitions.clone(), taken, i64::from(taken));
            for answer in producer.produce("many", partitions.clone(), taken + 2, 100) {
                assert_eq!(answer.error_code, 45, "OUT_OF_ORDER_SEQUENCE_NUMBER of partition {}", answer.index);
            }
            producer.produce_at("many", partitions, taken + 1, i64::from(taken) + 1);
        }
        let last = producer.produce("busy", 0..1, busy - 1, 900_000);
        assert_eq!((last[0].error_code, last[0].base_offset), (0, i64::from(busy) - 1));
    }
}
