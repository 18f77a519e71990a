//! Memory stays under its bound whatever clients do: 1,000 connections, many of which ask for all there is and never
//! read the answer, while producers go on. The broker runs under a limit on its data segment, so that an allocation
//! beyond the bound is an error that ends it, not a number in a report.

use std::time::Duration;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{ApiVersionsRequest, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_integration::process::broker::{Broker, Start};
use ottla_integration::process::driver::Driver;
use ottla_integration::process::wait_until;
use ottla_integration::wire::{Connection, frame};

const CONNECTIONS: usize = 1_000;
/// Every how-manieth connection asks and does not read.
const SLOW: usize = 4;
/// What the broker may use.
const BOUND_MIB: u64 = 256;
/// Code, stacks and the allocator's own slack, on top of the bound.
const SLACK_MIB: u64 = 128;

/// Asks for up to 50 MiB from the start of every partition of the chaos topic.
fn fetch_everything() -> FetchRequest {
    let partitions = (0..6).map(|partition| {
        FetchPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(0)
            .with_partition_max_bytes(50 << 20)
    });
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_static_str("chaos")))
        .with_partitions(partitions.collect());
    FetchRequest::default().with_max_wait_ms(500).with_min_bytes(1).with_max_bytes(50 << 20).with_topics(vec![topic])
}

#[test]
fn slow_readers_and_a_thousand_connections() {
    let limit = rustix::process::Rlimit { current: Some(8192), maximum: Some(8192) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("8,192 descriptors may be open");
    let dir = tempfile::tempdir().expect("a directory");
    let start = Start {
        properties: vec![format!("ottla.memory.bytes={}", BOUND_MIB << 20)],
        wrapper: Some(format!("ulimit -d {}; exec", (BOUND_MIB + SLACK_MIB) << 10)),
        ..Start::default()
    };
    let mut broker = Broker::start(dir.path(), &start).expect("the broker starts");
    let load = ["-size", "50000", "-rate", "100"];
    let mut driver =
        Driver::start(&broker.bootstrap, dir.path(), &load, Duration::from_secs(120)).expect("the driver gets going");
    let acked = |driver: &mut Driver| driver.counts().expect("the driver lives").acked;
    wait_until(Duration::from_secs(120), "there is something to read", || acked(&mut driver) > 4_000)
        .expect("it comes");

    let mut connections: Vec<Connection> =
        (0..CONNECTIONS).map(|_| Connection::open(&broker.bootstrap).expect("the broker listens")).collect();
    for (n, connection) in connections.iter_mut().enumerate() {
        if n % SLOW == 0 {
            for correlation in 0..4 {
                connection.send(&frame(&fetch_everything(), 11, correlation).expect("encodable")).expect("sent");
            }
        } else {
            let answer = connection.ask(&ApiVersionsRequest::default(), 0);
            answer.unwrap_or_else(|error| panic!("connection {n}: {error:#}\n{}", broker.process.output()));
        }
    }
    let from = acked(&mut driver);
    wait_until(Duration::from_secs(120), "producers go on beside slow readers", || acked(&mut driver) > from + 2_000)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", broker.process.output()));
    assert!(broker.process.ended().expect("a status").is_none(), "{}", broker.process.output());
    let peak = broker.peak_memory().expect("it runs") >> 20;
    eprintln!("peak memory {peak} MiB of {BOUND_MIB} MiB");
    drop(connections);
    let (_, verdict) = driver.finish().unwrap_or_else(|error| panic!("{error:#}\n{}", broker.process.output()));
    assert!(verdict.is_clean(), "{verdict}");
    assert!(peak <= BOUND_MIB + SLACK_MIB, "{peak} MiB");
}
