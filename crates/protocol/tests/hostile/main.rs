//! Hostile input: whatever bytes arrive, the guard refuses them or decoding stays within the memory it
//! announced; nothing panics. `OTTLA_FUZZ_CASES` sets the number of cases of each test; a long run is
//!
//!     OTTLA_FUZZ_CASES=1000000 RUST_BACKTRACE=0 cargo test --release -p ottla-protocol --test hostile

mod counting;
mod decoders;
mod frames;

use std::ops::ControlFlow;

use bytes::Bytes;
use common::{Random, SeededRandom};
use counting::peak;
use decoders::{CODECS, Codec};
use ottla_protocol as protocol;
use protocol::batch::{self, BatchBuilder, BatchView, Rules};
use protocol::guard;

/// Bytes that decoding takes besides what it decodes: shared handles on the frame.
const SLACK: usize = 256;
/// The same when decoding fails: the error, and its backtrace if that is on.
const SLACK_OF_ERRORS: usize = 128 << 10;

fn cases(default: u64) -> u64 {
    std::env::var("OTTLA_FUZZ_CASES").map_or(default, |cases| cases.parse().expect("OTTLA_FUZZ_CASES is a number"))
}

/// Names the case when its test panics.
struct Case<'a>(u64, &'a [u8]);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("case {}: {:02x?}", self.0, self.1);
        }
    }
}

fn codec_of(key: i16, version: i16) -> Option<&'static Codec> {
    CODECS.iter().find(|codec| codec.key == key && (codec.versions.min..=codec.versions.max).contains(&version))
}

/// Every request at every version: valid frames are accepted, decode to the last byte within the announced
/// memory, and what the stock encoder makes of them is accepted as well.
#[test]
fn valid_requests_pass() {
    let rounds = cases(10_000).div_ceil(frames::all().len() as u64);
    let mut decoded = 0;
    for (index, (key, version)) in (0..).zip(frames::all()) {
        for round in 0..rounds {
            let case = index * rounds + round;
            let frame = frames::valid(&SeededRandom::new(case), key, version);
            let _case = Case(case, &frame);
            let guarded = guard::check(&frame).unwrap_or_else(|error| panic!("key {key} v{version}: {error}"));
            let Some(codec) = codec_of(key, version) else { continue };
            decoded += 1;
            let body = Bytes::from(frame[guarded.header.len..].to_vec());
            let (left, taken) = peak(|| (codec.decode)(body.clone(), version));
            assert_eq!(left, Ok(0), "key {key} v{version}");
            assert!(taken <= guarded.memory + SLACK, "key {key} v{version} took {taken}, announced {}", guarded.memory);
            let again = (codec.again)(body, version).unwrap_or_else(|error| panic!("key {key} v{version}: {error}"));
            let reframed = [&frame[..guarded.header.len], again.as_slice()].concat();
            assert!(guard::check(&reframed).is_ok(), "key {key} v{version}: the stock encoder's bytes");
            assert_eq!((codec.again)(Bytes::from(again.clone()), version), Ok(again), "key {key} v{version}");
        }
    }
    assert!(decoded > 0);
}

#[test]
fn every_request_of_the_codec_is_in_the_table() {
    let known = frames::all();
    for codec in CODECS {
        for version in codec.versions.min..=codec.versions.max {
            assert!(known.contains(&(codec.key, version)), "key {} v{version}", codec.key);
        }
    }
}

#[test]
fn damaged_requests_are_refused_or_bounded() {
    let known = frames::all();
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    for case in 0..cases(50_000) {
        let random = SeededRandom::new(0x0771A << 32 | case);
        let (key, version) = known[random.below(known.len() as u64) as usize];
        let mut frame = frames::valid(&random, key, version);
        // Mostly the body: damaged keys and versions end too early to be of interest.
        let from = if random.below(10) == 0 { 0 } else { 8 };
        frames::mutate(&random, &mut frame, from);
        let _case = Case(case, &frame);
        let (verdict, taken) = peak(|| guard::check(&frame));
        assert_eq!(taken, 0, "the guard allocates nothing");
        let Ok(guarded) = verdict else {
            refused += 1;
            continue;
        };
        accepted += 1;
        assert!(guarded.memory <= guard::MEMORY_BASE + guard::MEMORY_RATIO * frame.len());
        let (key, version) = (guarded.header.api_key as i16, guarded.header.api_version);
        let Some(codec) = codec_of(key, version) else { continue };
        let body = Bytes::from(frame[guarded.header.len..].to_vec());
        let (result, taken) = peak(|| (codec.decode)(body, version).map_err(drop));
        match result {
            Ok(left) => {
                assert_eq!(left, frame.len() - guarded.len, "guard and decoder agree where the request ends");
                assert!(taken <= guarded.memory + SLACK, "took {taken}, announced {}", guarded.memory);
            }
            Err(()) => assert!(taken <= guarded.memory + SLACK_OF_ERRORS, "took {taken}, announced {}", guarded.memory),
        }
    }
    assert!(accepted > 0 && refused > 0, "{accepted} accepted, {refused} refused");
    eprintln!("{accepted} accepted, {refused} refused");
}

