//! Requests that overlap on a connection, and fetches that wait: over the wire, against a running broker.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, DeleteRecordsRequest, FetchRequest, FetchResponse,
    IncrementalAlterConfigsRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest, ProduceResponse,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use ottla_broker::config::{BrokerConfig, Properties};
use ottla_broker::network::IN_FLIGHT_MAX;
use ottla_broker::{RunningBroker, start};
use protocol::batch::builder::BatchBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const FETCH_VERSION: i16 = 12;
/// Longer than any answer takes, shorter than [`PARKED_MS`].
const PATIENCE: Duration = Duration::from_secs(30);
/// What a fetch that must not wait so long asks for.
const PARKED_MS: i32 = 120_000;

struct Client {
    stream: TcpStream,
    sent: i32,
    answered: i32,
}

impl Client {
    async fn connect(broker: &RunningBroker) -> Self {
        let stream = TcpStream::connect(address(broker)).await.expect("connects");
        Self { stream, sent: 0, answered: 0 }
    }

    /// A client that takes next to nothing unasked.
    async fn connect_narrow(broker: &RunningBroker) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4 << 10).expect("a small buffer");
        let stream = socket.connect(address(broker)).await.expect("connects");
        Self { stream, sent: 0, answered: 0 }
    }

    /// Whether the broker closes the connection, without another answer.
    async fn is_closed(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut [0])).await.expect("closed in time");
        !matches!(read, Ok(1..))
    }

    fn frame<R: Request>(&mut self, version: i16, request: &R) -> BytesMut {
        self.sent += 1;
        let key = ApiKey::try_from(R::KEY).expect("known");
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.sent);
        let mut body = BytesMut::new();
        header.encode(&mut body, key.request_header_version(version)).expect("encodes");
        request.encode(&mut body, version).expect("encodes");
        let mut frame = BytesMut::new();
        frame.put_u32(u32::try_from(body.len()).expect("small"));
        frame.put(body);
        frame
    }

    async fn send<R: Request>(&mut self, version: i16, request: &R) {
        let frame = self.frame(version, request);
        self.stream.write_all(&frame).await.expect("sent");
    }

    /// The answer to the oldest request that has none yet.
    async fn answer<R: Request>(&mut self, version: i16) -> R::Response {
        self.next_answer::<R>(version).await.expect("answered")
    }

    /// The same, or `None` if the connection has ended.
    async fn next_answer<R: Request>(&mut self, version: i16) -> Option<R::Response> {
        let key = ApiKey::try_from(R::KEY).expect("known");
        let receive = async {
            let length = self.stream.read_u32().await.ok()?;
            let mut answer = vec![0; length as usize];
            self.stream.read_exact(&mut answer).await.expect("answered whole");
            Some(Bytes::from(answer))
        };
        let mut answer = tokio::time::timeout(PATIENCE, receive).await.expect("answered in time")?;
        let header = ResponseHeader::decode(&mut answer, key.response_header_version(version)).expect("decodes");
        self.answered += 1;
        assert_eq!(header.correlation_id, self.answered);
        Some(R::Response::decode(&mut answer, version).expect("decodes"))
    }

    async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await;
        self.answer::<R>(version).await
    }
}

fn address(broker: &RunningBroker) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, broker.listeners()[0].port).into()
}

async fn started(directory: &Path, settings: &[(&str, &str)]) -> RunningBroker {
    let mut properties = Properties::default();
    properties.set("listeners", "PLAINTEXT://127.0.0.1:0");
    properties.set("log.dirs", directory.to_str().expect("a path"));
    settings.iter().for_each(|&(key, value)| properties.set(key, value));
    let (config, _) = BrokerConfig::load(properties, false).expect("sound");
    start(config).await.expect("starts")
}

fn name(topic: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(topic))
}

async fn create(client: &mut Client, topic: &'static str) {
    let topic = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true);
    assert_eq!(client.call(9, &request).await.topics[0].error_code, 0);
}

