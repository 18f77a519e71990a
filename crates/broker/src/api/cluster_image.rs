//! For tests: the image of a cluster of three brokers, made by the commands that make real ones.

use std::sync::Arc;

use common::{LogIndex, NodeId};
use metadata::command::FailOver;
use metadata::{Command, MetadataImage, Outcome, Registration, state};
use uuid::Uuid;

pub(crate) fn apply(image: &mut MetadataImage, command: &Command) {
    let index = LogIndex(image.applied.0 + 1);
    let outcome = state::apply(image, index, 0, command);
    assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
}

/// Brokers 1 to 3, and topic `t` with the given replicas of its partitions (streams 1, 2, …), the first of each leads.
pub(crate) fn image(replicas: &[&[i32]]) -> MetadataImage {
    let mut image = MetadataImage::default();
    for id in 1..=3_i32 {
        let incarnation = Uuid::from_u128(u128::from(id.unsigned_abs()));
        apply(&mut image, &Command::RegisterNode(Registration::new(NodeId(id), incarnation)));
    }
    let partitions = replicas.iter().map(|ids| ids.iter().copied().map(NodeId).collect::<Arc<[NodeId]>>()).collect();
    let create = Command::CreateTopic { id: Uuid::from_u128(9), name: "t".into(), partitions, configs: Vec::new() };
    apply(&mut image, &create);
    image
}

/// Takes a broker for dead.
pub(crate) fn fence(image: &mut MetadataImage, node: i32) {
    let (node, leaders) = (NodeId(node), Vec::new());
    let node_epoch = image.nodes[&node].epoch;
    apply(image, &Command::FailOver(FailOver { node, node_epoch, seal: None, leaders }));
}

/// A new life of a broker registers.
pub(crate) fn renew(image: &mut MetadataImage, node: i32) {
    let incarnation = Uuid::from_u128(1_000 + u128::from(node.unsigned_abs()));
    apply(image, &Command::RegisterNode(Registration::new(NodeId(node), incarnation)));
}