#[test]
fn random_bytes_are_no_request() {
    let known = frames::all();
    for case in 0..cases(5_000) {
        let random = SeededRandom::new(0x0B17E << 32 | case);
        let mut frame: Vec<u8> = (0..random.below(200)).map(|_| random.next_u64() as u8 >> random.below(8)).collect();
        if frame.len() >= 4 && random.below(2) == 0 {
            let (key, version) = known[random.below(known.len() as u64) as usize];
            frame[..2].copy_from_slice(&key.to_be_bytes());
            frame[2..4].copy_from_slice(&version.to_be_bytes());
        }
        let _case = Case(case, &frame);
        let _ = protocol::frame::RequestStart::peek(&frame);
        let Ok(guarded) = guard::check(&frame) else { continue };
        let (key, version) = (guarded.header.api_key as i16, guarded.header.api_version);
        if let Some(codec) = codec_of(key, version) {
            let body = Bytes::from(frame[guarded.header.len..].to_vec());
            let (_, taken) = peak(|| (codec.decode)(body, version).map_err(drop));
            assert!(taken <= guarded.memory + SLACK_OF_ERRORS);
        }
    }
}

/// Most decoded bytes of a batch in these tests; memory stays within a small multiple.
const DECODED_MAX: u64 = 1 << 20;

fn random_batch(random: &SeededRandom) -> Vec<u8> {
    let codec = batch::Codec::ALL[random.below(5) as usize];
    let mut builder = BatchBuilder::new().with_codec(codec);
    for _ in 0..=random.below(20) {
        let key = vec![random.next_u64() as u8; random.below(20) as usize];
        let value = vec![random.next_u64() as u8; random.below(200) as usize];
        let header = (key.as_slice(), (random.below(2) == 0).then_some(value.as_slice()));
        let headers = vec![header; random.below(3) as usize];
        let key = (random.below(3) > 0).then_some(key.as_slice());
        builder.push_with_headers(random.below(1 << 40) as i64, key, Some(&value), &headers);
    }
    builder.build(0, 0).to_vec()
}

/// Makes length and checksum right, so that the damage behind them is looked at.
fn reseal(batch: &mut [u8]) {
    if batch.len() >= batch::HEADER_LEN {
        let length = (batch.len() - batch::LOG_OVERHEAD) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[16] = 2;
        let attributes = batch::Attributes(i16::from_be_bytes([batch[21], batch[22]]));
        let max_timestamp = BatchView::exactly_one(batch).map_or(0, |batch| batch.max_timestamp());
        batch::patch_timestamp(batch, attributes, max_timestamp);
    }
}

#[test]
fn damaged_batches_are_refused_or_bounded() {
    let rules = Rules { decoded_max: DECODED_MAX, timestamp_after_max_ms: i64::MAX, ..Rules::defaults(1 << 40) };
    let mut valid = 0_u64;
    for case in 0..cases(5_000) {
        let random = SeededRandom::new(0x0BA7C << 32 | case);
        let mut bytes = random_batch(&random);
        let from = if random.below(3) == 0 { 0 } else { batch::HEADER_LEN };
        frames::mutate(&random, &mut bytes, from);
        if random.below(4) > 0 {
            reseal(&mut bytes);
        }
        let _case = Case(case, &bytes);
        let ((), taken) = peak(|| {
            for batch in batch::batches(&bytes).flatten() {
                valid += u64::from(batch::validate(&batch, &rules).is_ok());
                let _ = batch::find_timestamp(&batch, 1, DECODED_MAX);
                let _ = batch::find_max_timestamp(&batch, DECODED_MAX);
                let _ = batch::for_each_record::<()>(&batch, DECODED_MAX, |record| {
                    std::hint::black_box(record.headers().count());
                    ControlFlow::Continue(())
                });
                let codec = batch::Codec::ALL[random.below(5) as usize];
                let _ = batch::rebuild(&batch, codec, None, 1 << 20, DECODED_MAX);
            }
        });
        assert!(taken <= 12 << 20, "took {taken}");
    }
    assert!(valid > 0);
    eprintln!("{valid} valid");
}