/// One record of `size` bytes.
fn produce(topic: &'static str, acks: i16, size: usize) -> ProduceRequest {
    let mut batch = BatchBuilder::new();
    batch.push(-1, None, Some(&vec![7; size]));
    let partition = PartitionProduceData::default().with_index(0).with_records(Some(batch.build(0, -1)));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![partition]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

fn fetch(topic: &'static str, min_bytes: i32, max_bytes: i32) -> FetchRequest {
    let partition = FetchPartition::default().with_partition_max_bytes(max_bytes);
    let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(PARKED_MS)
        .with_min_bytes(min_bytes)
        .with_max_bytes(max_bytes)
        .with_topics(vec![topic])
}

/// What `ListOffsets` asks for instead of a time.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

fn list_offsets(topic: &'static str, timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
    let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic])
}

fn produce_error(response: &ProduceResponse) -> i16 {
    response.responses[0].partition_responses[0].error_code
}

/// Produces one record of a million bytes, as often as the broker has no memory for it.
async fn produce_million(producer: &mut Client) {
    let request = produce("t", -1, 1_000_000);
    let accepted = async {
        while produce_error(&producer.call(9, &request).await) != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, accepted).await.expect("the producer goes on");
}

/// Sends the beginning of a Produce request that claims to be of 100 MiB.
async fn begin_large_frame(broker: &RunningBroker, bytes: usize) -> Client {
    let mut client = Client::connect(broker).await;
    let mut frame = BytesMut::new();
    frame.put_i32(100 << 20);
    frame.put_slice(&[0, 0, 0, 9, 0, 0, 0, 1]);
    frame.resize(bytes, 0);
    client.stream.write_all(&frame).await.expect("sent");
    client
}

fn record_bytes(response: &FetchResponse) -> usize {
    let partition = &response.responses[0].partitions[0];
    assert_eq!((response.error_code, partition.error_code), (0, 0));
    partition.records.as_ref().map_or(0, Bytes::len)
}

#[tokio::test]
async fn frames_beyond_the_limit_in_flight_are_served_although_nothing_follows_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    // So many turns that one pause in each, until a timer happens to wake the connection, is noticed.
    let requests = 20 * IN_FLIGHT_MAX + 1;
    let mut frames = BytesMut::new();
    for _ in 0..requests {
        let frame = client.frame(0, &ApiVersionsRequest::default());
        frames.put(frame);
    }
    client.stream.write_all(&frames).await.expect("sent");
    let answers = async {
        for _ in 0..requests {
            client.answer::<ApiVersionsRequest>(0).await;
        }
    };
    tokio::time::timeout(PATIENCE, answers).await.expect("answered without pauses");
    broker.stop().await;
}

/// librdkafka 2.15 sends three bytes after Metadata 13; Kafka ignores what follows a request.
#[tokio::test]
async fn bytes_after_a_request_are_ignored() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    let frame = client.frame(13, &MetadataRequest::default().with_topics(None));
    let length = u32::from_be_bytes(*frame.first_chunk().expect("a length")) + 3;
    client.stream.write_all(&length.to_be_bytes()).await.expect("sent");
    client.stream.write_all(&frame[4..]).await.expect("sent");
    client.stream.write_all(&[0; 3]).await.expect("sent");
    assert_eq!(client.answer::<MetadataRequest>(13).await.brokers.len(), 1);
    broker.stop().await;
}

/// confluent-kafka-python asks where the log starts before DeleteRecords is answered.
#[tokio::test]
async fn a_request_sees_what_the_one_before_it_did() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    create(&mut client, "t").await;
    for _ in 0..3 {
        assert_eq!(client.call(9, &produce("t", -1, 10)).await.responses[0].partition_responses[0].error_code, 0);
    }
    let partition = DeleteRecordsPartition::default().with_offset(2);
    let topic = DeleteRecordsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
    let delete = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000);
    let mut frames = client.frame(2, &delete);
    frames.extend_from_slice(&client.frame(5, &list_offsets("t", EARLIEST)));
    client.stream.write_all(&frames).await.expect("sent");
    assert_eq!(client.answer::<DeleteRecordsRequest>(2).await.topics[0].partitions[0].low_watermark, 2);
    assert_eq!(client.answer::<ListOffsetsRequest>(5).await.topics[0].partitions[0].offset, 2);
    broker.stop().await;
}

