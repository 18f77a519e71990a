//! Hostile connections to a live broker: each is answered or closed, and nobody else notices. Every API key at every
//! version comes in turn, as a random valid request, a damaged one, or with counts that cannot be true.
//! `OTTLA_HOSTILE` sets how many frames are sent (default 5,000), `OTTLA_SEED` which.

use common::{Random, SeededRandom};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, MetadataRequest};
use ottla_integration::process::broker::{Broker, Start};
use ottla_integration::process::cluster::{Cluster, Options, peer_is_kafka};
use ottla_integration::wire::Connection;

#[path = "../../protocol/tests/hostile/frames.rs"]
mod frames;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// A request of this API and version, damaged in most cases.
fn hostile_frame(random: &SeededRandom, key: i16, version: i16) -> Vec<u8> {
    let body = match random.below(4) {
        0 => hostile_body(random, key, version),
        1 => hostile_body(random, random.below(95) as i16, random.below(20) as i16 - 1),
        _ => {
            let mut body = frames::valid(random, key, version);
            if random.below(8) > 0 {
                frames::mutate(random, &mut body, 4);
            }
            body
        }
    };
    let stated = match random.below(16) {
        0 => random.next_u64() as u32,
        1 => u32::MAX,
        2 => 0,
        _ => body.len() as u32,
    };
    let mut frame = stated.to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

/// A header followed by what makes a decoder ask for much.
fn hostile_body(random: &SeededRandom, key: i16, version: i16) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&key.to_be_bytes());
    body.extend_from_slice(&version.to_be_bytes());
    body.extend_from_slice(&[0, 0, 0, 7, 0, 1, b'x']);
    let flexible = ApiKey::try_from(key).is_ok_and(|api| api.request_header_version(version) >= 2);
    if flexible {
        body.push(0);
    }
    let length = random.below(200);
    match random.below(5) {
        // Counts and lengths of two thousand million, compact and not.
        0 => body.extend([0x7F, 0xFF, 0xFF, 0xFF].repeat(length as usize / 4 + 1)),
        1 => body.extend([0xFF, 0xFF, 0xFF, 0xFF, 0x0F].repeat(length as usize / 5 + 1)),
        2 => body.extend((0..length).map(|_| random.next_u64() as u8)),
        3 => body.truncate(random.below(body.len() as u64 + 1) as usize),
        _ => body.extend(vec![0; length as usize]),
    }
    body
}

#[test]
fn hostile_frames_hurt_nobody_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut broker, mut kafka) = (None, None);
    let bootstrap = if peer_is_kafka() {
        kafka.insert(Cluster::start(&Options::default()).expect("Kafka starts")).bootstrap.clone()
    } else {
        // Or else every name that a request makes up becomes a topic.
        let start = Start { properties: vec!["auto.create.topics.enable=false".to_owned()], ..Start::default() };
        broker.insert(Broker::start(dir.path(), &start).expect("the broker starts")).bootstrap.clone()
    };
    let mut bystander = Connection::open(&bootstrap).expect("the broker listens");
    bystander.ask(&MetadataRequest::default(), 12).expect("an answer before");
    let random = SeededRandom::new(setting("OTTLA_SEED", 1));
    let apis = frames::all();
    for (n, &(key, version)) in (0..setting("OTTLA_HOSTILE", 5_000)).zip(apis.iter().cycle()) {
        let frame = hostile_frame(&random, key, version);
        let mut connection = Connection::open(&bootstrap).expect("the broker listens");
        // The broker may close before all is sent; what must not happen is visible to the bystander.
        let _ = connection.send(&frame);
        if n % 100 == 0 {
            let versions = ApiVersionsRequest::default();
            bystander.ask(&versions, 0).unwrap_or_else(|error| panic!("bystander, after frame {n}: {error:#}"));
        }
    }
    bystander.ask(&MetadataRequest::default(), 12).expect("the bystander's connection is still there");
    if let Some(mut broker) = broker {
        assert!(broker.process.ended().expect("a status").is_none(), "{}", broker.process.output());
        assert!(!broker.process.output().contains("panicked"), "{}", broker.process.output());
        let peak = broker.peak_memory().expect("it runs");
        eprintln!("peak memory {} MiB", peak >> 20);
        assert!(peak < 512 << 20, "{} MiB", peak >> 20);
    }
}
