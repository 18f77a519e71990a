//! Takes what another broker hands over: the target's side of a move.

use std::sync::Arc;

use bytes::Bytes;
use common::{NodeEpoch, StreamEpoch};
use s3stream::{HandOver, StreamStore};

use super::peer::messages::{HandOverAnswer, HandOverRequest};

/// See the module.
pub struct Receiver {
    node_epoch: NodeEpoch,
    streams: Arc<StreamStore>,
}

impl Receiver {
    pub(crate) fn new(node_epoch: NodeEpoch, streams: Arc<StreamStore>) -> Self {
        Self { node_epoch, streams }
    }

    /// Returns when the tails are durable in this node's log, under epochs that nobody was granted yet. A tail that is not taken
    /// fails alone; where whoever asks does not read which, none is taken then. The same question again gets the same answer.
    pub(super) async fn take(&self, request: HandOverRequest) -> Result<HandOverAnswer, String> {
        if NodeEpoch(request.node_epoch) != self.node_epoch {
            return Err(format!("this is life {} of the node, not {}", self.node_epoch, request.node_epoch));
        }
        let tails = request.entries.into_iter().map(|entry| decode(entry.epoch, entry.tail));
        let tails: Vec<(StreamEpoch, HandOver)> = tails.collect::<Result<_, String>>()?;
        let imports = tails.iter().map(|(epoch, tail)| self.streams.import(*epoch, tail));
        let imported = futures::future::join_all(imports).await;
        let mut refused = Vec::new();
        for ((epoch, tail), outcome) in tails.iter().zip(imported) {
            let Err(error) = outcome else { continue };
            tracing::warn!(stream = %tail.stream, %epoch, %error, "what was handed over of a stream was not taken");
            if !request.reads_refusals {
                tails.iter().for_each(|(epoch, tail)| self.streams.discard(tail.stream, *epoch));
                return Err(error.to_string());
            }
            refused.push(tail.stream.0);
        }
        Ok(HandOverAnswer { refused })
    }
}

fn decode(epoch: u64, tail: Bytes) -> Result<(StreamEpoch, HandOver), String> {
    HandOver::decode(tail).map(|tail| (StreamEpoch(epoch), tail)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use common::{Offset, StreamId};
    use s3stream::HandOverRecord;
    use wal::{RecordKind, WriteAheadLog as _};

    use super::*;
    use crate::cluster::peer::messages::HandOverEntry;
    use crate::partition::tests::rig::Rig;

    const LIFE: u64 = 3;

    fn entry(stream: u64, epoch: u64) -> HandOverEntry {
        let record = HandOverRecord {
            kind: RecordKind::Data,
            base_offset: Offset(0),
            next_offset: Offset(1),
            max_timestamp_ms: -1,
            tag: [0; wal::TAG_BYTES],
            payload: Bytes::from_static(b"record"),
        };
        HandOverEntry { epoch, tail: HandOver { stream: StreamId(stream), records: vec![record] }.encode() }
    }

    #[tokio::test]
    async fn a_tail_that_is_not_taken_fails_alone_and_the_same_question_gets_the_same_answer() {
        let rig = Rig::durable();
        let receiver = Receiver::new(NodeEpoch(LIFE), Arc::clone(&rig.store));
        let ask = |entries: &[HandOverEntry], reads_refusals| {
            receiver.take(HandOverRequest { node_epoch: LIFE, entries: entries.to_vec(), reads_refusals })
        };
        // An attempt that was cancelled has spent the epoch.
        rig.store.discard(StreamId(2), StreamEpoch(5));
        let entries = [entry(1, 5), entry(2, 5), entry(3, 5)];
        let end_before = rig.log.durable().get();
        let some = Ok(HandOverAnswer { refused: vec![2] });
        assert_eq!(ask(&entries, true).await, some);
        let end = rig.log.durable().get();
        assert!(end > end_before);
        assert_eq!(ask(&entries, true).await, some, "the answer was lost");
        assert_eq!(rig.log.durable().get(), end, "nothing was appended twice");

        let wrong = receiver.take(HandOverRequest { node_epoch: LIFE - 1, ..HandOverRequest::default() }).await;
        assert!(wrong.is_err(), "that life is over");
    }

    #[tokio::test]
    async fn all_or_none_is_taken_of_whoever_does_not_read_refusals() {
        let rig = Rig::durable();
        let receiver = Receiver::new(NodeEpoch(LIFE), Arc::clone(&rig.store));
        rig.store.discard(StreamId(2), StreamEpoch(5));
        let request = |entries, reads_refusals| HandOverRequest { node_epoch: LIFE, entries, reads_refusals };
        let refused = receiver.take(request(vec![entry(1, 5), entry(2, 5)], false)).await;
        assert!(refused.is_err());
        let again = receiver.take(request(vec![entry(1, 5)], true)).await;
        assert_eq!(again, Ok(HandOverAnswer { refused: vec![1] }), "nothing was kept of it");
        assert_eq!(receiver.take(request(vec![entry(1, 6)], false)).await, Ok(HandOverAnswer::default()));
    }
}