#[tokio::test]
async fn max_connections_changes_while_the_broker_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    let set = |value: &'static str| {
        let config = AlterableConfig::default()
            .with_name(StrBytes::from_static_str("max.connections"))
            .with_value(Some(StrBytes::from_static_str(value)));
        let resource = AlterConfigsResource::default().with_resource_type(4).with_configs(vec![config]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    let altered = client.call(1, &set("1")).await;
    assert_eq!((altered.responses[0].error_code, &altered.responses[0].error_message), (0, &None));
    let mut refused = Client::connect(&broker).await;
    assert!(refused.stream.read_u8().await.is_err(), "the connection is closed");
    assert_eq!(client.call(1, &set("2")).await.responses[0].error_code, 0);
    let mut taken = Client::connect(&broker).await;
    assert_eq!(taken.call(9, &MetadataRequest::default()).await.brokers.len(), 1);
    broker.stop().await;
}

/// More than a new log holds, sent without waiting: whatever was refused would come again behind the rest.
#[tokio::test]
async fn a_burst_larger_than_the_log_is_appended_in_order_and_nothing_of_it_refused() {
    const BATCHES: i64 = 150;
    let directory = tempfile::tempdir().expect("a directory");
    let settings = [
        ("ottla.wal.capacity.bytes", "134217728"),
        ("ottla.wal.upload.bytes", "1048576"),
        ("ottla.object.store.url", "memory://"),
    ];
    let broker = started(directory.path(), &settings).await;
    let mut client = Client::connect(&broker).await;
    create(&mut client, "t").await;
    let request = produce("t", -1, 900_000);
    let mut frames = BytesMut::new();
    for _ in 0..BATCHES {
        let frame = client.frame(9, &request);
        frames.put(frame);
    }
    client.stream.write_all(&frames).await.expect("sent");
    for offset in 0..BATCHES {
        let response = client.answer::<ProduceRequest>(9).await;
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, offset));
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_created_topic_has_no_error_message() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    let topic = CreatableTopic::default().with_name(name("t")).with_num_partitions(1).with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000);
    let created = client.call(5, &request).await;
    assert_eq!((created.topics[0].error_code, &created.topics[0].error_message), (0, &None));
    broker.stop().await;
}

#[tokio::test]
async fn a_fetch_of_an_older_epoch_is_told_the_new_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    create(&mut client, "t").await;
    broker.stop().await;
    // Opened again, it has another leader epoch.
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    let metadata = client.call(12, &MetadataRequest::default().with_topics(None)).await;
    let (id, epoch) = (metadata.topics[0].topic_id, metadata.topics[0].partitions[0].leader_epoch);
    assert!(epoch > 0, "the epoch is {epoch}");
    for (believed, code, leader, endpoints) in [(epoch - 1, 74, epoch, 1), (epoch + 1, 75, -1, 0)] {
        let mut request = fetch("t", 1, 1 << 20);
        request.topics[0].topic = TopicName::default();
        request.topics[0].topic_id = id;
        request.topics[0].partitions[0].current_leader_epoch = believed;
        let response = client.call(16, &request).await;
        let partition = &response.responses[0].partitions[0];
        assert_eq!((partition.error_code, partition.current_leader.leader_epoch), (code, leader));
        assert_eq!(response.node_endpoints.len(), endpoints);
    }
    broker.stop().await;
}

