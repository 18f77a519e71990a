//! Kafka clients of our own, small enough to be sure of what they ask for.

pub mod follower;
pub mod member;
pub mod observer;
pub mod operator;
pub mod producer;
pub mod reader;
pub mod router;
pub mod setup;
pub mod wire;

use bytes::Bytes;
use drill::history::Value;
use drill::payload;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use protocol::batch;

/// The topic that everybody works on.
pub const TOPIC: &str = "t";

/// Its name, as the protocol has it.
#[must_use]
pub fn topic() -> TopicName {
    TopicName(text(TOPIC))
}

/// A string of the protocol.
#[must_use]
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Every record of a fetched answer from `from` on, with its offset; a damaged one has no value. Incomplete batches at the end are
/// left out, as clients do.
#[must_use]
pub fn records(fetched: &Bytes, from: u64) -> Vec<(u64, Option<Value>)> {
    let mut found = Vec::new();
    for one in batch::batches(fetched) {
        let Ok(one) = one else { break };
        let base = one.base_offset().unsigned_abs();
        if !one.is_valid() {
            found.push((base, None));
            break;
        }
        let each = batch::for_each_record(&one, u64::MAX, |record| {
            let offset = record.offset.unsigned_abs();
            let stamp = record.value.and_then(payload::read);
            let value = stamp.map(|stamp| Value { producer: stamp.producer, sequence: stamp.sequence });
            if offset >= from {
                found.push((offset, value));
            }
            std::ops::ControlFlow::<()>::Continue(())
        });
        if each.is_err() {
            found.push((base, None));
            break;
        }
    }
    found
}
