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

use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use protocol::ErrorCode;

/// How long batches that were sent before a refusal was heard of may arrive after it.
const IN_FLIGHT_TIME: Duration = Duration::from_secs(5);

/// Refusals after which the same batch may be taken when it comes again.
const PASSING: [ErrorCode; 5] = [
    ErrorCode::NotLeaderOrFollower,
    ErrorCode::NotEnoughReplicas,
    ErrorCode::KafkaStorageError,
    ErrorCode::UnknownTopicOrPartition,
    ErrorCode::UnknownTopicId,
];

/// The newest passing refusal of a batch on one connection: its code, and when it was (boot time).
#[derive(Debug, Default)]
pub struct RefusedBatch(Mutex<Option<(i16, Duration)>>);

impl RefusedBatch {
    /// Whether batches may still arrive that were sent before the refusal was heard of.
    pub(super) fn is_recent(&self, now: Duration) -> bool {
        self.recent(now).is_some()
    }

    fn recent(&self, now: Duration) -> Option<i16> {
        let refused = *self.0.lock();
        refused.filter(|(_, since)| now.saturating_sub(*since) < IN_FLIGHT_TIME).map(|(code, _)| code)
    }

    /// Notes the final answer for a partition, or makes it that of the batch refused before it.
    pub(super) fn settle(&self, now: Duration, answer: &mut PartitionProduceResponse) {
        if PASSING.iter().any(|passing| passing.code() == answer.error_code) {
            *self.0.lock() = Some((answer.error_code, now));
        } else if answer.error_code == ErrorCode::OutOfOrderSequenceNumber.code()
            && let Some(code) = self.recent(now)
        {
            answer.error_code = code;
            answer.log_start_offset = -1;
            answer.error_message = Some(StrBytes::from_static_str("a batch sent before this one was refused"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(refused: &RefusedBatch, at_ms: u64, code: ErrorCode) -> i16 {
        let mut answer = PartitionProduceResponse::default().with_error_code(code.code());
        refused.settle(Duration::from_millis(at_ms), &mut answer);
        answer.error_code
    }

    #[test]
    fn a_gap_behind_a_passing_refusal_is_that_refusal() {
        let gap = ErrorCode::OutOfOrderSequenceNumber;
        for passing in PASSING {
            let refused = RefusedBatch::default();
            assert_eq!(settled(&refused, 1_000, gap), gap.code(), "nothing was refused before");
            assert_eq!(settled(&refused, 2_000, passing), passing.code());
            assert_eq!(settled(&refused, 2_001, gap), passing.code());
            assert_eq!(settled(&refused, 2_002, ErrorCode::None), 0);
            assert_eq!(settled(&refused, 2_003, ErrorCode::InvalidProducerEpoch), 47);
            assert_eq!(settled(&refused, 6_999, gap), passing.code(), "however many are in flight");
            assert_eq!(settled(&refused, 7_000, gap), gap.code(), "and not for ever");
        }
    }

    #[test]
    fn a_refusal_for_good_explains_no_gap() {
        let refused = RefusedBatch::default();
        settled(&refused, 0, ErrorCode::MessageTooLarge);
        assert_eq!(settled(&refused, 1, ErrorCode::OutOfOrderSequenceNumber), 45);
    }
}