#[tokio::test]
async fn answers_larger_than_what_may_wait_are_all_given_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[("num.partitions", "2000")]).await;
    let mut client = Client::connect(&broker).await;
    create(&mut client, "t").await;
    let all = MetadataRequest::default().with_topics(None);
    let mut frames = BytesMut::new();
    for _ in 0..IN_FLIGHT_MAX {
        let frame = client.frame(9, &all);
        frames.put(frame);
    }
    client.stream.write_all(&frames).await.expect("sent");
    for _ in 0..IN_FLIGHT_MAX {
        assert_eq!(client.answer::<MetadataRequest>(9).await.topics[0].partitions.len(), 2000);
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_parked_fetch_is_woken_by_a_producer_that_waits_for_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let (mut consumer, mut producer) = (Client::connect(&broker).await, Client::connect(&broker).await);
    create(&mut producer, "t").await;
    consumer.send(FETCH_VERSION, &fetch("t", 1, 1 << 20)).await;
    producer.call(0, &ApiVersionsRequest::default()).await;
    producer.send(9, &produce("t", 0, 100)).await;
    assert!(record_bytes(&consumer.answer::<FetchRequest>(FETCH_VERSION).await) > 100);
    broker.stop().await;
}

#[tokio::test]
async fn whole_batches_that_do_not_fill_the_limit_are_enough_when_more_follow() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    create(&mut client, "t").await;
    for _ in 0..2 {
        let response = client.call(9, &produce("t", -1, 40_000)).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    }
    // One batch fits and two do not; and nobody can wait for more than the limit.
    for min_bytes in [60_000, i32::MAX] {
        let response = client.call(FETCH_VERSION, &fetch("t", min_bytes, 60_000)).await;
        assert!((40_000..60_000).contains(&record_bytes(&response)));
    }
    broker.stop().await;
}

#[tokio::test]
async fn pipelined_fetches_do_not_wait_for_memory_that_their_successors_hold() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[("ottla.response.bytes.in.flight", "65536")]).await;
    let (mut consumer, mut producer) = (Client::connect(&broker).await, Client::connect(&broker).await);
    create(&mut producer, "empty").await;
    create(&mut producer, "full").await;
    let response = producer.call(9, &produce("full", -1, 60_000)).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    consumer.send(FETCH_VERSION, &fetch("empty", 1, 1 << 20)).await;
    consumer.send(FETCH_VERSION, &fetch("full", 1, 1 << 20)).await;
    producer.call(0, &ApiVersionsRequest::default()).await;
    producer.call(9, &produce("empty", -1, 60_000)).await;
    for _ in 0..2 {
        assert!(record_bytes(&consumer.answer::<FetchRequest>(FETCH_VERSION).await) > 60_000);
    }
    broker.stop().await;
}

#[tokio::test]
async fn declared_lengths_take_no_memory_from_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[("queued.max.request.bytes", "33554432")]).await;
    let mut bystander = Client::connect(&broker).await;
    create(&mut bystander, "t").await;
    let mut stalled = Vec::new();
    for n in 0..64 {
        // Some send nothing but the length, some fill all that they were given so far.
        stalled.push(begin_large_frame(&broker, if n % 2 == 0 { 4 } else { 300_000 }).await);
    }
    for size in [100, 100_000, 1_000_000] {
        assert_eq!(produce_error(&bystander.call(9, &produce("t", -1, size)).await), 0);
    }
    broker.stop().await;
}

#[tokio::test]
async fn frames_that_trickle_in_give_way_to_those_who_wait_for_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    // Two first shares.
    let broker = started(directory.path(), &[("queued.max.request.bytes", "65536")]).await;
    let mut bystander = Client::connect(&broker).await;
    create(&mut bystander, "t").await;
    let (mut one, mut two) = (begin_large_frame(&broker, 32_000).await, begin_large_frame(&broker, 32_000).await);
    bystander.call(0, &ApiVersionsRequest::default()).await;
    let trickle = async {
        while one.stream.write_all(&[0]).await.is_ok() && two.stream.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let request = produce("t", -1, 100_000);
    let (answer, ()) = tokio::join!(bystander.call(9, &request), trickle);
    assert_eq!(produce_error(&answer), 0);
    broker.stop().await;
}

