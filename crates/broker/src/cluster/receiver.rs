//! Takes what another broker hands over: the target's side of a move.

use std::sync::Arc;

use bytes::Bytes;
use common::{NodeEpoch, StreamEpoch};
use s3stream::{HandOver, StreamStore};

use super::peer::messages::HandOverRequest;

/// See the module.
pub struct Receiver {
    node_epoch: NodeEpoch,
    streams: Arc<StreamStore>,
}

impl Receiver {
    pub(crate) fn new(node_epoch: NodeEpoch, streams: Arc<StreamStore>) -> Self {
        Self { node_epoch, streams }
    }

    /// Returns when all tails are durable in this node's log, under epochs that nobody was granted yet. If one is not taken
    /// none is.
    pub(super) async fn take(&self, request: HandOverRequest) -> Result<(), String> {
        if NodeEpoch(request.node_epoch) != self.node_epoch {
            return Err(format!("this is life {} of the node, not {}", self.node_epoch, request.node_epoch));
        }
        let tails = request.entries.into_iter().map(|entry| decode(entry.epoch, entry.tail));
        let tails: Vec<(StreamEpoch, HandOver)> = tails.collect::<Result<_, String>>()?;
        let imports = tails.iter().map(|(epoch, tail)| self.streams.import(*epoch, tail));
        let imported: Result<Vec<_>, _> = futures::future::join_all(imports).await.into_iter().collect();
        imported.map(drop).map_err(|error| {
            tails.iter().for_each(|(epoch, tail)| self.streams.discard(tail.stream, *epoch));
            error.to_string()
        })
    }
}

fn decode(epoch: u64, tail: Bytes) -> Result<(StreamEpoch, HandOver), String> {
    HandOver::decode(tail).map(|tail| (StreamEpoch(epoch), tail)).map_err(|error| error.to_string())
}
