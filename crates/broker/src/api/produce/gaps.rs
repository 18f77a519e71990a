//! Batches in flight behind one that was refused.
//!
//! A producer sends up to five batches before it hears of the first. Where that one is refused for a moment (the lease ran
//! out, the partition was not open yet, the log was full) and the next is judged after that moment, their sequence numbers
//! have a gap that is the broker's own doing. To call it OUT_OF_ORDER_SEQUENCE_NUMBER, as Kafka would, is harmful:
//! librdkafka takes a new producer epoch for it, under which it writes a second time whatever it is unsure of in *other*
//! partitions, where nobody can see any more that it is there.
//!
//! Rule **no-gap-of-our-own**: a batch out of order that comes shortly after a passing refusal on the same connection gets
//! that refusal too; and one of a producer of whom nothing is known is out of order unless it is the first. The producer
//! sends all of them again, in order.

use std::time::Duration;

use common::Clock;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use protocol::ErrorCode;

/// How long batches that were sent before a refusal was heard of may arrive after it.
const IN_FLIGHT_TIME: Duration = Duration::from_secs(5);

/// The newest passing refusal of a batch on one connection: its code, and when it was (boot time).
#[derive(Debug, Default)]
pub struct RefusedBatch(Mutex<Option<(i16, Duration)>>);

impl RefusedBatch {
    /// Whether batches may still arrive that were sent before the refusal was heard of. Every request asks: time is read
    /// only where there was one.
    pub(super) fn is_recent(&self, clock: &dyn Clock) -> bool {
        self.recent(clock).is_some()
    }

    fn recent(&self, clock: &dyn Clock) -> Option<i16> {
        let mut refused = self.0.lock();
        let recent = (*refused)?;
        *refused = Some(recent).filter(|(_, since)| clock.boot().saturating_sub(*since) < IN_FLIGHT_TIME);
        refused.map(|(code, _)| code)
    }

    /// Notes the final answer for a partition, or makes it that of the batch refused before it.
    pub(super) fn settle(&self, clock: &dyn Clock, answer: &mut PartitionProduceResponse) {
        let Some(error) = ErrorCode::from_code(answer.error_code) else { return };
        if is_passing(error) {
            *self.0.lock() = Some((answer.error_code, clock.boot()));
        } else if error == ErrorCode::OutOfOrderSequenceNumber
            && let Some(code) = self.recent(clock)
        {
            answer.error_code = code;
            answer.log_start_offset = -1;
            answer.error_message = Some(StrBytes::from_static_str("a batch sent before this one was refused"));
        }
    }
}

/// Whether clients send the same batch again. Of a damaged one librdkafka reports to its user that it failed, other than
/// Kafka's own clients do; told the same of those behind it, it would give up sound batches.
fn is_passing(refusal: ErrorCode) -> bool {
    refusal.retriable() && refusal != ErrorCode::CorruptMessage
}

#[cfg(test)]
mod tests {
    use common::ManualClock;

    use super::*;

    fn settled(refused: &RefusedBatch, clock: &ManualClock, code: ErrorCode) -> i16 {
        let mut answer = PartitionProduceResponse::default().with_error_code(code.code());
        refused.settle(clock, &mut answer);
        answer.error_code
    }

    #[test]
    fn a_gap_behind_a_passing_refusal_is_that_refusal() {
        let gap = ErrorCode::OutOfOrderSequenceNumber;
        let passing = ["NOT_LEADER_OR_FOLLOWER", "NOT_ENOUGH_REPLICAS", "KAFKA_STORAGE_ERROR", "UNKNOWN_TOPIC_ID"];
        for passing in ErrorCode::ALL.iter().filter(|error| passing.contains(&error.name())) {
            let (refused, clock) = (RefusedBatch::default(), ManualClock::default());
            assert_eq!(settled(&refused, &clock, gap), gap.code(), "nothing was refused before");
            assert_eq!(settled(&refused, &clock, *passing), passing.code());
            assert_eq!(settled(&refused, &clock, gap), passing.code());
            assert_eq!(settled(&refused, &clock, ErrorCode::None), 0);
            assert_eq!(settled(&refused, &clock, ErrorCode::InvalidProducerEpoch), 47);
            clock.advance(IN_FLIGHT_TIME - Duration::from_nanos(1));
            assert_eq!(settled(&refused, &clock, gap), passing.code(), "however many are in flight");
            assert!(refused.is_recent(&clock));
            clock.advance(Duration::from_nanos(1));
            assert!(!refused.is_recent(&clock));
            assert_eq!(settled(&refused, &clock, gap), gap.code(), "and not for ever");
        }
    }

    #[test]
    fn a_refusal_for_good_explains_no_gap() {
        for refusal in [ErrorCode::MessageTooLarge, ErrorCode::CorruptMessage] {
            let (refused, clock) = (RefusedBatch::default(), ManualClock::default());
            settled(&refused, &clock, refusal);
            assert_eq!(settled(&refused, &clock, ErrorCode::OutOfOrderSequenceNumber), 45, "{refusal}");
        }
    }

    /// Every request asks, and nearly none has anything to ask about.
    #[test]
    fn where_nothing_was_refused_lately_time_is_not_read() {
        struct Unread;
        impl Clock for Unread {
            fn wall_ms(&self) -> i64 {
                unreachable!("nothing asks for it")
            }
            fn boot(&self) -> Duration {
                unreachable!("there is nothing to judge")
            }
        }
        let (refused, clock) = (RefusedBatch::default(), ManualClock::default());
        assert!(!refused.is_recent(&Unread));
        settled(&refused, &clock, ErrorCode::NotEnoughReplicas);
        clock.advance(IN_FLIGHT_TIME);
        assert!(!refused.is_recent(&clock));
        assert!(!refused.is_recent(&Unread), "it is forgotten");
    }
}