#[tokio::test]
async fn requests_in_front_of_a_bad_one_are_answered_before_the_connection_closes() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    create(&mut client, "t").await;
    let unknown_key = &[0, 0, 0, 8, 0x7F, 0xFF, 0, 0, 0, 0, 0, 0][..];
    let impossible_length = &[0xFF, 0xFF, 0xFF, 0xFF][..];
    for bad in [unknown_key, impossible_length, &[0, 0][..]] {
        let mut client = Client::connect(&broker).await;
        let mut frames = client.frame(9, &produce("t", -1, 100));
        frames.put(client.frame(0, &ApiVersionsRequest::default()));
        frames.put(bad);
        client.stream.write_all(&frames).await.expect("sent");
        client.stream.shutdown().await.expect("nothing more comes");
        assert_eq!(produce_error(&client.answer::<ProduceRequest>(9).await), 0);
        client.answer::<ApiVersionsRequest>(0).await;
        assert!(client.is_closed().await);
    }
    // What a closing connection waits for is bounded.
    let mut frames = client.frame(FETCH_VERSION, &fetch("t", i32::MAX, i32::MAX));
    frames.put(unknown_key);
    client.stream.write_all(&frames).await.expect("sent");
    assert!(client.is_closed().await);
    broker.stop().await;
}

/// Or clients that are not idempotent would write it again elsewhere.
#[tokio::test]
async fn what_was_appended_before_a_stop_is_acknowledged_first() {
    const CLIENTS: usize = 20;
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(&broker).await);
    }
    create(&mut clients[0], "t").await;
    let request = produce("t", -1, 50_000);
    for client in &mut clients {
        for _ in 0..5 {
            client.send(9, &request).await;
        }
    }
    assert_eq!(produce_error(&clients[0].answer::<ProduceRequest>(9).await), 0);
    let reading = async {
        let mut acknowledged = 1;
        for client in &mut clients {
            while let Some(answer) = client.next_answer::<ProduceRequest>(9).await {
                acknowledged += i64::from(produce_error(&answer) == 0);
            }
        }
        acknowledged
    };
    let (_, acknowledged) = tokio::join!(broker.stop(), reading);
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    assert_eq!(client.call(5, &list_offsets("t", LATEST)).await.topics[0].partitions[0].offset, acknowledged);
    broker.stop().await;
}

#[tokio::test]
async fn what_is_not_durable_in_time_is_answered_so_and_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[]).await;
    let mut client = Client::connect(&broker).await;
    create(&mut client, "t").await;
    let hurried = produce("t", -1, 100).with_timeout_ms(0);
    let mut late = 0;
    for _ in 0..20 {
        let response = client.call(9, &hurried).await;
        late += usize::from(produce_error(&response) == 7);
    }
    // Unless the disk is faster than the broker's way from the append to its answer.
    assert!(late > 0);
    let patient = client.call(9, &produce("t", -1, 100)).await;
    assert_eq!(patient.responses[0].partition_responses[0].base_offset, 20);
    broker.stop().await;
}

#[tokio::test]
async fn readers_that_trickle_do_not_hold_the_memory_of_the_log() {
    let directory = tempfile::tempdir().expect("a directory");
    // Memory of the log for 15 chunks of 4 MiB; answers of 6 MB that none of the kernel's buffers takes in whole.
    let settings = [
        ("ottla.memory.bytes", "268435456"),
        ("ottla.log.cache.bytes", "50331648"),
        ("ottla.response.bytes.in.flight", "134217728"),
    ];
    let broker = started(directory.path(), &settings).await;
    let mut producer = Client::connect(&broker).await;
    create(&mut producer, "t").await;
    let mut readers = Vec::new();
    let mut end = 0;
    for _ in 0..16 {
        for _ in 0..4 {
            produce_million(&mut producer).await;
            end += 1;
        }
        let mut reader = Client::connect_narrow(&broker).await;
        let mut request = fetch("t", 1, 6_500_000);
        request.topics[0].partitions[0].fetch_offset = (end - 6).max(0);
        reader.send(FETCH_VERSION, &request).await;
        let length =
            tokio::time::timeout(PATIENCE, reader.stream.read_u32()).await.expect("in time").expect("answered");
        assert!(length > 900_000, "{length}");
        readers.push(reader);
    }
    for _ in 0..64 {
        produce_million(&mut producer).await;
        for reader in &mut readers {
            reader.stream.read_u8().await.expect("nobody waits for memory, so nobody is cut off");
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn large_answers_that_nobody_takes_are_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    // Room for two of the answers below.
    let settings = [("num.partitions", "3000"), ("ottla.response.bytes.in.flight", "400000")];
    let broker = started(directory.path(), &settings).await;
    let mut client = Client::connect(&broker).await;
    create(&mut client, "t").await;
    let all = MetadataRequest::default().with_topics(None);
    let size = {
        client.send(9, &all).await;
        let size = client.stream.read_u32().await.expect("answered") as usize;
        client.stream.read_exact(&mut vec![0; size]).await.expect("whole");
        client.answered += 1;
        size
    };
    assert!((70_000..100_000).contains(&size), "{size}");
    let mut silent = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(&broker).await;
        let mut frames = client.frame(FETCH_VERSION, &fetch("t", i32::MAX, i32::MAX));
        frames.put(client.frame(9, &all));
        client.stream.write_all(&frames).await.expect("sent");
        silent.push(client);
    }
    let is_answered = async || {
        let mut client = Client::connect(&broker).await;
        client.send(9, &all).await;
        client.stream.read_u32().await.is_ok()
    };
    let refused_and_served_again = async {
        while is_answered().await {}
        silent.clear();
        while !is_answered().await {}
    };
    tokio::time::timeout(PATIENCE, refused_and_served_again).await.expect("refused, and served again");
    broker.stop().await;
}

#[tokio::test]
async fn large_requests_that_wait_are_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[("ottla.response.bytes.in.flight", "400000")]).await;
    let (mut one, mut other) = (Client::connect(&broker).await, Client::connect(&broker).await);
    create(&mut one, "t").await;
    let mut parked = fetch("t", i32::MAX, i32::MAX);
    let partition = parked.topics[0].partitions[0].clone();
    parked.topics[0].partitions = vec![partition; 5_000];
    one.send(FETCH_VERSION, &parked).await;
    other.send(FETCH_VERSION, &parked).await;
    // There is room for one of them.
    let (first, left) = tokio::select! {
        closed = one.is_closed() => (closed, &mut other),
        closed = other.is_closed() => (closed, &mut one),
    };
    assert!(first);
    left.stream.try_write(&[0]).expect("the other one waits");
    broker.stop().await;
}

#[tokio::test]
async fn readers_that_trickle_give_way_to_those_who_wait_for_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path(), &[("ottla.response.bytes.in.flight", "6050000")]).await;
    let (mut consumer, mut producer) = (Client::connect(&broker).await, Client::connect(&broker).await);
    create(&mut producer, "t").await;
    for _ in 0..6 {
        produce_million(&mut producer).await;
    }
    // It has all but less than a share of the budget.
    let mut slow = Client::connect_narrow(&broker).await;
    slow.send(FETCH_VERSION, &fetch("t", 1, 6_040_000)).await;
    assert!(slow.stream.read_u32().await.expect("answered") > 6_000_000);
    let trickle = async {
        loop {
            let _ = slow.stream.read_u8().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let request = fetch("t", 1, 1_500_000);
    let answer = tokio::select! {
        answer = consumer.call(FETCH_VERSION, &request) => answer,
        () = trickle => unreachable!("it goes on for ever"),
    };
    assert!(record_bytes(&answer) > 1_000_000);
    broker.stop().await;
}
